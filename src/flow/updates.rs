//! Updates of the flow table, put off until what they touch is in the cache.
//!
//! A large table is hardly ever in the cache, and one update after the other would wait for memory several
//! times each. So updates go through two groups: while one fills, the processor fetches what the other will
//! touch. They are done in the order they came in, so the result is the same. A small table is updated at once.
//! The few packets that may open a conversation leave a copy of their payload with the group.

use super::app::{Guess, MOST_READ, Opening};
use super::counts::FlowPacket;
use super::ended::Ended;
use super::first::First;
use super::key::{FlowKey, Way};
use super::lifetime::Lifetimes;
use super::remaining::Remaining;
use super::table::FlowTable;

/// Tables of fewer flows are updated at once: they stay in the cache, even beside the kernel's receive path on
/// the same core.
const LARGE: usize = 1024;
/// Updates of a group: enough time for memory to answer, few enough to stay in the first-level cache.
const GROUP: usize = 16;

/// Bytes of the updates that wait, with their payloads.
pub const MEMORY_BYTES: usize = 2 * GROUP * (size_of::<Update>() + MOST_READ);

/// What a packet changes beside what it counts.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// It ends a flow.
    Ended(&'a Ended),
    /// It is the first of a flow, as far as it is known now, and a record of the capture.
    Begun {
        /// Place of the flow in the table.
        flow: u32,
        /// Number of the record.
        record: u64,
    },
}

/// A flow table with the updates that wait for it.
pub struct Updates {
    table: FlowTable,
    /// Where the flow may be has been asked for.
    filling: Group,
    /// What is there has been asked for.
    next: Group,
}

/// Updates that are done together.
struct Group {
    updates: Vec<Update>,
    /// Payloads of those that may open a conversation.
    payloads: Vec<u8>,
}

struct Update {
    order: u64,
    hash: u32,
    foreseen: u32,
    key: FlowKey,
    way: Way,
    packet: FlowPacket,
    /// What the packet may open.
    opening: Option<Kept>,
}

/// An [`Opening`] whose payload is among those of the group.
struct Kept {
    guess: Guess,
    from: usize,
    to: usize,
    missing: u32,
    seq: u32,
}

impl Updates {
    /// For a table of at most `max_flows` flows (at least one).
    pub fn new(max_flows: u32, lifetimes: Lifetimes) -> Self {
        Self {
            table: FlowTable::new(max_flows, lifetimes),
            filling: Group::with_room(),
            next: Group::with_room(),
        }
    }

    /// Flows that live.
    pub const fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none lives.
    pub const fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Keeps from now on, with no flow in it yet, where first packets lie.
    pub const fn keep_firsts(&mut self) {
        self.table.keep_firsts();
    }

    /// See [`FlowTable::found`].
    pub fn found(&mut self, flow: u32, record: u64, first: First) {
        self.table.found(flow, record, first);
    }

