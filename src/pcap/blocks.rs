//! Blocks of a pcapng file (draft-ietf-opsawg-pcapng), pure: bytes in, packets out.
//!
//! Read by hand rather than with a library, because every resolution of time has to be read, options
//! that do not matter must not stop the reading, and damage has to name its byte.

use std::borrow::Cow;

use crate::pcap::annotation::{self, DECRYPTION_SECRETS, NAME_RESOLUTION, Tally, What};
use crate::pcap::fcs;
use crate::pcap::losses::{self, Losses};
use crate::pcap::options::{self, Options, number16, number32, number64};
use crate::pcap::origin::{CutComment, Origin};
use crate::wire::outer::LinkType;

/// Type of a section header block; the same in both byte orders.
pub const SECTION_HEADER: u32 = 0x0a0d_0d0a;
/// Type of an interface description block.
pub const INTERFACE_DESCRIPTION: u32 = 1;
/// Type of the obsolete packet block.
pub const PACKET: u32 = 2;
/// Type of a simple packet block.
pub const SIMPLE_PACKET: u32 = 3;
/// Type of an interface statistics block.
pub const INTERFACE_STATISTICS: u32 = 5;
/// Type of an enhanced packet block.
pub const ENHANCED_PACKET: u32 = 6;

/// Longest block believed, as in Wireshark.
const MAX_BLOCK_LEN: usize = 16 << 20;
/// Interfaces remembered in one section.
const MAX_INTERFACES: usize = 1 << 20;
const OPTION_USERAPPL: u16 = 4;
const OPTION_IF_NAME: u16 = 2;
const OPTION_IF_DESCRIPTION: u16 = 3;
const OPTION_TSRESOL: u16 = 9;
const OPTION_FCSLEN: u16 = 13;
const OPTION_TSOFFSET: u16 = 14;
const OPTION_FLAGS: u16 = 2;
const OPTION_DROPCOUNT: u16 = 4;

/// Why a block cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BlockError {
    #[error("a section header without its byte-order magic")]
    Magic,
    #[error("a block of {0} bytes; blocks have at least 12 and a multiple of 4")]
    Len(usize),
    #[error("a block of {0} bytes, more than {MAX_BLOCK_LEN}")]
    TooLong(usize),
    #[error("a block of {len} bytes whose trailing length says {trailer}")]
    Trailer { len: usize, trailer: u32 },
    #[error("pcapng version {0}.{1}; version 1.0 can be read")]
    Version(u16, u16),
    #[error("a block of type {kind} with {len} bytes of body, too few for its fields")]
    Short { kind: u32, len: usize },
    #[error("interface option {0} is longer than its block")]
    Option(u16),
    #[error("more than {MAX_INTERFACES} interfaces in one section")]
    TooManyInterfaces,
    #[error("a packet of interface {interface}, but {known} are described")]
    NoInterface { interface: u32, known: usize },
    #[error("a packet of {captured} bytes in a block with room for {room}")]
    PacketTooLong { captured: usize, room: usize },
}

/// The section being read: what later blocks refer to.
#[derive(Debug, Default)]
pub struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
    /// vxtap wrote it.
    is_ours: bool,
    /// Packets that the sections before it say were lost.
    lost_before: Option<u64>,
    /// Comments of sections, interfaces and statistics, in all sections. Not those that vxtap writes by itself.
    comments: u64,
    /// Those of the first section, as texts.
    first_comments: Vec<String>,
    has_begun: bool,
}

/// A packet in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketBlock {
    /// Nanoseconds since 1970; `None` in a simple packet block.
    pub ts_ns: Option<u64>,
    /// Its time is outside of what nanoseconds since 1970 can tell: `ts_ns` is the nearest.
    pub time_clamped: bool,
    /// Number of its interface in the section.
    pub interface: u32,
    /// What its bytes start with.
    pub link: LinkType,
    /// Offset of its bytes in the block.
    pub at: usize,
    /// Bytes stored, without a frame check sequence.
    pub captured_len: usize,
    /// Bytes on the wire, without a frame check sequence.
    pub orig_len: u32,
    /// Offset of its options in the block.
    pub options_at: usize,
    /// There is a comment among them.
    pub has_comment: bool,
}

