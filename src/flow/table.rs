//! The flow table of one worker: bounded, the flow seen longest ago makes room for a new one.
//!
//! What every packet writes stands apart from what only the first one tells: two cache lines a flow, in
//! chunks that never move, so growing copies nothing. `index` finds them, `recent` keeps
//! the order in which they were last seen: by the packet once the table is full, before that to a few seconds,
//! because nothing but making room needs it.

use std::hash::BuildHasher;

use hashbrown::HashMap;
use prefetch_index::prefetch_index;

use super::counts::{Counts, Flow, FlowPacket};
use super::ended::{EndReason, Ended};
use super::index::{Index, entries_for};
use super::key::{FlowKey, Way};
use super::recent::{Link, Recent};
use super::remaining::{self, Remaining};
use super::tcp::{self, Side};
use crate::wire::inner::Mac;
use crate::wire::length::Verdict;
use crate::wire::numbers::tcp_flag::{ACK, SYN};

/// Flows of a chunk.
pub(super) const CHUNK: usize = 1024;
/// While there is room, flows are put in order again when another so many nanoseconds begin, as a power of
/// two: about nine seconds.
const PERIOD: u32 = 33;
/// What every packet of a flow touches: one cache line to tell the flow, one to count in.
#[repr(C, align(64))]
pub(super) struct Hot {
    pub(super) key: FlowKey,
    pub(super) first_ns: u64,
    last_ns: u64,
    tallies: [Tally; 2],
}

/// [`Counts`] of one direction at half the size; what does not fit is moved to [`Large`].
#[derive(Clone, Copy)]
struct Tally {
    packets: u32,
    ip_bytes: u32,
    l2_bytes: u32,
    captured_bytes: u32,
    truncated: u32,
    missing_bytes: u32,
    max_ip_len: u32,
    tcp_flags: u16,
    ttl_min: u8,
    ttl_max: u8,
}

/// What packets after the first hardly ever touch.
struct Cold {
    originator: Way,
    originator_sure: bool,
    macs: Option<(Mac, Mac)>,
    tos: u8,
    icmp: Option<(u8, u8)>,
    namesakes: u8,
    fragments: u32,
    /// Sequence number of the first SYN from the first end of the key, and from the second.
    syn: [u32; 2],
}

/// What a flow counted beyond the width of its own tallies.
#[derive(Default)]
pub(super) struct Large {
    counts: [Counts; 2],
    fragments: u64,
}

/// Flows of neighbouring places.
pub(super) struct Chunk {
    pub(super) hot: Vec<Hot>,
    cold: Vec<Cold>,
}

/// The flows of one worker.
pub struct FlowTable {
    index: Index,
    hasher: foldhash::fast::RandomState,
    chunks: Vec<Chunk>,
    recent: Recent,
    /// What flows counted beyond the width of their tallies, by place.
    large: HashMap<u32, Large, foldhash::fast::RandomState>,
    len: u32,
    max_flows: u32,
}

/// Bytes that tables of `max_flows` flows each may take together, for the memory line printed at start: while
/// they are filled, or at the end, when other things stand in place of what finds the flows.
pub fn memory_bytes(max_flows: impl Iterator<Item = u32>) -> u64 {
    let (mut flows, mut finding) = (0, 0);
    for max_flows in max_flows.map(u64::from) {
        // A chunk is made whole.
        flows += max_flows.next_multiple_of(CHUNK as u64);
        finding += entries_for(max_flows) * size_of::<u64>() as u64
            + max_flows.next_power_of_two() * size_of::<Link>() as u64;
    }
    flows * (size_of::<Hot>() + size_of::<Cold>()) as u64
        + finding.max(remaining::memory_bytes(flows))
}

impl FlowTable {
    /// A table for at most `max_flows` flows (at least one).
    pub fn new(max_flows: u32) -> Self {
        Self {
            index: Index::default(),
            hasher: foldhash::fast::RandomState::default(),
            chunks: Vec::new(),
            recent: Recent::default(),
            large: HashMap::default(),
            len: 0,
            max_flows: max_flows.clamp(1, u32::MAX - 1),
        }
    }

