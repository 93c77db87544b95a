//! Copies of one inner packet: mirrored at both ends of its way, or twice by one source.
//!
//! In go the packet's headers, its mirror session and its time; out comes whether it was seen before, and where.
//! A packet is told by what no router changes: addresses, protocol, length, IPv4 identification, IPv6 flow
//! label, fragment, and the first bytes behind the IP header without the transport checksum, which offload may
//! fill in on the way. MAC addresses, VLAN tags, TTL and DSCP are not looked at.
//!
//! Memory is fixed: a table in which a packet can stand at eight places, all in one cache line. The packet seen
//! longest ago makes room. Most packets are new, and the table is too large for the nearer caches. So eight bits of each
//! packet stand in a smaller one, which knows most new packets for what they are; such a packet gets its place when the
//! next one comes, and memory has had that long to answer.

use prefetch_index::prefetch_index;

use super::session::{MAX_AGED, MAX_SESSIONS, SessionId};
use crate::wire::be16;
use crate::wire::inner::{InnerIp, Transport};
use crate::wire::ip::IpHeader;
use crate::wire::numbers::protocol;
use crate::wire::numbers::tcp_flag::RST;

/// Bytes behind the IP header by which a packet is told: a TCP header with time stamps. A session that keeps 96
/// bytes of each frame has them all, behind IPv6 too.
const HEAD_LEN: usize = 32;

/// Bytes behind the IP header by which a packet is told that has no number and no sequence number: many a datagram
/// begins like the one before it.
const MORE_LEN: usize = 128;

/// A packet that comes again from the session that had it, and whose sender does not number packets: up to so
/// many nanoseconds later it was mirrored twice, later it was sent again. No TCP sends again as soon as that.
const TWICE_NS: u64 = 1_000_000;

/// Longest window, in nanoseconds: far less than the five hours after which times wrap.
pub const MAX_WINDOW_NS: u64 = 10_000_000_000;

/// Buckets, as a power of two.
const BUCKET_BITS: u32 = 15;
/// Packets of a bucket.
const WAYS: usize = 8;
/// Words of a bucket: a cache line by which packets are found, and one with what is known of them.
const BUCKET_WORDS: usize = 2 * WAYS;
/// Bytes that a bucket begins at a multiple of.
const ALIGNMENT: usize = BUCKET_WORDS * size_of::<u64>();

/// Words of all buckets.
const WORDS: usize = (BUCKET_WORDS << BUCKET_BITS) + ALIGNMENT / size_of::<u64>();

/// Bytes of memory that a table takes.
pub const MEMORY_BYTES: usize = (WORDS + (1 << BUCKET_BITS)) * size_of::<u64>();

/// How copies are looked for, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    /// A copy is known as one for so many nanoseconds, at most [`MAX_WINDOW_NS`].
    pub window_ns: u64,
    /// Copies get into no flow and no capture.
    pub drop: bool,
}

impl Default for Dedup {
    fn default() -> Self {
        Self {
            window_ns: 500_000_000,
            drop: false,
        }
    }
}

/// What names an inner packet wherever on its way it was mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    hash: u64,
    kind: Kind,
}

/// How a packet looks whose sender sends the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It has another number.
    Numbered,
    /// Like the first, but it hardly comes at once.
    Unnumbered,
    /// Like the first, and at once: each segment that comes to a closed port or connection has its reset.
    Reset,
}

/// Where and when a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its mirror session.
    pub session: SessionId,
    /// Arrival, nanoseconds since 1970.
    pub ts_ns: u64,
    /// Time to live.
    pub ttl: u8,
    /// VLAN identifier of its outermost tag.
    pub vlan: Option<u16>,
}

/// What a copy is a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOf {
    /// Where the first copy was seen.
    pub first: Sighting,
    /// Nanoseconds from the first copy to this one, by their times of arrival.
    pub after_ns: i64,
    /// No other copy came from elsewhere before it.
    pub is_second: bool,
}

