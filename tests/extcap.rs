//! vxtap in Wireshark's list of interfaces: tshark finds it there and captures from it.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{
    Run, Running, VXTAP, drain, frames, run, testdata, tshark_captures, vxtap, vxtap_command,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

/// Times that something is tried again, with a pause that only spares the machine.
const TRIES: usize = 1500;
const PAUSE: Duration = Duration::from_millis(20);

/// A home in which nothing is the user's.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, mut command: Command) -> Command {
        command
            .env("HOME", self.0.path())
            .env("XDG_CONFIG_HOME", self.path(".config"))
            .env_remove("WIRESHARK_EXTCAP_DIR")
            .env_remove("VXTAP_LOG");
        command
    }

    fn vxtap(&self, args: &[&str]) -> Run {
        run(&mut self.command(vxtap_command(args)))
    }

    fn tshark(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tshark");
        command.args(args);
        self.command(command)
    }
}

/// A UDP port that is free now.
fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

fn call(args: &[&str]) -> Run {
    run(Command::new(VXTAP).args(args))
}

#[test]
fn the_questions_of_wireshark() {
    let interfaces = call(&["--extcap-interfaces", "--extcap-version=4.0"]);
    assert_eq!(interfaces.code, Some(0), "{}", interfaces.stderr);
    let text = String::from_utf8(interfaces.stdout).unwrap();
    assert!(text.starts_with("extcap {version="), "{text}");
    assert!(text.contains("\ninterface {value=vxtap}{display=VXLAN mirror receiver}\n"));
    for (flag, part) in [
        ("--extcap-dlts", "dlt {number=1}"),
        ("--extcap-config", "{call=--vni}"),
    ] {
        let answer = call(&["--extcap-interface", "vxtap", flag]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        assert_eq!(answer.stderr, "");
        assert!(String::from_utf8(answer.stdout).unwrap().contains(part));
    }
    let filtered = [
        "--capture",
        "--extcap-interface",
        "vxtap",
        "--fifo",
        "/nowhere/f",
        "--extcap-capture-filter",
        "tcp port 80",
    ];
    let refused = call(&filtered);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("no capture filter"),
        "{}",
        refused.stderr
    );
    let alone = call(&[
        "--extcap-interface",
        "vxtap",
        "--extcap-capture-filter",
        "tcp",
    ]);
    assert_eq!(alone.code, Some(0));
    assert!(
        String::from_utf8(alone.stdout)
            .unwrap()
            .contains("no capture filter")
    );
    let other = call(&["--extcap-interface", "other", "--extcap-dlts"]);
    assert_eq!(other.code, Some(2));
}

/// What Wireshark does, by hand: a capture into a FIFO, ended by a signal or by who reads it. Standard error stays empty, the
/// log goes where it should.
#[test]
fn a_capture_into_a_fifo() {
    for leaves in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, log) = (dir.path().join("fifo"), dir.path().join("log"));
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let port = free_port();
        let mut command = Command::new(VXTAP);
        command
            .args(["--capture", "--extcap-interface", "vxtap", "--fifo"])
            .arg(&fifo)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args([
                "--backend",
                "udp",
                "--vni",
                "",
                "--extcap-capture-filter",
                "",
            ])
            .args(["--extcap-version=4.0", "--log-level", "info", "--log-file"])
            .arg(&log);
        let mut child = Running::start(command.stdin(Stdio::null()).stderr(Stdio::piped()));
        let said = drain(child.stderr.take().unwrap());
        let mut reader = fs::File::open(&fifo).unwrap();
        let mut bytes = vec![0; 28];
        reader.read_exact(&mut bytes).unwrap();
        // The header is there, so the port is bound.
        let to = SocketAddr::from(([127, 0, 0, 1], port)).to_string();
        let demo = testdata("demo.pcap");
        let send = || {
            let sent = vxtap(["send", demo.to_str().unwrap(), "--to", &to]);
            assert_eq!(sent.code, Some(0), "{}", sent.stderr);
        };
        send();
        if leaves {
            drop(reader);
            for _ in 0..TRIES {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                send();
                std::thread::sleep(PAUSE);
            }
        } else {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
            reader.read_to_end(&mut bytes).unwrap();
            assert!(!frames(&bytes).is_empty());
        }
        let code = child.wait().unwrap().code();
        let said = String::from_utf8(said.join().unwrap()).unwrap();
        assert_eq!((code, said.as_str()), (Some(0), ""));
        let log = fs::read_to_string(log).unwrap();
        assert!(
            log.contains(&format!("listening on 127.0.0.1:{port}")),
            "{log}"
        );
    }
}

