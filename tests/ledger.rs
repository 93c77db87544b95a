//! Whatever arrives, every packet is accounted for once, and the counts of ledger, sessions, flow
//! records and capture say the same.
//!
//! Random bytes and damaged copies of the captures in `testdata/` go through the library's worker, with
//! random settings and a capture queue that is full at random.

use std::fs;
use std::io::Cursor;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use proptest::collection::vec;
use proptest::prelude::*;
use vxtap::export::jsonl::write_line;
use vxtap::flow::record::FlowRecord;
use vxtap::mirror::allowed::{Allowed, VniList};
use vxtap::mirror::session::SessionId;
use vxtap::pcap::record::{Batch, EPB, Format, SNAPLEN};
use vxtap::pipeline::total::Total;
use vxtap::pipeline::worker::{Outlet, Worker, WorkerSettings};
use vxtap::source::file::CaptureFile;
use vxtap::source::{Arrival, Datagram, Record};
use vxtap::wire::decapsulate::{Tunnels, decapsulate};
use vxtap::wire::outer::{self, LinkType, Outer, Pieces};

const LINK_TYPES: [LinkType; 6] = [
    LinkType::Ethernet,
    LinkType::Null,
    LinkType::Loop,
    LinkType::RawIp,
    LinkType::LinuxSll,
    LinkType::LinuxSll2,
];

/// A record that owns its bytes.
#[derive(Clone, Debug)]
struct Kept {
    ts_ns: u64,
    link: LinkType,
    bytes: Vec<u8>,
    orig_len: u32,
}

/// Every record of every capture in `testdata/`.
static RECORDS: LazyLock<Vec<Kept>> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut kept = Vec::new();
    for folder in [dir.clone(), dir.join("malformed")] {
        let mut paths: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect();
        paths.sort();
        for path in paths {
            let Ok(mut file) = CaptureFile::open(&path, Arc::default(), &Arc::default()) else {
                continue;
            };
            while let Ok(Some(record)) = file.next_record() {
                kept.push(Kept {
                    ts_ns: record.ts_ns,
                    link: record.link,
                    bytes: record.bytes.to_vec(),
                    orig_len: record.orig_len,
                });
            }
        }
    }
    assert!(kept.len() > 300, "testdata is not complete");
    kept
});

/// The UDP payloads in them that hold mirrored frames.
static PAYLOADS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let payloads: Vec<Vec<u8>> = RECORDS
        .iter()
        .filter_map(|kept| match outer::read(kept.link, &kept.bytes, false) {
            Ok(Outer::Udp(udp)) => {
                let mirrored = decapsulate(&Tunnels::default(), &udp).is_ok();
                mirrored.then(|| udp.payload.to_vec())
            }
            _ => None,
        })
        .collect();
    assert!(payloads.len() > 200);
    payloads
});

/// What is done to a good packet.
#[derive(Clone, Debug)]
enum Damage {
    Bit(prop::sample::Index, u8),
    Byte(prop::sample::Index, u8),
    /// Two bytes, as lengths are: nothing, everything, or near the truth.
    Word(prop::sample::Index, u16),
    Cut(prop::sample::Index),
    Grow(Vec<u8>),
    /// The end of another packet from there on.
    Splice(prop::sample::Index, prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let word = prop_oneof![
        Just(0),
        Just(1),
        Just(8),
        Just(0x1fff),
        Just(0xffff),
        any::<u16>()
    ];
    prop_oneof![
        (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (any::<prop::sample::Index>(), word).prop_map(|(at, word)| Damage::Word(at, word)),
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        vec(any::<u8>(), 0..80).prop_map(Damage::Grow),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(other, at)| Damage::Splice(other, at)),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        // Headers are where it hurts: most of the damage goes into the first 120 bytes.
        let headers = bytes.len().min(120);
        if headers < 2 {
            return;
        }
        match self {
            Self::Bit(at, bit) => bytes[at.index(headers)] ^= 1 << bit,
            Self::Byte(at, byte) => bytes[at.index(headers)] = *byte,
            Self::Word(at, word) => {
                let at = at.index(headers - 1);
                bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Self::Grow(more) => bytes.extend(more),
            Self::Splice(other, at) => {
                let other = &RECORDS[other.index(RECORDS.len())].bytes;
                let at = at.index(bytes.len().min(other.len()) + 1);
                bytes.truncate(at);
                bytes.extend(&other[at..]);
            }
        }
    }
}

/// One packet to feed.
#[derive(Clone, Debug)]
enum Packet {
    Record(Kept),
    Datagram {
        ts_ns: u64,
        src: SocketAddr,
        dst: SocketAddr,
        payload: Vec<u8>,
    },
}

impl Packet {
    fn feed(&self, worker: &mut Worker, outlet: &mut Memory) {
        let arrival = match self {
            Self::Record(kept) => Arrival::Record(Record {
                ts_ns: kept.ts_ns,
                link: kept.link,
                bytes: &kept.bytes,
                orig_len: kept.orig_len.max(kept.bytes.len() as u32),
                order: 0,
                told: None,
            }),
            Self::Datagram {
                ts_ns,
                src,
                dst,
                payload,
            } => Arrival::Datagram(Datagram {
                ts_ns: *ts_ns,
                src: *src,
                dst: *dst,
                payload,
                headers_len: 28,
                pieces: Pieces::Unseen,
            }),
        };
        worker.take(&arrival, outlet);
    }
}

/// Times in order, out of order, and far apart.
fn time() -> impl Strategy<Value = u64> {
    let start = 1_768_469_400_000_000_000u64;
    prop_oneof![
        start..start + 100_000_000_000,
        Just(0),
        Just(u64::MAX),
        any::<u64>()
    ]
}

fn link_type() -> impl Strategy<Value = LinkType> {
    prop::sample::select(&LINK_TYPES[..])
}

fn orig_len() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0), 1 => 0..3000u32, 1 => Just(u32::MAX)]
}

