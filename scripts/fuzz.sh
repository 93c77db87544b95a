#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/, one after the other.
#
#     scripts/fuzz.sh [SECONDS] [TARGET...]     60 seconds each, all targets
#
# Holds true: that no input makes the readers panic, hang, use more than 1 GiB, or break what each target
# asserts (the header of fuzz/fuzz_targets/TARGET.rs lists it). Prints one line a target: executions,
# coverage, inputs kept. Exits with 1 when a target crashed, after the others have run.
#
# Inputs are kept in fuzz/corpus/TARGET from run to run and start with the captures of testdata/, as they
# are or taken apart. An input that crashed is in fuzz/artifacts/TARGET; mend the cause, then keep the
# input: a capture in testdata/malformed, anything else as bytes in a test.
#
# Needs cargo-fuzz (cargo install cargo-fuzz), python3 and a C++ compiler. A stable toolchain does:
# RUSTC_BOOTSTRAP lets it use the sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "fuzz.sh: $1" >&2
    exit 2
}

case ${1-} in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
esac
seconds=60
if [[ ${1-} =~ ^[0-9]+$ ]]; then
    seconds=$1
    shift
fi
[[ $seconds -gt 0 ]] || fail "SECONDS must be at least 1: libFuzzer takes 0 for no limit"
targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
    targets=(outer_frame vxlan_inner_length capture_file pipeline app_names filter)
fi
for target in "${targets[@]}"; do
    [[ -f fuzz/fuzz_targets/$target.rs ]] ||
        fail "no target '$target'; usage: scripts/fuzz.sh [SECONDS] [TARGET...]"
done

cargo fuzz --version >/dev/null 2>&1 ||
    fail "cargo-fuzz is missing; install it with: cargo install cargo-fuzz"
command -v python3 >/dev/null || fail "python3 is missing: it takes the seed captures apart"
if ! rustc --version | grep -q nightly; then
    export RUSTC_BOOTSTRAP=1
fi

# Longest input, in bytes: room for a few packets, or for a small capture.
max_len() {
    case $1 in
        capture_file) echo 32768 ;;
        pipeline) echo 16384 ;;
        *) echo 4096 ;;
    esac
}

# Fills fuzz/corpus/TARGET. Files get the same names every time, so that a second run adds nothing.
seed() {
    mkdir -p "fuzz/corpus/$1"
    case $1 in
        capture_file | pipeline)
            find testdata -type f -name '*.pcap*' -exec cp -t "fuzz/corpus/$1" {} +
            ;;
    esac
    python3 - "$1" "fuzz/corpus/$1" <<'PYTHON'
import gzip, pathlib, struct, sys

target, corpus = sys.argv[1], pathlib.Path(sys.argv[2])
LINKS = {1: 0, 0: 1, 108: 2, 101: 3, 228: 3, 229: 3, 113: 4, 276: 5}  # positions in vxtap_fuzz::LINKS
TUNNEL_PORTS = (4789, 4790, 6081)


def records(data):
    """Link type and (bytes, original length) of each record of a classic pcap."""
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<"}.get(data[:4], ">")
    link, at, found = struct.unpack(order + "I", data[20:24])[0], 24, []
    while at + 16 <= len(data):
        captured, original = struct.unpack(order + "II", data[at + 8 : at + 16])
        found.append((data[at + 16 : at + 16 + captured], original))
        at += 16 + captured
    return link, found


def udp_payload(frame):
    """What follows a UDP header with a tunnel's port, in Ethernet with an IP header without options."""
    for at in (34, 54):
        if len(frame) > at + 8 and struct.unpack(">H", frame[at + 2 : at + 4])[0] in TUNNEL_PORTS:
            return frame[at + 8 :]
    return b""


def zstd(data):
    """One frame that stores its content as it is (RFC 8878 §3.1.1), of 256 bytes or more."""
    header = b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", len(data) - 256)
    return header + struct.pack("<I", 1 | len(data) << 3)[:3] + data


def lz4(data):
    """One frame with one block stored as it is, of 64 KiB at most."""
    size = struct.pack("<I", 1 << 31 | len(data))
    return b"\x04\x22\x4d\x18\x60\x40\x82" + size + data + bytes(4)


def keep(name, data):
    if data:
        (corpus / f"seed-{name}").write_bytes(data)


if target == "capture_file":
    for name in ("ns-big-endian.pcap", "pcapng-le.pcapng", "malformed/cut-record.pcap"):
        data = pathlib.Path("testdata", name).read_bytes()
        for pack in (zstd, lz4, lambda data: gzip.compress(data, mtime=0)):
            packed = pack(data)
            name = f"{name.rpartition('/')[2]}-{packed[:2].hex()}"
            keep(name, packed)
            keep(name + "-twice", packed + packed)
            keep(name + "-skippable", b"\x50\x2a\x4d\x18\x04" + bytes(7) + packed)
    sys.exit()

