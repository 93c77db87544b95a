//! Two network namespaces joined by a veth pair: a mirror source in one, `vxtap listen` in the other.
//! Everything goes away with the [`Lab`], also when a test fails.
//!
//! Nothing here decides by the clock: what is waited for is asked for again and again, and the time
//! limit only turns a hang into a failure.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use nix::unistd::Pid;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

pub use super::wait_until;
use super::{Run, Running, VXTAP, json_lines, reasons, run};

/// The sender's end of the pair.
pub const SRC: &str = "src0";
/// The receiver's.
pub const DST: &str = "dst0";
/// Hardware addresses of the two.
pub const SRC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const DST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Where the receiver receives.
pub const TO_V4: &str = "10.77.0.2:4789";
pub const TO_V6: &str = "[fd00:77::2]:4789";
/// Both ways to receive.
pub const BACKENDS: [&str; 2] = ["udp", "packet"];

/// Fails and says why where the settings of the network cannot be written.
const WRITES_SYSCTLS: &str = "echo 0 >/proc/sys/net/ipv4/ip_forward";

/// One of the two namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Sender,
    Receiver,
}

/// Whether tests may take their time.
pub fn long_tests() -> bool {
    std::env::var_os("VXTAP_LONG_TESTS").is_some_and(|value| value == "1")
}

/// The two namespaces.
pub struct Lab {
    name: String,
}

