//! Collectors of IPFIX for the tests: one that keeps bytes, and programs that nobody here wrote.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::store::wait_until;
use super::{Running, run};

/// Takes datagrams until it is told to end.
pub struct UdpCollector {
    pub port: u16,
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl UdpCollector {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wait = Duration::from_millis(20);
        socket.set_read_timeout(Some(wait)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let over = Arc::<AtomicBool>::default();
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut messages = Vec::new();
            let mut buffer = vec![0; 65_536];
            loop {
                // What was sent before is there already.
                let is_last = is_over.load(Ordering::SeqCst);
                match socket.recv(&mut buffer) {
                    Ok(len) => messages.push(buffer[..len].to_vec()),
                    Err(_) if is_last => return messages,
                    Err(_) => {}
                }
            }
        });
        Self { port, over, thread }
    }

    /// What came.
    pub fn end(self) -> Vec<Vec<u8>> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Reads what comes through the next connection, to its end.
pub fn one_connection(listener: TcpListener) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Reads so many bytes, or what there is to the end of a connection.
pub fn read_some(stream: &mut TcpStream, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut stream = stream.take(most as u64);
    // One that was reset has ended too.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// The whole messages of a stream: RFC 7011 §3.1, version and length come first.
pub fn messages(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while stream.len() >= 16 {
        assert_eq!(stream[..2], [0, 10], "no message begins here");
        let len = usize::from(u16::from_be_bytes([stream[2], stream[3]]));
        if stream.len() < len {
            break;
        }
        let (message, rest) = stream.split_at(len);
        messages.push(message.to_vec());
        stream = rest;
    }
    messages
}

/// A capture of the messages of several exporters, each with an address of its own, to port 4739.
pub fn capture(exporters: &[Vec<Vec<u8>>]) -> Vec<u8> {
    // Classic pcap of bare IP packets (link type 101).
    let mut out = Vec::new();
    out.extend_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
    out.extend_from_slice(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&262_144_u32.to_le_bytes());
    out.extend_from_slice(&101_u32.to_le_bytes());
    for (number, messages) in exporters.iter().enumerate() {
        for message in messages {
            let udp = message.len() as u16 + 8;
            let len = u32::from(udp) + 20;
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&(len as u16).to_be_bytes());
            out.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, number as u8]);
            out.extend_from_slice(&[10, 9, 9, 9, 0x9c, 0x40, 0x12, 0x83]);
            out.extend_from_slice(&udp.to_be_bytes());
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(message);
        }
    }
    out
}

/// Enterprise and number of an element.
pub type Number = (Option<u32>, u16);

/// A record as libfixbuf reads it: name and value of each element.
pub type Elements = BTreeMap<Number, (String, String)>;

/// The records of a file of messages as ipfixDump of libfixbuf prints them, those of flows and those of options.
/// Elements of enterprises it knows from their types in the file alone (RFC 5610).
pub fn ipfix_dump(file: &Path) -> (Vec<Elements>, Vec<Elements>) {
    let mut command = Command::new("ipfixDump");
    let done = run(command.args(["--rfc5610", "--data", "--in"]).arg(file));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stderr, "");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let (mut flows, mut options) = (Vec::new(), Vec::new());
    for record in text.split("--- data record ").skip(1) {
        let header = record.lines().nth(2).unwrap();
        let fields = record.lines().skip(4).map_while(read_field);
        let fields: Elements = fields.collect();
        let tid = header.split_whitespace().nth(3).unwrap();
        match tid.parse::<u16>().unwrap() {
            256 | 257 => options.push(fields),
            _ => flows.push(fields),
        }
    }
    (flows, options)
}

/// `(32473/4)   communityId : (len: 30) 1:9MV...`
fn read_field(line: &str) -> Option<(Number, (String, String))> {
    let (number, rest) = line.trim_start().strip_prefix('(')?.split_once(')')?;
    let rest = rest.trim_start().trim_start_matches("(S)").trim_start();
    let (name, value) = rest.split_once(" : ")?;
    let value = match value.strip_prefix("(len: ") {
        Some(text) => text.split_once(") ").map_or("", |(_, text)| text),
        None => value,
    };
    let number = match number.split_once('/') {
        Some((enterprise, number)) => (Some(enterprise.parse().unwrap()), number.parse().unwrap()),
        None => (None, number.parse().unwrap()),
    };
    Some((number, (name.to_owned(), value.to_owned())))
}

/// A free UDP port.
pub fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Waits until somebody holds the UDP port.
fn wait_bound(port: u16) {
    let hex = format!("0100007F:{port:04X} ");
    wait_until(|| fs::read_to_string("/proc/net/udp").unwrap().contains(&hex));
}

/// Waits until everything that was sent to the port was read.
fn wait_read(port: u16) {
    let hex = format!("0100007F:{port:04X} ");
    wait_until(|| {
        let sockets = fs::read_to_string("/proc/net/udp").unwrap();
        let socket = sockets.lines().find(|line| line.contains(&hex)).unwrap();
        let queues = socket.split_whitespace().nth(4).unwrap();
        queues.ends_with(":00000000")
    });
}

