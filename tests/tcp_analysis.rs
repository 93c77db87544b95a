//! What flow records tell of TCP connections, beside what tshark tells of the same packets.
//!
//! The captures are those of `testdata/` and, where they are, real ones of other projects. docs/TCP.md names the
//! ways in which the two differ; the tables below name the files in which there are others, and why.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{
    Frame, Replayed, corpus, flags_for, readable_names, replay, replay_testdata, testdata, tool,
    tshark,
};
use serde_json::Value;

/// Source, port, destination, port.
type Ends = (String, u64, String, u64);

fn turned((src, src_port, dst, dst_port): &Ends) -> Ends {
    (dst.clone(), *dst_port, src.clone(), *src_port)
}

/// The lower end first.
fn pair(ends: &Ends) -> Ends {
    ends.clone().min(turned(ends))
}

/// What one side sent, as we tell it.
#[derive(Clone, Debug, Default)]
struct Ours {
    sent_again: u64,
    gap_bytes: u64,
}

/// What one side sent, as tshark tells it, in segments.
#[derive(Clone, Debug, Default)]
struct Theirs {
    sent_again: u64,
    out_of_order: u64,
    /// In front of others.
    lost: u64,
    /// Acknowledged.
    lost_acknowledged: u64,
}

/// Why tshark measured a round trip that we do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    /// The SYN or its answer was seen more than once.
    Twice,
    /// The first ACK was a RST.
    Refused,
    /// The first ACK came at the time of the SYN.
    Immediate,
    Nothing,
}

fn of_tcp(replayed: &Replayed) -> impl Iterator<Item = (&Value, Ends)> {
    let flows = replayed.flows.iter();
    let flows = flows.filter(|flow| flow["proto"] == 6 && !flow["history"].is_null());
    flows.map(|flow| {
        let text = |name: &str| flow[name].as_str().unwrap().to_owned();
        let port = |name: &str| flow[name].as_u64().unwrap();
        let src = (text("src_ip"), port("src_port"));
        (flow, (src.0, src.1, text("dst_ip"), port("dst_port")))
    })
}

/// By direction, all connections of the same ports together.
fn ours(replayed: &Replayed) -> BTreeMap<Ends, Ours> {
    let mut told: BTreeMap<Ends, Ours> = BTreeMap::new();
    for (flow, ends) in of_tcp(replayed) {
        for (side, ends) in [("o", ends.clone()), ("r", turned(&ends))] {
            let number = |name: &str| flow[format!("{name}_{side}")].as_u64().unwrap_or(0);
            let sent = told.entry(ends).or_default();
            sent.sent_again += number("retrans");
            sent.gap_bytes += number("gap_bytes");
        }
    }
    told
}

/// Nanoseconds of a text with nine decimals.
fn nanoseconds(text: &str) -> u64 {
    let (seconds, rest) = text.split_once('.').unwrap();
    seconds.parse::<u64>().unwrap() * 1_000_000_000 + rest.parse::<u64>().unwrap()
}

/// What tshark remembers of a stream.
#[derive(Default)]
struct Stream {
    syns: u64,
    answers: u64,
    rtt: Option<(Ends, u64, Because)>,
}

/// By direction, and the round trips of each pair of ends.
type Told = (BTreeMap<Ends, Theirs>, BTreeMap<Ends, Vec<(u64, Because)>>);

