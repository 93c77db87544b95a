#!/usr/bin/env bash
# Installs the Debian package in a fresh Debian root under its own systemd, and uses it as an administrator would: two
# lines of the configuration, traffic that the kernel's vxlan device mirrors (tc mirred), reload, kill, upgrade, remove,
# purge. Run as root.
#
#   scripts/build-deb.sh && scripts/check-package.sh [FILE.deb]
#
# Needs debootstrap and systemd-nspawn (apt install debootstrap systemd-container); about 3 minutes. ROOT=DIR takes a
# Debian root that is there already, made with the packages below; it is copied.
set -euo pipefail
cd "$(dirname "$0")/.."

deb=${1:-$(ls -t target/debian/vxtap_*.deb 2>/dev/null | head -1)}
[ -n "$deb" ] || { echo "no package: scripts/build-deb.sh makes it" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "root is needed: debootstrap and systemd-nspawn" >&2; exit 2; }
packages=systemd,systemd-sysv,dbus,adduser,iproute2,procps

work=$(mktemp -d "${TMPDIR:-/tmp}/vxtap-package.XXXXXX")
root=$work/root
container=
leader=
finish() {
  [ -z "$container" ] || { kill "$container" 2>/dev/null && wait "$container" 2>/dev/null; } || true
  rm -rf --one-file-system "$work"
}
trap finish EXIT
if [ -n "${ROOT:-}" ]; then cp -a "$ROOT" "$root"; else debootstrap --variant=minbase --include=$packages bookworm "$root" >"$work/debootstrap.log"; fi
install -m 644 "$deb" "$root/root/vxtap.deb"
install -m 644 testdata/demo.pcap "$root/root/demo.pcap"

# What a container keeps from the service is let through: a machine keeps nothing.
systemd-nspawn --quiet --register=no --keep-unit --directory "$root" --boot --private-network --capability=CAP_BPF \
  --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self bpf" --console=pipe >"$work/boot.log" 2>&1 </dev/null &
container=$!
# The leader is the container's first process.
for _ in $(seq 100); do
  leader=$(pgrep -P "$container" | head -1 || true)
  [ -z "$leader" ] || break
  sleep 0.1
done
[ -n "$leader" ] || { cat "$work/boot.log" >&2; exit 1; }
inside() { nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup --root --wd -- env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
until inside systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; do sleep 0.2; done
inside ip link set lo up
# A mirror source on another machine: its traffic goes out on d0 and is copied into a vxlan device.
inside ip netns add source
# Its own IPv6 housekeeping would be mirrored too.
inside ip netns exec source sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
inside ip link add to-source type veth peer name to-target netns source
inside ip address add 10.99.0.1/24 dev to-source
inside ip link set to-source up
for words in "address add 10.99.0.2/24 dev to-target" "link set to-target up" \
  "link add vx0 type vxlan id 77 remote 10.99.0.1 dstport 4789" "link set vx0 up" \
  "link add d0 type veth peer name d1" "address add 192.0.2.1/24 dev d0" "link set d0 up" "link set d1 up" \
  "neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev d0"; do
  # shellcheck disable=SC2086
  inside ip -n source $words
done
inside tc -n source qdisc add dev d0 clsact
inside tc -n source filter add dev d0 egress protocol ip u32 match u32 0 0 action mirred egress mirror dev vx0

step() { echo "== $*"; }
# Asks until a command succeeds, 20 s at most.
await() { for _ in $(seq 100); do if inside sh -c "$1" >/dev/null 2>&1; then return; fi; sleep 0.2; done; echo "waited in vain for: $1" >&2; inside vxtap status >&2 || true; inside journalctl -u vxtap --no-pager | tail -40 >&2; exit 1; }
expect() { inside sh -c "$1" || { echo "failed: $1" >&2; inside journalctl -u vxtap --no-pager | tail -40 >&2; exit 1; }; }

step "install"
inside dpkg -i /root/vxtap.deb
expect '! systemctl is-active --quiet vxtap'
expect 'id vxtap'
expect 'vxtap check /etc/vxtap/vxtap.toml'

step "two lines"
inside sed -i 's/^bind = .*/bind = "10.99.0.1:4789"/; s/^allow = .*/allow = ["10.99.0.2"]/' /etc/vxtap/vxtap.toml
expect 'vxtap check /etc/vxtap/vxtap.toml'

step "start"
inside systemctl start vxtap
expect 'systemctl is-active vxtap'
expect '[ "$(ps -o user= -p "$(systemctl show -P MainPID vxtap)")" = vxtap ]'
expect 'grep -q "^CapEff:.0000000000000000" "/proc/$(systemctl show -P MainPID vxtap)/status"'
expect '! journalctl -u vxtap | grep -i "sandbox is not complete"'
expect 'vxtap status'

step "traffic"
expect 'vxtap status | grep "packet ring"'
mirrored="ip netns exec source bash -c 'for number in \$(seq 100); do echo \$number >/dev/udp/192.0.2.2/9; done'"
expect "$mirrored"
await 'vxtap status | grep -q "^  100 received = 100 delivered"'
expect 'ip netns exec source vxtap send /root/demo.pcap --to 10.99.0.1'
await 'vxtap status | grep -q "^  298 received = 298 delivered"'
inside systemctl kill -s SIGUSR2 vxtap
await 'ls /var/lib/vxtap/*.pcapng'
expect 'ls -l /var/lib/vxtap; [ "$(stat -c %a:%U:%G /var/lib/vxtap/*.pcapng | sort -u)" = 640:vxtap:vxtap ]'

step "reload"
expect 'sed -i "s/^keep-bytes = .*/keep-bytes = \"5GB\"/" /etc/vxtap/vxtap.toml; systemctl reload vxtap'
expect 'systemctl is-active vxtap'
expect 'sed -i "s/^keep-bytes = .*/keep-bytes = \"5GX\"/" /etc/vxtap/vxtap.toml; ! systemctl reload vxtap'
expect 'systemctl is-active vxtap'
expect 'sed -i "s/^keep-bytes = .*/keep-bytes = \"5GB\"/" /etc/vxtap/vxtap.toml'

step "kill"
inside systemctl kill -s SIGKILL vxtap
await '[ "$(systemctl show -P NRestarts vxtap)" -ge 1 ] && systemctl is-active vxtap'
expect 'vxtap verify /var/lib/vxtap/'

step "upgrade"
before=$(inside systemctl show -P MainPID vxtap)
inside dpkg -i /root/vxtap.deb
await 'systemctl is-active vxtap'
[ "$(inside systemctl show -P MainPID vxtap)" != "$before" ] || { echo "an upgrade did not restart it" >&2; exit 1; }

step "stop"
inside systemctl stop vxtap
expect '[ "$(systemctl show -P Result vxtap)" = success ]'
expect 'vxtap ls /var/lib/vxtap/'

step "security"
inside systemd-analyze security --no-pager vxtap | tail -1

step "remove, purge"
inside dpkg -r vxtap
expect '! command -v vxtap; [ -f /etc/vxtap/vxtap.toml ]'
inside dpkg -P vxtap
expect '[ ! -e /etc/vxtap ] && ls /var/lib/vxtap/*.pcapng'
echo "the package works"
