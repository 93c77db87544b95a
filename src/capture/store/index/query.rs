//! An index read: does it belong to a file, and which ranges of that file may hold what is asked for. Pure; no bytes
//! make it panic.

use super::set::Set;
use super::{Block, MAGIC, PACKED_VERSION, PLAIN_VERSION, vni_key};

/// What is looked for: all of it at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The key of a flow.
    pub flow: Option<u32>,
    /// Keys of addresses.
    pub hosts: Vec<u32>,
    /// A VNI.
    pub vni: Option<u32>,
    /// Packets from that time on, nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// Packets before that time.
    pub until_ns: Option<u64>,
    /// Packets that arrived cut.
    pub is_cut: bool,
}

impl Query {
    /// Whether packets of these times may be asked for.
    pub fn is_within(&self, first_ns: u64, last_ns: u64) -> bool {
        self.since_ns.is_none_or(|since| last_ns >= since)
            && self.until_ns.is_none_or(|until| first_ns < until)
    }
}

/// Why an index is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Useless {
    #[error("is no index of vxtap")]
    Magic,
    #[error("is of version {0}; versions {PLAIN_VERSION} and {PACKED_VERSION} can be read")]
    Version(u32),
    #[error("is damaged")]
    Damaged,
    #[error("is of a file of {of} bytes, and this one has {found}")]
    Size { of: u64, found: u64 },
    #[error("is of another file: beginning or end differ")]
    Mark,
}

/// An index that holds together.
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    /// Size of its file.
    pub file_bytes: u64,
    /// Of its file; see [`super::mark`].
    pub mark: [u8; 32],
    /// SHA-256 of its file.
    pub sha256: [u8; 32],
    /// Size of its content, where it is compressed; else that of the file.
    pub content_bytes: u64,
    /// From here on it says nothing.
    pub full_at: Option<u64>,
    /// Packets in its file up to there.
    pub packets: u64,
    /// Times of the earliest and the latest of them.
    pub span: (u64, u64),
    /// The name of its file.
    pub name: &'a str,
    count: u32,
    others: &'a [u8],
    /// Of a compressed file: how many pieces it has, and the content and bytes of each.
    pieces: Option<Reader<'a>>,
    segments: &'a [u8],
}

/// A piece of a compressed file: whole frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where its content begins in that of the file.
    pub at: u64,
    /// Bytes of its content.
    pub len: u64,
    /// Where it begins in the file.
    pub packed_at: u64,
    /// Its bytes there.
    pub packed_len: u64,
    /// It holds what is needed to read packets behind it: their interfaces, say.
    pub is_needed: bool,
}

