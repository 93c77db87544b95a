//! Runs that are ended at random moments under traffic, by signals that ask and by the one that does not.
//!
//! After SIGINT, SIGTERM and SIGHUP every file is whole under its name, the summary is there and its ledger
//! closes. After SIGKILL every file under a final name is whole. Moments are random, but the same in every
//! run. `VXTAP_KILLS=300 cargo test --test kill` ends 300 runs of each kind; without it there are fewer.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{Running, assert_closes, frames, json_lines, testdata, vxtap_command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Runs of each kind where VXTAP_KILLS does not say how many.
const KILLS: u64 = 15;
/// Latest moment of a signal, in microseconds after the traffic began.
const LATEST_US: u64 = 120_000;

fn kills() -> u64 {
    let wanted = std::env::var("VXTAP_KILLS").ok();
    wanted.map_or(KILLS, |wanted| wanted.parse().unwrap())
}

/// Moments that look random and are the same in every run (splitmix64).
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_micros((z ^ (z >> 31)) % LATEST_US)
    }
}

/// The records of the demo capture, without its header.
fn demo_records() -> Vec<u8> {
    std::fs::read(testdata("demo.pcap")).unwrap()[24..].to_vec()
}

/// The UDP payloads of its records.
fn demo_payloads() -> Vec<Vec<u8>> {
    let records = demo_records();
    let mut rest = &records[..];
    let mut payloads = Vec::new();
    while !rest.is_empty() {
        let len = 16 + u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let packet = &rest[16..len];
        if packet[12..14] == [8, 0] && packet[23] == 17 {
            payloads.push(packet[42..].to_vec());
        }
        rest = &rest[len..];
    }
    payloads
}

/// The outputs of a run.
struct Outputs(tempfile::TempDir);

impl Outputs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn add_to(&self, command: &mut Command) {
        command.arg("-w").arg(self.path("c.pcapng"));
        command.arg("--flows").arg(self.path("f.jsonl"));
        command.arg("--summary").arg(self.path("s.json"));
    }

    /// What stands under a final name is whole, whether or not everything is there.
    fn assert_whole(&self) -> (Option<usize>, Option<usize>, Option<Value>) {
        let read = |name: &str| read(&self.path(name));
        let frames = read("c.pcapng").map(|capture| {
            assert_ends_with_statistics(&capture);
            frames(&capture).len()
        });
        let flows = read("f.jsonl").map(|lines| {
            assert!(lines.is_empty() || lines.ends_with(b"\n"));
            json_lines(std::str::from_utf8(&lines).unwrap()).len()
        });
        let summary = read("s.json").map(|json| {
            let summary = serde_json::from_slice(&json).unwrap();
            assert_closes(&summary);
            summary
        });
        (frames, flows, summary)
    }

    /// Everything is there, and agrees.
    fn assert_complete(&self) {
        let (frames, flows, summary) = self.assert_whole();
        let summary = summary.unwrap();
        for sink in summary["sinks"].as_array().unwrap() {
            assert_eq!(sink["offered"], sink["written"], "{summary}");
        }
        assert_eq!(
            frames.unwrap() as u64,
            summary["delivered"].as_u64().unwrap()
        );
        assert_eq!(flows.unwrap() as u64, summary["flows"].as_u64().unwrap());
        let left = std::fs::read_dir(self.0.path()).unwrap().count();
        assert_eq!(left, 3, "no .part is left");
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    path.exists().then(|| std::fs::read(path).unwrap())
}

/// A capture that was finished ends with a statistics block.
fn assert_ends_with_statistics(capture: &[u8]) {
    const STATISTICS: u32 = 5;
    let (mut at, mut last) = (0, 0);
    while at < capture.len() {
        let word = |at: usize| u32::from_le_bytes(capture[at..at + 4].try_into().unwrap());
        last = word(at);
        at += word(at + 4) as usize;
    }
    assert_eq!(at, capture.len(), "it ends with a whole block");
    assert_eq!(last, STATISTICS, "the type of its last block");
}