if target == "app_names":
    query = b"\0\7\1\0\0\1\0\0\0\0\0\0\1a\7example\0\0\1\0\1"
    extensions = b"\0\0\0\x0e\0\x0c\0\0\x09a.example" b"\0\x10\0\5\0\3\2h2"
    hello = b"\3\3" + bytes(32) + b"\0\0\2\x13\1\1\0" + struct.pack(">H", len(extensions)) + extensions
    hello = b"\1\0" + struct.pack(">H", len(hello)) + hello
    keep("dns", b"\0" + query)
    keep("dns-answer", b"\0" + query[:2] + b"\x81\x83" + query[4:])
    keep("mdns", b"\1" + query)
    keep("dns-tcp", b"\2" + struct.pack(">H", len(query)) + query)
    keep("tls", b"\3\x16\3\1" + struct.pack(">H", len(hello)) + hello)
    keep("http", b"\3GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")

if target == "filter":
    _, found = records(pathlib.Path("testdata/demo.pcap").read_bytes())
    frames = [udp_payload(record)[8:] for record, _ in found[:40:8]]
    for nth, words in enumerate((
        "tcp port 443 or udp portrange 1-1023 and not src net 10.0.0.0/8",
        "ip6 host 2001:db8::1 || ether host 02:00:00:00:00:01 && ! arp",
        "vlan 5 and vlan and icmp[icmptype] == icmp-echo",
        "tcp[tcpflags] & (tcp-syn|tcp-ack) != 0 and greater 100 and less 1500",
        "vni 1-10 and source 10.0.0.0/8 and truncated and inbound",
        "(broadcast or multicast) and proto 47 or dst port domain",
    )):
        keep(f"words-{nth}", words.encode() + b"\0" + frames[nth % len(frames)])
    sys.exit()

for path in sorted(pathlib.Path("testdata").rglob("*.pcap")):
    data = path.read_bytes()
    if len(data) < 24 or path.name == "not-a-capture.pcap":
        continue
    link, found = records(data)
    if target == "pipeline":
        chunks = [
            bytes([LINKS.get(link, 0) | (8 if original > len(record) else 0), 0, 0])
            + struct.pack("<H", len(record) & 0xFFFF)
            + record[:0xFFFF]
            for record, original in found
        ]
        keep(f"{path.name}-list", b"\0" + b"".join(chunks))
        sockets = [
            bytes([6 + nth % 2, nth % 3, 1]) + struct.pack("<H", len(payload)) + payload
            for nth, payload in enumerate(udp_payload(record) for record, _ in found)
            if payload
        ]
        keep(f"{path.name}-sockets", sockets and b"\x10" + b"".join(sockets))
        continue
    for nth, (record, _) in enumerate(found[:40]):
        if target == "app_names":
            keep(f"{path.name}-{nth}", b"\0" + udp_payload(record)[8:])
            continue
        keep(f"{path.name}-{nth}", record if target == "outer_frame" else udp_payload(record))
PYTHON
}

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
for target in "${targets[@]}"; do
    cargo fuzz build "$target"
done

crashed=0
for target in "${targets[@]}"; do
    seed "$target"
    log=$logs/$target
    outcome=ok
    cargo fuzz run "$target" -- -max_total_time="$seconds" -max_len="$(max_len "$target")" \
        -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 >"$log" 2>&1 || outcome=CRASHED
    # The last line of progress: "#1234  DONE  cov: 56 ft: 78 corp: 9/10Kb lim: 11 exec/s: 12 rss: 13Mb".
    progress=$(grep -aE '^#[0-9]+' "$log" | tail -n 1 || true)
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    [[ -n $executed ]] || executed=$(sed -E 's/^#([0-9]+).*/\1/' <<<"$progress")
    value() {
        local found
        found=$(sed -nE "s/.* $1: ([0-9]+).*/\1/p" <<<"$progress")
        echo "${found:-?}"
    }
    echo "$target: $outcome, ${executed:-0} executions, coverage $(value cov) edges $(value ft) features," \
        "$(value corp) inputs kept"
    if [[ $outcome != ok ]]; then
        crashed=1
        mkdir -p "fuzz/artifacts/$target"
        cp "$log" "fuzz/artifacts/$target/last.log"
        # The panic and its message, else what libFuzzer says; then how to see it again.
        grep -a -A1 'panicked at' "$log" >&2 || grep -aE '^==[0-9]+== ?ERROR' "$log" >&2 || true
        repeat=$(sed -nE 's/^[[:space:]]+(cargo fuzz run .*)/\1/p' "$log")
        echo "again: ${RUSTC_BOOTSTRAP:+RUSTC_BOOTSTRAP=1 }$repeat" >&2
        echo "all of it: fuzz/artifacts/$target/last.log" >&2
    fi
done
exit $crashed