    /// Flows in the table.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The hash of a key, by which it is looked for.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u32 {
        hash_of(&self.hasher, key)
    }

    /// Has the processor fetch what [`Self::foresee`] will look at.
    #[inline]
    pub fn prefetch(&self, hash: u32) {
        self.index.prefetch(hash);
    }

    /// The place where [`Self::update`] will most likely find the flow with this hash. Has the processor fetch
    /// what is there.
    #[inline]
    pub fn foresee(&self, hash: u32) -> u32 {
        let place = self.index.first_with(hash);
        if let Some(hot) = hot_at(&self.chunks, place) {
            prefetch_index(std::slice::from_ref(hot), 0);
            prefetch_index(hot.tallies.as_slice(), 0);
            self.recent.prefetch(place);
        }
        place
    }

    /// Has the processor fetch the rest of what a packet of the time `ts_ns` will touch if its flow is the
    /// one foreseen.
    #[inline]
    pub fn prefetch_rest(&self, foreseen: u32, ts_ns: u64) {
        if hot_at(&self.chunks, foreseen).is_some_and(|hot| self.moves(hot, ts_ns)) {
            self.recent.prefetch_neighbours(foreseen);
        }
    }

    /// Counts a packet of the flow `key`, whose hash is `hash` and whose place was [`foreseen`](Self::foresee);
    /// any other number will do. Returns the flow that this ended, if it did: one that had to make room, or
    /// the connection before with the same ports.
    pub fn update(
        &mut self,
        hash: u32,
        foreseen: u32,
        key: &FlowKey,
        way: Way,
        packet: &FlowPacket,
    ) -> Option<Ended> {
        let chunks = &self.chunks;
        let is_it = |at| hot_at(chunks, at).is_some_and(|hot| hot.key == *key);
        let found = if is_it(foreseen) {
            Some(foreseen)
        } else {
            self.index.find(hash, is_it)
        };
        if let Some(at) = found {
            if packet.tcp.is_some_and(|tcp| tcp::is_syn(tcp.flags))
                && let Some(reason) = self.ended_by(at, way, packet)
            {
                let flow = self.begin_anew(at, way, packet)?;
                return Some(Ended { flow, reason });
            }
            if hot_at(&self.chunks, at).is_some_and(|hot| self.moves(hot, packet.ts_ns)) {
                self.recent.touch(at);
            }
            self.count(at, way, packet);
            return None;
        }
        let (hot, cold) = open(key, way, packet);
        let (at, ended) = if self.len < self.max_flows {
            let at = self.len;
            self.len += 1;
            if self.chunks.last().is_none_or(Chunk::is_full) {
                self.chunks.push(Chunk::with_room());
            }
            if let Some(chunk) = self.chunks.last_mut() {
                chunk.hot.push(hot);
                chunk.cold.push(cold);
            }
            self.recent.add(at);
            (at, None)
        } else {
            let at = self.recent.oldest()?;
            self.recent.touch(at);
            let (old_hot, old_cold) = self.slot(at)?;
            let old_hot = std::mem::replace(old_hot, hot);
            let old_cold = std::mem::replace(old_cold, cold);
            self.index.remove(hash_of(&self.hasher, &old_hot.key), at);
            let flow = flow(&old_hot, &old_cold, self.large.remove(&at).as_ref());
            let reason = EndReason::LackOfResources;
            (at, Some(Ended { flow, reason }))
        };
        self.index.insert(hash, at);
        self.count(at, way, packet);
        ended
    }

    /// Why the connection at `at` is over, if `packet`, a SYN, begins another one. A SYN older than what
    /// the flow has seen belongs to what has been seen: files are not always in order.
    #[cold]
    fn ended_by(&self, at: u32, way: Way, packet: &FlowPacket) -> Option<EndReason> {
        let chunk = self.chunks.get(at as usize / CHUNK)?;
        let hot = chunk.hot.get(at as usize % CHUNK)?;
        let cold = chunk.cold.get(at as usize % CHUNK)?;
        let quiet_ns = packet.ts_ns.checked_sub(hot.last_ns)?;
        let side = |tally: &Tally, syn| Side {
            seen: tally.is_used(),
            flags: tally.tcp_flags,
            syn,
        };
        let ([a, b], [a_syn, b_syn]) = (&hot.tallies, cold.syn);
        let (a, b) = (side(a, a_syn), side(b, b_syn));
        let (sender, receiver) = if way == Way::AToB { (a, b) } else { (b, a) };
        tcp::ended_before(packet.tcp.as_ref()?, sender, receiver, quiet_ns)
    }

    /// Begins another flow of the same key in the place of the one at `at`, which is returned.
    #[cold]
    fn begin_anew(&mut self, at: u32, way: Way, packet: &FlowPacket) -> Option<Flow> {
        self.recent.touch(at);
        let (old_hot, old_cold) = self.slot(at)?;
        let (hot, mut cold) = open(&old_hot.key, way, packet);
        if hot.first_ns == old_hot.first_ns {
            cold.namesakes = old_cold.namesakes.saturating_add(1);
        }
        let old_hot = std::mem::replace(old_hot, hot);
        let old_cold = std::mem::replace(old_cold, cold);
        let old = flow(&old_hot, &old_cold, self.large.remove(&at).as_ref());
        self.count(at, way, packet);
        Some(old)
    }

    /// Whether a packet of the time `ts_ns` makes this flow the newest.
    #[inline]
    const fn moves(&self, hot: &Hot, ts_ns: u64) -> bool {
        self.len == self.max_flows || hot.last_ns >> PERIOD != ts_ns >> PERIOD
    }

    /// The flows that are left. What found them is let go.
    pub fn end(self) -> Remaining {
        Remaining::new(self.chunks, self.large)
    }

    fn slot(&mut self, at: u32) -> Option<(&mut Hot, &mut Cold)> {
        let chunk = self.chunks.get_mut(at as usize / CHUNK)?;
        let hot = chunk.hot.get_mut(at as usize % CHUNK)?;
        Some((hot, chunk.cold.get_mut(at as usize % CHUNK)?))
    }

    /// Counts a packet in the flow at `at`.
    fn count(&mut self, at: u32, way: Way, packet: &FlowPacket) {
        let FlowPacket {
            ts_ns,
            lengths,
            verdict,
            ip_len,
            is_fragment,
            ..
        } = *packet;
        let Some(chunk) = self.chunks.get_mut(at as usize / CHUNK) else {
            return;
        };
        let Some(hot) = chunk.hot.get_mut(at as usize % CHUNK) else {
            return;
        };
        hot.first_ns = hot.first_ns.min(ts_ns);
        hot.last_ns = hot.last_ns.max(ts_ns);
        let tcp_flags = packet.tcp.map_or(0, |tcp| tcp.flags);
        let [a_to_b, b_to_a] = &mut hot.tallies;
        let tally = if way == Way::AToB { a_to_b } else { b_to_a };
        if (tcp_flags & SYN != 0 || is_fragment)
            && let Some(cold) = chunk.cold.get_mut(at as usize % CHUNK)
        {
            if let Some(tcp) = packet.tcp.filter(|tcp| tcp.flags & SYN != 0) {
                if tally.tcp_flags & SYN == 0 {
                    let [a_syn, b_syn] = &mut cold.syn;
                    *(if way == Way::AToB { a_syn } else { b_syn }) = tcp.seq;
                }
                if tcp.flags & ACK == 0 {
                    cold.opened(way);
                }
            }
            if is_fragment {
                if cold.fragments == u32::MAX {
                    let large = self.large.entry(at).or_default();
                    large.fragments += u64::from(std::mem::take(&mut cold.fragments));
                }
                cold.fragments += 1;
            }
        }
        // Nothing else counts faster than these two.
        let fits = tally.ip_bytes.checked_add(ip_len).is_some()
            && tally.l2_bytes.checked_add(lengths.orig).is_some();
        if !fits {
            let [a_to_b, b_to_a] = &mut self.large.entry(at).or_default().counts;
            let large = if way == Way::AToB { a_to_b } else { b_to_a };
            large.absorb(&tally.counts());
            *tally = tally.emptied();
        }
        tally.packets += 1;
        tally.ip_bytes += ip_len;
        tally.l2_bytes += lengths.orig;
        tally.captured_bytes += lengths.captured;
        if verdict == Verdict::Truncated {
            tally.truncated += 1;
            tally.missing_bytes += lengths.missing();
        }
        tally.max_ip_len = tally.max_ip_len.max(ip_len);
        tally.tcp_flags |= tcp_flags;
        tally.ttl_min = tally.ttl_min.min(packet.ttl);
        tally.ttl_max = tally.ttl_max.max(packet.ttl);
    }
}

