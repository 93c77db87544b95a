//! One capture file from its first byte to its last, pure: the header, an interface for each mirror session,
//! and the statistics of each at the end.
//!
//! A section knows what *this* file holds, so a file is complete in itself wherever it begins and ends.
//! pcapng sections (draft-ietf-opsawg-pcapng §4.1, §4.2, §4.6) and pcap headers, little-endian.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::mirror::inventory::Inventory;
use crate::mirror::session_key::SessionKey;
use crate::pcap::blocks::{
    ENHANCED_PACKET, INTERFACE_DESCRIPTION, INTERFACE_STATISTICS, SECTION_HEADER,
};
use crate::pcap::options::{block, put};
use crate::pcap::origin::Origin;
use crate::pcap::record::{Format, SNAPLEN};
use crate::wire::decapsulate::Tunnel;

/// Most sessions that have an interface of their own in one file; the rest share one.
const MAX_INTERFACES: usize = 1 << 14;
const LINKTYPE_ETHERNET: u16 = 1;

/// Most bytes of an interface description: fixed fields, name, description, resolution.
const DESCRIPTION_ROOM: u64 = 512;

/// Most bytes of a session's label in its description.
const LABEL_ROOM: usize = 128;
/// Most bytes of an interface's statistics: fixed fields, seven numbers, a comment.
const STATISTICS_ROOM: u64 = 256;

/// Option codes, each within its block.
mod option {
    pub const COMMENT: u16 = 1;
    pub const SHB_HARDWARE: u16 = 2;
    pub const SHB_OS: u16 = 3;
    pub const SHB_USERAPPL: u16 = 4;
    pub const IF_NAME: u16 = 2;
    pub const IF_DESCRIPTION: u16 = 3;
    pub const IF_TSRESOL: u16 = 9;
    pub const ISB_STARTTIME: u16 = 2;
    pub const ISB_ENDTIME: u16 = 3;
    pub const ISB_IFRECV: u16 = 4;
    pub const ISB_IFDROP: u16 = 5;
    pub const ISB_FILTERACCEPT: u16 = 6;
    pub const ISB_OSDROP: u16 = 7;
    pub const ISB_USRDELIV: u16 = 8;
}

/// What is told of a file as a whole.
#[derive(Clone, Debug)]
pub struct About {
    /// The file's comments: what wrote it, then those that its input had.
    pub comments: Vec<String>,
    /// MTU of the path from mirror source to target, for the interface descriptions.
    pub mtu: u32,
    /// What sessions are called, likewise.
    pub inventory: Arc<Inventory>,
}

/// The file being written.
pub struct Section {
    format: Format,
    mtu: u32,
    inventory: Arc<Inventory>,
    interfaces: Vec<Interface>,
    by_key: HashMap<SessionKey, u32, foldhash::fast::RandomState>,
}

/// A mirror session in this file.
#[derive(Clone, Copy)]
struct Interface {
    /// Records of it in the file.
    written: u64,
    /// Frames of it that found no room in our queue, since the file began.
    no_room: u64,
    /// Arrival of the earliest and latest record, nanoseconds since 1970.
    first_ns: u64,
    last_ns: u64,
}

impl Section {
    /// Begins a file: appends its header to `out`.
    pub fn begin(format: Format, about: &About, out: &mut Vec<u8>) -> Self {
        match format {
            Format::PcapNg => section_header(&about.comments, out),
            Format::Pcap => pcap_header(out),
        }
        Self {
            format,
            mtu: about.mtu,
            inventory: Arc::clone(&about.inventory),
            interfaces: Vec::new(),
            by_key: HashMap::default(),
        }
    }

    /// Interfaces that are described from now on are called so.
    pub fn know(&mut self, inventory: &Arc<Inventory>) {
        self.inventory = Arc::clone(inventory);
    }

    /// The file's number for a session, of which `to` tells outer destination and encapsulation. One that is new to the file is described in `out`, right before its
    /// first packet, so that the file does not depend on how batches were cut.
    pub fn interface(
        &mut self,
        key: SessionKey,
        to: Option<(IpAddr, Tunnel)>,
        out: &mut Vec<u8>,
    ) -> u32 {
        let key = match self.by_key.get(&key) {
            Some(number) => return *number,
            None if self.interfaces.len() < MAX_INTERFACES => key,
            None => SessionKey::Other,
        };
        if let Some(number) = self.by_key.get(&key) {
            return *number;
        }
        let description = match key {
            SessionKey::Mirror { source, vni } => Origin {
                source,
                vni,
                mtu: self.mtu,
                to,
            }
            .description(),
            SessionKey::Plain => "packets that were not encapsulated".to_owned(),
            SessionKey::Other => "mirror sessions beyond the number kept apart".to_owned(),
        };
        let label = self.inventory.label(key);
        let description = match label.and_then(|label| label.name.as_deref()) {
            Some(name) => format!("{description} label={}", up_to(name, LABEL_ROOM)),
            None => description,
        };
        self.describe(&key.interface_name(), &description, out);
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.push(Interface::EMPTY);
        self.by_key.insert(key, number);
        number
    }

