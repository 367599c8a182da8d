# As write_one_each.sh, with CONNECTIONS writers and no time limit, like a client with default settings.
writer() {
  local row=$1 why outcome
  while :; do
    if why=$(psql "$URI" -qAtc "insert into ledger (entry) values ('$LABEL $row')" 2>&1); then
      outcome=ack
    else
      case $why in 'psql: error: connection to server'* | ERROR:*) outcome=no ;; *) outcome=unknown ;; esac
    fi
    echo "$outcome $row $(date +%s%3N) ${why//$'\n'/ }"
    row=$((row + CONNECTIONS))
    sleep 0.05
  done
}
for first in $(seq "$CONNECTIONS"); do writer "$first" & done
wait
