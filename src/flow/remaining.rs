//! The flows that live to the end of the run, left where their tables put them: those of several workers put
//! together, and read in the order of their first packets.
//!
//! No flow is copied. What a table needed to find flows is gone by then; the index that joins them, and after
//! it the list that orders them, take no more room than that did. So the end of a run needs no more memory
//! than the run.

use std::hash::BuildHasher;

use super::counts::Flow;
use super::index::Index;
use super::names::ByPlace;
use super::table::parts::Hot;
use super::table::places::Places;
use crate::mirror::session::SessionId;

/// Flows by place.
#[derive(Default)]
pub struct Remaining {
    places: Places,
    /// What flows are about, by place.
    names: ByPlace,
}

impl Remaining {
    /// What a table held.
    pub(super) const fn new(places: Places, names: ByPlace) -> Self {
        Self { places, names }
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.places.used().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.used().next().is_none()
    }

    /// Gives every flow's session another number.
    pub fn renumber(&mut self, new: impl Fn(SessionId) -> SessionId) {
        for hot in self.places.hot_mut() {
            hot.key = hot.key.in_session(new(hot.key.session()));
        }
    }

    /// Puts the flows of several tables together, those of one key into one flow, and counts the latter.
    pub fn join(parts: impl IntoIterator<Item = Self>) -> (Self, u64) {
        let mut all = Self::default();
        let mut tables = 0;
        for part in parts {
            let base = all.places.append(part.places);
            let names = part.names.into_iter();
            all.names.extend(names.map(|(at, app)| (base + at, app)));
            tables += 1;
        }
        // Flows of one table have different keys.
        let joined = if tables > 1 { all.join_equal() } else { 0 };
        (all, joined)
    }

    fn join_equal(&mut self) -> u64 {
        let hasher = foldhash::fast::RandomState::default();
        let mut index = Index::with_room(self.places.room());
        let mut joined = 0;
        for at in self.places.all() {
            // Flows that have ended left their places.
            let Some(key) = self.hot(at).filter(|hot| hot.is_used()).map(|hot| hot.key) else {
                continue;
            };
            let hash = hasher.hash_one(key);
            let hash = (hash ^ (hash >> 32)) as u32;
            let same = |other| self.hot(other).is_some_and(|hot| hot.key == key);
            match index.find(hash, same) {
                Some(first) => {
                    self.absorb(first, at);
                    joined += 1;
                }
                None => index.insert(hash, at),
            }
        }
        joined
    }

    /// Adds the flow at `other` to the one at `first`; nothing is left of it.
    fn absorb(&mut self, first: u32, other: u32) {
        if let (Some(mut flow), Some(more)) = (self.flow(first), self.flow(other)) {
            flow.absorb(more);
            self.names.remove(&other);
            if let Some(app) = flow.app.take() {
                self.names.insert(first, app);
            }
            self.places.put(first, &flow);
            self.places.forget(other);
        }
    }

    /// The flows in the order of their first packets.
    pub fn by_first_packet(&self) -> impl Iterator<Item = Flow> {
        let mut order = Vec::with_capacity(self.places.room());
        let timed = |at| self.hot(at).map(|hot| (hot.first_ns, at));
        order.extend(self.places.used().filter_map(timed));
        order.sort_unstable_by(|(a_ns, a), (b_ns, b)| {
            let key = |at| self.hot(at).map(|hot| hot.key);
            a_ns.cmp(b_ns).then_with(|| key(*a).cmp(&key(*b)))
        });
        order.into_iter().filter_map(|(_, at)| self.flow(at))
    }

    /// The flows in the order they stand in.
    pub fn iter(&self) -> impl Iterator<Item = Flow> {
        self.places.used().filter_map(|at| self.flow(at))
    }

    fn hot(&self, at: u32) -> Option<&Hot> {
        self.places.hot(at)
    }

    fn flow(&self, at: u32) -> Option<Flow> {
        let flow = self.places.flow(at)?;
        let app = self.names.get(&at).cloned();
        Some(Flow { app, ..flow })
    }
}

