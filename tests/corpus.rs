//! Real captures of other projects, compared with what tshark and tcpdump make of them.
//!
//! The captures are not part of the repository; without them these tests say so and pass. Where a peer
//! and this program differ, a table below names the file and the reason.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Replayed, assert_closes, corpus, frames, reasons, replay, run};
use serde_json::Value;

/// A capture and what the peers make of it.
struct Sample {
    name: String,
    path: PathBuf,
    expected: Value,
}

fn samples(corpus: &Path, dir: &str) -> Vec<Sample> {
    let mut samples: Vec<Sample> = fs::read_dir(corpus.join(dir))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let expected = corpus
                .join("expected")
                .join(dir)
                .join(format!("{name}.json"));
            let expected =
                fs::read(&expected).unwrap_or_else(|error| panic!("{expected:?}: {error}"));
            Sample {
                name,
                path,
                expected: serde_json::from_slice(&expected).unwrap(),
            }
        })
        .collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!samples.is_empty(), "{dir} is empty");
    samples
}

impl Sample {
    /// Link types of the file or its interfaces, without the bits for the length of a checksum.
    fn link_types(&self) -> Vec<u64> {
        let header = &self.expected["header"];
        let several = header["linktypes"].as_array().cloned();
        let numbers = several.unwrap_or_else(|| vec![header["linktype"].clone()]);
        let numbers = numbers
            .iter()
            .map(|number| number.as_u64().unwrap() & 0x03ff_ffff);
        numbers.collect()
    }

    /// A link type that cannot be read, where the file has no other.
    fn unreadable_link_type(&self) -> Option<u64> {
        let readable = [0, 1, 12, 14, 101, 108, 113, 228, 229, 276];
        let numbers = self.link_types();
        let none = numbers.iter().all(|number| !readable.contains(number));
        numbers.first().filter(|_| none).copied()
    }

    /// Packets tshark reads. It shows a custom block of pcapng as a packet too.
    fn packets(&self) -> u64 {
        let custom = self.expected["header"]["blocks"]["CB"]
            .as_u64()
            .unwrap_or(0);
        self.expected["tshark"]["packets"].as_u64().unwrap() - custom
    }
}

/// Differences, gathered so that one run shows all.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn check<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, what: &str, is: T, should: T) {
        if is != should {
            self.0
                .push(format!("{name}: {what}: {is:?} instead of {should:?}"));
        }
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

// ---------------------------------------------------------------------------------------------
// Mirrored traffic

/// Flags for files on ports of their own.
fn flags_for(name: &str) -> &'static [&'static str] {
    match name {
        "tcpdump--vxlan_port_8472.pcap" => &["--port", "8472"],
        "packetnet--vxlan_custom_port.pcap" => &["--port", "65530"],
        _ => &[],
    }
}

/// VNI, IP protocol, source, destination: one direction of a conversation.
type Way = (u64, u64, String, Option<u64>, String, Option<u64>);

/// Files where tshark is wrong or shows what this program does not open: VNIs and conversations as they
/// should be, and why.
type Exception = (
    &'static str,
    &'static [u64],
    Option<(u64, u64, &'static str, u64, &'static str, u64)>,
);
const VXLAN_EXCEPTIONS: [Exception; 3] = [
    // BIG TCP: outer IP and UDP length are zero. tshark 4.0 stops there; the expectation of the tcpdump
    // project shows one packet of VNI 5001 with 80000 bytes of TCP payload.
    (
        "tcpdump--bigtcp-ipv4-vxlan-ipv4.pcap",
        &[5001],
        Some((5001, 6, "192.168.1.2", 36_875, "192.168.1.1", 36_449)),
    ),
    (
        "tcpdump--bigtcp-ipv6-vxlan-ipv6.pcap",
        &[5001],
        Some((5001, 6, "fd00::1", 40_007, "fd00::2", 40_607)),
    ),
    // A service header (NSH) around the packet: counted as gpe_not_decoded.
    ("tcpdump--nsh-over-vxlan-gpe.pcap", &[], None),
];

