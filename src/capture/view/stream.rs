//! What the viewers of a run see, pure: a pcapng section that grows, and what one of them missed of it.
//!
//! All viewers share the numbers of interfaces, so that packets are copied once for all of them. Who joins late first
//! gets the header and every interface described so far.

use std::sync::Arc;

use crate::capture::writer::Sessions;
use crate::mirror::inventory::Inventory;
use crate::mirror::session::SessionId;
use crate::pcap::options::{number32, put};
use crate::pcap::record::{
    BATCH_LEN, EPB_INTERFACE_AT, Format, NewSession, RecordFacts, add_options,
};
use crate::pcap::section::{About, Section, viewed};

/// Option of an enhanced packet block: packets of its interface lost since the one before (pcapng §4.3).
const EPB_DROPCOUNT: u16 = 4;

/// Packets for every viewer.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Whole enhanced packet blocks.
    pub bytes: Vec<u8>,
    by_interface: Vec<Share>,
}

/// Packets of an interface in a chunk.
#[derive(Clone, Copy, Debug)]
struct Share {
    interface: u32,
    packets: u64,
    /// Time of the earliest and the latest.
    span: (u64, u64),
}

/// What a viewer got and missed of each interface.
#[derive(Debug, Default)]
pub struct Given {
    /// By number of interface.
    interfaces: Vec<Told>,
    /// Interfaces with a packet missed that the viewer has not been told of.
    untold: usize,
}

/// Of one interface.
#[derive(Clone, Copy, Debug)]
struct Told {
    got: u64,
    missed: u64,
    /// Those among them since the last packet it got.
    untold: u64,
    span: (u64, u64),
}

/// The section that all viewers see.
pub struct Stream {
    about: About,
    section: Section,
    sessions: Sessions,
    /// The header, interfaces, secrets and names so far.
    described: Vec<u8>,
    /// Secrets and names.
    blocks: Vec<u8>,
    /// Packets that nobody has got yet.
    chunk: Chunk,
}

impl Stream {
    /// Without a packet.
    pub fn new(about: About) -> Self {
        let mut described = Vec::new();
        Self {
            section: Section::begin(Format::PcapNg, &about, &mut described),
            about,
            sessions: Sessions::default(),
            described,
            blocks: Vec::new(),
            chunk: Chunk::default(),
        }
    }

    /// Interfaces that are described from now on are called so.
    pub fn know(&mut self, inventory: &Arc<Inventory>) {
        self.about.inventory = Arc::clone(inventory);
        self.section.know(inventory);
    }

    /// Begins anew, for nobody has seen anything: interfaces that come no more are not described.
    pub fn begin(&mut self) {
        self.described.clear();
        self.section = Section::begin(Format::PcapNg, &self.about, &mut self.described);
        self.described.extend_from_slice(&self.blocks);
        self.sessions = self.sessions.anew();
        self.chunk = Chunk::default();
    }

    /// What stands before the packets handed out so far and those that wait; it only grows.
    pub fn described(&self) -> &[u8] {
        &self.described
    }

    /// Takes over sessions that a batch of `worker` tells of.
    pub fn introduce(&mut self, worker: usize, new_sessions: &[NewSession]) {
        if !new_sessions.is_empty() {
            self.sessions.introduce(worker, new_sessions);
        }
    }

    /// The number of a session's interface, which is described if it is new.
    pub fn interface(&mut self, worker: usize, id: SessionId) -> u32 {
        let known = self.sessions.get(worker, id);
        known.number.unwrap_or_else(|| {
            let (section, described) = (&mut self.section, &mut self.described);
            let number = section.interface(known.key, known.to, described);
            self.sessions.describe(worker, id, number);
            number
        })
    }

    /// Adds records of `worker`; `bytes` are those of their batch.
    pub fn append(&mut self, worker: usize, bytes: &[u8], records: &[RecordFacts]) {
        for record in records {
            let number = self.interface(worker, record.session);
            let (from, len) = (record.at as usize, record.len as usize);
            let block = bytes.get(from..from + len).unwrap_or_default();
            self.chunk.add(number, record.ts_ns, block);
        }
    }

    /// Adds a block that is neither a packet nor describes an interface. No packet waits.
    pub fn put_block(&mut self, block: &[u8]) {
        self.blocks.extend_from_slice(block);
        self.described.extend_from_slice(block);
    }

    /// The end of the section, for a viewer that joins nothing any more: an interface at least is described.
    pub fn end(&mut self) {
        self.section.describe_any(&mut self.described);
    }

