//! Flow records beside tshark's conversations of the same packets: how many, packets and bytes each way.
//!
//! tshark reads the capture that vxtap writes beside the records: plain frames, a pcapng interface for each mirror
//! session. docs/FLOWS.md tells how many agree; the table below names the captures that do not, and why.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Replayed, complaints, corpus, replay, run, testdata, tool, tshark, vxtap};
use serde_json::Value;

/// Silence and length end no record: tshark's conversations know neither.
const ONE_RECORD: [&str; 4] = [
    "--active-timeout",
    "off",
    "--idle-timeout",
    "tcp=36500d,tcp-new=36500d,fin=36500d,rst=36500d,udp=36500d,icmp=36500d,other=36500d",
];

/// Address, and port where the table has one.
type End = (IpAddr, u64);

/// Two ends, the lower first.
type Ends = (End, End);

/// Packets and bytes that the lower end sent, and the upper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    packets: [u64; 2],
    bytes: [u64; 2],
}

impl Sent {
    fn add(&mut self, side: usize, packets: u64, bytes: u64) {
        self.packets[side] += packets;
        self.bytes[side] += bytes;
    }

    fn join(&mut self, other: &Self) {
        for side in [0, 1] {
            self.add(side, other.packets[side], other.bytes[side]);
        }
    }

    /// As a row of tshark's table tells it, which rounds bytes.
    fn row(&self) -> Row {
        [0, 1].map(|side| (self.packets[side], shown(self.bytes[side])))
    }
}

/// Packets, and bytes as tshark writes them, of each side.
type Row = [(u64, String); 2];

/// A number of bytes as tshark's tables have it.
fn shown(bytes: u64) -> String {
    let (mut number, mut units) = (bytes, ["bytes", "kB", "MB", "GB"].iter());
    let mut unit = units.next().unwrap();
    while number >= 10_000 {
        (number, unit) = (number / 1000, units.next().unwrap());
    }
    format!("{number} {unit}")
}

/// The ends in order, and on which side of them `from` is.
fn in_order(from: End, to: End) -> (Ends, usize) {
    if from <= to {
        ((from, to), 0)
    } else {
        ((to, from), 1)
    }
}

/// A table of tshark: its name for `-z`, its heading, and the protocol whose ports it has.
struct Table {
    name: &'static str,
    heading: &'static str,
    proto: Option<u64>,
}

const TABLES: [Table; 5] = [
    table("ip", "IPv4", None),
    table("ipv6", "IPv6", None),
    table("tcp", "TCP", Some(6)),
    table("udp", "UDP", Some(17)),
    table("sctp", "SCTP", Some(132)),
];

const fn table(name: &'static str, heading: &'static str, proto: Option<u64>) -> Table {
    Table {
        name,
        heading,
        proto,
    }
}

/// A flow record as it stands in a table.
struct Record {
    ends: Ends,
    sent: Sent,
    /// What keeps it apart from others of the same ends: mirror session and VLANs.
    apart: String,
}

impl Record {
    /// `None` where it does not belong into a table with the ports of `proto`.
    fn new(flow: &Value, proto: Option<u64>) -> Option<Self> {
        let end = |name: &str| {
            let address = flow[format!("{name}_ip")].as_str()?.parse().ok()?;
            let port = flow[format!("{name}_port")].as_u64();
            Some((address, if proto.is_some() { port? } else { 0 }))
        };
        if proto.is_some_and(|proto| flow["proto"] != proto) {
            return None;
        }
        let (ends, side) = in_order(end("src")?, end("dst")?);
        let mut sent = Sent::default();
        // Who talks to itself has one side.
        let other = if ends.0 == ends.1 { side } else { 1 - side };
        for (side, suffix) in [(side, "o"), (other, "r")] {
            let number = |name: &str| flow[format!("{name}_{suffix}")].as_u64().unwrap();
            sent.add(side, number("pkts"), number("l2_bytes"));
        }
        let apart = ["vni", "outer_src", "vlan", "vlan_inner"].map(|name| flow[name].to_string());
        Some(Self {
            ends,
            sent,
            apart: apart.join(" "),
        })
    }
}

