//! What `vxtap listen` tells of a run beside its packets: the kernel's counters, how long packets took, and
//! a page while it goes on.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::process::{ChildStderr, Command, Stdio};

use common::Running;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const VXTAP: &str = env!("CARGO_BIN_EXE_vxtap");
/// What vxtap asks for as receive buffer; the kernel counts its own needs against twice as much.
const ASKED_BUFFER: u64 = 64 << 20;
/// Less than what one datagram takes of a receive buffer, in bytes.
const CHARGE: u64 = 512;

/// A running `vxtap listen` on a port of the system's choice, its summary on standard output.
struct Listener {
    child: Running,
    stderr: BufReader<ChildStderr>,
    to: SocketAddr,
}

impl Listener {
    /// Starts it, through `before` where that names a program, and waits until it says where it listens.
    fn start(before: &[&str], args: &[&str]) -> Self {
        let words = [
            before,
            &[VXTAP, "listen", "--bind", "127.0.0.1:0", "--summary", "-"],
            args,
        ]
        .concat();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Running::start(&mut command);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let (_, rest) = line
            .split_once("listening on ")
            .unwrap_or_else(|| panic!("said: {line}"));
        let to = rest.split_once(';').unwrap().0.parse().unwrap();
        Self { child, stderr, to }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Asks for a page.
    fn page(&mut self) -> String {
        self.signal(Signal::SIGUSR1);
        let mut page = String::new();
        while !page.ends_with("vxtap: going on\n") {
            assert!(self.stderr.read_line(&mut page).unwrap() > 0, "{page}");
        }
        page
    }

    /// Asks until it has received so many datagrams or knows them lost.
    fn wait_for(&mut self, datagrams: u64) -> String {
        loop {
            let page = self.page();
            let before = |words: &str| -> u64 {
                let line = page.lines().find(|line| line.contains(words));
                let number = line.and_then(|line| line.split_whitespace().next());
                number.map_or(0, |number| number.parse().unwrap())
            };
            if before(" received = ") + before(" lost in the kernel ") >= datagrams {
                return page;
            }
        }
    }

    /// Ends it and returns the summary and what it said at the end.
    fn end(mut self) -> (Value, String) {
        self.signal(Signal::SIGTERM);
        let (mut said, mut json) = (String::new(), String::new());
        self.stderr.read_to_string(&mut said).unwrap();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut json).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{said}");
        (serde_json::from_str(&json).unwrap(), said)
    }
}

/// A VXLAN datagram of VNI 7 with the smallest Ethernet frame. The conversation inside is one of sixteen.
fn datagram(number: u64) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0, 0, 0, 7, 0];
    payload.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let last = 1 + (number % 16) as u8;
    // IPv4 with 20 bytes of header and 8 of UDP; what is behind is padding.
    payload.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    payload.extend([10, 0, 0, last, 10, 0, 1, 1]);
    payload.extend([0x10, 0, 0, 53, 0, 8, 0, 0]);
    payload.resize(8 + 60, 0);
    payload
}

fn send(to: SocketAddr, numbers: std::ops::Range<u64>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in numbers {
        socket.send_to(&datagram(number), to).unwrap();
    }
}

/// received = delivered + malformed + filtered + duplicate + dropped.
fn assert_closes(summary: &Value) {
    let sum = |name: &str| -> u64 {
        let counts = summary[name].as_object().unwrap().values();
        counts.map(|count| count.as_u64().unwrap()).sum()
    };
    let number = |name: &str| summary[name].as_u64().unwrap();
    let ended = number("delivered") + number("duplicate");
    let ended = ended + sum("malformed") + sum("filtered") + sum("dropped");
    assert_eq!(number("received"), ended, "{summary}");
}

/// The histogram has so many values, in order.
fn assert_histogram(summary: &Value, name: &str, count: u64) {
    let histogram = &summary["histograms"][name];
    let numbers = ["min", "p50", "p90", "p99", "p999", "max"];
    let numbers = numbers.map(|number| histogram[number].as_u64().unwrap());
    assert!(numbers.is_sorted(), "{name}: {histogram}");
    let mean = histogram["mean"].as_f64().unwrap();
    // Both are right to a hundredth.
    let (least, most) = (numbers[0] as f64 * 0.98, numbers[5] as f64 * 1.02);
    assert!((least..=most).contains(&mean), "{name}: {histogram}");
    assert_eq!(histogram["count"], count, "{name}: {histogram}");
}

