#!/usr/bin/env bash
# Live benchmark: `vxtap listen` (VXLAN off, length judged, flows kept, pcapng written) against programs that write
# what a kernel vxlan device hands them. Run as root.
#
#   scripts/bench-live.sh [SECONDS] [ROUNDS] [RATE_KPPS] [MODE…]      default 3 5 150, all three modes
#
#   cpu        ns a packet at RATE_KPPS: the receiving process, the receiving softirq, both together
#   loss-free  the highest rate with at most one packet in 10,000 lost (a search of six steps, two tries each)
#   overload   the share delivered of twice a receiver's loss-free rate; without that mode before it, of 4 x RATE_KPPS
#
# `vxtap send --generate` is the sender: IMIX frames (64, 570, 1400 bytes at 7:4:1) of 10,000 flows, 30 % IPv6, zero
# outer checksum. Sender and receiver sit in two network namespaces joined by veth, the sender on CPU 0, receiver and
# receiving softirq on CPU 1. The receiving veth has threaded NAPI: its softirq is a kernel thread whose CPU time can
# be read. It goes before the receiver, as a softirq does; under overload both have the same priority, as with ksoftirqd.
# It is woken 20 us after it has become idle, as network cards hold interrupts back: else it would be woken for nearly
# every packet, which charges those most that are done with a packet soonest.
#
# Datagrams that find the veth full are sent again, so a rate that was not reached tells of the receiving softirq;
# under overload they are not, and count as offered.
#
# Rounds are interleaved; a result is the median (min to max), a ratio the median of those of the rounds. Runs shorter
# than 3 s flatter receivers with large buffers, and a busy machine makes any single round worthless.
#
# BENCH_DIR is where captures are written (/dev/shm), BENCH_ONLY names receivers to run, separated by commas. Without it
# they are those that write one file. BENCH_SET=stores takes those that write files of 64 MiB one after the other, which
# no limit deletes, and BENCH_SET=packed vxtap with --compress. `cpu` tells for vxtap what each thread takes, and for stores how
# many files there were and how many packets were lost: `BENCH_SET=stores scripts/bench-live.sh 5 3 250 cpu`.
# Namespaces, devices and sysctls are put back when it ends, also by Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac
for needed in ip ethtool capinfos python3; do
  command -v "$needed" >/dev/null || { echo "$needed is needed (iproute2, ethtool, wireshark-common, python3)" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "root is needed: network namespaces" >&2; exit 1; }
[ -n "${VXTAP:-}" ] || cargo build --release --locked --quiet
# Relative to here, as Cargo reads it.
export VXTAP=${VXTAP:-$(realpath "${CARGO_TARGET_DIR:-target}/release/vxtap")}
# The same process id for all: nothing is left between this shell and the program that cleans up.
exec python3 - "$@" <<'PY'
import datetime, json, math, os, shutil, signal, statistics, subprocess, sys, tempfile, time

try:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    rate = float(sys.argv[3]) * 1e3 if len(sys.argv) > 3 else 150e3
except ValueError as error:
    sys.exit(f"{error}; usage: scripts/bench-live.sh [SECONDS] [ROUNDS] [RATE_KPPS] [MODE…]")
modes = sys.argv[4:] or ["cpu", "loss-free", "overload"]
if set(modes) - {"cpu", "loss-free", "overload"}:
    sys.exit("modes are cpu, loss-free and overload")
vxtap = os.environ["VXTAP"]
ours, peer = "ours", "peer"
LOSS, STEPS, SEARCH_FROM, VNI = 1e-4, 6, 350e3, 100
SENDER_CPU, RECEIVER_CPU = 0, 1

