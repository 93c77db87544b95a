//! `vxtap listen` on loopback: what is sent arrives in the files, whatever ends the run.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use common::Running;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const VXTAP: &str = env!("CARGO_BIN_EXE_vxtap");

/// A running `vxtap listen` on ports of the system's choice.
struct Listener {
    child: Running,
    stderr: BufReader<std::process::ChildStderr>,
    addresses: Vec<SocketAddr>,
}

impl Listener {
    /// Starts it and waits until it says where it listens.
    fn start(binds: &[&str], args: &[&str]) -> Self {
        let mut command = Command::new(VXTAP);
        command.arg("listen");
        for bind in binds {
            command.args(["--bind", bind]);
        }
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Running::start(&mut command);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let (_, rest) = line
            .split_once("listening on ")
            .unwrap_or_else(|| panic!("said: {line}"));
        let (addresses, _) = rest.split_once(';').unwrap();
        let addresses = addresses
            .split(", ")
            .map(|address| address.parse().unwrap())
            .collect();
        Self {
            child,
            stderr,
            addresses,
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end and returns exit code and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

/// The UDP payloads of a classic little-endian Ethernet/IPv4 capture that went to port 4789.
fn payloads(path: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[24..];
    let mut payloads = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let packet = &rest[16..16 + len];
        if packet[12..14] == [8, 0] && packet[23] == 17 && packet[36..38] == 4789u16.to_be_bytes() {
            payloads.push(packet[42..].to_vec());
        }
        rest = &rest[16 + len..];
    }
    payloads
}

fn demo() -> Vec<Vec<u8>> {
    payloads("testdata/demo.pcap")
}

fn send(from: &UdpSocket, to: SocketAddr, payloads: &[Vec<u8>]) {
    for payload in payloads {
        from.send_to(payload, to).unwrap();
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// received = delivered + malformed + filtered + duplicate + dropped.
fn assert_closes(summary: &Value) {
    let sum = |name: &str| -> u64 {
        summary[name]
            .as_object()
            .unwrap()
            .values()
            .map(|count| count.as_u64().unwrap())
            .sum()
    };
    let number = |name: &str| summary[name].as_u64().unwrap();
    let ended = number("delivered") + number("duplicate");
    let ended = ended + sum("malformed") + sum("filtered") + sum("dropped");
    assert_eq!(number("received"), ended, "{summary}");
}

/// Flow records without what two runs cannot share: times, identity and outer addresses.
fn flows(path: &Path) -> BTreeMap<String, u64> {
    let mut flows = BTreeMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        for name in [
            "ts_start",
            "ts_end",
            "dur_ns",
            "flow_id",
            "outer_src",
            "outer_dst",
        ] {
            record.as_object_mut().unwrap().remove(name).unwrap();
        }
        // Where there is a capture, a handshake, and what the outer address tells.
        for name in ["first_file", "first_off", "rtt_syn_ns", "dir", "dir_by"] {
            record.as_object_mut().unwrap().remove(name);
        }
        *flows.entry(record.to_string()).or_default() += 1;
    }
    flows
}

#[test]
fn live_and_replay_give_the_same_flow_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let (capture, live, summary) = (text("live.pcapng"), text("live.jsonl"), text("live.json"));
    let args = [
        "--count",
        "90",
        "-w",
        &capture,
        "--flows",
        &live,
        "--summary",
        &summary,
    ];
    let listener = Listener::start(&["127.0.0.1:0"], &args);

    // One session only: on loopback all sources share an address, and so would their flows.
    let first_session: Vec<Vec<u8>> = {
        let bytes = std::fs::read("testdata/demo.pcap").unwrap();
        let mut rest = &bytes[24..];
        let mut chosen = bytes[..24].to_vec();
        let mut sent = Vec::new();
        while !rest.is_empty() {
            let len = 16 + u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
            let packet = &rest[16..len];
            if packet[26..30] == [10, 0, 1, 11] && packet[23] == 17 {
                chosen.extend_from_slice(&rest[..len]);
                sent.push(packet[42..].to_vec());
            }
            rest = &rest[len..];
        }
        std::fs::write(path("session.pcap"), chosen).unwrap();
        sent
    };
    assert_eq!(first_session.len(), 90);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    send(&socket, listener.addresses[0], &first_session);
    let (code, said) = listener.end();
    assert_eq!(code, Some(0), "{said}");
    let summary = json(&path("live.json"));
    assert_closes(&summary);
    assert_eq!(summary["delivered"], 90);

    let replayed = text("replay.jsonl");
    let status = Command::new(VXTAP)
        .args(["replay", &text("session.pcap"), "--flows", &replayed])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let (live, replayed) = (flows(&path("live.jsonl")), flows(&path("replay.jsonl")));
    assert!(live.len() > 5);
    assert_eq!(live, replayed);
}

#[test]
fn several_addresses_of_both_families_and_every_frame_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (capture, summary) = (dir.path().join("out.pcap"), dir.path().join("out.json"));
    let args = [
        "--count",
        "198",
        "--format",
        "pcap",
        "-w",
        capture.to_str().unwrap(),
    ];
    let args = [&args[..], &["--summary", summary.to_str().unwrap()]].concat();
    let listener = Listener::start(&["127.0.0.1:0", "[::1]:0"], &args);
    let sockets = ["127.0.0.1:0", "[::1]:0"].map(|local| UdpSocket::bind(local).unwrap());
    let payloads = demo();
    for (at, payload) in payloads.iter().enumerate() {
        sockets[at % 2]
            .send_to(payload, listener.addresses[at % 2])
            .unwrap();
    }
    let (code, said) = listener.end();
    assert_eq!(code, Some(0), "{said}");
    let summary = json(&summary);
    assert_closes(&summary);
    assert_eq!(
        summary["sessions"].as_array().unwrap().len(),
        4,
        "two VNIs from two addresses"
    );

    // The probe among the datagrams has no I flag and is in no capture.
    let mirrored = payloads.iter().filter(|payload| payload[0] & 0x08 != 0);
    let mut sent: Vec<&[u8]> = mirrored.map(|payload| &payload[8..]).collect();
    let bytes = std::fs::read(&capture).unwrap();
    let mut rest = &bytes[24..];
    let mut written = Vec::new();
    while !rest.is_empty() {
        let len = 16 + u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        written.push(&rest[16..len]);
        rest = &rest[len..];
    }
    // Two sockets are read in turn, so the order across them is not that of sending.
    written.sort_unstable();
    sent.sort_unstable();
    assert_eq!(written, sent);
}

#[test]
fn a_signal_finishes_the_file() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let (capture, summary) = (dir.path().join("out.pcapng"), dir.path().join("out.json"));
        let args = [
            "-w",
            capture.to_str().unwrap(),
            "--summary",
            summary.to_str().unwrap(),
        ];
        let listener = Listener::start(&["127.0.0.1:0"], &args);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        send(&socket, listener.addresses[0], &demo());
        listener.signal(signal);
        let (code, said) = listener.end();
        assert_eq!(code, Some(0), "{said}");
        let summary = json(&summary);
        assert_closes(&summary);
        // What was sent before the signal waits in the socket; stopping empties it first.
        assert_eq!(summary["received"], 199);
        assert_eq!(summary["sinks"][0]["written"], 198);
        assert!(capture.exists());
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            2,
            "no .part is left"
        );
    }
}

