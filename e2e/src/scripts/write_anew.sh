# As write.sh, by CONNECTIONS writers at a time, and without any time limit: what a client does that was left as it is by default.
writer() {
  local row=$1 why fate
  while :; do
    if why=$(psql "$URI" -qAtc "insert into ledger (entry) values ('$STORY $row')" 2>&1); then
      fate=ack
    else
      case $why in 'psql: error: connection to server'* | ERROR:*) fate=no ;; *) fate=unknown ;; esac
    fi
    echo "$fate $row $(date +%s%3N) ${why//$'\n'/ }"
    row=$((row + CONNECTIONS))
    sleep 0.05
  done
}
for first in $(seq "$CONNECTIONS"); do writer "$first" & done
wait
