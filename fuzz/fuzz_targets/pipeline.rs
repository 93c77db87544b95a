//! A worker with everything behind it, and the captures it writes read back.
//!
//! The input is a pcap or pcapng file, or a list of arrivals: one byte of settings, then for each its
//! kind, port, time step, length (little-endian) and bytes; see [`arrivals`]. Two workers take the same
//! arrivals, one for each capture format, behind an outlet that has no room now and then and with a
//! flow table of few places. What is held true:
//!
//! - the ledger closes when the input ends, and is the same for both formats;
//! - each record stays within the room that was asked for it, and its session is announced before it,
//!   under the next free number;
//! - the captures read back with as many records as were delivered, each with the bytes it was given,
//!   the time it came at, and a length not below; both formats hold the same;
//! - each mirror session has its frames in the capture, under its own interface, but those that found
//!   no room;
//! - each frame with an IP header is in exactly one flow record, no flow outlives the table's size, and
//!   every record becomes JSON.

#![no_main]

use std::io::Cursor;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use vxtap::export::jsonl::write_line;
use vxtap::flow::ended::EndReason;
use vxtap::flow::record::FlowRecord;
use vxtap::mirror::session::SessionId;
use vxtap::mirror::truncation::Route;
use vxtap::pcap::record::{Batch, EPB_INTERFACE_AT, Format, PCAP_LATEST_NS, SNAPLEN, room_for};
use vxtap::pipeline::ledger::{Ledger, Noted};
use vxtap::pipeline::total::Total;
use vxtap::pipeline::worker::{Outlet, Worker, WorkerSettings};
use vxtap::source::file::CaptureFile;
use vxtap::source::{Arrival, Datagram, Record};
use vxtap::wire::decapsulate::Tunnels;
use vxtap::wire::outer::{LinkType, Pieces};
use vxtap_fuzz::{Input, LINKS};

/// Bytes of a batch when it is handed on; small, so that there are many.
const BATCH_LEN: usize = 2048;
/// Most bytes and arrivals of one input.
const MOST_BYTES: usize = 4 << 20;
const MOST_ARRIVALS: usize = 4096;
/// 2026-01-15 00:00:00 UTC.
const START_NS: u64 = 1_768_435_200_000_000_000;

fuzz_target!(|data: &[u8]| {
    let (chosen, packets) = if is_capture(data) {
        (*data.last().unwrap_or(&0), records_of(data))
    } else {
        match data.split_first() {
            Some((chosen, rest)) => (*chosen, arrivals(rest)),
            None => return,
        }
    };
    let ng = run(chosen, Format::PcapNg, &packets);
    let pcap = run(chosen, Format::Pcap, &packets);
    // The seconds of a pcap record end in 2106, which is noted.
    let beyond = ng
        .records
        .iter()
        // The latest of all is noted where it is read.
        .filter(|record| (PCAP_LATEST_NS + 1..u64::MAX).contains(&record.ts_ns))
        .count();
    let mut expected = ng.ledger.clone();
    expected.note_many(Noted::TimeClamped, beyond as u64);
    assert_eq!(expected, pcap.ledger);
    assert_eq!(ng.records.len(), pcap.records.len());
    for (ng, pcap) in ng.records.iter().zip(&pcap.records) {
        assert_eq!((&ng.bytes, ng.orig_len), (&pcap.bytes, pcap.orig_len));
        assert_eq!(ng.ts_ns.min(PCAP_LATEST_NS), pcap.ts_ns);
    }
});

/// An arrival that owns its bytes.
struct Packet {
    ts_ns: u64,
    bytes: Vec<u8>,
    /// Bytes it had before it was cut.
    orig_len: usize,
    from: From,
}

enum From {
    File(LinkType),
    Socket { src: SocketAddr, dst: SocketAddr },
}