impl Lab {
    /// Makes them; says so when that is not possible here.
    pub fn new() -> Option<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if !super::tool("ip") {
            return None;
        }
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let lab = Self {
            name: format!("vxtap-{}-{number}", std::process::id()),
        };
        for side in [Side::Sender, Side::Receiver] {
            let made = run(Command::new("ip").args(["netns", "add", &lab.netns(side)]));
            if made.code != Some(0) {
                eprintln!("skipped: no network namespace: {}", made.stderr.trim());
                return None;
            }
            // `ip netns exec` mounts /sys anew, which needs a `/` that is a mount point; the lab writes to
            // /proc/sys, which a container may have read-only.
            let tried = run(&mut lab.command(side, &["sh", "-c", WRITES_SYSCTLS]));
            if tried.code != Some(0) {
                let why = tried.stderr.trim();
                eprintln!("skipped: no program can be run in a network namespace: {why}");
                return None;
            }
        }
        let (sender, receiver) = (lab.netns(Side::Sender), lab.netns(Side::Receiver));
        let pair = format!(
            "link add {SRC} netns {sender} address 02:00:00:00:00:01 type veth \
             peer name {DST} netns {receiver} address 02:00:00:00:00:02"
        );
        let made = run(Command::new("ip").args(pair.split_whitespace()));
        if made.code != Some(0) {
            eprintln!("skipped: no veth pair: {}", made.stderr.trim());
            return None;
        }
        for (side, device, last) in [(Side::Sender, SRC, 1), (Side::Receiver, DST, 2)] {
            lab.set(side, &format!("net/ipv6/conf/{device}/accept_dad"), "0");
            lab.set(side, &format!("net/ipv6/conf/{device}/disable_ipv6"), "1");
            lab.ip(side, "link set lo up");
            lab.ip(side, &format!("address add 10.77.0.{last}/24 dev {device}"));
            lab.ip(side, &format!("link set {device} up"));
        }
        lab.know_neighbour(SRC, "10.77.0.2");
        lab.wait_up();
        Some(lab)
    }

    /// Lets both ends have IPv6 addresses too.
    pub fn ipv6(&self) {
        for (side, device, last) in [(Side::Sender, SRC, 1), (Side::Receiver, DST, 2)] {
            self.set(side, &format!("net/ipv6/conf/{device}/disable_ipv6"), "0");
            let address = format!("address add fd00:77::{last}/64 dev {device} nodad");
            self.ip(side, &address);
        }
        self.know_neighbour(SRC, "fd00:77::2");
    }

    /// Sets what stands in /proc/sys.
    pub fn set(&self, side: Side, name: &str, value: &str) {
        let path = Path::new("/proc/sys").join(name);
        self.inside(side, || std::fs::write(path, value).unwrap());
    }

    /// Name of a namespace.
    pub fn netns(&self, side: Side) -> String {
        format!(
            "{}-{}",
            self.name,
            if side == Side::Sender { "s" } else { "r" }
        )
    }

    /// Runs `ip` in a namespace.
    #[track_caller]
    pub fn ip(&self, side: Side, words: &str) {
        let netns = self.netns(side);
        let done = run(Command::new("ip")
            .args(["-n", &netns])
            .args(words.split(' ')));
        assert_eq!(done.code, Some(0), "ip {words}: {}", done.stderr);
    }

    /// Adds a device of a kind that not every kernel has; says so when this one does not.
    pub fn add_device(&self, side: Side, words: &str) -> bool {
        let netns = self.netns(side);
        let done = run(Command::new("ip")
            .args(["-n", &netns, "link", "add"])
            .args(words.split(' ')));
        if done.code != Some(0) {
            eprintln!("skipped: ip link add {words}: {}", done.stderr.trim());
        }
        done.code == Some(0)
    }

    /// A program to be run in a namespace.
    pub fn command(&self, side: Side, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.netns(side)])
            .args(words)
            .env_remove("VXTAP_LOG")
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Tells the sender the receiver's hardware address, so that nobody has to ask.
    pub fn know_neighbour(&self, device: &str, address: &str) {
        let words =
            format!("neigh replace {address} lladdr 02:00:00:00:00:02 nud permanent dev {device}");
        self.ip(Side::Sender, &words);
    }

    /// Sets the MTU of both ends.
    pub fn mtu(&self, mtu: u32) {
        self.ip(Side::Sender, &format!("link set {SRC} mtu {mtu}"));
        self.ip(Side::Receiver, &format!("link set {DST} mtu {mtu}"));
    }

    /// Waits until packets pass between the two ends.
    pub fn wait_up(&self) {
        for (side, device) in [(Side::Sender, SRC), (Side::Receiver, DST)] {
            wait_until("the link", || {
                (self.link(side, device)["operstate"] == "UP").then_some(())
            });
        }
    }

    /// What `ip` knows of an interface.
    pub fn link(&self, side: Side, device: &str) -> Value {
        let netns = self.netns(side);
        let words = ["-n", &netns, "-j", "-s", "link", "show", "dev", device];
        let done = run(Command::new("ip").args(words));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        serde_json::from_slice::<Value>(&done.stdout).unwrap()[0].take()
    }

    /// Packets the receiver's interface had to leave: the backlog of the core was full.
    pub fn rx_dropped(&self) -> u64 {
        let link = self.link(Side::Receiver, DST);
        link["stats64"]["rx"]["dropped"].as_u64().unwrap()
    }

    /// Runs `work` on a thread in a namespace. Sockets opened there stay there.
    pub fn inside<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> T {
        let netns = std::fs::File::open(Path::new("/run/netns").join(self.netns(side))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            match thread.join() {
                Ok(answer) => answer,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A UDP socket in a namespace.
    pub fn udp(&self, side: Side, bind: &str) -> UdpSocket {
        self.inside(side, || UdpSocket::bind(bind).unwrap())
    }

    /// What sends whole Ethernet frames from the sender's interface.
    pub fn raw(&self, device: &str) -> RawSender {
        self.inside(Side::Sender, || {
            let address = nix::ifaddrs::getifaddrs().unwrap();
            let mut address = address.filter(|entry| entry.interface_name == device);
            let address = address.find_map(|entry| entry.address?.as_link_addr().copied());
            let protocol = Some(Protocol::from(0));
            RawSender {
                socket: Socket::new(Domain::PACKET, Type::RAW, protocol).unwrap(),
                address: address.unwrap(),
            }
        })
    }

    /// A counter of /proc/net/snmp in the receiver's namespace.
    pub fn snmp(&self, layer: &str, counter: &str) -> u64 {
        let text = self.inside(Side::Receiver, || {
            std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap()
        });
        let mut lines = text.lines().filter(|line| line.starts_with(layer));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut pairs = names.split(' ').zip(values.split(' '));
        let (_, value) = pairs.find(|(name, _)| *name == counter).unwrap();
        value.parse().unwrap()
    }

    /// The tables of nftables in the receiver's namespace.
    pub fn nft_tables(&self) -> String {
        let done = run(&mut self.command(Side::Receiver, &["nft", "list", "tables"]));
        String::from_utf8(done.stdout).unwrap()
    }

    /// Runs `vxtap send --generate` in the sender's namespace and tells what it says of it.
    #[track_caller]
    pub fn generate(&self, to: &str, words: &str) -> Sent {
        let mut command = self.generator(to, words);
        let done = run(&mut command);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        Sent::of(&done)
    }

    /// `vxtap send --generate`, not yet started. Packets the system had no room for are counted, not
    /// tried again: those that the other end of the pair could not take were counted there as well.
    pub fn generator(&self, to: &str, words: &str) -> Command {
        let mut command = self.command(Side::Sender, &[VXTAP, "send", "--generate", "--no-retry"]);
        command.args(["--to", to, "--summary", "-"]);
        command.args(words.split_whitespace());
        command
    }

    /// Starts `vxtap listen` in the receiver's namespace and waits until it listens.
    #[track_caller]
    pub fn listen(&self, backend: &str, words: &str) -> Listener {
        self.listen_with(&[], &["--backend", backend], words)
    }

    /// The same through `before`, a program that ends in another.
    #[track_caller]
    pub fn listen_with(&self, before: &[&str], args: &[&str], words: &str) -> Listener {
        let mut listener = self.start(before, args, words);
        listener.wait_said("listening on ");
        listener
    }

    /// The same, not waited for.
    pub fn start(&self, before: &[&str], args: &[&str], words: &str) -> Listener {
        let (command, dir) = self.listen_command(before, args, words);
        Listener::start(command, dir)
    }

    /// `vxtap listen`, not yet started, and the folder of its outputs: capture, flow records and summary
    /// where `words` do not name others.
    pub fn listen_command(
        &self,
        before: &[&str],
        args: &[&str],
        words: &str,
    ) -> (Command, TempDir) {
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut all = [before, &[VXTAP, "listen"], args, &words].concat();
        if !all.contains(&"--bind") {
            all.extend(["--bind", TO_V4]);
        }
        let dir = tempfile::tempdir().unwrap();
        let mut command = self.command(Side::Receiver, &all);
        let outputs = [
            ("--summary", "out.json"),
            ("-w", "out.pcapng"),
            ("--flows", "out.jsonl"),
        ];
        for (flag, name) in outputs {
            if !all.contains(&flag) {
                command.arg(flag).arg(dir.path().join(name));
            }
        }
        (command, dir)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for side in [Side::Sender, Side::Receiver] {
            let _ = run(Command::new("ip").args(["netns", "del", &self.netns(side)]));
        }
    }
}

/// What a generator says it did.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Packets made: sent, or refused by the interface and counted by the other end.
    pub tried: u64,
    /// Packets the system took.
    pub sent: u64,
}

impl Sent {
    /// From the generator's summary on standard output.
    pub fn of(done: &Run) -> Self {
        let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
        let number = |name: &str| summary[name].as_u64().unwrap();
        Self {
            tried: number("sent") + number("unsent"),
            sent: number("sent"),
        }
    }
}

/// Sends Ethernet frames as they are.
pub struct RawSender {
    socket: Socket,
    address: LinkAddr,
}

impl RawSender {
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        let fd = self.socket.as_raw_fd();
        let sent = sendto(fd, frame, &self.address, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()));
    }
}

