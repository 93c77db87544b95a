//! Capture records: a worker turns each frame into its final bytes, in the batch it is filling.
//!
//! pcapng enhanced packet blocks (pcapng specification §4.3) and nanosecond pcap records, little-endian.
//! The interface number of a block is left open: the writer, which knows what the file holds, fills it in. Until then its
//! place tells where the block's direction stands, if that may still be told ([`settle_direction`]).
//! Each record comes with its facts, so that nobody behind has to parse it.

use std::net::IpAddr;

use crate::mirror::direction::Direction;
use crate::mirror::own_macs::{MacPair, split};
use crate::mirror::session::SessionId;
use crate::mirror::session_key::SessionKey;
use crate::pcap::cut_by::{CutBy, cause_text};
use crate::pcap::options::number32;
use crate::wire::decapsulate::Tunnel;
use crate::wire::inner::Mac;
use crate::wire::length::{FrameLen, Verdict};

/// Most bytes of a frame that are stored; what libpcap-based readers accept at most.
pub const SNAPLEN: u32 = 262_144;
/// The last time that pcap can tell, in nanoseconds since 1970: its seconds end in 2106.
pub const PCAP_LATEST_NS: u64 = u32::MAX as u64 * 1_000_000_000 + 999_999_999;
/// Bytes of a batch when it is handed on; a set of these stays in a core's second-level cache.
pub const BATCH_LEN: usize = 256 << 10;
/// Records of a batch when it is handed on, however short they are.
pub const BATCH_RECORDS: usize = 2048;
/// Most bytes of memory that a batch takes.
pub const BATCH_BYTES: usize = BATCH_LEN + BATCH_RECORDS * size_of::<RecordFacts>();
/// Most bytes that it takes in addition where there is an index.
pub const BATCH_KEYS_BYTES: usize = BATCH_RECORDS * size_of::<Keys>();
/// Most bytes that it takes in addition where flows are told where their first packets lie.
pub const BATCH_BEGUN_BYTES: usize = BATCH_RECORDS * size_of::<u32>();

/// The kind of capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// pcapng: one interface a mirror session, comments on cut packets.
    PcapNg,
    /// Classic pcap with nanosecond times; mirror sessions cannot be told apart in it.
    Pcap,
}

/// A frame to encode.
#[derive(Clone, Copy, Debug)]
pub struct CaptureRecord<'a> {
    /// Its mirror session.
    pub session: SessionId,
    /// Its place in time: files are in this order.
    pub place: u64,
    /// Arrival, nanoseconds since 1970.
    pub ts_ns: u64,
    /// The frame from its destination MAC on, as far as it is stored.
    pub frame: &'a [u8],
    /// Its two lengths, as it arrived.
    pub lengths: FrameLen,
    /// What is known of them.
    pub verdict: Verdict,
    /// Which way it went at the mirror source.
    pub direction: Direction,
    /// Where that is unknown: its hardware addresses may tell it later.
    pub is_unsettled: bool,
    /// What cut it, if something did.
    pub cut_by: CutBy,
    /// Names its packet: copies have the same.
    pub packet_id: Option<u64>,
}

/// A session the writer has not heard of yet.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    /// The worker's number for it.
    pub id: SessionId,
    /// Its name.
    pub key: SessionKey,
    /// Outer destination and encapsulation of its first packet, where they are known.
    pub to: Option<(IpAddr, Tunnel)>,
}

/// What is known of a record beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordFacts {
    /// Its place in time: files are in this order. Arrival live, position in the file in replay.
    pub place: u64,
    /// Arrival, nanoseconds since 1970.
    pub ts_ns: u64,
    /// Its mirror session, by the worker's number.
    pub session: SessionId,
    /// Where its bytes begin in the batch.
    pub at: u32,
    /// How many they are.
    pub len: u32,
    /// How many records were encoded in the batch before it: the place of its [`Keys`].
    pub number: u16,
    /// Where the flow of which it is the first packet stands in [`Batch::begun`], counted from one; else 0.
    pub begins: u16,
}