#[derive(Clone, Debug)]
struct Interface {
    link: LinkType,
    snaplen: u32,
    /// `if_tsresol`: with the top bit set a negative power of 2, else of 10.
    resolution: u8,
    /// `if_tsoffset`, seconds.
    offset_s: i64,
    /// Bytes of frame check sequence behind each frame.
    fcs_len: u8,
    /// What is said of packets lost on it, where something is.
    losses: Option<Box<Losses>>,
    /// The mirror session it stands for, where we wrote the file.
    origin: Option<Box<Origin>>,
}

impl Section {
    /// Length of the block that starts with `head`, its first 12 bytes. A section header changes the
    /// byte order.
    ///
    /// # Errors
    ///
    /// When it cannot be a block's length.
    pub fn block_len(&mut self, head: &[u8]) -> Result<usize, BlockError> {
        if head.starts_with(&SECTION_HEADER.to_be_bytes()) {
            self.big_endian = match head.get(8..12) {
                Some([0x1a, 0x2b, 0x3c, 0x4d]) => true,
                Some([0x4d, 0x3c, 0x2b, 0x1a]) => false,
                _ => return Err(BlockError::Magic),
            };
        }
        let len = self.number(head, 4) as usize;
        match len {
            _ if len < 12 || !len.is_multiple_of(4) => Err(BlockError::Len(len)),
            _ if len > MAX_BLOCK_LEN => Err(BlockError::TooLong(len)),
            _ => Ok(len),
        }
    }

    /// What the block that starts with `head` says of its length, unchecked.
    pub fn len_of_next(&self, head: &[u8]) -> usize {
        self.number(head, 4) as usize
    }

    /// Reads a whole block: a packet if it is one, else what it says of the section.
    ///
    /// # Errors
    ///
    /// See [`BlockError`].
    pub fn read(&mut self, block: &[u8]) -> Result<Option<PacketBlock>, BlockError> {
        let len = block.len();
        let trailer = self.number(block, len.saturating_sub(4));
        if trailer as usize != len {
            return Err(BlockError::Trailer { len, trailer });
        }
        let body = block.get(8..len.saturating_sub(4)).unwrap_or_default();
        match self.number(block, 0) {
            SECTION_HEADER => self.begin(body)?,
            INTERFACE_DESCRIPTION => self.describe(body)?,
            INTERFACE_STATISTICS => self.take_statistics(body),
            kind @ (ENHANCED_PACKET | PACKET | SIMPLE_PACKET) => {
                return self.packet(kind, body).map(Some);
            }
            _ => {}
        }
        Ok(None)
    }

    #[cold]
    fn begin(&mut self, body: &[u8]) -> Result<(), BlockError> {
        self.lost_before = self.lost();
        self.interfaces.clear();
        let options = body.get(16..).unwrap_or_default();
        let options = Options::new(options, self.big_endian);
        self.is_ours = options
            .clone()
            .any(|(code, value)| code == OPTION_USERAPPL && value.starts_with(b"vxtap "));
        let comments = options.filter(|(code, _)| *code == options::COMMENT);
        // The first one in a file of ours says what wrote it, the others what its input said.
        let comments = comments.skip(usize::from(self.is_ours));
        let comments = comments.map(|(_, text)| String::from_utf8_lossy(text));
        if std::mem::replace(&mut self.has_begun, true) {
            self.comments += comments.count() as u64;
        } else {
            self.first_comments = comments.map(Cow::into_owned).collect();
            self.comments += self.first_comments.len() as u64;
        }
        let (major, minor) = (self.short(body, 4), self.short(body, 6));
        // The specification lets 1.2 be read as 1.0; other minor versions may hold anything.
        if major == 1 && matches!(minor, 0 | 2) {
            Ok(())
        } else {
            Err(BlockError::Version(major, minor))
        }
    }

    /// Notes the last statistics of an interface. What is wrong with them is of no account: they change no
    /// packet.
    #[cold]
    fn take_statistics(&mut self, body: &[u8]) {
        let number = self.number(body, 0) as usize;
        let Some((_, options)) = body.split_at_checked(12) else {
            return;
        };
        if let Some(interface) = self.interfaces.get_mut(number) {
            let options = Options::new(options, self.big_endian);
            let losses = interface.losses.get_or_insert_default();
            losses.statistics(options.clone(), self.big_endian);
            if interface.origin.is_none() {
                self.count_comments(options);
            }
        }
    }

