//! Flow records that wait until it is known where their first packets lie: pure.
//!
//! They leave in the order they came in. So a record behind one that waits, waits too.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::flow::first::First;
use crate::flow::record::FlowRecord;

/// Records that wait, in their order.
pub struct Awaited {
    records: VecDeque<FlowRecord>,
    /// By number of the first packet's record: how many flow records wait for its place, and that.
    places: HashMap<u64, Place, foldhash::fast::RandomState>,
    /// Most that may wait.
    most: usize,
    /// Of the first ones, those that were there at the last look, and those that go whether or not it is known.
    seen: usize,
    overdue: usize,
}

#[derive(Default)]
struct Place {
    waiting: usize,
    first: Option<First>,
}

impl Awaited {
    /// Lets at most `most` records wait: a longer queue lets its first ones go, without a place.
    pub fn new(most: usize) -> Self {
        Self {
            records: VecDeque::new(),
            places: HashMap::default(),
            most,
            seen: 0,
            overdue: 0,
        }
    }

    /// Records that wait.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The place among all packets at which the first record that waits was ended.
    pub fn next_place(&self) -> Option<u64> {
        self.records.front().map(|record| record.order.place)
    }

    /// Takes a record; gives it back if it need not wait.
    pub fn push(&mut self, record: FlowRecord) -> Option<FlowRecord> {
        let number = record.first.as_record();
        if number.is_none() && self.records.is_empty() {
            return Some(record);
        }
        if let Some(number) = number {
            self.places.entry(number).or_default().waiting += 1;
        }
        self.records.push_back(record);
        None
    }

    /// Record `number` lies at `first`.
    pub fn found(&mut self, number: u64, first: First) {
        if let Some(place) = self.places.get_mut(&number) {
            place.first = Some(first);
        }
    }

    /// The next record that need not wait any more.
    pub fn next(&mut self) -> Option<FlowRecord> {
        let mut first = self.records.front()?.first;
        if let Some(number) = first.as_record() {
            let place = self.places.get_mut(&number);
            let found = place.as_ref().and_then(|place| place.first);
            if found.is_none() && self.overdue == 0 && self.records.len() <= self.most {
                return None;
            }
            first = found.unwrap_or_default();
            if let Some(place) = place {
                place.waiting -= 1;
                if place.waiting == 0 {
                    self.places.remove(&number);
                }
            }
        }
        self.seen = self.seen.saturating_sub(1);
        self.overdue = self.overdue.saturating_sub(1);
        let record = self.records.pop_front()?;
        Some(FlowRecord { first, ..record })
    }

    /// Time has passed: what was there at the look before has waited long enough.
    pub fn look(&mut self) {
        self.overdue = self.seen;
        self.seen = self.records.len();
    }

    /// Nothing more will be found: no record waits any longer.
    pub fn give_up(&mut self) {
        self.overdue = self.records.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::counts::FlowPacket;
    use crate::flow::ended::EndReason;
    use crate::flow::key::FlowKey;
    use crate::flow::lifetime::Lifetimes;
    use crate::flow::record::Occasion;
    use crate::flow::table::FlowTable;
    use crate::mirror::session::Sessions;
    use crate::mirror::session_key::SessionKey;
    use crate::wire::inner::Inner;
    use crate::wire::length::{FrameLen, Verdict};

    /// A flow record with this place in the order of records.
    fn record(order: u64, first: First) -> FlowRecord {
        let mut frame = vec![2; 54];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
        let inner = Inner::read(&frame);
        let mut sessions = Sessions::default();
        let id = sessions.find(SessionKey::Plain, None, None, 0);
        let (key, way) = FlowKey::of(id, None, &inner).unwrap();
        let lengths = FrameLen {
            captured: 54,
            orig: 54,
        };
        let packet = FlowPacket::of(1, lengths, Verdict::Whole, 40, &inner).unwrap();
        let mut table = FlowTable::new(1, Lifetimes::default());
        table.update(table.hash(&key), u32::MAX, &key, way, &packet);
        let flow = table.end().iter().next().unwrap();
        let session = sessions.session(id).unwrap();
        let record = FlowRecord::new(&flow, session, EndReason::Idle, Occasion::Packet(order));
        FlowRecord { first, ..record }
    }

    /// Those that leave now: order and place.
    fn leaving(awaited: &mut Awaited) -> Vec<(u64, Option<u64>)> {
        let records = std::iter::from_fn(|| awaited.next());
        records
            .map(|record| (record.order.place, record.first.as_place()))
            .collect()
    }

    const NOTHING: [(u64, Option<u64>); 0] = [];

    #[test]
    fn records_leave_in_their_order() {
        let mut awaited = Awaited::new(9);
        let passes = awaited.push(record(1, First::place(50)));
        assert_eq!(passes.map(|record| record.order.place), Some(1));
        let passes = awaited.push(record(2, First::NOWHERE));
        assert_eq!(passes.map(|record| record.order.place), Some(2));
        for (order, first) in [
            (3, First::record(7)),
            (4, First::place(60)),
            (5, First::record(6)),
            // The flow went on when its record was asked for.
            (6, First::record(7)),
        ] {
            assert!(awaited.push(record(order, first)).is_none());
        }
        assert_eq!(awaited.next_place(), Some(3));
        awaited.found(6, First::place(66));
        awaited.found(99, First::place(1));
        assert_eq!(leaving(&mut awaited), NOTHING);
        awaited.found(7, First::place(77));
        let left = [(3, Some(77)), (4, Some(60)), (5, Some(66)), (6, Some(77))];
        assert_eq!(leaving(&mut awaited), left);
        assert!(awaited.is_empty() && awaited.places.is_empty());
    }

    #[test]
    fn what_was_lost_is_an_answer() {
        let mut awaited = Awaited::new(9);
        assert!(awaited.push(record(1, First::record(0))).is_none());
        awaited.found(0, First::NOWHERE);
        assert_eq!(leaving(&mut awaited), [(1, None)]);
    }

    #[test]
    fn no_more_wait_than_may() {
        let mut awaited = Awaited::new(2);
        for number in 0..5 {
            assert!(
                awaited
                    .push(record(number, First::record(number)))
                    .is_none()
            );
        }
        awaited.found(1, First::place(11));
        assert_eq!(leaving(&mut awaited), [(0, None), (1, Some(11)), (2, None)]);
        // What comes too late finds nobody, and is not kept.
        awaited.found(2, First::place(22));
        assert_eq!(awaited.places.len(), 2);
        awaited.found(3, First::place(33));
        assert_eq!(leaving(&mut awaited), [(3, Some(33))]);
    }

    #[test]
    fn none_waits_for_longer_than_two_looks() {
        let mut awaited = Awaited::new(9);
        assert!(awaited.push(record(1, First::record(1))).is_none());
        awaited.look();
        assert!(awaited.push(record(2, First::record(2))).is_none());
        assert_eq!(leaving(&mut awaited), NOTHING);
        awaited.look();
        assert_eq!(leaving(&mut awaited), [(1, None)]);
        // A look that found none does not count for who comes later.
        awaited.found(2, First::place(5));
        assert_eq!(leaving(&mut awaited), [(2, Some(5))]);
        awaited.look();
        assert!(awaited.push(record(3, First::record(3))).is_none());
        awaited.look();
        assert_eq!(leaving(&mut awaited), NOTHING);
        awaited.give_up();
        assert_eq!(leaving(&mut awaited), [(3, None)]);
    }
}