/// What takes away the right to a receive buffer beyond net.core.rmem_max; `None` where there is no such
/// program or nothing to take away.
fn without_privilege() -> Option<[&'static str; 3]> {
    let words = [
        "setpriv",
        "--bounding-set=-net_admin,-net_raw",
        "--inh-caps=-net_admin,-net_raw",
    ];
    let tried = Command::new(words[0])
        .args(&words[1..])
        .arg("true")
        .output();
    tried
        .is_ok_and(|tried| tried.status.success())
        .then_some(words)
}

/// Whether this process may exceed net.core.rmem_max: CAP_NET_ADMIN is number 12.
fn has_net_admin() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    capabilities & 1 << 12 != 0
}

#[test]
fn what_a_full_socket_loses_is_counted_here_and_in_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("out.pcapng");
    let privilege = without_privilege();
    let before = privilege.as_ref().map_or(&[][..], |words| &words[..]);
    let args = ["--workers", "1", "-w", capture.to_str().unwrap()];
    let mut listener = Listener::start(before, &args);
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
    let buffer = if privilege.is_none() && has_net_admin() {
        ASKED_BUFFER
    } else {
        limit.trim().parse::<u64>().unwrap().min(ASKED_BUFFER)
    };
    // More than fits, while nobody takes them out.
    let sent = 2 * buffer / CHARGE + 1000;
    listener.signal(Signal::SIGSTOP);
    send(listener.to, 0..sent);
    listener.signal(Signal::SIGCONT);
    let page = listener.wait_for(sent);
    assert!(page.contains("UdpRcvbufErrors"), "{page}");

    let (summary, said) = listener.end();
    assert_closes(&summary);
    let received = summary["received"].as_u64().unwrap();
    let overflow = summary["kernel_dropped"]["socket_overflow"].as_u64();
    let overflow = overflow.unwrap_or_else(|| panic!("nothing lost of {sent}: {said}"));
    assert_eq!(received + overflow, sent, "{said}");
    // The kernel's counter is of all sockets, and so at least that.
    let counted = summary["kernel_counters"]["UdpRcvbufErrors"].as_u64();
    assert!(counted.unwrap() >= overflow, "{said}");
    assert!(summary["kernel_counters"]["UdpInErrors"].as_u64() >= counted);
    assert!(said.contains("raise net.core.rmem_max"), "{said}");

    let delivered = summary["delivered"].as_u64().unwrap();
    assert_histogram(&summary, "arrival_to_encoded", received);
    assert_histogram(&summary, "arrival_to_written", delivered);
    assert_histogram(&summary, "frame", delivered);
    assert_eq!(summary["histograms"]["frame"]["max"], 60);
    let batches = &summary["histograms"]["batch"];
    assert!(batches["count"].as_u64().unwrap() <= received, "{batches}");
    assert!(batches["max"].as_u64().unwrap() > 1, "{batches}");
    assert!(said.contains("arrival to encoded: "), "{said}");
    assert!(said.contains("arrival to written: "), "{said}");
}

#[test]
fn sigusr1_prints_a_page_and_the_run_goes_on() {
    let mut listener = Listener::start(&[], &["--workers", "2"]);
    let page = listener.page();
    assert!(page.contains("vxtap: so far, after "), "{page}");
    assert!(page.contains("0 received = 0 delivered"), "{page}");

    send(listener.to, 0..100);
    let page = listener.wait_for(100);
    assert!(!page.contains("did not answer"), "{page}");
    assert!(page.contains("100 received = 100 delivered"), "{page}");
    assert!(page.contains("    7  127.0.0.1 "), "{page}");
    assert!(page.contains("bytes a frame: 60, 60, 60, 60"), "{page}");

    send(listener.to, 100..150);
    let page = listener.wait_for(150);
    assert!(page.contains("150 received = 150 delivered"), "{page}");
    let (summary, said) = listener.end();
    assert!(!said.contains("so far"), "{said}");
    assert_closes(&summary);
    assert_eq!(summary["received"], 150);
    assert_eq!(summary["workers"].as_array().unwrap().len(), 2);
    assert_eq!(summary["sessions"][0]["packets"], 150);
    assert_histogram(&summary, "arrival_to_encoded", 150);
    assert_histogram(&summary, "frame", 150);
    // Nothing was written, and so nothing took its time to be.
    assert!(summary["histograms"].get("arrival_to_written").is_none());
    assert!(summary["kernel_counters"].is_object(), "{summary}");
    assert!(summary["clock_steps"].is_object(), "{summary}");
}

#[test]
fn signals_in_a_row_harm_nothing() {
    let listener = Listener::start(&[], &["--workers", "2"]);
    for round in 0..20 {
        send(listener.to, 10 * round..10 * round + 10);
        listener.signal(Signal::SIGUSR1);
    }
    let (summary, said) = listener.end();
    assert_closes(&summary);
    assert_eq!(summary["received"], 200, "{said}");
}
