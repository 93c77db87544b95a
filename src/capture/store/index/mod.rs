//! The index beside a file of a store: which flows, addresses and VNIs lie in which range of its bytes, so that a few
//! packets are found without reading all of them. Pure: facts of records in, bytes out, and back.
//!
//! A file is cut into blocks of about 16 KiB, each a number of whole packets, and several thousand blocks make a
//! segment. A segment has a table of its blocks (place, length, times, whether a cut packet is in it) and three
//! [`set`]s. What an index says is never too little: a block that it leaves out holds nothing that was asked for; one
//! that it names may hold nothing either. `docs/FORMATS.md` describes the bytes.
//!
//! Of a compressed file all places are those in its content. Its blocks are [`pieces`], which can only be read whole, and
//! a table tells where those lie in the file.

pub mod build;
pub mod pieces;
pub mod query;
pub mod set;

use std::collections::VecDeque;

use pieces::Pieces;
use sha2::{Digest, Sha256};

use crate::pcap::record::Keys;

/// What its name adds to that of its file.
pub const ENDING: &str = ".idx";
/// What it begins with.
pub const MAGIC: [u8; 8] = *b"VXTAPIDX";
/// Its version: that of a plain file, and that of a compressed one.
const PLAIN_VERSION: u32 = 1;
const PACKED_VERSION: u32 = 2;
/// Bytes of a file's beginning, and of its end, that tell it from others.
pub const MARK_LEN: usize = 4096;
/// Bytes of a block: the next packet begins another.
const BLOCK_LEN: u64 = 16 << 10;
/// Pairs of a segment, and blocks.
const MOST_PAIRS: usize = 48 << 10;
const MOST_BLOCKS: usize = 4096;
/// A set may have this share of the bytes it stands for: 1.56 %.
const SHARE: u64 = 64;
/// Bits of remainder where there is room for them: of flows, of the others.
const FLOW_BITS: u32 = 10;
const OTHER_BITS: u32 = 8;
/// Fewer are worth nothing.
const FEWEST_BITS: u32 = 2;
/// Most bytes of an index; what comes behind has to be read.
const MOST_BYTES: usize = 64 << 20;
/// Blocks without packets that are told of; with more there is no index.
const MOST_OTHERS: usize = 1 << 17;
/// Flows remembered in a block, so that each is noted once.
const LATELY: usize = 256;
/// Bytes of what stands in front of the parts of a file that are no packets, and behind the segments, at the most.
const FRAME_BYTES: usize = 256;
/// Bytes of a part that is no packet, at the most.
const OTHER_BYTES: usize = 8;

/// An index has at most one part in so many of the bytes of its file,
pub const SHARE_OF_FILE: u64 = 50;
/// and so many bytes whatever the size of that is.
pub const LEAST_ROOM: u64 = 1024;

/// Most bytes that the index of a file of so many bytes has.
pub const fn most_bytes(file_bytes: u64) -> u64 {
    file_bytes / SHARE_OF_FILE + LEAST_ROOM
}

/// What identifies a file without all of it being read: SHA-256 of its first and its last bytes, [`MARK_LEN`] of each.
pub fn mark(first: &[u8], last: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(first)
        .chain_update(last)
        .finalize()
        .into()
}

/// An index on its way.
pub struct Builder {
    /// Whole segments.
    segments: Vec<u8>,
    count: u32,
    segment: Segment,
    /// Of a compressed file: its pieces, and whole segments whose last piece is not written yet.
    pieces: Option<Pieces>,
    waiting: VecDeque<Segment>,
    /// Blocks of the file that are no packets and are needed to read those: place and length.
    others: Vec<(u64, u64)>,
    packets: u64,
    span: (u64, u64),
    /// Nothing more is noted from there on.
    full_at: Option<u64>,
    /// There will be no index.
    given_up: bool,
}

