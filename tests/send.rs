//! `vxtap send`: what it writes is read back with pcap-file, by offset and with tshark; what it sends
//! with a socket of the standard library.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::Running;
use pcap_file::pcap::{PcapHeader, PcapReader, PcapTsResolution};
use pcap_file::{DataLink, Endianness};

const IPV4_HEADERS_LEN: usize = 14 + 20 + 8 + 8;
const IPV6_HEADERS_LEN: usize = 14 + 40 + 8 + 8;

fn testdata(name: &str) -> String {
    format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn send(args: &[&str]) -> Output {
    send_with_stdin(args, &[])
}

fn send_with_stdin(args: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vxtap"));
    command
        .arg("send")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Running::start(&mut command);
    // It may end without reading: then there is nobody to write to.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
}

/// The number in front of `what` in the summary line.
#[track_caller]
fn counted(output: &Output, what: &str) -> u64 {
    let text = stderr(output);
    let line = text.lines().find(|line| line.starts_with("vxtap: frames:"));
    let line = line.unwrap_or_else(|| panic!("no summary in {text}"));
    let before = line.split(what).next().unwrap().trim_end();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A packet of a pcap file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    time: Duration,
    orig_len: u32,
    bytes: Vec<u8>,
}

fn read(path: impl AsRef<Path>) -> Vec<Packet> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        packets.push(Packet {
            time: packet.timestamp(),
            orig_len: packet.orig_len(),
            bytes: packet.data().to_vec(),
        });
    }
    packets
}

/// A directory and the path of a file to be in it.
fn output() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcap");
    (dir, path)
}

/// Runs with --write and reads the file.
#[track_caller]
fn written(args: &[&str]) -> (Vec<Packet>, Output) {
    let (_dir, path) = output();
    let output = send(&[args, &["--write", path.to_str().unwrap()]].concat());
    assert_code(&output, 0);
    assert!(output.stdout.is_empty());
    (read(path), output)
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// A capture of `frames`: pcap, little-endian, microseconds, Ethernet.
fn pcap_of<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
    bytes.extend([0; 8]);
    bytes.extend([0, 0, 4, 0, 1, 0, 0, 0]);
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap();
        for word in [1_768_435_200, 0, len, len] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(frame);
    }
    bytes
}

/// Ethernet without IP.
fn frame_of_len(len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.resize(len, b'x');
    frame
}

