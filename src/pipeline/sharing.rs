//! How the work and the memory are shared out among workers.

use std::time::Duration;

use crate::bpf::steer::Steering;
pub use crate::pipeline::queues::WhenFull;

/// Chunks of flow records that may wait.
pub const FLOW_QUEUE: usize = 32;

/// Buffers that each of so many workers has on the way to the capture writer.
pub fn capture_queue_batches(when_full: WhenFull, workers: usize) -> usize {
    let all = match when_full {
        WhenFull::Wait => 8,
        WhenFull::Drop => 256,
    };
    (all / workers.max(1)).max(4)
}

/// The share of the flow table of worker `number`. The shares add up to `max_flows` as long as each worker gets
/// at least one flow.
pub const fn max_flows_of(number: u32, steering: Steering, max_flows: u32) -> u32 {
    let workers = if steering.workers == 0 {
        1
    } else {
        steering.workers
    };
    max_flows / workers + (number < max_flows % workers) as u32
}

/// How the work is shared out.
#[derive(Clone, Copy, Debug)]
pub struct Sharing {
    /// How packets find their worker.
    pub steering: Steering,
    /// How long a worker that keeps silent is waited for.
    pub max_reorder: Duration,
    /// What a full queue means.
    pub when_full: WhenFull,
}
