//! Copies of a packet: mirrored at both ends of its way, or twice by one source; and what is none.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{
    Replayed, assert_closes, flow_packets, replay, replay_testdata, testdata, tool, tshark, vxtap,
};
use serde_json::{Value, json};

const MS: u64 = 1_000_000;
const US: u64 = 1_000;

/// A mirrored packet: when it arrived, from which mirror source (the last byte of its address, and its VNI), and
/// its frame.
type Mirrored = (u64, u8, Vec<u8>);

/// An inner packet at one point of its way.
#[derive(Clone, Debug)]
struct Inner {
    /// IPv4 identification; IPv6 has none.
    id: u16,
    ipv6: bool,
    ttl: u8,
    dscp: u8,
    vlan: Option<u16>,
    /// Last byte of the MAC addresses.
    mac: u8,
    protocol: u8,
    /// What follows the IP header.
    payload: Vec<u8>,
}

/// UDP to port 53 from `port`.
fn udp(id: u16, port: u16) -> Inner {
    let mut payload = [port.to_be_bytes(), 53u16.to_be_bytes()].concat();
    payload.extend([0, 60, 0xab, 0xcd]);
    payload.extend([0x33; 52]);
    Inner {
        id,
        ipv6: false,
        ttl: 64,
        dscp: 0,
        vlan: None,
        mac: 1,
        protocol: 17,
        payload,
    }
}

/// A TCP segment from `port` with 100 bytes of payload.
fn tcp(id: u16, port: u16, seq: u32) -> Inner {
    let mut payload = [port.to_be_bytes(), 443u16.to_be_bytes()].concat();
    payload.extend(seq.to_be_bytes());
    payload.extend([0, 0, 0, 7, 0x50, 0x10, 1, 0, 0xab, 0xcd, 0, 0]);
    payload.extend([0x44; 100]);
    Inner {
        protocol: 6,
        payload,
        ..udp(id, port)
    }
}

impl Inner {
    fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 9, self.mac, 2, 0, 0, 0, 8, self.mac];
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        let len = self.payload.len() as u16;
        if self.ipv6 {
            frame.extend([
                0x86,
                0xdd,
                0x60 | self.dscp >> 4,
                (self.dscp << 4) | 3,
                1,
                2,
            ]);
            frame.extend(len.to_be_bytes());
            frame.extend([self.protocol, self.ttl]);
            for last in [1, 2] {
                frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
        } else {
            frame.extend([0x08, 0, 0x45, self.dscp]);
            frame.extend((20 + len).to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend([0x40, 0, self.ttl, self.protocol, self.ttl, 9]);
            frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        }
        frame.extend(&self.payload);
        frame
    }
}

/// The outer packet of a VXLAN datagram that carries `frame`.
fn vxlan(source: u8, frame: &[u8]) -> Vec<u8> {
    let len = frame.len() as u16;
    let mut outer = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x08, 0, 0x45, 0];
    outer.extend((36 + len).to_be_bytes());
    outer.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, source, 192, 0, 2, 99]);
    outer.extend([0xc3, 0x50, 0x12, 0xb5]);
    outer.extend((16 + len).to_be_bytes());
    outer.extend([0, 0, 8, 0, 0, 0, 0, 0, source, 0]);
    outer.extend(frame);
    outer
}