/// The part that is being gathered.
struct Segment {
    blocks: Vec<Block>,
    flows: Vec<u64>,
    hosts: Vec<u64>,
    vnis: Vec<u64>,
    /// Flow, its two hosts, block.
    lately: [[u32; 4]; LATELY],
    /// VNI noted last, and its block.
    vni_lately: (u32, u32),
}

/// Neighbouring packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where its first packet begins in the file.
    pub at: u64,
    /// Bytes up to the end of its last one.
    pub len: u64,
    /// Time of its earliest packet, nanoseconds since 1970.
    pub first_ns: u64,
    /// Time of its latest.
    pub last_ns: u64,
    /// A packet in it arrived cut.
    pub has_cut: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            segments: Vec::new(),
            count: 0,
            segment: Segment::new(),
            pieces: None,
            waiting: VecDeque::new(),
            others: Vec::new(),
            packets: 0,
            span: (u64::MAX, 0),
            full_at: None,
            given_up: false,
        }
    }
}

impl Segment {
    const fn new() -> Self {
        Self {
            blocks: Vec::new(),
            flows: Vec::new(),
            hosts: Vec::new(),
            vnis: Vec::new(),
            lately: [[u32::MAX; 4]; LATELY],
            vni_lately: (0, u32::MAX),
        }
    }

    /// Empties it; its memory stays.
    fn clear(&mut self) {
        self.blocks.clear();
        self.flows.clear();
        self.hosts.clear();
        self.vnis.clear();
        self.lately = [[u32::MAX; 4]; LATELY];
        self.vni_lately = (0, u32::MAX);
    }

    /// Takes out pairs that are there twice. In a piece, which is longer than a block of a plain file, many flows have a
    /// host in common; room is short, and what sorting costs is little beside compression.
    fn tell_once(&mut self) {
        for pairs in [&mut self.flows, &mut self.hosts, &mut self.vnis] {
            pairs.sort_unstable();
            pairs.dedup();
        }
    }

    /// Where its last block ends.
    fn end(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.at + block.len)
    }

    fn is_full(&self) -> bool {
        let pairs = self.flows.len() + self.hosts.len() + self.vnis.len();
        pairs >= MOST_PAIRS || self.blocks.len() >= MOST_BLOCKS
    }
}

impl Builder {
    /// Of a compressed file.
    pub fn of_packed() -> Self {
        Self {
            pieces: Some(Pieces::default()),
            ..Self::default()
        }
    }

    /// A frame of a compressed file begins at `at` in its content; the records in it are noted later.
    pub fn begin_frame(&mut self, at: u64) {
        if let Some(pieces) = &mut self.pieces {
            pieces.begin_frame(at);
        }
    }

    /// The next frame of a compressed file was written, so many bytes of content and of the file, and the records in it
    /// are noted.
    pub fn wrote_frame(&mut self, content: u64, packed: u64) {
        if let Some(pieces) = &mut self.pieces {
            pieces.wrote(content, packed);
            self.given_up |= pieces.are_too_many();
            self.put_waiting();
        }
    }

    /// Notes a record of `len` bytes at `at` in the file, or in its content.
    #[inline]
    pub fn add(&mut self, at: u64, len: u32, ts_ns: u64, keys: &Keys, vni: Option<u32>) {
        let end = at + u64::from(len);
        let last = self.segment.blocks.last();
        let begins = match &mut self.pieces {
            None => last.is_none_or(|block| end - block.at > BLOCK_LEN),
            // Whatever else is so, the piece was reached.
            Some(pieces) => pieces.reaches(at) || last.is_none(),
        };
        if begins && !self.begin_block(at, ts_ns) {
            return;
        }
        let segment = &mut self.segment;
        let number = segment.blocks.len().wrapping_sub(1) as u32;
        let Some(block) = segment.blocks.last_mut() else {
            return;
        };
        block.len = end - block.at;
        block.first_ns = block.first_ns.min(ts_ns);
        block.last_ns = block.last_ns.max(ts_ns);
        block.has_cut |= keys.is_cut;
        self.packets += 1;
        self.span = (self.span.0.min(ts_ns), self.span.1.max(ts_ns));
        let pair = |key: u32| u64::from(key) << 32 | u64::from(number);
        if keys.is_ip {
            let [src, dst] = keys.hosts;
            // The same in both directions. Hosts are compared too: flows that share a key can be made on purpose.
            let this = [keys.flow, src.min(dst), src.max(dst), number];
            if let Some(lately) = segment.lately.get_mut(keys.flow as usize % LATELY)
                && *lately != this
            {
                *lately = this;
                segment.flows.push(pair(keys.flow));
                segment.hosts.extend([pair(src), pair(dst)]);
            }
        }
        if let Some(vni) = vni
            && segment.vni_lately != (vni, number)
        {
            segment.vni_lately = (vni, number);
            segment.vnis.push(pair(vni_key(vni)));
        }
    }