impl RecordFacts {
    /// The flow of which this is the first packet, by its place in the worker's table, and the number of the record
    /// among all of the worker. `begun` and `base` are those of its batch.
    pub fn begun(&self, begun: &[u32], base: u64) -> Option<(u32, u64)> {
        let at = usize::from(self.begins).checked_sub(1)?;
        Some((*begun.get(at)?, base + u64::from(self.number)))
    }
}

/// What an index notes of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Of its flow.
    pub flow: u32,
    /// Of its addresses.
    pub hosts: [u32; 2],
    /// It has a flow and addresses.
    pub is_ip: bool,
    /// It arrived cut.
    pub is_cut: bool,
}

/// Records on their way from a worker to the writer.
#[derive(Debug, Default)]
pub struct Batch {
    /// Whole records, one behind the other.
    pub bytes: Vec<u8>,
    /// Their facts, in the order they were encoded in until [`Batch::sort`].
    pub records: Vec<RecordFacts>,
    /// The worker promises that nothing below this place will follow.
    pub watermark: u64,
    /// Sessions that appear in this batch for the first time.
    pub new_sessions: Vec<NewSession>,
    /// Records of each session that found no room since the batch before.
    pub no_room: Vec<(SessionId, u64)>,
    /// Some record comes behind a later one; [`Batch::sort`] mends that.
    pub unordered: bool,
    /// For each record what an index notes of it, by [`RecordFacts::number`]; empty where there is no index.
    pub keys: Vec<Keys>,
    /// Flows of which a record here is the first packet, each by its place in its worker's table. Empty where nobody
    /// asks where that lies.
    pub begun: Vec<u32>,
    /// Number of the first record that was encoded here among all of its worker, where `begun` holds any.
    pub base: u64,
}

impl Batch {
    /// An empty batch with its room allocated.
    pub fn with_room() -> Self {
        Self {
            bytes: Vec::with_capacity(BATCH_LEN),
            records: Vec::with_capacity(BATCH_LEN / 256),
            ..Self::default()
        }
    }

    /// Empties it for its next round.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.keys.clear();
        self.begun.clear();
        (self.watermark, self.unordered) = (0, false);
        self.new_sessions.clear();
        self.no_room.clear();
        // One giant record must not keep its memory for ever.
        if self.bytes.capacity() > 2 * BATCH_LEN {
            self.bytes = Vec::with_capacity(BATCH_LEN);
        }
    }

    /// Whether it holds no record.
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Notes the facts of a record whose bytes were appended from `start` on.
    fn note(&mut self, record: &CaptureRecord<'_>, start: usize) {
        let last = self.records.last().map_or(0, |last| last.place);
        self.unordered |= record.place < last;
        let narrow = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        self.records.push(RecordFacts {
            place: record.place,
            ts_ns: record.ts_ns,
            session: record.session,
            at: narrow(start),
            len: narrow(self.bytes.len() - start),
            number: u16::try_from(self.records.len()).unwrap_or(u16::MAX),
            begins: 0,
        });
    }

    /// Notes that the flow at the place `flow` of its worker's table begins with one of the records that were encoded
    /// here last, which is number `number` among all of the worker; `back` is 1 for the last one. Before
    /// [`Self::sort`].
    pub fn note_begun(&mut self, flow: u32, number: u64, back: u64) {
        let at = usize::try_from(back).ok();
        let at = at.and_then(|back| self.records.len().checked_sub(back));
        if let Some((at, facts)) = at.and_then(|at| Some((at, self.records.get_mut(at)?))) {
            self.base = number.saturating_sub(at as u64);
            self.begun.push(flow);
            facts.begins = u16::try_from(self.begun.len()).unwrap_or_default();
        }
    }

    /// Gives the record that was encoded last, an enhanced packet block that has a packet id, another one.
    pub fn rename_last(&mut self, id: u64) {
        let Some(facts) = self.records.last() else {
            return;
        };
        let start = facts.at as usize;
        let data_len = number32(&self.bytes, start + EPB_CAPTURED_LEN_AT, false) as usize;
        let mut at = start + EPB_FIXED_LEN + data_len.next_multiple_of(4);
        let flags_option = u32::from(OPTION_FLAGS) | 4 << 16;
        if number32(&self.bytes, at, false) == flags_option {
            at += 8;
        }
        let id_option = u32::from(OPTION_PACKET_ID) | 8 << 16;
        if number32(&self.bytes, at, false) == id_option
            && let Some(bytes) = self
                .bytes
                .get_mut(at + 4..)
                .and_then(<[u8]>::first_chunk_mut)
        {
            *bytes = id.to_le_bytes();
        }
    }

    /// Adds options, without their end, to record `number`, an enhanced packet block. Its bytes move behind the
    /// others.
    pub fn add_options(&mut self, number: usize, options: &[u8]) {
        let Some(facts) = self.records.get_mut(number) else {
            return;
        };
        let start = self.bytes.len();
        let end = facts.at as usize + facts.len as usize;
        if end > start {
            return;
        }
        self.bytes.extend_from_within(facts.at as usize..end);
        add_options(start, options, &mut self.bytes);
        facts.at = u32::try_from(start).unwrap_or(u32::MAX);
        facts.len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
    }

    /// Puts the facts into the order of their places. Arrival times of one socket go back by some
    /// microseconds where two cores deliver to it.
    pub fn sort(&mut self) {
        if std::mem::take(&mut self.unordered) {
            self.records
                .sort_unstable_by_key(|record| (record.place, record.at));
        }
    }
}

