//! What the table keeps of a flow, in parts that are touched more or less often, and the flow put together from them.

use super::marks::Marks;
use super::tally::Tally;
use crate::flow::counts::{Counts, Flow, FlowPacket};
use crate::flow::first::First;
use crate::flow::key::{FlowKey, Ports, Way};
use crate::flow::tcp::Connection;
use crate::wire::inner::Mac;
use crate::wire::numbers::tcp_flag::{ACK, SYN};

/// Smallest and largest time to live of no packet.
const NO_TTL: (u8, u8) = (u8::MAX, 0);

/// What every packet of a flow touches: one cache line to tell the flow, one to count in.
#[repr(C, align(64))]
pub(in crate::flow) struct Hot {
    pub(in crate::flow) key: FlowKey,
    /// First packet of the record.
    pub(in crate::flow) first_ns: u64,
    pub(super) last_ns: u64,
    pub(super) tallies: [Tally; 2],
    pub(super) fragments: u16,
    pub(super) duplicates: u16,
    pub(super) ttl_min: u8,
    pub(super) ttl_max: u8,
    /// Of the first packet.
    pub(super) tos: u8,
    pub(super) namesakes: u8,
}

/// What packets after the first hardly ever touch.
pub(super) struct Cold {
    /// First packet of the flow.
    pub(super) begun_ns: u64,
    /// Hardware addresses of the originator's first packet, if [`Marks`] say so: source, destination.
    pub(super) macs: [Mac; 2],
    /// Records before this one.
    pub(super) records: u16,
    pub(super) marks: Marks,
}

/// What every segment of a connection touches beside [`Hot`].
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) Connection);

/// What a flow counted beyond the width of its own tallies.
#[derive(Default)]
pub(super) struct Large {
    pub(super) counts: [Counts; 2],
    pub(super) fragments: u64,
    pub(super) duplicates: u64,
}

impl Hot {
    /// Whether there is a flow.
    pub(in crate::flow) fn is_used(&self) -> bool {
        self.tallies.iter().any(Tally::is_used)
    }

    /// Leaves nothing of what was counted.
    pub(super) fn empty(&mut self) {
        self.tallies = [Tally::NOTHING; 2];
        (self.fragments, self.duplicates) = (0, 0);
        (self.ttl_min, self.ttl_max) = NO_TTL;
    }
}

impl Cold {
    /// A SYN without ACK went `way`: the first of them names the originator.
    pub(super) fn opened(&mut self, way: Way) {
        if self.marks.is_originator_sure() {
            return;
        }
        if self.marks.originator() != way {
            self.macs.reverse();
        }
        self.marks.set_originator(way, true);
    }

    fn macs(&self) -> Option<(Mac, Mac)> {
        let [src, dst] = self.macs;
        self.marks.has_macs().then_some((src, dst))
    }

    fn set_macs(&mut self, macs: Option<(Mac, Mac)>) {
        self.marks.set_has_macs(macs.is_some());
        let (src, dst) = macs.unwrap_or_default();
        self.macs = [src, dst];
    }

    /// ICMP type and code of the first packet of the flow `key`. The key has the type, as the originator's port.
    fn icmp(&self, key: &FlowKey) -> Option<(u8, u8)> {
        let is_icmp = matches!(key.ports(), Ports::IcmpPair | Ports::IcmpOneWay);
        let [(_, kind), _] = key.ends(self.marks.originator());
        is_icmp.then_some((kind as u8, self.marks.code()))
    }
}

/// A flow with no packet counted yet.
pub(super) fn open(key: &FlowKey, way: Way, packet: &FlowPacket) -> (Hot, Cold) {
    let syn = packet.tcp.map(|tcp| tcp.flags & (SYN | ACK));
    // A SYN-ACK first: the SYN was missed, the other side opened the connection.
    let flipped = syn == Some(SYN | ACK);
    let hot = Hot {
        key: *key,
        first_ns: packet.ts_ns,
        last_ns: packet.ts_ns,
        tallies: [Tally::NOTHING; 2],
        fragments: 0,
        duplicates: 0,
        ttl_min: NO_TTL.0,
        ttl_max: NO_TTL.1,
        tos: packet.tos,
        namesakes: 0,
    };
    let mut cold = Cold {
        begun_ns: packet.ts_ns,
        macs: Default::default(),
        records: 0,
        marks: Marks::default(),
    };
    cold.set_macs(packet.macs);
    if flipped {
        cold.macs.reverse();
    }
    let originator = if flipped { way.reverse() } else { way };
    (cold.marks).set_originator(originator, syn == Some(SYN));
    if let Some((_, code)) = packet.icmp {
        cold.marks.set_code(code);
    }
    (hot, cold)
}

/// A flow as others see it, put together from where its parts are; without what it is about, where it lies
/// and what its segments tell.
pub(super) fn read(hot: &Hot, cold: &Cold, large: Option<&Large>) -> Flow {
    let mut counts = hot.tallies.each_ref().map(Tally::counts);
    let mut fragments = u64::from(hot.fragments);
    let mut duplicates = u64::from(hot.duplicates);
    if let Some(large) = large {
        for (counts, large) in counts.iter_mut().zip(&large.counts) {
            counts.absorb(large);
        }
        fragments += large.fragments;
        duplicates += large.duplicates;
    }
    Flow {
        key: hot.key,
        first_ns: hot.first_ns,
        last_ns: hot.last_ns,
        counts,
        originator: cold.marks.originator(),
        originator_sure: cold.marks.is_originator_sure(),
        macs: cold.macs(),
        tos: hot.tos,
        ttl_min: hot.ttl_min,
        ttl_max: hot.ttl_max,
        icmp: cold.icmp(&hot.key),
        fragments,
        duplicates,
        namesakes: hot.namesakes,
        begun_ns: cold.begun_ns.min(hot.first_ns),
        records: cold.records,
        app: None,
        first: First::NOWHERE,
        tcp: None,
    }
}

/// Writes `flow` over the parts of a flow of its key; returns what does not fit.
pub(super) fn write(hot: &mut Hot, cold: &mut Cold, flow: &Flow) -> Option<Large> {
    (hot.first_ns, hot.last_ns) = (flow.first_ns, flow.last_ns);
    (hot.tos, hot.namesakes) = (flow.tos, flow.namesakes);
    (hot.ttl_min, hot.ttl_max) = (flow.ttl_min, flow.ttl_max);
    (cold.begun_ns, cold.records) = (flow.begun_ns, flow.records);
    (cold.marks).set_originator(flow.originator, flow.originator_sure);
    cold.set_macs(flow.macs);
    if let Some((_, code)) = flow.icmp {
        cold.marks.set_code(code);
    }
    let mut large = Large::default();
    hot.fragments = narrow(flow.fragments, &mut large.fragments);
    hot.duplicates = narrow(flow.duplicates, &mut large.duplicates);
    for ((tally, large), counts) in
        (hot.tallies.iter_mut().zip(&mut large.counts)).zip(&flow.counts)
    {
        *tally = Tally::of(counts).unwrap_or_else(|| {
            *large = *counts;
            // One packet stays, to tell that there were some.
            let packets = large.packets.min(1);
            large.packets -= packets;
            Tally {
                packets: packets as u32,
                ..Tally::NOTHING
            }
        });
    }
    let fits =
        (large.fragments, large.duplicates) == (0, 0) && large.counts == [Counts::default(); 2];
    (!fits).then_some(large)
}

/// `count`, if it is narrow enough; else it is left in `large`.
fn narrow(count: u64, large: &mut u64) -> u16 {
    u16::try_from(count).unwrap_or_else(|_| {
        *large = count;
        0
    })
}