    /// Begins a block with the record at `at`; `false` where nothing is noted any more.
    #[cold]
    fn begin_block(&mut self, at: u64, ts_ns: u64) -> bool {
        if self.full_at.is_some() || self.given_up {
            return false;
        }
        if self.segment.is_full() {
            self.end_segment();
            if self.segments.len() > MOST_BYTES {
                self.full_at = Some(at);
                return false;
            }
        }
        self.segment.blocks.push(Block {
            at,
            len: 0,
            first_ns: ts_ns,
            last_ns: ts_ns,
            has_cut: false,
        });
        true
    }

    /// Notes a block of the file that is no packet, but describes an interface, or holds secrets or names.
    pub fn add_other(&mut self, at: u64, len: u64) {
        if let Some((from, before)) = self.others.last_mut()
            && *from + *before == at
        {
            *before += len;
        } else if self.others.len() < MOST_OTHERS {
            self.others.push((at, len));
        } else {
            self.given_up = true;
        }
    }

    fn end_segment(&mut self) {
        if self.segment.blocks.is_empty() {
            return;
        }
        if self.pieces.is_some() {
            // How many bytes it may have depends on how long its pieces become.
            let segment = std::mem::replace(&mut self.segment, Segment::new());
            self.waiting.push_back(segment);
            return self.put_waiting();
        }
        let bytes: u64 = self.segment.blocks.iter().map(|block| block.len).sum();
        // Small files have a little more.
        let room = (bytes / SHARE).max(512);
        self.segment.put(&mut self.segments, |_| room as usize);
        self.count += 1;
        self.segment.clear();
    }

    /// Appends the segments of a compressed file that were written whole.
    fn put_waiting(&mut self) {
        let Some(pieces) = &self.pieces else {
            return;
        };
        let (content, packed) = pieces.written();
        while let Some(mut segment) = self
            .waiting
            .pop_front_if(|segment| segment.end() <= content)
        {
            let others = self.others.len() * OTHER_BYTES;
            let beside = FRAME_BYTES + others + pieces.table_len();
            let beside = beside + segment.blocks.len() * pieces::ENTRY_BYTES;
            let taken = self.segments.len() + beside;
            let room = most_bytes(packed).saturating_sub(taken as u64);
            segment.tell_once();
            segment.put(&mut self.segments, |of_blocks| {
                (room as usize).saturating_sub(of_blocks)
            });
            self.count += 1;
        }
    }

