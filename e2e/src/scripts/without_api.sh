# Stops the API server of this host and tells what then happens in a cluster: FOLLOWER's container is ended, PRIMARY's server is killed. Nobody can be
# asked meanwhile, so all of it is here. ADDRESSES has the members' addresses, the first one node 1's. However this ends, the API server comes back.
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
    ((SECONDS < end)) || { echo "never: $*"; exit 1; }
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
[ "$(epoch "$PRIMARY")" = "$epoch" ] || { echo "a follower was away, and the primary has changed"; exit 1; }

say killed
sql "$PRIMARY" "copy (select 1) to program 'kill -9 \$(head -1 /var/lib/pgraft/pgdata/postmaster.pid)'"
soon 120 is_primary
want=$(($(rows) + 20))
soon 120 more
silent || { echo "the API server was there all the while"; exit 1; }
say done
