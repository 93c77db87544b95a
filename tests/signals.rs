//! What signals do: the run ends in good order from wherever it stands, a second one ends it at once, SIGUSR1
//! asks for the summary so far and ends nothing.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test measures how long it took"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Running, VXTAP, assert_closes, frames, json_lines, testdata, vxtap_command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const ENDING: [(Signal, &str, i32); 3] = [
    (Signal::SIGINT, "SIGINT", 130),
    (Signal::SIGTERM, "SIGTERM", 143),
    (Signal::SIGHUP, "SIGHUP", 129),
];
/// More than any end may take.
const SOON: Duration = Duration::from_secs(20);

/// A program whose standard error is read as it comes.
struct Heard {
    child: Running,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Heard {
    fn start(command: &mut Command) -> Self {
        let mut child = Running::start(command.stderr(Stdio::piped()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = String::new();
        Self {
            child,
            stderr,
            said,
        }
    }

    /// Waits for a line with `text` in it.
    #[track_caller]
    fn wait_said(&mut self, text: &str) {
        loop {
            let from = self.said.len();
            let len = self.stderr.read_line(&mut self.said).unwrap();
            assert!(len > 0, "it ended and said {}", self.said);
            if self.said[from..].contains(text) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Its exit code, and all it said.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < SOON, "it does not end: {}", self.said);
            std::thread::sleep(Duration::from_millis(2));
        }
        self.stderr.read_to_string(&mut self.said).unwrap();
        (self.child.wait().unwrap().code(), self.said)
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The demo capture up to the end of its record number `records`, and the bytes behind.
fn demo_cut(records: usize) -> (Vec<u8>, Vec<u8>) {
    let mut head = std::fs::read(testdata("demo.pcap")).unwrap();
    let mut at = 24;
    for _ in 0..records {
        at += 16 + u32::from_le_bytes(head[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    let tail = head.split_off(at);
    (head, tail)
}

/// `replay -` with every output in `dir`.
fn replay_stdin(dir: &Path, more: &[&str]) -> Command {
    let mut command = vxtap_command(["replay", "-"]);
    command.arg("-w").arg(dir.join("c.pcapng"));
    command.arg("--flows").arg(dir.join("f.jsonl"));
    command.arg("--summary").arg(dir.join("s.json"));
    command.args(more).stdin(Stdio::piped());
    command
}

/// The replay answers when `received` packets have been read.
fn wait_received(replay: &mut Heard, received: u64) {
    let wanted = format!("{received} received = ");
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < SOON, "{}", replay.said);
        // At first it may not even be loaded.
        std::thread::sleep(Duration::from_millis(300));
        replay.signal(Signal::SIGUSR1);
        let from = replay.said.len();
        replay.wait_said("vxtap: ");
        if replay.said[from..].contains("so far") {
            replay.wait_said("vxtap: going on");
        }
        if replay.said[from..].contains(&wanted) {
            return;
        }
    }
}

/// A signal finds the replay waiting for a pipe, also in the middle of a record: what was read is written whole.
#[test]
fn a_replay_that_is_stopped_keeps_what_it_read() {
    for (signal, name, _) in ENDING {
        for workers in ["1", "3"] {
            let dir = tempfile::tempdir().unwrap();
            let mut replay = Heard::start(&mut replay_stdin(dir.path(), &["--workers", workers]));
            let mut stdin = replay.child.stdin.take().unwrap();
            let (head, tail) = demo_cut(60);
            stdin.write_all(&head).unwrap();
            stdin.write_all(&tail[..20]).unwrap();
            wait_received(&mut replay, 60);
            replay.signal(signal);
            let (code, said) = replay.end();
            assert_eq!(code, Some(1), "{said}");
            let told = format!("stopped by {name} after 60 packets of standard input");
            assert!(said.contains(&told), "{said}");
            let summary = json(&dir.path().join("s.json"));
            assert_closes(&summary);
            assert_eq!(summary["received"], 60);
            assert_eq!(summary["errors"][0], told);
            let capture = std::fs::read(dir.path().join("c.pcapng")).unwrap();
            let delivered = summary["delivered"].as_u64().unwrap();
            assert_eq!(frames(&capture).len() as u64, delivered);
            let flows = std::fs::read_to_string(dir.path().join("f.jsonl")).unwrap();
            assert!(json_lines(&flows).len() > 3);
            let left = std::fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(left, 3, "no .part is left");
            drop(stdin);
        }
    }
}

/// Before a single byte has come, and before anybody writes to a FIFO.
#[test]
fn a_replay_that_waits_for_its_first_byte_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let mut of_fifo = vxtap_command(["replay"]);
    of_fifo
        .arg(&fifo)
        .arg("-w")
        .arg(dir.path().join("c.pcapng"));
    for command in [&mut replay_stdin(dir.path(), &[]), &mut of_fifo] {
        let is_fifo = command.get_args().any(|arg| arg == fifo.as_os_str());
        let mut replay = Heard::start(command);
        if is_fifo {
            replay.wait_said("/fifo yet: waiting for somebody to write to it");
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
        replay.signal(Signal::SIGUSR1);
        replay.wait_said("no thread answered");
        replay.signal(Signal::SIGTERM);
        let (code, said) = replay.end();
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("stopped by SIGTERM after 0 packets of"),
            "{said}"
        );
    }
}

/// An output that is a FIFO waits for its reader; that is told, and a signal ends it.
#[test]
fn a_run_that_waits_for_a_reader_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let demo = testdata("demo.pcap");
    let demo = demo.to_str().unwrap();
    let listen = ["listen", "--backend", "udp", "--bind", "127.0.0.1:0"];
    for (command, flag, signal) in [
        (&["replay", demo][..], "-w", Signal::SIGTERM),
        (&["replay", demo], "--flows", Signal::SIGINT),
        (&["send", demo], "--write", Signal::SIGHUP),
        (&listen, "-w", Signal::SIGINT),
        (&listen, "--flows", Signal::SIGTERM),
    ] {
        let mut waits = Heard::start(vxtap_command(command).arg(flag).arg(&fifo));
        waits.wait_said("/fifo is a FIFO that nobody reads yet: waiting for a reader");
        waits.signal(signal);
        let (code, said) = waits.end();
        assert_eq!(code, Some(1), "{said}");
        let told = "/fifo: nobody opened this FIFO for reading before the run was told to end";
        assert!(said.contains(told), "{said}");
    }
}

/// The last line and the summary come, whatever the sender was waiting for.
#[test]
fn a_sender_that_is_stopped_tells_what_it_sent() {
    let demo = testdata("demo.pcap");
    let demo = demo.to_str().unwrap();
    let generate = ["--generate", "--pps", "500", "--duration", "1h"];
    let every_hour = [demo, "--pps", "0.0003"];
    let from_pipe = ["-"];
    for (args, frames) in [
        (&generate[..], None),
        (&every_hour[..], Some(2)),
        (&from_pipe[..], Some(0)),
    ] {
        // One for each: what is left of the sender before would pass for the first datagram of the next.
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = sink.local_addr().unwrap().to_string();
        let dir = tempfile::tempdir().unwrap();
        let summary = dir.path().join("s.json");
        let mut command = vxtap_command(["send", "--to", &to]);
        command.args(args).arg("--summary").arg(&summary);
        let mut send = Heard::start(command.stdin(Stdio::piped()));
        let _stdin = send.child.stdin.take().unwrap();
        if frames == Some(0) {
            // Nothing is seen from outside; it has surely taken its signals by then.
            std::thread::sleep(Duration::from_secs(1));
        } else {
            sink.recv(&mut [0; 2000]).unwrap();
        }
        send.signal(Signal::SIGINT);
        let (code, said) = send.end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("vxtap: frames: "), "{said}");
        assert!(
            said.contains("stopped by SIGINT before everything was sent"),
            "{said}"
        );
        let summary = json(&summary);
        let sent = summary["sent"].as_u64().unwrap();
        match frames {
            Some(frames) => assert!(sent <= frames, "{summary}"),
            None => assert!(sent > 0, "{summary}"),
        }
    }
}

fn listen(dir: &Path) -> Command {
    let mut command = vxtap_command(["listen", "--backend", "udp", "--bind", "127.0.0.1:0"]);
    command.arg("-w").arg(dir.join("c.pcapng"));
    command.arg("--summary").arg(dir.join("s.json"));
    command
}

#[test]
fn a_listener_ends_in_good_order_whatever_closes_its_session() {
    // The last is what a session's end does, the one before what a shell's end does.
    let hangup = &[Signal::SIGHUP][..];
    let twice = &[Signal::SIGHUP, Signal::SIGHUP];
    let session = &[Signal::SIGTERM, Signal::SIGHUP];
    for signals in [hangup, twice, session] {
        let dir = tempfile::tempdir().unwrap();
        let mut listener = Heard::start(&mut listen(dir.path()));
        listener.wait_said("listening on");
        signals.iter().for_each(|signal| listener.signal(*signal));
        let (code, said) = listener.end();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(json(&dir.path().join("s.json"))["received"], 0);
        assert!(dir.path().join("c.pcapng").exists());
    }
}

/// As after nohup, and as in a shell script that ignores it.
#[test]
fn an_ignored_hangup_stays_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    let script = "trap '' HUP; exec \"$0\" listen --backend udp --bind 127.0.0.1:0 -w \"$1\"";
    shell
        .args(["-c", script, VXTAP])
        .arg(dir.path().join("c.pcap"));
    let mut listener = Heard::start(&mut shell);
    listener.wait_said("listening on");
    listener.signal(Signal::SIGHUP);
    listener.signal(Signal::SIGUSR1);
    listener.wait_said("vxtap: ");
    listener.signal(Signal::SIGINT);
    let (code, said) = listener.end();
    assert_eq!(code, Some(0), "{said}");
}

/// The first signal asks for an end that does not come: standard output takes nothing.
#[test]
fn a_second_signal_ends_at_once() {
    for (signal, _, code) in ENDING {
        let mut command = vxtap_command(["replay", "-", "-w", "-", "--plain"]);
        let mut replay = Heard::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut stdin = replay.child.stdin.take().unwrap();
        // More than both pipes and all queues hold.
        let mut input = demo_cut(0).0;
        let (_, records) = demo_cut(0);
        while input.len() < 16 << 20 {
            input.extend_from_slice(&records);
        }
        let feeding = std::thread::spawn(move || _ = stdin.write_all(&input));
        std::thread::sleep(Duration::from_millis(500));
        replay.signal(Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(700));
        replay.signal(signal);
        let begun = Instant::now();
        let (ended, said) = replay.end();
        assert_eq!(ended, Some(code), "{said}");
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        feeding.join().unwrap();
    }
}

/// It waits for the reader of an output, and has nothing to tell: the signal does it no harm.
#[test]
fn a_run_that_is_not_ready_survives_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let mut command = vxtap_command(["listen", "--backend", "udp", "--bind", "127.0.0.1:0"]);
    let mut listener = Heard::start(command.arg("-w").arg(&fifo));
    std::thread::sleep(Duration::from_millis(200));
    listener.signal(Signal::SIGUSR1);
    listener.wait_said("nothing to tell yet");
    let reader = std::thread::spawn(move || std::fs::read(fifo).unwrap());
    listener.wait_said("listening on");
    listener.signal(Signal::SIGTERM);
    let (code, said) = listener.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(frames(&reader.join().unwrap()).is_empty());
}

