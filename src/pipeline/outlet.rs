//! The way out of a worker: batches of records and chunks of flow records, through bounded queues.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::doorbell::Callers;
use super::worker::Outlet;
use crate::flow::record::FlowRecord;
use crate::pcap::record::{BATCH_LEN, BATCH_RECORDS, Batch};

/// Flow records handed over at a time.
pub const FLOW_CHUNK: usize = 128;
/// A batch is handed over when it is this old, so that a quiet link reaches the file.
const MAX_BATCH_AGE: Duration = Duration::from_millis(20);

/// Places for promises that the queue to the writer has for each worker, beside one for every batch.
const PROMISES: usize = 4;

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

/// Flow records on their way to their writer.
pub struct FlowChunk {
    /// Whose they are among those that are put in order.
    pub lane: usize,
    /// The records, in their order.
    pub records: Vec<FlowRecord>,
    /// Nothing up to this place will follow.
    pub done: u64,
}

/// How many workers' flow records are put in order. Live they are written as they come: no worker is waited
/// for.
pub const fn flow_lanes(workers: usize, when_full: WhenFull) -> usize {
    match when_full {
        WhenFull::Wait if workers > 1 => workers,
        _ => 1,
    }
}

/// Hands a worker's output to the writers.
pub struct QueueOutlet {
    worker: usize,
    current: Batch,
    /// When the current batch got its first record, as far as batches tell.
    begun: Option<Instant>,
    allocated: usize,
    most: usize,
    full: Callers<FromWorker>,
    empty: Receiver<Batch>,
    /// Empty batches, the one that came back last at the end: its bytes are the likeliest to be in the
    /// core's cache still. After a stall there are many, and a queue would go through them all.
    spare: Vec<Batch>,
    /// Live, no promise is sent while so many wait in the queue.
    promise_below: usize,
    when_full: WhenFull,
    /// How long a full queue is waited for; `None` for as long as it takes.
    patience: Option<Duration>,
    /// See [`FlowChunk::lane`].
    flow_lane: usize,
    flow_chunk: Vec<FlowRecord>,
    flows: Sender<FlowChunk>,
    flow_records: u64,
    flow_records_dropped: u64,
}

impl QueueOutlet {
    /// For worker number `worker` of `workers`, with `most` batches. `full` has [`queue_places`].
    pub fn new(
        (worker, workers): (usize, usize),
        most: usize,
        when_full: WhenFull,
        full: Callers<FromWorker>,
        empty: Receiver<Batch>,
        flows: Sender<FlowChunk>,
    ) -> Self {
        Self {
            worker,
            current: Batch::default(),
            begun: None,
            allocated: 0,
            most,
            full,
            empty,
            spare: Vec::with_capacity(most),
            promise_below: workers * (PROMISES - 1),
            when_full,
            patience: None,
            flow_lane: worker % flow_lanes(workers, when_full),
            flow_chunk: Vec::new(),
            flows,
            flow_records: 0,
            flow_records_dropped: 0,
        }
    }

    /// The number of the worker it belongs to.
    pub const fn worker(&self) -> usize {
        self.worker
    }

    /// What a full queue means to it.
    pub const fn when_full(&self) -> WhenFull {
        self.when_full
    }

    /// Flow records handed over, and those that found no room.
    pub const fn flow_records(&self) -> (u64, u64) {
        (self.flow_records, self.flow_records_dropped)
    }

    /// From now on a full queue is waited for, as long as there is `patience`: nothing arrives any more.
    pub const fn wait_from_now_on(&mut self, patience: Option<Duration>) {
        (self.when_full, self.patience) = (WhenFull::Wait, patience);
    }

    /// Swaps the current batch for an empty one; `false` when there is none to be had.
    fn hand_over(&mut self) -> bool {
        self.spare.extend(self.empty.try_iter());
        let next = match self.spare.pop() {
            Some(batch) => batch,
            None if self.allocated < self.most => {
                self.allocated += 1;
                Batch::with_room()
            }
            None if self.when_full == WhenFull::Drop => return false,
            None => {
                let batch = match self.patience {
                    None => self.empty.recv().ok(),
                    Some(patience) => self.empty.recv_timeout(patience).ok(),
                };
                match batch {
                    Some(batch) => batch,
                    None => return false,
                }
            }
        };
        let full = std::mem::replace(&mut self.current, next);
        self.begun = None;
        // The queue has a place for every batch that exists: this finds one.
        full.records == 0 || self.full.send((self.worker, full)).is_ok()
    }

