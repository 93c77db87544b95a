#!/usr/bin/env bash
# Instructions a packet by stage, counted by valgrind's callgrind: figures that do not depend on how busy the
# machine is.
#
#   scripts/callgrind.sh [FLOWS] [VXTAP]      default 10000 and the release build, which is made
#
# Replays a capture of three packets a flow and one of fifteen, and takes the difference: what is left is the
# cost of a packet of a known flow. What a flow costs (its first packet, its record and line at the end) is told
# apart. "with callees" counts what a function calls too, where it is not inlined.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac
flows=${1:-10000} vxtap=${2:-}
for tool in valgrind callgrind_annotate python3; do
  if ! command -v "$tool" >/dev/null 2>&1; then
    echo "$tool is not installed: apt-get install valgrind python3" >&2
    exit 1
  fi
done
if [ -z "$vxtap" ]; then
  cargo build --release --locked --quiet
  vxtap=${CARGO_TARGET_DIR:-target}/release/vxtap
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A round of the generator is three packets of each flow, about 414 bytes each.
round=$((flows * 3 * 414 / 1000000))
python3 scripts/make-bench-capture.py "$work/few.pcap" "$((round / 2))" "$flows"
python3 scripts/make-bench-capture.py "$work/many.pcap" "$((round * 9 / 2))" "$flows"
for capture in few many; do
  valgrind --tool=callgrind --callgrind-out-file="$work/$capture.out" \
    "$vxtap" replay "$work/$capture.pcap" -w "$work/out.pcapng" --flows "$work/flows.jsonl" \
    >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
done
python3 - "$work" "$flows" <<'PY'
import collections, re, subprocess, sys

work, flows = sys.argv[1], int(sys.argv[2])


def counts(capture, inclusive):
    """Instructions by function, all source files of a function together."""
    text = subprocess.run(
        ["callgrind_annotate", "--threshold=100", "--auto=no", "--show-percs=no", f"--inclusive={inclusive}",
         f"{work}/{capture}.out"], check=True, capture_output=True, text=True).stdout
    of = collections.Counter()
    for line in text.splitlines():
        found = re.match(r"\s*([\d,]+)\s+(?:\([^)]*\)\s+)?(.*?):((?:<|[a-zA-Z_]).*?)(?: \[.*\])?$", line)
        if found:
            number = int(found.group(1).replace(",", ""))
            name = found.group(3)
            # Inclusive figures are those of the whole function wherever its lines come from.
            of[name] = max(of[name], number) if inclusive == "yes" else of[name] + number
        elif "PROGRAM TOTALS" in line:
            of["total"] = int(line.split()[0].replace(",", ""))
    return of


packets = {name: int(open(f"{work}/{name}.pcap.packets").read()) for name in ("few", "many")}
more = packets["many"] - packets["few"]
own = {name: counts(name, "no") for name in packets}
all_of = {name: counts(name, "yes") for name in packets}


def each(of, name):
    return (of["many"][name] - of["few"][name]) / more


total = each(own, "total")
print(f"{packets['few']} and {packets['many']} packets of {flows} flows")
print(f"a packet of a known flow: {total:.0f} instructions")
print(f"a flow, once:             {(own['few']['total'] - packets['few'] * total) / flows:.0f} instructions")
print(f"\n{'own':>8} {'with callees':>13}   function, instructions a packet")
rows = sorted(own["many"], key=lambda name: -each(own, name))
for name in rows:
    if name != "total" and each(own, name) >= 8:
        print(f"{each(own, name):8.0f} {max(each(all_of, name), each(own, name)):13.0f}   {name[:90]}")
PY
