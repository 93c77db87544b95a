//! A `vxtap listen` that goes on, and those who ask it how it is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{Run, Running, reasons, run, vxtap_command};

/// More than anything here may take.
pub const SOON: Duration = Duration::from_secs(20);

/// What a token file holds here.
pub const TOKEN: &str = "0123456789abcdef";

/// A `vxtap listen` that goes on, with its outputs in a directory of its own.
pub struct Listening {
    pub dir: TempDir,
    pub child: Running,
    /// Where it receives.
    pub target: SocketAddr,
    /// Where it serves HTTP.
    pub http: Option<SocketAddr>,
    said: JoinHandle<String>,
}

impl Listening {
    /// Receives on loopback, with a control socket and `flags`; `DIR` in them is its directory.
    pub fn start(flags: &str) -> Self {
        Self::start_with(flags, |_| {})
    }

    /// The same with HTTP, which gives the status to who has [`TOKEN`].
    pub fn start_with_token(flags: &str) -> Self {
        let flags = format!("{flags} --http 0 --http-token-file DIR/token");
        Self::start_with(&flags, |command| {
            std::fs::write(directory_of(command).join("token"), format!("{TOKEN}\n")).unwrap();
        })
    }

    pub fn start_with(flags: &str, more: impl FnOnce(&mut Command)) -> Self {
        Self::start_on("--bind 127.0.0.1:0 --backend udp --workers 2", flags, more)
    }

    /// Receives in this way.
    pub fn start_on(way: &str, flags: &str, more: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().display().to_string();
        let mut command = vxtap_command(["listen"]);
        command.args(way.split_whitespace());
        command
            .arg("--control")
            .arg(dir.path().join("control.sock"));
        command
            .arg("--summary")
            .arg(dir.path().join("summary.json"));
        command.args(flags.replace("DIR", &here).split_whitespace());
        more(&mut command);
        let mut child = Running::start(command.stderr(Stdio::piped()).stdout(Stdio::null()));
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut said, mut http) = (String::new(), None);
        let target = loop {
            let from = said.len();
            let len = stderr.read_line(&mut said).unwrap();
            assert!(len > 0, "it ended and said {said}");
            let line = &said[from..];
            if let Some((_, at)) = line.split_once("http://") {
                http = Some(at[..at.find('/').unwrap()].parse().unwrap());
            }
            if let Some((_, at)) = line.split_once("listening on ") {
                break at[..at.find(';').unwrap()].parse().unwrap();
            }
        };
        let said = std::thread::spawn(move || {
            stderr.read_to_string(&mut said).unwrap();
            said
        });
        Self {
            dir,
            child,
            target,
            http,
            said,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// Runs `vxtap status` on it.
    pub fn status(&self, flags: &[&str]) -> Run {
        let mut command = vxtap_command(["status", "--control"]);
        run(command.arg(self.socket()).args(flags))
    }

    pub fn json(&self) -> Value {
        let run = self.status(&["--json"]);
        let json = serde_json::from_slice(&run.stdout);
        json.unwrap_or_else(|error| panic!("{error}: {}", run.stderr))
    }

    /// Waits until the status says so.
    #[track_caller]
    pub fn wait(&self, what: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.json();
            if what(&status) {
                return status;
            }
            assert!(begun.elapsed() < SOON, "{status:#}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn send(&self, flags: &str) {
        let sent = run(&mut self.send_command(flags));
        assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    }

    /// A sender that goes on, and is killed when it is dropped.
    pub fn sender(&self, flags: &str) -> Running {
        let mut command = self.send_command(flags);
        Running::start(command.stdin(Stdio::null()).stderr(Stdio::null()))
    }

    fn send_command(&self, flags: &str) -> Command {
        let mut command = vxtap_command(["send", "--to"]);
        command.arg(self.target.to_string());
        command.args(flags.split_whitespace());
        command
    }

    /// The code, head and body of the answer to a request.
    pub fn ask(&self, request: &str) -> (u16, String, String) {
        http(self.http.unwrap(), request)
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let (code, _, body) = self.ask(&request(&format!("GET {path}"), ""));
        (code, body)
    }

    /// Ends it; its exit code, what it said, and its summary.
    pub fn end(self) -> (Option<i32>, String, Value) {
        self.end_with(|_| ())
    }

    /// Ends it, and looks at what it left in its directory.
    pub fn end_with(mut self, look: impl FnOnce(&Path)) -> (Option<i32>, String, Value) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let code = self.child.wait().unwrap().code();
        let said = self.said.join().unwrap();
        assert!(!self.dir.path().join("control.sock").exists(), "{said}");
        look(self.dir.path());
        let summary = std::fs::read(self.dir.path().join("summary.json")).unwrap();
        (code, said, serde_json::from_slice(&summary).unwrap())
    }
}

/// The directory of a listener that is about to be started.
pub fn directory_of(command: &Command) -> PathBuf {
    let mut args = command.get_args().skip_while(|arg| *arg != "--control");
    let control = Path::new(args.nth(1).unwrap());
    control.parent().unwrap().to_owned()
}

/// A request of HTTP/1.1: method and path, and more lines of its head.
pub fn request(what: &str, lines: &str) -> String {
    format!("{what} HTTP/1.1\r\nHost: x\r\n{lines}\r\n")
}

pub fn http(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok());
    let code = code.unwrap_or_else(|| panic!("no answer: {answer}"));
    (code, head.to_owned(), body.to_owned())
}

