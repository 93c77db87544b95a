//! Stores under test: a listener that writes one, small disks, and what must hold of every store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Running, assert_closes, frames, json_lines, tool, vxtap, vxtap_command};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a store, `st` in it.
pub struct Place(pub tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn store(&self) -> PathBuf {
        self.0.path().join("st")
    }

    pub fn summary(&self) -> Value {
        let summary = fs::read(self.0.path().join("s.json")).unwrap();
        let summary = serde_json::from_slice(&summary).unwrap();
        assert_closes(&summary);
        summary
    }

    /// `vxtap listen` on a port of its own, into the store.
    pub fn listen(&self, flags: &[&str]) -> Listening {
        self.listen_as(flags, |_| ())
    }

    /// The same, with something changed about the command.
    pub fn listen_as(&self, flags: &[&str], change: impl FnOnce(&mut Command)) -> Listening {
        let _ = fs::create_dir(self.store());
        self.listen_only(flags, |command| {
            command.arg("-w").arg(self.store());
            change(command);
        })
    }

    /// The same without a store.
    pub fn listen_only(&self, flags: &[&str], change: impl FnOnce(&mut Command)) -> Listening {
        let port = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let bind = port.to_string();
        let mut command = vxtap_command(["listen", "--backend", "udp", "--bind", &bind]);
        command.args(flags);
        command.arg("--summary").arg(self.0.path().join("s.json"));
        change(&mut command);
        command.stderr(fs::File::create(self.0.path().join("said")).unwrap());
        let child = Running::start(command.stdout(Stdio::null()));
        let listening = Listening { child, bind };
        wait_until(|| self.said().contains("listening on"));
        listening
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.0.path().join("said")).unwrap_or_default()
    }
}

pub struct Listening {
    pub child: Running,
    pub bind: String,
}

impl Listening {
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Sends so many packets, and tells how many were sent.
    pub fn feed(&self, packets: u64, pps: u64) {
        let (packets, pps) = (packets.to_string(), pps.to_string());
        let words = [
            "send",
            "--to",
            &self.bind,
            "--generate",
            "--count",
            &packets,
            "--pps",
            &pps,
        ];
        let sent = vxtap(words);
        assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    }

    pub fn end(mut self) {
        self.signal(Signal::SIGINT);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

#[track_caller]
#[allow(
    clippy::disallowed_methods,
    reason = "the limit turns a hang into a failure"
)]
pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it never came");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What the manifest says there is, by name; every file is what it says, and nothing else of a store is there.
pub fn assert_sound(store: &Path) -> BTreeMap<String, Value> {
    let manifest = fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap();
    let mut files = BTreeMap::new();
    let mut prev = "0".repeat(64);
    for (number, text) in (1_u64..).zip(manifest.lines()) {
        let line: Value = serde_json::from_str(text).unwrap();
        assert_eq!(line["line"], number);
        assert_eq!(line["prev"], prev, "line {number}");
        prev = hex(&Sha256::digest(text));
        let name = line["name"].as_str().unwrap_or_default().to_owned();
        match line["kind"].as_str().unwrap() {
            "file" => assert!(files.insert(name, line).is_none(), "listed twice"),
            "deleted" => assert!(files.remove(&name).is_some(), "{name} was never there"),
            other => panic!("{other}"),
        }
    }
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(store).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("vxtap") {
            there.insert(name);
        } else {
            assert!(!name.ends_with(".part"), "{name}");
        }
    }
    let indexes: BTreeSet<String> = there
        .extract_if(.., |name| name.ends_with(".idx"))
        .collect();
    assert_eq!(there, files.keys().cloned().collect());
    let listed = files.values().filter_map(|line| {
        let name = line["index"]["name"].as_str()?;
        let bytes = fs::read(store.join(name)).unwrap();
        assert_eq!(line["index"]["bytes"], bytes.len(), "{name}");
        assert_eq!(
            line["index"]["sha256"],
            hex(&Sha256::digest(&bytes)),
            "{name}"
        );
        Some(name.to_owned())
    });
    assert_eq!(indexes, listed.collect());
    for (name, line) in &files {
        let bytes = fs::read(store.join(name)).unwrap();
        assert_eq!(line["bytes"], bytes.len(), "{name}");
        assert_eq!(line["sha256"], hex(&Sha256::digest(&bytes)), "{name}");
        if name.ends_with(".jsonl") {
            let records = json_lines(str::from_utf8(&bytes).unwrap());
            assert_eq!(line["packets"], records.len(), "{name}");
            continue;
        }
        if name.ends_with(".csv") {
            let rows = str::from_utf8(&bytes).unwrap().matches("\r\n").count();
            assert_eq!(line["packets"], rows - 1, "{name}");
            continue;
        }
        if name.ends_with(".ipfix") {
            let whole: usize = super::collectors::messages(&bytes)
                .iter()
                .map(Vec::len)
                .sum();
            assert_eq!(whole, bytes.len(), "{name}");
            continue;
        }
        if name.ends_with(".parquet") {
            assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
            continue;
        }
        let packets = frames(&bytes).len();
        assert_eq!(line["packets"], packets, "{name}");
        let times: Vec<u128> = frames(&bytes).iter().map(|frame| frame.ts_ns).collect();
        assert!(times.is_sorted(), "{name}");
        if tool("capinfos") {
            let read = Command::new("capinfos")
                .arg("-c")
                .arg(store.join(name))
                .output()
                .unwrap();
            assert!(read.status.success(), "{name}: {read:?}");
        }
    }
    files
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn packets(files: &BTreeMap<String, Value>) -> Vec<u64> {
    files
        .values()
        .map(|line| line["packets"].as_u64().unwrap())
        .collect()
}

pub fn sequences(files: &BTreeMap<String, Value>) -> Vec<u64> {
    let sequence = |name: &String| name.split('_').nth(1).unwrap().parse().unwrap();
    files.keys().map(sequence).collect()
}

/// Tells other threads that it is over.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A file system of its own, of so many bytes; `None` where this user cannot have one.
pub struct Small(pub tempfile::TempDir);

impl Small {
    pub fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        eprintln!("skipped: no right to mount a small file system");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Bytes of all files below a directory.
pub fn bytes_in(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        bytes += entry.metadata().map_or(0, |meta| {
            if meta.is_dir() {
                bytes_in(&entry.path())
            } else {
                meta.len()
            }
        });
    }
    bytes
}