    fn count_comments(&mut self, options: Options<'_>) {
        if !self.is_ours {
            let comments = options.filter(|(code, _)| *code == options::COMMENT);
            self.comments += comments.count() as u64;
        }
    }

    /// Takes the comments of the first section out of those that were read.
    pub fn take_first_comments(&mut self) -> Vec<String> {
        let taken = std::mem::take(&mut self.first_comments);
        self.comments -= taken.len() as u64;
        taken
    }

    /// Comments of sections, interfaces and statistics that were read so far, those apart that vxtap writes by
    /// itself.
    pub const fn comments_read(&self) -> u64 {
        self.comments
    }

    /// Packets that the file says were lost before it was written, as far as it was read; `None` where it says
    /// nothing.
    pub fn lost(&self) -> Option<u64> {
        let said = self.interfaces.iter().filter_map(|interface| {
            let is_ours = self.is_ours || interface.origin.is_some();
            Some((interface.losses.as_deref()?, is_ours))
        });
        losses::add(self.lost_before, Losses::of_section(said))
    }

    /// Notes an interface. Of its options only those that change packets are looked at.
    #[cold]
    fn describe(&mut self, body: &[u8]) -> Result<(), BlockError> {
        let Some((fields, mut options)) = body.split_at_checked(8) else {
            return Err(BlockError::Short {
                kind: INTERFACE_DESCRIPTION,
                len: body.len(),
            });
        };
        let link = self.short(fields, 0);
        let mut interface = Interface {
            link: LinkType::from_number(link.into()).unwrap_or(LinkType::Unreadable(link)),
            snaplen: self.number(fields, 4),
            resolution: 6,
            offset_s: 0,
            fcs_len: 0,
            losses: None,
            origin: None,
        };
        self.count_comments(Options::new(options, self.big_endian));
        let (mut name, mut description) = (&[][..], &[][..]);
        while options.len() >= 4 {
            let code = self.short(options, 0);
            let len = usize::from(self.short(options, 2));
            let value = options.get(4..4 + len).ok_or(BlockError::Option(code))?;
            match (code, value) {
                (0, _) => break,
                (OPTION_IF_NAME, value) => name = value,
                (OPTION_IF_DESCRIPTION, value) => description = value,
                (OPTION_TSRESOL, [resolution]) => interface.resolution = *resolution,
                (OPTION_FCSLEN, [len]) if interface.link == LinkType::Ethernet => {
                    interface.fcs_len = fcs::from_interface(*len);
                }
                (OPTION_TSOFFSET, offset) if len == 8 => {
                    interface.offset_s = number64(offset, 0, self.big_endian).cast_signed();
                }
                _ => {}
            }
            options = options
                .get(4 + len.next_multiple_of(4)..)
                .unwrap_or_default();
        }
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(BlockError::TooManyInterfaces);
        }
        interface.origin = Origin::read(name, description).map(Box::new);
        self.interfaces.push(interface);
        Ok(())
    }

    /// Reads the fixed fields of a packet block, and its options where it has some.
    fn packet(&mut self, kind: u32, body: &[u8]) -> Result<PacketBlock, BlockError> {
        let fixed_len = if kind == SIMPLE_PACKET { 4 } else { 20 };
        let len = body.len();
        let room = len
            .checked_sub(fixed_len)
            .ok_or(BlockError::Short { kind, len })?;
        let big_endian = self.big_endian;
        let number = |at| number32(body, at, big_endian);
        let (interface, captured_len, orig_len) = match kind {
            SIMPLE_PACKET => {
                let snaplen = self
                    .interfaces
                    .first()
                    .map_or(0, |interface| interface.snaplen);
                let orig_len = number(0);
                (
                    0,
                    if snaplen == 0 {
                        orig_len
                    } else {
                        orig_len.min(snaplen)
                    },
                    orig_len,
                )
            }
            // The obsolete packet block has a 16-bit interface number and a drop count after it.
            PACKET => {
                let interface = u32::from(self.short(body, 0));
                self.note_lost(interface, drops_of_obsolete(self.short(body, 2)));
                (interface, number(12), number(16))
            }
            _ => (number(0), number(12), number(16)),
        };
        let known = self.interfaces.len();
        let Some(described) = self.interfaces.get(interface as usize) else {
            return Err(BlockError::NoInterface { interface, known });
        };
        let ticks = (u64::from(number(4)) << 32) | u64::from(number(8));
        let captured_len = captured_len as usize;
        if captured_len > room {
            return Err(BlockError::PacketTooLong {
                captured: captured_len,
                room,
            });
        }
        let (ts_ns, time_clamped) = described.time_ns(ticks);
        let has_time = kind != SIMPLE_PACKET;
        let data_end = fixed_len + captured_len.next_multiple_of(4);
        let (link, mut fcs_len, mut has_comment) = (described.link, described.fcs_len, false);
        if has_time && data_end + 4 <= len {
            let options = body.get(data_end..).unwrap_or_default();
            (fcs_len, has_comment) = self.packet_options(options, interface, fcs_len);
        }
        let (captured_len, orig_len) = match fcs_len {
            0 => (captured_len, orig_len),
            fcs_len => {
                let captured_len = u32::try_from(captured_len).unwrap_or(u32::MAX);
                let (captured_len, orig_len) = fcs::without(fcs_len, captured_len, orig_len);
                (captured_len as usize, orig_len)
            }
        };
        Ok(PacketBlock {
            ts_ns: has_time.then_some(ts_ns),
            time_clamped: has_time && time_clamped,
            interface,
            link,
            at: 8 + fixed_len,
            captured_len,
            orig_len,
            options_at: 8 + data_end,
            has_comment,
        })
    }

    /// Bytes of frame check sequence behind a packet that has options, and whether one of them is a comment.
    #[inline(never)]
    fn packet_options(&mut self, options: &[u8], interface: u32, fcs_len: u8) -> (u8, bool) {
        let big_endian = self.big_endian;
        let (mut fcs_len, mut has_comment) = (fcs_len, false);
        for (code, value) in Options::new(options, big_endian) {
            match (code, value.len()) {
                (options::COMMENT, _) => has_comment = true,
                (OPTION_FLAGS, 4) => {
                    let len = fcs::from_packet(number32(value, 0, big_endian));
                    fcs_len = len.unwrap_or(fcs_len);
                }
                (OPTION_DROPCOUNT, 8) => {
                    self.note_lost(interface, Some(number64(value, 0, big_endian)));
                }
                _ => {}
            }
        }
        let described = self.interfaces.get(interface as usize);
        let is_ethernet = described.is_some_and(|described| described.link == LinkType::Ethernet);
        (if is_ethernet { fcs_len } else { 0 }, has_comment)
    }

    #[cold]
    fn note_lost(&mut self, interface: u32, packets: Option<u64>) {
        let interface = self.interfaces.get_mut(interface as usize);
        if let Some((interface, packets)) = interface.zip(packets) {
            let losses = interface.losses.get_or_insert_default();
            losses.before_packet(packets);
        }
    }

    /// Whether vxtap wrote the section.
    pub const fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// The mirror session that an interface stands for, where we wrote the file.
    #[inline]
    pub fn origin(&self, interface: u32) -> Option<&Origin> {
        self.interfaces.get(interface as usize)?.origin.as_deref()
    }

    /// What a packet of ours that was cut says of it, in the options that begin at `options_at`.
    pub fn cut_comment(&self, block: &[u8], options_at: usize) -> Option<CutComment> {
        let mut options = self.options(block, options_at);
        options.find_map(|(code, comment)| {
            CutComment::read(comment).filter(|_| code == options::COMMENT)
        })
    }

    /// The comments of a packet of `interface` whose options begin at `options_at`, as options for a file of ours, and how many
    /// they are.
    pub fn comments(&self, block: &[u8], interface: u32, options_at: usize) -> (Vec<u8>, u64) {
        let is_ours = self.is_ours || self.origin(interface).is_some();
        annotation::comments(self.options(block, options_at), is_ours)
    }

    /// A block of decryption secrets or names, as one for a file of ours. `None` for other blocks;
    /// `Some((counts, None))` where it does not hold together.
    pub fn annotation(&self, block: &[u8]) -> Option<(Tally, Option<What>)> {
        let kind = self.number(block, 0);
        let mut counts = Tally::default();
        match kind {
            DECRYPTION_SECRETS => counts.secrets = 1,
            NAME_RESOLUTION => counts.names = 1,
            _ => return None,
        }
        let body = block.get(8..block.len().saturating_sub(4));
        Some((
            counts,
            annotation::ready(kind, body.unwrap_or_default(), self.big_endian),
        ))
    }

    /// The options of `block` that begin at `at`.
    fn options<'b>(&self, block: &'b [u8], at: usize) -> Options<'b> {
        let options = block.get(at..block.len().saturating_sub(4));
        Options::new(options.unwrap_or_default(), self.big_endian)
    }

    /// A 32-bit number at `at`, in the section's byte order; 0 past the end.
    fn number(&self, bytes: &[u8], at: usize) -> u32 {
        number32(bytes, at, self.big_endian)
    }

    /// A 16-bit number at `at`, in the section's byte order; 0 past the end.
    fn short(&self, bytes: &[u8], at: usize) -> u16 {
        number16(bytes, at, self.big_endian)
    }
}