impl Chunk {
    fn with_room() -> Self {
        Self {
            hot: Vec::with_capacity(CHUNK),
            cold: Vec::with_capacity(CHUNK),
        }
    }

    fn is_full(&self) -> bool {
        self.hot.len() == CHUNK
    }

    /// The flow at `within` as others see it.
    pub(super) fn flow(&self, within: usize, large: Option<&Large>) -> Option<Flow> {
        Some(flow(self.hot.get(within)?, self.cold.get(within)?, large))
    }

    /// Puts `flow` at `within`, whose key it has; returns what does not fit.
    pub(super) fn put(&mut self, within: usize, flow: &Flow) -> Option<Large> {
        let hot = self.hot.get_mut(within)?;
        let cold = self.cold.get_mut(within)?;
        (hot.first_ns, hot.last_ns) = (flow.first_ns, flow.last_ns);
        (cold.originator, cold.originator_sure) = (flow.originator, flow.originator_sure);
        (cold.macs, cold.tos, cold.icmp) = (flow.macs, flow.tos, flow.icmp);
        cold.namesakes = flow.namesakes;
        let mut large = Large::default();
        cold.fragments = u32::try_from(flow.fragments).unwrap_or_else(|_| {
            large.fragments = flow.fragments;
            0
        });
        for ((tally, large), counts) in
            (hot.tallies.iter_mut().zip(&mut large.counts)).zip(&flow.counts)
        {
            *tally = Tally::of(counts).unwrap_or_else(|| {
                *large = *counts;
                Tally::NOTHING
            });
            (tally.ttl_min, tally.ttl_max) = (flow.ttl_min, flow.ttl_max);
        }
        let fits = large.fragments == 0 && large.counts == [Counts::default(); 2];
        (!fits).then_some(large)
    }

