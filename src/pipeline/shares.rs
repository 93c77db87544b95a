//! Who delivers the frames that `--count` wants: each worker takes on a share of those still wanted and
//! gives back what it did not need, so the number is met exactly.
//!
//! Three counters and nothing behind them: no other memory depends on their order.

#[cfg(all(test, vxtap_loom))]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(all(test, vxtap_loom)))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Frames a worker takes on at a time.
#[cfg(not(all(test, vxtap_loom)))]
const SHARE: u64 = 64;
/// Few, so that loom can look at every order of events.
#[cfg(all(test, vxtap_loom))]
const SHARE: u64 = 2;

/// Frames wanted, shared out.
pub struct Shares {
    /// Frames wanted in all; the largest number for every one.
    count: AtomicU64,
    /// Frames of them that no worker has taken on.
    left: AtomicU64,
    /// Frames delivered and settled.
    delivered: AtomicU64,
}

impl Shares {
    /// Every frame is wanted.
    pub fn new() -> Self {
        Self {
            count: AtomicU64::new(u64::MAX),
            left: AtomicU64::new(u64::MAX),
            delivered: AtomicU64::new(0),
        }
    }

    /// From now on `count` more frames are wanted; `None` for all. Nobody may hold a share.
    pub fn want(&self, count: Option<u64>) {
        let count = count.unwrap_or(u64::MAX);
        self.count.store(count, Ordering::Relaxed);
        self.left.store(count, Ordering::Relaxed);
        self.delivered.store(0, Ordering::Relaxed);
    }

    /// Takes a share of the frames that are wanted. `None` when all have been delivered; 0 when others
    /// have taken the rest and may yet give some back.
    pub fn take(&self) -> Option<u64> {
        let count = self.count.load(Ordering::Relaxed);
        if count == u64::MAX {
            return Some(u64::MAX);
        }
        // That nothing is left and nobody holds a share cannot be seen in one look, and between two looks
        // frames may be given back. What is delivered stays delivered.
        if self.delivered.load(Ordering::Relaxed) >= count {
            return None;
        }
        let rest = |left: u64| Some(left.saturating_sub(SHARE));
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        Some(before.unwrap_or(0).min(SHARE))
    }

    /// Whether so few frames are wanted that workers may have to wait for each other's shares.
    pub fn are_scarce(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= SHARE
    }

    /// Settles a share of which `delivered` were delivered.
    pub fn settle(&self, share: u64, delivered: u64) {
        if share != u64::MAX {
            let back = share.saturating_sub(delivered);
            self.left.fetch_add(back, Ordering::Relaxed);
            self.delivered.fetch_add(delivered, Ordering::Relaxed);
        }
    }
}

impl Default for Shares {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(vxtap_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let shares = Shares::new();
        assert_eq!(shares.take(), Some(u64::MAX), "without a count");
        shares.settle(u64::MAX, 1000);
        shares.want(Some(SHARE + 10));
        assert_eq!(shares.take(), Some(SHARE));
        assert_eq!(shares.take(), Some(10));
        assert_eq!(shares.take(), Some(0), "others hold the rest");
        shares.settle(SHARE, SHARE - 3);
        assert_eq!(shares.take(), Some(3));
        shares.settle(10, 10);
        assert_eq!(shares.take(), Some(0));
        shares.settle(3, 3);
        assert_eq!(shares.take(), None);
        shares.want(Some(0));
        assert_eq!(shares.take(), None);
        shares.want(Some(1));
        assert_eq!(shares.take(), Some(1), "a new count begins anew");
    }
}

#[cfg(all(test, vxtap_loom))]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy does not see that these are tests"
)]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// A worker with so many frames at its source. It stops when all that are wanted are delivered, or
    /// after it had nothing to do `patience` times.
    fn work(shares: &Shares, delivered: &AtomicU64, count: u64, waiting: u64, patience: u32) {
        let (mut waiting, mut patience) = (waiting, patience);
        while patience > 0 {
            let Some(share) = shares.take() else {
                // A load could be behind: nothing but the counters orders the workers.
                let delivered = delivered.fetch_add(0, Ordering::SeqCst);
                assert_eq!(delivered, count, "ended early");
                return;
            };
            assert!(share <= SHARE);
            let now = share.min(waiting);
            waiting -= now;
            let before = delivered.fetch_add(now, Ordering::SeqCst);
            assert!(before + now <= count, "more than were wanted");
            if share > 0 {
                shares.settle(share, now);
            }
            if now == 0 {
                patience -= 1;
                thread::yield_now();
            }
        }
    }

    /// Workers with so many frames each, in every order of events with `switches` at unlucky moments.
    fn deliver(count: u64, sources: &'static [u64], patience: u32, switches: usize) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(switches);
        model.check(move || {
            let shares = Arc::new(Shares::new());
            let delivered = Arc::new(AtomicU64::new(0));
            shares.want(Some(count));
            let workers = sources.iter().map(|waiting| {
                let (shares, delivered) = (Arc::clone(&shares), Arc::clone(&delivered));
                thread::spawn(move || work(&shares, &delivered, count, *waiting, patience))
            });
            let workers: Vec<_> = workers.collect();
            for worker in workers {
                worker.join().unwrap();
            }
            if patience == u32::MAX {
                assert_eq!(delivered.load(Ordering::SeqCst), count);
                assert_eq!(shares.left.load(Ordering::SeqCst), 0);
            }
        });
    }

    #[test]
    fn loom_the_count_is_met() {
        deliver(0, &[1, 1], u32::MAX, 3);
        deliver(3, &[2, 2], u32::MAX, 3);
        deliver(3, &[1, 5], u32::MAX, 3);
    }

    /// Nobody ends while another, whose source is empty, may give frames back; nobody waits for ever.
    #[test]
    fn loom_a_worker_without_frames_gives_them_back() {
        deliver(2, &[0, 3], u32::MAX, 3);
        deliver(3, &[0, 3], u32::MAX, 3);
    }

    #[test]
    fn loom_three_workers() {
        deliver(2, &[0, 1, 1], 1, 2);
    }
}