impl Packet {
    fn arrival(&self) -> Arrival<'_> {
        match self.from {
            From::File(link) => Arrival::Record(Record {
                ts_ns: self.ts_ns,
                link,
                bytes: &self.bytes,
                orig_len: u32::try_from(self.orig_len).unwrap(),
                order: 0,
                told: None,
            }),
            From::Socket { src, dst } => Arrival::Datagram(Datagram {
                ts_ns: self.ts_ns,
                src,
                dst,
                payload: &self.bytes,
                headers_len: if src.is_ipv4() { 28 } else { 48 },
                pieces: Pieces::Unseen,
            }),
        }
    }
}

fn is_capture(data: &[u8]) -> bool {
    matches!(
        data,
        [0xa1, 0xb2, 0xc3, 0xd4, ..]
            | [0xd4, 0xc3, 0xb2, 0xa1, ..]
            | [0xa1, 0xb2, 0x3c, 0x4d, ..]
            | [0x4d, 0x3c, 0xb2, 0xa1, ..]
            | [0x0a, 0x0d, 0x0d, 0x0a, ..]
    )
}

/// The records of a capture file, up to its end or its first error.
fn records_of(data: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    let Ok(mut file) = CaptureFile::from_reader("input".to_owned(), Cursor::new(data.to_vec()))
    else {
        return packets;
    };
    while let Ok(Some(record)) = file.next_record() {
        packets.push(Packet {
            ts_ns: record.ts_ns,
            bytes: record.bytes.to_vec(),
            orig_len: record.orig_len as usize,
            from: From::File(record.link),
        });
        if packets.len() == MOST_ARRIVALS {
            break;
        }
    }
    packets
}

/// Reads a list of arrivals.
///
/// Of the kind, bits 0-2 are the link type of a record, or 6 and 7 for a datagram over IPv4 and IPv6;
/// bit 3 says that 100 bytes were cut off; bit 4 that 256 KiB of zeros follow the bytes. Bits 0-1 of the
/// port choose the destination of a datagram, bits 2-3 its source. Time steps are half seconds, signed.
fn arrivals(data: &[u8]) -> Vec<Packet> {
    let mut input = Input(data);
    let mut packets = Vec::new();
    let (mut ts_ns, mut total) = (START_NS, 0);
    while let Some([kind, port, step, l0, l1]) = input.array() {
        let mut bytes = input
            .up_to(usize::from(u16::from_le_bytes([l0, l1])))
            .to_vec();
        if kind & 0x10 != 0 {
            bytes.resize(bytes.len() + (256 << 10), 0);
        }
        total += bytes.len();
        if total > MOST_BYTES || packets.len() == MOST_ARRIVALS {
            break;
        }
        ts_ns = ts_ns.saturating_add_signed(i64::from(step as i8) * 500_000_000);
        let from = match LINKS.get(usize::from(kind & 7)) {
            Some(link) => From::File(*link),
            None => {
                let host = |last: u8| match kind & 7 {
                    6 => IpAddr::V4(Ipv4Addr::new(10, 0, 1, last)),
                    _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last.into())),
                };
                let to = [4789, 4790, 6081, 1234][usize::from(port & 3)];
                From::Socket {
                    src: SocketAddr::new(host(11 + (port >> 2 & 3)), 50_000),
                    dst: SocketAddr::new(host(9), to),
                }
            }
        };
        packets.push(Packet {
            ts_ns,
            orig_len: bytes.len() + if kind & 8 != 0 { 100 } else { 0 },
            bytes,
            from,
        });
    }
    packets
}

/// What one worker made of the input.
struct Outcome {
    ledger: Ledger,
    records: Vec<Stored>,
}

/// A record read back.
struct Stored {
    ts_ns: u64,
    bytes: Vec<u8>,
    orig_len: u32,
}