/// A running `vxtap listen`.
pub struct Listener {
    child: Running,
    said: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    pub dir: TempDir,
    /// What it said before it listened.
    pub begin: String,
}

impl Listener {
    pub fn start(mut command: Command, dir: TempDir) -> Self {
        // Standard output stays what it was set to; nobody reads it here.
        let mut child = Running::start(command.stderr(Stdio::piped()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines() {
                let mut said = into.lock().unwrap();
                said.push_str(&line.unwrap_or_default());
                said.push('\n');
            }
        });
        Self {
            child,
            said,
            reader: Some(reader),
            dir,
            begin: String::new(),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this, a whole line of it.
    #[track_caller]
    pub fn wait_said(&mut self, words: &str) {
        wait_until(words, || {
            let said = self.said();
            if said.contains(words) {
                self.begin = said;
                return Some(());
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}) and said: {said}");
            None
        });
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(id, signal).unwrap();
    }

    /// Stops it, and comes back when it stands still.
    pub fn halt(&self) {
        self.signal(Signal::SIGSTOP);
        wait_stopped(self.child.id());
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Asks for a page.
    pub fn page(&mut self) -> Page {
        let before = self.said().len();
        self.signal(Signal::SIGUSR1);
        let text = wait_until("a page", || {
            let said = self.said();
            let text = said.get(before..).unwrap();
            if text.contains("vxtap: going on\n") {
                return Some(text.to_owned());
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}) and said: {said}");
            None
        });
        let before = |words: &str| -> u64 {
            let line = text.lines().find(|line| line.contains(words));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.map_or(0, |number| number.parse().unwrap())
        };
        Page {
            received: before(" received = "),
            lost: before(" lost in the kernel "),
            left_out: before(" left out in the kernel"),
            capture_queue: before(" dropped: queue "),
            text,
        }
    }

    /// Asks until so many packets were received, or are known to be lost or left out.
    #[track_caller]
    pub fn wait_for(&mut self, packets: u64) -> Page {
        wait_until("packets to be received or known as lost", || {
            let page = self.page();
            (page.received + page.lost + page.left_out >= packets).then_some(page)
        })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to end and waits.
    #[track_caller]
    pub fn end(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let status: ExitStatus = wait_until("the end", || self.child.try_wait().unwrap());
        self.reader.take().unwrap().join().unwrap();
        let path = |name: &str| self.dir.path().join(name);
        let summary = std::fs::read(path("out.json"));
        let flows = std::fs::read_to_string(path("out.jsonl"));
        Ended {
            code: status.code(),
            said: self.said(),
            summary: summary.map_or(Value::Null, |json| serde_json::from_slice(&json).unwrap()),
            flows: flows.map_or_else(|_| Vec::new(), |lines| json_lines(&lines)),
            capture: path("out.pcapng"),
            dir: std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()),
        }
    }

    /// Kills it.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the listener said: {}", self.said());
        }
    }
}