    /// The index of a file that is complete; `None` where there is none.
    pub fn end(mut self, of: &Facts<'_>) -> Option<Vec<u8>> {
        self.end_segment();
        let version = match &self.pieces {
            Some(pieces) => {
                let is_whole = self.waiting.is_empty() && pieces.written().1 == of.bytes;
                self.given_up |= !is_whole;
                PACKED_VERSION
            }
            None => PLAIN_VERSION,
        };
        if self.given_up {
            return None;
        }
        let mut out = Vec::with_capacity(self.segments.len() + 1024);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&of.bytes.to_le_bytes());
        out.extend_from_slice(&of.sha256);
        out.extend_from_slice(&of.mark);
        out.extend_from_slice(&self.full_at.unwrap_or(u64::MAX).to_le_bytes());
        out.extend_from_slice(&self.packets.to_le_bytes());
        out.extend_from_slice(&self.span.0.to_le_bytes());
        out.extend_from_slice(&self.span.1.to_le_bytes());
        let name = of.name.as_bytes();
        put_number(name.len() as u64, &mut out);
        out.extend_from_slice(name);
        put_number(self.others.len() as u64, &mut out);
        let mut before = 0;
        for (at, len) in &self.others {
            put_number(at - before, &mut out);
            put_number(*len, &mut out);
            before = at + len;
        }
        if let Some(pieces) = &mut self.pieces {
            pieces.put(&mut out);
        }
        out.extend_from_slice(&self.segments);
        let check = crc32fast::hash(&out);
        out.extend_from_slice(&check.to_le_bytes());
        let is_small = version == PLAIN_VERSION || out.len() as u64 <= most_bytes(of.bytes);
        is_small.then_some(out)
    }
}

/// What an index says of its file.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its name when it was finished.
    pub name: &'a str,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of it.
    pub sha256: [u8; 32],
    /// [`mark`] of it.
    pub mark: [u8; 32],
}

impl Segment {
    /// Appends it: its length, blocks, sets. `room` tells of the bytes before the sets how many these may have.
    fn put(&self, out: &mut Vec<u8>, room: impl FnOnce(usize) -> usize) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let blocks = self.blocks.len() as u32;
        put_number(blocks.into(), out);
        let (mut end, mut before_ns) = (0, 0_u64);
        for block in &self.blocks {
            put_number(block.at - end, out);
            put_number(block.len << 1 | u64::from(block.has_cut), out);
            // Nearly always later, but not always.
            let step = block.first_ns.wrapping_sub(before_ns).cast_signed();
            put_number(((step << 1) ^ (step >> 63)).cast_unsigned(), out);
            put_number(block.last_ns - block.first_ns, out);
            end = block.at + block.len;
            before_ns = block.first_ns;
        }
        let bits = bits_within(room(out.len() - start) * 8, blocks, self);
        let sets = [&self.flows, &self.hosts, &self.vnis];
        for (pairs, bits) in sets.into_iter().zip(bits) {
            set::put(pairs, blocks, bits, out);
        }
        let len = (out.len() - start - 4) as u32;
        if let Some(field) = out.get_mut(start..start + 4) {
            field.copy_from_slice(&len.to_le_bytes());
        }
    }
}

/// Bits of remainder of flows, hosts and VNIs so that all together take no more than `room` bits. Flows of one packet
/// each leave fewer, and then none: what is asked for most stays longest.
fn bits_within(room: usize, blocks: u32, segment: &Segment) -> [Option<u32>; 3] {
    let sets = [&segment.flows, &segment.hosts, &segment.vnis];
    let lens = sets.map(Vec::len);
    let need = |bits: [Option<u32>; 3]| -> usize {
        let each = lens.into_iter().zip(bits);
        each.map(|(len, bits)| bits.map_or(0, |bits| set::most_bits(len, blocks, bits)))
            .sum()
    };
    let of_all = (FEWEST_BITS..=FLOW_BITS).rev().map(|flow_bits| {
        let other_bits = flow_bits.min(OTHER_BITS);
        [flow_bits, other_bits, other_bits].map(Some)
    });
    let without_hosts = (FEWEST_BITS..=OTHER_BITS).rev();
    let without_hosts = without_hosts.map(|bits| [Some(bits), None, Some(bits)]);
    let of_one = [
        [Some(FEWEST_BITS), None, None],
        [None, None, Some(FEWEST_BITS)],
    ];
    let mut ways = of_all.chain(without_hosts).chain(of_one);
    ways.find(|bits| need(*bits) <= room).unwrap_or([None; 3])
}

/// The key of a VNI in its set.
pub const fn vni_key(vni: u32) -> u32 {
    vni.wrapping_mul(0x9e37_79b1)
}

/// Appends a number, seven bits a byte, the lowest first; the top bit says that more follow.
fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
