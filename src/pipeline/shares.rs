//! Who delivers the frames that `--count` wants: each worker takes on a share of those still wanted and
//! gives back what it did not need, so the number is met exactly.
//!
//! Three counters and nothing behind them: no other memory depends on their order.

use std::sync::atomic::{AtomicU64, Ordering};

/// Frames a worker takes on at a time.
const SHARE: u64 = 64;

/// Frames wanted, shared out.
pub struct Shares {
    /// Frames that are still wanted and that no worker has taken on; the largest number for all.
    wanted: AtomicU64,
    /// Frames that workers have taken on.
    taken: AtomicU64,
}

impl Shares {
    /// Every frame is wanted.
    pub fn new() -> Self {
        Self {
            wanted: AtomicU64::new(u64::MAX),
            taken: AtomicU64::new(0),
        }
    }

    /// From now on `count` more frames are wanted; `None` for all. Nobody holds a share.
    pub fn want(&self, count: Option<u64>) {
        self.wanted
            .store(count.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Takes a share of the frames that are wanted. `None` when all have been delivered; 0 when others
    /// have taken the rest and may yet give some back.
    pub fn take(&self) -> Option<u64> {
        if self.wanted.load(Ordering::Relaxed) == u64::MAX {
            return Some(u64::MAX);
        }
        // Claimed before it is taken, so that nobody sees neither.
        self.taken.fetch_add(SHARE, Ordering::SeqCst);
        let left = |wanted: u64| Some(wanted.saturating_sub(SHARE));
        let before = self
            .wanted
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        let share = before.unwrap_or(0).min(SHARE);
        let taken = self.taken.fetch_sub(SHARE - share, Ordering::SeqCst) - (SHARE - share);
        if share == 0 && taken == 0 {
            None
        } else {
            Some(share)
        }
    }

    /// Settles a share of which `delivered` were delivered.
    pub fn settle(&self, share: u64, delivered: u64) {
        if share != u64::MAX {
            self.wanted
                .fetch_add(share.saturating_sub(delivered), Ordering::SeqCst);
            self.taken.fetch_sub(share, Ordering::SeqCst);
        }
    }
}
