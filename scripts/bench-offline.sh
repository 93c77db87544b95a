#!/usr/bin/env bash
# Offline benchmark: `vxtap replay` (VXLAN off, length judged, flows kept, pcapng and flow records written)
# against programs that copy the same file. Runs are interleaved; ratios are taken pair by pair.
#
#   scripts/bench-offline.sh [MEGABYTES] [ROUNDS] [DIRECTORY]      default 500 5 /dev/shm
#
# Prints wall and CPU time, ns a packet, peak memory, and vxtap's ratio to each peer: median (min to max).
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac
megabytes=${1:-500} rounds=${2:-5} dir=${3:-/dev/shm}
cargo build --release --locked --quiet
work=$(mktemp -d "$dir/vxtap-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 scripts/make-bench-capture.py "$work/in.pcap" "$megabytes"
# Relative to here, as Cargo reads it.
exec_path=$(realpath "${CARGO_TARGET_DIR:-target}/release/vxtap")
python3 - "$work" "$rounds" "$exec_path" <<'PY'
import os, shutil, statistics, subprocess, sys, time

work, rounds, vxtap = sys.argv[1], int(sys.argv[2]), sys.argv[3]
source = f"{work}/in.pcap"
packets = int(open(f"{source}.packets").read())
commands = {
    "vxtap replay": [vxtap, "replay", source, "-w", f"{work}/out", "--flows", f"{work}/flows"],
    "cp": ["cp", source, f"{work}/out"],
    "tcpdump -r -w": ["tcpdump", "-n", "-r", source, "-w", f"{work}/out"],
    "editcap -C 50": ["editcap", "-C", "50", source, f"{work}/out"],
    "tshark -r -w": ["tshark", "-n", "-r", source, "-w", f"{work}/out"],
}
for name, argv in list(commands.items()):
    if not shutil.which(argv[0]):
        if argv[0] == vxtap:
            sys.exit(f"{vxtap} is not there")
        print(f"left out: {name} ({argv[0]} is not installed)")
        del commands[name]
rows = {name: [] for name in commands}


def run(argv):
    for left in ("out", "flows"):
        if os.path.exists(f"{work}/{left}"):
            os.unlink(f"{work}/{left}")
    said = open(f"{work}/said", "w+")
    begin = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=said)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    if status:
        said.seek(0)
        sys.exit(f"{' '.join(argv)}: ended with {os.waitstatus_to_exitcode(status)}: {said.read().strip()}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


for at in range(rounds + 1):
    for name, argv in commands.items():
        result = run(argv)
        if at:  # the first round warms up
            rows[name].append(result)

size = os.path.getsize(source) / 1e6
print(f"{size:.0f} MB, {packets} packets, {rounds} rounds after one to warm up, in {work}")
print(f"{'':16} {'wall s':>8} {'cpu s':>8} {'cpu ns/packet':>14} {'peak MiB':>9}   vxtap ÷ it: wall, cpu")
for name, row in rows.items():
    wall, cpu, peak = (statistics.median(result[part] for result in row) for part in range(3))
    ratios = []
    for part in (0, 1):
        pairs = sorted(ours[part] / its[part] for ours, its in zip(rows["vxtap replay"], row))
        ratios.append(f"{statistics.median(pairs):.2f} ({pairs[0]:.2f} to {pairs[-1]:.2f})")
    print(f"{name:16} {wall:8.2f} {cpu:8.2f} {cpu / packets * 1e9:14.0f} {peak:9.0f}   {', '.join(ratios)}")
PY
