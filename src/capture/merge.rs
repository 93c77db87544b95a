//! Time order across workers: batches in, runs of records out, each no earlier than the one before.
//!
//! Batches are in order in themselves, but not among each other: arrival times of one worker go back by some
//! microseconds, and a worker may take from several sockets. A record may leave when every worker is known to
//! have nothing earlier: it has promised so by a watermark, or it has ended. A worker that keeps silent is
//! waited for, but not for ever: after `max_wait` its packets will be late, which is counted, and never
//! lost. Pure: time is given.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use crate::pcap::record::Batch;

/// Batches of several workers on their way to one file.
pub struct Merge {
    lanes: Vec<Lane>,
    max_wait: Duration,
    /// Largest place that has left.
    last: u64,
    /// Latest time that has left, nanoseconds since 1970.
    last_ns: u64,
    behind: Behind,
}

/// Records that left behind later ones, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Their worker was not heard of for longer than was waited for.
    pub late: u64,
    /// They broke their own worker's promise: the clock was set back, or the kernel handed packets over out
    /// of order by more than is waited for. Or their place is right and their time is not: the input of a replay has
    /// them so, or their missing fragments were waited for.
    pub out_of_order: u64,
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
    /// What had been promised before it came.
    promised: u64,
    /// Records that have left.
    gone: usize,
}

/// Records of one batch that may leave together.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Whose they are.
    pub worker: usize,
    /// Their places in [`Batch::records`].
    pub records: Range<usize>,
    /// They end the batch: [`Merge::take_emptied`] will return it.
    pub ends: bool,
    /// Which of the worker's batches.
    at: usize,
}

impl Merge {
    /// For `workers` workers; a silent one is waited for `max_wait`.
    pub fn new(workers: usize, max_wait: Duration) -> Self {
        let lanes = (0..workers).map(|_| Lane::default()).collect();
        Self {
            lanes,
            max_wait,
            last: 0,
            last_ns: 0,
            behind: Behind::default(),
        }
    }

    /// Takes a batch of `worker`, sorted, at `now`. One without records only carries its watermark and
    /// comes back at once.
    pub fn push(&mut self, worker: usize, batch: Batch, now: Duration) -> Option<Batch> {
        let lane = self.lanes.get_mut(worker)?;
        let promised = lane.watermark;
        lane.watermark = lane.watermark.max(batch.watermark);
        if batch.is_empty() {
            return Some(batch);
        }
        lane.waiting.push_back(Waiting {
            batch,
            since: now,
            promised,
            gone: 0,
        });
        None
    }

    /// No worker will send more.
    pub fn end(&mut self) {
        for lane in &mut self.lanes {
            lane.ended = true;
        }
    }

