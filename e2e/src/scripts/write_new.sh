# As write_one_each.sh, with CONNECTIONS writers and no time limit, like a client with default settings.
# writer ROW: ROW is the number of its first row.
writer() {
  local row=$1 output outcome now
  while :; do
    if output=$(psql "$URI" -qAtc "insert into ledger (entry) values ('$LABEL $row')" 2>&1); then
      outcome=ack
    else
      # The row cannot exist if no session was opened, or if the server reported an error.
      # After "psql: error: connection to server was lost" the outcome is unknown.
      case $output in
        'psql: error: connection to server at '* | 'psql: error: could not translate host name '* | ERROR:*) outcome=no ;;
        *) outcome=unknown ;;
      esac
    fi
    now=${EPOCHREALTIME/[.,]/}
    echo "$outcome $row ${now::-3} ${output//$'\n'/ }"
    row=$((row + CONNECTIONS))
    sleep 0.05
  done
}
for first in $(seq "$CONNECTIONS"); do writer "$first" & done
wait