fn exception(name: &str) -> Option<&'static Exception> {
    VXLAN_EXCEPTIONS
        .iter()
        .find(|(exception, ..)| *exception == name)
}

/// Packets of each direction of each conversation, as the peers tell it.
fn expected_ways(sample: &Sample, key: &str) -> BTreeMap<Way, u64> {
    if let Some((_, _, conversation)) = exception(&sample.name) {
        let ways = conversation
            .iter()
            .map(|(vni, proto, src, sport, dst, dport)| {
                let way = (
                    *vni,
                    *proto,
                    (*src).to_owned(),
                    Some(*sport),
                    (*dst).to_owned(),
                    Some(*dport),
                );
                (way, 1)
            });
        return ways.collect();
    }
    let vxlan = &sample.expected["vxlan"];
    // Files without nesting have one list only.
    let rows = vxlan[key]
        .as_array()
        .or(vxlan["conversations_first_decap"].as_array());
    let mut ways = BTreeMap::new();
    for row in rows.unwrap() {
        // Inner frames that are not IP are in no flow.
        let (Some(proto), Some(src)) = (row["ip_proto"].as_u64(), row["src"].as_str()) else {
            continue;
        };
        let way = (
            row["vni"].as_u64().unwrap(),
            proto,
            src.to_owned(),
            row["sport"].as_u64(),
            row["dst"].as_str().unwrap().to_owned(),
            row["dport"].as_u64(),
        );
        *ways.entry(way).or_default() += row["packets"].as_u64().unwrap();
    }
    ways
}

/// The same from flow records; `count` is `pkts` or another counter of both directions.
fn ways(replayed: &Replayed, count: &str) -> BTreeMap<Way, u64> {
    let mut ways: BTreeMap<Way, u64> = BTreeMap::new();
    for flow in &replayed.flows {
        let number = |name: &str| flow[name].as_u64();
        let end = |end: &str| {
            let ip = flow[format!("{end}_ip")].as_str().unwrap().to_owned();
            (ip, number(&format!("{end}_port")))
        };
        let (vni, proto) = (number("vni").unwrap(), number("proto").unwrap());
        for (from, to, side) in [("src", "dst", "o"), ("dst", "src", "r")] {
            if number(&format!("pkts_{side}")) == Some(0) {
                continue;
            }
            let ((src, sport), (dst, dport)) = (end(from), end(to));
            let way = (vni, proto, src, sport, dst, dport);
            *ways.entry(way).or_default() += number(&format!("{count}_{side}")).unwrap();
        }
    }
    ways
}