    /// Leaves nothing of the flow at `within`.
    pub(super) fn forget(&mut self, within: usize) {
        if let Some(hot) = self.hot.get_mut(within) {
            hot.tallies = [Tally::NOTHING; 2];
        }
    }
}

impl Hot {
    /// Whether there is a flow.
    pub(super) fn is_used(&self) -> bool {
        self.tallies.iter().any(Tally::is_used)
    }
}

impl Tally {
    const NOTHING: Self = Self {
        packets: 0,
        ip_bytes: 0,
        l2_bytes: 0,
        captured_bytes: 0,
        truncated: 0,
        missing_bytes: 0,
        max_ip_len: 0,
        tcp_flags: 0,
        ttl_min: u8::MAX,
        ttl_max: 0,
    };

    /// `counts` at half the size, if they fit.
    fn of(counts: &Counts) -> Option<Self> {
        let narrow = |count| u32::try_from(count).ok();
        Some(Self {
            packets: narrow(counts.packets)?,
            ip_bytes: narrow(counts.ip_bytes)?,
            l2_bytes: narrow(counts.l2_bytes)?,
            captured_bytes: narrow(counts.captured_bytes)?,
            truncated: narrow(counts.truncated)?,
            missing_bytes: narrow(counts.missing_bytes)?,
            max_ip_len: counts.max_ip_len,
            tcp_flags: counts.tcp_flags,
            ..Self::NOTHING
        })
    }

    fn counts(&self) -> Counts {
        Counts {
            packets: self.packets.into(),
            ip_bytes: self.ip_bytes.into(),
            l2_bytes: self.l2_bytes.into(),
            captured_bytes: self.captured_bytes.into(),
            truncated: self.truncated.into(),
            missing_bytes: self.missing_bytes.into(),
            max_ip_len: self.max_ip_len,
            tcp_flags: self.tcp_flags,
        }
    }

    /// Whether a packet was counted here at any time.
    const fn is_used(&self) -> bool {
        self.ttl_min <= self.ttl_max
    }

    /// The same without what adds up.
    const fn emptied(self) -> Self {
        let Self {
            max_ip_len,
            tcp_flags,
            ttl_min,
            ttl_max,
            ..
        } = self;
        Self {
            max_ip_len,
            tcp_flags,
            ttl_min,
            ttl_max,
            ..Self::NOTHING
        }
    }
}

impl Cold {
    /// A SYN without ACK went `way`: the first of them names the originator.
    fn opened(&mut self, way: Way) {
        if self.originator_sure {
            return;
        }
        if self.originator != way {
            self.macs = self.macs.map(|(src, dst)| (dst, src));
        }
        (self.originator, self.originator_sure) = (way, true);
    }
}