/// tshark's rows of each table.
fn conversations(capture: &Path) -> BTreeMap<&'static str, BTreeMap<Ends, Vec<Row>>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-q", "-r"]).arg(capture);
    for preference in ["ip.defragment:FALSE", "ipv6.defragment:FALSE"] {
        command.args(["-o", preference]);
    }
    for table in &TABLES {
        command.args(["-z", &format!("conv,{}", table.name)]);
    }
    let told = run(&mut command);
    let name = capture.display();
    assert_eq!(told.code, Some(0), "tshark on {name}: {}", told.stderr);
    assert_eq!(complaints(&told.stderr), "", "tshark on {name}");
    let text = String::from_utf8(told.stdout).unwrap();
    let mut tables: BTreeMap<_, BTreeMap<Ends, Vec<Row>>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        let heading = line.strip_suffix(" Conversations");
        if let Some(heading) = heading {
            current = TABLES.iter().find(|table| table.heading == heading);
        } else if let Some((from, rest)) = line.split_once(" <-> ") {
            let table = current.unwrap();
            let (ends, row) = read_row(from.trim(), rest, table.proto.is_some());
            let rows = tables.entry(table.name).or_default();
            rows.entry(ends).or_default().push(row);
        }
    }
    tables
}

/// `10.0.0.1:7 <-> 10.0.0.2:80   56 68 kB   35 3048 bytes …`: first what the right end sent.
fn read_row(from: &str, rest: &str, with_ports: bool) -> (Ends, Row) {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let end = |text: &str| {
        let (address, port) = match text.rsplit_once(':') {
            Some((address, port)) if with_ports => (address, port.parse().unwrap()),
            _ => (text, 0),
        };
        (address.parse().unwrap(), port)
    };
    let counts = |at: usize| {
        let bytes = format!("{} {}", words[at + 1], words[at + 2]);
        (words[at].parse().unwrap(), bytes)
    };
    let (ends, side) = in_order(end(from), end(words[0]));
    let mut row = [counts(4), counts(1)];
    row.rotate_left(side);
    (ends, row)
}

/// The transport protocol, if it has ports, and the ends.
type Key = (Option<u64>, Ends);

/// Exact sums of each pair of ends, from tshark's fields of each packet: the first IP header of a frame, and the
/// ports that follow it.
fn sums_of_fields(capture: &Path) -> BTreeMap<Key, Sent> {
    let fields = [
        "frame.len",
        "frame.protocols",
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
        "tcp.srcport",
        "tcp.dstport",
        "udp.srcport",
        "udp.dstport",
        "sctp.srcport",
        "sctp.dstport",
    ];
    let mut sums: BTreeMap<Key, Sent> = BTreeMap::new();
    for row in tshark(capture, &fields, &["-Y", "ip or ipv6"]) {
        let text = |at: usize| row.get(at).map(String::as_str).unwrap_or_default();
        let mut layers = text(1)
            .split(':')
            .filter(|name| !name.starts_with("ipv6.") && *name != "ah");
        let Some(network) = layers.find(|name| ["ip", "ipv6"].contains(name)) else {
            continue;
        };
        let addresses = if network == "ip" { 2 } else { 4 };
        let (proto, ports) = match layers.next() {
            Some("tcp") => (Some(6), 6),
            Some("udp") => (Some(17), 8),
            Some("sctp") => (Some(132), 10),
            _ => (None, 0),
        };
        let end = |at: usize| {
            let port = proto.map_or(0, |_| text(ports + at).parse().unwrap_or(0));
            Some((text(addresses + at).parse().ok()?, port))
        };
        // A header that is cut has none.
        let (Some(from), Some(to)) = (end(0), end(1)) else {
            continue;
        };
        let (ends, side) = in_order(from, to);
        let sum = sums.entry((proto, ends)).or_default();
        sum.add(side, 1, text(0).parse().unwrap());
    }
    sums
}

/// The same of flow records.
fn sums_of_records(flows: &[Value]) -> BTreeMap<Key, Sent> {
    let mut sums: BTreeMap<Key, Sent> = BTreeMap::new();
    for flow in flows {
        let proto = flow["proto"].as_u64();
        let proto =
            proto.filter(|proto| [6, 17, 132].contains(proto) && !flow["src_port"].is_null());
        let record = Record::new(flow, proto).unwrap();
        sums.entry((proto, record.ends))
            .or_default()
            .join(&record.sent);
    }
    sums
}

