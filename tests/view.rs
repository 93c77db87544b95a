//! Live views: who connects to a tee sees packets from then on, and a slow viewer takes nothing from anybody else.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{
    Running, assert_closes, drain, frames, opens_with, reasons, run, testdata, tool, tshark,
    tshark_captures, vxtap, vxtap_command,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// Longer than anything here should take.
const LONG: Duration = Duration::from_secs(60);
/// Times that something is tried again, with a pause that only spares the machine.
const TRIES: usize = 3000;
const PAUSE: Duration = Duration::from_millis(20);

/// A run with a tee on a port of the system's choice, killed when it is dropped.
struct Live {
    dir: TempDir,
    child: Running,
    said: BufReader<ChildStderr>,
    text: String,
    /// Where mirrored traffic goes to; the tee's own where nothing is received.
    target: SocketAddr,
    tee: SocketAddr,
}

impl Live {
    /// Starts `listen` with `args`, in which `DIR/` is a folder of its own.
    fn listen(args: &[&str]) -> Self {
        let listen = ["listen", "--backend", "udp", "--bind", "127.0.0.1:0"];
        let mut live = Self::start(&[&listen[..], &["--workers", "1"], args].concat());
        let line = live.hear("listening on ");
        live.target = between(&line, "listening on ", ";").parse().unwrap();
        live
    }