/// What the system refuses is told with its reason.
#[test]
fn addresses_that_cannot_be_used() {
    let plain = testdata("plain.pcap");
    let plain = plain.as_str();
    for (flags, told) in [
        (
            &["--to", "127.0.0.1:9", "--source", "192.0.2.1"][..],
            "no interface of this machine has that address",
        ),
        (
            &["--to", "fe80::7"],
            "name it: --to '[fe80::7%INTERFACE]:4789'",
        ),
        (
            &["--to", "255.255.255.255"],
            "cannot send to 255.255.255.255:4789",
        ),
    ] {
        if flags.contains(&"fe80::7") && UdpSocket::bind("[::1]:0").is_err() {
            continue;
        }
        let output = send(&[&[plain], flags].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn frames_and_times_stay_as_they_are() {
    let input = read(testdata("plain.pcap"));
    let (packets, output) = written(&[&testdata("plain.pcap"), "--vni", "66051"]);
    assert_eq!((packets.len(), input.len()), (32, 32));
    for (packet, frame) in packets.iter().zip(&input) {
        let bytes = &packet.bytes;
        assert_eq!(bytes[IPV4_HEADERS_LEN..], frame.bytes);
        assert_eq!(packet.time, frame.time);
        assert_eq!(packet.orig_len as usize, bytes.len());
        assert_eq!(bytes[0] & 3, 2, "unicast, locally administered");
        assert_eq!(bytes[6] & 3, 2, "unicast, locally administered");
        assert_eq!(bytes[12..16], [0x08, 0, 0x45, 0]);
        assert_eq!(be16(bytes, 16), bytes.len() - 14);
        assert_eq!(bytes[26..34], [192, 0, 2, 1, 192, 0, 2, 2]);
        let sum: usize = (14..34).step_by(2).map(|at| be16(bytes, at)).sum();
        assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff, "IPv4 checksum");
        assert_eq!((be16(bytes, 34), be16(bytes, 36)), (49_152, 4789));
        assert_eq!(be16(bytes, 38), bytes.len() - 34);
        assert_eq!(be16(bytes, 40), 0, "UDP checksum");
        assert_eq!(bytes[42..50], [8, 0, 0, 0, 1, 2, 3, 0]);
    }
    for (what, count) in [(" read", 32), (" written", 32), (" of them cut", 0)] {
        assert_eq!(counted(&output, what), count, "{what}");
    }
    let frames_len: usize = input.iter().map(|frame| frame.bytes.len() + 8).sum();
    assert_eq!(counted(&output, " bytes"), frames_len as u64);
}

#[test]
fn the_file_is_little_endian_pcap_with_nanoseconds() {
    let (_dir, path) = output();
    let path = path.to_str().unwrap();
    assert_code(&send(&[&testdata("plain.pcap"), "--write", path]), 0);
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = PcapHeader::from_slice(&bytes).unwrap();
    assert_eq!(header.endianness, Endianness::Little);
    assert_eq!(header.ts_resolution, PcapTsResolution::NanoSecond);
    assert_eq!(header.datalink, DataLink::ETHERNET);
    assert_eq!(header.snaplen, 262_144);
}

#[test]
fn packet_length_keeps_the_first_bytes() {
    let input = read(testdata("plain.pcap"));
    let (packets, output) = written(&[&testdata("plain.pcap"), "--packet-length", "96"]);
    for (packet, frame) in packets.iter().zip(&input) {
        let kept = frame.bytes.len().min(96);
        assert_eq!(packet.bytes[IPV4_HEADERS_LEN..], frame.bytes[..kept]);
        assert_eq!(packet.orig_len as usize, IPV4_HEADERS_LEN + kept);
    }
    let longer = input.iter().filter(|frame| frame.bytes.len() > 96).count();
    assert_eq!(counted(&output, " of them cut"), longer as u64);
    assert_eq!(counted(&output, " written"), 32);
}

#[test]
fn mtu_bounds_the_outer_ip_packet() {
    let plain = testdata("plain.pcap");
    for (to, headers_len, inner_len) in [("192.0.2.9", 50, 1464), ("2001:db8::9", 70, 1444)] {
        let (packets, output) = written(&[&plain, "--mtu", "1500", "--to", to]);
        let longest = packets.iter().map(|packet| packet.bytes.len()).max();
        assert_eq!(longest, Some(14 + 1500));
        assert_eq!(longest, Some(headers_len + inner_len));
        assert_eq!(counted(&output, " of them cut"), 2, "frames of 1514 bytes");
    }
    let (packets, _) = written(&[&plain, "--mtu", "1500", "--packet-length", "60"]);
    assert!(packets.iter().all(|packet| packet.bytes.len() <= 50 + 60));
}

#[test]
fn vxlan_is_passed_on_unchanged() {
    let input = read(testdata("demo.pcap"));
    let args = [
        &testdata("demo.pcap"),
        "--vni",
        "9",
        "--packet-length",
        "60",
    ];
    let (packets, output) = written(&args);
    assert_eq!((packets.len(), input.len()), (198, 200));
    let mut rest = input.iter();
    for packet in &packets {
        assert!(rest.any(|record| record == packet), "{packet:?}");
    }
    assert_eq!(counted(&output, " skipped"), 2);
    assert_eq!(counted(&output, " of them cut"), 0);
}

#[test]
fn plain_encapsulates_vxlan_again() {
    let input = read(testdata("demo.pcap"));
    let (packets, output) = written(&[&testdata("demo.pcap"), "--plain"]);
    assert_eq!(packets.len(), 200);
    for (packet, frame) in packets.iter().zip(&input) {
        assert_eq!(packet.bytes[IPV4_HEADERS_LEN..], frame.bytes);
    }
    assert_eq!(counted(&output, " skipped"), 0);
}

/// Where the link layer is not Ethernet, headers are made anew, with the addresses and ports there
/// were.
#[test]
fn vxlan_behind_another_link_layer_gets_ethernet() {
    let input = read(testdata("raw-ip.pcap"));
    let (packets, _) = written(&[&testdata("raw-ip.pcap")]);
    assert_eq!((packets.len(), input.len()), (4, 4));
    for (packet, record) in packets.iter().zip(&input) {
        let (addresses, ports) = match record.bytes[0] >> 4 {
            4 => (12..20, 20..24),
            _ => (8..40, 40..44),
        };
        let (ip, udp) = (&packet.bytes[14..], &record.bytes);
        assert_eq!(ip[addresses.clone()], udp[addresses]);
        assert_eq!(ip[ports.clone()], udp[ports.clone()]);
        assert_eq!(ip[ports.end + 4..], udp[ports.end + 4..], "UDP payload");
        assert_eq!(packet.time, record.time);
    }
}

/// Records cut by a snap length stay cut, and say how long the packet was.
#[test]
fn vxlan_cut_by_its_capture() {
    let input = read(testdata("vxlan-header-cut.pcap"));
    let (packets, output) = written(&[&testdata("vxlan-header-cut.pcap")]);
    assert_eq!(packets, input[4..]);
    assert!(packets[0].bytes.len() < packets[0].orig_len as usize);
    assert_eq!(counted(&output, " skipped"), 4);
}

#[test]
fn vxlan_cut_by_its_capture_behind_another_link_layer() {
    let whole = &read(testdata("raw-ip.pcap"))[0];
    let mut capture = pcap_of([&whole.bytes[..60]]);
    // Link type and original length.
    capture[20] = 101;
    capture[36..40].copy_from_slice(&whole.orig_len.to_le_bytes());
    let output = send_with_stdin(&["-", "--write", "-"], &capture);
    let mut reader = PcapReader::new(output.stdout.as_slice()).unwrap();
    let packet = reader.next_packet().unwrap().unwrap();
    assert_eq!(packet.data().len(), 14 + 60);
    assert_eq!(packet.orig_len(), 14 + whole.orig_len);
    assert_eq!(be16(packet.data(), 16), whole.bytes.len(), "IP length");
}

#[test]
fn the_port_of_the_target_counts_as_vxlan() {
    let file = testdata("other-port.pcap");
    let (packets, _) = written(&[&file]);
    assert_eq!(packets.len(), 1);
    let (packets, output) = written(&[&file, "--to", "192.0.2.2:8472"]);
    assert_eq!(packets.len(), 4);
    assert_eq!(counted(&output, " skipped"), 1);
}

#[test]
fn vxlan_is_looked_for_in_a_thousand_frames() {
    let vxlan = read(testdata("demo.pcap")).swap_remove(0).bytes;
    let plain = frame_of_len(60);
    for (before, expected) in [(999, (1, 999)), (1000, (1001, 0))] {
        let frames = std::iter::repeat_n(plain.as_slice(), before);
        let capture = pcap_of(frames.chain([vxlan.as_slice()]));
        let output = send_with_stdin(&["-", "--write", "-"], &capture);
        assert_code(&output, 0);
        let counts = (counted(&output, " written"), counted(&output, " skipped"));
        assert_eq!(counts, expected, "after {before} frames");
    }
}

#[test]
fn source_ports() {
    let plain = testdata("plain.pcap");
    let (packets, _) = written(&[&plain, "--source-port", "5000"]);
    assert!(packets.iter().all(|packet| be16(&packet.bytes, 34) == 5000));

    let (packets, _) = written(&[&plain, "--source-port-hash"]);
    let (again, _) = written(&[&plain, "--source-port-hash", "--packet-length", "20"]);
    let mut ports: BTreeMap<Vec<u8>, BTreeSet<usize>> = BTreeMap::new();
    for (packet, cut) in packets.iter().zip(&again) {
        let port = be16(&packet.bytes, 34);
        assert!(port >= 49_152);
        assert_eq!(port, be16(&cut.bytes, 34), "a cut does not move a flow");
        let inner = &packet.bytes[IPV4_HEADERS_LEN..];
        if inner[12..14] == [0x08, 0] && inner[23] == 6 {
            ports
                .entry(inner[26..38].to_vec())
                .or_default()
                .insert(port);
        }
    }
    assert_eq!(ports.len(), 2, "one conversation, both ways");
    assert!(ports.values().all(|ports| ports.len() == 1));
    assert_ne!(ports.first_key_value(), ports.last_key_value());
}

#[test]
fn ipv6_target() {
    let input = read(testdata("plain.pcap"));
    let target = "[2001:db8:9::9]:4790";
    let (packets, _) = written(&[&testdata("plain.pcap"), "--to", target]);
    for (packet, frame) in packets.iter().zip(&input) {
        let bytes = &packet.bytes;
        assert_eq!(bytes[IPV6_HEADERS_LEN..], frame.bytes);
        assert_eq!(bytes[12..15], [0x86, 0xdd, 0x60]);
        assert_eq!(be16(bytes, 18), bytes.len() - 54);
        assert_eq!(bytes[20], 17);
        let source: [u8; 16] = bytes[22..38].try_into().unwrap();
        assert_eq!(std::net::Ipv6Addr::from(source).to_string(), "2001:db8::1");
        let target: [u8; 16] = bytes[38..54].try_into().unwrap();
        assert_eq!(
            std::net::Ipv6Addr::from(target).to_string(),
            "2001:db8:9::9"
        );
        assert_eq!(be16(bytes, 56), 4790);
        assert_eq!(be16(bytes, 60), 0, "UDP checksum");
    }
    let (packets, _) = written(&[&testdata("plain.pcap"), "--source", "fd00::7"]);
    assert_eq!(packets[0].bytes[22..24], [0xfd, 0]);
}

#[test]
fn copies_follow_one_another() {
    let input = read(testdata("plain.pcap"));
    let (packets, output) = written(&[&testdata("plain.pcap"), "--loop", "3"]);
    assert_eq!(packets.len(), 96);
    assert_eq!(counted(&output, " read"), 96);
    assert!(packets.is_sorted_by_key(|packet| packet.time));
    let copy = input[31].time - input[0].time + Duration::from_millis(1);
    for (at, packet) in packets.iter().enumerate() {
        let copies = u32::try_from(at / 32).unwrap();
        assert_eq!(packet.time, input[at % 32].time + copy * copies);
    }
}

#[test]
fn damaged_input_keeps_what_stood_before() {
    let (dir, path) = output();
    let out = path.to_str().unwrap();
    let output = send(&[&testdata("malformed/cut-record.pcap"), "--write", out]);
    assert_code(&output, 1);
    assert!(
        stderr(&output).contains("cut-record.pcap: byte 474"),
        "{}",
        stderr(&output)
    );
    let input = &testdata("malformed/cut-record.pcap");
    let mut reader = PcapReader::new(File::open(input).unwrap()).unwrap();
    for packet in read(&path) {
        assert_eq!(reader.next_packet().unwrap().unwrap().data(), packet.bytes);
    }
    assert_eq!(counted(&output, " written"), 3);

    std::fs::write(&path, "an earlier run's").unwrap();
    let output = send(&[&testdata("malformed/empty.pcap"), "--write", out]);
    assert_code(&output, 1);
    assert_eq!(std::fs::read(&path).unwrap(), b"an earlier run's");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn too_large_frames_are_counted() {
    let frames = [65_499, 65_500, 70_000, 60].map(frame_of_len);
    let capture = pcap_of(frames.iter().map(Vec::as_slice));
    let output = send_with_stdin(&["-", "--write", "-"], &capture);
    assert_code(&output, 0);
    assert_eq!(counted(&output, " written"), 2);
    assert_eq!(counted(&output, " too large"), 2);
    assert!(stderr(&output).contains("WARN"), "{}", stderr(&output));

    let receiver = Receiver::bind("127.0.0.1:0");
    let output = send_with_stdin(&["-", "--to", &receiver.address()], &capture);
    assert_code(&output, 0);
    assert_eq!(counted(&output, " too large"), 2);
    let lens: Vec<usize> = receiver
        .all()
        .iter()
        .map(|(_, payload)| payload.len())
        .collect();
    assert_eq!(lens, [65_507, 68]);
}

/// A socket on loopback.
struct Receiver(UdpSocket);

impl Receiver {
    fn bind(address: &str) -> Self {
        Self(UdpSocket::bind(address).unwrap())
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// What has arrived, with its sender: on loopback all there will be once the sender has ended.
    fn all(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.0.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 65_536];
        let mut datagrams = Vec::new();
        while let Ok((len, sender)) = self.0.recv_from(&mut buffer) {
            datagrams.push((sender, buffer[..len].to_vec()));
        }
        datagrams
    }
}

#[track_caller]
fn assert_carries(datagrams: &[(SocketAddr, Vec<u8>)], vni: u8, frames: &[Packet]) {
    assert_eq!(datagrams.len(), frames.len());
    for ((_, payload), frame) in datagrams.iter().zip(frames) {
        assert_eq!(payload[..8], [8, 0, 0, 0, 0, 0, vni, 0]);
        assert_eq!(payload[8..], frame.bytes);
    }
}

#[test]
fn sent_frames_arrive() {
    let input = read(testdata("plain.pcap"));
    let receiver = Receiver::bind("127.0.0.1:0");
    let output = send(&[
        &testdata("plain.pcap"),
        "--to",
        &receiver.address(),
        "--vni",
        "5",
    ]);
    assert_code(&output, 0);
    assert!(output.stdout.is_empty());
    let datagrams = receiver.all();
    assert_carries(&datagrams, 5, &input);
    assert!(
        datagrams
            .iter()
            .all(|(sender, _)| *sender == datagrams[0].0)
    );
    assert_eq!(counted(&output, " sent"), 32);
}

#[test]
fn sent_frames_arrive_over_ipv6() {
    let Ok(socket) = UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let receiver = Receiver(socket);
    assert_code(
        &send(&[&testdata("plain.pcap"), "--to", &receiver.address()]),
        0,
    );
    assert_carries(&receiver.all(), 1, &read(testdata("plain.pcap")));
}

#[test]
fn sent_vxlan_arrives_as_it_was() {
    let receiver = Receiver::bind("127.0.0.1:0");
    let file = testdata("session-96.pcap");
    assert_code(
        &send(&[&file, "--to", &receiver.address(), "--loop", "2"]),
        0,
    );
    let input = read(file);
    let payloads: Vec<_> = receiver
        .all()
        .into_iter()
        .map(|(_, payload)| payload)
        .collect();
    let expected = input.iter().chain(&input).map(|record| &record.bytes[42..]);
    assert!(payloads.iter().map(Vec::as_slice).eq(expected));
}

#[test]
fn sent_from_the_ports_asked_for() {
    let receiver = Receiver::bind("127.0.0.1:0");
    let port = Receiver::bind("127.0.0.1:0").0.local_addr().unwrap().port();
    let common = [
        &testdata("plain.pcap"),
        "--to",
        &receiver.address(),
        "--source",
        "127.0.0.1",
    ];
    let output = send(&[&common[..], &["--source-port", &port.to_string()]].concat());
    assert_code(&output, 0);
    let sender = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(receiver.all().iter().all(|(from, _)| *from == sender));

    // A port that is taken makes room for the next.
    let mut taken = Vec::new();
    let mut before = BTreeSet::new();
    for _ in 0..2 {
        assert_code(&send(&[&common[..], &["--source-port-hash"]].concat()), 0);
        let datagrams = receiver.all();
        assert_carries(&datagrams, 1, &read(testdata("plain.pcap")));
        let ports: BTreeSet<u16> = datagrams.iter().map(|(from, _)| from.port()).collect();
        assert!(ports.len() > 3 && ports.iter().all(|port| *port >= 49_152));
        assert!(ports.is_disjoint(&before), "{ports:?} {before:?}");
        let groups = |ports: &BTreeSet<u16>| ports.iter().map(|port| port / 64).collect::<Vec<_>>();
        assert!(before.is_empty() || groups(&ports) == groups(&before));
        taken.extend(
            ports
                .iter()
                .map(|port| UdpSocket::bind(("127.0.0.1", *port)).unwrap()),
        );
        before = ports;
    }
}

#[test]
fn the_pace_is_kept() {
    let receiver = Receiver::bind("127.0.0.1:0");
    // 32 frames, recorded within half a second.
    for (pace, seconds) in [
        (["--pps", "100"].as_slice(), 0.31),
        (&["--as-recorded"], 0.5),
        (&["--speed", "2"], 0.25),
    ] {
        let args = [&testdata("plain.pcap"), "--to", &receiver.address()];
        let output = send(&[&args[..], pace].concat());
        assert_code(&output, 0);
        let text = stderr(&output);
        let took: f64 = text.trim_end().rsplit(' ').nth(1).unwrap().parse().unwrap();
        assert!(
            (seconds..seconds + 5.0).contains(&took),
            "{pace:?} took {took} s"
        );
    }
    assert_eq!(receiver.all().len(), 3 * 32);
}

/// Time that runs back counts as none, and each file has a time of its own.
#[test]
#[allow(clippy::disallowed_methods, reason = "the test is about time")]
fn gaps_that_are_not_waited_for() {
    let (dir, _) = output();
    let frame = frame_of_len(60);
    let early = pcap_of([frame.as_slice()]);
    let mut back = pcap_of([frame.as_slice(), &frame]);
    // The first record's seconds, half a minute later.
    back[24] += 30;
    let paths = ["early.pcap", "back.pcap"].map(|name| dir.path().join(name));
    std::fs::write(&paths[0], early).unwrap();
    std::fs::write(&paths[1], back).unwrap();
    let receiver = Receiver::bind("127.0.0.1:0");
    let to = receiver.address();
    let [early, back] = paths.each_ref().map(|path| path.to_str().unwrap());
    let started = std::time::Instant::now();
    assert_code(&send(&[early, back, "--to", &to, "--as-recorded"]), 0);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(receiver.all().len(), 3);
}

#[test]
fn nobody_listens() {
    // tcpmux: no system has it any more.
    let output = send(&[&testdata("plain.pcap"), "--to", "127.0.0.1:1"]);
    assert_code(&output, 0);
    assert_eq!(counted(&output, " sent"), 32);
    let warnings = stderr(&output).matches("does not take datagrams").count();
    assert_eq!(warnings, 1, "{}", stderr(&output));
}

#[test]
fn standard_input_and_output() {
    let plain = testdata("plain.pcap");
    let capture = std::fs::read(&plain).unwrap();
    let piped = send_with_stdin(&["-", "--write", "-"], &capture);
    assert_code(&piped, 0);
    let (_dir, path) = output();
    assert_code(&send(&[&plain, "--write", path.to_str().unwrap()]), 0);
    assert_eq!(piped.stdout, std::fs::read(path).unwrap());

    let receiver = Receiver::bind("127.0.0.1:0");
    let demo = std::fs::read(testdata("session-96.pcap")).unwrap();
    let output = send_with_stdin(&["-", "--to", &receiver.address()], &demo);
    assert_code(&output, 0);
    assert_eq!(receiver.all().len(), 11);
}

#[test]
fn an_input_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.pcap");
    std::fs::copy(testdata("plain.pcap"), &input).unwrap();
    let link = dir.path().join("link.pcap");
    std::fs::hard_link(&input, &link).unwrap();
    let before = std::fs::read(&input).unwrap();
    for path in [&input, &link] {
        let (input, path) = (input.to_str().unwrap(), path.to_str().unwrap());
        let output = send(&[&testdata("demo.pcap"), input, "--write", path]);
        assert_code(&output, 2);
        assert!(stderr(&output).contains("would overwrite the input"));
    }
    if cfg!(unix) {
        let redirected = Command::new(env!("CARGO_BIN_EXE_vxtap"))
            .args(["send", "-", "--write", input.to_str().unwrap()])
            .stdin(File::open(&link).unwrap())
            .output()
            .unwrap();
        assert_code(&redirected, 2);
    }
    assert_eq!(std::fs::read(&input).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn faults_exit_with_1() {
    let (dir, path) = output();
    let out = path.to_str().unwrap();
    let plain = testdata("plain.pcap");
    let in_no_dir = dir.path().join("no/out.pcap");
    for (args, said) in [
        (["nowhere.pcap", "--write", out], "nowhere.pcap"),
        (["nowhere.pcap", "--to", "127.0.0.1"], "nowhere.pcap"),
        ([&plain, "--to", "nobody.invalid"], "nobody.invalid"),
        (
            [&plain, "--write", in_no_dir.to_str().unwrap()],
            "no/out.pcap",
        ),
    ] {
        let output = send(&args);
        assert_code(&output, 1);
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn bad_usage_exits_with_2() {
    let plain = testdata("plain.pcap");
    let plain = plain.as_str();
    for args in [
        &[][..],
        &[plain],
        &["--to", "127.0.0.1"],
        &[plain, "--to", "127.0.0.1:0"],
        &[plain, "--to", "127.0.0.1:x"],
        &[plain, "--to", "[::1"],
        &[plain, "--to", "127.0.0.1", "--source", "::1"],
        &[plain, "--to", "127.0.0.1", "--vni", "16777216"],
        &[plain, "--to", "127.0.0.1", "--mtu", "67"],
        &[plain, "--to", "127.0.0.1", "--packet-length", "0"],
        &[plain, "--to", "127.0.0.1", "--pps", "0"],
        &[plain, "--to", "127.0.0.1", "--pps", "1", "--as-recorded"],
        &[
            plain,
            "--to",
            "127.0.0.1",
            "--source-port",
            "1",
            "--source-port-hash",
        ],
        &[plain, "--write", "x.pcap", "--speed", "2"],
        &["-", "--to", "127.0.0.1", "--loop", "2"],
        &["-", "-", "--to", "127.0.0.1"],
    ] {
        let output = send(args);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty());
    }
}

/// The reader of a pipe that goes away ends the run; it is no fault.
#[test]
fn a_closed_pipe() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vxtap"));
    command
        .args([
            "send",
            &testdata("plain.pcap"),
            "--write",
            "-",
            "--loop",
            "1000",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Running::start(&mut command);
    drop(child.stdout.take());
    assert_code(&child.wait_with_output(), 0);
}

/// Each field that tshark finds in each packet of `path`.
fn tshark(path: &str, fields: &[&str]) -> Option<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command.args(["-r", path, "-T", "fields", "-o", "ip.check_checksum:TRUE"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().ok()?;
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    let row = |line: &str| line.split('\t').map(str::to_owned).collect();
    Some(lines.lines().map(row).collect())
}

#[test]
fn tshark_agrees() {
    let plain = testdata("plain.pcap");
    let Some(inner) = tshark(&plain, &["frame.time_epoch", "frame.protocols"]) else {
        eprintln!("skipped: tshark is not installed");
        return;
    };
    for (to, ip) in [("192.0.2.9", "ip"), ("2001:db8::9", "ipv6")] {
        let (_dir, path) = output();
        let path = path.to_str().unwrap();
        assert_code(
            &send(&[&plain, "--write", path, "--vni", "4242", "--to", to]),
            0,
        );
        let fields = [
            "frame.time_epoch",
            "frame.protocols",
            "vxlan.vni",
            "ip.checksum.status",
        ];
        let outer = tshark(path, &fields).unwrap();
        assert_eq!(outer.len(), inner.len());
        for (outer, inner) in outer.iter().zip(&inner) {
            assert_eq!(outer[0], inner[0]);
            assert_eq!(
                outer[1],
                format!("eth:ethertype:{ip}:udp:vxlan:{}", inner[1])
            );
            assert_eq!(outer[2], "4242");
            assert!(
                ip == "ipv6" || outer[3].starts_with('1'),
                "checksum: {}",
                outer[3]
            );
        }
    }
}

/// An Ethernet frame around an IP packet of `ip_len` bytes, which declares that length.
fn ip_frame(ip_len: u16, ipv6: bool, vlan: bool) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if vlan {
        frame.extend([0x81, 0, 0, 10]);
    }
    let end = frame.len() + 2 + usize::from(ip_len);
    if ipv6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((ip_len - 40).to_be_bytes());
        frame.extend([17, 64]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(ip_len.to_be_bytes());
        frame.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
    }
    frame.resize(end, 0);
    frame
}

/// Packets cut by `--mtu mtu`, and what `replay` advises.
fn cut_by_mtu(plain: &str, source: &str, mtu: u64) -> (u64, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (mirrored, summary) = (path("mirrored.pcap"), path("summary.json"));
    let mtu = mtu.to_string();
    let args = [
        plain, "--write", &mirrored, "--source", source, "--mtu", &mtu,
    ];
    assert_code(&send(&args), 0);
    let replay = Command::new(env!("CARGO_BIN_EXE_vxtap"))
        .args(["replay", &mirrored, "--mtu", &mtu, "--summary", &summary])
        .output()
        .unwrap();
    assert_code(&replay, 0);
    let summary: serde_json::Value = serde_json::from_reader(File::open(summary).unwrap()).unwrap();
    let session = &summary["sessions"][0];
    let advice = session["advice"].as_str().unwrap_or_default().to_owned();
    (session["truncated"].as_u64().unwrap(), advice)
}

/// What replay advises against an MTU cut works, and one byte less would not.
#[test]
fn the_advised_mtu_cuts_nothing() {
    let number = |advice: &str, before: &str| -> u64 {
        let digits = advice
            .split(before)
            .nth(1)
            .unwrap_or_else(|| panic!("{advice}"));
        let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    for (ipv6, vlan) in [(false, false), (true, false), (false, true)] {
        for source in ["192.0.2.9", "2001:db8::9"] {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
            let file = |name: &str, lens: &[u16]| {
                let frames: Vec<_> = lens.iter().map(|len| ip_frame(*len, ipv6, vlan)).collect();
                let path = path(name);
                std::fs::write(&path, pcap_of(frames.iter().map(Vec::as_slice))).unwrap();
                path
            };
            let plain = file("plain.pcap", &[60, 1400, 1500, 1600, 1500]);
            let what = format!("inner ipv6 {ipv6}, vlan {vlan}, outer {source}");
            let (cut, advice) = cut_by_mtu(&plain, source, 1500);
            assert_eq!(cut, 3, "{what}");
            let raised = number(&advice, "target to ");
            assert_eq!(
                cut_by_mtu(&plain, source, raised),
                (0, String::new()),
                "{what}"
            );
            assert_eq!(cut_by_mtu(&plain, source, raised - 1).0, 1, "{what}");
            let lowered = number(&advice, "interface's MTU to ") as u16;
            let fits = file("fits.pcap", &[60, lowered]);
            assert_eq!(
                cut_by_mtu(&fits, source, 1500),
                (0, String::new()),
                "{what}"
            );
            let above = file("above.pcap", &[60, lowered + 1]);
            assert_eq!(cut_by_mtu(&above, source, 1500).0, 1, "{what}");
        }
    }
}