fn theirs(capture: &Path) -> Told {
    let fields = [
        "ip.src",
        "ipv6.src",
        "tcp.srcport",
        "ip.dst",
        "ipv6.dst",
        "tcp.dstport",
        "tcp.stream",
        "tcp.flags",
        "tcp.analysis.initial_rtt",
        "tcp.analysis.retransmission",
        "tcp.analysis.fast_retransmission",
        "tcp.analysis.spurious_retransmission",
        "tcp.analysis.out_of_order",
        "tcp.analysis.lost_segment",
        "tcp.analysis.ack_lost_segment",
    ];
    let mut sent: BTreeMap<Ends, Theirs> = BTreeMap::new();
    let mut streams: BTreeMap<String, Stream> = BTreeMap::new();
    for row in tshark(capture, &fields, &["-Y", "tcp"]) {
        let text = |at: usize| row.get(at).map(String::as_str).unwrap_or_default();
        let either = |at: usize| [text(at), text(at + 1)].concat();
        let (Ok(src_port), Ok(dst_port)) = (text(2).parse(), text(5).parse()) else {
            continue;
        };
        let ends = (either(0), src_port, either(3), dst_port);
        let counts = |at: usize| u64::from(!text(at).is_empty());
        let own = sent.entry(ends.clone()).or_default();
        own.sent_again += counts(9) | counts(10) | counts(11);
        own.out_of_order += counts(12);
        own.lost += counts(13);
        let peer = sent.entry(turned(&ends)).or_default();
        peer.lost_acknowledged += counts(14);
        let flags = u64::from_str_radix(text(7).trim_start_matches("0x"), 16).unwrap_or(0);
        let stream = streams.entry(text(6).to_owned()).or_default();
        if stream.rtt.is_none() {
            stream.syns += u64::from(flags & 0x12 == 0x02);
            stream.answers += u64::from(flags & 0x12 == 0x12);
            let because = match flags & 0x16 {
                _ if stream.syns > 1 || stream.answers > 1 => Because::Twice,
                0x14 => Because::Refused,
                0x10 if counts(8) == 0 && stream.syns > 0 => Because::Immediate,
                _ => Because::Nothing,
            };
            if !text(8).is_empty() || because == Because::Immediate {
                let rtt = if text(8).is_empty() {
                    0
                } else {
                    nanoseconds(text(8))
                };
                stream.rtt = Some((pair(&ends), rtt, because));
            }
        } else if !text(8).is_empty()
            && let Some((_, rtt, Because::Immediate)) = &mut stream.rtt
        {
            *rtt = nanoseconds(text(8));
        }
    }
    let mut rtts: BTreeMap<Ends, Vec<(u64, Because)>> = BTreeMap::new();
    for (pair, rtt, because) in streams.into_values().filter_map(|stream| stream.rtt) {
        if rtt > 0 {
            rtts.entry(pair).or_default().push((rtt, because));
        }
    }
    (sent, rtts)
}

/// How often the two agreed, and differed in each way that docs/TCP.md explains.
#[derive(Debug, Default)]
struct Tally {
    captures: u64,
    directions: u64,
    sent_again: u64,
    same_sent_again: u64,
    differ_in_order: u64,
    gaps: u64,
    gaps_both: u64,
    handshakes: u64,
    same_handshakes: u64,
    twice: u64,
    refused: u64,
    immediate: u64,
    unexplained: Vec<String>,
}

impl Tally {
    fn compare(&mut self, name: &str, replayed: &Replayed, capture: &Path) {
        let (ours, (sent, rtts)) = (ours(replayed), theirs(capture));
        let mut told: BTreeMap<Ends, Vec<u64>> = BTreeMap::new();
        for (flow, ends) in of_tcp(replayed) {
            let rtts = told.entry(pair(&ends)).or_default();
            rtts.extend(flow["rtt_syn_ns"].as_u64());
        }
        self.captures += u64::from(!ours.is_empty());
        for (ends, is) in &ours {
            let Some(should) = sent.get(ends) else {
                continue;
            };
            self.directions += 1;
            self.sent_again += should.sent_again;
            let (least, most) = (should.sent_again, should.sent_again + should.out_of_order);
            if is.sent_again == least {
                self.same_sent_again += 1;
            } else if (least..=most).contains(&is.sent_again) {
                self.differ_in_order += 1;
            } else {
                let line = format!("{name}: {ends:?} sent again: {is:?}, {should:?}");
                self.unexplained.push(line);
            }
            let missed = should.lost + should.lost_acknowledged > 0;
            let filled = should.sent_again + should.out_of_order > 0;
            self.gaps += u64::from(is.gap_bytes > 0);
            match (is.gap_bytes > 0, missed) {
                (true, true) => self.gaps_both += 1,
                (false, false) => {}
                // It came late, or nobody acknowledged it.
                (false, true) if filled || should.lost_acknowledged == 0 => {}
                _ => {
                    let line = format!("{name}: {ends:?} gap: {is:?}, {should:?}");
                    self.unexplained.push(line);
                }
            }
        }
        for (pair, should) in rtts {
            let Some(mut is) = told.remove(&pair) else {
                continue;
            };
            for (rtt, because) in should {
                self.handshakes += 1;
                let at = is.iter().position(|is| *is == rtt);
                match (at, because) {
                    (Some(at), _) => {
                        is.swap_remove(at);
                        self.same_handshakes += 1;
                    }
                    (None, Because::Twice) => self.twice += 1,
                    (None, Because::Refused) => self.refused += 1,
                    (None, Because::Immediate) => self.immediate += 1,
                    (None, Because::Nothing) => {
                        let line = format!("{name}: {pair:?} round trip: {is:?}, {rtt}");
                        self.unexplained.push(line);
                    }
                }
            }
        }
    }
}