    /// Counts a packet of the flow `key` that goes `way`, now or with those that follow. `order` is its
    /// place among all packets; with it `changed` is given what the packet changes. `opening` is there where the packet
    /// may open a conversation.
    #[inline]
    pub fn add(
        &mut self,
        key: &FlowKey,
        way: Way,
        packet: &FlowPacket,
        opening: Option<Opening<'_>>,
        order: u64,
        mut changed: impl FnMut(u64, Change<'_>),
    ) {
        let hash = self.table.hash(key);
        if self.table.len() < LARGE {
            let ended = self.table.update(hash, u32::MAX, key, way, packet);
            tell(&mut self.table, order, ended, packet, &mut changed);
            if let Some(opening) = opening {
                self.table.look_inside(hash, key, way, &opening);
            }
            return;
        }
        self.table.prefetch(hash);
        let opening = opening.map(|opening| self.filling.keep(&opening));
        self.filling.updates.push(Update {
            order,
            hash,
            foreseen: u32::MAX,
            key: *key,
            way,
            packet: *packet,
            opening,
        });
        if self.filling.updates.len() == GROUP {
            self.turn(changed);
        }
    }

    /// Does the next group and asks for what the other will touch.
    fn turn(&mut self, changed: impl FnMut(u64, Change<'_>)) {
        let Self {
            table,
            filling,
            next,
        } = self;
        for update in &next.updates {
            table.prefetch_rest(update.foreseen, update.packet.ts_ns);
        }
        for update in &mut filling.updates {
            update.foreseen = table.foresee(update.hash);
            if update.opening.is_some() {
                table.prefetch_early(update.foreseen);
            }
        }
        apply(table, next, changed);
        std::mem::swap(filling, next);
    }

    /// Counts the packets that wait.
    pub fn settle(&mut self, mut changed: impl FnMut(u64, Change<'_>)) {
        apply(&mut self.table, &mut self.next, &mut changed);
        apply(&mut self.table, &mut self.filling, changed);
    }

    /// Ends flows that are over in `step`, at most `most` of them, after the packets that wait were counted; see
    /// [`FlowTable::expire`]. `changed` is given what changed, and the place of the packet that changed it, if one did.
    pub fn expire(
        &mut self,
        step: u64,
        most: usize,
        mut changed: impl FnMut(Option<u64>, Change<'_>),
    ) -> bool {
        self.settle(|order, change| changed(Some(order), change));
        self.table
            .expire(step, most, |ended| changed(None, Change::Ended(&ended)))
    }

    /// See [`FlowTable::begin_interval`]. Packets that wait belong to the one before: they are counted first.
    pub fn begin_interval(&mut self, began_ns: u64, changed: impl FnMut(u64, Change<'_>)) {
        self.settle(changed);
        self.table.begin_interval(began_ns);
    }

    /// See [`FlowTable::end_records`]. `changed` is given what changed, and the place of the packet that changed it, if
    /// one did.
    pub fn end_records(
        &mut self,
        from: u32,
        most: (usize, usize),
        mut changed: impl FnMut(Option<u64>, Change<'_>),
    ) -> Option<u32> {
        self.settle(|order, change| changed(Some(order), change));
        self.table
            .end_records(from, most, |ended| changed(None, Change::Ended(&ended)))
    }

    /// Packets whose names found no room since this was last asked.
    pub fn take_names_left_out(&mut self) -> u64 {
        self.table.take_names_left_out()
    }

    /// Leaves the flows. Packets that wait are not counted: [`Self::settle`] comes first.
    pub fn end(self) -> Remaining {
        self.table.end()
    }
}

/// Does the updates in order, and empties them.
fn apply(table: &mut FlowTable, group: &mut Group, mut changed: impl FnMut(u64, Change<'_>)) {
    for update in &group.updates {
        let Update {
            order,
            hash,
            foreseen,
            key,
            way,
            packet,
            opening,
        } = update;
        let ended = table.update(*hash, *foreseen, key, *way, packet);
        tell(table, *order, ended, packet, &mut changed);
        if let Some(kept) = opening {
            table.look_inside(*hash, key, *way, &group.opening(kept));
        }
    }
    group.updates.clear();
    group.payloads.clear();
}

impl Group {
    fn with_room() -> Self {
        Self {
            updates: Vec::with_capacity(GROUP),
            payloads: Vec::new(),
        }
    }

    /// Keeps a copy of the payload until its update is done.
    #[cold]
    fn keep(&mut self, opening: &Opening<'_>) -> Kept {
        let Opening {
            guess,
            payload,
            missing,
            seq,
        } = *opening;
        let from = self.payloads.len();
        self.payloads.extend_from_slice(payload);
        Kept {
            guess,
            from,
            to: self.payloads.len(),
            missing,
            seq,
        }
    }

    fn opening(&self, kept: &Kept) -> Opening<'_> {
        let payload = self.payloads.get(kept.from..kept.to);
        Opening {
            guess: kept.guess,
            payload: payload.unwrap_or_default(),
            missing: kept.missing,
            seq: kept.seq,
        }
    }
}

/// Tells what the last update changed.
#[inline]
fn tell(
    table: &mut FlowTable,
    order: u64,
    ended: Option<Ended>,
    packet: &FlowPacket,
    changed: &mut impl FnMut(u64, Change<'_>),
) {
    if let Some(ended) = &ended {
        changed(order, Change::Ended(ended));
    }
    if let Some(flow) = table.take_begun()
        && let Some(record) = packet.first.as_record()
    {
        changed(order, Change::Begun { flow, record });
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
        let mut updates = Updates::new(max_flows, Lifetimes::default());
        let mut table = FlowTable::new(max_flows, Lifetimes::default());
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
            let packet =
                FlowPacket::of(at.into(), lengths, Verdict::Truncated, inner.ip_len, &inner)
                    .unwrap();
            let payload = format!("GET / HTTP/1.1\r\nHost: h{at}\r\n\r\n");
            let opening = (at % 5 == 0).then_some(Opening {
                guess: Guess::Stream,
                payload: payload.as_bytes(),
                missing: 0,
                seq: 0,
            });
            updates.add(&key, way, &packet, opening, at.into(), |order, change| {
                evicted.push((order, format!("{change:?}")))
            });
            let ended = table.update(table.hash(&key), u32::MAX, &key, way, &packet);
            expected
                .extend(ended.map(|ended| (u64::from(at), format!("{:?}", Change::Ended(&ended)))));
            if let Some(opening) = opening {
                table.look_inside(table.hash(&key), &key, way, &opening);
            }
            if at % 1009 == 0 {
                updates.settle(|order, change| evicted.push((order, format!("{change:?}"))));
            }
        }
        updates.settle(|order, change| evicted.push((order, format!("{change:?}"))));
        let left: Vec<_> = updates.end().iter().collect();
        let table: Vec<_> = table.end().iter().collect();
        assert!(expected.len() > 10_000);
        let named = expected
            .iter()
            .filter(|(_, ended)| ended.contains("app: Some"));
        assert!(named.count() > 1000);
        assert_eq!(format!("{evicted:?}"), format!("{expected:?}"));
        assert_eq!(format!("{left:?}"), format!("{table:?}"));
    }
}
