//! The writers: one thread puts the batches of all workers in order and into the capture, another
//! writes flow records.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::doorbell::Sleeper;
use super::in_order::InOrder;
use super::inquiry::{Answer, WriterAnswer};
use super::measure::WriterMeasures;
use super::orders::{Inbox, Order};
use super::outlet::{FlowChunk, FromWorker};
use crate::capture::merge::Merge;
use crate::capture::set::CaptureSet;
use crate::export::jsonl::JsonLines;
use crate::flow::record::FlowRecord;
use crate::outfile::OutError;
use crate::pcap::record::Batch;
use crate::stop::wall_clock_ns;

/// How often batches that wait for a silent worker are looked at.
const TICK: Duration = Duration::from_millis(5);
/// How often a writer without work looks for orders.
const LOOK: Duration = Duration::from_millis(100);

/// What the capture writer leaves.
pub struct CaptureEnd {
    /// The file, not finished yet.
    pub set: CaptureSet,
    /// Records written behind later ones.
    pub late: u64,
    /// How long records took to get here, where they came live.
    pub measures: Option<WriterMeasures>,
}

/// What the flow writer leaves.
pub struct FlowEnd {
    /// The files, not finished yet.
    pub files: Vec<JsonLines>,
    /// What went wrong.
    pub error: Option<OutError>,
}

/// Writes batches until nobody can send any more. Emptied ones go back to their workers. Where `measures` are
/// to be taken, the places of records in time are those of their arrival.
#[allow(
    clippy::disallowed_methods,
    reason = "one clock call a batch, to bound the wait for a silent worker"
)]
pub fn write_capture(
    mut set: CaptureSet,
    mut merge: Merge,
    full: &Sleeper<FromWorker>,
    empty: &[Sender<Batch>],
    failed: &AtomicBool,
    mut measures: Option<WriterMeasures>,
    mut inbox: Inbox<Answer>,
) -> CaptureEnd {
    let start = Instant::now();
    let give_back = |worker: usize, mut batch: Batch| {
        // A promise had no buffer to begin with.
        if batch.bytes.capacity() > 0 {
            batch.clear();
            // There is room for every batch that exists; when its worker is gone nobody needs it.
            let _ = empty.get(worker).map(|empty| empty.try_send(batch));
        }
    };
    let mut open = true;
    while open {
        match full.recv(Some(if merge.is_empty() { LOOK } else { TICK })) {
            Ok((worker, batch)) => {
                set.introduce(worker, &batch.new_sessions);
                if let Some(batch) = merge.push(worker, batch, start.elapsed()) {
                    give_back(worker, batch);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                merge.end();
                open = false;
            }
        }
        let now = start.elapsed();
        while let Some(run) = merge.next_run(now) {
            if let Some(batch) = merge.batch(&run) {
                let records = batch.bytes.get_mut(run.bytes.clone()).unwrap_or_default();
                let orders = batch.orders.get(run.records.clone()).unwrap_or_default();
                set.append(run.worker, records, orders.iter().map(|(_, len)| *len));
                if let Some(measures) = &mut measures
                    && set.error().is_none()
                    && measures.gave(orders.iter().map(|(arrival, _)| *arrival))
                {
                    measures.settle(wall_clock_ns());
                }
            }
            if let Some(batch) = merge.take_emptied(&run) {
                give_back(run.worker, batch);
            }
        }
        // What is left waits for a worker that is silent: only then is its promise worth a wake-up.
        full.wait_for_more(!merge.is_empty());
        if full.is_empty() {
            set.flush();
        }
        if let Some(measures) = measures.as_mut().filter(|measures| !measures.is_settled()) {
            measures.settle(wall_clock_ns());
        }
        while let Some(Order::Tell(tell)) = inbox.take() {
            tell.answer(|| {
                let measured = measures.as_ref().map(WriterMeasures::arrival_to_written);
                Answer::Writer(WriterAnswer {
                    arrival_to_written: measured.cloned(),
                    late: merge.late(),
                    lost: set.lost(),
                })
            });
        }
        if set.error().is_some() {
            failed.store(true, Ordering::Relaxed);
        }
    }
    CaptureEnd {
        set,
        late: merge.late(),
        measures,
    }
}

/// Writes flow records until nobody can send any more, in the order in which packets ended them.
/// `settled` is told how many are in every file.
pub fn write_flows(
    mut files: Vec<JsonLines>,
    chunks: &Receiver<FlowChunk>,
    mut in_order: InOrder<FlowRecord>,
    failed: &AtomicBool,
    settled: &AtomicU64,
) -> FlowEnd {
    let mut error = None;
    let mut write = |records: &mut dyn Iterator<Item = FlowRecord>| {
        for record in records {
            for file in &mut files {
                if let Err(first) = file.write(&record) {
                    failed.store(true, Ordering::Relaxed);
                    error.get_or_insert(first);
                }
            }
        }
        let least = files.iter().map(JsonLines::records).min();
        settled.store(least.unwrap_or_default(), Ordering::Relaxed);
    };
    for chunk in chunks {
        let records = chunk.records.into_iter();
        let records = records.map(|record| (record.order, record));
        in_order.push(chunk.lane, records, chunk.done);
        write(&mut std::iter::from_fn(|| in_order.next()));
    }
    write(&mut in_order.rest());
    FlowEnd { files, error }
}