/// Where the two differ for another reason than those that docs/TCP.md explains.
const EXCEPTIONS: [(&str, &str); 12] = [
    // tshark takes packets of equal addresses and ports for one conversation.
    ("both-ends.pcap", "two mirror sessions"),
    ("zeek--vlan-collisions.pcap", "three VLANs"),
    ("zeek--vlan-pcp-dei.pcapng", "three VLANs"),
    (
        "inner-ah.pcap",
        "the same segment within an authentication header and without",
    ),
    (
        "mercury--capture2.pcap",
        "both sides of a firewall that changes sequence numbers, in one capture",
    ),
    (
        "ndpi--fuzz-2006-06-26-2594.pcap",
        "bytes of headers were changed",
    ),
    (
        "ndpi--fuzz-2006-09-29-28586.pcap",
        "bytes of headers were changed",
    ),
    (
        "ndpi--reasm_crash_anon.pcapng",
        "bytes of headers were changed",
    ),
    (
        "pcap-parser--err-buffertoosmall.pcapng",
        "a FIN behind the ACK that was sent after it, at the same time: out of order for us",
    ),
    (
        "tcpdump--timestamp_invalid_micro.pcap",
        "a fraction of more than a second",
    ),
    (
        "zeek--pppoe-over-qinq.pcap",
        "IP headers declare six bytes more than the PPPoE header in front",
    ),
    (
        "zeek--rst-inject-rae.pcap",
        "a false RST came before the SYN-ACK; tshark measures up to that",
    ),
];

/// tshark takes a segment that a mirror copied twice for one that was sent again.
const ALL: [&str; 2] = ["--dedup", "off"];

#[test]
fn connections_as_tshark_sees_them() {
    if !tool("tshark") {
        return;
    }
    let mut tally = Tally::default();
    for name in readable_names() {
        let replayed = replay_testdata(&name, &[flags_for(&name), &ALL].concat());
        tally.compare(&name, &replayed, &replayed.capture());
    }
    let corpus = corpus();
    for path in corpus.iter().flat_map(|corpus| corpus_captures(corpus)) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let replayed = replay([&[path.to_str().unwrap(), "--plain"], &ALL[..]].concat());
        if replayed.run.code == Some(0) {
            tally.compare(&name, &replayed, &path);
        }
    }
    let lines = std::mem::take(&mut tally.unexplained);
    let is_of = |line: &str, name: &str| line.starts_with(&format!("{name}: "));
    let known = || EXCEPTIONS.iter().map(|(name, _)| *name);
    for line in &lines {
        if !known().any(|name| is_of(line, name)) {
            tally.unexplained.push(line.clone());
        }
    }
    if corpus.is_some() {
        let unneeded: Vec<&str> = known()
            .filter(|name| !lines.iter().any(|line| is_of(line, name)))
            .collect();
        assert!(unneeded.is_empty(), "no exceptions any more: {unneeded:?}");
    }
    eprintln!("{tally:#?}");
    assert!(tally.unexplained.is_empty());
}