fn socket_address() -> impl Strategy<Value = SocketAddr> {
    let address =
        prop::sample::select(&["10.0.1.11", "10.0.2.21", "2001:db8::1", "::ffff:10.0.1.11"][..]);
    let port = prop_oneof![3 => Just(4789), 1 => Just(4790), 1 => Just(6081), 1 => any::<u16>()];
    (address, port).prop_map(|(address, port)| SocketAddr::new(address.parse().unwrap(), port))
}

fn packet() -> impl Strategy<Value = Packet> {
    let noise = (time(), link_type(), vec(any::<u8>(), 0..200), orig_len()).prop_map(
        |(ts_ns, link, bytes, orig_len)| {
            Packet::Record(Kept {
                ts_ns,
                link,
                bytes,
                orig_len,
            })
        },
    );
    // Good headers in front of noise reach deeper.
    let damaged = (
        any::<prop::sample::Index>(),
        vec(damage(), 0..4),
        prop::option::weighted(0.1, link_type()),
        prop::option::weighted(0.3, time()),
        prop::option::weighted(0.3, orig_len()),
    )
        .prop_map(|(which, damage, link, ts_ns, orig_len)| {
            let mut kept = RECORDS[which.index(RECORDS.len())].clone();
            damage
                .iter()
                .for_each(|damage| damage.apply(&mut kept.bytes));
            kept.link = link.unwrap_or(kept.link);
            kept.ts_ns = ts_ns.unwrap_or(kept.ts_ns);
            kept.orig_len = orig_len.unwrap_or(kept.orig_len);
            Packet::Record(kept)
        });
    let datagram = (
        any::<prop::sample::Index>(),
        vec(damage(), 0..4),
        time(),
        socket_address(),
        socket_address(),
    )
        .prop_map(|(which, damage, ts_ns, src, dst)| {
            let mut payload = PAYLOADS[which.index(PAYLOADS.len())].clone();
            damage.iter().for_each(|damage| damage.apply(&mut payload));
            Packet::Datagram {
                ts_ns,
                src,
                dst,
                payload,
            }
        });
    prop_oneof![1 => noise, 5 => damaged, 3 => datagram, 2 => fragment()]
}

/// Outer fragments of few datagrams, so that they meet, overlap and contradict each other.
fn fragment() -> impl Strategy<Value = Packet> {
    let payload = prop_oneof![
        (0..6usize).prop_map(|eights| vec![0x12; eights * 8]),
        vec(any::<u8>(), 0..40),
        any::<prop::sample::Index>().prop_map(|which| {
            let payload = &PAYLOADS[which.index(PAYLOADS.len())];
            // A UDP header to the VXLAN port, and as much as makes a multiple of 8.
            let mut datagram = vec![0xc0, 0, 0x12, 0xb5];
            datagram.extend(((payload.len() + 8) as u16).to_be_bytes());
            datagram.extend([0, 0]);
            datagram.extend(payload);
            datagram
        }),
    ];
    let offset = prop_oneof![4 => 0..8u16, 1 => Just(0x1fff), 1 => 0..0x2000u16];
    (
        payload,
        offset,
        any::<bool>(),
        0..3u16,
        any::<bool>(),
        time(),
    )
        .prop_map(|(payload, offset, more, id, ipv6, ts_ns)| {
            let bytes = if ipv6 {
                ipv6_fragment(&payload, offset, more, id)
            } else {
                ipv4_fragment(&payload, offset, more, id)
            };
            let (link, orig_len) = (LinkType::RawIp, 0);
            Packet::Record(Kept {
                ts_ns,
                link,
                bytes,
                orig_len,
            })
        })
}

