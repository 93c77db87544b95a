//! Updates of the flow table, put off until there is a group of them.
//!
//! A large table is hardly ever in the cache, and one update after the other would wait for memory several
//! times each. For a group the table reads ahead ([`FlowTable::warm`]) and then updates in order, so the
//! result is the same. A small table is updated at once.

use super::key::{FlowKey, Way};
use super::table::{Flow, FlowPacket, FlowTable, GROUP};

/// Tables of fewer flows are updated at once. Alone on a core even 10,000 flows stay in the cache, and groups
/// cost 5 ns a packet more; beside the kernel's receive path on the same core they do not, and groups cost a
/// fifth less of the process (docs/BENCHMARKS.md).
const LARGE: usize = 1024;

/// A flow table with the updates that wait for it.
pub struct Updates {
    table: FlowTable,
    hashes: [u32; GROUP],
    waiting: Vec<Update>,
}

struct Update {
    key: FlowKey,
    way: Way,
    packet: FlowPacket,
}

impl Updates {
    /// For a table of at most `max_flows` flows (at least one).
    pub fn new(max_flows: u32) -> Self {
        Self {
            table: FlowTable::new(max_flows),
            hashes: [0; GROUP],
            waiting: Vec::with_capacity(GROUP),
        }
    }

    /// Counts a packet of the flow `key` that goes `way`, now or with those that follow. `evicted` is
    /// given the flows that had to make room.
    #[inline]
    pub fn add(
        &mut self,
        key: &FlowKey,
        way: Way,
        packet: &FlowPacket,
        mut evicted: impl FnMut(Flow),
    ) {
        let hash = self.table.hash(key);
        if self.table.len() < LARGE {
            if let Some(flow) = self.table.update(hash, key, way, packet) {
                evicted(flow);
            }
            return;
        }
        if let Some(slot) = self.hashes.get_mut(self.waiting.len()) {
            *slot = hash;
        }
        self.waiting.push(Update {
            key: *key,
            way,
            packet: *packet,
        });
        if self.waiting.len() == GROUP {
            self.table.warm(&self.hashes, packet.ts_ns);
            self.settle(evicted);
        }
    }

    /// Counts the packets that wait.
    pub fn settle(&mut self, mut evicted: impl FnMut(Flow)) {
        let Self {
            table,
            hashes,
            waiting,
        } = self;
        for (update, hash) in waiting.drain(..).zip(hashes) {
            let Update { key, way, packet } = &update;
            if let Some(flow) = table.update(*hash, key, *way, packet) {
                evicted(flow);
            }
        }
    }

    /// Counts the packets that wait and empties the table.
    pub fn drain(&mut self, evicted: impl FnMut(Flow)) -> Vec<Flow> {
        self.settle(evicted);
        self.table.drain()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::session::SessionId;
    use crate::wire::inner::Inner;
    use crate::wire::length::{FrameLen, Verdict};

    /// In groups or one by one, in a table that is large and in one that is full: the same flows come out,
    /// with the same counts.
    #[test]
    fn groups_come_to_the_same() {
        let max_flows = LARGE as u32 + 1000;
        let mut updates = Updates::new(max_flows);
        let mut table = FlowTable::new(max_flows);
        let (mut evicted, mut expected) = (Vec::new(), Vec::new());
        let mut frame = vec![2; 54];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
        // Runs of one flow, flows that come back, and more flows than there is room for.
        for at in 0..60_000u32 {
            let flow = if at % 3 == 0 { at / 7 } else { at };
            frame[26..30].copy_from_slice(&flow.to_be_bytes());
            let inner = Inner::read(&frame);
            let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
            let lengths = FrameLen {
                captured: 54,
                orig: 54 + at,
            };
            let packet = FlowPacket::of(at.into(), lengths, Verdict::Truncated, &inner).unwrap();
            updates.add(&key, way, &packet, |flow| evicted.push(flow));
            expected.extend(table.update(table.hash(&key), &key, way, &packet));
            if at % 1009 == 0 {
                updates.settle(|flow| evicted.push(flow));
            }
        }
        let left = updates.drain(|flow| evicted.push(flow));
        assert!(expected.len() > 10_000);
        assert_eq!(format!("{evicted:?}"), format!("{expected:?}"));
        assert_eq!(format!("{left:?}"), format!("{:?}", table.drain()));
    }
}
