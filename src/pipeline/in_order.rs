//! Puts what several workers hand over in pieces into one order: pure.
//!
//! Each worker's items come in their order, and each tells up to which place it is done. An item is let go
//! once every other worker is done up to its place, so what comes out does not depend on how many workers
//! there are or which of them is fast.

use std::collections::VecDeque;

/// What stands in the order.
pub trait Ordered {
    /// Says which of two comes first.
    type Key: Ord;

    /// Its key.
    fn key(&self) -> Self::Key;

    /// The place up to which others have to be done.
    fn place(&self) -> u64;
}

/// What waits, by worker.
pub struct InOrder<T> {
    lanes: Vec<Lane<T>>,
}

struct Lane<T> {
    waiting: VecDeque<T>,
    /// Nothing up to this place will follow.
    done: u64,
}

impl<T: Ordered> InOrder<T> {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        let lane = || Lane {
            waiting: VecDeque::new(),
            done: 0,
        };
        Self {
            lanes: (0..workers).map(|_| lane()).collect(),
        }
    }

    /// Takes items of a worker, in their order, which is done up to the place `done`.
    pub fn push(&mut self, worker: usize, items: impl IntoIterator<Item = T>, done: u64) {
        if let Some(lane) = self.lanes.get_mut(worker) {
            lane.waiting.extend(items);
            lane.done = lane.done.max(done);
        }
    }

    /// The next item of all, if nothing before it can follow.
    pub fn next(&mut self) -> Option<T> {
        let first = self.lanes.iter().enumerate().filter_map(|(worker, lane)| {
            let item = lane.waiting.front()?;
            Some((item.key(), worker, item.place()))
        });
        let (_, worker, place) = first.min()?;
        let mut others = self.lanes.iter().enumerate();
        let is_next = others
            .all(|(other, lane)| other == worker || !lane.waiting.is_empty() || lane.done >= place);
        let lane = self.lanes.get_mut(worker).filter(|_| is_next)?;
        lane.waiting.pop_front()
    }

    /// Whatever is left, once nothing will follow from anyone.
    pub fn rest(&mut self) -> impl Iterator<Item = T> {
        for lane in &mut self.lanes {
            lane.done = u64::MAX;
        }
        std::iter::from_fn(|| self.next())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Ordered for u64 {
        type Key = Self;

        fn key(&self) -> Self {
            *self
        }

        fn place(&self) -> Self {
            *self
        }
    }

    proptest! {
        /// However the items are shared out, and however far ahead a worker is.
        #[test]
        fn comes_out_in_order(
            places in proptest::collection::vec((0usize..3, 0u64..3), 0..60),
            turns in proptest::collection::vec((0usize..3, 0usize..7), 0..40),
        ) {
            let mut place = 0;
            let mut shares = [const { VecDeque::new() }; 3];
            let mut all = Vec::new();
            for (worker, gap) in places {
                place += gap + 1;
                shares[worker].push_back(place);
                all.push(place);
            }
            let mut in_order = InOrder::new(3);
            let mut out = Vec::new();
            for (worker, count) in turns {
                let items: Vec<u64> = shares[worker].drain(..count.min(shares[worker].len())).collect();
                let done = shares[worker].front().map_or(place, |next| next - 1);
                in_order.push(worker, items, done);
                while let Some(item) = in_order.next() {
                    out.push(item);
                }
                // Nothing is held back that could go.
                let unseen = shares.iter().filter_map(|share| share.front()).min().copied();
                let could = all.iter().filter(|place| unseen.is_none_or(|next| **place < next));
                prop_assert!(out.iter().eq(all.iter().take(out.len())));
                prop_assert!(out.len() <= could.count());
            }
            for (worker, share) in shares.iter_mut().enumerate() {
                in_order.push(worker, share.drain(..), 0);
            }
            out.extend(in_order.rest());
            prop_assert_eq!(out, all);
        }
    }

    #[test]
    fn a_worker_that_says_nothing_is_waited_for() {
        let mut in_order = InOrder::new(2);
        in_order.push(0, [5, 9], 9);
        assert_eq!(in_order.next(), None);
        in_order.push(1, [], 7);
        assert_eq!(in_order.next(), Some(5));
        assert_eq!(in_order.next(), None);
        in_order.push(1, [8], 8);
        assert_eq!(in_order.next(), Some(8));
        assert_eq!(
            in_order.next(),
            None,
            "the other may still come with 9 less something"
        );
        assert_eq!(in_order.rest().collect::<Vec<u64>>(), [9]);
    }
}