/// Packets lost in front of an obsolete packet block, by its drop count; all bits set say that it is not known.
fn drops_of_obsolete(count: u16) -> Option<u64> {
    (count != u16::MAX).then_some(count.into())
}

impl Interface {
    /// Nanoseconds since 1970. Times outside 1970 to 2554 move to those ends, which is told.
    #[inline]
    fn time_ns(&self, ticks: u64) -> (u64, bool) {
        match (self.resolution, self.offset_s) {
            (9, 0) => (ticks, false),
            _ => self.any_time_ns(ticks),
        }
    }

    fn any_time_ns(&self, ticks: u64) -> (u64, bool) {
        let exponent = u32::from(self.resolution & 0x7f);
        let ticks = u128::from(ticks);
        let ns = if self.resolution & 0x80 != 0 {
            (ticks * 1_000_000_000) >> exponent
        } else if exponent <= 9 {
            ticks * 10u128.pow(9 - exponent)
        } else {
            10u128
                .checked_pow(exponent - 9)
                .map_or(0, |divisor| ticks / divisor)
        };
        let ns = i128::try_from(ns).unwrap_or(i128::MAX);
        let ns = ns.saturating_add(i128::from(self.offset_s) * 1_000_000_000);
        match u64::try_from(ns) {
            Ok(ns) => (ns, false),
            Err(_) if ns < 0 => (0, true),
            Err(_) => (u64::MAX, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(resolution: u8, offset_s: i64, ticks: u64) -> u64 {
        let (ns, clamped) = told_time(resolution, offset_s, ticks);
        assert!(!clamped, "{ns}");
        ns
    }

    fn told_time(resolution: u8, offset_s: i64, ticks: u64) -> (u64, bool) {
        let interface = Interface {
            link: LinkType::Ethernet,
            snaplen: 0,
            resolution,
            offset_s,
            fcs_len: 0,
            losses: None,
            origin: None,
        };
        interface.time_ns(ticks)
    }

    #[test]
    fn every_resolution_becomes_nanoseconds() {
        assert_eq!(
            time(6, 0, 1_500_000),
            1_500_000_000,
            "microseconds, the default"
        );
        assert_eq!(time(9, 0, 7), 7);
        assert_eq!(time(0, 0, 2), 2_000_000_000);
        assert_eq!(time(12, 0, 7_999), 7, "picoseconds");
        assert_eq!(time(0x80 | 10, 0, 512), 500_000_000, "1/1024 s");
        assert_eq!(time(0x80 | 63, 0, 1 << 63), 1_000_000_000);
        assert_eq!(time(0xff, 0, u64::MAX), 0);
        assert_eq!(time(0x7f, 0, u64::MAX), 0);
        assert_eq!(time(9, 3, 1), 3_000_000_001);
        assert_eq!(time(9, -3, 3_000_000_001), 1);
        assert_eq!(told_time(9, -3, 1), (0, true), "before 1970");
        let beyond = (u64::MAX, true);
        assert_eq!(told_time(0, i64::MAX, u64::MAX), beyond);
        assert_eq!(
            told_time(6, 0, u64::MAX),
            beyond,
            "microseconds beyond 2554"
        );
        assert_eq!(told_time(9, 1, u64::MAX), beyond);
        assert_eq!(told_time(0x80 | 10, 0, u64::MAX), beyond, "2^54 s");
        assert_eq!(told_time(9, i64::MIN, 0), (0, true));
    }

    /// A block around `body`, typed as the specification draws it.
    fn block(big_endian: bool, kind: u32, body: &[u8]) -> Vec<u8> {
        let number = |n: u32| {
            if big_endian {
                n.to_be_bytes()
            } else {
                n.to_le_bytes()
            }
        };
        let len = number(12 + body.len() as u32);
        [&number(kind)[..], &len, body, &len].concat()
    }

    #[test]
    fn both_byte_orders_and_three_kinds_of_packet() {
        for big_endian in [false, true] {
            let number = |n: u32| {
                if big_endian {
                    n.to_be_bytes()
                } else {
                    n.to_le_bytes()
                }
            };
            let short = |n: u16| {
                if big_endian {
                    n.to_be_bytes()
                } else {
                    n.to_le_bytes()
                }
            };
            let mut section = Section::default();
            let header = [&number(0x1a2b_3c4d)[..], &short(1), &short(0), &[0xff; 8]].concat();
            let header = block(big_endian, SECTION_HEADER, &header);
            assert_eq!(section.block_len(&header[..12]), Ok(28));
            assert_eq!(section.read(&header), Ok(None));
            let interface = [&short(1)[..], &short(0), &number(8)].concat();
            assert_eq!(
                section.read(&block(big_endian, INTERFACE_DESCRIPTION, &interface)),
                Ok(None)
            );
            let expected = PacketBlock {
                ts_ns: Some(5_000),
                time_clamped: false,
                interface: 0,
                link: LinkType::Ethernet,
                at: 28,
                captured_len: 4,
                orig_len: 60,
                options_at: 32,
                has_comment: false,
            };
            let rest = [number(0), number(5), number(4), number(60), [1, 2, 3, 4]].concat();
            let enhanced = [&number(0)[..], &rest].concat();
            assert_eq!(
                section.read(&block(big_endian, ENHANCED_PACKET, &enhanced)),
                Ok(Some(expected))
            );
            let obsolete = [&short(0)[..], &short(9), &rest].concat();
            assert_eq!(
                section.read(&block(big_endian, PACKET, &obsolete)),
                Ok(Some(expected))
            );
            let simple = [&number(60)[..], &[0; 8]].concat();
            let simple = section
                .read(&block(big_endian, SIMPLE_PACKET, &simple))
                .unwrap()
                .unwrap();
            assert_eq!(
                (simple.ts_ns, simple.captured_len, simple.orig_len),
                (None, 8, 60)
            );

            let no_interface = [&number(7)[..], &rest].concat();
            let refused = section.read(&block(big_endian, ENHANCED_PACKET, &no_interface));
            assert_eq!(
                refused,
                Err(BlockError::NoInterface {
                    interface: 7,
                    known: 1
                })
            );
            assert_eq!(
                section.read(&block(big_endian, 0x0bad, &[1, 2, 3, 4])),
                Ok(None)
            );
        }
    }

    #[test]
    fn lengths_that_cannot_be() {
        let mut section = Section::default();
        for (len, error) in [
            (0u32, BlockError::Len(0)),
            (14, BlockError::Len(14)),
            (0x7fff_fff0, BlockError::TooLong(0x7fff_fff0)),
        ] {
            let head = [&6u32.to_le_bytes()[..], &len.to_le_bytes(), &[0; 4]].concat();
            assert_eq!(section.block_len(&head), Err(error));
        }
        let mut bad = block(false, 6, &[0; 4]);
        bad[12] = 9;
        assert_eq!(
            section.read(&bad),
            Err(BlockError::Trailer {
                len: 16,
                trailer: 9
            })
        );
        let short = section.read(&block(false, 6, &[0; 4]));
        assert_eq!(short, Err(BlockError::Short { kind: 6, len: 4 }));
    }
}