    /// Bytes of the packets that wait.
    pub const fn waiting(&self) -> usize {
        self.chunk.bytes.len()
    }

    /// Takes the packets that wait.
    pub fn take(&mut self) -> Chunk {
        std::mem::take(&mut self.chunk)
    }
}

impl Chunk {
    /// Packets in it.
    pub fn packets(&self) -> u64 {
        self.by_interface.iter().map(|share| share.packets).sum()
    }

    fn add(&mut self, interface: u32, ts_ns: u64, block: &[u8]) {
        if self.bytes.capacity() == 0 {
            // A quiet link has one packet in it, a busy one hundreds.
            self.bytes.reserve(block.len().max(BATCH_LEN / 64));
        }
        let at = self.bytes.len() + EPB_INTERFACE_AT;
        self.bytes.extend_from_slice(block);
        let field = self
            .bytes
            .get_mut(at..)
            .and_then(<[u8]>::first_chunk_mut::<4>);
        if let Some(field) = field {
            *field = interface.to_le_bytes();
        }
        let mut shares = self.by_interface.iter_mut().rev();
        match shares.find(|share| share.interface == interface) {
            Some(share) => {
                share.packets += 1;
                share.span = around(share.span, (ts_ns, ts_ns));
            }
            None => self.by_interface.push(Share {
                interface,
                packets: 1,
                span: (ts_ns, ts_ns),
            }),
        }
    }

    /// The same packets, of which the first of each interface tells what was missed before it.
    pub fn telling(&self, given: &mut Given) -> Self {
        let mut told = Self {
            bytes: Vec::with_capacity(self.bytes.len() + 16 * given.untold),
            by_interface: self.by_interface.clone(),
        };
        let mut rest = self.bytes.as_slice();
        while given.is_to_tell() && !rest.is_empty() {
            let len = number32(rest, 4, false) as usize;
            let Some((block, behind)) = rest.split_at_checked(len).filter(|_| len > 0) else {
                break;
            };
            let start = told.bytes.len();
            told.bytes.extend_from_slice(block);
            let packets = given.take(number32(block, EPB_INTERFACE_AT, false));
            if packets > 0 {
                let mut option = Vec::with_capacity(12);
                put(EPB_DROPCOUNT, &packets.to_le_bytes(), &mut option);
                add_options(start, &option, &mut told.bytes);
            }
            rest = behind;
        }
        told.bytes.extend_from_slice(rest);
        told
    }
}

/// The time that holds both.
fn around(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0.min(other.0), one.1.max(other.1))
}

impl Given {
    /// Whether there is something that the viewer has not been told of.
    pub const fn is_to_tell(&self) -> bool {
        self.untold > 0
    }

    /// All packets of `chunk` are missed.
    pub fn note_missed(&mut self, chunk: &Chunk) {
        for share in &chunk.by_interface {
            self.add_missed(share.interface, share.packets);
        }
    }

    /// Packets of an interface are missed.
    pub fn add_missed(&mut self, interface: u32, packets: u64) {
        let Some(told) = self.of(interface) else {
            return;
        };
        let is_first = told.untold == 0 && packets > 0;
        told.missed += packets;
        told.untold += packets;
        self.untold += usize::from(is_first);
    }

    /// The viewer gets all packets of `chunk`.
    pub fn note_got(&mut self, chunk: &Chunk) {
        for share in &chunk.by_interface {
            if let Some(told) = self.of(share.interface) {
                told.got += share.packets;
                told.span = around(told.span, share.span);
            }
        }
    }