#[test]
fn mirrored_traffic_of_other_projects() {
    let Some(corpus) = corpus() else { return };
    let mut differences = Differences::default();
    for sample in samples(&corpus, "vxlan") {
        let name = &sample.name;
        let vxlan = &sample.expected["vxlan"];
        let flags = flags_for(name).iter().copied();
        let replayed = replay(
            [sample.path.to_str().unwrap()]
                .into_iter()
                .chain(flags.clone()),
        );
        assert_eq!(
            replayed.run.code,
            Some(0),
            "{name}: {}",
            replayed.run.stderr
        );
        assert_closes(&replayed.summary);
        differences.check(
            name,
            "received",
            replayed.count("received"),
            sample.packets(),
        );
        differences.check(name, "malformed", replayed.reasons("malformed"), [].into());

        // Packets of each network.
        let mut vnis: BTreeMap<String, u64> = BTreeMap::new();
        let sum = |counter: &str| -> u64 {
            let sessions = replayed.sessions().iter();
            sessions
                .map(|session| session[counter].as_u64().unwrap())
                .sum()
        };
        for session in replayed.sessions() {
            *vnis.entry(session["vni"].to_string()).or_default() +=
                session["packets"].as_u64().unwrap();
        }
        let should: BTreeMap<String, u64> = match exception(name) {
            Some((_, vnis, _)) => vnis.iter().map(|vni| (vni.to_string(), 1)).collect(),
            None => reasons(vxlan, "packets_per_outermost_vni"),
        };
        differences.check(name, "VNIs", vnis, should);

        // What was cut.
        let truncation = &vxlan["truncation"];
        let cut = truncation["inner_ip_longer_than_bytes_present"]
            .as_u64()
            .unwrap_or(0);
        differences.check(name, "truncated", sum("truncated"), cut);

        // Conversations, the first layer removed and then all.
        let should = expected_ways(&sample, "conversations_first_decap");
        differences.check(name, "conversations", ways(&replayed, "pkts"), should);
        let deep = ["--depth", "8"].into_iter().chain(flags);
        let deep = replay([sample.path.to_str().unwrap()].into_iter().chain(deep));
        let should = expected_ways(&sample, "conversations_innermost");
        differences.check(name, "innermost conversations", ways(&deep, "pkts"), should);
        differences.check(
            name,
            "delivered",
            deep.count("delivered"),
            replayed.count("delivered"),
        );

        if exception(name).is_none() {
            check_frames(&mut differences, &sample, &replayed);
            check_bytes(&mut differences, &sample, &replayed);
        }
        if name == "tcpdump--nsh-over-vxlan-gpe.pcap" {
            let filtered = replayed.reasons("filtered");
            differences.check(
                name,
                "filtered",
                filtered,
                common::expected([("gpe_not_decoded", 1)]),
            );
        }
        if name.starts_with("tcpdump--bigtcp") {
            let frame = &replayed.frames()[0];
            // Ethernet, IPv4 or IPv6, TCP with 12 bytes of options, and the payload.
            let headers = if name.contains("ipv4-vxlan") {
                14 + 20 + 32
            } else {
                14 + 40 + 32
            };
            differences.check(name, "bytes", frame.bytes.len(), headers + 80_000);
        }
    }
    differences.none();
}

/// Every frame by itself: time, and bytes of inner frame.
fn check_frames(differences: &mut Differences, sample: &Sample, replayed: &Replayed) {
    let rows = sample.expected["vxlan"]["frames"]
        .as_array()
        .unwrap()
        .iter();
    let should: Vec<(String, u64)> = rows
        .filter(|row| row["matched_by"] == "dst_port")
        .map(|row| {
            let bytes = row["inner_bytes_present"].as_u64().unwrap();
            (row["time"].as_str().unwrap().to_owned(), bytes)
        })
        .collect();
    let is: Vec<(String, u64)> = replayed
        .frames()
        .iter()
        .map(|frame| (epoch(frame.ts_ns), frame.bytes.len() as u64))
        .collect();
    differences.check(&sample.name, "frames", is, should);
}

/// Bytes of each direction, where the capture holds every packet whole.
fn check_bytes(differences: &mut Differences, sample: &Sample, replayed: &Replayed) {
    if sample.expected["tshark"]["frames_cut"] != 0 {
        return;
    }
    let mut should: BTreeMap<Way, u64> = BTreeMap::new();
    for row in sample.expected["vxlan"]["conversations_first_decap"]
        .as_array()
        .unwrap()
    {
        let Some(src) = row["src"].as_str() else {
            continue;
        };
        let way = (
            row["vni"].as_u64().unwrap(),
            row["ip_proto"].as_u64().unwrap(),
            src.to_owned(),
            row["sport"].as_u64(),
            row["dst"].as_str().unwrap().to_owned(),
            row["dport"].as_u64(),
        );
        *should.entry(way).or_default() += row["inner_frame_bytes"].as_u64().unwrap();
    }
    differences.check(&sample.name, "bytes", ways(replayed, "cap_bytes"), should);
}

/// Seconds since 1970 as tshark writes them.
fn epoch(ts_ns: u128) -> String {
    format!("{}.{:09}", ts_ns / 1_000_000_000, ts_ns % 1_000_000_000)
}