/// Type of an enhanced packet block.
pub const EPB: u32 = 6;
/// Offset of the interface number in it.
pub const EPB_INTERFACE_AT: usize = 8;
const EPB_CAPTURED_LEN_AT: usize = 20;
const EPB_FIXED_LEN: usize = 28;
const OPTION_COMMENT: u16 = 1;
const OPTION_FLAGS: u16 = 2;
const OPTION_PACKET_ID: u16 = 5;
/// Longest comment, with its option header and padding.
const COMMENT_ROOM: usize = 100;

/// Most bytes that encoding a frame of `captured_len` bytes can take.
pub const fn room_for(captured_len: usize) -> usize {
    // Fixed part, padding, flags, packet id, comment, end of options, trailing length.
    EPB_FIXED_LEN + captured_len + 3 + 8 + 12 + COMMENT_ROOM + 4 + 4
}

impl Format {
    /// Appends `record` to `batch`.
    pub fn encode(self, record: &CaptureRecord<'_>, batch: &mut Batch) {
        let start = batch.bytes.len();
        match self {
            Self::PcapNg => encode_epb(record, &mut batch.bytes),
            Self::Pcap => encode_pcap(record, &mut batch.bytes),
        }
        batch.note(record, start);
    }
}

/// The bytes of a frame that are stored, and its two lengths as the file tells them.
fn stored<'a>(record: &CaptureRecord<'a>) -> (&'a [u8], u32, u32) {
    let frame = record.frame.get(..SNAPLEN as usize).unwrap_or(record.frame);
    let captured_len = u32::try_from(frame.len()).unwrap_or(SNAPLEN);
    (frame, captured_len, record.lengths.orig.max(captured_len))
}

fn encode_epb(record: &CaptureRecord<'_>, out: &mut Vec<u8>) {
    let (frame, captured_len, orig_len) = stored(record);
    let start = out.len();
    out.reserve(room_for(frame.len()));
    let ts_high = (record.ts_ns >> 32) as u32;
    let ts_low = record.ts_ns as u32;
    let pad_len = frame.len().wrapping_neg() % 4;
    let flags = flags(record.direction);
    let has_flags = flags != 0 || record.is_unsettled;
    let cut = record.verdict == Verdict::Truncated;
    let flags_len = if has_flags { 8 } else { 0 };
    let id_len = if record.packet_id.is_none() { 0 } else { 12 };
    let options_len = match flags_len + id_len {
        0 => 0,
        len => len + 4,
    };
    // What most blocks have: flags, a packet id, and no comment. Its length is known beforehand.
    let total_len = (EPB_FIXED_LEN + frame.len() + pad_len + options_len + 4) as u32;
    let flags_at = match record.is_unsettled {
        true if frame.len() >= size_of::<MacPair>() => EPB_FIXED_LEN + frame.len() + pad_len + 4,
        _ => 0,
    };
    let words = [
        EPB,
        total_len,
        flags_at as u32,
        ts_high,
        ts_low,
        captured_len,
        orig_len,
    ];
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(frame);
    // Padding, options, their end and the length once more. Each word goes straight to its place: put together elsewhere
    // and copied they would be read in one piece before they have left the processor's store queue, and that load waits
    // until everything before them has, the frame included.
    let mut at = out.len() + pad_len;
    out.extend_from_slice(&[0; 3 + 24 + 4]);
    out.truncate(at + options_len + 4);
    let mut put = |word: u32| {
        if let Some(place) = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = word.to_le_bytes();
        }
        at += 4;
    };
    if has_flags {
        put(u32::from(OPTION_FLAGS) | 4 << 16);
        put(flags);
    }
    if let Some(id) = record.packet_id {
        put(u32::from(OPTION_PACKET_ID) | 8 << 16);
        put(id as u32);
        put((id >> 32) as u32);
    }
    if options_len > 0 {
        put(0);
    }
    put(total_len);
    if cut {
        insert_comment(record, start, options_len > 0, out);
    }
}

