//! What a script and a terminal see: the exit code of a run that lost something, and no binary data on a
//! terminal.

mod common;

use std::process::{Command, Stdio};

use common::{VXTAP, device, json_lines, run, testdata};

fn replay(dir: &std::path::Path, limit: Option<u32>, flags: &[&str]) -> common::Run {
    // The limit, in units of 512 bytes, makes writing fail as on a full disk.
    let limit = limit.map_or("unlimited".to_owned(), |blocks| blocks.to_string());
    let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$@\"");
    let mut command = Command::new("sh");
    command.current_dir(dir);
    command.args(["-c", &script, "sh", VXTAP, "replay"]);
    command.args(vec![testdata("demo.pcap"); 20]).args(flags);
    run(&mut command)
}

#[test]
fn the_exit_code_tells_of_losses_where_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let whole = replay(dir.path(), None, &["-w", "a.pcapng", "--fail-on-loss"]);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    let flags = ["-w", "b.pcapng", "--flows", "b.jsonl"];
    let fault = replay(dir.path(), Some(700), &flags);
    assert_eq!(fault.code, Some(1), "{}", fault.stderr);
    let flags = [&flags[..], &["--fail-on-loss", "--summary", "s.json"]].concat();
    let lost = replay(dir.path(), Some(700), &flags);
    assert_eq!(lost.code, Some(3), "{}", lost.stderr);
    let text = std::fs::read_to_string(dir.path().join("s.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    common::assert_closes(&summary);
    let missing = summary["sinks"][0]["dropped"]["write"].as_u64().unwrap();
    assert!(
        lost.stderr.contains(&format!("{missing} lost")),
        "{}",
        lost.stderr
    );
}

/// The reader of the flow records leaves: the capture goes on, and only --fail-on-loss makes a fault of it.
#[test]
fn a_reader_that_leaves_is_told_and_is_no_fault() {
    for (flag, code) in [(None, Some(0)), (Some("--fail-on-loss"), Some(3))] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(VXTAP);
        command.current_dir(dir.path()).arg("replay");
        command.args(vec![testdata("demo.pcap"); 20]);
        command.args(["-w", "a.pcapng", "--flows", "-", "--flows", "f.jsonl"]);
        command.args(["--summary", "s.json"]).args(flag);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = command.stdout(writer).stderr(Stdio::piped()).output();
        let done = done.unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), code, "{said}");
        assert!(
            said.contains("the reader of standard output went away"),
            "{said}"
        );
        let text = std::fs::read_to_string(dir.path().join("s.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
        common::assert_closes(&summary);
        let sinks = summary["sinks"].as_array().unwrap();
        assert_eq!(sinks[0]["written"], 20 * 198);
        assert_eq!(sinks[1]["dropped"]["reader_left"], sinks[1]["offered"]);
        let kept = std::fs::read_to_string(dir.path().join("f.jsonl")).unwrap();
        assert_eq!(sinks[2]["written"], json_lines(&kept).len());
    }
}

/// Nobody types a capture file.
#[cfg(target_os = "linux")]
#[test]
fn no_capture_from_a_terminal() {
    for command in [&["replay", "-"][..], &["send", "-", "--to", "127.0.0.1:9"]] {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut vxtap = common::vxtap_command(command);
        let ended = vxtap.stdin(pty.slave).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        let told = "standard input is a terminal, which holds no capture: name a file";
        assert!(said.contains(told), "{said}");
    }
}

/// A terminal is found by each of its names.
#[cfg(target_os = "linux")]
#[test]
fn no_binary_data_for_a_terminal() {
    let demo = testdata("demo.pcap");
    if !device("/dev/ptmx") {
        return;
    }
    for name in ["-", "/dev/stdout", "/dev/fd/1"] {
        let commands = [
            vec!["replay", demo.to_str().unwrap(), "-w", name],
            vec!["send", demo.to_str().unwrap(), "--plain", "--write", name],
            vec![
                "listen",
                "--bind",
                "127.0.0.1:0",
                "--duration",
                "1",
                "-w",
                name,
            ],
        ];
        for words in commands {
            let pty = nix::pty::openpty(None, None).unwrap();
            let mut command = Command::new(VXTAP);
            let done = command
                .args(&words)
                .stdout(pty.slave)
                .stderr(Stdio::piped())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&done.stderr);
            assert_eq!(done.status.code(), Some(2), "{words:?}: {said}");
            assert!(
                said.contains("binary data to a terminal"),
                "{words:?}: {said}"
            );
        }
    }
}