impl Fingerprint {
    /// Of the packet `ip` in `frame`; `None` where too little is here to tell it from others: its sender does not
    /// number packets, and it is cut inside the first bytes behind its IP header.
    #[inline]
    pub fn of(ip: &InnerIp, frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ip.offset as usize..)?;
        let header = &ip.header;
        let payload = header.payload(packet);
        let (number, label) = if header.src.is_ipv4() {
            (u32::from(be16(packet, 4)?), 0)
        } else {
            let number = header.fragment.map_or(0, |fragment| fragment.id);
            let first = u32::from_be_bytes(*packet.first_chunk()?);
            (number, first & 0x000f_ffff)
        };
        let kind = match ip.transport {
            _ if number != 0 => Kind::Numbered,
            Transport::Ports { tcp: Some(tcp), .. } if tcp.flags & RST != 0 => Kind::Reset,
            _ => Kind::Unnumbered,
        };
        if kind != Kind::Numbered && payload.len() < HEAD_LEN && !is_whole(header, payload) {
            return None;
        }
        let counts = match (kind, ip.transport) {
            (Kind::Numbered, _) => HEAD_LEN,
            (_, Transport::Ports { tcp: Some(tcp), .. }) => tcp.header_len.into(),
            _ => MORE_LEN,
        };
        let more = payload.get(HEAD_LEN..counts.min(payload.len()));
        let more = more.unwrap_or_default();
        let [w0, w1, w2, w3] = head(header, payload);
        let piece = header.fragment.map_or(0, |fragment| {
            (u64::from(fragment.offset) << 1) | u64::from(fragment.more)
        });
        let names = u64::from(number) | u64::from(header.protocol) << 32 | piece << 40;
        let present = (payload.len().min(HEAD_LEN) + more.len()) as u64;
        let len = u64::from(header.declared_len) | u64::from(label) << 32 | present << 52;
        let ([s0, s1], [d0, d1]) = (header.src.words, header.dst.words);
        let addresses = if header.src.is_ipv4() {
            fold(s0 ^ K[0], d0 ^ K[1])
        } else {
            fold(s0 ^ K[0], d0 ^ K[1]) ^ fold(s1 ^ K[2], d1 ^ K[3])
        };
        let names = fold(names ^ K[4], len ^ K[5]);
        let bytes = fold(w0 ^ K[6], w1 ^ K[7]) ^ fold(w2 ^ K[8], w3 ^ K[9]);
        let mut hash = fold(names ^ addresses.rotate_left(32), bytes ^ K[10]);
        if !more.is_empty() {
            hash = with_more(hash, more);
        }
        Some(Self { hash, kind })
    }

    /// Names a packet of which the first copy came at `first_ns`: all copies alike, the same in every run.
    #[inline]
    pub const fn id(self, first_ns: u64) -> u64 {
        let coarse = (first_ns >> FINE) as u32;
        (coarse as u64) << 32 | (self.hash & 0xffff_ffff)
    }
}

/// The hash with these bytes in it.
#[inline(never)]
fn with_more(hash: u64, bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let mut last = [0; 16];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let chunks = chunks.iter().chain([&last]);
    chunks.fold(hash, |hash, chunk| {
        let words = u128::from_le_bytes(*chunk);
        fold(hash ^ words as u64, K[11] ^ (words >> 64) as u64)
    })
}

/// Whether all of the packet's payload is here.
#[inline]
fn is_whole(header: &IpHeader, payload: &[u8]) -> bool {
    let len = header.header_len + payload.len();
    header.declared_len != 0 && len >= header.declared_len as usize && !header.options_cut
}

/// The first bytes behind the IP header, with zeros where there are none and for the transport checksum.
#[inline]
fn head(header: &IpHeader, payload: &[u8]) -> [u64; 4] {
    let mut cut = [0; HEAD_LEN];
    let bytes = match payload.first_chunk::<HEAD_LEN>() {
        Some(bytes) => bytes,
        None => {
            cut.iter_mut()
                .zip(payload)
                .for_each(|(to, from)| *to = *from);
            &cut
        }
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let [w0, w1, w2, _] = &mut words;
    if header.is_later_fragment() {
        return words;
    }
    match header.protocol {
        // Bytes 16 and 17, and so on: the first byte of a word is its lowest.
        protocol::TCP => *w2 &= !0xffff,
        protocol::UDP => *w0 &= !(0xffff << 48),
        protocol::ICMP | protocol::ICMPV6 => *w0 &= !(0xffff << 16),
        protocol::SCTP => *w1 &= !0xffff_ffff,
        _ => {}
    }
    words
}

/// Digits of π behind the point: nobody chose them, and they are the same in every run and worker.
const K: [u64; 12] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6c,
    0xc0ac_29b7_c97c_50dd,
    0x3f84_d5b5_b547_0917,
    0x9216_d5d9_8979_fb1b,
    0xd131_0ba6_98df_b5ac,
    0x2ffd_72db_d01a_dfb7,
    0xb8e1_afed_6a26_7e96,
];