fn ipv4_fragment(payload: &[u8], offset: u16, more: bool, id: u16) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend(((20 + payload.len()) as u16).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend((offset | u16::from(more) << 13).to_be_bytes());
    bytes.extend([64, 17, 0, 0, 10, 0, 1, 11, 10, 0, 9, 9]);
    bytes.extend(payload);
    bytes
}

fn ipv6_fragment(payload: &[u8], offset: u16, more: bool, id: u16) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
    bytes.extend([44, 64]);
    bytes.extend([0x20; 32]);
    bytes.extend([17, 0]);
    bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend(u32::from(id).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn settings() -> impl Strategy<Value = WorkerSettings> {
    let capture = prop_oneof![
        Just(None),
        Just(Some(Format::PcapNg)),
        Just(Some(Format::Pcap))
    ];
    let max_flows = prop_oneof![1..5u32, Just(1 << 20)];
    let ports = prop_oneof![
        Just(vec![4789]),
        Just(vec![4789, 8472]),
        Just(vec![]),
        Just(vec![40_000])
    ];
    (
        1..=16u8,
        ports,
        any::<bool>(),
        max_flows,
        capture,
        68..9001u32,
        allowed(),
    )
        .prop_map(
            |(depth, vxlan_ports, plain, max_flows, capture, mtu, allowed)| WorkerSettings {
                tunnels: Tunnels {
                    vxlan_ports,
                    depth,
                    ..Tunnels::default()
                },
                plain,
                mtu,
                max_flows,
                capture,
                flows: true,
                allowed: Arc::new(allowed),
                ..WorkerSettings::default()
            },
        )
}

/// Mostly everything, else a part of the sources and VNIs in `testdata/`.
fn allowed() -> impl Strategy<Value = Allowed> {
    prop_oneof![
        4 => Just(Allowed::default()),
        1 => (1..4usize, 1..4usize).prop_map(|(networks, vnis)| {
            let all = ["10.0.0.0/9", "192.0.2.0/24", "2000::/4"].map(|one| one.parse().unwrap());
            let lists = ["0-99", "100-5000", "70000"].map(|one| one.parse().unwrap());
            Allowed {
                networks: all[..networks].iter().copied().collect(),
                vnis: VniList::joined(&lists[..vnis]),
                denied_vnis: VniList::default(),
            }
        }),
    ]
}

/// Takes what a worker produces; the capture queue has room where `room` says so, over and over.
struct Memory {
    room: Vec<bool>,
    asked: usize,
    batch: Batch,
    no_room: u64,
    flows: Vec<FlowRecord>,
}

impl Outlet for Memory {
    fn room(&mut self, _len: usize) -> Option<&mut Batch> {
        self.asked += 1;
        let room = self.room.is_empty() || self.room[self.asked % self.room.len()];
        room.then_some(&mut self.batch)
    }

    fn current(&mut self) -> Option<&mut Batch> {
        Some(&mut self.batch)
    }

    fn no_room(&mut self, _session: SessionId) {
        self.no_room += 1;
    }

    fn flow(&mut self, record: FlowRecord) {
        self.flows.push(record);
    }
}

/// An encoded pcapng packet: session, bytes captured, bytes on the wire.
type Encoded = (u32, u32, u32);

/// Takes the records of a batch apart, by the format's own text (pcapng §4.3).
fn encoded(batch: &Batch, format: Format) -> Result<Vec<Encoded>, TestCaseError> {
    let bytes = &batch.bytes;
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (session, captured, orig, len) = match format {
            Format::PcapNg => {
                let len = word(at + 4) as usize;
                prop_assert_eq!(word(at), EPB);
                prop_assert!(len.is_multiple_of(4) && at + len <= bytes.len());
                prop_assert_eq!(word(at + len - 4) as usize, len);
                let captured = word(at + 20);
                prop_assert!(32 + captured as usize <= len);
                (word(at + 8), captured, word(at + 24), len)
            }
            Format::Pcap => {
                prop_assert!(word(at + 4) < 1_000_000_000, "nanoseconds");
                let captured = word(at + 8);
                (0, captured, word(at + 12), 16 + captured as usize)
            }
        };
        prop_assert!(captured <= orig && captured <= SNAPLEN);
        records.push((session, captured, orig));
        at += len;
    }
    prop_assert_eq!(at, bytes.len());
    Ok(records)
}