/// What differs: the capture, the table, and how.
type Difference = (String, &'static str, String);

/// The exact sums beside the tables.
const SUMS: &str = "sums";

/// How often the two agree.
#[derive(Debug, Default)]
struct Tally {
    captures: u64,
    captures_that_agree: u64,
    /// By table: conversations of tshark's, and those that agree.
    rows: BTreeMap<&'static str, (u64, u64)>,
    /// Of those, ends that several sessions or VLANs saw: several records for one row, with its sums.
    apart: u64,
    /// Ends whose exact bytes were compared, and those that agree.
    sums: (u64, u64),
    differences: Vec<Difference>,
}

impl Tally {
    fn compare(&mut self, name: &str, replayed: &Replayed) {
        let before = self.differences.len();
        let mut told = conversations(&replayed.capture());
        for table in &TABLES {
            let theirs = told.remove(table.name).unwrap_or_default();
            self.compare_table(name, table, &replayed.flows, theirs);
        }
        let theirs = sums_of_fields(&replayed.capture());
        let ours = sums_of_records(&replayed.flows);
        let keys: BTreeSet<&Key> = theirs.keys().chain(ours.keys()).collect();
        for key in keys {
            self.sums.0 += 1;
            if ours.get(key) == theirs.get(key) {
                self.sums.1 += 1;
            } else {
                let (ours, theirs) = (ours.get(key), theirs.get(key));
                let how = format!("{key:?}: {ours:?}, tshark {theirs:?}");
                self.differences.push((name.to_owned(), SUMS, how));
            }
        }
        self.captures += 1;
        self.captures_that_agree += u64::from(self.differences.len() == before);
    }

    fn compare_table(
        &mut self,
        name: &str,
        table: &Table,
        flows: &[Value],
        mut theirs: BTreeMap<Ends, Vec<Row>>,
    ) {
        let mut ours: BTreeMap<Ends, Vec<Record>> = BTreeMap::new();
        let of_table = |record: &Record| match table.name {
            "ip" => record.ends.0.0.is_ipv4(),
            "ipv6" => record.ends.0.0.is_ipv6(),
            _ => true,
        };
        let records = flows
            .iter()
            .filter_map(|flow| Record::new(flow, table.proto));
        for record in records.filter(of_table) {
            ours.entry(record.ends).or_default().push(record);
        }
        let counts = self.rows.entry(table.name).or_default();
        for (ends, records) in ours {
            let mut should = theirs.remove(&ends).unwrap_or_default();
            should.sort();
            let names: BTreeSet<&str> = records.iter().map(|record| &*record.apart).collect();
            let is_joined = table.proto.is_none() || names.len() > 1;
            let mut is: Vec<Row> = records.iter().map(|record| record.sent.row()).collect();
            if is_joined {
                let mut sum = Sent::default();
                records.iter().for_each(|record| sum.join(&record.sent));
                is = vec![sum.row()];
            }
            is.sort();
            counts.0 += should.len() as u64;
            if is == should {
                counts.1 += should.len() as u64;
                self.apart += u64::from(table.proto.is_some() && names.len() > 1);
            } else {
                let how = format!("{ends:?}: {is:?}, tshark {should:?}");
                self.differences.push((name.to_owned(), table.name, how));
            }
        }
        for (ends, rows) in theirs {
            counts.0 += rows.len() as u64;
            let how = format!("{ends:?}: nothing, tshark {rows:?}");
            self.differences.push((name.to_owned(), table.name, how));
        }
    }
}

/// tshark looks into tunnels inside the frames, and counts each IP header; a record is of the first.
const TUNNEL: &str = "conversations in a tunnel";
/// tshark's IPv6 table has no fragments but the first of each packet.
const FRAGMENTS: &str = "IPv6 fragments behind the first";
/// tshark goes by the last address of a routing header and by the home address option, vxtap and tcpdump by
/// the IPv6 header.
const OTHER_ADDRESS: &str = "addresses behind the IPv6 header";

/// Where the two differ: in which tables, and why.
const EXCEPTIONS: [(&str, &[&str], &str); 22] = [
    ("zeek--vxlan-triple-v2.pcap", &["ip", "udp"], TUNNEL),
    (
        "tcpdump--bigtcp-ipv6-vxlan-ipv6.pcap",
        &["tcp", SUMS],
        "IPv6 payload length 0 (BIG TCP): tshark reads no TCP header behind it",
    ),
    ("arkime--6-4-gre-ppp-udp-4-dns.pcap", &["ip", "udp"], TUNNEL),
    ("libpcap--geneve.pcap", &["ip", "tcp"], TUNNEL),
    ("mercury--capture2.pcap", &["ip", "ipv6"], TUNNEL),
    ("mercury--ip_encapsulation.pcap", &["ipv6", "tcp"], TUNNEL),
    ("ndpi--4in6tunnel.pcap", &["ip", "tcp"], TUNNEL),
    ("packetnet--gre_nvgre.pcap", &["ip", "tcp"], TUNNEL),
    ("pcapplusplus--GrePackets.cap", &["ip"], TUNNEL),
    (
        "pcapplusplus--GrePackets.pcap",
        &["ip", "tcp", "udp"],
        TUNNEL,
    ),
    ("pcapplusplus--gtp-u.pcap", &["ip"], TUNNEL),
    ("tcpdump--geneve.pcap", &["ip", "tcp"], TUNNEL),
    ("tcpdump--various_gre.pcap", &["ip"], TUNNEL),
    ("zeek--Teredo.pcap", &["ipv6"], TUNNEL),
    ("zeek--geneve-ipv6.pcap", &["ipv6", "udp"], TUNNEL),
    ("zeek--gre-within-gre.pcap", &["ip", "udp"], TUNNEL),
    ("flowtest--ipv6-udp-fragmented.pcap", &["ipv6"], FRAGMENTS),
    (
        "pcapplusplus--ipv6_opt_fragments.pcap",
        &["ipv6"],
        FRAGMENTS,
    ),
    ("zeek--ipv6-fragmented-dns.pcap", &["ipv6"], FRAGMENTS),
    ("pcapplusplus--ipv6_options.pcap", &["udp"], OTHER_ADDRESS),
    (
        "zeek--ip6-route0-tcp-bad-chksum.pcap",
        &["tcp"],
        OTHER_ADDRESS,
    ),
    // One of its home address options is malformed for tshark; vxtap and tcpdump read UDP behind it.
    (
        "zeek--ipv6-mobility-dst-opts.pcap",
        &["ipv6", "udp", SUMS],
        OTHER_ADDRESS,
    ),
];

/// Flags for captures on ports of their own.
fn flags_for(name: &str) -> &'static [&'static str] {
    match name {
        "tcpdump--vxlan_port_8472.pcap" => &["--port", "8472"],
        "packetnet--vxlan_custom_port.pcap" => &["--port", "65530"],
        _ => common::flags_for(name),
    }
}