/// Fields that headers tell: what is cut off behind them changes nothing.
const FROM_HEADERS: [&str; 10] = [
    "history",
    "conn_state",
    "half",
    "rtt_syn_ns",
    "retrans_o",
    "retrans_r",
    "gap_bytes_o",
    "gap_bytes_r",
    "max_seg_o",
    "max_seg_r",
];

fn headers_tell(replayed: &Replayed) -> Vec<String> {
    let line = |(flow, ends): (&Value, Ends)| {
        let fields = FROM_HEADERS.map(|name| flow[name].to_string());
        format!("{ends:?} {fields:?}")
    };
    let mut lines: Vec<String> = of_tcp(replayed).map(line).collect();
    lines.sort();
    lines
}

/// Writes frames cut to `len` bytes, as a mirror does it: nothing around them tells that they were longer.
fn cut(frames: &[Frame], len: usize, path: &Path) {
    let mut file = Vec::new();
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let bytes = &frame.bytes[..frame.bytes.len().min(len)];
        let (seconds, rest) = (frame.ts_ns / 1_000_000_000, frame.ts_ns % 1_000_000_000);
        for word in [
            seconds as u32,
            rest as u32,
            bytes.len() as u32,
            bytes.len() as u32,
        ] {
            file.extend(word.to_le_bytes());
        }
        file.extend(bytes);
    }
    fs::write(path, file).unwrap();
}

/// Where 96 bytes do not hold the headers: a routing header of IPv6; IP behind MPLS, which has to prove itself by
/// what follows.
const HEADERS_CUT: [&str; 2] = [
    "zeek--ip6-route0-tcp-bad-chksum.pcap",
    "zeek--mpls-in-vlan.pcap",
];

/// A mirror session that keeps 60 bytes of each packet tells the same of connections over IPv4 without VLAN
/// tags as one that keeps them whole, and one that keeps 96 bytes of all.
#[test]
fn cut_packets_tell_the_same() {
    let mut captures: Vec<PathBuf> = ["demo.pcap", "plain.pcap", "both-ends.pcap"]
        .map(testdata)
        .into();
    captures.extend(corpus().iter().flat_map(|corpus| corpus_captures(corpus)));
    let mut compared = 0;
    for path in captures {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole.pcap");
        let first = replay([path.to_str().unwrap(), "--plain"]);
        if first.run.code != Some(0)
            || first
                .sessions()
                .iter()
                .any(|session| session["truncated"] != 0)
        {
            continue;
        }
        cut(&first.frames(), usize::MAX, &whole);
        let whole = replay([whole.to_str().unwrap(), "--plain"]);
        let is_short = |(flow, _): (&Value, Ends)| flow["ip_v"] == 4 && flow["vlan"].is_null();
        for len in [60, 96] {
            if len == 60 && !of_tcp(&whole).all(is_short) {
                continue;
            }
            let capture = dir.path().join("cut.pcap");
            cut(&first.frames(), len, &capture);
            let cut = replay([capture.to_str().unwrap(), "--plain"]);
            if HEADERS_CUT.iter().any(|name| path.ends_with(name)) {
                assert_ne!(headers_tell(&cut), headers_tell(&whole));
                continue;
            }
            assert_eq!(
                headers_tell(&cut),
                headers_tell(&whole),
                "{} cut to {len} bytes",
                path.display()
            );
            compared += of_tcp(&whole).count();
        }
    }
    assert!(compared > 0);
    eprintln!("{compared} connections");
}

/// The captures with TCP that tshark reads to their end.
fn corpus_captures(corpus: &Path) -> Vec<PathBuf> {
    let mut captures = Vec::new();
    for dir in ["plain", "malformed", "pcapng"] {
        for entry in fs::read_dir(corpus.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let expected = corpus
                .join("expected")
                .join(dir)
                .join(format!("{name}.json"));
            let expected: Value = serde_json::from_slice(&fs::read(expected).unwrap()).unwrap();
            let tshark = &expected["tshark"];
            if tshark["exit"] == 0 && tshark["protocol_stacks"].to_string().contains(":tcp") {
                captures.push(path);
            }
        }
    }
    captures.sort();
    captures
}
