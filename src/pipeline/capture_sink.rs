//! The capture as a sink: batches of all workers are merged by time, written, and go back empty.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::annotations::Annotations;
use super::answers::{Answer, WriterAnswer};
use super::capture_notes::CaptureNotes;
use super::learned::Directions;
use super::measure::WriterMeasures;
use super::orders::{Inbox, Order};
use super::queues::FromWorker;
use super::sink::Sink;
use crate::capture::merge::Merge;
use crate::capture::output::Output;
use crate::outfile::{OutError, Standing};
use crate::pcap::record::Batch;
use crate::stop::wall_clock_ns;

/// How often batches that wait for a silent worker are looked at.
const TICK: Duration = Duration::from_millis(5);
/// How often a sink without work looks for orders.
const LOOK: Duration = Duration::from_millis(100);

/// The capture's way from the workers to the file.
pub struct CaptureSink {
    /// The file.
    pub writer: Output,
    /// Brings batches into order.
    pub merge: Merge,
    /// Tells directions by what was learned of hardware addresses; `None` where records have no room for them.
    pub directions: Option<Directions>,
    /// What an input says about its packets, where it is carried.
    pub annotations: Option<Annotations>,
    /// For each worker, the way back for its empty batches.
    pub empty: Vec<Sender<Batch>>,
    /// How long records took, where they came live: there their places are times of arrival.
    pub measures: Option<WriterMeasures>,
    /// Where they go at the end.
    pub measured: Sender<WriterMeasures>,
    /// Its orders.
    pub inbox: Inbox<Answer>,
    /// What is told to those outside.
    pub notes: Arc<CaptureNotes>,
}

impl CaptureSink {
    fn give_back(&self, worker: usize, mut batch: Batch) {
        // A promise had no buffer to begin with.
        if batch.bytes.capacity() > 0 {
            batch.clear();
            // There is room for every batch that exists; when its worker is gone nobody needs it.
            if let Some(empty) = self.empty.get(worker) {
                let _ = empty.try_send(batch);
            }
        }
    }

    /// Writes what may leave at `now`.
    fn write_runs(&mut self, now: Duration) {
        while let Some(run) = self.merge.next_run(now) {
            if let Some(batch) = self.merge.batch(&run) {
                let records = run.records.clone();
                if let Some(directions) = &mut self.directions {
                    directions.settle(run.worker, batch, records.clone());
                }
                match &mut self.annotations {
                    None => self.writer.append(run.worker, batch, records),
                    Some(annotations) => {
                        annotations.append(&mut self.writer, run.worker, batch, records);
                    }
                }
                let records = batch.records.get(run.records.clone()).unwrap_or_default();
                if let Some(measures) = &mut self.measures
                    && !self.writer.has_failed()
                    && measures.gave(records.iter().map(|record| record.place))
                {
                    measures.settle(wall_clock_ns());
                }
            }
            if let Some(batch) = self.merge.take_emptied(&run) {
                self.give_back(run.worker, batch);
            }
        }
        self.notes.tell(self.merge.behind());
    }

    fn settle_measures(&mut self) {
        if let Some(measures) = self.measures.as_mut()
            && !measures.is_settled()
        {
            measures.settle(wall_clock_ns());
        }
    }
}

impl Sink for CaptureSink {
    type Item = FromWorker;

    fn take(&mut self, (worker, batch): FromWorker, now: Duration) {
        if let Some(directions) = &mut self.directions {
            directions.introduce(worker, &batch.new_sessions);
        }
        if let Some(mut promise) = self.merge.push(worker, batch, now) {
            self.writer.tell_no_room(worker, &mut promise);
            self.give_back(worker, promise);
        }
    }

    fn tick(&mut self, now: Duration, is_idle: bool) {
        self.write_runs(now);
        if is_idle {
            self.writer.flush();
        }
        let notes = &self.notes;
        self.writer
            .tick(now, wall_clock_ns, || notes.kernel_dropped_so_far());
        self.settle_measures();
        while let Some(order) = self.inbox.take() {
            match order {
                Order::Tell(tell) => {
                    let measured = self.measures.as_ref();
                    let measured = measured.map(WriterMeasures::arrival_to_written);
                    tell.answer(|| {
                        Answer::Writer(WriterAnswer {
                            arrival_to_written: measured.cloned(),
                        })
                    });
                }
                Order::Rotate => self.writer.rotate(),
                Order::Change(changing) => self.writer.change(&changing.change.terms),
            }
        }
    }

    fn look_for_reader(&mut self) {
        self.writer.look_for_reader();
    }

    fn sleeps(&self) -> Option<Duration> {
        Some(if self.merge.is_empty() { LOOK } else { TICK })
    }

    fn waits_for_more(&self) -> bool {
        !self.merge.is_empty()
    }

    fn standing(&self) -> Standing {
        self.writer.standing()
    }

    fn take_error(&mut self) -> Option<OutError> {
        self.writer.take_error()
    }

    fn close(&mut self, now: Duration) {
        self.merge.end();
        self.write_runs(now);
        if let Some(annotations) = &mut self.annotations {
            annotations.end(&mut self.writer);
            let _ = self.notes.annotations.set(annotations.written());
        }
        self.tick(now, true);
        self.writer
            .close(self.notes.kernel_dropped.load(Ordering::Relaxed));
    }

    fn finish(mut self) -> Result<(String, u64), OutError> {
        if let Some(measures) = self.measures.take() {
            let _ = self.measured.try_send(measures);
        }
        let kernel_dropped = self.notes.kernel_dropped.load(Ordering::Relaxed);
        self.writer.finish(kernel_dropped)
    }
}