impl<'a> Index<'a> {
    /// Reads an index.
    ///
    /// # Errors
    ///
    /// [`Useless`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, Useless> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Useless::Magic);
        }
        let mut rest = Reader(bytes.get(MAGIC.len()..).unwrap_or_default());
        let version = rest.word().ok_or(Useless::Damaged)?;
        let is_packed = match version {
            PLAIN_VERSION => false,
            PACKED_VERSION => true,
            other => return Err(Useless::Version(other)),
        };
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(Useless::Damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*check) {
            return Err(Useless::Damaged);
        }
        Self::parse(body, is_packed).ok_or(Useless::Damaged)
    }

    fn parse(body: &'a [u8], is_packed: bool) -> Option<Self> {
        let mut rest = Reader(body.get(MAGIC.len() + 4..)?);
        let count = rest.word()?;
        let file_bytes = rest.long()?;
        let sha256 = *rest.take(32)?.first_chunk()?;
        let mark = *rest.take(32)?.first_chunk()?;
        let full_at = Some(rest.long()?).filter(|at| *at != u64::MAX);
        let packets = rest.long()?;
        let span = (rest.long()?, rest.long()?);
        let name_len = usize::try_from(rest.number()?).ok()?;
        let name = std::str::from_utf8(rest.take(name_len)?).ok()?;
        let others = rest.0;
        for _ in 0..rest.number()? {
            rest.number()?;
            rest.number()?;
        }
        let others_len = others.len() - rest.0.len();
        let pieces = is_packed.then_some(rest);
        let mut content_bytes = file_bytes;
        if is_packed {
            let mut sum = (0_u64, 0_u64);
            for _ in 0..rest.number()? {
                let (content, packed) = (rest.number()?, rest.number()?);
                sum = (sum.0.checked_add(content)?, sum.1.checked_add(packed)?);
            }
            if sum.1 != file_bytes {
                return None;
            }
            content_bytes = sum.0;
        }
        Some(Self {
            file_bytes,
            content_bytes,
            pieces,
            mark,
            sha256,
            full_at,
            packets,
            span,
            name,
            count,
            others: others.get(..others_len)?,
            segments: rest.0,
        })
    }

    /// Whether it is that of a file of this size and [`super::mark`].
    ///
    /// # Errors
    ///
    /// [`Useless`] when it is not.
    pub fn belongs_to(&self, bytes: u64, mark: &[u8; 32]) -> Result<(), Useless> {
        match self.file_bytes == bytes {
            false => Err(Useless::Size {
                of: self.file_bytes,
                found: bytes,
            }),
            true if self.mark != *mark => Err(Useless::Mark),
            true => Ok(()),
        }
    }

    /// Whether its file is compressed: ranges are those of its content then.
    pub const fn is_packed(&self) -> bool {
        self.pieces.is_some()
    }

    /// The ranges of the file, in their order, that have to be read for `query`: those that may hold such a packet,
    /// and what is needed to read those. Empty where no packet can be there.
    ///
    /// # Errors
    ///
    /// [`Useless::Damaged`].
    pub fn ranges(&self, query: &Query) -> Result<Vec<(u64, u64)>, Useless> {
        self.find(query).ok_or(Useless::Damaged)
    }

    fn find(&self, query: &Query) -> Option<Vec<(u64, u64)>> {
        let mut ranges = Vec::new();
        let mut rest = Reader(self.segments);
        let (mut blocks, mut hits) = (Vec::new(), Vec::new());
        for _ in 0..self.count {
            let len = rest.word()? as usize;
            let segment = Reader(rest.take(len)?);
            find_in_segment(segment, query, &mut blocks, &mut hits)?;
            let wanted = blocks.iter().zip(&hits).filter(|(_, hit)| **hit);
            ranges.extend(wanted.map(|(block, _)| (block.at, block.len)));
        }
        if !rest.0.is_empty() {
            return None;
        }
        if let Some(at) = self.full_at {
            ranges.push((at, self.content_bytes.checked_sub(at)?));
        }
        let Some((last_at, last_len)) = ranges.last().copied() else {
            return Some(ranges);
        };
        // What comes behind the last packet is needed for none.
        let end = last_at.checked_add(last_len)?;
        let others = self.others()?.into_iter();
        ranges.extend(others.filter(|(at, _)| *at < end));
        joined(ranges, self.content_bytes)
    }

    /// The parts of the file that are no packets and are needed to read those.
    fn others(&self) -> Option<Vec<(u64, u64)>> {
        let mut rest = Reader(self.others);
        let (mut others, mut end) = (Vec::new(), 0_u64);
        for _ in 0..rest.number()? {
            let (gap, len) = (rest.number()?, rest.number()?);
            let at = end.checked_add(gap)?;
            end = at.checked_add(len)?;
            others.push((at, len));
        }
        Some(others)
    }

    /// The pieces of a compressed file that hold any of `ranges`, which are in their order; none of a plain one.
    ///
    /// # Errors
    ///
    /// [`Useless::Damaged`].
    pub fn pieces(&self, ranges: &[(u64, u64)]) -> Result<Vec<Piece>, Useless> {
        self.find_pieces(ranges).ok_or(Useless::Damaged)
    }

    fn find_pieces(&self, ranges: &[(u64, u64)]) -> Option<Vec<Piece>> {
        let mut found = Vec::new();
        let Some(mut rest) = self.pieces else {
            return Some(found);
        };
        let others = self.others()?;
        let (mut ranges, mut others) = (Overlaps(ranges), Overlaps(&others));
        let (mut at, mut packed_at) = (0, 0);
        for _ in 0..rest.number()? {
            let (len, packed_len) = (rest.number()?, rest.number()?);
            // All of them end within the file: that was looked at.
            let end = at + len;
            if ranges.any(at, end) {
                found.push(Piece {
                    at,
                    len,
                    packed_at,
                    packed_len,
                    is_needed: others.any(at, end),
                });
            }
            (at, packed_at) = (end, packed_at + packed_len);
        }
        Some(found)
    }
}

