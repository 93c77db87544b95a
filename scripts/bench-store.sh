#!/usr/bin/env bash
# What a store costs: `vxtap replay -w DIR/` (files of 64 MiB, manifest, SHA-256, index) against `-w FILE`, and against a
# store without an index. Runs are interleaved; ratios and differences are taken pair by pair.
#
#   scripts/bench-store.sh [MEGABYTES] [ROUNDS] [DIRECTORY] [VXTAP…]      default 400 7 /dev/shm, the release build here
#
# With more than one VXTAP the builds are compared in the same rounds. Prints CPU time a packet, and what each thread has of
# it: median (min to max). `openssl dgst -sha256` of as many bytes as the store has tells what SHA-256 alone takes.
# The live counterpart is `BENCH_SET=stores scripts/bench-live.sh`.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac
megabytes=${1:-400} rounds=${2:-7} dir=${3:-/dev/shm}
shift $(($# < 3 ? $# : 3))
if [ $# = 0 ]; then
  cargo build --release --locked --quiet
  # Relative to here, as Cargo reads it.
  set -- "$(realpath "${CARGO_TARGET_DIR:-target}/release/vxtap")"
fi
work=$(mktemp -d "$dir/vxtap-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 scripts/make-bench-capture.py "$work/in.pcap" "$megabytes"
python3 - "$work" "$rounds" "$@" <<'PY'
import os, shutil, statistics, subprocess, sys, time

work, rounds, builds = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
source, file, store = f"{work}/in.pcap", f"{work}/out.pcapng", f"{work}/store/"
packets = int(open(f"{source}.packets").read())
FILE, STORE = ["-w", file], ["-w", store]
VARIANTS = {"file": FILE, "store": STORE, "no index": STORE + ["--no-index"]}
WITH_FLOWS = {f"{name}, flows": args + ["--flows", "/dev/null"] for name, args in VARIANTS.items()}


def threads_of(pid, seen):
    """Notes how much CPU time threads took so far, in ns; those that have ended keep what was noted last."""
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/comm") as comm, open(f"/proc/{pid}/task/{task}/schedstat") as stat:
                seen[(task, comm.read().strip())] = int(stat.read().split()[0])
    except OSError:
        pass  # it has just ended


def run(argv):
    """Returns CPU time and that of each thread, in ns a packet."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = {}
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        threads_of(process.pid, seen)
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(argv)}: ended with {process.returncode}")
    by_name = {}
    for (_, name), ns in seen.items():
        by_name[name] = by_name.get(name, 0) + ns / packets
    return (usage.ru_utime + usage.ru_stime) * 1e9 / packets, by_name


def clean():
    shutil.rmtree(store, ignore_errors=True)
    if os.path.exists(file):
        os.unlink(file)


def spread(values, form="{:.0f}"):
    values = sorted(values)
    return f"{form} ({form} to {form})".format(statistics.median(values), values[0], values[-1])


cases = {(build, name): [build, "replay", source, "--workers", "1", *args]
         for name, args in (VARIANTS | WITH_FLOWS).items() for build in builds}
rows, hashed = {case: [] for case in cases}, []
has_openssl = shutil.which("openssl") is not None
for at in range(rounds + 1):
    for case, argv in cases.items():
        clean()
        result = run(argv)
        if at:  # the first round warms up
            rows[case].append(result)
        if case[1] == "store":
            captures = [store + name for name in os.listdir(store) if name.endswith(".pcapng")]
            if has_openssl and case[0] == builds[0]:
                result, _ = run(["openssl", "dgst", "-sha256", *captures])
                if at:
                    hashed.append(result)
            size = sum(map(os.path.getsize, captures))
            files = len(captures)
clean()
print(f"{packets} packets, {size / 1e6:.0f} MB in {files} files, {rounds} rounds after one to warm up, in {work}; ns a packet")
if hashed:
    print(f"openssl dgst -sha256 of the store's captures, reading included: {spread(hashed)}")
for build in builds:
    print(build)
    for name in VARIANTS | WITH_FLOWS:
        row = rows[build, name]
        threads = {thread for _, each in row for thread in each}
        each = {thread: [each.get(thread, 0) for _, each in row] for thread in sorted(threads)}
        each = ", ".join(f"{thread} {statistics.median(ns):.0f}" for thread, ns in each.items() if statistics.median(ns) >= 1)
        print(f"  {name:16} {spread([cpu for cpu, _ in row]):>22}   threads: {each}")
    for name, against in (("store", "file"), ("no index", "file"), ("store", "no index")):
        for suffix in ("", ", flows"):
            pairs = [(a, b) for (a, _), (b, _) in zip(rows[build, name + suffix], rows[build, against + suffix])]
            print(f"  {name} ÷ {against}{suffix}: {spread([a / b for a, b in pairs], '{:.2f}')}; more: {spread([a - b for a, b in pairs])}")
for build in builds[1:]:
    for name in VARIANTS | WITH_FLOWS:
        pairs = [(a, b) for (a, _), (b, _) in zip(rows[build, name], rows[builds[0], name])]
        print(f"{name}: {build} ÷ {builds[0]}: {spread([a / b for a, b in pairs], '{:.2f}')}; more: {spread([a - b for a, b in pairs])}")
PY