/// Both halves of a product, together: every bit depends on all of both numbers.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Packets seen lately.
pub struct Duplicates {
    /// Buckets, from `begin` on. In each, eight words that find packets: the upper half of the hash, and the time
    /// without its lowest bits; behind them eight with [`Rest`].
    words: Vec<u64>,
    /// Where the first cache line begins.
    begin: usize,
    /// For each bucket the lowest byte of each place's hash, 0 where no packet is.
    hints: Vec<u64>,
    /// A packet that has no place yet.
    newcomer: Option<Newcomer>,
    window_ns: u64,
    made_room: u64,
}

/// A packet that gets a place in a bucket.
#[derive(Clone, Copy)]
struct Newcomer {
    bucket: usize,
    head: u64,
    rest: Rest,
}

/// Lowest bits of a time, kept in the second word: 4096 ns.
const FINE: u32 = 12;
/// Bits of a time that are kept.
const TIME_BITS: u32 = 32 + FINE;
/// Bits of a session's number, or of none.
const SESSION_BITS: u32 = 14;
const _: () = assert!(MAX_SESSIONS + MAX_AGED + 1 < (1 << SESSION_BITS) - 1);
/// Bits of a VLAN identifier, or of none.
const VLAN_BITS: u32 = 13;
/// No VLAN.
const NO_VLAN: u16 = (1 << VLAN_BITS) - 1;

/// What is kept of a packet beside what finds it.
#[derive(Clone, Copy)]
struct Rest {
    /// Session of the first copy, and of the first one from another session: their numbers and one, or 0.
    first: u16,
    second: u16,
    vlan: u16,
    fine: u16,
    ttl: u8,
    /// Packets like this one before it from the first session, of which no copy has come.
    unmatched: u8,
}

impl Rest {
    const fn word(self) -> u64 {
        (self.ttl as u64)
            | (self.first as u64) << Self::FIRST_AT
            | (self.second as u64) << Self::SECOND_AT
            | (self.vlan as u64) << Self::VLAN_AT
            | (self.fine as u64) << Self::FINE_AT
            | (self.unmatched as u64) << Self::UNMATCHED_AT
    }

    const fn of(word: u64) -> Self {
        const fn bits(word: u64, at: u32, bits: u32) -> u16 {
            (word >> at) as u16 & ((1 << bits) - 1)
        }
        Self {
            first: bits(word, Self::FIRST_AT, SESSION_BITS),
            second: bits(word, Self::SECOND_AT, SESSION_BITS),
            vlan: bits(word, Self::VLAN_AT, VLAN_BITS),
            fine: bits(word, Self::FINE_AT, FINE),
            ttl: word as u8,
            unmatched: (word >> Self::UNMATCHED_AT) as u8,
        }
    }

    /// Whether the packet `here`, which looks like this one and came so long after it, is a copy of it. One without
    /// a number may have been sent again: it is a copy where it comes from another session, or at once, or further on
    /// its way through the same mirror source.
    #[inline]
    const fn has_as_copy(&self, here: &Self, kind: Kind, after_ns: i64) -> bool {
        let is_elsewhere = here.first != self.first && here.first != self.second;
        let is_routed = here.first == self.first && here.ttl != self.ttl;
        match kind {
            Kind::Numbered => true,
            Kind::Unnumbered => is_elsewhere || is_routed || after_ns.unsigned_abs() <= TWICE_NS,
            Kind::Reset => is_elsewhere || is_routed,
        }
    }

