//! Time order across workers: batches in, runs of records out, each no earlier than the one before.
//!
//! A worker's own batches are in order. A record may leave when every other worker is known to have
//! nothing earlier: its next record is later, or it has promised so by a watermark, or it has ended. A
//! worker that keeps silent is waited for, but not for ever: after `max_wait` its packets will be late,
//! which is counted, and never lost. Pure: time is given.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use crate::pcap::record::Batch;

/// Batches of several workers on their way to one file.
pub struct Merge {
    lanes: Vec<Lane>,
    max_wait: Duration,
    /// Largest order that has left.
    last: u64,
    late: u64,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Waiting>,
    /// Nothing below this will come any more.
    watermark: u64,
    ended: bool,
}

struct Waiting {
    batch: Batch,
    /// Arrival, since any fixed moment.
    since: Duration,
    /// Records and bytes that have left.
    records: usize,
    bytes: usize,
}

/// Records of one worker that may leave together.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Whose they are.
    pub worker: usize,
    /// Their bytes in [`Merge::batch`].
    pub bytes: Range<usize>,
    /// Their places in [`Batch::orders`].
    pub records: Range<usize>,
    /// They end the batch: [`Merge::take_emptied`] will return it.
    pub ends: bool,
}

impl Merge {
    /// For `workers` workers; a silent one is waited for `max_wait`.
    pub fn new(workers: usize, max_wait: Duration) -> Self {
        let lanes = (0..workers).map(|_| Lane::default()).collect();
        Self {
            lanes,
            max_wait,
            last: 0,
            late: 0,
        }
    }

    /// Takes a batch of `worker`, at `now`. One without records only carries its watermark and comes
    /// back at once.
    pub fn push(&mut self, worker: usize, batch: Batch, now: Duration) -> Option<Batch> {
        let lane = self.lanes.get_mut(worker)?;
        lane.watermark = lane.watermark.max(batch.watermark);
        if batch.records == 0 {
            return Some(batch);
        }
        lane.waiting.push_back(Waiting {
            batch,
            since: now,
            records: 0,
            bytes: 0,
        });
        None
    }

    /// No worker will send more.
    pub fn end(&mut self) {
        for lane in &mut self.lanes {
            lane.ended = true;
        }
    }

    /// Records that left after later ones.
    pub const fn late(&self) -> u64 {
        self.late
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.waiting.is_empty())
    }

    /// The next records that may leave at `now`; their bytes are in [`Self::batch`] until the next call.
    pub fn next_run(&mut self, now: Duration) -> Option<Run> {
        let heads = self.lanes.iter().enumerate();
        let heads = heads.filter_map(|(worker, lane)| Some((lane.head()?, worker)));
        let (first, worker) = heads.min()?;
        // The earliest that another worker may still come with.
        let limit = self
            .lanes
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != worker);
        let limit = limit
            .map(|(_, lane)| lane.floor())
            .min()
            .unwrap_or(u64::MAX);
        let lane = self.lanes.get_mut(worker)?;
        let front = lane.waiting.front_mut()?;
        let limit = if first > limit {
            if now.saturating_sub(front.since) < self.max_wait {
                return None;
            }
            // Waited long enough: these go, whatever a silent worker may still bring.
            u64::MAX
        } else {
            limit
        };
        let (from, first_record) = (front.bytes, front.records);
        while let Some((order, len)) = front.batch.orders.get(front.records).copied() {
            if order > limit && front.records > first_record {
                break;
            }
            self.late += u64::from(order < self.last);
            self.last = self.last.max(order);
            front.bytes += len as usize;
            front.records += 1;
        }
        let ends = front.records == front.batch.orders.len();
        let records = first_record..front.records;
        Some(Run {
            worker,
            bytes: from..front.bytes,
            records,
            ends,
        })
    }

    /// The batch that `run` is part of.
    pub fn batch(&mut self, run: &Run) -> Option<&mut Batch> {
        let front = self.lanes.get_mut(run.worker)?.waiting.front_mut()?;
        Some(&mut front.batch)
    }

    /// Takes back the batch that `run` has ended.
    pub fn take_emptied(&mut self, run: &Run) -> Option<Batch> {
        let lane = self.lanes.get_mut(run.worker)?;
        if run.ends {
            lane.waiting.pop_front().map(|waiting| waiting.batch)
        } else {
            None
        }
    }
}

