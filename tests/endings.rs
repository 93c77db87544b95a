//! The end of a run is told whatever becomes of the places where it is told: standard error that is closed,
//! full or stuck, a summary that nobody takes.
#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test measures how long it took"
)]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Running, assert_closes, run, testdata, vxtap_command};
use serde_json::Value;
use tempfile::TempDir;

/// More than the patience with an output that takes nothing.
const SOON: Duration = Duration::from_secs(12);

fn summary(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A pipe that has no room for a single byte.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // A writer that does not wait needs a file description of its own.
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::OpenOptionsExt;

        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let mut filler = OpenOptions::new();
        filler.write(true).custom_flags(0o4000);
        let mut filler = filler.open(path).unwrap();
        for piece in [4096, 1] {
            while let Ok(_written) = filler.write(&vec![b'.'; piece]) {}
        }
        let full = filler.write(b".").unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
    }
    writer.flush().unwrap();
    (reader, writer)
}

#[track_caller]
fn code_soon(child: &mut Running) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap();
        }
        assert!(begun.elapsed() < SOON, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_standard_error_loses_no_summary() {
    let dir = dir();
    let (capture, json) = (dir.path().join("c.pcapng"), dir.path().join("s.json"));
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = vxtap_command(["replay"]);
    command.arg(testdata("demo.pcap"));
    command.arg("-w").arg(&capture).arg("--summary").arg(&json);
    let status = command.stderr(full).stdin(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_closes(&summary(&json));
    assert!(capture.exists());
}

/// The reader of standard error leaves before the run begins, or while it is at work.
#[cfg(target_os = "linux")]
#[test]
fn a_standard_error_without_a_reader_ends_nothing() {
    for leaves_early in [true, false] {
        let dir = dir();
        let json = dir.path().join("s.json");
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = vxtap_command(["listen", "--bind", "127.0.0.1:0", "--backend", "udp"]);
        command
            .args(["--duration", "400ms", "--summary"])
            .arg(&json);
        command.arg("-w").arg(dir.path().join("c.pcapng"));
        if leaves_early {
            drop(reader);
            let mut child = Running::start(command.stderr(writer));
            assert_eq!(code_soon(&mut child), 0);
        } else {
            let mut child = Running::start(command.stderr(writer));
            drop(command);
            let mut first = [0; 10];
            reader.read_exact(&mut first).unwrap();
            drop(reader);
            assert_eq!(code_soon(&mut child), 0);
        }
        assert_eq!(summary(&json)["received"], 0);
        assert!(dir.path().join("c.pcapng").exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_stuck_standard_error_is_waited_for_and_told() {
    let dir = dir();
    let json = dir.path().join("s.json");
    let (_reader, writer) = full_pipe();
    let mut command = vxtap_command(["listen", "--bind", "127.0.0.1:0", "--backend", "udp"]);
    command
        .args(["--duration", "100ms", "--summary"])
        .arg(&json);
    let mut child = Running::start(command.stderr(writer));
    assert_eq!(code_soon(&mut child), 1);
    let told = summary(&json)["errors"][0].to_string();
    assert!(
        told.contains("standard error took nothing for 5 s"),
        "{told}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_summary_that_nobody_takes_is_given_up() {
    let dir = dir();
    let fifo = dir.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let mut without_reader = vxtap_command(["replay"]);
    without_reader.arg(testdata("demo.pcap"));
    let (_reader, writer) = full_pipe();
    let mut full = vxtap_command(["replay"]);
    full.arg(testdata("demo.pcap")).args(["--summary", "-"]);
    for (command, told) in [
        (
            without_reader.arg("--summary").arg(&fifo),
            "fifo: it took nothing for 5 s",
        ),
        (
            full.stdout(writer),
            "cannot write standard output: it took nothing for 5 s",
        ),
    ] {
        let mut child = Running::start(command.stderr(Stdio::piped()));
        assert_eq!(code_soon(&mut child), 1);
        let mut said = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert!(said.contains("200 received"), "{said}");
        assert!(said.contains(told), "{said}");
    }
}

/// Whoever waits at a FIFO for the summary gets it whole, and nothing before it.
#[test]
fn a_summary_reaches_the_reader_of_a_fifo() {
    let dir = dir();
    let fifo = dir.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let path = fifo.clone();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    let mut command = vxtap_command(["replay"]);
    command.arg(testdata("demo.pcap"));
    let ended = run(command.arg("--summary").arg(&fifo));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let summary: Value = serde_json::from_str(&reader.join().unwrap()).unwrap();
    assert_eq!(summary["received"], 200);
}

/// What went wrong in a run is told even where its summary cannot be written.
#[test]
fn a_summary_that_fails_hides_nothing() {
    let dir = dir();
    let cut = dir.path().join("cut.pcap");
    let whole = std::fs::read(testdata("demo.pcap")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 3]).unwrap();
    for command in ["replay", "send"] {
        let mut command = vxtap_command([command]);
        command.arg(&cut).args(["--summary", "/dev/full"]);
        if command.get_args().any(|arg| arg == "send") {
            command.arg("--write").arg(dir.path().join("out.pcap"));
        }
        let ended = run(&mut command);
        assert_eq!(ended.code, Some(1));
        let said = ended.stderr;
        assert!(said.contains("the file ends inside a record"), "{said}");
        assert!(said.contains("cannot write /dev/full"), "{said}");
    }
}

/// A test that fails leaves no program behind.
#[test]
fn what_a_failing_test_started_is_gone() {
    let (tell, told) = std::sync::mpsc::channel();
    let failing = std::panic::catch_unwind(|| {
        let mut command = vxtap_command(["listen", "--backend", "udp", "--bind", "127.0.0.1:0"]);
        let child = Running::start(command.stderr(Stdio::null()));
        tell.send(child.id()).unwrap();
        std::panic::resume_unwind(Box::new("as a failed assertion does"));
    });
    assert!(failing.is_err());
    let process = format!("/proc/{}", told.recv().unwrap());
    assert!(!std::path::Path::new(&process).exists(), "{process}");
}
