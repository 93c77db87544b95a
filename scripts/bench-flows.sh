#!/usr/bin/env bash
# Flow records alone: `vxtap replay --flows` against programs that make flow records of the same capture. The peers do
# not open VXLAN, so all read it decapsulated; how long vxtap takes with VXLAN around it stands beside that. Runs are
# interleaved; ratios are taken pair by pair.
#
#   scripts/bench-flows.sh [MEGABYTES] [ROUNDS] [FLOWS] [DIRECTORY]      default 500 5 10000 /dev/shm
#
# Peers that are installed: nfpcapd (nfdump), softflowd (its records go to a closed port), Suricata (eve flow records
# alone), Zeek (conn.log). Prints wall and CPU time, ns a packet, peak memory, and vxtap's ratio to each: median (min to
# max).
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac
megabytes=${1:-500} rounds=${2:-5} flows=${3:-10000} dir=${4:-/dev/shm}
vxtap=${VXTAP:-}
if [ -z "$vxtap" ]; then
  cargo build --release --locked --quiet
  vxtap=$(realpath "${CARGO_TARGET_DIR:-target}/release/vxtap")
fi
work=$(mktemp -d "$dir/vxtap-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 scripts/make-bench-capture.py "$work/in.pcap" "$megabytes" "$flows"
"$vxtap" replay "$work/in.pcap" -w "$work/plain.pcap" --format pcap 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
python3 - "$work" "$rounds" "$vxtap" <<'PY'
import os, shutil, statistics, subprocess, sys, time

work, rounds, vxtap = sys.argv[1], int(sys.argv[2]), sys.argv[3]
plain = f"{work}/plain.pcap"
packets = int(open(f"{work}/in.pcap.packets").read())
out = f"{work}/out"
with open(f"{work}/eve.yaml", "w") as yaml:
    yaml.write("""%YAML 1.1
---
outputs:
  - eve-log: {enabled: yes, filetype: regular, filename: eve.json, types: [flow]}

""")
commands = {
    "vxtap, jsonl": [vxtap, "replay", "--plain", plain, "--flows", f"{out}/flows.jsonl"],
    "vxtap, VXLAN": [vxtap, "replay", f"{work}/in.pcap", "--flows", f"{out}/flows.jsonl"],
    "vxtap, parquet": [vxtap, "replay", "--plain", plain, "--flows", f"{out}/flows.parquet"],
    "nfpcapd": ["nfpcapd", "-r", plain, "-w", out],
    "softflowd": ["softflowd", "-d", "-r", plain, "-n", "127.0.0.1:9", "-v", "10", "-m", "1000000",
                  "-p", f"{work}/pid", "-c", "none"],
    "suricata": ["suricata", "-c", f"{work}/eve.yaml", "-S", "/dev/null", "-r", plain, "-l", out, "--runmode", "single"],
    "zeek": ["zeek", "-b", "-C", "-r", plain, "base/protocols/conn", f"Log::default_logdir={out}"],
}
first = next(iter(commands))
for name, argv in list(commands.items()):
    if not shutil.which(argv[0]):
        print(f"left out: {name} ({argv[0]} is not installed)")
        del commands[name]
rows = {name: [] for name in commands}


def run(argv):
    shutil.rmtree(out, ignore_errors=True)
    os.mkdir(out)
    with open(f"{work}/said", "w+") as said:
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

size = os.path.getsize(plain) / 1e6
print(f"{size:.0f} MB decapsulated, {packets} packets, {rounds} rounds after one to warm up")
print(f"{'':16} {'wall s':>8} {'cpu s':>8} {'cpu ns/packet':>14} {'peak MiB':>9}   {first} ÷ it: wall, cpu")
for name, row in rows.items():
    wall, cpu, peak = (statistics.median(result[part] for result in row) for part in range(3))
    ratios = []
    for part in (0, 1):
        pairs = sorted(ours[part] / its[part] for ours, its in zip(rows[first], row))
        ratios.append(f"{statistics.median(pairs):.2f} ({pairs[0]:.2f} to {pairs[-1]:.2f})")
    print(f"{name:16} {wall:8.2f} {cpu:8.2f} {cpu / packets * 1e9:14.0f} {peak:9.0f}   {', '.join(ratios)}")
PY
