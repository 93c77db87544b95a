//! The index beside a file of a store: which flows, addresses and VNIs lie in which range of its bytes, so that a few
//! packets are found without reading all of them. Pure: facts of records in, bytes out, and back.
//!
//! A file is cut into blocks of about 16 KiB, each a number of whole packets, and several thousand blocks make a
//! segment. A segment has a table of its blocks (place, length, times, whether a cut packet is in it) and three
//! [`set`]s. What an index says is never too little: a block that it leaves out holds nothing that was asked for; one
//! that it names may hold nothing either. `docs/FORMATS.md` describes the bytes.

pub mod build;
pub mod query;
pub mod set;

use sha2::{Digest, Sha256};

use crate::pcap::record::Keys;

/// What its name adds to that of its file.
pub const ENDING: &str = ".idx";
/// What it begins with.
pub const MAGIC: [u8; 8] = *b"VXTAPIDX";
const VERSION: u32 = 1;
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
const LATELY: usize = 64;

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

    fn is_full(&self) -> bool {
        let pairs = self.flows.len() + self.hosts.len() + self.vnis.len();
        pairs >= MOST_PAIRS || self.blocks.len() >= MOST_BLOCKS
    }
}

impl Builder {
    /// Notes a record of `len` bytes at `at` in the file.
    #[inline]
    pub fn add(&mut self, at: u64, len: u32, ts_ns: u64, keys: &Keys, vni: Option<u32>) {
        let end = at + u64::from(len);
        let begins = self
            .segment
            .blocks
            .last()
            .is_none_or(|block| end - block.at > BLOCK_LEN);
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
        self.segment.put(&mut self.segments);
        self.count += 1;
        self.segment.clear();
    }

    /// The index of a file that is complete; `None` where there is none.
    pub fn end(mut self, of: &Facts<'_>) -> Option<Vec<u8>> {
        if self.given_up {
            return None;
        }
        self.end_segment();
        let mut out = Vec::with_capacity(self.segments.len() + 1024);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
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
        out.extend_from_slice(&self.segments);
        let check = crc32fast::hash(&out);
        out.extend_from_slice(&check.to_le_bytes());
        Some(out)
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
    /// Appends it: its length, blocks, sets.
    fn put(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let blocks = self.blocks.len() as u32;
        put_number(blocks.into(), out);
        let (mut end, mut before_ns, mut bytes) = (0, 0_u64, 0);
        for block in &self.blocks {
            put_number(block.at - end, out);
            put_number(block.len << 1 | u64::from(block.has_cut), out);
            // Nearly always later, but not always.
            let step = block.first_ns.wrapping_sub(before_ns).cast_signed();
            put_number(((step << 1) ^ (step >> 63)).cast_unsigned(), out);
            put_number(block.last_ns - block.first_ns, out);
            end = block.at + block.len;
            before_ns = block.first_ns;
            bytes += block.len;
        }
        let bits = bits_within((bytes * 8 / SHARE) as usize, blocks, self);
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
    // Small files have a little more.
    let room = room.max(8 * 512);
    for flow_bits in (FEWEST_BITS..=FLOW_BITS).rev() {
        let other_bits = flow_bits.min(OTHER_BITS);
        let bits = [flow_bits, other_bits, other_bits].map(Some);
        if need(bits) <= room {
            return bits;
        }
    }
    for bits in [
        [Some(4), None, Some(4)],
        [Some(FEWEST_BITS), None, Some(FEWEST_BITS)],
        [Some(FEWEST_BITS), None, None],
        [None, None, Some(FEWEST_BITS)],
    ] {
        if need(bits) <= room {
            return bits;
        }
    }
    [None; 3]
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
