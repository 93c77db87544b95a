#!/usr/bin/env bash
# What a flood from outside the allow-list costs those who are allowed. Run as root.
#
#   scripts/bench-allow.sh [SECONDS] [ROUNDS] [FREE_KPPS]      default 3 5 300
#
# One sender is allowed and sends half of FREE_KPPS, the loss-free rate that scripts/bench-live.sh finds (packet backend).
# Each round runs it alone, then beside a flood of twice FREE_KPPS from an address that --allow-file, 10,000 networks, does not
# name. It prints what of the allowed traffic was lost, what the kernel left out, and the receiver's CPU time.
#
# Two namespaces joined by veth; both senders on CPU 0, the receiver and the receiving softirq (threaded NAPI) on CPU 1. The
# flood is not sent again where it finds the veth full. Everything is removed when it ends.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac
[ "$(id -u)" = 0 ] || { echo "root is needed: network namespaces" >&2; exit 1; }
for needed in ip ethtool python3 taskset; do
  command -v "$needed" >/dev/null || { echo "$needed is needed (iproute2, ethtool, python3, util-linux)" >&2; exit 1; }
done
seconds=${1:-3} rounds=${2:-5} free=${3:-300}
[ -n "${VXTAP:-}" ] || cargo build --release --locked --quiet
vxtap=${VXTAP:-$(realpath "${CARGO_TARGET_DIR:-target}/release/vxtap")}
gen=vxtap-allow-gen-$$ cap=vxtap-allow-cap-$$ rx=va$$ tx=vb$$
dir=$(mktemp -d "${BENCH_DIR:-/dev/shm}/vxtap-allow.XXXXXX")
clean() {
  ip netns del "$gen" 2>/dev/null || true
  ip netns del "$cap" 2>/dev/null || true
  rm -rf "$dir"
}
trap clean EXIT
ip netns add "$gen"
ip netns add "$cap"
ip link add "$tx" netns "$gen" type veth peer name "$rx" netns "$cap"
ip -n "$gen" link set "$tx" address 02:00:00:00:aa:01 mtu 2000 up
ip -n "$cap" link set "$rx" address 02:00:00:00:aa:02 mtu 2000 up
ip -n "$gen" addr add 10.99.0.1/24 dev "$tx"
ip -n "$gen" addr add 10.99.0.3/24 dev "$tx"
ip -n "$cap" addr add 10.99.0.2/24 dev "$rx"
ip -n "$gen" neigh replace 10.99.0.2 lladdr 02:00:00:00:aa:02 dev "$tx"
ip netns exec "$gen" ethtool -K "$tx" tx-udp-segmentation off tso off gso off gro off
ip netns exec "$cap" ethtool -K "$rx" gro on
for setting in gro_flush_timeout=20000 napi_defer_hard_irqs=1 threaded=1; do
  ip netns exec "$cap" sh -c "echo ${setting#*=} >/sys/class/net/$rx/${setting%=*}"
done
sleep 0.5
for task in /proc/[0-9]*; do
  if grep -qs "^napi/$rx-" "$task/comm"; then taskset -pc 1 "${task#/proc/}" >/dev/null; fi
done
python3 - >"$dir/allowed.txt" <<'PY'
import ipaddress
print("10.99.0.1")
for number in range(10_000):
    print(f"{ipaddress.ip_address(0x0B000000 + number * 512)}/24")
PY

# send NAME SOURCE KPPS MORE...
send() {
  local name=$1 source=$2 kpps=$3
  shift 3
  ip netns exec "$gen" "$vxtap" send --generate --to 10.99.0.2 --source "$source" --vni 100 --pps "${kpps}000" \
    --duration "${seconds}s" --cpu 0 --no-udp-checksum --summary "$dir/$name.json" "$@" 2>/dev/null
}

# Packets that the pair of devices had no room for, of either sender; those of the allowed one are sent again.
veth_drops() {
  { ip -n "$gen" -j -s link show dev "$tx"; ip -n "$cap" -j -s link show dev "$rx"; } | python3 -c '
import json, sys
text = sys.stdin.read().replace("][", ",")
print(sum(link["stats64"][way]["dropped"] for link in json.loads(text.replace("]\n[", ",")) for way in ("rx", "tx")))'
}

# round alone|flood
round() {
  ip netns exec "$cap" taskset -c 1 "$vxtap" listen --backend packet --interface "$rx" --bind 10.99.0.2:4789 --workers 1 \
    --allow-file "$dir/allowed.txt" -w "$dir/out.pcapng" --overwrite --flows /dev/null --summary "$dir/listen.json" 2>"$dir/said" &
  local receiver=$! flood=
  sleep 1
  rm -f "$dir/flood.json"
  local before
  before=$(veth_drops)
  if [ "$1" = flood ]; then
    send flood 10.99.0.3 $((2 * free)) --no-retry &
    flood=$!
  fi
  send friend 10.99.0.1 $((free / 2))
  [ -z "$flood" ] || wait "$flood"
  sleep 0.5
  local ticks
  ticks=$(awk '{print $14 + $15}' "/proc/$(pgrep -P $receiver || echo $receiver)/stat")
  kill -INT $receiver
  wait $receiver || cat "$dir/said"
  python3 - "$dir" "$1" "$ticks" $(($(veth_drops) - before)) <<'PY'
import json, os, sys
directory, name, ticks, no_room = sys.argv[1:]
read = lambda file: json.load(open(f"{directory}/{file}.json"))
friend, got = read("friend"), read("listen")
flood = read("flood") if os.path.exists(f"{directory}/flood.json") else None
refused = got["filtered"].get("not_allowed", 0)
lost = friend["frames"] - got["delivered"]
text = f"{name:>6}: allowed {friend['frames'] / friend['seconds'] / 1e3:.0f} kpps, lost {lost} of {friend['frames']}"
if flood:
    text += f"; flood {flood['sent'] / flood['seconds'] / 1e3:.0f} kpps"
    text += f", left out in the kernel {got.get('kernel_refused', 0)}, by vxtap {refused}"
    text += f", neither {flood['sent'] - refused - got.get('kernel_refused', 0)}"
text += f"; no room in the veth {no_room}; ring full {sum(got['kernel_dropped'].values())}; {int(ticks) * 10} ms of CPU"
print(text, flush=True)
PY
}
for _ in $(seq "$rounds"); do
  round alone
  round flood
done