/// The direction in the flags of a block.
const fn flags(direction: Direction) -> u32 {
    match direction {
        Direction::Inbound => 1,
        Direction::Outbound => 2,
        Direction::Unknown => 0,
    }
}

/// Puts the direction into an enhanced packet block among `bytes`, if that may still be told and `direction` knows it by
/// the frame's destination and source address. Before its interface number is filled in.
#[inline]
pub fn settle_direction(
    bytes: &mut [u8],
    record: &RecordFacts,
    direction: impl FnOnce(Mac, Mac) -> Direction,
) {
    let at = record.at as usize;
    let Some(block) = bytes.get_mut(at..at + record.len as usize) else {
        return;
    };
    let flags_at = number32(block, EPB_INTERFACE_AT, false) as usize;
    if flags_at == 0 {
        return;
    }
    let macs = block.get(EPB_FIXED_LEN..);
    let Some((dst, src)) = macs.and_then(<[u8]>::first_chunk).map(split) else {
        return;
    };
    let field = block.get_mut(flags_at..);
    if let Some(field) = field.and_then(<[u8]>::first_chunk_mut::<4>) {
        *field = flags(direction(dst, src)).to_le_bytes();
    }
}

/// Puts the comment of a cut packet behind the other options of the block at `start`, the last one.
fn insert_comment(record: &CaptureRecord<'_>, start: usize, has_options: bool, out: &mut Vec<u8>) {
    // The end of options, where there are any, and the length come again behind the comment.
    out.truncate(out.len() - if has_options { 8 } else { 4 });
    comment(record, out);
    end_options(start, out);
}

/// Adds options, without their end, to the enhanced packet block at `start`, the last one in `out`.
pub fn add_options(start: usize, options: &[u8], out: &mut Vec<u8>) {
    let data_len = number32(out, start + EPB_CAPTURED_LEN_AT, false) as usize;
    let without_options = EPB_FIXED_LEN + data_len.next_multiple_of(4) + 4;
    // The end of options, where there are any, and the length come again behind the new ones.
    let has_options = out.len() - start > without_options;
    out.truncate(out.len() - if has_options { 8 } else { 4 });
    out.extend_from_slice(options);
    end_options(start, out);
}

/// Ends the options of the block at `start`, the last one, and the block with its length.
fn end_options(start: usize, out: &mut Vec<u8>) {
    option_header(out, 0, 0);
    let total = (out.len() - start + 4) as u32;
    if let Some(len) = out.get_mut(start + 4..start + 8) {
        len.copy_from_slice(&total.to_le_bytes());
    }
    out.extend_from_slice(&total.to_le_bytes());
}

fn encode_pcap(record: &CaptureRecord<'_>, out: &mut Vec<u8>) {
    let (frame, captured_len, orig_len) = stored(record);
    out.reserve(room_for(frame.len()));
    append_pcap(record.ts_ns, frame, captured_len, orig_len, out);
}