/// Waits until a process that was told to stop stands still.
pub fn wait_stopped(id: u32) {
    wait_until("a stopped process", || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        rest.trim_start().starts_with('T').then_some(())
    });
}

/// A page of a run that goes on.
pub struct Page {
    pub received: u64,
    /// Lost in the kernel.
    pub lost: u64,
    /// Left out by the kernel because of their source.
    pub left_out: u64,
    /// Dropped because the capture queue was full.
    pub capture_queue: u64,
    pub text: String,
}

/// A run that has ended.
pub struct Ended {
    pub code: Option<i32>,
    pub said: String,
    pub summary: Value,
    pub flows: Vec<Value>,
    pub capture: PathBuf,
    pub dir: TempDir,
}

impl Ended {
    /// A number of the summary.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        let number = self.summary[name].as_u64();
        number.unwrap_or_else(|| panic!("no {name} in {}: {}", self.summary, self.said))
    }

    /// The counter of one reason, 0 where it counted nothing.
    pub fn reason(&self, kind: &str, reason: &str) -> u64 {
        let counted = reasons(&self.summary, kind);
        counted.get(reason).copied().unwrap_or_default()
    }

    /// Everything lost in the kernel.
    pub fn kernel_dropped(&self) -> u64 {
        reasons(&self.summary, "kernel_dropped").values().sum()
    }

    /// The account of the first sink of a kind.
    #[track_caller]
    pub fn sink(&self, kind: &str) -> &Value {
        let mut sinks = self.summary["sinks"].as_array().unwrap().iter();
        let sink = sinks.find(|sink| sink["kind"] == kind);
        sink.unwrap_or_else(|| panic!("no {kind} in {}: {}", self.summary, self.said))
    }

    /// What is missing in it for a reason, 0 where it counted nothing.
    #[track_caller]
    pub fn missing(&self, kind: &str, reason: &str) -> u64 {
        self.sink(kind)["dropped"][reason]
            .as_u64()
            .unwrap_or_default()
    }

    /// It ended well and its ledger closes.
    #[track_caller]
    pub fn assert_well(&self) {
        assert_eq!(self.code, Some(0), "{}", self.said);
        assert!(!self.said.contains("panicked"), "{}", self.said);
        super::assert_closes(&self.summary);
    }

    /// Packets in the capture as the summary has it.
    pub fn packets(&self) -> u64 {
        self.sink("capture")["written"].as_u64().unwrap()
    }

    /// The capture holds as many packets as the summary says, in time order, in the eyes of its peers as well.
    #[track_caller]
    pub fn assert_capture(&self, capture: &Path) {
        let frames = super::frames(&std::fs::read(capture).unwrap());
        assert_eq!(frames.len() as u64, self.packets(), "{}", self.summary);
        let is_sorted = super::assert_time_order(&frames, &self.summary);
        if super::tool("capinfos") {
            let words = ["-c", "-o", "-M", "-T", "-r"];
            let done = run(Command::new("capinfos").args(words).arg(capture));
            assert_eq!(done.code, Some(0), "{}", done.stderr);
            assert_eq!(super::complaints(&done.stderr), "");
            let row = String::from_utf8(done.stdout).unwrap();
            let mut columns = row.split_whitespace().rev();
            let strict = if is_sorted { "True" } else { "False" };
            assert_eq!(columns.next(), Some(strict), "capinfos: {row}");
            let packets = columns.next().unwrap();
            assert_eq!(packets, self.packets().to_string(), "capinfos: {row}");
        }
    }

    /// Packets in all flow records.
    pub fn packets_in_flows(&self) -> u64 {
        self.flows.iter().map(super::flow_packets).sum()
    }
}

