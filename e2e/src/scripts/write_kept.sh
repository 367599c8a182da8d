# As write_one_each.sh, over CONNECTIONS connections that are kept until they break, like a connection pool.
trap '' PIPE
say() {
  local now=${EPOCHREALTIME/[.,]/}
  echo "$1 $2 ${now::-3} ${3-}"
}
# connection ROW: ROW is the number of its first row.
connection() {
  local row=$1 from to answer outcome
  while :; do
    coproc SQL { exec psql "$URI" -qAt 2>&1; }
    exec {from}<&"${SQL[0]}" {to}>&"${SQL[1]}"
    outcome=ack
    while [ $outcome = ack ]; do
      answer=
      if ! echo "insert into ledger (entry) values ('$LABEL $row') returning 'done';" >&"$to"; then
        outcome=no
      elif ! read -r -t 3 -u "$from" answer; then
        outcome=unknown
      fi 2>/dev/null
      case $outcome$answer in
        ackdone) ;;
        'ackpsql: error: connection to server'* | ackERROR:*) outcome=no ;;
        ack*) outcome=unknown ;;
      esac
      say $outcome $row "${answer#done}"
      row=$((row + CONNECTIONS))
      sleep 0.03
    done
    exec {from}<&- {to}>&-
    kill -9 "$SQL_PID" && wait "$SQL_PID"
  done 2>/dev/null
}
for first in $(seq "$CONNECTIONS"); do connection "$first" & done
wait