# name: (whose, on a kernel vxlan device, flag of `vxtap listen` that must exist, command); {out} is the file to write,
# {dir} an empty directory for several, {summary} where vxtap tells its counters, {if} the receiving interface.
LISTEN = f"{vxtap} listen --bind 10.99.0.2:4789 --workers 1 --flows /dev/null --summary {{summary}} -w "
HELP = subprocess.run([vxtap, "listen", "--help"], text=True, stdout=subprocess.PIPE).stdout
HAS_BACKENDS = "--backend" in HELP
UDP, PACKET = " --backend udp", " --backend packet --interface {if}"
STORE = "{dir}/ --rotate-size 64MiB --keep-bytes none"
FILES = {
    "vxtap udp": (ours, False, None, LISTEN + "{out}" + (UDP if HAS_BACKENDS else "")),
    "vxtap packet": (ours, False, "--backend", LISTEN + "{out}" + PACKET),
    "dumpcap": (peer, True, None, "dumpcap -q -i vx0 -B 64 -w {out}"),
    "tcpdump": (peer, True, None, "tcpdump -i vx0 -n -Z root -B 65536 -w {out}"),
}
# A kB of dumpcap and an MB of tcpdump are decimal. netsniff-ng names files by the second, so that two of one second would
# be one, unless they are numbered.
STORES = {
    "udp store": (ours, False, "--rotate-size", LISTEN + STORE + UDP),
    "udp no index": (ours, False, "--no-index", LISTEN + STORE + " --no-index" + UDP),
    "packet store": (ours, False, "--rotate-size", LISTEN + STORE + PACKET),
    "packet no index": (ours, False, "--no-index", LISTEN + STORE + " --no-index" + PACKET),
    "dumpcap -b": (peer, True, None, "dumpcap -q -i vx0 -B 64 -b filesize:67108 -b files:1000 -w {dir}/d.pcapng"),
    "tcpdump -C": (peer, True, None, "tcpdump -i vx0 -n -Z root -B 65536 -C 67 -W 1000 -w {dir}/t.pcap"),
    "netsniff-ng": (peer, True, None, "netsniff-ng --in vx0 --out {dir} --interval 64MiB -s -Q -S 64MiB -O 1000"),
}
PACKED = {
    f"{name} {how}": (ours, False, "--compress", LISTEN + STORE + f" --compress {how}" + backend)
    for name, backend in (("udp", UDP), ("packet", PACKET)) for how in ("zstd:1", "gzip:1")
}
RECEIVERS = FILES | STORES | PACKED
SETS = {"files": FILES, "stores": STORES, "packed": PACKED}
wanted = os.environ.get("BENCH_SET", "files")
if wanted not in SETS:
    sys.exit(f"BENCH_SET is one of {', '.join(SETS)}")
only = [name.strip() for name in os.environ.get("BENCH_ONLY", "").split(",") if name.strip()]
if set(only) - set(RECEIVERS):
    sys.exit(f"BENCH_ONLY: receivers are {', '.join(RECEIVERS)}")


def there(name):
    _, _, flag, command = RECEIVERS[name]
    if name not in (only or SETS[wanted]):
        return False
    if flag and flag not in HELP:
        print(f"left out: {name} (this vxtap has no {flag})")
        return False
    if not shutil.which(command.split()[0]):
        print(f"left out: {name} (not installed)")
        return False
    return True


def stop(number, _frame):
    sys.exit(128 + number)


for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, stop)