#[test]
fn nothing_arrives_and_the_user_is_told_what_to_check() {
    let (code, said) = Listener::start(&["127.0.0.1:0"], &["--duration", "200ms"]).end();
    assert_eq!(code, Some(0));
    assert!(said.contains("Nothing arrived on 127.0.0.1:"), "{said}");
    assert!(said.contains("security group"), "{said}");
}

#[test]
fn a_held_port_names_the_holder() {
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let output = Command::new(VXTAP)
        .args(["listen", "--bind", &address])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains(&address) && !said.contains("vxlan device"),
        "{said}"
    );
    assert!(
        said.contains(&format!("process {}", std::process::id())),
        "{said}"
    );
}

#[test]
fn odd_datagrams_are_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    let summary = dir.path().join("out.json");
    let capture = dir.path().join("out.pcapng");
    let args = [
        "--summary",
        summary.to_str().unwrap(),
        "-w",
        capture.to_str().unwrap(),
    ];
    let listener = Listener::start(&["127.0.0.1:0"], &[&args[..], &["--count", "2"]].concat());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let vxlan = [8, 0, 0, 0, 0, 0, 7, 0];
    let mut clear = vec![0; 60];
    clear[6] = 7;
    let datagrams: [Vec<u8>; 6] = [
        vec![],
        vec![1],
        b"health-check".to_vec(),
        clear,
        // As large as UDP allows, and then the smallest frame.
        [&vxlan[..], &vec![0xab; 65_507 - 8]].concat(),
        [&vxlan[..], &[0xcd]].concat(),
    ];
    send(&socket, listener.addresses[0], &datagrams);
    let (code, said) = listener.end();
    assert_eq!(code, Some(0), "{said}");
    let summary = json(&summary);
    assert_closes(&summary);
    assert_eq!(summary["filtered"]["probe"], 3);
    assert_eq!(summary["malformed"]["vni_not_valid"], 1);
    assert_eq!(summary["sessions"][0]["bytes"], 65_507 - 8 + 1);
    assert_eq!(summary["sessions"][0]["truncated"], 0);
}