/// The values of a text of metrics, by series.
pub fn series(text: &str) -> BTreeMap<String, f64> {
    let values = text.lines().filter(|line| !line.starts_with('#'));
    values
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// Metrics say of a run what its summary says.
pub fn assert_same(metrics: &BTreeMap<String, f64>, summary: &Value) {
    let count = |name: &str| summary[name].as_u64().unwrap() as f64;
    for (series, name) in [
        ("vxtap_received_packets_total", "received"),
        ("vxtap_delivered_packets_total", "delivered"),
        ("vxtap_duplicate_packets_total", "duplicate"),
    ] {
        assert_eq!(metrics[series], count(name), "{series}");
    }
    let frames = metrics.get("vxtap_frame_bytes_count");
    assert_eq!(frames, Some(&count("delivered")), "every frame has a size");
    for kind in [
        "malformed",
        "filtered",
        "dropped",
        "noted",
        "kernel_dropped",
    ] {
        let counted = reasons(summary, kind);
        let prefix = format!("vxtap_{kind}_packets_total{{reason=\"");
        let of_kind = metrics
            .iter()
            .filter(|(series, _)| series.starts_with(&prefix));
        let mut found = 0;
        for (series, value) in of_kind {
            let reason = series[prefix.len()..].trim_end_matches("\"}");
            let expected = counted.get(reason).copied().unwrap_or_default();
            assert_eq!(*value, expected as f64, "{series}");
            found += usize::from(expected > 0);
        }
        assert_eq!(
            found,
            counted.len(),
            "each reason of the summary is a series: {kind}"
        );
    }
    let sessions = summary["sessions"].as_array().unwrap();
    for session in sessions {
        let labels = format!(
            "{{vni=\"{}\",source=\"{}\"}}",
            session["vni"],
            session["source"].as_str().unwrap()
        );
        for (metric, field) in [
            ("vxtap_session_packets_total", "packets"),
            ("vxtap_session_bytes_total", "bytes"),
            ("vxtap_session_truncated_packets_total", "truncated"),
            ("vxtap_session_missing_bytes_total", "missing_bytes"),
        ] {
            let value = metrics[&format!("{metric}{labels}")];
            assert_eq!(
                value,
                session[field].as_u64().unwrap() as f64,
                "{metric}{labels}"
            );
        }
    }
    for sink in summary["sinks"].as_array().unwrap() {
        // Flow records of flows that live are made at the end.
        if sink["kind"] == "capture" {
            let labels = format!("{{kind=\"capture\",path={}}}", sink["path"]);
            let written = metrics[&format!("vxtap_sink_written_items_total{labels}")];
            assert_eq!(written, sink["written"].as_u64().unwrap() as f64);
        }
    }
}