    /// Hands over what there is.
    pub fn hand_over_now(&mut self) {
        if self.current.records > 0 {
            self.hand_over();
        }
    }

    /// Hands over what there is once it has waited long enough.
    pub fn hand_over_if_old(&mut self, now: Instant) {
        if self.current.records == 0 {
            return;
        }
        match self.begun {
            None => self.begun = Some(now),
            Some(begun) if now - begun >= MAX_BATCH_AGE => self.hand_over_now(),
            Some(_) => {}
        }
    }

    /// Promises the writers that nothing below `watermark` will follow. Live, a queue that grows does without:
    /// there is plenty to write, and the next promise comes soon.
    pub fn promise(&mut self, watermark: u64) {
        if self.when_full == WhenFull::Wait {
            self.hand_over_flows(watermark);
        }
        let promise = Batch {
            watermark,
            ..Batch::default()
        };
        let _ = match self.when_full {
            WhenFull::Wait => self.full.send((self.worker, promise)).is_ok(),
            // `hand_over` counts on a place for each batch, or receiving would wait for the disk. All workers
            // may see the last place below the limit at once: that is one more promise from each.
            WhenFull::Drop => {
                self.full.is_waited_for()
                    && self.full.len() < self.promise_below
                    && self.full.try_send((self.worker, promise)).is_ok()
            }
        };
    }

    /// Hands over the flow records that are waiting; nothing up to the place `done` will follow.
    pub fn hand_over_flows(&mut self, done: u64) {
        let records = std::mem::take(&mut self.flow_chunk);
        let len = records.len() as u64;
        let chunk = FlowChunk {
            lane: self.flow_lane,
            records,
            done,
        };
        let sent = match self.when_full {
            WhenFull::Wait => match self.patience {
                None => self.flows.send(chunk).is_ok(),
                Some(patience) => self.flows.send_timeout(chunk, patience).is_ok(),
            },
            WhenFull::Drop => self.flows.try_send(chunk).is_ok(),
        };
        if sent {
            self.flow_records += len;
        } else {
            // Whoever did not take this will not take the next one: it is waited for once.
            self.patience = self.patience.map(|_| Duration::ZERO);
            self.flow_records_dropped += len;
        }
    }
}

impl Outlet for QueueOutlet {
    fn room(&mut self, len: usize) -> Option<&mut Batch> {
        let used = self.current.bytes.len();
        let first = self.allocated == 0;
        let full = used + len > BATCH_LEN || self.current.orders.len() >= BATCH_RECORDS;
        if (first || (used > 0 && full)) && !self.hand_over() {
            return None;
        }
        Some(&mut self.current)
    }

    fn flow(&mut self, record: FlowRecord) {
        if self.flow_chunk.is_empty() {
            self.flow_chunk.reserve_exact(FLOW_CHUNK);
        }
        let order = record.order;
        self.flow_chunk.push(record);
        if self.flow_chunk.len() >= FLOW_CHUNK {
            // Others may follow at this place: a packet can end one, the end of the run many.
            self.hand_over_flows(order.saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{bounded, unbounded};

    use super::super::doorbell::doorbell;
    use super::*;

    /// However long nobody takes anything: promises leave a place for every batch.
    #[test]
    fn promises_take_no_place_from_batches() {
        const MOST: usize = 3;
        let (full_tx, full_rx) = doorbell(queue_places(2, MOST));
        let (_give_back, empty) = bounded(MOST);
        let (flows, _flow_rx) = unbounded();
        let outlet = |number| {
            QueueOutlet::new(
                (number, 2),
                MOST,
                WhenFull::Drop,
                full_tx.clone(),
                empty.clone(),
                flows.clone(),
            )
        };
        let (mut idle, mut busy) = (outlet(0), outlet(1));
        idle.promise(7);
        assert!(full_rx.is_empty(), "nobody waits for a promise");
        full_rx.wait_for_more(true);
        for watermark in 0..100 {
            idle.promise(watermark);
            busy.promise(watermark);
        }
        assert!((1..=2 * PROMISES).contains(&full_rx.len()));
        let mut handed_over = 0;
        while let Some(batch) = busy.room(1) {
            batch.bytes.resize(BATCH_LEN, 0);
            batch.records = 1;
            handed_over += 1;
            idle.promise(100);
        }
        // The last one could not be swapped for another.
        assert_eq!(handed_over, MOST);
        let batches = full_rx.try_iter().filter(|(_, batch)| batch.records > 0);
        assert_eq!(batches.count(), MOST - 1);
    }
}