/// A VXLAN datagram of `vni` around an Ethernet frame of at least 60 bytes: UDP between ports 9, its
/// payload begins with `number`.
pub fn datagram(vni: u32, number: u64, frame_len: usize) -> Vec<u8> {
    let [_, vni @ ..] = vni.to_be_bytes();
    let mut payload = vec![8, 0, 0, 0];
    payload.extend(vni);
    payload.push(0);
    payload.extend([2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 8, 0]);
    let ip_len = u16::try_from(frame_len - 14).unwrap();
    payload.extend([0x45, 0]);
    payload.extend(ip_len.to_be_bytes());
    payload.extend([
        0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 9, 0, 9,
    ]);
    payload.extend((ip_len - 20).to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(number.to_be_bytes());
    payload.resize(8 + frame_len, number as u8);
    payload
}

/// An Ethernet frame to the receiver around an IPv4 packet with `options` (a multiple of 4 bytes) and UDP
/// from port 50000. `tags` stand between the addresses and the type.
pub fn outer_v4(to: SocketAddr, tags: &[[u8; 4]], options: &[u8], payload: &[u8]) -> Vec<u8> {
    let SocketAddr::V4(to) = to else {
        panic!("{to} is not IPv4")
    };
    let udp_len = 8 + payload.len();
    let header_len = 20 + options.len();
    let mut ip = vec![0x40 | (header_len / 4) as u8, 0];
    ip.extend(((header_len + udp_len) as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 1]);
    ip.extend(to.ip().octets());
    ip.extend(options);
    let sum: u32 = ip
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [DST_MAC, SRC_MAC].concat();
    frame.extend(tags.concat());
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend(50_000u16.to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend((udp_len as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}
