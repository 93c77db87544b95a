#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Works on a fresh Debian machine with Rust.
#
#   scripts/test.sh              install through apt what is missing, then test
#   VXTAP_NO_APT=1 scripts/test.sh   install nothing through apt; tests without their tool say so
#   VXTAP_NO_PIP=1 scripts/test.sh   install nothing through pip; likewise
#
# The peers (tshark, tcpdump, nfdump, …) are the judges of the files vxtap writes.
set -euo pipefail
cd "$(dirname "$0")/.."

# command:package
needed=(
  cc:gcc
  tshark:tshark
  capinfos:wireshark-common
  tcpdump:tcpdump
  nfdump:nfdump
  nfacctd:pmacct
  ipfixDump:libfixbuf-tools
  pkg-config:pkg-config
  zstd:zstd
  lz4:lz4
  python3:python3
  ip:iproute2
  ping:iputils-ping
  tc:iproute2
  sysctl:procps
  setcap:libcap2-bin
  bzip2:bzip2
  xz:xz-utils
  mergecap:wireshark-common
  openssl:openssl
  nft:nftables
  ethtool:ethtool
  ovs-vswitchd:openvswitch-switch
  setpriv:util-linux
  prlimit:util-linux
  mount:mount
  strace:strace
)
# Administrators' programs are not on every user's path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
missing=()
for pair in "${needed[@]}"; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
done
# A compiler without the C library's headers and start files cannot link.
if ! echo 'int main(void) { return 0; }' | cc -xc - -o "$scratch/a.out" 2>/dev/null; then
  missing+=(libc6-dev)
fi
# The collector of scripts/ipfix-collector.c is made from this library.
if ! pkg-config --exists libfixbuf 2>/dev/null; then
  missing+=(libfixbuf-dev)
fi
# Debian's Python makes no virtual environments without this package.
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=(python3-venv)
fi
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
if [ ${#missing[@]} -gt 0 ] && [ -z "${VXTAP_NO_APT:-}" ]; then
  echo "installing: ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  # tshark asks whether users may capture; the tests only read files.
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
elif [ ${#missing[@]} -gt 0 ]; then
  echo "not installed, tests that need them will be skipped: ${missing[*]}"
fi

# Prometheus and promtool: the two programs out of Debian's package. Installed, it would start a service.
prometheus=${CARGO_TARGET_DIR:-target}/tmp/prometheus
if [ -z "${VXTAP_NO_APT:-}" ] && [ ! -x "$prometheus/usr/bin/promtool" ]; then
  echo "unpacking into $prometheus: prometheus"
  mkdir -p "$prometheus"
  # The lists of a fresh machine are empty; _apt cannot write into a directory of ours, and apt says so.
  if ! (cd "$scratch" && { apt-get download -qq prometheus || { "${sudo[@]}" apt-get update -qq && apt-get download -qq prometheus; }; }) \
    >"$scratch/apt" 2>&1 || ! dpkg -x "$scratch"/prometheus_*.deb "$prometheus"; then
    echo "not unpacked, tests that need it will be skipped: $(tail -n 1 "$scratch/apt")"
  fi
fi

# Programs that read what we write, in an environment of the tests' own: nothing of the system's Python changes.
readers=${CARGO_TARGET_DIR:-target}/tmp/readers
if [ -z "${VXTAP_NO_PIP:-}" ] && ! "$readers/bin/python" -c 'import duckdb, pyarrow, jsonschema, ipfix' 2>/dev/null; then
  echo "installing into $readers: duckdb pyarrow jsonschema ipfix"
  if ! { python3 -m venv "$readers" && "$readers/bin/python" -m pip install --quiet --disable-pip-version-check \
    --retries 1 --timeout 15 duckdb pyarrow 'jsonschema[format]' ipfix; } 2>"$scratch/pip"; then
    echo "not installed, tests that need them will be skipped: $(tail -n 1 "$scratch/pip")"
  fi
fi

if command -v python3 >/dev/null 2>&1; then
  echo "testdata is what its generator makes:"
  python3 scripts/make-testdata.py --check
fi

# Tests skip what they cannot do here and say "skipped: WHY" on standard error; those lines are shown. They are some sixty
# programs that wait longer than they compute, so two run at a time; what one says is shown when it has ended.
export log=$scratch/log
set +e
CARGO_TERM_COLOR=never CARGO_TERM_QUIET=false cargo test --locked --no-run 2>&1 | tee "$scratch/built" | grep -vE '^ +(Compiling|Executable) '
status=${PIPESTATUS[0]}
set -e
[ "$status" = 0 ] || exit "$status"
test_program() {
  local said
  said=$(mktemp "$log.XXXXXX")
  "$@" >"$said" 2>&1
  local status=$?
  {
    flock 9
    cat "$said" >>"$log"
    echo "     Running $*"
    grep -vE '^(test .* ok|running [0-9]+ tests?|)$' "$said"
  } 9>"$log.lock"
  return "$status"
}
export -f test_program
: >"$log"
sed -nE 's/^ +Executable .*\((.*)\)$/\1/p' "$scratch/built" >"$scratch/programs"
# What cargo says of them is read: nothing read must not pass for nothing failed.
[ -s "$scratch/programs" ] || { echo "cargo named no test program" >&2; exit 1; }
xargs -d '\n' -P 2 -n 1 bash -c 'test_program "$0" --nocapture' <"$scratch/programs" || status=1
test_program cargo test --locked --doc || status=1
# With --nocapture the line may stand behind "test NAME ... ".
skipped=$(grep -cE '^(test .* \.\.\. )?skipped: ' "$log" || true)
passed=$(grep -oE '[0-9]+ passed' "$log" | awk '{n += $1} END {print n + 0}')
failed=$(grep -oE '[0-9]+ failed' "$log" | awk '{n += $1} END {print n + 0}')
echo "$passed passed, $failed failed, $skipped skipped"
exit "$status"