#[inline]
fn hash_of(hasher: &foldhash::fast::RandomState, key: &FlowKey) -> u32 {
    let hash = hasher.hash_one(key);
    (hash ^ (hash >> 32)) as u32
}

fn hot_at(chunks: &[Chunk], at: u32) -> Option<&Hot> {
    chunks
        .get(at as usize / CHUNK)?
        .hot
        .get(at as usize % CHUNK)
}

/// A flow with no packet counted yet.
fn open(key: &FlowKey, way: Way, packet: &FlowPacket) -> (Hot, Cold) {
    let syn = packet.tcp.map(|tcp| tcp.flags & (SYN | ACK));
    // A SYN-ACK first: the SYN was missed, the other side opened the connection.
    let flipped = syn == Some(SYN | ACK);
    let hot = Hot {
        key: *key,
        first_ns: packet.ts_ns,
        last_ns: packet.ts_ns,
        tallies: [Tally::NOTHING; 2],
    };
    let cold = Cold {
        originator: if flipped { way.reverse() } else { way },
        originator_sure: syn == Some(SYN),
        macs: if flipped {
            packet.macs.map(|(src, dst)| (dst, src))
        } else {
            packet.macs
        },
        tos: packet.tos,
        icmp: packet.icmp,
        namesakes: 0,
        fragments: 0,
        syn: [0; 2],
    };
    (hot, cold)
}