/// Most bytes that joining and ordering `flows` flows takes beside them.
pub const fn memory_bytes(flows: u64) -> u64 {
    let index = super::index::entries_for(flows) * size_of::<u64>() as u64;
    let order = flows * size_of::<(u64, u32)>() as u64;
    if index > order { index } else { order }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::counts::FlowPacket;
    use crate::flow::first::First;
    use crate::flow::key::{FlowKey, Way};
    use crate::flow::lifetime::Lifetimes;
    use crate::flow::table::FlowTable;
    use crate::wire::inner::Inner;
    use crate::wire::length::{FrameLen, Verdict};

    /// Packets of few flows: client, way, time, length, fragment, TCP flags.
    type Step = (u8, bool, u64, u32, bool, u8);

    fn feed(table: &mut FlowTable, step: &Step, frame_number: usize) {
        feed_at(table, step, frame_number, First::NOWHERE);
    }

    fn feed_at(table: &mut FlowTable, step: &Step, frame_number: usize, first: First) {
        let (client, back, ts_ns, len, is_fragment, flags) = *step;
        let mut frame = vec![2; 54];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
        frame[22] = frame_number as u8;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 1]);
        frame[if back { 33 } else { 29 }] = 100 + client;
        frame[34..38].copy_from_slice(&if back { [0, 80, 9, 9] } else { [9, 9, 0, 80] });
        frame[46..48].copy_from_slice(&[0x50, flags]);
        let inner = Inner::read(&frame);
        let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
        let lengths = FrameLen {
            captured: 54,
            orig: len,
        };
        let mut packet = FlowPacket::of(ts_ns, lengths, Verdict::Truncated, 40, &inner).unwrap();
        packet.is_fragment = is_fragment;
        packet.first = first;
        table.update(table.hash(&key), u32::MAX, &key, way, &packet);
    }

    fn described(flows: impl Iterator<Item = Flow>) -> Vec<String> {
        flows.map(|flow| format!("{flow:?}")).collect()
    }

    proptest! {
        /// Packets of a flow on several tables come to what one table makes of all of them, in the order of
        /// their first packets. No SYN among them: one table would begin records, several could not know; nor
        /// what their segments tell together.
        #[test]
        fn shared_out_or_not_flows_are_the_same(
            steps in proptest::collection::vec(
                (
                    (
                        0u8..5, any::<bool>(), 0u64..40,
                        prop_oneof![Just(60), Just(u32::MAX), any::<u32>()],
                        any::<bool>(), prop_oneof![Just(0x10u8), Just(0x18), Just(0x11)],
                    ),
                    0usize..3,
                ),
                0..60,
            ),
        ) {
            let mut one = FlowTable::new(100, Lifetimes::default());
            let mut several = [const { None }; 3].map(|_: Option<()>| FlowTable::new(100, Lifetimes::default()));
            // Who came first of two at the same time is known to one table only: no two are.
            for (at, (step, table)) in steps.iter().enumerate() {
                let mut step = *step;
                step.2 = step.2 * 1000 + at as u64;
                feed(&mut one, &step, at);
                feed(&mut several[*table], &step, at);
            }
            let parts: usize = several.iter().map(FlowTable::len).sum();
            let flows = one.len() as u64;
            let (joined, count) = Remaining::join(several.into_iter().map(FlowTable::end));
            prop_assert_eq!(parts as u64 - count, flows);
            prop_assert_eq!(joined.len() as u64, flows);
            let (one, none) = Remaining::join([one.end()]);
            prop_assert_eq!(none, 0);
            // Where the first packet in time was not the first to come, one table keeps what came first.
            let firsts = |mut flow: Flow| {
                (flow.macs, flow.originator, flow.tcp) = (None, Way::AToB, None);
                flow
            };
            let mut by_time = joined.by_first_packet().map(|flow| flow.first_ns);
            prop_assert!(by_time.by_ref().is_sorted());
            prop_assert_eq!(
                described(joined.by_first_packet().map(firsts)),
                described(one.by_first_packet().map(firsts))
            );
        }
    }

    /// Of the parts of a flow the earliest tells where its first packet lies.
    #[test]
    fn the_earliest_part_tells_the_place() {
        for (times, first) in [([5, 7], 100), ([7, 5], 200), ([5, 5], 100)] {
            let tables = [(times[0], 100), (times[1], 200)].map(|(ts_ns, place)| {
                let mut table = FlowTable::new(9, Lifetimes::default());
                table.keep_firsts();
                let step = (1, false, ts_ns, 60, false, 0x10);
                feed_at(&mut table, &step, 0, First::place(place));
                table.end()
            });
            let (joined, count) = Remaining::join(tables);
            assert_eq!((joined.len(), count), (1, 1));
            assert_eq!(joined.iter().next().unwrap().first, First::place(first));
        }
    }

    /// A flow that ended and left its place, and a later one of the same key elsewhere: nothing of the first is told.
    #[test]
    fn places_that_are_left_are_passed_over() {
        let second = 1_000_000_000;
        let mut gone = FlowTable::new(9, Lifetimes::default());
        feed(&mut gone, &(1, false, second, 60, false, 0x10), 0);
        gone.expire(u64::MAX >> 28, 9, |_| {});
        let mut lives = FlowTable::new(9, Lifetimes::default());
        feed(&mut lives, &(1, false, 900 * second, 60, false, 0x10), 1);
        let (joined, count) = Remaining::join([gone.end(), lives.end()]);
        let flows: Vec<Flow> = joined.iter().collect();
        assert_eq!((flows.len(), count), (1, 0));
        assert_eq!(flows[0].first_ns, 900 * second);
    }

    #[test]
    fn sessions_get_other_numbers() {
        let mut table = FlowTable::new(9, Lifetimes::default());
        feed(&mut table, &(1, false, 5, 60, false, 0x10), 0);
        let mut left = table.end();
        left.renumber(|SessionId(number)| SessionId(number + 7));
        let flow = left.iter().next().unwrap();
        assert_eq!(flow.key.session(), SessionId(7));
        assert!(!left.is_empty() && Remaining::default().is_empty());
    }
}
