//! The flow table of one worker: bounded, the flow seen longest ago makes room for a new one.
//!
//! Flows live in chunks that never move, so growing copies nothing; a list through them keeps the
//! order in which they were last seen.

use hashbrown::HashTable;

use super::key::{FlowKey, Way};
use crate::wire::inner::{Inner, Mac, Transport};
use crate::wire::length::{FrameLen, Verdict};

/// Counts of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packet by its own declaration; what is present where it declares none.
    pub ip_bytes: u64,
    /// Bytes of frame at the mirror source.
    pub l2_bytes: u64,
    /// Bytes of frame present.
    pub captured_bytes: u64,
    /// Packets that were cut, by the mirror or by our buffer.
    pub truncated: u64,
    /// Bytes cut off them.
    pub missing_bytes: u64,
    /// Largest IP packet, in bytes.
    pub max_ip_len: u32,
    /// Every TCP flag seen.
    pub tcp_flags: u8,
}

/// A flow while it lives.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its name.
    pub key: FlowKey,
    /// Time of the earliest packet, nanoseconds since 1970.
    pub first_ns: u64,
    /// Time of the latest packet, nanoseconds since 1970.
    pub last_ns: u64,
    /// From the first end of the key to the second, and back.
    pub counts: [Counts; 2],
    /// The way the originator's packets go.
    pub originator: Way,
    /// A SYN without ACK named the originator: it stays.
    originator_sure: bool,
    /// Hardware addresses of the originator's first packet: source, destination.
    pub macs: Option<(Mac, Mac)>,
    /// VLAN identifier of the first packet.
    pub vlan: Option<u16>,
    /// Type of service of the first packet.
    pub tos: u8,
    /// Smallest time to live.
    pub ttl_min: u8,
    /// Largest time to live.
    pub ttl_max: u8,
    /// ICMP type and code of the first packet.
    pub icmp: Option<(u8, u8)>,
    /// Packets that were fragments.
    pub fragments: u32,
}

impl Flow {
    /// Counts of packets that go `way`.
    pub const fn counts(&self, way: Way) -> &Counts {
        let [a_to_b, b_to_a] = &self.counts;
        match way {
            Way::AToB => a_to_b,
            Way::BToA => b_to_a,
        }
    }
}

impl Counts {
    fn absorb(&mut self, other: &Self) {
        self.packets += other.packets;
        self.ip_bytes += other.ip_bytes;
        self.l2_bytes += other.l2_bytes;
        self.captured_bytes += other.captured_bytes;
        self.truncated += other.truncated;
        self.missing_bytes += other.missing_bytes;
        self.max_ip_len = self.max_ip_len.max(other.max_ip_len);
        self.tcp_flags |= other.tcp_flags;
    }
}

impl Flow {
    /// Adds what another worker saw of the same flow. What only a first packet tells is that of the
    /// earlier one.
    pub fn absorb(&mut self, mut other: Self) {
        let earlier =
            (other.first_ns, other.originator_sure) < (self.first_ns, self.originator_sure);
        if earlier {
            std::mem::swap(self, &mut other);
        }
        for (counts, others) in self.counts.iter_mut().zip(&other.counts) {
            counts.absorb(others);
        }
        if other.originator_sure && !self.originator_sure {
            if self.originator != other.originator {
                self.macs = self.macs.map(|(src, dst)| (dst, src));
            }
            (self.originator, self.originator_sure) = (other.originator, true);
        }
        self.last_ns = self.last_ns.max(other.last_ns);
        self.ttl_min = self.ttl_min.min(other.ttl_min);
        self.ttl_max = self.ttl_max.max(other.ttl_max);
        self.fragments += other.fragments;
    }
}

/// A packet as the table sees it.
#[derive(Clone, Copy, Debug)]
pub struct FlowPacket<'a> {
    /// Arrival, nanoseconds since 1970.
    pub ts_ns: u64,
    /// Its two lengths.
    pub lengths: FrameLen,
    /// What is known of them.
    pub verdict: Verdict,
    /// Its headers.
    pub inner: &'a Inner,
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const CHUNK: usize = 1024;
/// Ends a list.
const NONE: u32 = u32::MAX;

/// Neighbours of a flow in the order last seen. They stand apart from the flows: moving one to the end
/// writes to two others, and these are eight to a cache line.
#[derive(Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
}