#[test]
fn standard_output_carries_the_capture_at_once_and_its_reader_may_leave() {
    let mut listener = Listener::start(&["127.0.0.1:0"], &["-w", "-"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut stdout = listener.child.stdout.take().unwrap();
    send(&socket, listener.addresses[0], &demo()[..1]);
    // The first frame comes through while the link is idle again.
    let mut seen = Vec::new();
    while !seen
        .windows(6)
        .any(|window| window == [0x02, 0x00, 0x0a, 0x00, 0x01, 0x0b])
    {
        let mut buffer = [0; 4096];
        let len = stdout.read(&mut buffer).unwrap();
        assert!(len > 0, "the capture ended early");
        seen.extend_from_slice(&buffer[..len]);
    }
    assert!(seen.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
    drop(stdout);
    send(&socket, listener.addresses[0], &demo());
    let (code, said) = listener.end();
    assert_eq!(code, Some(0), "the reader went away, that is all: {said}");
}

/// Nothing comes that would have to be written: it is noticed all the same, and is no fault.
#[test]
fn a_quiet_run_notices_that_its_reader_left() {
    for output in [["-w", "-"], ["--flows", "-"]] {
        // Long after a run that ends by itself.
        let args = [&output[..], &["--duration", "30s"]].concat();
        let mut listener = Listener::start(&["127.0.0.1:0"], &args);
        let mut stdout = listener.child.stdout.take().unwrap();
        if output[0] == "-w" {
            // The header has come through.
            stdout.read_exact(&mut [0; 28]).unwrap();
        }
        drop(stdout);
        let (code, said) = listener.end();
        assert_eq!(code, Some(0), "{said}");
        let told = said.matches("the reader of standard output went away");
        assert_eq!(told.count(), 1, "{said}");
        assert!(!said.contains("statistics"), "{said}");
    }
}

#[test]
fn a_listener_on_every_address_knows_where_a_datagram_came_to() {
    let dir = tempfile::tempdir().unwrap();
    let summary = dir.path().join("out.json");
    let args = ["--count", "10", "--summary", summary.to_str().unwrap()];
    let listener = Listener::start(&["0.0.0.0:0"], &args);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], listener.addresses[0].port()));
    send(&socket, to, &demo()[..10]);
    assert_eq!(listener.end().0, Some(0));
    assert_eq!(json(&summary)["sessions"][0]["target"], "127.0.0.1");
}

/// `--log-format json` makes each line of the log an object; what is no log line stays text.
#[test]
fn lines_of_the_log_as_json() {
    let args = ["listen", "--bind", "127.0.0.1:0", "--duration", "200ms"];
    let of = |format: &str| {
        let done = common::vxtap(args.iter().chain(&["--log-format", format]));
        let lines = done
            .stderr
            .lines()
            .filter(|line| line.contains("sandbox: "));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        assert_eq!((done.code, lines.len()), (Some(0), 1), "{}", done.stderr);
        serde_json::from_str::<Value>(&lines[0])
    };
    let line = of("json").unwrap();
    assert_eq!(line["level"], "INFO");
    assert!(line["message"].as_str().unwrap().starts_with("sandbox: "));
    assert!(of("text").is_err());
    assert_eq!(
        common::vxtap(args.iter().chain(&["--log-format", "xml"])).code,
        Some(2)
    );
}
