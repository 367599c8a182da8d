# Inserts rows with LABEL through URI, each with a new connection, and prints the outcome of each: `ack N TIME`, `no N TIME ERROR` if the row cannot
# exist, or `unknown N TIME ERROR`. Times are in milliseconds.
n=0
while :; do
  n=$((n + 1))
  if why=$(timeout 5 psql "$URI" -qAtc "insert into ledger (entry) values ('$LABEL $n')" 2>&1); then
    outcome=ack
  else
    case $why in 'psql: error: connection to server'* | ERROR:*) outcome=no ;; *) outcome=unknown ;; esac
  fi
  echo "$outcome $n $(date +%s%3N) ${why//$'\n'/ }"
  sleep 0.05
done