/// A fault is what standard error is for.
#[test]
fn a_capture_that_cannot_be() {
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let fifo = fifo.to_str().unwrap();
    let capture = ["--capture", "--extcap-interface", "vxtap", "--fifo", fifo];
    let bind = ["--backend", "udp", "--bind", "127.0.0.1", "--port", &port];
    let run = call(
        &[
            capture,
            ["--log-level", "debug", "--mtu", "1500", "--allow"],
        ]
        .concat(),
    );
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    let run = call(&[&capture[..], &bind].concat());
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(
        run.stderr
            .starts_with("vxtap: error: cannot listen on 127.0.0.1:"),
        "{}",
        run.stderr
    );
    let run = call(&[&capture[..], &["--vni", "x", "--mtu", "1"]].concat());
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(
        run.stderr.contains("--vni") && run.stderr.contains("--mtu"),
        "{}",
        run.stderr
    );
}

#[test]
fn installed_where_it_is_told() {
    let home = Home::new();
    let dir = home.path("some/extcap");
    let dir = dir.to_str().unwrap();
    let run = home.vxtap(&["extcap", "--install", dir]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let link = Path::new(dir).join("vxtap");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new(VXTAP));
    let answer = common::run(Command::new(&link).arg("--extcap-interfaces"));
    assert!(
        String::from_utf8(answer.stdout)
            .unwrap()
            .contains("{value=vxtap}")
    );
    let run = home.vxtap(&["extcap", "--uninstall", dir]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(link.symlink_metadata().is_err());
    fs::write(&link, "somebody's").unwrap();
    for flag in ["--install", "--uninstall"] {
        let run = home.vxtap(&["extcap", flag, dir]);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains("is no link"), "{}", run.stderr);
    }
    assert_eq!(fs::read(&link).unwrap(), b"somebody's");
    assert_eq!(home.vxtap(&["extcap"]).code, Some(2));
    // Where nobody knows the directory, it has to be named.
    let mut command = home.command(Command::new(VXTAP));
    let run = common::run(command.args(["extcap", "--install"]).env("PATH", ""));
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("--install DIR"), "{}", run.stderr);
}

/// The real thing: tshark lists the interface and captures from it what `vxtap send` sends.
#[test]
fn tshark_lists_it_and_captures_from_it() {
    if !tshark_captures() {
        return;
    }
    let home = Home::new();
    let installed = home.vxtap(&["extcap", "--install"]);
    assert_eq!(installed.code, Some(0), "{}", installed.stderr);
    let list = run(&mut home.tshark(&["-D"]));
    let listed = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        listed.contains("vxtap (VXLAN mirror receiver)"),
        "{listed} {} {}",
        list.stderr,
        installed.stderr
    );
    let port = free_port();
    let file = home.path("out.pcapng");
    let preference = |name: &str, value: &str| format!("extcap.vxtap.{name}:{value}");
    let preferences = [
        preference("port", &port.to_string()),
        preference("bind", "127.0.0.1"),
        preference("backend", "udp"),
        preference("vni", "202"),
    ];
    let mut command = home.tshark(&["-i", "vxtap", "-c", "20"]);
    for preference in &preferences {
        command.args(["-o", preference]);
    }
    command.arg("-w").arg(&file).stdin(Stdio::null());
    let mut child = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let said = drain(child.stderr.take().unwrap());
    let to = format!("127.0.0.1:{port}");
    let demo = testdata("demo.pcap");
    for _ in 0..TRIES {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        let sent = vxtap(["send", demo.to_str().unwrap(), "--to", &to]);
        assert_eq!(sent.code, Some(0), "{}", sent.stderr);
        std::thread::sleep(PAUSE);
    }
    let status = child.try_wait().unwrap();
    let status = status.expect("tshark has its packets");
    let said = String::from_utf8(said.join().unwrap()).unwrap();
    assert!(status.success(), "{said}");
    let frames = frames(&fs::read(&file).unwrap());
    assert!(frames.len() >= 20, "{said}");
    for frame in &frames {
        assert_eq!(frame.interface, "vni202@127.0.0.1");
    }
    assert!(frames.iter().any(|frame| frame.comment.is_some()));
    let removed = home.vxtap(&["extcap", "--uninstall"]);
    assert_eq!(removed.code, Some(0), "{}", removed.stderr);
    let list = run(&mut home.tshark(&["-D"]));
    assert!(!String::from_utf8_lossy(&list.stdout).contains("vxtap"));
}