fn check(
    settings: WorkerSettings,
    packets: &[Packet],
    room: Vec<bool>,
) -> Result<(), TestCaseError> {
    let capture = settings.capture;
    let max_flows = settings.max_flows;
    let mut worker = Worker::new(settings);
    let mut memory = Memory {
        room,
        asked: 0,
        batch: Batch::default(),
        no_room: 0,
        flows: Vec::new(),
    };
    for packet in packets {
        packet.feed(&mut worker, &mut memory);
    }
    // Fragments that wait for others are taken at the end.
    worker.end_input(&mut memory);
    let sessions = worker.sessions().list().to_vec();
    let total = Total::of([worker]);
    memory.flows.extend(total.records());

    let ledger = &total.ledger;
    prop_assert!(ledger.closes(), "{:?}", ledger);
    prop_assert_eq!(ledger.received, packets.len() as u64);
    let taken = ledger.delivered;

    // Sessions: every packet delivered is in one.
    prop_assert_eq!(
        sessions.iter().map(|session| session.packets).sum::<u64>(),
        taken
    );
    for session in &sessions {
        let lengths = &session.truncation;
        prop_assert!(lengths.truncated + lengths.oversize + lengths.unknown() <= session.packets);
        prop_assert!(session.inbound + session.outbound <= session.packets);
        prop_assert!(session.first_ns <= session.last_ns);
    }

    // Flows: every packet with an IP header is in one record.
    let in_flows: u64 = memory
        .flows
        .iter()
        .map(|flow| flow.pkts_o + flow.pkts_r)
        .sum();
    let not_ip = ledger.noted().get("inner_not_ip").copied().unwrap_or(0);
    prop_assert_eq!(in_flows + not_ip, taken);
    let forced = memory
        .flows
        .iter()
        .filter(|flow| flow.end_reason == 4)
        .count();
    prop_assert!(forced <= max_flows as usize);
    let made_room = memory.flows.iter().any(|flow| flow.end_reason == 5);
    let is_crowded = memory.flows.len() > max_flows as usize;
    prop_assert!(!made_room || is_crowded, "evicted early");
    let in_sessions: u64 = sessions
        .iter()
        .map(|session| session.truncation.truncated)
        .sum();
    let in_flows: u64 = memory
        .flows
        .iter()
        .map(|flow| flow.trunc_pkts_o + flow.trunc_pkts_r)
        .sum();
    prop_assert!(in_flows <= in_sessions);
    for flow in &memory.flows {
        prop_assert!(flow.cap_bytes_o <= flow.l2_bytes_o && flow.cap_bytes_r <= flow.l2_bytes_r);
        // Padding that a snap length took is not missing from any packet.
        prop_assert!(flow.trunc_missing_o <= flow.l2_bytes_o - flow.cap_bytes_o);
        prop_assert!(flow.ttl_min <= flow.ttl_max);
        // What is told can be written and read again.
        let mut line = Vec::new();
        write_line(flow, &mut line);
        serde_json::from_slice::<serde_json::Value>(&line).unwrap();
    }

    // The capture: a record for each packet delivered that found room, each of a session the writer was told
    // of.
    let facts = &memory.batch.records;
    let Some(format) = capture else {
        prop_assert_eq!((memory.no_room, facts.len()), (0, 0));
        return Ok(());
    };
    prop_assert_eq!(facts.len() as u64 + memory.no_room, ledger.delivered);
    let records = encoded(&memory.batch, format)?;
    prop_assert_eq!(records.len(), facts.len());
    let captured: u64 = records
        .iter()
        .map(|(_, captured, _)| u64::from(*captured))
        .sum();
    let bytes: u64 = sessions.iter().map(|session| session.bytes).sum();
    // Ethernet headers put in front are in the file and were never on the wire.
    let framed = ledger.noted().get("ethernet_added").copied().unwrap_or(0);
    let bytes = bytes + 14 * framed;
    prop_assert!(captured <= bytes && (memory.no_room > 0 || captured == bytes));
    if format == Format::PcapNg {
        let told = &memory.batch.new_sessions;
        for (at, new) in told.iter().enumerate() {
            prop_assert_eq!((new.id.0 as usize, new.key), (at, sessions[at].key));
        }
        for record in facts {
            let session = record.session;
            prop_assert!(
                (session.0 as usize) < told.len(),
                "session {:?} is unknown",
                session
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn every_packet_is_accounted_for_once(
        settings in settings(),
        packets in vec(packet(), 0..80),
        room in vec(any::<bool>(), 0..7),
    ) {
        check(settings, &packets, room)?;
    }

    #[test]
    fn fragments_are_accounted_for_once(
        settings in settings(),
        packets in vec(fragment(), 0..60),
    ) {
        check(settings, &packets, Vec::new())?;
    }

    /// A capture whose bytes are damaged: records stay within the file, and reading ends.
    #[test]
    fn damaged_captures_are_read_to_some_end(
        which in 0..4usize,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let name = ["pcapng-le.pcapng", "pcapng-mixed.pcapng", "us-big-endian.pcap", "compressed.pcap.gz"][which];
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        let mut bytes = fs::read(path).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let len = bytes.len();
        if let Ok(mut file) = CaptureFile::from_reader(name.to_owned(), Cursor::new(bytes)) {
            let mut records = 0;
            while let Ok(Some(record)) = file.next_record() {
                prop_assert!(record.orig_len as usize >= record.bytes.len());
                prop_assert!(name.ends_with(".gz") || record.bytes.len() < len);
                records += 1;
            }
            prop_assert!(records < 100);
        }
    }
}

/// Every shorter copy of a capture gives the packets that are whole in it, then says what is missing.
#[test]
fn every_prefix_of_a_capture_is_read() {
    for name in ["pcapng-mixed.pcapng", "ns-big-endian.pcap"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("testdata")
            .join(name);
        let whole = fs::read(path).unwrap();
        let mut most = 0;
        let mut clean_ends = 0;
        for len in 0..=whole.len() {
            let prefix = Cursor::new(whole[..len].to_vec());
            let Ok(mut file) = CaptureFile::from_reader(name.to_owned(), prefix) else {
                assert_eq!(most, 0, "{name}: the first {len} bytes cannot be opened");
                continue;
            };
            let mut packets = 0;
            let ended = loop {
                match file.next_record() {
                    Ok(Some(_)) => packets += 1,
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            // One more byte never takes a packet away, and brings one at the most.
            assert!(
                packets == most || packets == most + 1,
                "{name}: {len} bytes"
            );
            most = packets;
            clean_ends += usize::from(ended);
        }
        // A file may end cleanly behind its header and behind each block or record only.
        let blocks = if name.ends_with(".pcap") {
            1 + 4
        } else {
            count_blocks(&whole)
        };
        assert_eq!(clean_ends, blocks, "{name}");
        assert!(most >= 4, "{name}");
    }
}

/// Blocks of a pcapng file, walked by their lengths.
fn count_blocks(file: &[u8]) -> usize {
    let (mut at, mut blocks, mut big_endian) = (0, 0, false);
    while at < file.len() {
        if file[at..at + 4] == [0x0a, 0x0d, 0x0d, 0x0a] {
            big_endian = file[at + 8] == 0x1a;
        }
        let len: [u8; 4] = file[at + 4..at + 8].try_into().unwrap();
        at += if big_endian {
            u32::from_be_bytes(len)
        } else {
            u32::from_le_bytes(len)
        } as usize;
        blocks += 1;
    }
    blocks
}

/// More mirror sessions than are kept apart: packets of the rest are counted together, and their flows
/// keep their networks.
#[test]
fn a_flood_of_networks() {
    let template = PAYLOADS
        .iter()
        .find(|payload| payload[0] == 8 && payload.len() > 60)
        .unwrap();
    let packets: Vec<Packet> = (0..5000u32)
        .map(|vni| {
            let mut payload = template.clone();
            payload[4..7].copy_from_slice(&vni.to_be_bytes()[1..]);
            Packet::Datagram {
                ts_ns: u64::from(vni),
                src: "10.0.1.11:50000".parse().unwrap(),
                dst: "10.0.9.9:4789".parse().unwrap(),
                payload,
            }
        })
        .collect();
    let settings = WorkerSettings {
        capture: Some(Format::PcapNg),
        flows: true,
        ..WorkerSettings::default()
    };
    check(settings.clone(), &packets, vec![true, false, true]).unwrap();
    let mut worker = Worker::new(settings);
    let mut memory = Memory {
        room: Vec::new(),
        asked: 0,
        batch: Batch::default(),
        no_room: 0,
        flows: Vec::new(),
    };
    for packet in &packets {
        packet.feed(&mut worker, &mut memory);
    }
    assert_eq!(worker.sessions().list().len(), 4097);
    memory.flows.extend(Total::of([worker]).records());
    assert_eq!(memory.flows.len(), 5000);
    let mut vnis: Vec<u32> = memory.flows.iter().map(|flow| flow.vni.unwrap()).collect();
    vnis.sort_unstable();
    assert!(vnis.into_iter().eq(0..5000));
}