    /// Statistics of each interface, for the end of the viewer's stream.
    pub fn statistics(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, told) in (0..).zip(&self.interfaces) {
            viewed(number, told.got, told.missed, told.span, &mut out);
        }
        out
    }

    fn of(&mut self, interface: u32) -> Option<&mut Told> {
        const NOTHING: Told = Told {
            got: 0,
            missed: 0,
            untold: 0,
            span: (u64::MAX, 0),
        };
        let at = interface as usize;
        if self.interfaces.len() <= at {
            self.interfaces.resize(at + 1, NOTHING);
        }
        self.interfaces.get_mut(at)
    }

    fn take(&mut self, interface: u32) -> u64 {
        let told = self.of(interface);
        let packets = told.map(|told| std::mem::take(&mut told.untold));
        let packets = packets.unwrap_or_default();
        self.untold -= usize::from(packets > 0);
        packets
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::mirror::direction::Direction;
    use crate::mirror::session_key::SessionKey;
    use crate::pcap::cut_by::CutBy;
    use crate::pcap::record::{Batch, CaptureRecord};
    use crate::wire::Vni;
    use crate::wire::length::{FrameLen, Verdict};

    /// A batch of worker 0 with a frame for each number: of the session with that number.
    fn batch(sessions: &[u32], direction: Direction) -> Batch {
        let mut batch = Batch::default();
        for (at, session) in sessions.iter().enumerate() {
            let frame = vec![at as u8; 60 + at % 4];
            let len = frame.len() as u32;
            let record = CaptureRecord {
                session: SessionId(*session),
                place: at as u64,
                ts_ns: at as u64,
                frame: &frame,
                lengths: FrameLen {
                    captured: len,
                    orig: len + 7,
                },
                verdict: match session {
                    1 => Verdict::Whole,
                    _ => Verdict::Truncated,
                },
                direction,
                is_unsettled: false,
                cut_by: CutBy::Unclear,
                packet_id: None,
            };
            Format::PcapNg.encode(&record, &mut batch);
        }
        batch
    }

    fn stream() -> Stream {
        let mut stream = Stream::new(About {
            comments: vec!["a test".to_owned()],
            mtu: 1500,
            inventory: std::sync::Arc::default(),
        });
        let new = |id| NewSession {
            id: SessionId(id),
            key: SessionKey::Mirror {
                source: [10, 0, 0, 1].into(),
                vni: Vni::new(id).unwrap(),
            },
            to: None,
        };
        stream.introduce(0, &[new(0), new(1), new(2)]);
        stream
    }

    fn append(stream: &mut Stream, sessions: &[u32], direction: Direction) {
        let batch = batch(sessions, direction);
        stream.append(0, &batch.bytes, &batch.records);
    }

    /// Interface, frame's first byte and drop count of each packet.
    fn packets(pcapng: &[u8]) -> Vec<(u32, u8, Option<u64>)> {
        let mut reader = PcapNgReader::new(pcapng).unwrap();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            let (block, state) = block.unwrap();
            if let Block::EnhancedPacket(packet) = block {
                assert!(state.interfaces().len() > packet.interface_id as usize);
                let dropped = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::DropCount(count) => Some(*count),
                    _ => None,
                });
                assert_eq!(packet.original_len as usize, packet.data.len() + 7);
                packets.push((packet.interface_id, packet.data[0], dropped));
            }
        }
        packets
    }

    #[test]
    fn whoever_joins_gets_a_whole_section() {
        let mut stream = stream();
        append(&mut stream, &[2, 0], Direction::Unknown);
        let first = stream.take();
        append(&mut stream, &[0, 1], Direction::Inbound);
        let second = stream.take();
        let all = [stream.described(), &first.bytes, &second.bytes].concat();
        let expected = [(0, 0, None), (1, 1, None), (1, 0, None), (2, 1, None)];
        assert_eq!(packets(&all), expected);
        let late = [stream.described(), &second.bytes].concat();
        assert_eq!(packets(&late), expected[2..]);
        // With nobody there it begins anew, with what is needed from then on.
        stream.put_block(&[1, 2, 3]);
        stream.begin();
        assert!(stream.described().ends_with(&[1, 2, 3]));
        stream.blocks.clear();
        stream.begin();
        append(&mut stream, &[1], Direction::Unknown);
        let alone = [stream.described(), &stream.chunk.bytes].concat();
        assert_eq!(packets(&alone), [(0, 0, None)]);
    }

    /// Losses are told once, on the next packet of the same interface, with and without other options.
    #[test]
    fn what_was_missed_is_told_on_the_next_packet_of_its_interface() {
        for direction in [Direction::Unknown, Direction::Outbound] {
            let mut stream = stream();
            let mut given = Given::default();
            append(&mut stream, &[0, 1, 1, 2], direction);
            let lost = stream.take();
            assert_eq!(lost.packets(), 4);
            given.note_missed(&lost);
            given.add_missed(0, 5);
            given.add_missed(1, 0);
            append(&mut stream, &[1, 1, 0], direction);
            let told = stream.take().telling(&mut given);
            let all = [stream.described(), &told.bytes].concat();
            let expected = [(1, 0, Some(2)), (1, 1, None), (0, 2, Some(6))];
            assert_eq!(packets(&all), expected);
            assert!(given.is_to_tell(), "one of the third is to be told yet");
            append(&mut stream, &[2, 2], direction);
            let told = stream.take().telling(&mut given);
            let all = [stream.described(), &told.bytes].concat();
            assert_eq!(packets(&all), [(2, 0, Some(1)), (2, 1, None)]);
            assert!(!given.is_to_tell());
        }
    }
}