/// The flows of one worker.
pub struct FlowTable {
    index: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    chunks: Vec<Vec<Flow>>,
    links: Vec<Link>,
    len: u32,
    max_flows: u32,
    oldest: u32,
    newest: u32,
}

/// Bytes a table of `max_flows` may take, for the memory line printed at start.
pub const fn memory_bytes(max_flows: u32) -> u64 {
    // A flow, its link, its index entry at the table's load factor, and the control byte beside it.
    (max_flows as u64) * (size_of::<Flow>() as u64 + size_of::<Link>() as u64 + 10)
}

impl FlowTable {
    /// A table for at most `max_flows` flows (at least one).
    pub fn new(max_flows: u32) -> Self {
        Self {
            index: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
            chunks: Vec::new(),
            links: Vec::new(),
            len: 0,
            max_flows: max_flows.clamp(1, NONE - 1),
            oldest: NONE,
            newest: NONE,
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

    /// Counts a packet. Returns the flow that had to make room for it, if one had to.
    pub fn update(&mut self, key: &FlowKey, way: Way, packet: &FlowPacket<'_>) -> Option<Flow> {
        let hash = std::hash::BuildHasher::hash_one(&self.hasher, key);
        let Self { index, chunks, .. } = self;
        let found = index
            .find(hash, |at| {
                flow_at(chunks, *at).is_some_and(|flow| flow.key == *key)
            })
            .copied();
        if let Some(at) = found {
            self.touch(at);
            if let Some(flow) = flow_at_mut(&mut self.chunks, at) {
                count(flow, way, packet);
            }
            return None;
        }
        let mut flow = open(key, way, packet);
        count(&mut flow, way, packet);
        let (at, evicted) = if self.len < self.max_flows {
            let at = self.len;
            self.len += 1;
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            if let Some(chunk) = self.chunks.last_mut() {
                chunk.push(flow);
            }
            self.links.push(Link {
                older: NONE,
                newer: NONE,
            });
            (at, None)
        } else {
            let at = self.oldest;
            self.unlink(at);
            let slot = flow_at_mut(&mut self.chunks, at)?;
            let evicted = std::mem::replace(slot, flow);
            let old_hash = std::hash::BuildHasher::hash_one(&self.hasher, evicted.key);
            if let Ok(entry) = self.index.find_entry(old_hash, |other| *other == at) {
                entry.remove();
            }
            (at, Some(evicted))
        };
        self.link_newest(at);
        let Self {
            index,
            chunks,
            hasher,
            ..
        } = self;
        index.insert_unique(hash, at, |at| {
            flow_at(chunks, *at)
                .map_or(0, |flow| std::hash::BuildHasher::hash_one(hasher, flow.key))
        });
        evicted
    }

    /// Empties the table; flows come out in the order of their first packets.
    pub fn drain(&mut self) -> Vec<Flow> {
        let mut flows: Vec<Flow> = std::mem::take(&mut self.chunks)
            .into_iter()
            .flatten()
            .collect();
        flows.sort_by_key(|flow| flow.first_ns);
        self.index.clear();
        self.links.clear();
        (self.len, self.oldest, self.newest) = (0, NONE, NONE);
        flows
    }

    fn touch(&mut self, at: u32) {
        if at != self.newest {
            self.unlink(at);
            self.link_newest(at);
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(Link { older, newer }) = self.links.get(at as usize).copied() else {
            return;
        };
        match self.links.get_mut(older as usize) {
            Some(link) => link.newer = newer,
            None => self.oldest = newer,
        }
        match self.links.get_mut(newer as usize) {
            Some(link) => link.older = older,
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let older = self.newest;
        if let Some(link) = self.links.get_mut(at as usize) {
            *link = Link { older, newer: NONE };
        }
        match self.links.get_mut(older as usize) {
            Some(link) => link.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }
}

fn flow_at(chunks: &[Vec<Flow>], at: u32) -> Option<&Flow> {
    chunks.get(at as usize / CHUNK)?.get(at as usize % CHUNK)
}

fn flow_at_mut(chunks: &mut [Vec<Flow>], at: u32) -> Option<&mut Flow> {
    chunks
        .get_mut(at as usize / CHUNK)?
        .get_mut(at as usize % CHUNK)
}

fn tcp_flags(packet: &FlowPacket<'_>) -> Option<u8> {
    match packet.inner.ip?.transport {
        Transport::Ports { tcp_flags, .. } => tcp_flags,
        _ => None,
    }
}

/// A flow with no packet counted yet.
fn open(key: &FlowKey, way: Way, packet: &FlowPacket<'_>) -> Flow {
    let inner = packet.inner;
    let syn = tcp_flags(packet).map(|flags| flags & (SYN | ACK));
    // A SYN-ACK first: the SYN was missed, the other side opened the connection.
    let flipped = syn == Some(SYN | ACK);
    let macs = inner.src_mac.zip(inner.dst_mac);
    Flow {
        key: *key,
        first_ns: packet.ts_ns,
        last_ns: packet.ts_ns,
        counts: [Counts::default(); 2],
        originator: if flipped { way.reverse() } else { way },
        originator_sure: syn == Some(SYN),
        macs: if flipped {
            macs.map(|(src, dst)| (dst, src))
        } else {
            macs
        },
        vlan: inner.vlan,
        tos: inner.ip.map_or(0, |ip| ip.header.tos),
        ttl_min: u8::MAX,
        ttl_max: 0,
        icmp: inner.ip.and_then(|ip| match ip.transport {
            Transport::Icmp { kind, code } => Some((kind, code)),
            _ => None,
        }),
        fragments: 0,
    }
}

fn count(flow: &mut Flow, way: Way, packet: &FlowPacket<'_>) {
    let FlowPacket {
        ts_ns,
        lengths,
        verdict,
        inner,
    } = *packet;
    flow.first_ns = flow.first_ns.min(ts_ns);
    flow.last_ns = flow.last_ns.max(ts_ns);
    let Some(ip) = inner.ip else {
        return;
    };
    flow.ttl_min = flow.ttl_min.min(ip.header.ttl);
    flow.ttl_max = flow.ttl_max.max(ip.header.ttl);
    flow.fragments += u32::from(ip.header.fragment.is_some());
    let flags = tcp_flags(packet).unwrap_or_default();
    if flags & (SYN | ACK) == SYN && !flow.originator_sure {
        if flow.originator != way {
            flow.macs = flow.macs.map(|(src, dst)| (dst, src));
        }
        flow.originator = way;
        flow.originator_sure = true;
    }
    let ip_len = match ip.header.declared_len {
        0 => lengths.captured.saturating_sub(ip.offset),
        len => len,
    };
    let [a_to_b, b_to_a] = &mut flow.counts;
    let counts = if way == Way::AToB { a_to_b } else { b_to_a };
    counts.packets += 1;
    counts.ip_bytes += u64::from(ip_len);
    counts.l2_bytes += u64::from(lengths.orig);
    counts.captured_bytes += u64::from(lengths.captured);
    if matches!(verdict, Verdict::Truncated | Verdict::BufferTruncated) {
        counts.truncated += 1;
        counts.missing_bytes += u64::from(lengths.missing());
    }
    counts.max_ip_len = counts.max_ip_len.max(ip_len);
    counts.tcp_flags |= flags;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::session::SessionId;

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
        let inner = Inner::read(frame);
        let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
        let lengths = FrameLen {
            captured: 54,
            orig: 60,
        };
        table.update(
            &key,
            way,
            &FlowPacket {
                ts_ns,
                lengths,
                verdict: Verdict::Truncated,
                inner: &inner,
            },
        )
    }

    #[test]
    fn both_directions_count_in_one_flow() {
        let mut table = FlowTable::new(10);
        feed(&mut table, 5, &tcp(9, 1, 0x12));
        feed(&mut table, 9, &tcp(1, 9, 0x02));
        feed(&mut table, 7, &tcp(1, 9, 0x18));
        assert_eq!(table.len(), 1);
        let flow = table.drain().pop().unwrap();
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
            let flow = table.drain().pop().unwrap();
            assert_eq!(
                flow.key.ends(flow.originator)[0].1,
                1,
                "flags {first:#x} then {second:#x}"
            );
        }
        let mut table = FlowTable::new(10);
        feed(&mut table, 1, &tcp(9, 1, 0x02));
        feed(&mut table, 2, &tcp(1, 9, 0x02));
        let flow = table.drain().pop().unwrap();
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
        assert_eq!(table.drain().len(), 3);
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
        assert!(
            table
                .drain()
                .iter()
                .all(|flow| flow.counts(flow.originator).packets == 3)
        );
    }

    #[test]
    fn a_live_flow_fits_the_memory_figure() {
        assert!(memory_bytes(1) <= 256, "{} bytes a flow", memory_bytes(1));
    }
}
