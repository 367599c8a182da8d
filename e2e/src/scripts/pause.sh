# Stops all processes of the pod UID_OF_POD and the host's kubelet for SECONDS_LONG, and prints the time. They continue however this ends.
pids() {
  grep -ls -e "$UID_OF_POD" -e "${UID_OF_POD//-/_}" /proc/[0-9]*/cgroup | cut -d/ -f3
  grep -lsx kubelet /proc/[0-9]*/comm | cut -d/ -f3
}
all() { for pid in $(pids); do kill "-$1" "$pid" 2>/dev/null; done; }
trap 'all CONT' EXIT
trap 'exit 1' TERM INT
[ "$(pids | wc -l)" -gt 5 ] || { echo "no processes of that pod"; exit 1; }
for _ in 1 2 3; do all STOP; done # also processes that have just been started
echo "paused $(date +%s%3N)"
sleep "$SECONDS_LONG" & wait $!