/// Writes a pcap file with nanoseconds.
fn write_pcap(path: &Path, packets: &[Mirrored]) {
    let mut file = Vec::new();
    for word in [0xa1b2_3c4du32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (at_ns, source, frame) in packets {
        let outer = vxlan(*source, frame);
        let seconds = (1_700_000_000 + at_ns / 1_000_000_000) as u32;
        let len = outer.len() as u32;
        for word in [seconds, (at_ns % 1_000_000_000) as u32, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(outer);
    }
    fs::write(path, file).unwrap();
}

/// Replays these packets, in the order of their times, with one worker, two and three, which come to the same.
fn replayed(mut packets: Vec<Mirrored>, flags: &[&str]) -> Replayed {
    packets.sort_by_key(|(at_ns, ..)| *at_ns);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    write_pcap(&path, &packets);
    let path = path.to_str().unwrap();
    let [one, two, three] = ["1", "2", "3"].map(|workers| {
        let args = [&[path, "--workers", workers], flags].concat();
        let replayed = replay(args);
        assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
        assert_closes(&replayed.summary);
        assert_eq!(replayed.count("received"), packets.len() as u64);
        replayed
    });
    for several in [&two, &three] {
        assert!(several.frames() == one.frames(), "another capture");
        assert_eq!(several.flows, one.flows);
        let without_shares = |replayed: &Replayed| {
            let mut summary = replayed.summary.clone();
            for name in ["workers", "flows_joined", "sinks"] {
                summary.as_object_mut().unwrap().remove(name).unwrap();
            }
            summary
        };
        assert_eq!(without_shares(several), without_shares(&one));
    }
    one
}

fn noted(replayed: &Replayed) -> u64 {
    let noted = replayed.reasons("noted");
    noted.get("duplicate").copied().unwrap_or_default()
}

/// Packets of the flow records of a mirror source, both ways, and how many of them are duplicates.
fn in_flows(replayed: &Replayed, source: &str) -> (u64, u64) {
    let flows = replayed.flows.iter();
    let flows = flows.filter(|flow| flow["outer_src"][0] == source);
    flows.fold((0, 0), |(packets, duplicates), flow| {
        let more = flow["dup_pkts"].as_u64().unwrap();
        (packets + flow_packets(flow), duplicates + more)
    })
}

/// The page without its line breaks.
fn page(replayed: &Replayed) -> String {
    let words: Vec<&str> = replayed.run.stderr.split_whitespace().collect();
    words.join(" ")
}

/// How many packets have so many copies in the capture, by their packet ids.
fn copies(replayed: &Replayed) -> BTreeMap<usize, usize> {
    let mut by_id: BTreeMap<u64, usize> = BTreeMap::new();
    for frame in replayed.frames() {
        *by_id.entry(frame.packet_id.unwrap()).or_default() += 1;
    }
    let mut counts = BTreeMap::new();
    for copies in by_id.into_values() {
        *counts.entry(copies).or_default() += 1;
    }
    counts
}

/// Each packet mirrored where it is sent and, changed as routers and switches do, where it arrives.
#[test]
fn both_ends() {
    let there = |inner: &Inner, change: &dyn Fn(&mut Inner)| {
        let mut other = inner.clone();
        change(&mut other);
        other
    };
    let kinds: [&dyn Fn(u16) -> Inner; 5] = [
        &|number| udp(number + 1, 2000 + number),
        &|number| tcp(number + 1, 3000 + number, 77),
        &|number| Inner {
            ipv6: true,
            ..udp(0, 4000 + number)
        },
        &|number| Inner {
            ipv6: true,
            ..tcp(0, 5000 + number, 77)
        },
        &|number| Inner {
            protocol: 1,
            payload: [&[8, 0, 9, 9, 0, 1, 0, number as u8][..], &[0x61; 56]].concat(),
            ..udp(0, 0)
        },
    ];
    let changes: [&dyn Fn(&mut Inner); 7] = [
        &|_| {},
        &|inner| (inner.ttl, inner.mac) = (63, 2),
        &|inner| inner.mac = 3,
        &|inner| inner.vlan = Some(5),
        &|inner| inner.dscp = 0xb8,
        // Filled in by the network card behind the first mirror.
        &|inner| match inner.protocol {
            6 => inner.payload[16..18].fill(0x77),
            17 => inner.payload[6..8].fill(0x77),
            _ => inner.payload[2..4].fill(0x77),
        },
        // All of it, twelve routers later.
        &|inner| (inner.ttl, inner.mac, inner.vlan, inner.dscp) = (52, 7, Some(9), 8),
    ];
    let mut packets = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        for (at, change) in changes.iter().enumerate() {
            let inner = kind((number * 16 + at) as u16);
            let now = (number * 100 + at) as u64 * MS;
            packets.push((now, 11, inner.frame()));
            packets.push((now + 240 * US, 12, there(&inner, change).frame()));
        }
    }
    let replayed = replayed(packets, &[]);
    assert_eq!(noted(&replayed), 35);
    assert_eq!(copies(&replayed), [(2, 35)].into());
    // Behind another VLAN too.
    assert_eq!(in_flows(&replayed, "192.0.2.11"), (35, 35));
    assert_eq!(in_flows(&replayed, "192.0.2.12"), (35, 35));
    let expected = json!([{
        "first": {"vni": 11, "source": "192.0.2.11"},
        "second": {"vni": 12, "source": "192.0.2.12"},
        "packets": 35,
        "after_ns": {"min": 240_000, "p50": 240_000, "p99": 240_000, "max": 240_000},
    }]);
    assert_eq!(replayed.summary["duplicates"], expected);
    let of_session = |vni: u64, source| replayed.session(vni, source)["duplicates"].as_u64();
    assert_eq!(of_session(11, "192.0.2.11"), Some(0));
    assert_eq!(of_session(12, "192.0.2.12"), Some(35));
    let page = page(&replayed);
    assert!(page.contains("+ 0 duplicate +"), "{page}");
    assert!(
        page.contains("35 packets passed vni11@192.0.2.11, then vni12@192.0.2.12: the copy of the second arrived 240.0 µs later"),
        "{page}"
    );
}

/// IP ID 0 and IPv6: nothing in the packet tells that it was sent again, but that the same source mirrors it
/// again.
#[test]
fn retransmissions_are_no_copies() {
    for segment in [
        tcp(0, 40000, 1),
        Inner {
            ipv6: true,
            ..tcp(0, 40000, 1)
        },
    ] {
        let arrived = Inner {
            ttl: 60,
            ..segment.clone()
        };
        let mut packets = Vec::new();
        for sent in [0, 200 * MS] {
            packets.push((sent, 11, segment.frame()));
            packets.push((sent + 300 * US, 12, arrived.frame()));
        }
        let both = replayed(packets.clone(), &[]);
        assert_eq!((noted(&both), copies(&both)), (2, [(2, 2)].into()));
        assert_eq!(both.summary["duplicates"][0]["after_ns"]["max"], 300_000);
        assert_eq!(in_flows(&both, "192.0.2.11"), (2, 2));
        assert_eq!(in_flows(&both, "192.0.2.12"), (2, 2));
        packets.retain(|(_, source, _)| *source == 11);
        let one = replayed(packets, &[]);
        assert_eq!((noted(&one), copies(&one)), (0, [(1, 2)].into()));
        assert_eq!(one.summary["duplicates"], json!([]));
        assert_eq!(in_flows(&one, "192.0.2.11"), (2, 0));
    }
    // Numbered, as most senders do.
    let mut packets = Vec::new();
    for (sent, id) in [(0, 100), (200 * MS, 101)] {
        packets.push((sent, 11, tcp(id, 40000, 1).frame()));
        packets.push((sent + 300 * US, 12, tcp(id, 40000, 1).frame()));
    }
    let replayed = replayed(packets, &[]);
    assert_eq!((noted(&replayed), copies(&replayed)), (2, [(2, 2)].into()));
}

#[test]
fn twice_by_one_source() {
    let mut packets = Vec::new();
    for number in 1..=5 {
        let frame = udp(number, 2000).frame();
        packets.push((u64::from(number) * MS, 11, frame.clone()));
        packets.push((u64::from(number) * MS + 9 * US, 11, frame));
    }
    let replayed = replayed(packets, &[]);
    assert_eq!((noted(&replayed), copies(&replayed)), (5, [(2, 5)].into()));
    assert_eq!(in_flows(&replayed, "192.0.2.11"), (10, 5));
    let pair = &replayed.summary["duplicates"][0];
    assert_eq!(
        (&pair["first"], &pair["packets"]),
        (&pair["second"], &json!(5))
    );
    let page = page(&replayed);
    assert!(
        page.contains("5 packets came twice from vni11@192.0.2.11"),
        "{page}"
    );
}

/// A segment that the mirror source sent twice was not sent twice by its sender.
#[test]
fn copies_of_one_source_are_no_retransmissions() {
    let mut packets = Vec::new();
    for number in 1..=4 {
        let frame = tcp(number, 2000, 100 * u32::from(number)).frame();
        packets.push((u64::from(number) * MS, 11, frame.clone()));
        packets.push((u64::from(number) * MS + 30 * US, 11, frame));
    }
    // The sender's own copy has another number.
    packets.push((90 * MS, 11, tcp(5, 2000, 400).frame()));
    let replayed = replayed(packets, &[]);
    assert_eq!(in_flows(&replayed, "192.0.2.11"), (9, 4));
    assert_eq!(replayed.flows[0]["retrans_o"], 1);
}

/// 96 bytes of a frame are enough to tell a packet, behind a VLAN tag and IPv6 too.
#[test]
fn one_end_truncated() {
    let mut packets = Vec::new();
    for (number, ipv6) in [(1, false), (2, true)] {
        let inner = Inner {
            ipv6,
            vlan: Some(7),
            ..tcp(number, 40000 + number, 1)
        };
        let frame = inner.frame();
        packets.push((u64::from(number) * MS, 11, frame[..96].to_vec()));
        packets.push((u64::from(number) * MS + 50 * US, 12, frame));
    }
    let replayed = replayed(packets, &[]);
    assert_eq!((noted(&replayed), copies(&replayed)), (2, [(2, 2)].into()));
    assert_eq!(replayed.session(11, "192.0.2.11")["truncated"], 2);
}

#[test]
fn the_window_is_as_long_as_asked_for() {
    let at = |later: u64| {
        let frame = udp(9, 2000).frame();
        vec![(0, 11, frame.clone()), (later, 12, frame)]
    };
    for (later, window, is_copy) in [
        (500 * MS, None, 1),
        (500 * MS + US, None, 0),
        (20 * MS, Some("20ms"), 1),
        (20 * MS + US, Some("20ms"), 0),
        (10_000 * MS, Some("10s"), 1),
    ] {
        let flags: Vec<&str> = window.iter().flat_map(|w| ["--dedup-window", w]).collect();
        assert_eq!(noted(&replayed(at(later), &flags)), is_copy, "{later}");
    }
    let run = vxtap(["replay", "x.pcap", "--dedup-window", "11s"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("at most 10s"), "{}", run.stderr);
}

/// With `drop` the copy that arrives first goes on, with `off` nothing is looked for.
#[test]
fn drop_and_off() {
    let mut packets = Vec::new();
    for number in 1..=20 {
        let frame = tcp(number, 40000 + number % 3, u32::from(number)).frame();
        let now = u64::from(number) * MS;
        packets.push((now, 11, frame.clone()));
        if number % 2 == 0 {
            packets.push((now + 30 * US, 12, frame.clone()));
            packets.push((now + 60 * US, 13, frame));
        }
    }
    let dropped = replayed(packets.clone(), &["--dedup", "drop"]);
    assert_eq!(dropped.count("delivered"), 20);
    assert_eq!(dropped.count("duplicate"), 20);
    assert_eq!(noted(&dropped), 0);
    assert_eq!(copies(&dropped), [(1, 20)].into());
    // A packet that has two copies counts once.
    assert_eq!(in_flows(&dropped, "192.0.2.11"), (20, 10));
    assert_eq!(dropped.packets_in_flows(), 20);
    let session = dropped.session(13, "192.0.2.13");
    assert_eq!(
        (&session["packets"], &session["duplicates"]),
        (&json!(10), &json!(10))
    );
    assert!(
        dropped.run.stderr.contains("20 delivered"),
        "{}",
        dropped.run.stderr
    );
    assert!(
        dropped.run.stderr.contains("+ 20 duplicate +"),
        "{}",
        dropped.run.stderr
    );
    let pairs = dropped.summary["duplicates"].as_array().unwrap();
    let pairs: Vec<u64> = pairs
        .iter()
        .map(|pair| pair["packets"].as_u64().unwrap())
        .collect();
    assert_eq!(pairs, [10, 10]);

    let off = replayed(packets, &["--dedup", "off"]);
    assert_eq!((off.count("delivered"), off.count("duplicate")), (40, 0));
    assert_eq!((noted(&off), off.packets_in_flows()), (0, 40));
    assert!(off.frames().iter().all(|frame| frame.packet_id.is_none()));
    assert_eq!(off.summary.get("duplicates"), None);
    assert_eq!(in_flows(&off, "192.0.2.11"), (20, 0));
    assert!(!off.run.stderr.contains("duplicate"), "{}", off.run.stderr);
}

/// Where the ways of mirrored packets differ by more than the latency, copies from behind come first. The time to
/// live tells which end a packet passed first.
#[test]
fn latencies_have_a_sign() {
    let mut packets = Vec::new();
    for number in 1..=10u16 {
        let forth = udp(number, 2000);
        let arrived = Inner {
            ttl: 63,
            ..forth.clone()
        };
        let now = u64::from(number) * 10 * MS;
        // 50 µs from one end to the other, but 200 µs more from the first end to here.
        packets.push((now + 200 * US, 11, forth.frame()));
        packets.push((now + 50 * US, 12, arrived.frame()));
        let mut back = udp(number, 53);
        back.payload[2..4].copy_from_slice(&2000u16.to_be_bytes());
        let arrived = Inner {
            ttl: 63,
            ..back.clone()
        };
        packets.push((now + 3 * MS, 12, back.frame()));
        packets.push((now + 3 * MS + 250 * US, 11, arrived.frame()));
    }
    let replayed = replayed(packets, &[]);
    let mut told: Vec<_> = replayed.summary["duplicates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| {
            (
                pair["first"]["vni"].as_u64(),
                pair["after_ns"]["p50"].as_i64(),
            )
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [(Some(11), Some(-150_000)), (Some(12), Some(250_000))]
    );
    let page = page(&replayed);
    assert!(
        page.contains("the copy of the second arrived 150.0 µs earlier (median; 99 %: -150.0 µs)"),
        "{page}"
    );
}

/// The bundled conversation: 8 packets, each at both ends, with a retransmission that is none of the copies.
#[test]
fn the_bundled_conversation() {
    let replayed = replay_testdata("both-ends.pcap", &[]);
    assert_eq!((noted(&replayed), copies(&replayed)), (8, [(2, 8)].into()));
    let pairs = replayed.summary["duplicates"].as_array().unwrap();
    assert_eq!(pairs.len(), 2, "one for each way");
    for pair in pairs {
        assert_eq!(
            (&pair["packets"], &pair["after_ns"]["p99"]),
            (&json!(4), &json!(240_000))
        );
    }
    for source in ["10.0.1.11", "10.0.2.21"] {
        assert_eq!(in_flows(&replayed, source), (8, 8));
    }
    if !tool("tshark") {
        return;
    }
    let rows = tshark(&replayed.capture(), &["frame.packet_id", "ip.id"], &[]);
    let mut ids: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in &rows {
        ids.entry(&row[0]).or_default().push(&row[1]);
    }
    assert_eq!((rows.len(), ids.len()), (16, 8), "{rows:?}");
    assert!(
        ids.values()
            .all(|numbers| numbers.len() == 2 && numbers[0] == numbers[1])
    );
}

/// Generated packets differ from each other; the same ones from two sources are copies, every one.
#[test]
fn every_generated_packet_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    for (name, source, vni) in [
        ("a.pcap", "192.0.2.11", "11"),
        ("b.pcap", "192.0.2.12", "12"),
    ] {
        let to = path(name);
        let flags = [
            "send",
            "--generate",
            "--count",
            "20000",
            "--flows",
            "300",
            "--pps",
            "50000",
            "--vlan-percent",
            "20",
            "--source",
            source,
            "--vni",
            vni,
            "--write",
        ];
        let run = vxtap(flags.into_iter().chain([to.to_str().unwrap()]));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
    }
    let (a, b) = (path("a.pcap"), path("b.pcap"));
    for workers in ["1", "3"] {
        let files = [a.to_str().unwrap(), b.to_str().unwrap()];
        let one = replay([files[0], "--workers", workers]);
        assert_eq!((noted(&one), copies(&one)), (0, [(1, 20_000)].into()));
        let both = replay([files[0], files[1], "--workers", workers]);
        assert_eq!(
            (noted(&both), copies(&both)),
            (20_000, [(2, 20_000)].into())
        );
        let least: Value = both.summary["duplicates"][0]["after_ns"]["max"].clone();
        assert_eq!(least, 0);
    }
    // A run over its own capture comes to the same.
    let first = replay([
        "--workers",
        "1",
        a.to_str().unwrap(),
        testdata("both-ends.pcap").to_str().unwrap(),
    ]);
    let again = replay([
        first.capture().to_str().unwrap(),
        "--plain",
        "--workers",
        "1",
    ]);
    assert_eq!(again.summary["duplicates"], first.summary["duplicates"]);
    assert!(again.frames() == first.frames());
}