    /// Records that left behind later ones.
    pub const fn behind(&self) -> Behind {
        self.behind
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.waiting.is_empty())
    }

    /// The next records that may leave at `now`; they are in [`Self::batch`] until the next call.
    pub fn next_run(&mut self, now: Duration) -> Option<Run> {
        // Each batch is in order: the earliest record is the first of one of them, and it may be followed by
        // its neighbours up to the first of another.
        let (mut first, mut second): (Option<(u64, usize, usize)>, u64) = (None, u64::MAX);
        for (worker, lane) in self.lanes.iter().enumerate() {
            for (at, waiting) in lane.waiting.iter().enumerate() {
                let head = (waiting.head(), worker, at);
                match first {
                    Some(before) if before < head => second = second.min(head.0),
                    before => {
                        second = before.map_or(second, |(place, ..)| place);
                        first = Some(head);
                    }
                }
            }
        }
        let (place, worker, at) = first?;
        let promised = self.lanes.iter().map(Lane::floor).min().unwrap_or(u64::MAX);
        let front = self.lanes.get_mut(worker)?.waiting.get_mut(at)?;
        let limit = if place <= promised {
            second.min(promised)
        } else if now.saturating_sub(front.since) < self.max_wait {
            return None;
        } else {
            // Waited long enough: these go, whatever a silent worker may still bring.
            second
        };
        let from = front.gone;
        let rest = front.batch.records.get(from..).unwrap_or_default();
        for record in rest {
            if record.place > limit && front.gone > from {
                break;
            }
            if record.place < self.last || record.ts_ns < self.last_ns {
                let late = record.place < self.last && record.place >= front.promised;
                self.behind.late += u64::from(late);
                self.behind.out_of_order += u64::from(!late);
            }
            self.last = self.last.max(record.place);
            self.last_ns = self.last_ns.max(record.ts_ns);
            front.gone += 1;
        }
        Some(Run {
            worker,
            records: from..front.gone,
            ends: front.gone == front.batch.records.len(),
            at,
        })
    }

    /// The batch that `run` is part of.
    pub fn batch(&mut self, run: &Run) -> Option<&mut Batch> {
        let waiting = self.lanes.get_mut(run.worker)?.waiting.get_mut(run.at)?;
        Some(&mut waiting.batch)
    }

    /// Takes back the batch that `run` has ended.
    pub fn take_emptied(&mut self, run: &Run) -> Option<Batch> {
        let lane = self.lanes.get_mut(run.worker).filter(|_| run.ends)?;
        lane.waiting.remove(run.at).map(|waiting| waiting.batch)
    }
}

impl Lane {
    /// Nothing earlier than this will come.
    const fn floor(&self) -> u64 {
        if self.ended { u64::MAX } else { self.watermark }
    }
}

