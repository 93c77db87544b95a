//! Output files: who may write them, what they are called, what of them can be read and when.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{Run, Running, frames, run, testdata, vxtap, vxtap_command};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

/// Longer than anything here should take.
const LONG: Duration = Duration::from_secs(20);

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn mode(&self, name: &str) -> u32 {
        self.path(name).metadata().unwrap().mode() & 0o7777
    }

    /// Runs the program here.
    fn vxtap<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        run(vxtap_command(args).current_dir(self.0.path()))
    }

    fn replay_demo(&self, args: &[&str]) -> Run {
        let demo = testdata("demo.pcap");
        self.vxtap([&["replay", demo.to_str().unwrap()], args].concat())
    }
}

/// A `vxtap listen` on a port of the system's choice, killed when it is dropped.
struct Listener {
    child: Running,
    stderr: BufReader<ChildStderr>,
    address: SocketAddr,
    begin: String,
}

impl Listener {
    /// `Err` with what it said when it ends before it listens.
    fn try_start(dir: &Folder, args: &[&OsStr]) -> Result<Self, String> {
        let listen = ["listen", "--backend", "udp", "--bind", "127.0.0.1:0"];
        let mut command = vxtap_command(listen);
        command
            .args(["--workers", "1"])
            .args(args)
            .current_dir(dir.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Running::start(&mut command);
        let mut listener = Self {
            stderr: BufReader::new(child.stderr.take().unwrap()),
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            begin: String::new(),
        };
        loop {
            let before = listener.begin.len();
            listener.stderr.read_line(&mut listener.begin).unwrap();
            let line = &listener.begin[before..];
            if line.is_empty() {
                return Err(std::mem::take(&mut listener.begin));
            }
            if let Some((_, rest)) = line.split_once("listening on ") {
                listener.address = rest.split_once(';').unwrap().0.parse().unwrap();
                return Ok(listener);
            }
        }
    }

    fn start(dir: &Folder, args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(OsStr::new).collect();
        Self::try_start(dir, &args).unwrap()
    }

    /// Sends a frame from 192.168.1.`number` in which no byte is a line feed.
    fn send(&self, number: u8) -> Vec<u8> {
        let mut payload = b"\x08\0\0\0\0\0\x07\0".to_vec();
        payload.extend_from_slice(b"\x02\x11\x22\x33\x44\x55\x02\x66\x77\x88\x99\x11\x08\0");
        // 20 bytes of header and 8 of UDP to port 53.
        payload.extend_from_slice(b"\x45\0\0\x1c\0\0\0\0\x40\x11\0\0\xc0\xa8\x01");
        payload.extend_from_slice(&[number]);
        payload.extend_from_slice(b"\xc0\xa8\x02\x02\x30\x39\0\x35\0\x08\0\0");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&payload, self.address).unwrap();
        payload.split_off(8)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits until `path` has `count` frames.
    fn wait_for(&self, path: &Path, count: usize) {
        for _ in 0..1000 {
            if fs::read(path).is_ok_and(|bytes| frames(&bytes).len() == count) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} never had {count} frames", path.display());
    }

    /// Ends it with SIGINT; exit code and all it said.
    fn end(mut self) -> (Option<i32>, String) {
        self.signal(Signal::SIGINT);
        let mut said = std::mem::take(&mut self.begin);
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

fn frames_in(path: &Path) -> usize {
    frames(&fs::read(path).unwrap()).len()
}

/// A second run that is told the same name is refused, also where a killed run has left something.
#[test]
fn two_runs_never_write_one_file() {
    for left in [None, Some(""), Some("left by a killed run")] {
        let dir = Folder::new();
        if let Some(left) = left {
            fs::write(dir.path(".out.pcapng.part"), left).unwrap();
        }
        let first = Listener::start(&dir, &["-w", "out.pcapng"]);
        for _ in 0..2 {
            let second = ["-w", "out.pcapng"].map(OsStr::new);
            let said = Listener::try_start(&dir, &second).err().unwrap();
            assert!(
                said.contains("another process is writing .out.pcapng.part"),
                "{said}"
            );
        }
        first.send(1);
        first.wait_for(&dir.path(".out.pcapng.part"), 1);
        let (code, said) = first.end();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(frames_in(&dir.path("out.pcapng")), 1);
        let aside = left.is_some_and(|left| !left.is_empty());
        assert_eq!(dir.path(".out.pcapng.part.1").exists(), aside);
        assert!(!dir.path(".out.pcapng.part").exists());
    }
}

/// Two names that are no valid UTF-8 are two files, also at a time; and a name may be as long as names are.
#[test]
fn odd_names() {
    let dir = Folder::new();
    let long = "n".repeat(255);
    let names = [
        OsStr::from_bytes(b"\xff"),
        OsStr::from_bytes(b"\xfe"),
        OsStr::new(&long),
    ];
    let running: Vec<_> = names
        .iter()
        .map(|name| Listener::try_start(&dir, &["-w".as_ref(), name]).unwrap())
        .collect();
    for (number, listener) in running.iter().enumerate() {
        for _ in 0..=number {
            listener.send(1);
        }
    }
    std::thread::sleep(Duration::from_millis(100));
    for (number, (listener, name)) in running.into_iter().zip(names).enumerate() {
        let (code, said) = listener.end();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(frames_in(&dir.path(name)), number + 1);
    }
    assert_eq!(dir.names().len(), 3);
}

/// A name that cannot be is told before the run, not at its end; a number fits into one that just can be.
#[test]
fn names_that_are_too_long() {
    let dir = Folder::new();
    let long = format!("{}.pcapng", "n".repeat(249));
    for flag in ["-w", "--flows", "--summary"] {
        let said = dir.replay_demo(&[flag, &long]);
        assert_eq!(said.code, Some(1), "{flag}");
        assert!(said.stderr.contains("too long"), "{}", said.stderr);
        assert!(!said.stderr.contains("received"), "{}", said.stderr);
    }
    assert_eq!(dir.names(), Vec::<String>::new());
    let longest = long.split_at(1).1;
    fs::write(dir.path(longest), "kept").unwrap();
    let listener = Listener::start(&dir, &["-w", longest]);
    listener.send(1);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(listener.end().0, Some(0));
    assert_eq!(fs::read_to_string(dir.path(longest)).unwrap(), "kept");
    let names = dir.names();
    let numbered = names.iter().find(|name| name.ends_with(".1.pcapng"));
    assert_eq!(frames_in(&dir.path(numbered.unwrap())), 1);
}

/// A reader of standard output has each packet at once, whatever bytes it is made of.
#[test]
fn the_newest_packet_is_not_kept_back() {
    for output in ["-", "/dev/stdout"] {
        let dir = Folder::new();
        let mut listener = Listener::start(&dir, &["-w", output]);
        let mut stdout = listener.child.stdout.take().unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stdout.read(&mut buffer) {
                if tell.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut seen = Vec::new();
        for number in 11..14 {
            let frame = listener.send(number);
            while !seen.windows(frame.len()).any(|window| window == frame) {
                seen.extend(told.recv_timeout(LONG).expect("the packet is kept back"));
            }
        }
    }
}

/// Whoever started the program may have made the pipe O_NONBLOCK.
#[test]
fn a_pipe_that_does_not_wait() {
    let dir = Folder::new();
    assert_eq!(dir.replay_demo(&["-w", "file"]).code, Some(0));
    let (mut reader, writer) = std::io::pipe().unwrap();
    // Smaller than the file.
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut command = vxtap_command(["replay"]);
    command.arg(testdata("demo.pcap")).args(["-w", "-"]);
    command.stdout(OwnedFd::from(writer)).stderr(Stdio::piped());
    let child = Running::start(&mut command);
    drop(command);
    std::thread::sleep(Duration::from_millis(300));
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    let output = child.wait_with_output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(all == fs::read(dir.path("file")).unwrap());
}

#[test]
fn files_are_for_their_owner() {
    let dir = Folder::new();
    let args = [
        "-w",
        "out.pcapng",
        "--flows",
        "f.jsonl",
        "--summary",
        "s.json",
    ];
    let files = ["out.pcapng", "f.jsonl", "s.json"];
    assert_eq!(dir.replay_demo(&args).code, Some(0));
    for file in files {
        assert_eq!(dir.mode(file), 0o600, "{file}");
        fs::set_permissions(dir.path(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    // A file that is replaced keeps its mode, unless another one is asked for.
    assert_eq!(dir.replay_demo(&args).code, Some(0));
    for file in files {
        assert_eq!(dir.mode(file), 0o644, "{file}");
    }
    let wide = [&args[..], &["--mode", "0660"]].concat();
    assert_eq!(dir.replay_demo(&wide).code, Some(0));
    for file in files {
        assert_eq!(dir.mode(file), 0o660, "{file}");
    }
    let plain = testdata("plain.pcap");
    let mut send = vec!["send", plain.to_str().unwrap(), "--write", "sent.pcap"];
    assert_eq!(dir.vxtap(&send).code, Some(0));
    assert_eq!(dir.mode("sent.pcap"), 0o600);
    send.extend(["--mode", "640"]);
    assert_eq!(dir.vxtap(&send).code, Some(0));
    assert_eq!(dir.mode("sent.pcap"), 0o640);
    for mode in ["8", "1000", "", "-1", "+7", "rw", "0o"] {
        let run = vxtap(["replay", "x", &format!("--mode={mode}")]);
        assert_eq!(run.code, Some(2), "{mode}");
        assert!(run.stderr.contains("octal"), "{}", run.stderr);
    }
}

/// Whoever may write to the directory can neither lead the program to other files nor make it wait.
#[test]
fn planted_parts() {
    let dir = Folder::new();
    fs::write(dir.path("victim"), "").unwrap();
    let part = dir.path(".out.pcapng.part");
    for target in ["victim", "nothing"] {
        std::os::unix::fs::symlink(target, &part).unwrap();
        let run = dir.replay_demo(&["-w", "out.pcapng"]);
        assert_eq!(run.code, Some(1));
        let why = ".out.pcapng.part is a symbolic link, not the file of an earlier run; remove it";
        assert!(run.stderr.contains(why), "{}", run.stderr);
        fs::remove_file(&part).unwrap();
    }
    mkfifo(&part, Mode::S_IRWXU).unwrap();
    let run = dir.replay_demo(&["-w", "out.pcapng"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("is a FIFO"), "{}", run.stderr);
    fs::remove_file(&part).unwrap();
    assert_eq!(fs::read(dir.path("victim")).unwrap(), b"");
    assert_eq!(dir.names(), ["victim"]);
}

/// The data are where the file went; only a deleted file is a loss.
#[test]
fn a_part_that_was_moved_replaced_or_deleted() {
    let dir = Folder::new();
    let part = dir.path(".out.pcapng.part");
    let listen = || {
        let listener = Listener::start(&dir, &["-w", "out.pcapng", "--summary", "s.json"]);
        listener.send(1);
        listener.wait_for(&part, 1);
        listener
    };
    let listener = listen();
    fs::rename(&part, dir.path("moved")).unwrap();
    listener.send(2);
    listener.wait_for(&dir.path("moved"), 2);
    let (code, said) = listener.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("moved while it was written"), "{said}");
    assert_eq!(frames_in(&dir.path("moved")), 2);
    let summary = fs::read_to_string(dir.path("s.json")).unwrap();
    let moved = dir.path("moved").canonicalize().unwrap();
    assert!(summary.contains(moved.to_str().unwrap()), "{summary}");

    let listener = listen();
    fs::remove_file(&part).unwrap();
    fs::write(&part, "planted").unwrap();
    let (code, said) = listener.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was deleted while it was written"), "{said}");
    assert_eq!(fs::read(&part).unwrap(), b"planted");
    assert!(!dir.path("out.pcapng").exists());
}

/// What a supervisor does: it starts the same command again.
#[test]
fn a_restart_overwrites_nothing() {
    let dir = Folder::new();
    let args = [
        "-w",
        "out.pcapng",
        "--flows",
        "f.jsonl.gz",
        "--summary",
        "s.json",
    ];
    let once = |args: &[&str], frames: u8| {
        let listener = Listener::start(&dir, args);
        (0..frames).for_each(|number| _ = listener.send(number));
        std::thread::sleep(Duration::from_millis(100));
        let (code, said) = listener.end();
        assert_eq!(code, Some(0), "{said}");
        said
    };
    assert!(!once(&args, 1).contains("exists"));
    let said = once(&args, 2);
    for line in [
        "out.pcapng exists and is kept; this run writes out.1.pcapng",
        "f.jsonl.gz exists and is kept; this run writes f.1.jsonl.gz",
    ] {
        assert_eq!(said.matches(line).count(), 1, "{said}");
    }
    once(&args, 3);
    let summary = fs::read_to_string(dir.path("s.json")).unwrap();
    assert!(summary.contains("out.2.pcapng") && summary.contains("f.2.jsonl.gz"));
    let all = ["f.1.jsonl.gz", "f.2.jsonl.gz", "f.jsonl.gz"];
    let all = [
        &all[..],
        &["out.1.pcapng", "out.2.pcapng", "out.pcapng", "s.json"],
    ]
    .concat();
    assert_eq!(dir.names(), all);
    for (name, count) in [("out.pcapng", 1), ("out.1.pcapng", 2), ("out.2.pcapng", 3)] {
        assert_eq!(frames_in(&dir.path(name)), count, "{name}");
    }
    let said = once(&[&args[..], &["--overwrite"]].concat(), 4);
    assert!(!said.contains("exists"), "{said}");
    assert_eq!(dir.names(), all);
    assert_eq!(frames_in(&dir.path("out.pcapng")), 4);
    // Replay replaces what it is told to.
    assert_eq!(dir.replay_demo(&["-w", "out.pcapng"]).code, Some(0));
    assert_eq!(frames_in(&dir.path("out.pcapng")), 198);
    assert_eq!(dir.names(), all);
}

/// Hidden files are told, or they fill the disk unseen.
#[test]
fn left_overs_are_told_at_each_start() {
    let dir = Folder::new();
    fs::write(dir.path(".out.pcapng.part"), "x".repeat(11)).unwrap();
    let run = dir.replay_demo(&["-w", "out.pcapng"]);
    assert_eq!(run.code, Some(0));
    let told = |run: &Run| {
        let mut lines = run.stderr.lines();
        let line = lines.find(|line| line.contains("earlier run was killed"));
        assert!(!lines.any(|line| line.contains("killed")), "{}", run.stderr);
        line.unwrap_or_default().to_owned()
    };
    assert!(told(&run).contains(".out.pcapng.part.1 (11 bytes)"));
    // And again, also where nothing new was left.
    let run = dir.replay_demo(&["-w", "out.pcapng"]);
    assert!(told(&run).contains(".out.pcapng.part.1 (11 bytes)"));
    for number in 2..=7 {
        fs::write(dir.path(format!(".out.pcapng.part.{number}")), "xx").unwrap();
    }
    let line = told(&dir.replay_demo(&["-w", "out.pcapng"]));
    assert!(
        line.contains(".part.4 (2 bytes) and 3 more, 23 bytes in 7 files"),
        "{line}"
    );
    // What a run is still writing is none.
    let listener = Listener::start(&dir, &["-w", "out.pcapng"]);
    assert!(dir.path(".out.1.pcapng.part").exists(), "{:?}", dir.names());
    let line = told(&dir.replay_demo(&["-w", "out.pcapng"]));
    assert!(!line.contains("out.1.pcapng"), "{line}");
    drop(listener);
    let line = told(&dir.replay_demo(&["-w", "out.pcapng"]));
    assert!(line.contains(".out.1.pcapng.part ("), "{line}");
}

#[test]
fn one_place_for_two_outputs_is_refused() {
    let dir = Folder::new();
    mkfifo(&dir.path("fifo"), Mode::S_IRWXU).unwrap();
    let refused = |args: &[&str]| {
        let run = dir.replay_demo(args);
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains("both write to"), "{}", run.stderr);
        assert_eq!(run.stdout, b"");
    };
    refused(&["-w", "/dev/stdout", "--flows", "-"]);
    refused(&["-w", "-", "--flows", "/dev/fd/1"]);
    refused(&["-w", "-", "--summary", "/proc/self/fd/1"]);
    refused(&["--flows", "/dev/stdout", "--flows", "/dev/stdout"]);
    refused(&["-w", "fifo", "--flows", "fifo"]);
    refused(&["-w", "fifo", "--flows", "./fifo"]);
    let plain = testdata("plain.pcap");
    let plain = plain.to_str().unwrap();
    let send = ["send", plain, "--write", "-", "--summary", "/dev/stdout"];
    assert_eq!(dir.vxtap(send).code, Some(2));

    // Standard output may be a file that has a name too, or the input.
    fs::copy(testdata("demo.pcap"), dir.path("in.pcap")).unwrap();
    let onto = |args: &[&str], file: &str| {
        let mut command = vxtap_command(["replay"]);
        let file = File::options()
            .append(true)
            .create(true)
            .open(dir.path(file));
        let command = command.args(args).current_dir(dir.0.path());
        let output = command.stdout(file.unwrap()).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = onto(&["in.pcap", "-w", "-", "--flows", "both"], "both");
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = onto(&["in.pcap", "-w", "-"], "in.pcap");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("would overwrite the input"), "{said}");

    let run = dir.replay_demo(&["-w", "/dev/null", "--flows", "/dev/null"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

/// A FIFO is opened once: who reads it sees the summary, not an early end.
#[test]
fn a_summary_for_a_fifo() {
    let dir = Folder::new();
    let fifo = dir.path("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let (tell, told) = mpsc::channel();
    let reading = fifo.clone();
    std::thread::spawn(move || tell.send(fs::read_to_string(reading).unwrap()));
    let mut command = Command::new(common::VXTAP);
    command
        .arg("replay")
        .arg(testdata("demo.pcap"))
        .arg("--summary")
        .arg(&fifo)
        .stderr(Stdio::null());
    let replaying = Running::start(&mut command);
    let summary = told.recv_timeout(LONG).unwrap();
    assert!(summary.contains("\"delivered\""), "{summary}");
    assert!(replaying.wait_with_output().status.success());
}