    /// Starts a run with a tee, and hears where that is if there is one.
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = format!("{}/", dir.path().display());
        let args = args.iter().map(|arg| arg.replace("DIR/", &folder));
        let args: Vec<String> = args.collect();
        let has_tee = args.iter().any(|arg| arg == "--tee");
        let mut command = vxtap_command(&args);
        command.args(["--summary"]).arg(dir.path().join("s.json"));
        let mut child = Running::start(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let mut live = Self {
            said: BufReader::new(child.stderr.take().unwrap()),
            dir,
            child,
            text: String::new(),
            target: SocketAddr::from(([127, 0, 0, 1], 0)),
            tee: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        if has_tee {
            let line = live.hear("live view on tcp://");
            live.tee = between(&line, "tcp://", ": wireshark").parse().unwrap();
        }
        live
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Reads what it says up to a line with `part`.
    fn hear(&mut self, part: &str) -> String {
        loop {
            let before = self.text.len();
            self.said.read_line(&mut self.text).unwrap();
            let line = &self.text[before..];
            assert!(!line.is_empty(), "never {part:?}: {}", self.text);
            if line.contains(part) {
                return line.to_owned();
            }
        }
    }

    /// Sends a frame of the mirror session `vni`, with this number in it.
    fn send(&self, vni: u8, number: u8) {
        let mut payload = vec![8, 0, 0, 0, 0, 0, vni, 0];
        payload.extend_from_slice(b"\x02\x11\x22\x33\x44\x55\x02\x66\x77\x88\x99\x11\x08\0");
        payload.extend_from_slice(b"\x45\0\0\x1c\0\0\0\0\x40\x11\0\0\x0a\x01\x02");
        payload.push(number);
        payload.extend_from_slice(b"\xc0\xa8\x02\x02\x30\x39\0\x35\0\x08\0\0");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&payload, self.target).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end: exit code, all it said, its summary.
    fn wait(mut self) -> Ended {
        let mut text = std::mem::take(&mut self.text);
        self.said.read_to_string(&mut text).unwrap();
        let code = self.child.wait().unwrap().code();
        let summary = fs::read(self.path("s.json")).unwrap();
        let summary = serde_json::from_slice(&summary).unwrap();
        assert_closes(&summary);
        Ended {
            code,
            text,
            summary,
            dir: self.dir,
        }
    }

    fn end(self) -> Ended {
        self.signal(Signal::SIGINT);
        self.wait()
    }
}

struct Ended {
    code: Option<i32>,
    text: String,
    summary: Value,
    dir: TempDir,
}

impl Ended {
    fn sink(&self, kind: &str) -> &Value {
        let sinks = self.summary["sinks"].as_array().unwrap();
        let mut of_kind = sinks.iter().filter(|sink| sink["kind"] == kind);
        of_kind
            .next()
            .unwrap_or_else(|| panic!("no {kind}: {}", self.summary))
    }

    /// Frames in the capture file, or in each of those of the store.
    fn frames_written(&self) -> Vec<u64> {
        let dir = self.dir.path();
        let files = fs::read_dir(dir.join("store")).or_else(|_| fs::read_dir(dir));
        let files = files.unwrap().map(|file| file.unwrap().path());
        let captures = files.filter(|path| path.extension().is_some_and(|ext| ext == "pcapng"));
        let frames = captures.map(|path| frames(&fs::read(path).unwrap()).len() as u64);
        frames.collect()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).unwrap()
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap();
    rest.split_once(to).unwrap().0
}

/// A viewer, reading what comes.
struct Viewer {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Viewer {
    /// Connects, and waits for the header: it sees every packet from now on.
    fn of(tee: SocketAddr) -> Self {
        Self::on(TcpStream::connect(tee).unwrap())
    }

    fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut viewer = Self {
            stream,
            bytes: Vec::new(),
        };
        while viewer.bytes.len() < 28 {
            assert!(viewer.read(), "no section header");
        }
        viewer
    }

    /// Reads some; `false` at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 1 << 16];
        let len = self.stream.read(&mut buffer).unwrap();
        self.bytes.extend_from_slice(&buffer[..len]);
        len > 0
    }

    /// Reads until so many packets are there.
    fn wait_for(&mut self, packets: usize) {
        while epbs(&self.bytes).len() < packets {
            assert!(self.read(), "the end came before packet {packets}");
        }
    }

    fn all(mut self) -> Vec<u8> {
        while self.read() {}
        self.bytes
    }
}

/// The whole packet blocks in a stream that goes on.
fn epbs(pcapng: &[u8]) -> Vec<&[u8]> {
    let blocks = blocks(pcapng).into_iter();
    blocks.filter(|block| block[..4] == [6, 0, 0, 0]).collect()
}

/// The whole blocks in a stream that goes on.
fn blocks(pcapng: &[u8]) -> Vec<&[u8]> {
    let mut rest = pcapng;
    let mut blocks = Vec::new();
    while rest.len() >= 8 {
        let len = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        assert!(len >= 12, "no block");
        let Some((block, behind)) = rest.split_at_checked(len) else {
            break;
        };
        blocks.push(block);
        rest = behind;
    }
    blocks
}

/// The numbers of the frames in a capture, and their interfaces.
fn numbers(pcapng: &[u8]) -> Vec<(u8, String)> {
    let frames = frames(pcapng).into_iter();
    frames
        .map(|frame| (frame.bytes[29], frame.interface))
        .collect()
}

fn of_vni(number: u8, vni: u8) -> (u8, String) {
    (number, format!("vni{vni}@127.0.0.1"))
}

#[test]
fn viewers_see_packets_from_then_on_and_whole_sections() {
    let live = Live::listen(&["--tee", "tcp://127.0.0.1:0", "-w", "DIR/out.pcapng"]);
    let mut early = Viewer::of(live.tee);
    live.send(5, 1);
    early.wait_for(1);
    live.send(6, 2);
    early.wait_for(2);
    let mut late = Viewer::of(live.tee);
    live.send(6, 3);
    early.wait_for(3);
    late.wait_for(1);
    let ended = live.end();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let (early, late) = (early.all(), late.all());
    let all = [of_vni(1, 5), of_vni(2, 6), of_vni(3, 6)];
    assert_eq!(numbers(&early), all);
    assert_eq!(numbers(&late), all[2..]);
    assert_eq!(numbers(&ended.file("out.pcapng")), all);
    let view = ended.sink("view");
    assert_eq!(view["viewers"], 2, "{view}");
    assert_eq!(view["offered"], 4, "{view}");
    assert_eq!(view["written"], 4, "{view}");
    assert_eq!(view["bytes"], (early.len() + late.len()) as u64);
    assert!(!ended.text.contains(" left"), "{}", ended.text);
}

/// Without a file the tee alone keeps the run going.
#[test]
fn a_tee_alone() {
    let mut live = Live::listen(&["--tee", "tcp://:0", "--tee", "tcp://[::1]:0"]);
    let mut viewer = Viewer::of(live.tee);
    live.send(1, 2);
    viewer.wait_for(1);
    live.signal(Signal::SIGUSR1);
    live.hear("Outputs");
    assert!(
        live.hear("tcp://127.0.0.1:")
            .contains("1 packet for 1 viewer")
    );
    assert!(
        live.hear("tcp://[::1]:")
            .contains("0 packets for 0 viewers")
    );
    let ended = live.end();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert_eq!(numbers(&viewer.all()), [of_vni(2, 1)]);
    assert_eq!(ended.summary["delivered"], 1);
    let sinks = ended.summary["sinks"].as_array().unwrap();
    let told: Vec<_> = sinks
        .iter()
        .map(|sink| (sink["kind"].as_str().unwrap(), &sink["offered"]))
        .collect();
    assert_eq!(told, [("view", &1.into()), ("view", &0.into())]);
}

/// A viewer that takes nothing loses packets, and nobody else does. It is told how many when it goes on.
#[test]
fn a_slow_viewer_loses_and_is_told() {
    slow_viewer(&["-w", "DIR/out.pcapng"]);
}

/// The same while files of a store rotate a score of times.
#[test]
fn a_slow_viewer_of_a_store_that_rotates() {
    slow_viewer(&["-w", "DIR/store/", "--rotate-packets", "1000"]);
}

fn slow_viewer(write: &[&str]) {
    let flags = ["--tee", "tcp://127.0.0.1:0", "--fail-on-loss"];
    let live = Live::listen(&[&flags[..], write].concat());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // So that the kernel holds little for it.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&live.tee.into()).unwrap();
    let slow = Viewer::on(socket.into());
    let mut quick = Viewer::of(live.tee);
    let (seen, seen_rx) = channel();
    std::thread::spawn(move || {
        while quick.read() {}
        seen.send(quick.bytes).unwrap();
    });
    // More than may wait in vxtap and in the kernel, as long as most of it arrives.
    let to = live.target.to_string();
    let sent = vxtap([
        "send",
        "--generate",
        "--to",
        &to,
        "--count",
        "16000",
        "--frame-size",
        "1400",
        "--pps",
        "16000",
        "--vni",
        "7",
    ]);
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    // It goes on, and sees a packet that tells of losses.
    let told = until_told(&live, slow);
    let ended = live.end();
    let (slow, quick): (Vec<u8>, Vec<u8>) = (told.recv().unwrap(), seen_rx.recv().unwrap());
    let delivered = ended.summary["delivered"].as_u64().unwrap();
    let capture = ended.sink("capture");
    assert_eq!(capture["written"], delivered, "{capture}");
    let written = ended.frames_written();
    assert_eq!(written.iter().sum::<u64>(), delivered);
    if write.contains(&"--rotate-packets") {
        assert_eq!(written.len() as u64, delivered.div_ceil(1000));
    }
    let view = ended.sink("view");
    assert_eq!(view["offered"], 2 * delivered, "{view}");
    let missed: u64 = reasons(view, "dropped").values().sum();
    assert_eq!(reasons(view, "dropped")["queue"], missed, "{view}");
    assert!(missed > 0, "{view}");
    let lost = |pcapng: &[u8]| epbs(pcapng).into_iter().filter_map(drop_count).sum::<u64>();
    assert_eq!(lost(&slow) + lost(&quick), missed);
    for seen in [&slow, &quick] {
        let got = frames(seen).len() as u64;
        assert_eq!(got + lost(seen), delivered);
        assert_eq!((statistic(seen, 8), statistic(seen, 7)), (got, lost(seen)));
    }
    // A viewer's loss is no loss of the run; the kernel may have lost some.
    let kernel = ended.summary["kernel_dropped"].as_object().unwrap();
    let code = if kernel.is_empty() { 0 } else { 3 };
    assert_eq!(ended.code, Some(code), "{}", ended.text);
    if tool("tshark") {
        let path = ended.dir.path().join("slow.pcapng");
        fs::write(&path, &slow).unwrap();
        let filter = ["-Y", "frame.drop_count > 0"];
        let rows = tshark(&path, &["frame.drop_count"], &filter);
        let told = rows.iter().map(|row| row[0].parse::<u64>().unwrap());
        assert_eq!(told.sum::<u64>(), lost(&slow));
    }
}

/// Lets a viewer read on, and sends frames until one of them told it what it missed. Its stream comes at the end.
fn until_told(live: &Live, mut viewer: Viewer) -> Receiver<Vec<u8>> {
    let (done, all) = channel();
    let (told, is_told) = channel();
    std::thread::spawn(move || {
        let (mut is_told, mut seen) = (false, 0);
        while viewer.read() {
            let packets = epbs(&viewer.bytes);
            is_told = is_told
                || packets[seen..]
                    .iter()
                    .any(|block| drop_count(block).is_some());
            seen = packets.len();
            if is_told {
                let _ = told.send(());
            }
        }
        done.send(viewer.bytes).unwrap();
    });
    for _ in 0..TRIES {
        live.send(7, 0);
        if is_told.recv_timeout(PAUSE).is_ok() {
            return all;
        }
    }
    panic!("it was never told of losses");
}

/// `epb_dropcount` of a packet block.
fn drop_count(block: &[u8]) -> Option<u64> {
    let captured = u32::from_le_bytes(block[20..24].try_into().unwrap()) as usize;
    number_in(
        &block[28 + captured.next_multiple_of(4)..block.len() - 4],
        4,
    )
}

/// The sum of a number of all interface statistics.
fn statistic(pcapng: &[u8], code: u16) -> u64 {
    let blocks = blocks(pcapng).into_iter();
    let statistics = blocks.filter(|block| block[..4] == [5, 0, 0, 0]);
    let number = |block: &[u8]| number_in(&block[20..block.len() - 4], code).unwrap();
    statistics.map(number).sum()
}

/// A number of 64 bits among options.
fn number_in(mut options: &[u8], wanted: u16) -> Option<u64> {
    while options.len() >= 4 {
        let code = u16::from_le_bytes(options[..2].try_into().unwrap());
        let len = u16::from_le_bytes(options[2..4].try_into().unwrap()) as usize;
        if code == wanted {
            return Some(u64::from_le_bytes(options[4..12].try_into().unwrap()));
        }
        options = &options[(4 + len.next_multiple_of(4)).min(options.len())..];
    }
    None
}

#[test]
fn a_viewer_that_leaves_is_told_once_and_missed_by_nobody() {
    let mut live = Live::listen(&["--tee", "tcp://127.0.0.1:0", "-w", "DIR/out.pcapng"]);
    let mut stays = Viewer::of(live.tee);
    drop(Viewer::of(live.tee));
    // The first of them may still find the connection open.
    for number in 1..=3 {
        live.send(1, number);
        stays.wait_for(number.into());
    }
    live.hear("left");
    live.send(1, 4);
    stays.wait_for(4);
    let ended = live.end();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert_eq!(ended.text.matches(" left").count(), 1, "{}", ended.text);
    assert_eq!(numbers(&stays.all()).len(), 4);
    assert_eq!(ended.sink("capture")["written"], 4);
}

#[test]
fn there_are_so_many_viewers_and_who_left_makes_room() {
    let mut live = Live::listen(&["--tee", "tcp://127.0.0.1:0"]);
    let mut viewers: Vec<Viewer> = (0..16).map(|_| Viewer::of(live.tee)).collect();
    let mut refused = TcpStream::connect(live.tee).unwrap();
    assert_eq!(refused.read(&mut [0; 28]).unwrap(), 0);
    live.hear("there are 16 viewers");
    // Nothing is sent meanwhile: that it left shows when its place is wanted.
    drop(viewers.pop());
    viewers.push(Viewer::of(live.tee));
    live.send(1, 9);
    for viewer in &mut viewers {
        viewer.wait_for(1);
    }
    let ended = live.end();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let view = ended.sink("view");
    assert_eq!(view["viewers"], 17, "{view}");
    assert_eq!(view["written"], 16, "{view}");
}

/// Who closes his half of the connection, as ncat does without input, still reads.
#[test]
fn a_viewer_that_only_reads() {
    let live = Live::listen(&["--tee", "tcp://127.0.0.1:0"]);
    let mut viewer = Viewer::of(live.tee);
    viewer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    for number in 1..=3 {
        live.send(1, number);
        viewer.wait_for(number.into());
    }
    let ended = live.end();
    assert_eq!(ended.sink("view")["written"], 3);
}

/// A replay begins when there is a viewer, waits for slow ones, and shows what it writes.
#[test]
fn a_replay_waits_for_its_viewer() {
    let demo = testdata("demo.pcap");
    for workers in ["1", "3"] {
        let args = [
            "replay",
            demo.to_str().unwrap(),
            "--workers",
            workers,
            "--tee",
            "tcp://127.0.0.1:0",
            "-w",
            "DIR/out.pcapng",
        ];
        let live = Live::start(&args);
        let viewer = Viewer::of(live.tee);
        let seen = viewer.all();
        let ended = live.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        assert_eq!(frames(&seen), frames(&ended.file("out.pcapng")));
        assert_eq!(ended.sink("view")["written"], ended.summary["delivered"]);
    }
    // Nobody comes: a signal ends the wait.
    let live = Live::start(&["replay", demo.to_str().unwrap(), "--tee", "tcp://:0"]);
    live.signal(Signal::SIGTERM);
    let mut said = String::new();
    let (mut child, mut stderr) = (live.child, live.said);
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(
        said.contains("nobody connected to tcp://127.0.0.1:"),
        "{said}"
    );
}

/// Keys in a pcapng input are in the view too.
#[test]
fn a_view_of_a_replay_has_the_keys_of_its_input() {
    if !tool("editcap") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (keys, input) = (dir.path().join("keys"), dir.path().join("in.pcapng"));
    fs::write(&keys, "CLIENT_RANDOM 00 11\n").unwrap();
    let inject = format!("tls,{}", keys.display());
    let mut editcap = Command::new("editcap");
    editcap.args(["--inject-secrets", &inject]);
    let made = run(editcap.arg(testdata("demo.pcap")).arg(&input));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let input = input.to_str().unwrap();
    let args = [
        "replay",
        input,
        "--tee",
        "tcp://127.0.0.1:0",
        "-w",
        "DIR/out.pcapng",
    ];
    let live = Live::start(&args);
    let seen = Viewer::of(live.tee).all();
    let ended = live.wait();
    let written = ended.file("out.pcapng");
    assert_eq!(frames(&seen), frames(&written));
    let secrets = |pcapng: &[u8]| {
        let blocks = blocks(pcapng).into_iter();
        blocks.filter(|block| block[..4] == [10, 0, 0, 0]).count()
    };
    assert_eq!(secrets(&seen), 1);
    assert_eq!(secrets(&written), 1);
}

/// A stream without a packet is a capture all the same.
#[test]
fn a_view_of_nothing() {
    let live = Live::listen(&["--tee", "tcp://127.0.0.1:0"]);
    let viewer = Viewer::of(live.tee);
    let ended = live.end();
    let seen = viewer.all();
    assert_eq!(frames(&seen), []);
    let path = ended.dir.path().join("seen.pcapng");
    fs::write(&path, seen).unwrap();
    for peer in ["tcpdump", "capinfos"] {
        if tool(peer) {
            opens_with(peer, &path);
        }
    }
}

#[test]
fn tees_that_cannot_be() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp://{}", held.local_addr().unwrap());
    let demo = testdata("demo.pcap");
    let demo = demo.to_str().unwrap();
    for (tee, code, part) in [
        (taken.as_str(), 1, "the port is in use"),
        ("tcp://192.0.2.1:1", 1, "this machine has no such address"),
        ("127.0.0.1:5000", 2, "an address and a port are needed"),
        (
            "tcp://example.com:5000",
            2,
            "an address and a port are needed",
        ),
    ] {
        let run = vxtap(["replay", demo, "--tee", tee]);
        assert_eq!(run.code, Some(code), "{tee}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{tee}: {}", run.stderr);
    }
    let run = vxtap(["replay", demo, "--tee", "tcp://:0", "--format", "pcap"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("--tee shows pcapng"), "{}", run.stderr);
    let mut live = Live::start(&["replay", demo, "--tee", "tcp://0.0.0.0:0"]);
    live.hear("no authentication");
}

/// What a run of pipes comes to when the reader leaves.
#[test]
fn the_reader_of_a_pipe_leaves() {
    for flags in [
        &[][..],
        &["--on-reader-gone", "end"],
        &["--on-reader-gone", "detach"],
    ] {
        for others in [&[][..], &["--flows", "DIR/f.jsonl"]] {
            let dir = tempfile::tempdir().unwrap();
            let fifo = dir.path().join("fifo");
            mkfifo(&fifo, Mode::S_IRWXU).unwrap();
            let fifo = fifo.to_str().unwrap();
            let reader = {
                let fifo = fifo.to_owned();
                std::thread::spawn(move || fs::File::open(fifo).unwrap())
            };
            let mut live = Live::listen(&[&["-w", fifo][..], flags, others].concat());
            drop(reader.join().unwrap());
            // Nothing has come yet that would have to be written.
            live.hear("went away");
            let goes_on = match flags {
                [] => !others.is_empty(),
                flags => flags.contains(&"detach"),
            };
            if goes_on {
                live.send(1, 1);
                live.send(1, 2);
                live.signal(Signal::SIGUSR1);
                live.hear("going on");
            }
            let ended = if goes_on { live.end() } else { live.wait() };
            let about = format!("{flags:?} {others:?}: {}", ended.text);
            assert_eq!(ended.code, Some(0), "{about}");
            if goes_on {
                assert_eq!(ended.summary["delivered"], 2, "{about}");
                let dropped = &ended.sink("capture")["dropped"];
                assert_eq!(dropped["reader_left"], 2, "{about}");
            }
        }
    }
    let run = vxtap(["listen", "--on-reader-gone", "stay"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("one of end, detach"), "{}", run.stderr);
}

/// Wireshark's own reader of pcap-over-IP.
#[test]
fn tshark_shows_live_packets() {
    if !tshark_captures() {
        return;
    }
    let mut live = Live::listen(&["--tee", "tcp://127.0.0.1:0"]);
    let interface = format!("TCP@{}", live.tee);
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-l", "-i", &interface, "-c", "3"])
        .args(["-T", "fields", "-e", "ip.src", "-e", "frame.interface_name"]);
    let mut child = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let (out, said) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (out, said) = (drain(out), drain(said));
    live.hear("views tcp://");
    for number in 0..TRIES {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        live.send(9, (number % 256) as u8);
        std::thread::sleep(PAUSE);
    }
    let status = child.try_wait().unwrap().expect("tshark has ended");
    let said = String::from_utf8(said.join().unwrap()).unwrap();
    assert!(status.success(), "{said}");
    let out = String::from_utf8(out.join().unwrap()).unwrap();
    let rows: Vec<Vec<&str>> = out.lines().map(|row| row.split('\t').collect()).collect();
    assert_eq!(rows.len(), 3, "{out} {said}");
    for row in rows {
        assert!(row[0].starts_with("10.1.2."), "{out}");
        assert_eq!(row[1], "vni9@127.0.0.1");
    }
    assert_eq!(live.end().code, Some(0));
}