impl Waiting {
    /// Place of the next record.
    fn head(&self) -> u64 {
        let next = self.batch.records.get(self.gone);
        next.map_or(0, |record| record.place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mirror::session::SessionId;
    use crate::pcap::record::RecordFacts;

    const WAIT: Duration = Duration::from_millis(100);

    /// A batch of one-byte records, handed over with a promise.
    fn batch(places: &[u64], watermark: u64) -> Batch {
        let facts = |(at, place): (usize, &u64)| RecordFacts {
            place: *place,
            ts_ns: *place,
            session: SessionId(0),
            at: at as u32,
            len: 1,
            number: 0,
            begins: 0,
        };
        Batch {
            bytes: vec![0; places.len()],
            records: places.iter().enumerate().map(facts).collect(),
            watermark,
            ..Batch::default()
        }
    }

    fn promise(watermark: u64) -> Batch {
        batch(&[], watermark)
    }

    /// The places that leave at `now`.
    fn leaving(merge: &mut Merge, now: Duration) -> Vec<u64> {
        let mut left = Vec::new();
        while let Some(run) = merge.next_run(now) {
            let batch = merge.batch(&run).unwrap();
            let records = &batch.records[run.records.clone()];
            assert!(!records.is_empty(), "no run is empty");
            left.extend(records.iter().map(|record| record.place));
            assert_eq!(merge.take_emptied(&run).is_some(), run.ends);
        }
        left
    }

    const NOTHING: [u64; 0] = [];

    #[test]
    fn one_worker_waits_for_its_own_promise() {
        let mut merge = Merge::new(1, WAIT);
        merge.push(0, batch(&[3, 5, 9], 4), Duration::ZERO);
        assert_eq!(leaving(&mut merge, Duration::ZERO), [3]);
        merge.push(0, batch(&[4, 8, 12], 11), Duration::ZERO);
        assert_eq!(leaving(&mut merge, Duration::ZERO), [4, 5, 8, 9]);
        merge.end();
        assert_eq!(leaving(&mut merge, Duration::ZERO), [12]);
        assert!(merge.is_empty());
        assert_eq!(merge.behind(), Behind::default());
    }

    #[test]
    fn records_in_their_place_whose_times_go_back_are_counted() {
        let mut merge = Merge::new(1, WAIT);
        let mut batch = batch(&[1, 2, 3, 4], 4);
        for (record, ts_ns) in batch.records.iter_mut().zip([50, 40, 50, 49]) {
            record.ts_ns = ts_ns;
        }
        merge.push(0, batch, Duration::ZERO);
        assert_eq!(leaving(&mut merge, Duration::ZERO), [1, 2, 3, 4]);
        let expected = Behind {
            late: 0,
            out_of_order: 2,
        };
        assert_eq!(merge.behind(), expected);
    }

    #[test]
    fn a_promise_lets_others_go() {
        let mut merge = Merge::new(2, WAIT);
        merge.push(0, batch(&[1, 4, 7], 7), Duration::ZERO);
        assert_eq!(leaving(&mut merge, Duration::ZERO), NOTHING);
        assert!(
            merge.push(1, promise(5), Duration::ZERO).is_some(),
            "it comes back at once"
        );
        assert_eq!(leaving(&mut merge, Duration::ZERO), [1, 4]);
        merge.push(1, batch(&[6, 8], 8), Duration::ZERO);
        assert_eq!(
            leaving(&mut merge, Duration::ZERO),
            [6, 7],
            "8 may yet have company"
        );
        merge.end();
        assert_eq!(leaving(&mut merge, Duration::ZERO), [8]);
        assert_eq!(merge.behind(), Behind::default());
    }

    #[test]
    fn a_silent_worker_is_waited_for_so_long() {
        let mut merge = Merge::new(2, WAIT);
        merge.push(0, batch(&[10, 20], 20), Duration::ZERO);
        assert_eq!(leaving(&mut merge, WAIT / 2), NOTHING);
        assert_eq!(leaving(&mut merge, WAIT), [10, 20]);
        merge.push(1, batch(&[15, 30], 30), WAIT);
        merge.end();
        assert_eq!(leaving(&mut merge, WAIT), [15, 30], "late, not lost");
        let late = Behind {
            late: 1,
            out_of_order: 0,
        };
        assert_eq!(merge.behind(), late);
    }

    #[test]
    fn a_broken_promise_is_told_as_that() {
        let mut merge = Merge::new(1, WAIT);
        merge.push(0, batch(&[10, 20], 20), Duration::ZERO);
        assert_eq!(leaving(&mut merge, Duration::ZERO), [10, 20]);
        merge.push(0, batch(&[5, 30], 30), Duration::ZERO);
        assert_eq!(leaving(&mut merge, Duration::ZERO), [5, 30]);
        let broken = Behind {
            late: 0,
            out_of_order: 1,
        };
        assert_eq!(merge.behind(), broken);
    }

    proptest! {
        /// Whatever arrives when: each record leaves once, in order as long as promises are kept.
        #[test]
        fn everything_leaves_in_order(
            steps in proptest::collection::vec(
                (0..4usize, proptest::collection::vec(0..8u64, 0..6), 0..6u64, any::<bool>()),
                1..60,
            ),
        ) {
            let mut merge = Merge::new(4, WAIT);
            let mut floor = [0u64; 4];
            let (mut given, mut left) = (Vec::<u64>::new(), Vec::<u64>::new());
            for (worker, ahead, step, promised) in steps {
                let mut places: Vec<u64> = ahead.iter().map(|ahead| floor[worker] + ahead).collect();
                places.sort_unstable();
                given.extend(&places);
                floor[worker] += step;
                merge.push(worker, batch(&places, floor[worker]), Duration::ZERO);
                if promised {
                    floor[worker] += step;
                    merge.push(worker, promise(floor[worker]), Duration::ZERO);
                }
                left.extend(leaving(&mut merge, Duration::ZERO));
            }
            merge.end();
            left.extend(leaving(&mut merge, Duration::ZERO));
            prop_assert!(merge.is_empty());
            prop_assert!(left.is_sorted());
            prop_assert_eq!(merge.behind(), Behind::default());
            given.sort_unstable();
            prop_assert_eq!(left, given);
        }
    }
}