/// Appends a record of classic pcap: nanoseconds, little-endian.
pub fn append_pcap(ts_ns: u64, packet: &[u8], captured_len: u32, orig_len: u32, out: &mut Vec<u8>) {
    let ts_ns = ts_ns.min(PCAP_LATEST_NS);
    let (seconds, nanoseconds) = (
        (ts_ns / 1_000_000_000) as u32,
        (ts_ns % 1_000_000_000) as u32,
    );
    let words = [seconds, nanoseconds, captured_len, orig_len];
    out.extend_from_slice(words.map(u32::to_le_bytes).as_flattened());
    out.extend_from_slice(packet);
}

/// `truncated: 954 of 1454 bytes missing (mirror MTU)`, written without formatting machinery: in a
/// session of 96 bytes every packet has one.
fn comment(record: &CaptureRecord<'_>, out: &mut Vec<u8>) {
    let header_at = out.len();
    option_header(out, OPTION_COMMENT, 0);
    let text_at = out.len();
    out.extend_from_slice(b"truncated: ");
    decimal(out, record.lengths.missing());
    out.extend_from_slice(b" of ");
    decimal(out, record.lengths.orig);
    out.extend_from_slice(b" bytes missing");
    out.extend_from_slice(cause_text(record.cut_by).as_bytes());
    let len = out.len() - text_at;
    if let Some(header) = out.get_mut(header_at + 2..header_at + 4) {
        header.copy_from_slice(&(len as u16).to_le_bytes());
    }
    pad(out, len);
}

fn decimal(out: &mut Vec<u8>, number: u32) {
    let mut digits = [0u8; 10];
    let mut rest = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

fn option_header(out: &mut Vec<u8>, code: u16, len: u16) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
}

