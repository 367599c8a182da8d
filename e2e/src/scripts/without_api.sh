# Stops the API server of this host, then ends the container of FOLLOWER and kills the server of PRIMARY, and prints the times. The scenario cannot
# reach the pods meanwhile, so every step is here. ADDRESSES has the members' addresses, beginning with node 1. The API server is restored however
# this ends.
manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
away=/etc/kubernetes/kube-apiserver.away
host() { nsenter --target 1 --mount -- "$@"; }
back() { if host test -e $away; then host mv $away $manifest; fi; }
trap back EXIT
trap 'exit 1' TERM INT

read -ra addresses <<< "$ADDRESSES"
export PGUSER=postgres PGSSLMODE=require PGCONNECT_TIMEOUT=3
say() { echo "$1 $(date +%s%3N)"; }
sql() { timeout 5 psql -h "${addresses[$1 - 1]}" -d "${3:-postgres}" -qAtc "$2" 2>/dev/null; }
soon() { # SECONDS COMMAND...
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || { echo "timed out: $*"; exit 1; }
    sleep 0.2
  done
}
silent() { ! (exec 3<> /dev/tcp/127.0.0.1/6443) 2>/dev/null; }
epoch() { sql "$1" 'select epoch from pgraft_status()'; }
started() { sql "$1" 'select pg_postmaster_start_time()'; }
again() { local now; now=$(started "$FOLLOWER") && [ "$now" != "$before_end" ]; }
streams() { [ "$(sql "$FOLLOWER" 'select status from pg_stat_wal_receiver')" = streaming ]; }
is_primary() { local now; now=$(epoch "$FOLLOWER") && ((now > epoch)); }
rows() { sql "$FOLLOWER" "select count(*) from ledger" app || echo 0; }
more() { (($(rows) >= want)); }

host mv $manifest $away
soon 120 silent
say stopped
epoch=$(epoch "$PRIMARY") before_end=$(started "$FOLLOWER")

sql "$FOLLOWER" "copy (select 1) to program 'kill -TERM 1'"
say ended
soon 180 again
soon 120 streams
say rejoined
want=$(($(rows) + 20))
soon 60 more
[ "$(epoch "$PRIMARY")" = "$epoch" ] || { echo "the primary changed while only a follower was down"; exit 1; }

say killed
sql "$PRIMARY" "copy (select 1) to program 'kill -9 \$(head -1 /var/lib/pgraft/pgdata/postmaster.pid)'"
soon 120 is_primary
want=$(($(rows) + 20))
soon 120 more
silent || { echo "the API server was running"; exit 1; }
say done