/// The cloud console has nothing to do with the snap length of somebody's capture.
#[test]
fn a_snap_length_is_not_blamed_on_the_mirror() {
    let Some(corpus) = corpus() else { return };
    let replayed = replay([corpus.join("vxlan/zeek--geneve-vxlan-dns-truncated.pcap")]);
    let session = replayed.session(4242, replayed.sessions()[0]["source"].as_str().unwrap());
    assert_eq!(session["truncated"], 2);
    assert_ne!(session["cut_by"], "session_packet_length", "{session}");
}

// ---------------------------------------------------------------------------------------------
// Traffic that is not encapsulated

/// Ethernet, cooked, raw IP and loopback captures where fewer packets are delivered than tshark shows.
const NOT_DELIVERED: [(&str, u64); 1] = [
    // One packet with the address family 0x0800. tshark takes it for an EtherType; LINKTYPE_NULL has
    // address families only, so nothing says that it is IP.
    ("pcapplusplus--null_loopback.pcap", 1),
];

/// Packets that tshark takes for IP and this program does not.
const NOT_IP: [(&str, u64); 1] = [("pcapplusplus--null_loopback.pcap", 1)];

/// Containers that end in the middle of a block: where.
const CUT_SHORT: [(&str, u64); 1] = [("brimcap--extra.pcapng", 12_400)];

fn number_for(table: &[(&str, u64)], name: &str) -> u64 {
    table
        .iter()
        .find(|(file, _)| *file == name)
        .map_or(0, |(_, number)| *number)
}

/// Packets whose first network layer is IP: those certain, and those of stacks too rare to be listed.
fn ip_packets(expected: &Value) -> (u64, u64) {
    let tshark = &expected["tshark"];
    let around = [
        "eth",
        "ethertype",
        "vlan",
        "ieee8021ad",
        "ieee8021ah",
        "vntag",
        "etag",
        "cmd",
        "cfp",
        "trill",
        "nsh",
        "llc",
        "pppoes",
        "ppp",
        "mpls",
        "pwethheuristic",
        "pwethcw",
        "pwethnocw",
        "sll",
        "raw",
        "null",
    ];
    let (mut ip, mut listed) = (0, 0);
    for (stack, packets) in tshark["protocol_stacks"].as_object().unwrap() {
        let packets = packets.as_u64().unwrap();
        listed += packets;
        let network = stack.split(':').find(|layer| !around.contains(layer));
        if matches!(network, Some("ip" | "ipv6")) {
            ip += packets;
        }
    }
    (ip, tshark["packets"].as_u64().unwrap() - listed)
}

#[test]
fn plain_traffic_of_other_projects() {
    let Some(corpus) = corpus() else { return };
    let mut differences = Differences::default();
    for sample in samples(&corpus, "plain") {
        let name = &sample.name;
        let replayed = replay([sample.path.to_str().unwrap(), "--plain"]);
        if let Some(number) = sample.unreadable_link_type() {
            differences.check(name, "exit code", replayed.run.code, Some(1));
            let says = replayed
                .run
                .stderr
                .contains(&format!("link type {number} ("));
            differences.check(name, "names the link type", says, true);
            continue;
        }
        let cut_short = number_for(&CUT_SHORT, name);
        differences.check(
            name,
            "exit code",
            replayed.run.code,
            Some(i32::from(cut_short > 0)),
        );
        if cut_short > 0 {
            let says = replayed
                .run
                .stderr
                .contains(&format!("{name}: byte {cut_short}: the file ends"));
            differences.check(name, "names the byte", says, true);
        }
        assert_closes(&replayed.summary);
        differences.check(
            name,
            "received",
            replayed.count("received"),
            sample.packets(),
        );
        let delivered = sample.packets() - number_for(&NOT_DELIVERED, name);
        differences.check(name, "delivered", replayed.count("delivered"), delivered);
        let (certain, rare) = ip_packets(&sample.expected);
        let certain = certain - number_for(&NOT_IP, name);
        let in_flows = replayed.packets_in_flows();
        let possible = (certain..=certain + rare).contains(&in_flows);
        differences.check(
            name,
            &format!("{in_flows} packets in flows, {certain} are IP"),
            possible,
            true,
        );
        let not_ip = replayed
            .reasons("noted")
            .get("inner_not_ip")
            .copied()
            .unwrap_or(0);
        differences.check(name, "packets", in_flows + not_ip, delivered);
        check_container(&mut differences, &sample, &replayed);
    }
    differences.none();
}