fn run(chosen: u8, format: Format, packets: &[Packet]) -> Outcome {
    let settings = WorkerSettings {
        tunnels: Tunnels {
            depth: 1 + (chosen >> 1 & 3),
            ..Tunnels::default()
        },
        plain: chosen & 1 != 0,
        mtu: if chosen & 8 != 0 { 9001 } else { 1500 },
        max_flows: [1, 2, 3, 8][usize::from(chosen >> 4 & 3)],
        capture: Some(format),
        flows: true,
        ..WorkerSettings::default()
    };
    let max_flows = settings.max_flows as usize;
    let (mtu, overhead) = (settings.mtu, settings.mtu_overhead);
    let mut outlet = Memory::new(format, [u64::MAX, 2, 3, 7][usize::from(chosen >> 6)]);
    let mut worker = Worker::new(settings);
    for packet in packets {
        worker.take(&packet.arrival(), &mut outlet);
        outlet.kept_its_word();
    }
    let sessions = worker.sessions().list().to_vec();
    let total = Total::of([worker]);
    total.records().for_each(|record| outlet.flow(record));
    outlet.hand_on();

    let ledger = &total.ledger;
    assert!(ledger.closes(), "{ledger:?}");
    assert_eq!(ledger.received, packets.len() as u64);
    assert_eq!(ledger.delivered, outlet.records + outlet.refused);
    assert_eq!(outlet.records, outlet.stored.len() as u64);
    assert_eq!(outlet.no_room, outlet.refused);

    let records = read_back(&outlet.file);
    assert_eq!(records.len() as u64, outlet.records);
    for (record, frame_len) in records.iter().zip(&outlet.stored) {
        assert_eq!(record.bytes.len(), *frame_len.min(&(SNAPLEN as usize)));
        assert!(record.orig_len as usize >= *frame_len);
    }

    let mut by_interface = vec![0; sessions.len()];
    if format == Format::PcapNg {
        each_interface(&outlet.file, |number| by_interface[number] += 1);
    }
    let (mut frames, mut frame_bytes, mut cut) = (0, 0, 0);
    for (session, in_capture) in sessions.iter().zip(&by_interface) {
        frames += session.packets;
        frame_bytes += session.bytes;
        cut += session.truncation.truncated;
        assert!(session.packets > 0 && session.first_ns <= session.last_ns);
        assert!(session.inbound + session.outbound <= session.packets);
        let route = Route {
            mtu,
            recommended_overhead: overhead,
            largest_outer: 0,
        };
        _ = session.truncation.advice(session.packets, &route);
        if format == Format::PcapNg {
            assert!(session.packets >= *in_capture);
        }
    }
    assert_eq!(frames, ledger.delivered);

    let not_ip = ledger.noted().get("inner_not_ip").copied();
    let (mut in_flows, mut flow_bytes, mut flows_cut, mut at_end) = (0, 0, 0, 0);
    for record in &outlet.flows {
        assert!(record.pkts_o + record.pkts_r > 0);
        assert_eq!(record.src_ip.is_ipv4(), record.dst_ip.is_ipv4());
        assert!(record.ttl_min <= record.ttl_max);
        in_flows += record.pkts_o + record.pkts_r;
        flow_bytes += record.cap_bytes_o + record.cap_bytes_r;
        flows_cut += record.trunc_pkts_o + record.trunc_pkts_r;
        at_end += usize::from(record.end_reason == EndReason::Forced as u8);
        let mut line = Vec::new();
        write_line(record, &mut line);
        serde_json::from_slice::<serde_json::Value>(&line).expect("a record is JSON");
    }
    assert_eq!(in_flows, frames - not_ip.unwrap_or_default());
    assert!(flow_bytes <= frame_bytes && flows_cut <= cut);
    assert!(at_end <= max_flows);
    Outcome {
        ledger: ledger.clone(),
        records,
    }
}