    const FIRST_AT: u32 = u8::BITS;
    const SECOND_AT: u32 = Self::FIRST_AT + SESSION_BITS;
    const VLAN_AT: u32 = Self::SECOND_AT + SESSION_BITS;
    const FINE_AT: u32 = Self::VLAN_AT + VLAN_BITS;
    const UNMATCHED_AT: u32 = Self::FINE_AT + FINE;
    const MOST_UNMATCHED: u8 = (u64::MAX >> Self::UNMATCHED_AT) as u8;
}

/// Nanoseconds from `then`, of which the lowest bits are kept, to `now`, with the sign of times that may go back.
#[inline]
const fn between(then: u64, now: u64) -> i64 {
    let unused = u64::BITS - TIME_BITS;
    (now.wrapping_sub(then) << unused) as i64 >> unused
}

impl Duplicates {
    /// A table that knows packets again for `window_ns` nanoseconds, at most [`MAX_WINDOW_NS`].
    pub fn new(window_ns: u64) -> Self {
        // Memory is taken when it is first used.
        let words = vec![0; WORDS];
        let begin = words.as_ptr().align_offset(ALIGNMENT).min(BUCKET_WORDS);
        Self {
            words,
            begin,
            hints: vec![0; 1 << BUCKET_BITS],
            newcomer: None,
            window_ns: window_ns.min(MAX_WINDOW_NS),
            made_room: 0,
        }
    }

    /// Has the processor fetch what [`Self::see`] will look at.
    #[inline]
    pub fn prefetch(&self, fingerprint: Fingerprint) {
        let bucket = bucket_of(fingerprint);
        prefetch_index(self.hints.as_slice(), bucket);
        let at = self.begin + bucket * BUCKET_WORDS;
        prefetch_index(self.words.as_slice(), at);
        prefetch_index(self.words.as_slice(), at + WAYS);
    }

    /// Packets that made room before the window was over: of these, later copies are not known again.
    pub fn made_room(&self) -> u64 {
        let makes_room = self.newcomer.is_some_and(|newcomer| {
            let words = self.words.get(self.begin..).unwrap_or_default();
            let bucket = words.as_chunks::<BUCKET_WORDS>().0.get(newcomer.bucket);
            bucket.is_some_and(|bucket| {
                let (_, age) = oldest(bucket, newcomer.head);
                self.is_recent(age)
            })
        });
        self.made_room + u64::from(makes_room)
    }

    /// Looks whether the packet was seen within the window, and remembers it. Returns what it is a copy of.
    #[inline]
    pub fn see(&mut self, fingerprint: Fingerprint, sighting: &Sighting) -> Option<CopyOf> {
        let Fingerprint { hash, kind } = fingerprint;
        let now = sighting.ts_ns;
        let coarse = (now >> FINE) as u32;
        // Zero is where no packet is.
        let tag = ((hash >> 32) as u32).max(1);
        let head = u64::from(tag) << 32 | u64::from(coarse);
        let own = sighting
            .session
            .0
            .saturating_add(1)
            .min((1 << SESSION_BITS) - 1) as u16;
        let rest = Rest {
            first: own,
            second: 0,
            vlan: sighting.vlan.unwrap_or(NO_VLAN),
            ttl: sighting.ttl,
            unmatched: 0,
            fine: now as u16 & ((1 << FINE) - 1),
        };
        self.settle();
        let newcomer = Newcomer {
            bucket: bucket_of(fingerprint),
            head,
            rest,
        };
        if !self.may_know(newcomer.bucket, tag) {
            self.newcomer = Some(newcomer);
            return None;
        }
        let bucket = bucket_mut(&mut self.words, self.begin, newcomer.bucket)?;
        let (heads, rests) = bucket.split_at_mut(WAYS);
        let found = heads.iter().position(|head| (head >> 32) as u32 == tag);
        if let Some(at) = found
            && let (Some(known_head), Some(known_rest)) = (heads.get_mut(at), rests.get_mut(at))
        {
            let mut known = Rest::of(*known_rest);
            let known_coarse = *known_head as u32;
            let then = u64::from(known_coarse) << FINE | u64::from(known.fine);
            let after_ns = between(then, now);
            let is_recent = after_ns.unsigned_abs() <= self.window_ns;
            if is_recent && known.has_as_copy(&rest, kind, after_ns) {
                let is_second = known.second == 0;
                let copy = CopyOf {
                    first: Sighting {
                        session: SessionId(u32::from(known.first).saturating_sub(1)),
                        ts_ns: now.wrapping_sub(after_ns.cast_unsigned()),
                        ttl: known.ttl,
                        vlan: Some(known.vlan).filter(|vlan| *vlan != NO_VLAN),
                    },
                    after_ns,
                    is_second,
                };
                if is_second && known.first != own {
                    match known.unmatched.checked_sub(1) {
                        Some(fewer) => known.unmatched = fewer,
                        None => known.second = own,
                    }
                    *known_rest = known.word();
                }
                return Some(copy);
            }
            // Sent again, or long after: copies that come now are copies of this one.
            let mut rest = rest;
            if is_recent && known.first == own && known.second == 0 {
                rest.unmatched = (known.unmatched + 1).min(Rest::MOST_UNMATCHED);
            }
            (*known_head, *known_rest) = (head, rest.word());
            return None;
        }
        self.insert(newcomer);
        None
    }

