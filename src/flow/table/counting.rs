//! A packet as it counts in its flow.

use super::places::Places;
use crate::flow::counts::{Copies, FlowPacket};
use crate::flow::key::Way;
use crate::flow::tcp::Segment;
use crate::flow::tcp::holes::Pool;
use crate::wire::length::Verdict;
use crate::wire::numbers::tcp_flag::{ACK, FIN, RST, SYN};

/// What a packet changed beside what it counts.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    /// It is earlier than all others of the record.
    pub(super) is_earlier: bool,
    /// With it the end of the flow may be nearer.
    pub(super) closes: bool,
}

impl Places {
    /// Counts a packet in the flow at `at`.
    pub(super) fn count(
        &mut self,
        at: u32,
        way: Way,
        packet: &FlowPacket,
        holes: &mut Pool,
    ) -> Counted {
        let FlowPacket {
            ts_ns,
            lengths,
            verdict,
            ip_len,
            is_fragment,
            ..
        } = *packet;
        let Some(mut slot) = self.slot(at) else {
            return Counted::default();
        };
        let hot = &mut *slot.hot;
        let is_earlier = ts_ns < hot.first_ns;
        hot.first_ns = hot.first_ns.min(ts_ns);
        hot.last_ns = hot.last_ns.max(ts_ns);
        let tcp_flags = packet.tcp.map_or(0, |tcp| tcp.flags);
        let [a_to_b, b_to_a] = &mut hot.tallies;
        let tally = if way == Way::AToB { a_to_b } else { b_to_a };
        let closes = tcp_flags & !tally.tcp_flags & (FIN | RST) != 0;
        if tcp_flags & (SYN | ACK) == SYN {
            slot.cold.opened(way);
        }
        if is_fragment {
            if hot.fragments == u16::MAX {
                let large = slot.large.entry(at).or_default();
                large.fragments += u64::from(std::mem::take(&mut hot.fragments));
            }
            hot.fragments += 1;
        }
        // No other sum grows faster than these two. The length of a super-frame may be too much.
        let short_len = u16::try_from(ip_len);
        let fits = tally.ip_bytes.checked_add(ip_len).is_some()
            && tally.l2_bytes.checked_add(lengths.orig).is_some()
            && short_len.is_ok();
        if !fits {
            let [a_to_b, b_to_a] = &mut slot.large.entry(at).or_default().counts;
            let large = if way == Way::AToB { a_to_b } else { b_to_a };
            large.absorb(&tally.counts());
            large.max_ip_len = large.max_ip_len.max(ip_len);
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
        tally.max_ip_len = tally.max_ip_len.max(short_len.unwrap_or_default());
        tally.tcp_flags |= tcp_flags;
        hot.ttl_min = hot.ttl_min.min(packet.ttl);
        hot.ttl_max = hot.ttl_max.max(packet.ttl);
        if let Some(head) = &packet.tcp
            && packet.copies != Copies::Here
        {
            let segment = Segment {
                way,
                head,
                payload: packet.payload,
                ts_ns,
            };
            if let Some(connection) = slot.connection_mut()
                && !connection.take_usual(&segment)
            {
                connection.take(&segment, holes, at);
            }
        }
        if packet.copies != Copies::None {
            self.count_duplicate(at);
        }
        Counted { is_earlier, closes }
    }

    /// Counts a packet of the flow at `at` that has a copy, or is one.
    #[cold]
    pub(super) fn count_duplicate(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else {
            return;
        };
        let duplicates = &mut slot.hot.duplicates;
        if *duplicates == u16::MAX {
            let large = slot.large.entry(at).or_default();
            large.duplicates += u64::from(std::mem::take(duplicates));
        }
        *duplicates += 1;
    }
}
