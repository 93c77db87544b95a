//! What goes through the queues between workers and sinks, and how much of it.

use crate::pcap::record::Batch;

/// Flow records handed over at a time.
pub const FLOW_CHUNK: usize = 256;

/// Places for promises that the queue to the writer has for each worker, beside one for every batch.
pub const PROMISES: usize = 4;

/// Places in the queue to the writer for `workers` workers with `most` batches each.
pub const fn queue_places(workers: usize, most: usize) -> usize {
    workers * (most + PROMISES)
}

/// What a full queue means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait: a file can be read later.
    Wait,
    /// Drop and count: the network does not wait.
    Drop,
}

/// A batch and the number of the worker that made it.
pub type FromWorker = (usize, Batch);

/// What a worker had for its sinks so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Frames that found no room in the queue of the capture.
    pub capture_no_room: u64,
    /// Frames that were left out of the capture because the run was at a limit.
    pub capture_left_out: u64,
    /// Flow records, each offered to every sink for them.
    pub flow_records: u64,
}

impl Offers {
    /// Adds those of another worker.
    pub const fn merge(&mut self, other: Self) {
        self.capture_no_room += other.capture_no_room;
        self.capture_left_out += other.capture_left_out;
        self.flow_records += other.flow_records;
    }
}