/// A file that may not grow (ulimit -f) is a write that fails, not the end of the process.
#[test]
fn a_file_too_large_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    let script = "ulimit -f 80; exec \"$0\" send --generate --count 500 --frame-size 1000 --write \"$1/w.pcap\"";
    shell.args(["-c", script, VXTAP]).arg(dir.path());
    let (code, said) = Heard::start(&mut shell).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
    // Whole packets of 16 + 50 + 1000 bytes behind a header of 24, in blocks of 512 or 1024.
    let len = std::fs::metadata(dir.path().join("w.pcap")).unwrap().len();
    assert_eq!((len - 24) % 1066, 0, "{len}");
    let packets = (len - 24) / 1066;
    assert!(packets > 30, "{packets}");
    let told = format!("vxtap: {packets} packets are whole in ");
    assert!(said.contains(&told), "{said}");
    assert!(said.contains("w.pcap; the others are missing"), "{said}");

    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    let script =
        "ulimit -f 20; exec \"$0\" replay \"$1\" -w \"$2/c.pcapng\" --summary \"$2/s.json\"";
    shell
        .args(["-c", script, VXTAP])
        .arg(testdata("demo.pcap"))
        .arg(dir.path());
    let (code, said) = Heard::start(&mut shell).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
    assert_closes(&json(&dir.path().join("s.json")));
}