/// Ranges in their order, asked one stretch after the other.
struct Overlaps<'a>(&'a [(u64, u64)]);

impl Overlaps<'_> {
    /// Whether one of them has bytes from `at` to `end`.
    fn any(&mut self, at: u64, end: u64) -> bool {
        while let Some(((from, len), rest)) = self.0.split_first() {
            if from.saturating_add(*len) > at {
                return *from < end;
            }
            self.0 = rest;
        }
        false
    }
}

/// Ranges in their order, those that touch joined. `None` where one lies outside of the file.
fn joined(mut ranges: Vec<(u64, u64)>, file_bytes: u64) -> Option<Vec<(u64, u64)>> {
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (at, len) in ranges {
        let end = at.checked_add(len).filter(|end| *end <= file_bytes)?;
        match joined.last_mut() {
            Some((from, before)) if *from + *before >= at => {
                *before = (*before).max(end - *from);
            }
            _ => joined.push((at, len)),
        }
    }
    Some(joined)
}

/// Reads the blocks of a segment, and tells which may hold what is asked for.
fn find_in_segment(
    mut segment: Reader<'_>,
    query: &Query,
    blocks: &mut Vec<Block>,
    hits: &mut Vec<bool>,
) -> Option<()> {
    blocks.clear();
    hits.clear();
    let count = segment.number()?;
    let (mut end, mut before_ns) = (0_u64, 0_u64);
    for _ in 0..count {
        let at = end.checked_add(segment.number()?)?;
        let len = segment.number()?;
        let step = segment.number()?;
        let step = (step >> 1).cast_signed() ^ -(step & 1).cast_signed();
        let first_ns = before_ns.wrapping_add_signed(step);
        let last_ns = first_ns.checked_add(segment.number()?)?;
        let block = Block {
            at,
            len: len >> 1,
            first_ns,
            last_ns,
            has_cut: len & 1 == 1,
        };
        end = at.checked_add(block.len)?;
        before_ns = first_ns;
        blocks.push(block);
        let is_within = query.is_within(first_ns, last_ns);
        hits.push(is_within && (block.has_cut || !query.is_cut));
    }
    let count = u32::try_from(count).ok()?;
    let (flows, rest) = Set::take(segment.0)?;
    let (hosts, rest) = Set::take(rest)?;
    let (vnis, rest) = Set::take(rest)?;
    if !rest.is_empty() {
        return None;
    }
    let flow = query.flow.iter().map(|key| (flows, *key));
    let of_hosts = query.hosts.iter().map(|key| (hosts, *key));
    let vni = query.vni.iter().map(|vni| (vnis, vni_key(*vni)));
    let mut among = Vec::new();
    for (set, key) in flow.chain(of_hosts).chain(vni) {
        if !hits.contains(&true) {
            break;
        }
        among.clear();
        among.resize(blocks.len(), false);
        set.find(key, count, |block| {
            if let Some(among) = among.get_mut(block as usize) {
                *among = true;
            }
        })?;
        for (hit, among) in hits.iter_mut().zip(&among) {
            *hit &= among;
        }
    }
    Some(())
}