impl Lane {
    /// Order of the next record, if there is one.
    fn head(&self) -> Option<u64> {
        let front = self.waiting.front()?;
        Some(
            front
                .batch
                .orders
                .get(front.records)
                .map_or(0, |(order, _)| *order),
        )
    }

    /// Nothing earlier than this will come.
    fn floor(&self) -> u64 {
        match self.head() {
            Some(head) => head,
            None if self.ended => u64::MAX,
            None => self.watermark,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    /// A batch of one-byte records.
    fn batch(orders: &[u64]) -> Batch {
        Batch {
            bytes: vec![0; orders.len()],
            records: orders.len() as u64,
            orders: orders.iter().map(|order| (*order, 1)).collect(),
            watermark: orders.last().copied().unwrap_or(0),
            ..Batch::default()
        }
    }

    fn promise(watermark: u64) -> Batch {
        Batch {
            watermark,
            ..Batch::default()
        }
    }

    /// The orders that leave at `now`.
    fn leaving(merge: &mut Merge, now: Duration) -> Vec<u64> {
        let mut left = Vec::new();
        while let Some(run) = merge.next_run(now) {
            let batch = merge.batch(&run).unwrap();
            let orders = &batch.orders[run.records.clone()];
            assert_eq!(run.bytes.len(), orders.len());
            assert!(!orders.is_empty(), "no run is empty");
            left.extend(orders.iter().map(|(order, _)| *order));
            assert_eq!(merge.take_emptied(&run).is_some(), run.ends);
        }
        left
    }

    #[test]
    fn one_worker_waits_for_nobody() {
        let mut merge = Merge::new(1, WAIT);
        merge.push(0, batch(&[5, 3, 9]), Duration::ZERO);
        assert_eq!(
            leaving(&mut merge, Duration::ZERO),
            [5, 3, 9],
            "a worker's own order is kept"
        );
        assert!(merge.is_empty());
    }

    #[test]
    fn a_promise_lets_others_go() {
        let mut merge = Merge::new(2, WAIT);
        merge.push(0, batch(&[1, 4, 7]), Duration::ZERO);
        assert_eq!(leaving(&mut merge, Duration::ZERO), [] as [u64; 0]);
        assert!(
            merge.push(1, promise(5), Duration::ZERO).is_some(),
            "it comes back at once"
        );
        assert_eq!(leaving(&mut merge, Duration::ZERO), [1, 4]);
        merge.push(1, batch(&[6, 8]), Duration::ZERO);
        assert_eq!(
            leaving(&mut merge, Duration::ZERO),
            [6, 7],
            "8 may yet have company"
        );
        merge.end();
        assert_eq!(leaving(&mut merge, Duration::ZERO), [8]);
        assert_eq!(merge.late(), 0);
    }

    #[test]
    fn a_silent_worker_is_waited_for_so_long() {
        let mut merge = Merge::new(2, WAIT);
        merge.push(0, batch(&[10, 20]), Duration::ZERO);
        assert_eq!(leaving(&mut merge, WAIT / 2), [] as [u64; 0]);
        assert_eq!(leaving(&mut merge, WAIT), [10, 20]);
        merge.push(1, batch(&[15, 30]), WAIT);
        merge.end();
        assert_eq!(leaving(&mut merge, WAIT), [15, 30], "late, not lost");
        assert_eq!(merge.late(), 1);
    }

    proptest! {
        /// Whatever arrives when: each record leaves once, in order as long as nobody is late.
        #[test]
        fn everything_leaves_in_order(
            steps in proptest::collection::vec((0..4usize, 0..6u64, 1..5u64, any::<bool>()), 1..60),
        ) {
            let mut merge = Merge::new(4, WAIT);
            let mut next = [0u64; 4];
            let (mut given, mut left) = (Vec::<u64>::new(), Vec::<u64>::new());
            for (worker, len, step, promised) in steps {
                let orders: Vec<u64> = (0..len).map(|at| next[worker] + at * step).collect();
                next[worker] += len * step;
                given.extend(&orders);
                merge.push(worker, batch(&orders), Duration::ZERO);
                if promised {
                    merge.push(worker, promise(next[worker]), Duration::ZERO);
                }
                left.extend(leaving(&mut merge, Duration::ZERO));
            }
            merge.end();
            left.extend(leaving(&mut merge, Duration::ZERO));
            prop_assert!(merge.is_empty());
            prop_assert!(left.is_sorted());
            prop_assert_eq!(merge.late(), 0);
            given.sort_unstable();
            prop_assert_eq!(left, given);
        }
    }
}