    /// Counts a record of interface `number`.
    #[inline]
    pub fn count(&mut self, number: u32, ts_ns: u64) {
        if let Some(interface) = self.interfaces.get_mut(number as usize) {
            interface.written += 1;
            interface.first_ns = interface.first_ns.min(ts_ns);
            interface.last_ns = interface.last_ns.max(ts_ns);
        }
    }

    /// Counts frames of a session that found no room; it is described in `out` if the file has none of it.
    pub fn count_no_room(
        &mut self,
        key: SessionKey,
        to: Option<(IpAddr, Tunnel)>,
        frames: u64,
        out: &mut Vec<u8>,
    ) {
        let number = self.interface(key, to, out);
        if let Some(interface) = self.interfaces.get_mut(number as usize) {
            interface.no_room += frames;
        }
    }

    /// Ends the file: appends the statistics of each interface. `kernel_dropped` datagrams were lost before
    /// anybody could tell their session.
    pub fn end(&mut self, kernel_dropped: u64, out: &mut Vec<u8>) {
        if self.format == Format::Pcap {
            return;
        }
        self.describe_any(out);
        for (number, interface) in self.interfaces.iter().enumerate() {
            interface.statistics(
                u32::try_from(number).unwrap_or(u32::MAX),
                Losses::Known { kernel_dropped },
                out,
            );
        }
    }

    /// Describes an interface if none is: libpcap refuses a file without, even one without packets.
    pub fn describe_any(&mut self, out: &mut Vec<u8>) {
        if self.interfaces.is_empty() {
            self.describe("none", "no mirrored packet arrived", out);
            self.interfaces.push(Interface::EMPTY);
        }
    }

    /// Time of the earliest and the latest record, nanoseconds since 1970; `None` without one.
    pub fn span(&self) -> Option<(u64, u64)> {
        let written = self.interfaces.iter().filter(|one| one.written > 0);
        let first = written.clone().map(|one| one.first_ns).min()?;
        let last = written.map(|one| one.last_ns).max()?;
        Some((first, last))
    }

    /// Mirror sessions that have a record in the file.
    pub fn sessions(&self) -> u64 {
        let written = self.interfaces.iter().filter(|one| one.written > 0);
        written.count() as u64
    }

    /// Most bytes that the end of the file takes, and the description of one more interface.
    pub const fn end_len(&self) -> u64 {
        match self.format {
            Format::PcapNg => {
                DESCRIPTION_ROOM + (self.interfaces.len() as u64 + 1) * STATISTICS_ROOM
            }
            Format::Pcap => 0,
        }
    }

    /// Describes an interface. All have the same link type and snap length: libpcap refuses a file where
    /// they differ.
    fn describe(&self, name: &str, description: &str, out: &mut Vec<u8>) {
        if self.format == Format::Pcap {
            return;
        }
        block(INTERFACE_DESCRIPTION, out, |out| {
            out.extend_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&SNAPLEN.to_le_bytes());
            text(option::IF_NAME, name, out);
            text(option::IF_DESCRIPTION, description, out);
            // Nanoseconds.
            put(option::IF_TSRESOL, &[9], out);
            put(0, &[], out);
        });
    }
}

/// The beginning of a text, at most so many bytes of it.
fn up_to(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

/// What is known of losses, beside the statistics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Losses {
    /// Nothing.
    Unknown,
    /// Those of our queues.
    InQueue,
    /// All, those of the kernel included, which cannot be told by session.
    Known { kernel_dropped: u64 },
}

impl Interface {
    /// Without a record.
    const EMPTY: Self = Self {
        written: 0,
        no_room: 0,
        first_ns: u64::MAX,
        last_ns: 0,
    };

