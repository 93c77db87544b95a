//! What is told of a capture while it is written, and what it is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::capture::merge::Behind;
use crate::pcap::annotation::Tally;

/// What those outside can see of the capture, and what it has to be told at the end.
#[derive(Debug, Default)]
pub struct CaptureNotes {
    late: AtomicU64,
    out_of_order: AtomicU64,
    /// Annotations of the input that were written.
    pub(super) annotations: OnceLock<Tally>,
    /// Datagrams the kernel dropped in the whole run, for the statistics in the file.
    pub kernel_dropped: AtomicU64,
    /// The same while the run goes on, as each worker last saw it.
    pub lost_so_far: OnceLock<Vec<Arc<AtomicU64>>>,
}

impl CaptureNotes {
    /// Records that were written behind later ones.
    pub fn behind(&self) -> Behind {
        Behind {
            late: self.late.load(Ordering::Relaxed),
            out_of_order: self.out_of_order.load(Ordering::Relaxed),
        }
    }

    /// Annotations of the input that were written, once the capture has ended.
    pub fn annotations(&self) -> Tally {
        self.annotations.get().copied().unwrap_or_default()
    }

    pub(super) fn kernel_dropped_so_far(&self) -> u64 {
        let workers = self.lost_so_far.get().into_iter().flatten();
        let so_far = workers.map(|dropped| dropped.load(Ordering::Relaxed)).sum();
        self.kernel_dropped.load(Ordering::Relaxed).max(so_far)
    }

    pub(super) fn tell(&self, behind: Behind) {
        self.late.store(behind.late, Ordering::Relaxed);
        self.out_of_order
            .store(behind.out_of_order, Ordering::Relaxed);
    }
}