    /// Gives the last packet a place, if it has none yet.
    #[inline]
    fn settle(&mut self) {
        if let Some(newcomer) = self.newcomer.take() {
            self.insert(newcomer);
        }
    }

    /// Whether a packet with such a hash may be in the bucket. One time in 32 of a full one, it is another.
    #[inline]
    fn may_know(&self, bucket: usize, tag: u32) -> bool {
        const LOWEST: u64 = 0x0101_0101_0101_0101;
        let hints = self.hints.get(bucket).copied().unwrap_or_default();
        // A byte that is the same is 0 now, and only below such a one another can borrow.
        let differ = hints ^ (LOWEST * hint_of(tag));
        differ.wrapping_sub(LOWEST) & !differ & (LOWEST << 7) != 0
    }

    /// Gives a packet a place; the one seen longest ago makes room.
    #[inline]
    fn insert(&mut self, newcomer: Newcomer) {
        let Newcomer { bucket, head, rest } = newcomer;
        let number = bucket;
        let Some(bucket) = bucket_mut(&mut self.words, self.begin, number) else {
            return;
        };
        let (at, age) = oldest(bucket, head);
        let (heads, rests) = bucket.split_at_mut(WAYS);
        if let (Some(old_head), Some(old_rest)) = (heads.get_mut(at), rests.get_mut(at)) {
            (*old_head, *old_rest) = (head, rest.word());
        }
        if let Some(hints) = self.hints.get_mut(number) {
            let shift = at as u32 * u8::BITS;
            *hints = *hints & !(0xff << shift) | hint_of((head >> 32) as u32) << shift;
        }
        if self.is_recent(age) {
            self.made_room += 1;
        }
    }

    /// Whether so many units of [`FINE`] are within the window.
    fn is_recent(&self, age: u32) -> bool {
        u64::from(age) <= self.window_ns >> FINE
    }
}

/// What stands for a packet among the hints: not 0.
#[inline]
const fn hint_of(tag: u32) -> u64 {
    let byte = tag as u8 as u64;
    if byte == 0 { 1 } else { byte }
}

/// The bucket of this number.
#[inline]
fn bucket_mut(words: &mut [u64], begin: usize, number: usize) -> Option<&mut [u64; BUCKET_WORDS]> {
    let (buckets, _) = words.get_mut(begin..)?.as_chunks_mut();
    buckets.get_mut(number)
}

/// Which place of a bucket was taken longest ago, seen from the packet with this head, and how long ago; an empty one
/// before all others.
#[inline]
fn oldest(bucket: &[u64; BUCKET_WORDS], now: u64) -> (usize, u32) {
    let (mut oldest, mut oldest_age) = (0, 0);
    for (at, head) in bucket.iter().take(WAYS).enumerate() {
        let age = match *head {
            0 => u32::MAX,
            head => ((now as u32).wrapping_sub(head as u32) as i32).unsigned_abs(),
        };
        if age > oldest_age {
            (oldest, oldest_age) = (at, age);
        }
    }
    (oldest, oldest_age)
}

#[inline]
const fn bucket_of(fingerprint: Fingerprint) -> usize {
    (fingerprint.hash & ((1 << BUCKET_BITS) - 1)) as usize
}

#[cfg(test)]
mod tests;