/// A flow as others see it, put together from where its parts are.
fn flow(hot: &Hot, cold: &Cold, large: Option<&Large>) -> Flow {
    let mut counts = hot.tallies.each_ref().map(Tally::counts);
    let mut fragments = u64::from(cold.fragments);
    if let Some(large) = large {
        for (counts, large) in counts.iter_mut().zip(&large.counts) {
            counts.absorb(large);
        }
        fragments += large.fragments;
    }
    let [a_to_b, b_to_a] = &hot.tallies;
    Flow {
        key: hot.key,
        first_ns: hot.first_ns,
        last_ns: hot.last_ns,
        counts,
        originator: cold.originator,
        originator_sure: cold.originator_sure,
        macs: cold.macs,
        tos: cold.tos,
        ttl_min: a_to_b.ttl_min.min(b_to_a.ttl_min),
        ttl_max: a_to_b.ttl_max.max(b_to_a.ttl_max),
        icmp: cold.icmp,
        fragments,
        namesakes: cold.namesakes,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mirror::session::SessionId;
    use crate::wire::inner::Inner;
    use crate::wire::length::FrameLen;

    fn tcp(src: u8, dst: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, 0, 0, 0, dst, 0, 0, 0, 0, 0, src, 0x08, 0];
        frame.extend([
            0x45,
            0,
            0,
            40,
            0,
            0,
            0,
            0,
            60 + src,
            6,
            0,
            0,
            10,
            0,
            0,
            src,
            10,
            0,
            0,
            dst,
        ]);
        frame.extend([
            0, src, 0, dst, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0,
        ]);
        frame
    }

    fn feed(table: &mut FlowTable, ts_ns: u64, frame: &[u8]) -> Option<Flow> {
        feed_any(table, ts_ns, frame).map(|ended| ended.flow)
    }

    fn drain(table: &mut FlowTable) -> Vec<Flow> {
        let empty = FlowTable::new(table.max_flows);
        std::mem::replace(table, empty).end().iter().collect()
    }

    fn feed_any(table: &mut FlowTable, ts_ns: u64, frame: &[u8]) -> Option<Ended> {
        let inner = Inner::read(frame);
        let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
        let lengths = FrameLen {
            captured: 54,
            orig: 60,
        };
        let packet =
            FlowPacket::of(ts_ns, lengths, Verdict::Truncated, inner.ip_len, &inner).unwrap();
        table.update(table.hash(&key), u32::MAX, &key, way, &packet)
    }

    /// The ninth flag is the last bit of the byte before the other eight (RFC 9768 §3.1).
    #[test]
    fn tcp_flags_are_nine_bits() {
        let mut table = FlowTable::new(10);
        let mut syn = tcp(1, 9, 0xc2);
        syn[46] |= 1;
        feed(&mut table, 1, &syn);
        feed(&mut table, 2, &tcp(1, 9, 0x10));
        let flow = drain(&mut table).pop().unwrap();
        assert_eq!(flow.counts(flow.originator).tcp_flags, 0x1d2);
    }

    #[test]
    fn both_directions_count_in_one_flow() {
        let mut table = FlowTable::new(10);
        feed(&mut table, 5, &tcp(9, 1, 0x12));
        feed(&mut table, 9, &tcp(1, 9, 0x02));
        feed(&mut table, 7, &tcp(1, 9, 0x18));
        assert_eq!(table.len(), 1);
        let flow = drain(&mut table).pop().unwrap();
        assert_eq!((flow.first_ns, flow.last_ns), (5, 9));
        let (forth, back) = (
            flow.counts(flow.originator),
            flow.counts(flow.originator.reverse()),
        );
        assert_eq!(
            (forth.packets, forth.tcp_flags, back.packets, back.tcp_flags),
            (2, 0x1a, 1, 0x12)
        );
        assert_eq!(
            (
                forth.ip_bytes,
                forth.l2_bytes,
                forth.captured_bytes,
                forth.truncated
            ),
            (80, 120, 108, 2)
        );
        assert_eq!((flow.ttl_min, flow.ttl_max), (61, 69));
        assert_eq!(
            flow.macs,
            Some(([0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 9])),
            "the originator's"
        );
        assert!(table.is_empty());
    }

    #[test]
    fn the_originator_sent_the_syn() {
        for (first, second) in [(0x10, 0x02), (0x12, 0x10)] {
            let mut table = FlowTable::new(10);
            feed(&mut table, 1, &tcp(9, 1, first));
            feed(&mut table, 2, &tcp(1, 9, second));
            let flow = drain(&mut table).pop().unwrap();
            assert_eq!(
                flow.key.ends(flow.originator)[0].1,
                1,
                "flags {first:#x} then {second:#x}"
            );
        }
        let mut table = FlowTable::new(10);
        feed(&mut table, 1, &tcp(9, 1, 0x02));
        feed(&mut table, 2, &tcp(1, 9, 0x02));
        let flow = drain(&mut table).pop().unwrap();
        assert_eq!(
            flow.key.ends(flow.originator)[0].1,
            9,
            "simultaneous open: the first SYN stays"
        );
    }

    /// Against a model that keeps flows in a plain list.
    #[test]
    fn the_flow_seen_longest_ago_makes_room() {
        let mut table = FlowTable::new(3);
        let mut model: Vec<u8> = Vec::new();
        for (ts, host) in [1u8, 2, 3, 1, 4, 2, 2, 5, 1, 6, 7, 7, 3, 4, 6]
            .into_iter()
            .enumerate()
        {
            let evicted = feed(&mut table, ts as u64, &tcp(host, 99, 0x10));
            let expected = match model.iter().position(|known| *known == host) {
                Some(at) => {
                    model.remove(at);
                    None
                }
                None if model.len() == 3 => Some(model.remove(0)),
                None => None,
            };
            model.push(host);
            let evicted = evicted.map(|flow| flow.key.ends(Way::AToB)[0].1 as u8);
            assert_eq!(evicted, expected, "at {ts}");
            assert_eq!(table.len(), model.len());
        }
        assert_eq!(drain(&mut table).len(), 3);
    }

    /// Before it is full, the table knows which flow that is to the period.
    #[test]
    fn order_is_coarse_until_it_matters() {
        let mut table = FlowTable::new(4);
        let period = |number: u64| number << PERIOD;
        for (host, ts) in [
            (1u8, period(1)),
            (2, period(1) + 1),
            (3, period(1) + 2),
            (1, period(2)),
            (2, period(2) + 1),
            // Still the same period: 1 stays before 2.
            (1, period(2) + 2),
            (4, period(2) + 3),
        ] {
            assert!(feed(&mut table, ts, &tcp(host, 99, 0x10)).is_none());
        }
        let mut evicted = |host: u8, ts| {
            let flow = feed(&mut table, ts, &tcp(host, 99, 0x10));
            flow.map(|flow| flow.key.ends(Way::AToB)[0].1)
        };
        assert_eq!(evicted(5, period(2) + 4), Some(3));
        // Now every packet counts.
        assert_eq!(evicted(1, period(2) + 5), None);
        assert_eq!(evicted(6, period(2) + 6), Some(2));
        assert_eq!(evicted(7, period(2) + 7), Some(4));
    }

    #[test]
    fn many_flows_stay_findable() {
        let mut table = FlowTable::new(2000);
        for round in 0..3u64 {
            for (a, b) in (0..50).flat_map(|a| (100..140).map(move |b| (a, b))) {
                assert!(feed(&mut table, round, &tcp(a, b, 0x10)).is_none());
            }
        }
        assert_eq!(table.len(), 2000);
        let mut flows = drain(&mut table).into_iter();
        assert!(flows.all(|flow| flow.counts(flow.originator).packets == 3));
    }

    /// Sums that outgrow 32 bits go on as if they had 64.
    #[test]
    fn flows_count_beyond_four_gigabytes() {
        let mut table = FlowTable::new(1);
        let frame = tcp(1, 9, 0x18);
        let inner = Inner::read(&frame);
        let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
        let lengths = FrameLen {
            captured: 1,
            orig: u32::MAX,
        };
        let packet = FlowPacket::of(1, lengths, Verdict::Truncated, inner.ip_len, &inner).unwrap();
        for _ in 0..5 {
            table.update(table.hash(&key), u32::MAX, &key, way, &packet);
        }
        let answer = feed(&mut table, 2, &tcp(9, 1, 0x18));
        assert!(answer.is_none());
        let flow = feed(&mut table, 3, &tcp(7, 9, 0x02)).expect("it makes room");
        let (forth, back) = (flow.counts(way), flow.counts(way.reverse()));
        assert_eq!((forth.packets, forth.truncated), (5, 5));
        assert_eq!(forth.l2_bytes, 5 * u64::from(u32::MAX));
        assert_eq!(forth.missing_bytes, 5 * u64::from(u32::MAX - 1));
        assert_eq!((forth.captured_bytes, forth.ip_bytes), (5, 200));
        assert_eq!((forth.max_ip_len, forth.tcp_flags), (40, 0x18));
        assert_eq!((back.packets, back.l2_bytes), (1, 60));
        let flow = drain(&mut table).pop().unwrap();
        assert_eq!(
            flow.counts(flow.originator).l2_bytes,
            60,
            "nothing is left of the other"
        );
    }

    /// A segment, as the model below keeps it.
    #[derive(Clone, Debug)]
    struct Sent {
        ts_ns: u64,
        back: bool,
        flags: u8,
        seq: u32,
    }

    /// Whether `packet` begins another connection behind those of `history`, told from all of them.
    fn another(history: &[Sent], packet: &Sent) -> Option<EndReason> {
        let last = history.iter().map(|sent| sent.ts_ns).max()?;
        if packet.flags & 0x17 != 0x02 || packet.ts_ns < last {
            return None;
        }
        let of = |back| history.iter().filter(move |sent| sent.back == back);
        let first_syn = of(packet.back).find(|sent| sent.flags & 2 != 0);
        if first_syn.is_some_and(|syn| syn.seq == packet.seq) {
            return None;
        }
        let any = |back, flag| of(back).any(|sent| sent.flags & flag != 0);
        let silent = |back| of(back).next().is_none();
        let finished = |back| silent(back) || any(back, 1);
        if any(false, 4) || any(true, 4) || (finished(false) && finished(true)) {
            return Some(EndReason::EndOfFlow);
        }
        let bound = if silent(false) || silent(true) {
            30
        } else {
            300
        };
        (packet.ts_ns - last >= bound * 1_000_000_000).then_some(EndReason::Idle)
    }

    proptest! {
        /// Connections on few ports, in a table with room for all and for one, against a model that
        /// keeps every packet. No SYN has an ACK here: tcp.rs tells what answers belong to.
        #[test]
        fn connections_end_as_their_packets_tell(
            room in prop_oneof![Just(1u32), Just(100)],
            steps in proptest::collection::vec(
                (
                    0u8..4,
                    any::<bool>(),
                    prop_oneof![Just(0x02u8), Just(0x10), Just(0x11), Just(0x04), Just(0x03), Just(0xc2)],
                    0u32..3,
                    prop_oneof![
                        Just(0i64), Just(1), Just(-2), Just(29_999_999_999), Just(30_000_000_000),
                        Just(299_999_999_999), Just(300_000_000_000),
                    ],
                ),
                1..60,
            ),
        ) {
            let mut table = FlowTable::new(room);
            // By the time they were last seen; nothing but the order matters.
            let mut model: Vec<(u8, Vec<Sent>)> = Vec::new();
            let mut now = 1_000_000_000_000i64;
            for (port, back, flags, seq, pause) in steps {
                now += pause;
                let packet = Sent { ts_ns: now as u64, back, flags, seq };
                let (client, server) = (10 + port, 100);
                let (src, dst) = if back { (server, client) } else { (client, server) };
                let mut frame = tcp(src, dst, flags);
                frame[38..42].copy_from_slice(&seq.to_be_bytes());
                let ended = feed_any(&mut table, packet.ts_ns, &frame);
                let known = model.iter().position(|(known, _)| *known == port);
                let mut expected = None;
                let mut history = match known {
                    Some(at) => model.remove(at).1,
                    None if model.len() == room as usize => {
                        let (_, history) = model.remove(0);
                        expected = Some((EndReason::LackOfResources, history));
                        Vec::new()
                    }
                    None => Vec::new(),
                };
                if let Some(reason) = another(&history, &packet) {
                    expected = Some((reason, std::mem::take(&mut history)));
                }
                history.push(packet);
                model.push((port, history));
                let told = ended.map(|ended| (ended.reason, summed(&ended.flow)));
                let expected = expected.map(|(reason, history)| (reason, summed_up(&history)));
                prop_assert_eq!(told, expected);
            }
            let mut left: Vec<_> = drain(&mut table).iter().map(summed).collect();
            let mut expected: Vec<_> = model.iter().map(|(_, history)| summed_up(history)).collect();
            left.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }

    type Summed = (u64, u64, [(u64, u16); 2]);

    /// Times, and packets and flags to port 100 and back.
    fn summed(flow: &Flow) -> Summed {
        let forth = if flow.key.ends(Way::AToB)[1].1 == 100 {
            Way::AToB
        } else {
            Way::BToA
        };
        let counts = [forth, forth.reverse()].map(|way| {
            let counts = flow.counts(way);
            (counts.packets, counts.tcp_flags)
        });
        (flow.first_ns, flow.last_ns, counts)
    }

    fn summed_up(history: &[Sent]) -> Summed {
        let times = || history.iter().map(|sent| sent.ts_ns);
        let counts = [false, true].map(|back| {
            let of = || history.iter().filter(|sent| sent.back == back);
            (
                of().count() as u64,
                of().fold(0, |flags, sent| flags | u16::from(sent.flags)),
            )
        });
        (times().min().unwrap(), times().max().unwrap(), counts)
    }

    /// Where the clock stands still, the records of a port used again still have names of their own.
    #[test]
    fn namesakes_are_numbered() {
        let mut table = FlowTable::new(9);
        let mut syn = tcp(1, 9, 0x02);
        let mut numbers = Vec::new();
        for seq in 0..4 {
            syn[41] = seq;
            let ended = feed(&mut table, 5 + u64::from(seq / 3), &syn);
            numbers.extend(ended.map(|flow| flow.namesakes));
            feed(&mut table, 5 + u64::from(seq / 3), &tcp(9, 1, 0x14));
        }
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(drain(&mut table)[0].namesakes, 0, "it began later");
    }

    /// Fragments beyond 32 bits, in the table and where two parts of a flow are put together.
    #[test]
    fn fragments_count_on() {
        let mut table = FlowTable::new(1);
        let mut fragment = tcp(1, 9, 0x10);
        fragment[20] = 0x20;
        feed(&mut table, 1, &fragment);
        table.chunks[0].cold[0].fragments = u32::MAX;
        feed(&mut table, 2, &fragment);
        feed(&mut table, 3, &fragment);
        let mut flow = drain(&mut table).pop().unwrap();
        let beyond = u64::from(u32::MAX) + 2;
        assert_eq!(flow.fragments, beyond);
        flow.absorb(flow.clone());
        assert_eq!(flow.fragments, 2 * beyond);
    }

    #[test]
    fn a_live_flow_fits_the_memory_figure() {
        let bytes = memory_bytes(std::iter::once(1 << 20)) >> 20;
        assert!(bytes <= 192, "{bytes} bytes a flow");
        // However the flows are shared out, and the end of the run included.
        let shares = memory_bytes(std::iter::repeat_n(1 << 17, 8)) >> 20;
        assert!(shares <= 192, "{shares} bytes a flow");
        assert_eq!(size_of::<Hot>(), 128, "two cache lines");
    }
}
