# As write.sh, over CONNECTIONS that are kept until they break, as a pool of them is.
trap '' PIPE
say() {
  local now=${EPOCHREALTIME/[.,]/}
  echo "$1 $2 ${now::-3} ${3-}"
}
# ROW: the first of its rows.
connection() {
  local row=$1 from to answer fate
  while :; do
    coproc SQL { exec psql "$URI" -qAt 2>&1; }
    exec {from}<&"${SQL[0]}" {to}>&"${SQL[1]}"
    fate=ack
    while [ $fate = ack ]; do
      answer=
      if ! echo "insert into ledger (entry) values ('$STORY $row') returning 'done';" >&"$to"; then
        fate=no
      elif ! read -r -t 3 -u "$from" answer; then
        fate=unknown
      fi 2>/dev/null
      case $fate$answer in
        ackdone) ;;
        'ackpsql: error: connection to server'* | ackERROR:*) fate=no ;;
        ack*) fate=unknown ;;
      esac
      say $fate $row "${answer#done}"
      row=$((row + CONNECTIONS))
      sleep 0.03
    done
    exec {from}<&- {to}>&-
    kill -9 "$SQL_PID" && wait "$SQL_PID"
  done 2>/dev/null
}
for first in $(seq "$CONNECTIONS"); do connection "$first" & done
wait