/// Bytes and times of a capture that was passed through.
fn check_container(differences: &mut Differences, sample: &Sample, replayed: &Replayed) {
    let (name, tshark) = (&sample.name, &sample.expected["tshark"]);
    let frames = replayed.frames();
    if sample.link_types().iter().all(|number| *number == 1)
        && sample.packets() == tshark["packets"]
    {
        let bytes: u64 = frames.iter().map(|frame| frame.bytes.len() as u64).sum();
        differences.check(
            name,
            "bytes",
            bytes,
            tshark["bytes_captured"].as_u64().unwrap(),
        );
    }
    let times = frames.first().zip(frames.last());
    if let (Some((first, last)), true) = (times, frames.len() as u64 == tshark["packets"]) {
        for (what, time) in [("first_time", first.ts_ns), ("last_time", last.ts_ns)] {
            // A simple packet block has no time, and tshark says so.
            let should = tshark[what].as_str().unwrap();
            if !should.is_empty() && !TIMES_WITHOUT_MEANING.contains(&&**name) {
                differences.check(name, what, epoch(time), should.to_owned());
            }
        }
    }
}

/// A fraction of a second of 2^31 microseconds: we add it up, tshark's 32 bits overflow to zero, and
/// tcpdump prints the number as it stands. The format has no such time.
const TIMES_WITHOUT_MEANING: [&str; 1] = ["tcpdump--timestamp_invalid_micro.pcap"];

/// What was on the wire is known from the capture's record: padding and checksums that a snap length
/// cut off count too, although the IP header does not know them.
#[test]
fn no_frame_becomes_shorter_than_its_capture_says() {
    let Some(corpus) = corpus() else { return };
    let mut differences = Differences::default();
    for sample in samples(&corpus, "plain") {
        let wire = sample.expected["tshark"]["bytes_on_wire"].as_u64().unwrap();
        if sample.link_types() == [1] && sample.expected["tshark"]["frames_cut"] != 0 {
            let replayed = replay([sample.path.to_str().unwrap(), "--plain"]);
            let frames = replayed.frames();
            let orig: u64 = frames.iter().map(|frame| u64::from(frame.orig_len)).sum();
            let what = format!("{orig} bytes on the wire, of {wire}");
            differences.check(&sample.name, &what, orig >= wire, true);
        }
    }
    differences.none();
}

// ---------------------------------------------------------------------------------------------
// Malformed captures, and hard ones

/// Containers that end with an error: the byte and the reason.
const DAMAGED: [(&str, &str); 5] = [
    (
        "libpcap--pcap-invalid-version-1.pcap",
        "byte 0: pcap version 1.4",
    ),
    // The specification knows 1.0, and has 1.2 read alike.
    (
        "libpcap--pcapng-invalid-vers-2.pcapng",
        "byte 0: pcapng version 1.1",
    ),
    // The second section claims version 2.0.
    (
        "gopacket--test901-be.pcapng",
        "byte 480: pcapng version 2.0",
    ),
    (
        "gopacket--test901-le.pcapng",
        "byte 480: pcapng version 2.0",
    ),
    (
        "brimcap--extra.pcapng",
        "byte 12400: the file ends inside a block",
    ),
];