/// Bytes taken from the front.
#[derive(Clone, Copy, Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn word(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().copied().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take(8)?.first_chunk().copied().map(u64::from_le_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::super::{Builder, Facts, most_bytes};
    use super::*;
    use crate::pcap::record::Keys;

    const FACTS: Facts<'_> = Facts {
        name: "vxtap_00001_20260101000000.pcapng",
        bytes: 1 << 40,
        sha256: [1; 32],
        mark: [2; 32],
    };

    /// A record: flow, hosts, VNI, time, length, cut.
    type Record = (u32, [u32; 2], u32, u64, u32, bool);

    fn build(records: &[Record]) -> (Vec<u8>, Vec<u64>) {
        let mut builder = Builder::default();
        builder.add_other(0, 100);
        let (mut at, mut places) = (100, Vec::new());
        for (flow, hosts, vni, ts_ns, len, is_cut) in records {
            let keys = Keys {
                flow: *flow,
                hosts: *hosts,
                is_ip: true,
                is_cut: *is_cut,
            };
            builder.add(at, *len, *ts_ns, &keys, Some(*vni));
            places.push(at);
            at += u64::from(*len);
        }
        (builder.end(&FACTS).unwrap(), places)
    }

    /// The same of a compressed file: frames of so many bytes, each of which has this part of its content, in hundredths.
    /// Some are always on their way.
    fn build_packed(records: &[Record], frame_len: u64, part: u64) -> (Vec<u8>, Vec<u64>, u64) {
        let mut builder = Builder::of_packed();
        builder.begin_frame(0);
        builder.wrote_frame(100, 90);
        builder.add_other(0, 100);
        let (mut at, mut places, mut bytes) = (100, Vec::new(), 90);
        let mut under_way: VecDeque<u64> = VecDeque::new();
        let mut write = |builder: &mut Builder, content: u64| {
            let packed = content * part / 100 + 20;
            bytes += packed;
            builder.wrote_frame(content, packed);
        };
        for (flow, hosts, vni, ts_ns, len, is_cut) in records {
            let keys = Keys {
                flow: *flow,
                hosts: *hosts,
                is_ip: true,
                is_cut: *is_cut,
            };
            match under_way.back_mut() {
                Some(content) if *content < frame_len => *content += u64::from(*len),
                _ => {
                    builder.begin_frame(at);
                    under_way.push_back((*len).into());
                }
            }
            builder.add(at, *len, *ts_ns, &keys, Some(*vni));
            if under_way.len() > 3 {
                write(&mut builder, under_way.pop_front().unwrap());
            }
            places.push(at);
            at += u64::from(*len);
        }
        under_way
            .into_iter()
            .for_each(|content| write(&mut builder, content));
        let facts = Facts { bytes, ..FACTS };
        (builder.end(&facts).unwrap(), places, bytes)
    }

    fn holds(ranges: &[(u64, u64)], at: u64) -> bool {
        ranges
            .iter()
            .any(|(from, len)| (*from..from + len).contains(&at))
    }

    /// Traffic of ten thousand flows at about 400 bytes a packet, as `send --generate` makes it.
    fn usual(packets: u32) -> Vec<Record> {
        let mix = |n: u32| n.wrapping_mul(0x85eb_ca6b) ^ (n >> 7);
        (0..packets)
            .map(|n| {
                let flow = mix(n) % 10_000;
                let key = flow.wrapping_mul(0x9e37_79b1);
                let hosts = [key ^ 0x5555, key ^ 0xaaaa];
                (key, hosts, 5, u64::from(n) * 1000, 380, false)
            })
            .collect()
    }

    #[test]
    fn an_index_is_small_and_finds_few_bytes() {
        let records = usual(400_000);
        let (bytes, places) = build(&records);
        let file = places.last().unwrap() + 380;
        assert!(
            bytes.len() as u64 * 100 < file * 3 / 2,
            "{} of {file}",
            bytes.len()
        );
        let index = Index::read(&bytes).unwrap();
        let query = Query {
            flow: Some(records[7].0),
            ..Query::default()
        };
        let ranges = index.ranges(&query).unwrap();
        for (record, at) in records.iter().zip(&places) {
            assert!(record.0 != records[7].0 || holds(&ranges, *at));
        }
        let read: u64 = ranges.iter().map(|(_, len)| len).sum();
        assert!(read * 100 < file * 2, "{read} of {file}");
    }

    /// Bytes of pieces that are read.
    fn packed_len(pieces: &[Piece]) -> u64 {
        pieces.iter().map(|piece| piece.packed_len).sum()
    }

    /// However well a file is compressed its index has at most 2 % of it, and each packet is in a piece that is read.
    #[test]
    fn an_index_of_a_compressed_file_is_small_and_finds_few_bytes() {
        let records = usual(400_000);
        for (part, most_read) in [(80, 5), (20, 12), (12, 6), (3, 90)] {
            let (bytes, places, file) = build_packed(&records, 128 << 10, part);
            assert!(
                bytes.len() as u64 <= most_bytes(file),
                "{part}: {}",
                bytes.len()
            );
            let index = Index::read(&bytes).unwrap();
            assert_eq!((index.is_packed(), index.file_bytes), (true, file));
            let query = Query {
                flow: Some(records[7].0),
                ..Query::default()
            };
            let ranges = index.ranges(&query).unwrap();
            let pieces = index.pieces(&ranges).unwrap();
            let in_a_piece = |at: u64| {
                pieces
                    .iter()
                    .any(|piece| (piece.at..piece.at + piece.len).contains(&at))
            };
            for (record, at) in records.iter().zip(&places) {
                assert!(record.0 != records[7].0 || (holds(&ranges, *at) && in_a_piece(*at)));
            }
            let read = packed_len(&pieces);
            assert!(read * 100 < file * most_read, "{part}: {read} of {file}");
            let all = index.ranges(&Query::default()).unwrap();
            assert_eq!(packed_len(&index.pieces(&all).unwrap()), file);
        }
    }

    /// Of each packet a frame, as a quiet link makes them.
    #[test]
    fn small_frames_do_not_make_an_index_large() {
        let records = usual(50_000);
        let (bytes, places, file) = build_packed(&records, 1, 60);
        assert!(
            bytes.len() as u64 <= most_bytes(file),
            "{} of {file}",
            bytes.len()
        );
        let index = Index::read(&bytes).unwrap();
        let query = Query {
            since_ns: Some(49_000_000),
            ..Query::default()
        };
        let ranges = index.ranges(&query).unwrap();
        let pieces = index.pieces(&ranges).unwrap();
        assert!(pieces.iter().all(|piece| piece.len < (65 << 10)));
        assert!(holds(&ranges, places[49_000]) && !holds(&ranges, places[40_000]));
        // The header comes first, and is needed for what follows; packets are not.
        let needed: Vec<bool> = pieces.iter().map(|piece| piece.is_needed).collect();
        assert!(needed[0] && !needed[1..].contains(&true));
        assert_eq!((pieces[0].at, pieces[0].packed_at), (0, 0));
    }

    #[test]
    fn flows_of_one_packet_each_do_not_make_it_large() {
        let records: Vec<Record> = (0..200_000_u32)
            .map(|n| {
                let key = n.wrapping_mul(0x9e37_79b1);
                (
                    key,
                    [key ^ 1, key.rotate_left(9)],
                    n % 3000,
                    u64::from(n),
                    108,
                    n == 77_777,
                )
            })
            .collect();
        let (bytes, places) = build(&records);
        let file = places.last().unwrap() + 108;
        assert!(
            (bytes.len() as u64) < most_bytes(file),
            "{} of {file}",
            bytes.len()
        );
        let query = Query {
            is_cut: true,
            ..Query::default()
        };
        let ranges = Index::read(&bytes).unwrap().ranges(&query).unwrap();
        assert!(holds(&ranges, places[77_777]));
        assert!(ranges.iter().map(|(_, len)| len).sum::<u64>() < 20_000);
    }

    #[test]
    fn a_file_of_another_size_or_mark_is_another() {
        let (bytes, _) = build(&usual(10));
        let index = Index::read(&bytes).unwrap();
        assert_eq!(index.name, FACTS.name);
        assert_eq!(index.belongs_to(1 << 40, &[2; 32]), Ok(()));
        let size = Useless::Size {
            of: 1 << 40,
            found: 7,
        };
        assert_eq!(index.belongs_to(7, &[2; 32]), Err(size));
        assert_eq!(index.belongs_to(1 << 40, &[3; 32]), Err(Useless::Mark));
        for len in 0..bytes.len() {
            assert!(Index::read(&bytes[..len]).is_err());
        }
    }

    proptest! {
        /// Whatever is asked for, every packet that fits lies in a range.
        #[test]
        fn nothing_is_left_out(
            records in prop::collection::vec(
                (0..40_u32, [0..9_u32, 0..9_u32], 0..5_u32, 0..1000_u64, 40..5000_u32, any::<bool>()),
                1..400,
            ),
            flow in prop::option::of(0..40_u32),
            host in prop::option::of(0..9_u32),
            vni in prop::option::of(0..5_u32),
            since_ns in prop::option::of(0..1000_u64),
            until_ns in prop::option::of(0..1000_u64),
            is_cut in any::<bool>(),
            packed in prop::option::of((1..5000_u64, 1..100_u64)),
        ) {
            let (bytes, places) = match packed {
                None => build(&records),
                Some((frame_len, part)) => {
                    let (bytes, places, _) = build_packed(&records, frame_len, part);
                    (bytes, places)
                }
            };
            let hosts: Vec<u32> = host.into_iter().collect();
            let query = Query { flow, hosts: hosts.clone(), vni, since_ns, until_ns, is_cut };
            let index = Index::read(&bytes).unwrap();
            let ranges = index.ranges(&query).unwrap();
            let pieces = index.pieces(&ranges).unwrap();
            for ((of_flow, of_hosts, of_vni, ts_ns, _, cut), at) in records.iter().zip(places) {
                let fits = flow.is_none_or(|flow| flow == *of_flow)
                    && hosts.iter().all(|host| of_hosts.contains(host))
                    && vni.is_none_or(|vni| vni == *of_vni)
                    && since_ns.is_none_or(|since| *ts_ns >= since)
                    && until_ns.is_none_or(|until| *ts_ns < until)
                    && (*cut || !is_cut);
                prop_assert!(!fits || holds(&ranges, at), "{at}");
                let holds_it = |piece: &Piece| (piece.at..piece.at + piece.len).contains(&at);
                prop_assert!(!fits || packed.is_none() || pieces.iter().any(holds_it), "{at}");
            }
        }

        #[test]
        fn any_bytes_have_an_answer(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            at in 0..2000_usize,
            other in any::<u8>(),
            is_packed in any::<bool>(),
        ) {
            let _ = Index::read(&bytes);
            let (mut good, _) = match is_packed {
                false => build(&usual(200)),
                true => {
                    let (good, places, _) = build_packed(&usual(200), 2000, 50);
                    (good, places)
                }
            };
            let at = at % (good.len() - 4);
            good[at] = other;
            let _ = Index::read(&good);
            // With the right sum as well.
            let body = good.len() - 4;
            let check = crc32fast::hash(&good[..body]).to_le_bytes();
            good[body..].copy_from_slice(&check);
            if let Ok(index) = Index::read(&good) {
                let query = Query { flow: Some(7), hosts: vec![9], vni: Some(5), ..Query::default() };
                if let Ok(ranges) = index.ranges(&query) {
                    let _ = index.pieces(&ranges);
                }
            }
        }
    }
}