def sh(command, check=True):
    done = subprocess.run(command.split(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")
    return done.stdout.strip()


def start(argv, **outputs):
    """Starts a program ahead of the machine's other work. `nice` alone counts only within a session where the kernel
    groups by it (sched_autogroup), so each program gets a session, and that a priority."""
    program = subprocess.Popen(["nice", "-n", "-15"] + argv, stdin=subprocess.DEVNULL, start_new_session=True, **outputs)
    try:
        with open(f"/proc/{program.pid}/autogroup", "w") as file:
            file.write("-15")
    except OSError:
        pass
    return program


class Lab:
    """Two namespaces and what is changed for them; `close` puts everything back."""

    SYSCTLS = {"net.core.netdev_max_backlog": 16384, "net.core.rmem_max": 64 << 20}

    def __init__(self):
        pid = os.getpid()
        self.gen, self.cap, self.tx, self.rx = f"vxtap-gen-{pid}", f"vxtap-cap-{pid}", f"s{pid}", f"v{pid}"
        self.dir = tempfile.mkdtemp(prefix="vxtap-live.", dir=os.environ.get("BENCH_DIR", "/dev/shm"))
        self.before, self.sender, self.receiver = {}, None, None
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def open(self):
        for name, wanted in self.SYSCTLS.items():
            value = int(sh(f"sysctl -n {name}"))
            if value < wanted:
                self.before[name] = value
                sh(f"sysctl -qw {name}={wanted}")
        gen, cap, tx, rx = self.gen, self.cap, self.tx, self.rx
        in_gen, in_cap = f"ip netns exec {gen}", f"ip netns exec {cap}"
        for line in f"""
            ip netns add {gen}
            ip netns add {cap}
            ip link add {tx} netns {gen} type veth peer name {rx} netns {cap}
            {in_gen} sysctl -qw net.ipv6.conf.all.disable_ipv6=1
            {in_cap} sysctl -qw net.ipv6.conf.all.disable_ipv6=1
            ip -n {gen} link set {tx} address 02:00:00:00:aa:01 mtu 2000
            ip -n {cap} link set {rx} address 02:00:00:00:aa:02 mtu 2000
            ip -n {gen} addr add 10.99.0.1/24 dev {tx}
            ip -n {cap} addr add 10.99.0.2/24 dev {rx}
            ip -n {gen} link set lo up
            ip -n {cap} link set lo up
            ip -n {gen} link set {tx} up
            ip -n {cap} link set {rx} up
            ip -n {gen} neigh replace 10.99.0.2 lladdr 02:00:00:00:aa:02 dev {tx}
            {in_gen} ethtool -K {tx} tx-udp-segmentation off tso off gso off gro off
            {in_cap} ethtool -K {rx} gro on""".strip().splitlines():
            sh(line)
        # A veth has NAPI with GRO on only; a thread of its own makes its CPU time readable.
        for file, value in (("gro_flush_timeout", 20_000), ("napi_defer_hard_irqs", 1), ("threaded", 1)):
            write = f"echo {value} >/sys/class/net/{rx}/{file}"
            subprocess.run(["ip", "netns", "exec", cap, "sh", "-c", write], check=True)
        deadline = time.monotonic() + 5
        while not (threads := [pid for pid in filter(str.isdigit, os.listdir("/proc")) if self.is_napi(pid)]):
            if time.monotonic() > deadline:
                raise RuntimeError("no NAPI thread: this kernel's veth cannot be measured")
            time.sleep(0.05)
        self.napi = int(threads[0])
        os.sched_setaffinity(self.napi, {RECEIVER_CPU})
        os.setpriority(os.PRIO_PROCESS, self.napi, -15)  # that of the receiver: see `start`

    def is_napi(self, pid):
        try:
            with open(f"/proc/{pid}/comm") as comm:
                return comm.read().startswith(f"napi/{self.rx}-")
        except OSError:
            return False

    def close(self):
        for program in (self.sender, self.receiver):
            if program and program.returncode is None:
                program.kill()
                program.wait()
        for namespace in (self.gen, self.cap):
            sh(f"ip netns del {namespace}", check=False)
        for name, value in self.before.items():
            if int(sh(f"sysctl -n {name}")) == self.SYSCTLS[name]:
                sh(f"sysctl -qw {name}={value}")
        shutil.rmtree(self.dir, ignore_errors=True)

    def run(self, name, pps, overload=False):
        _, kernel_vxlan, _, command = RECEIVERS[name]
        policy = (os.SCHED_OTHER, 0) if overload else (os.SCHED_FIFO, 1)
        os.sched_setscheduler(self.napi, policy[0], os.sched_param(policy[1]))
        sh(f"ip -n {self.cap} link del vx0", check=False)
        if kernel_vxlan:
            sh(f"ip -n {self.cap} link add vx0 type vxlan id {VNI} dstport 4789 local 10.99.0.2 dev {self.rx} nolearning")
            sh(f"ip -n {self.cap} link set vx0 mtu 1900 up")
            sh(f"ip netns exec {self.cap} ethtool -K vx0 gro off")
        out, store, summary, said = (f"{self.dir}/{file}" for file in ("out", "store", "summary", "said"))
        os.mkdir(store)
        argv = command.format(out=out, dir=store, summary=summary, **{"if": self.rx}).split()
        on_cpu = ["ip", "netns", "exec", self.cap, "taskset", "-c", str(RECEIVER_CPU)]
        with open(said, "w") as messages:
            receiver = self.receiver = start(on_cpu + argv, stdout=subprocess.DEVNULL, stderr=messages)
        time.sleep(1)
        if receiver.poll() is not None:
            raise RuntimeError(f"{name} ended at once: {open(said).read().strip()}")
        process, softirq = threads_ns(receiver.pid), schedstat_ns(f"/proc/{self.napi}")
        send = ["ip", "netns", "exec", self.gen, vxtap, "send", "--generate", "--to", "10.99.0.2",
                "--source", "10.99.0.1", "--vni", str(VNI), "--pps", f"{pps:.0f}", "--duration", f"{seconds}s",
                "--cpu", str(SENDER_CPU), "--no-udp-checksum", "--summary", "-"] + ["--no-retry"] * overload
        self.sender = start(send, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        told, complaints = self.sender.communicate(timeout=seconds + 30)
        if self.sender.returncode:
            raise RuntimeError(f"the sender failed: {complaints.strip()}")
        sent = json.loads(told)
        time.sleep(1.5)  # tcpdump is handed its last block after up to a second
        softirq = schedstat_ns(f"/proc/{self.napi}") - softirq
        threads = threads_by_name(receiver.pid)
        receiver.send_signal(signal.SIGINT)
        process = self.reap(name) - process
        captures = [f"{store}/{file}" for file in os.listdir(store) if is_capture(file)]
        delivered = packets_in(captures or [out])
        if os.path.exists(summary):
            with open(summary) as file:
                counters = json.load(file)
            lost_by_kernel = sum(counters["kernel_dropped"].values())
            written = counters.get("sinks", [{}])[0].get("written", delivered)
            if any(file.endswith((".zst", ".gz")) for file in captures):
                delivered = written  # capinfos cannot count the packets of all of them
            elif written != delivered:
                print(f"  {name}: {delivered} packets in the files, {written} by the summary", flush=True)
            if missing := sent["sent"] - counters["received"] - lost_by_kernel:
                print(f"  {name}: {missing} of {sent['sent']} packets neither received nor counted as dropped", flush=True)
        shutil.rmtree(store)
        for file in (out, summary):
            if os.path.exists(file):
                os.unlink(file)
        return {
            "offered": sent["frames"] / sent["seconds"], "retries": sent["retries"], "share": delivered / sent["frames"],
            "process": process / max(delivered, 1), "softirq": softirq / sent["sent"], "sent": sent["frames"],
            "lost": sent["frames"] - delivered, "files": len(captures),
            "threads": {thread: ns / max(delivered, 1) for thread, ns in threads.items()},
        }

    def reap(self, name):
        """Waits for the receiver's end; returns the CPU time it took, in ns."""
        for _ in range(400):
            pid, status, usage = os.wait4(self.receiver.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.05)
        else:
            print(f"  {name} did not end by itself", flush=True)
            self.receiver.kill()
            _, status, usage = os.wait4(self.receiver.pid, 0)
        code = self.receiver.returncode = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            print(f"  {name} failed: it ended with {code}", flush=True)
        return (usage.ru_utime + usage.ru_stime) * 1e9


def schedstat_ns(task):
    with open(f"{task}/schedstat") as file:
        return int(file.read().split()[0])


def threads_ns(pid):
    return sum(schedstat_ns(f"/proc/{pid}/task/{task}") for task in os.listdir(f"/proc/{pid}/task"))


def threads_by_name(pid):
    """CPU time in ns so far; threads of one name are added up."""
    sums = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as file:
            name = file.read().strip()
        sums[name] = sums.get(name, 0) + schedstat_ns(f"/proc/{pid}/task/{task}")
    return sums


def is_capture(name):
    return ".pcap" in name and not name.endswith(".idx") and name[0] != "."


def packets_in(paths):
    paths = [path for path in paths if os.path.exists(path)]
    if not paths:
        return 0
    # A file without its end counts as far as it goes.
    done = subprocess.run(["capinfos", "-c", "-M", "-T", "-r", *paths], text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    counts = [line.split("\t")[1] for line in done.stdout.splitlines() if "\t" in line]
    return sum(int(count) for count in counts if count.isdigit())


def loss_free(lab, name):
    """Bisection on a log scale; tells the highest rate without loss, and whether the sender rather than the receiver set
    it. Where the sender falls short of a rate, what it did reach counts."""
    low, high, by_sender = 0, SEARCH_FROM * 3, True
    for step in range(STEPS):
        rate = math.sqrt(low * high) if low else SEARCH_FROM / 3 ** (step / 2)
        for _ in range(2):
            result = lab.run(name, rate)
            passed = 1 - result["share"] <= LOSS
            if passed:
                break
        short = result["offered"] < 0.97 * rate
        if passed and short and result["retries"]:
            passed = False  # held back by a full veth
        if passed:
            low = max(low, min(rate, result["offered"]))
        else:
            high, by_sender = rate, False
    return low, by_sender


def spread(values, form="{:.0f}"):
    values = sorted(values)
    return f"{form} ({form} to {form})".format(statistics.median(values), values[0], values[-1])


def ratios(rows, value, names):
    mine = [name for name in names if RECEIVERS[name][0] == ours]
    peers = [name for name in names if RECEIVERS[name][0] == peer]
    for name in mine:
        for other in peers:
            pairs = [value(a) / max(value(b), 1e-9) for a, b in zip(rows[name], rows[other])]
            print(f"  {name} ÷ {other}: {spread(pairs, '{:.2f}')}", flush=True)


def interleaved(names, run):
    rows = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            rows[name].append(run(name))
    return rows


def cpu(lab, names):
    print(f"\ncpu: ns a packet at {rate / 1e3:.0f} kpps\n{'':15} {'process':>24} {'softirq':>24} {'together':>24}  delivered")
    rows = interleaved(names, lambda name: lab.run(name, rate))
    together = lambda row: row["process"] + row["softirq"]
    for name, row in rows.items():
        parts = [[r["process"] for r in row], [r["softirq"] for r in row], list(map(together, row))]
        share, offered = (statistics.median(r[key] for r in row) for key in ("share", "offered"))
        print(f"{name:15} " + " ".join(f"{spread(part):>24}" for part in parts) + f"  {100 * share:.3f} % of {offered / 1e3:.0f} kpps")
        if RECEIVERS[name][0] == ours:
            each = {thread: spread([r["threads"].get(thread, 0) for r in row]) for thread in row[0]["threads"]}
            print("  threads: " + ", ".join(f"{thread} {ns}" for thread, ns in each.items() if not ns.startswith("0 ")))
        if any(r["files"] for r in row):
            print(f"  lost: {', '.join(str(r['lost']) for r in row)} of {row[0]['sent']}; files: {', '.join(str(r['files']) for r in row)}")
    ratios(rows, together, names)


def search(lab, names):
    print(f"\nloss-free: kpps, one core, loss at most {LOSS:.0e}", flush=True)
    rows = interleaved(names, lambda name: loss_free(lab, name))
    for name, row in rows.items():
        limit = ", the sender's limit: the receiver can do more" if any(by_sender for _, by_sender in row) else ""
        print(f"{name:15} {spread([kpps / 1e3 for kpps, _ in row]):>24}{limit}")
    ratios(rows, lambda row: row[0], names)
    return {name: statistics.median(kpps for kpps, _ in row) for name, row in rows.items()}


def overload(lab, names, loss_free_rates):
    offer = lambda name: 2 * loss_free_rates[name] if name in loss_free_rates else 4 * rate
    print(f"\noverload: {'twice the loss-free rate' if loss_free_rates else '4 x RATE'} offered, softirq and receiver at one priority", flush=True)
    rows = interleaved(names, lambda name: lab.run(name, offer(name), overload=True))
    delivered = lambda row: row["share"] * row["offered"] / 1e3
    for name, row in rows.items():
        share = spread([100 * r["share"] for r in row], "{:.1f}")
        print(f"{name:15} {share} % of {statistics.median(r['offered'] for r in row) / 1e3:.0f} kpps"
              f" (asked for: {offer(name) / 1e3:.0f}), {spread(map(delivered, row))} kpps")
    ratios(rows, delivered, names)


def machine():
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    day = datetime.date.today().isoformat()
    return f"{os.cpu_count()} cores, {models[0] if models else os.uname().machine}, Linux {os.uname().release}, {day}"


if not {SENDER_CPU, RECEIVER_CPU} <= os.sched_getaffinity(0):
    sys.exit("two cores are needed: CPU 0 and CPU 1")
print(f"{machine()}; {seconds:g} s a run, {rounds} rounds")
names = [name for name in RECEIVERS if there(name)]
lab = Lab()
try:
    if "cpu" in modes:
        cpu(lab, names)
    rates = search(lab, names) if "loss-free" in modes else {}
    if "overload" in modes:
        overload(lab, names, rates)
finally:
    lab.close()
PY
