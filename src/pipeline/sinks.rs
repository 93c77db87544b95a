//! The sinks of a run together: started with their queues, watched, and their accounts closed at the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::capture_sink::{CaptureNotes, CaptureSink};
use super::doorbell::{Callers, Sleeper, doorbell};
use super::ending::Patience;
use super::flow_sink::{FlowChunk, FlowSink, flow_lanes};
use super::inquiry::Answer;
use super::measure::{Distribution, WriterMeasures};
use super::orders::Inbox;
use super::outlet::{FromWorker, Offers, QueueOutlet, WhenFull, queue_places};
use super::run::{FLOW_QUEUE, Sharing, Sinks, capture_queue_batches};
use super::sink::{Account, Kind, Running, Watch, Working};
use crate::capture::merge::{Behind, Merge};
use crate::pcap::record::Batch;

/// The sinks of a run, at work.
pub struct SinkSet {
    /// The capture first.
    running: Vec<Running>,
    /// What the capture's sink is told and tells beside its account.
    notes: Arc<CaptureNotes>,
    measured: Receiver<WriterMeasures>,
}

/// The ways from the workers to the sinks.
pub struct Queues {
    /// Batches that each worker has for the capture.
    pub most: usize,
    /// The queue to the capture's sink.
    pub full: Callers<FromWorker>,
    /// For each worker, the way back of empty batches.
    pub empty: Vec<Receiver<Batch>>,
    /// The queue of each flow file.
    pub flows: Vec<Callers<Arc<FlowChunk>>>,
}

/// What the sinks came to.
pub struct Closed {
    /// The account of each, the capture first.
    pub accounts: Vec<Account>,
    /// Flow records made.
    pub flow_records: u64,
    /// Records that were written behind later ones.
    pub behind: Behind,
    /// From the kernel's time of arrival until the record was given to the capture file.
    pub arrival_to_written: Option<Distribution>,
}

impl SinkSet {
    /// Starts a thread for each sink. The capture's takes its orders from `inbox`.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(
        sinks: Sinks,
        sharing: Sharing,
        inbox: Option<Inbox<Answer>>,
        working: &Arc<Working>,
    ) -> io::Result<(Self, Queues)> {
        let workers = sharing.steering.workers.max(1) as usize;
        let most = capture_queue_batches(sharing.when_full, workers);
        let (full, full_rx) = doorbell(queue_places(workers, most));
        let (empty_txs, empty): (Vec<_>, Vec<_>) = (0..workers).map(|_| bounded(most)).unzip();
        let (measures_tx, measured) = bounded(1);
        let notes = Arc::new(CaptureNotes::default());
        let mut running = Vec::new();
        if let Some((writer, inbox)) = sinks.capture.zip(inbox) {
            let sink = CaptureSink {
                merge: Merge::new(workers, max_wait(sharing)),
                empty: empty_txs,
                measures: (sharing.when_full == WhenFull::Drop).then(WriterMeasures::default),
                measured: measures_tx,
                inbox,
                notes: Arc::clone(&notes),
                writer,
            };
            running.push(start_capture(sink, full_rx, working)?);
        }
        let lanes = flow_lanes(workers, sharing.when_full);
        let mut flows = Vec::new();
        for file in sinks.flows {
            let (queue, queue_rx) = doorbell(FLOW_QUEUE);
            let (path, synced) = (file.file().path().to_owned(), file.file().synced());
            let sink = FlowSink::new(file, lanes);
            let started = Running::start(Kind::Flows, &path, synced, sink, queue_rx, working);
            running.push(started?);
            flows.push(queue);
        }
        let set = Self {
            running,
            notes,
            measured,
        };
        let queues = Queues {
            most,
            full,
            empty,
            flows,
        };
        Ok((set, queues))
    }

    /// What the sinks have done so far, for those who ask while the run goes on.
    pub fn watch(&self) -> Watch {
        Watch::of(&self.running)
    }

    /// Waits for the sinks to end and closes their accounts. `outlets` have handed over what they had;
    /// `delivered` frames were there for a capture, and `kernel_dropped` datagrams never came.
    pub fn finish(
        self,
        outlets: Vec<QueueOutlet>,
        delivered: u64,
        kernel_dropped: u64,
        patience: &mut Patience<'_>,
    ) -> Closed {
        let Self {
            running,
            notes,
            measured,
        } = self;
        notes
            .kernel_dropped
            .store(kernel_dropped, Ordering::Relaxed);
        let (offers, flows_no_room) = offered(&outlets);
        // The sinks end when nobody can send to them any more.
        drop(outlets);
        let mut flows_no_room = flows_no_room.into_iter();
        let finish = |sink: Running| match sink.kind() {
            Kind::Capture => sink.finish(delivered, offers.capture_no_room, patience),
            Kind::Flows => {
                let no_room = flows_no_room.next().unwrap_or_default();
                sink.finish(offers.flow_records, no_room, patience)
            }
        };
        let accounts = running.into_iter().map(finish).collect();
        let measures = measured.try_recv().ok();
        Closed {
            accounts,
            flow_records: offers.flow_records,
            behind: notes.behind(),
            arrival_to_written: measures.map(|measures| measures.arrival_to_written().clone()),
        }
    }
}

fn start_capture(
    sink: CaptureSink,
    queue: Sleeper<FromWorker>,
    working: &Arc<Working>,
) -> io::Result<Running> {
    let file = sink.writer.file();
    let (path, synced) = (file.path().to_owned(), file.synced());
    Running::start(Kind::Capture, &path, synced, sink, queue, working)
}

/// How long a worker that keeps silent is waited for. A file is in order however long one takes: it always
/// comes, or promises.
const fn max_wait(sharing: Sharing) -> Duration {
    match sharing.when_full {
        WhenFull::Drop => sharing.max_reorder,
        WhenFull::Wait => Duration::MAX,
    }
}

/// What all workers had for the sinks, and for each flow sink what its queue had no room for.
fn offered(outlets: &[QueueOutlet]) -> (Offers, Vec<u64>) {
    let mut offers = Offers::default();
    let mut no_room: Vec<u64> = Vec::new();
    for outlet in outlets {
        offers.merge(outlet.offers());
        for (at, records) in outlet.flows_without_room().enumerate() {
            no_room.resize(no_room.len().max(at + 1), 0);
            if let Some(sum) = no_room.get_mut(at) {
                *sum += records;
            }
        }
    }
    (offers, no_room)
}