fn one_record_each(path: &Path, flags: &[&str]) -> Replayed {
    let path = path.to_str().unwrap();
    replay([path].iter().chain(&ONE_RECORD).chain(flags))
}

fn captures_in(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut captures: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    captures.sort();
    captures
}

#[test]
fn records_are_the_conversations_of_tshark() {
    if !tool("tshark") {
        return;
    }
    let mut tally = Tally::default();
    for name in ["demo.pcap", "both-ends.pcap", "plain.pcap"] {
        tally.compare(name, &one_record_each(&testdata(name), flags_for(name)));
    }
    let corpus = corpus();
    if let Some(corpus) = &corpus {
        let mut mirrored = 0;
        for (name, path) in captures_in(&corpus.join("vxlan")) {
            tally.compare(&name, &one_record_each(&path, flags_for(&name)));
            mirrored += 1;
        }
        let dir = tempfile::tempdir().unwrap();
        let sent = dir.path().join("sent.pcap");
        let mut plain = 0;
        for (name, path) in captures_in(&corpus.join("plain")) {
            let command = ["send", "--plain", path.to_str().unwrap(), "--write"];
            if vxtap([&command[..], &[sent.to_str().unwrap()]].concat()).code == Some(0) {
                tally.compare(&name, &one_record_each(&sent, &[]));
                plain += 1;
            }
        }
        eprintln!("{mirrored} mirrored, {plain} sent");
        assert!(mirrored >= 20 && plain >= 30, "{mirrored}, {plain}");
    }
    eprintln!("{tally:#?}");
    let differ: BTreeSet<(&str, &str)> = tally
        .differences
        .iter()
        .map(|(name, table, _)| (&**name, *table))
        .collect();
    let known = EXCEPTIONS
        .iter()
        .flat_map(|(name, tables, _)| tables.iter().map(|table| (*name, *table)));
    let known: BTreeSet<(&str, &str)> = known.collect();
    let unknown: Vec<_> = differ.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    if corpus.is_some() {
        let unneeded: Vec<_> = known.difference(&differ).collect();
        assert!(unneeded.is_empty(), "no exceptions any more: {unneeded:?}");
    }
    for (name, table, how) in &tally.differences {
        let because = EXCEPTIONS
            .iter()
            .find(|(known, ..)| known == name)
            .unwrap()
            .2;
        // What stands in a tunnel is more for tshark, and the first IP headers add up to the same.
        let is_of_tunnel = *table != SUMS && (how.contains(": nothing, tshark") || *table == "ip");
        assert!(because != TUNNEL || is_of_tunnel, "{name}: {how}");
    }
}