/// Keeps everything a worker produces.
struct Memory {
    format: Format,
    /// Every how manyth question for room is answered with no.
    refuse_every: u64,
    asked: u64,
    refused: u64,
    no_room: u64,
    batch: Batch,
    /// Bytes the batch may have after the record that room was asked for.
    limit: usize,
    file: Vec<u8>,
    interfaces: u32,
    records: u64,
    /// Bytes of each frame that found room.
    stored: Vec<usize>,
    flows: Vec<FlowRecord>,
}

impl Memory {
    fn new(format: Format, refuse_every: u64) -> Self {
        Self {
            format,
            refuse_every,
            asked: 0,
            refused: 0,
            no_room: 0,
            batch: Batch::default(),
            limit: 0,
            file: match format {
                Format::PcapNg => section_header(),
                Format::Pcap => pcap_header(),
            },
            interfaces: 0,
            records: 0,
            stored: Vec::new(),
            flows: Vec::new(),
        }
    }

    fn kept_its_word(&self) {
        assert!(
            self.batch.bytes.len() <= self.limit,
            "more than was asked for"
        );
    }

    /// What the writer does: interfaces first, then the records.
    fn hand_on(&mut self) {
        for new in &self.batch.new_sessions {
            assert_eq!(new.id.0, self.interfaces, "announced out of turn");
            self.interfaces += 1;
            if self.format == Format::PcapNg {
                self.file.extend(interface_description());
            }
        }
        if self.format == Format::PcapNg {
            for record in &self.batch.records {
                let number = record.at as usize + EPB_INTERFACE_AT;
                self.batch.bytes[number..number + 4]
                    .copy_from_slice(&record.session.0.to_le_bytes());
            }
        }
        self.file.extend_from_slice(&self.batch.bytes);
        self.records += self.batch.records.len() as u64;
        self.batch.clear();
    }
}

impl Outlet for Memory {
    fn room(&mut self, len: usize) -> Option<&mut Batch> {
        self.asked += 1;
        if self.asked.is_multiple_of(self.refuse_every) {
            self.refused += 1;
            return None;
        }
        if self.batch.bytes.len() >= BATCH_LEN {
            self.hand_on();
        }
        self.stored.push(len - room_for(0));
        self.limit = self.batch.bytes.len() + len;
        Some(&mut self.batch)
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

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Version 1.0, section length not told.
fn section_header() -> Vec<u8> {
    let unknown = u32::MAX;
    words(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, unknown, unknown, 28])
}

/// Ethernet, nanoseconds (if_tsresol 9).
fn interface_description() -> Vec<u8> {
    words(&[1, 32, 1, SNAPLEN, 0x0001_0009, 9, 0, 32])
}

/// Nanoseconds, version 2.4, Ethernet.
fn pcap_header() -> Vec<u8> {
    words(&[0xa1b2_3c4d, 0x0004_0002, 0, 0, SNAPLEN, 1])
}

fn read_back(file: &[u8]) -> Vec<Stored> {
    let mut capture = CaptureFile::from_reader("capture".to_owned(), Cursor::new(file.to_vec()))
        .expect("our own capture opens");
    let mut records = Vec::new();
    while let Some(record) = capture.next_record().expect("our own capture reads") {
        assert_eq!(record.link, LinkType::Ethernet);
        records.push(Stored {
            ts_ns: record.ts_ns,
            bytes: record.bytes.to_vec(),
            orig_len: record.orig_len,
        });
    }
    records
}

/// Calls `each` with the interface number of every enhanced packet block.
fn each_interface(file: &[u8], mut each: impl FnMut(usize)) {
    let word = |at: usize| {
        file[at..]
            .first_chunk()
            .map(|word| u32::from_le_bytes(*word))
    };
    let mut at = 0;
    while let (Some(kind), Some(len), Some(interface)) = (
        file.get(at..).and_then(|_| word(at)),
        file.get(at + 4..).and_then(|_| word(at + 4)),
        file.get(at + 8..).and_then(|_| word(at + 8)),
    ) {
        if kind == 6 {
            each(interface as usize);
        }
        at += len as usize;
    }
}