fn pad(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice([0u8; 3].get(..len.wrapping_neg() % 4).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use pcap_file::DataLink;
    use pcap_file::pcap::PcapReader;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    use pcap_file::pcapng::blocks::interface_description::{
        InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
    };
    use pcap_file::pcapng::blocks::opt_common::CommonOption;
    use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};
    use proptest::prelude::*;

    use super::*;

    fn record(frame: &[u8], orig: u32, ts_ns: u64, direction: Direction) -> CaptureRecord<'_> {
        let captured = frame.len() as u32;
        let lengths = FrameLen {
            captured,
            orig: orig.max(captured),
        };
        let verdict = if lengths.missing() > 0 {
            Verdict::Truncated
        } else {
            Verdict::Whole
        };
        CaptureRecord {
            session: SessionId(0),
            place: ts_ns,
            ts_ns,
            frame,
            lengths,
            verdict,
            direction,
            is_unsettled: false,
            cut_by: CutBy::Mtu,
            packet_id: None,
        }
    }

    fn file_with_one_interface() -> Vec<u8> {
        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, SNAPLEN);
        interface
            .options
            .push(InterfaceDescriptionOption::IfTsResol(
                InterfaceTsResolution::NANO,
            ));
        writer.write_pcapng_block(interface).unwrap();
        writer.into_inner()
    }

    /// A direction that is told later is where it would have been, and only where there is room for it.
    #[test]
    fn directions_are_settled_in_place() {
        let frame = [[2u8; 6], [4; 6]].concat();
        let cut = |direction, is_unsettled| {
            let record = CaptureRecord {
                is_unsettled,
                ..record(&frame, 1000, 7, direction)
            };
            let mut batch = Batch::default();
            // Not at the beginning of the batch.
            Format::PcapNg.encode(&record, &mut batch);
            Format::PcapNg.encode(&record, &mut batch);
            batch
        };
        for direction in [Direction::Inbound, Direction::Outbound, Direction::Unknown] {
            let mut later = cut(Direction::Unknown, true);
            let facts = later.records[1];
            settle_direction(&mut later.bytes, &facts, |dst, src| {
                assert_eq!((dst, src), ([2; 6], [4; 6]));
                direction
            });
            let at = facts.at as usize + EPB_INTERFACE_AT;
            later.bytes[at..at + 4].fill(0);
            let at_once = match direction {
                Direction::Unknown => continue,
                direction => cut(direction, false),
            };
            let second = |batch: &Batch| batch.bytes[batch.records[1].at as usize..].to_vec();
            assert_eq!(second(&later), second(&at_once));
        }
        let mut settled = cut(Direction::Inbound, false);
        let facts = settled.records[1];
        settle_direction(&mut settled.bytes, &facts, |_, _| panic!("it is known"));
    }

    proptest! {
        /// What the encoder writes, an independent reader reads.
    #[test]
        fn blocks_read_back(
            frame in proptest::collection::vec(any::<u8>(), 0..300),
            orig in 0u32..4000,
            ts_ns in any::<u64>(),
            way in 0..3usize,
            packet_id in any::<Option<u64>>(),
        ) {
            let direction = [Direction::Unknown, Direction::Inbound, Direction::Outbound][way];
            let record = CaptureRecord { packet_id, ..record(&frame, orig, ts_ns, direction) };
            let mut batch = Batch { bytes: file_with_one_interface(), ..Batch::default() };
            let before = batch.bytes.len();
            Format::PcapNg.encode(&record, &mut batch);
            prop_assert!(batch.bytes.len() - before <= room_for(frame.len()));
            let mut reader = PcapNgReader::new(&batch.bytes[..]).unwrap();
            let mut packets = Vec::new();
            while let Some(block) = reader.next_block() {
                if let Block::EnhancedPacket(packet) = block.unwrap().0 {
                    packets.push(packet.into_owned());
                }
            }
            let packet = packets.pop().unwrap();
            prop_assert_eq!(&packet.data[..], &frame[..]);
            prop_assert_eq!(packet.original_len, record.lengths.orig);
            prop_assert_eq!(packet.timestamp.as_nanos(), u128::from(ts_ns));
            let comment = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Common(CommonOption::Comment(text)) => Some(text.to_string()),
                _ => None,
            });
            let missing = record.lengths.missing();
            let expected = format!("truncated: {missing} of {} bytes missing (mirror MTU)", record.lengths.orig);
            prop_assert_eq!(comment, (missing > 0).then_some(expected));
            let flags = packet.options.iter().any(|option| matches!(option, EnhancedPacketOption::Flags(_)));
            prop_assert_eq!(flags, way != 0);
            let id = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Common(CommonOption::Unknown(option)) if option.code == OPTION_PACKET_ID => {
                    Some(u64::from_le_bytes(option.value.as_ref().try_into().unwrap()))
                }
                _ => None,
            });
            prop_assert_eq!(id, packet_id);
        }

        /// A block with another id is the block of the same packet that had it from the beginning.
        #[test]
        fn another_id_changes_nothing_else(
            frame in proptest::collection::vec(any::<u8>(), 0..50),
            orig in 0u32..100,
            way in 0..3usize,
            ids in any::<[u64; 2]>(),
        ) {
            let direction = [Direction::Unknown, Direction::Inbound, Direction::Outbound][way];
            let record = record(&frame, orig, 1, direction);
            let encoded = |id| {
                let mut batch = Batch::default();
                Format::PcapNg.encode(&record, &mut batch);
                Format::PcapNg.encode(&CaptureRecord { packet_id: id, ..record }, &mut batch);
                batch
            };
            let [one, other] = ids.map(Some).map(encoded);
            let mut renamed = one;
            renamed.rename_last(ids[1]);
            prop_assert_eq!(&renamed.bytes, &other.bytes);
            let mut without = encoded(None);
            without.rename_last(ids[1]);
            prop_assert_eq!(without.bytes, encoded(None).bytes);
        }

        #[test]
        fn pcap_records_read_back(frame in proptest::collection::vec(any::<u8>(), 0..300), ts_ns in 0u64..4_000_000_000_000_000_000) {
            let mut batch = Batch::default();
            batch.bytes.extend([0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0]);
            Format::Pcap.encode(&record(&frame, 1000, ts_ns, Direction::Unknown), &mut batch);
            let mut reader = PcapReader::new(&batch.bytes[..]).unwrap();
            let packet = reader.next_raw_packet().unwrap().unwrap();
            prop_assert_eq!(&packet.data[..], &frame[..]);
            prop_assert_eq!(u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_frac), ts_ns);
            prop_assert_eq!(packet.orig_len, 1000);
        }
    }

    #[test]
    fn decimals() {
        for number in [0, 9, 10, 954, u32::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