fn send_signal(child: &Running, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// A listener under traffic, `signal` at one moment and `then` a little later.
fn end_listen(
    moments: &mut Moments,
    signal: Signal,
    then: Option<Signal>,
) -> (Outputs, Option<i32>) {
    let outputs = Outputs::new();
    let mut command = vxtap_command(["listen", "--backend", "udp", "--bind", "127.0.0.1:0"]);
    outputs.add_to(&mut command);
    let mut child = Running::start(command.stderr(Stdio::piped()));
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let (_, rest) = line.split_once("listening on ").unwrap();
    let to = rest.split_once(';').unwrap().0.to_owned();
    let over = AtomicBool::new(false);
    let payloads = demo_payloads();
    let code = thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            for payload in payloads.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // Once it has ended the port is closed.
                let _ = socket.send_to(payload, &to);
                thread::sleep(Duration::from_micros(20));
            }
        });
        thread::sleep(moments.next());
        send_signal(&child, signal);
        if let Some(then) = then {
            thread::sleep(moments.next());
            send_signal(&child, then);
        }
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        over.store(true, Ordering::Relaxed);
        child.wait().unwrap().code()
    });
    (outputs, code)
}

/// A replay that reads a pipe, `signal` at one moment and `then` a little later.
fn end_replay(
    moments: &mut Moments,
    signal: Signal,
    then: Option<Signal>,
) -> (Outputs, Option<i32>) {
    let outputs = Outputs::new();
    let mut command = vxtap_command(["replay", "-"]);
    outputs.add_to(&mut command);
    command.stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = Running::start(&mut command);
    let mut stdin = child.stdin.take().unwrap();
    let header = std::fs::read(testdata("demo.pcap")).unwrap()[..24].to_vec();
    let records = demo_records();
    let code = thread::scope(|scope| {
        scope.spawn(move || {
            // Pieces that end anywhere, until nobody reads any more.
            let mut sent = stdin.write_all(&header).is_ok();
            while sent {
                sent = records.chunks(999).all(|piece| {
                    thread::sleep(Duration::from_micros(50));
                    stdin.write_all(piece).is_ok()
                });
            }
        });
        // It takes its signals before it opens an output.
        while !outputs.path(".c.pcapng.part").exists() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(moments.next());
        send_signal(&child, signal);
        if let Some(then) = then {
            thread::sleep(moments.next());
            send_signal(&child, then);
        }
        child.wait().unwrap().code()
    });
    (outputs, code)
}

#[test]
fn a_listener_that_is_told_to_end_leaves_whole_files() {
    let mut moments = Moments(1);
    for _ in 0..kills() {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let (outputs, code) = end_listen(&mut moments, signal, None);
            assert_eq!(code, Some(0), "{signal}");
            outputs.assert_complete();
        }
    }
}

#[test]
fn a_replay_that_is_told_to_end_leaves_whole_files() {
    let mut moments = Moments(2);
    for _ in 0..kills() {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let (outputs, code) = end_replay(&mut moments, signal, None);
            assert_eq!(code, Some(1), "{signal}: its input was not read to the end");
            outputs.assert_complete();
        }
    }
}

/// Killed while it works, and killed while it ends: that is when files get their names.
#[test]
fn a_listener_that_is_killed_leaves_no_half_file_under_a_final_name() {
    let mut moments = Moments(3);
    for _ in 0..kills() {
        for (signal, then) in [
            (Signal::SIGKILL, None),
            (Signal::SIGINT, Some(Signal::SIGKILL)),
        ] {
            end_listen(&mut moments, signal, then).0.assert_whole();
        }
    }
}

#[test]
fn a_replay_that_is_killed_leaves_no_half_file_under_a_final_name() {
    let mut moments = Moments(4);
    for _ in 0..kills() {
        for (signal, then) in [
            (Signal::SIGKILL, None),
            (Signal::SIGINT, Some(Signal::SIGKILL)),
        ] {
            end_replay(&mut moments, signal, then).0.assert_whole();
        }
    }
}