/// A flow as a collector has it: addresses, ports, protocol, packets and bytes of the originator.
pub type Flow = (String, String, u64, u64, u64, u64, u64);

/// nfcapd, until it is ended.
pub struct Nfcapd {
    child: Running,
    pub port: u16,
    dir: tempfile::TempDir,
}

impl Nfcapd {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("nfcapd");
        command.arg("-w").arg(dir.path());
        command.args(["-b", "127.0.0.1", "-t", "3600", "-p", &port.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = Running::start(&mut command);
        wait_bound(port);
        Self { child, port, dir }
    }

    /// Ends it and has nfdump read its files: each flow with packets and bytes of both directions.
    pub fn end(mut self) -> Vec<(Flow, u64, u64)> {
        wait_read(self.port);
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
        let mut command = Command::new("nfdump");
        let done = run(command.arg("-R").arg(self.dir.path()).args(["-o", "csv"]));
        let text = String::from_utf8(done.stdout).unwrap();
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
        let at = |name: &str| names.iter().position(|is| *is == name).unwrap();
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let number = |name: &str| fields[at(name)].parse::<f64>().unwrap_or_default() as u64;
            let text = |name: &str| fields[at(name)].to_owned();
            let protocol = protocol(fields[at("pr")]);
            let flow = (
                text("sa"),
                text("da"),
                number("sp"),
                number("dp"),
                protocol,
                number("ipkt"),
                number("ibyt"),
            );
            (flow, number("opkt"), number("obyt"))
        };
        lines
            .take_while(|line| line.starts_with("20"))
            .map(row)
            .collect()
    }
}

/// nfacctd of pmacct, until it is ended.
pub struct Nfacctd {
    child: Running,
    pub port: u16,
    dir: tempfile::TempDir,
}

impl Nfacctd {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let text = format!(
            "daemonize: false\nnfacctd_ip: 127.0.0.1\nnfacctd_port: {port}\nplugins: print[a]\n\
             aggregate[a]: src_host, dst_host, src_port, dst_port, proto, timestamp_start, timestamp_end\n\
             print_output[a]: json\nprint_output_file[a]: {}\nprint_output_file_append[a]: true\n\
             print_refresh_time[a]: 3600\nnum_protos: true\nlogfile: {}\nplugin_pipe_size: 4096000\n",
            at("out"),
            at("log"),
        );
        fs::write(dir.path().join("conf"), text).unwrap();
        let mut command = Command::new("nfacctd");
        command.arg("-f").arg(dir.path().join("conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = Running::start(&mut command);
        wait_bound(port);
        Self { child, port, dir }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Ends it: its flows, and what it said about what it was sent.
    pub fn end(mut self) -> (Vec<Flow>, Vec<String>) {
        wait_read(self.port);
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        let path: PathBuf = self.dir.path().join("out");
        // The writer is a process of its own.
        wait_until(|| {
            let log = self.log();
            let times = |word: &str| log.matches(&format!("Purging cache - {word}")).count();
            times("END") > 0 && times("END") == times("START")
        });
        let text = fs::read_to_string(path).unwrap_or_default();
        let flows = super::json_lines(&text).into_iter().map(|flow| {
            let text = |name: &str| flow[name].as_str().unwrap().to_owned();
            let number = |name: &str| match &flow[name] {
                Value::String(number) => number.parse().unwrap_or_else(|_| protocol(number)),
                number => number.as_u64().unwrap(),
            };
            (
                text("ip_src"),
                text("ip_dst"),
                number("port_src"),
                number("port_dst"),
                number("ip_proto"),
                number("packets"),
                number("bytes"),
            )
        });
        let complaints = self.log();
        let complaints = complaints.lines().filter(|line| {
            ["WARN", "ERROR", "unable", "malformed"]
                .iter()
                .any(|word| line.contains(word))
        });
        (flows.collect(), complaints.map(str::to_owned).collect())
    }
}

/// A name of a protocol as its number.
fn protocol(name: &str) -> u64 {
    match &*name.to_ascii_uppercase() {
        "ICMP" => 1,
        "TCP" => 6,
        "UDP" => 17,
        "GRE" => 47,
        "ESP" => 50,
        "AH" => 51,
        "RSVP" => 46,
        "ICMP6" | "ICMPV6" | "IPV6-ICMP" => 58,
        "SCTP" => 132,
        number => number.parse().unwrap_or(255),
    }
}

/// A flow record as [`Flow`], and packets and bytes of the responder.
pub fn flow_of(record: &Value) -> (Flow, u64, u64) {
    let text = |name: &str| record[name].as_str().unwrap().to_owned();
    let number = |name: &str| record[name].as_u64().unwrap_or_default();
    let flow = (
        text("src_ip"),
        text("dst_ip"),
        number("src_port"),
        number("dst_port"),
        number("proto"),
        number("pkts_o"),
        number("ip_bytes_o"),
    );
    (flow, number("pkts_r"), number("ip_bytes_r"))
}
