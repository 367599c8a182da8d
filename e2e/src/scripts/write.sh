# Adds rows of STORY through URI, one connection each, and says of each what became of it: `ack N TIME` or `no N TIME WHY`, in milliseconds.
n=0
while :; do
  n=$((n + 1))
  if why=$(timeout 5 psql "$URI" -qAtc "insert into ledger (entry) values ('$STORY $n')" 2>&1); then
    echo "ack $n $(date +%s%3N)"
  else
    echo "no $n $(date +%s%3N) ${why//$'\n'/ }"
  fi
  sleep 0.05
done