/// Where tcpdump reads another number of packets. It wants one link type and one snap length in all
/// interfaces, an interface in every file, and pcap version 2.4; the formats ask for none of these.
fn tcpdump_refuses(message: &str) -> bool {
    [
        "different from the snapshot length of the first interface",
        "different from the type of the first interface",
        "the capture file has no Interface Description Blocks",
        "unsupported pcap savefile version 2.5",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// Runs the program with 256 MiB of address space and 20 s.
fn run_confined(dir: &Path, sample: &Sample, flags: &[&str]) -> common::Run {
    let script = "ulimit -v 262144; exec timeout 20 \"$@\"";
    let mut command = Command::new("sh");
    command
        .current_dir(dir)
        .args(["-c", script, "sh", common::VXTAP, "replay"]);
    command.arg(&sample.path);
    command.args([
        "-w",
        "out.pcapng",
        "--flows",
        "out.jsonl",
        "--summary",
        "out.json",
    ]);
    run(command.args(flags))
}

fn survive(folder: &str) {
    let Some(corpus) = corpus() else { return };
    let mut differences = Differences::default();
    for sample in samples(&corpus, folder) {
        let name = &sample.name;
        for flags in [
            ["--plain"].as_slice(),
            &["--depth", "16", "--max-flows", "3"],
        ] {
            let dir = tempfile::tempdir().unwrap();
            let run = run_confined(dir.path(), &sample, flags);
            let name = &format!("{name} {flags:?}");
            differences.check(name, "panicked", run.stderr.contains("panicked"), false);
            let expectation = DAMAGED.iter().find(|(file, _)| *file == sample.name);
            let refused = match (expectation, sample.unreadable_link_type()) {
                (Some((_, reason)), _) => Some((*reason).to_owned()),
                (None, Some(number)) => Some(format!("link type {number} (")),
                (None, None) => None,
            };
            let code = Some(i32::from(refused.is_some()));
            differences.check(name, &format!("exit code ({})", run.stderr), run.code, code);
            if let Some(reason) = refused {
                let told = format!("{}: ", sample.path.display());
                let says = run.stderr.contains(&told) && run.stderr.contains(&reason);
                differences.check(name, &format!("says {reason}: {}", run.stderr), says, true);
            }
            let Ok(summary) = fs::read(dir.path().join("out.json")) else {
                differences.check(name, "without a summary", code, Some(1));
                continue;
            };
            let summary: Value = serde_json::from_slice(&summary).unwrap();
            assert_closes(&summary);
            let written = frames(&fs::read(dir.path().join("out.pcapng")).unwrap());
            let delivered = summary["delivered"].as_u64().unwrap();
            differences.check(name, "frames", written.len() as u64, delivered);
            if sample.unreadable_link_type().is_none() {
                check_peers(&mut differences, name, &sample, &summary);
            }
        }
    }
    differences.none();
}

fn check_peers(differences: &mut Differences, name: &str, sample: &Sample, summary: &Value) {
    let received = summary["received"].as_u64().unwrap();
    differences.check(name, "packets of tshark", received, sample.packets());
    let tcpdump = &sample.expected["tcpdump"];
    let message = tcpdump["messages"][0].as_str().unwrap_or_default();
    if !tcpdump_refuses(message) {
        let packets = tcpdump["packets"].as_u64().unwrap();
        differences.check(name, "packets of tcpdump", received, packets);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn malformed_captures() {
    survive("malformed");
}

#[cfg(target_os = "linux")]
#[test]
fn pcapng_reader_tests() {
    survive("pcapng");
}

/// The hard containers again, now for their times and bytes.
#[test]
fn times_and_bytes_of_malformed_captures() {
    let Some(corpus) = corpus() else { return };
    let mut differences = Differences::default();
    for folder in ["malformed", "pcapng"] {
        for sample in samples(&corpus, folder) {
            if sample.unreadable_link_type().is_none() {
                let replayed = replay([sample.path.to_str().unwrap(), "--plain"]);
                if replayed.run.code == Some(0) && replayed.count("delivered") == sample.packets() {
                    check_container(&mut differences, &sample, &replayed);
                }
            }
        }
    }
    differences.none();
}
