# Adds rows of STORY through URI, one connection each, and says of each row what became of it: `ack N TIME`, `no N TIME WHY` where it can't be there, or
# `unknown N TIME WHY`. Times are in milliseconds.
n=0
while :; do
  n=$((n + 1))
  if why=$(timeout 5 psql "$URI" -qAtc "insert into ledger (entry) values ('$STORY $n')" 2>&1); then
    fate=ack
  else
    case $why in 'psql: error: connection to server'* | ERROR:*) fate=no ;; *) fate=unknown ;; esac
  fi
  echo "$fate $n $(date +%s%3N) ${why//$'\n'/ }"
  sleep 0.05
done