    fn statistics(&self, number: u32, losses: Losses, out: &mut Vec<u8>) {
        let time = |ts_ns: u64| {
            let words = [(ts_ns >> 32) as u32, ts_ns as u32];
            words.map(u32::to_le_bytes)
        };
        let received = self.written + self.no_room;
        block(INTERFACE_STATISTICS, out, |out| {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(time(self.last_ns).as_flattened());
            if self.written > 0 {
                put(
                    option::ISB_STARTTIME,
                    time(self.first_ns).as_flattened(),
                    out,
                );
                put(option::ISB_ENDTIME, time(self.last_ns).as_flattened(), out);
            }
            put(option::ISB_IFRECV, &received.to_le_bytes(), out);
            if let Losses::Known { kernel_dropped } = losses {
                put(option::ISB_IFDROP, &kernel_dropped.to_le_bytes(), out);
            }
            put(option::ISB_FILTERACCEPT, &received.to_le_bytes(), out);
            if losses != Losses::Unknown {
                put(option::ISB_OSDROP, &self.no_room.to_le_bytes(), out);
            }
            put(option::ISB_USRDELIV, &self.written.to_le_bytes(), out);
            if matches!(
                losses,
                Losses::Known {
                    kernel_dropped: 1..
                }
            ) {
                let comment = "ifdrop counts datagrams the kernel dropped for the whole socket, not this session alone";
                text(option::COMMENT, comment, out);
            }
            put(0, &[], out);
        });
    }
}

/// Appends the statistics of interface `number` of a file whose writer was killed: what is in the file is known, and
/// nothing of what was lost.
pub fn recovered(number: u32, packets: u64, first_ns: u64, last_ns: u64, out: &mut Vec<u8>) {
    let interface = Interface {
        written: packets,
        first_ns,
        last_ns,
        ..Interface::EMPTY
    };
    interface.statistics(number, Losses::Unknown, out);
}

/// Appends the statistics of interface `number` for a viewer: `written` packets between two times it got, `missed` it
/// did not.
pub fn viewed(number: u32, written: u64, missed: u64, span: (u64, u64), out: &mut Vec<u8>) {
    let interface = Interface {
        written,
        no_room: missed,
        first_ns: span.0,
        last_ns: span.1,
    };
    interface.statistics(number, Losses::InQueue, out);
}

/// How much of `bytes`, records and blocks of which the first `len` bytes were written, is whole: bytes, and
/// packets in them.
pub fn whole_prefix(format: Format, bytes: &[u8], len: usize) -> (usize, u64) {
    let (mut whole, mut packets) = (0, 0);
    let number = |at: usize| {
        let word = bytes.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*word) as usize)
    };
    loop {
        let (next, is_packet) = match format {
            Format::PcapNg => (
                number(whole + 4),
                number(whole) == Some(ENHANCED_PACKET as usize),
            ),
            Format::Pcap => (number(whole + 8).map(|captured| captured + 16), true),
        };
        match next.and_then(|next| whole.checked_add(next)) {
            Some(end) if end <= len && end > whole => whole = end,
            _ => return (whole, packets),
        }
        packets += u64::from(is_packet);
    }
}

fn section_header(comments: &[String], out: &mut Vec<u8>) {
    block(SECTION_HEADER, out, |out| {
        out.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
        out.extend_from_slice(&[1, 0, 0, 0]);
        // Its length is not known yet.
        out.extend_from_slice(&u64::MAX.to_le_bytes());
        text(option::SHB_HARDWARE, std::env::consts::ARCH, out);
        text(option::SHB_OS, std::env::consts::OS, out);
        let program = concat!("vxtap ", env!("CARGO_PKG_VERSION"));
        text(option::SHB_USERAPPL, program, out);
        for comment in comments {
            text(option::COMMENT, comment, out);
        }
        put(0, &[], out);
    });
}

/// Appends the header of a classic pcap file: nanoseconds, little-endian, version 2.4, Ethernet.
pub fn pcap_header(out: &mut Vec<u8>) {
    let words = [
        0xa1b2_3c4d,
        2 | 4 << 16,
        0,
        0,
        SNAPLEN,
        u32::from(LINKTYPE_ETHERNET),
    ];
    out.extend_from_slice(words.map(u32::to_le_bytes).as_flattened());
}

/// An option that holds a text, which stays valid UTF-8 when it is cut.
fn text(code: u16, value: &str, out: &mut Vec<u8>) {
    let end = value.floor_char_boundary(usize::from(u16::MAX));
    put(code, value.get(..end).unwrap_or(value).as_bytes(), out);
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
    use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
    use pcap_file::pcapng::{Block, PcapNgReader};
    use proptest::prelude::*;

    use super::*;
    use crate::mirror::direction::Direction;
    use crate::mirror::session::SessionId;
    use crate::pcap::cut_by::CutBy;
    use crate::pcap::record::{Batch, CaptureRecord, EPB_INTERFACE_AT};
    use crate::wire::Vni;
    use crate::wire::length::{FrameLen, Verdict};

    fn key(vni: u32) -> SessionKey {
        SessionKey::Mirror {
            source: IpAddr::from([192, 0, 2, 1]),
            vni: Vni::new(vni).unwrap(),
        }
    }

    fn about() -> About {
        About {
            comments: vec!["żółw".repeat(20_000)],
            mtu: 1500,
            inventory: std::sync::Arc::default(),
        }
    }

    fn record(frame: &[u8]) -> CaptureRecord<'_> {
        let captured = frame.len() as u32;
        CaptureRecord {
            session: SessionId(0),
            place: 0,
            ts_ns: 5,
            frame,
            lengths: FrameLen {
                captured,
                orig: captured,
            },
            verdict: Verdict::Whole,
            direction: Direction::Inbound,
            is_unsettled: false,
            cut_by: CutBy::Unclear,
            packet_id: None,
        }
    }

    #[test]
    fn an_independent_reader_reads_a_file() {
        let mut out = Vec::new();
        let mut section = Section::begin(Format::PcapNg, &about(), &mut out);
        assert_eq!(section.interface(key(7), None, &mut out), 0);
        assert_eq!(section.interface(key(9), None, &mut out), 1);
        assert_eq!(section.interface(key(7), None, &mut out), 0);
        for (number, ts_ns) in [(1, 30), (0, 40), (1, 20)] {
            section.count(number, ts_ns);
        }
        section.count_no_room(key(9), None, 5, &mut out);
        section.end(3, &mut out);
        let mut reader = PcapNgReader::new(&out[..]).unwrap();
        let (mut names, mut counts) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap().0 {
                Block::InterfaceDescription(block) => {
                    names.extend(block.options.iter().find_map(|option| match option {
                        InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                        _ => None,
                    }));
                }
                Block::InterfaceStatistics(block) => {
                    let number = |wanted: fn(&InterfaceStatisticsOption<'_>) -> Option<u64>| {
                        block.options.iter().find_map(wanted).unwrap()
                    };
                    counts.push((
                        number(|option| match option {
                            InterfaceStatisticsOption::IsbIfRecv(count) => Some(*count),
                            _ => None,
                        }),
                        number(|option| match option {
                            InterfaceStatisticsOption::IsbUsrDeliv(count) => Some(*count),
                            _ => None,
                        }),
                        number(|option| match option {
                            InterfaceStatisticsOption::IsbStartTime(time) => {
                                Some(time.as_nanos() as u64)
                            }
                            _ => None,
                        }),
                    ));
                }
                _ => {}
            }
        }
        assert_eq!(names, ["vni7@192.0.2.1", "vni9@192.0.2.1"]);
        assert_eq!(counts, [(1, 1, 40), (7, 2, 20)]);
    }

    /// What the kernel dropped is told in a file without packets too.
    #[test]
    fn a_file_without_packets_has_statistics() {
        let mut out = Vec::new();
        let mut section = Section::begin(Format::PcapNg, &about(), &mut out);
        section.end(3, &mut out);
        let mut reader = PcapNgReader::new(&out[..]).unwrap();
        let mut dropped = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::InterfaceStatistics(block) = block.unwrap().0 {
                dropped.extend(block.options.iter().filter_map(|option| match option {
                    InterfaceStatisticsOption::IsbIfDrop(count) => Some(*count),
                    _ => None,
                }));
            }
        }
        assert_eq!(dropped, [3]);
    }

    #[test]
    fn interfaces_are_bounded() {
        let mut out = Vec::new();
        let mut section = Section::begin(Format::PcapNg, &about(), &mut out);
        let most = MAX_INTERFACES as u32;
        for vni in 0..most {
            assert_eq!(section.interface(key(vni), None, &mut out), vni);
        }
        assert_eq!(section.interface(key(most), None, &mut out), most);
        assert_eq!(section.interface(key(most + 1), None, &mut out), most);
        assert_eq!(section.interface(key(3), None, &mut out), 3);
    }

    proptest! {
        /// Wherever a disk is full: what is kept are the whole records before that place.
        #[test]
        fn the_whole_prefix(
            lens in proptest::collection::vec(0usize..90, 0..8),
            len in 0usize..900,
            is_pcapng in any::<bool>(),
        ) {
            let format = if is_pcapng { Format::PcapNg } else { Format::Pcap };
            let mut batch = Batch::default();
            let mut ends = vec![0];
            for len in lens {
                format.encode(&record(&vec![0xee; len]), &mut batch);
                ends.push(batch.bytes.len());
            }
            if is_pcapng {
                for facts in &batch.records {
                    batch.bytes[facts.at as usize + EPB_INTERFACE_AT] = 1;
                }
            }
            let len = len.min(batch.bytes.len());
            let packets = ends.iter().rposition(|end| *end <= len).unwrap();
            let expected = (ends[packets], packets as u64);
            prop_assert_eq!(whole_prefix(format, &batch.bytes, len), expected);
        }
    }
}
