//! Threads and queues: workers with nothing shared between them, a sink for the capture and one for each
//! flow file, bounded queues in between.
//!
//! Live, a full queue is a counted drop and receiving goes on; in replay the reader waits.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::bpf::steer::Steering;
use crate::capture::merge::Merge;
use crate::capture::writer::CaptureWriter;
use crate::export::jsonl::JsonLines;
use crate::pcap::record::Batch;
use crate::pipeline::capture_sink::{CaptureNotes, CaptureSink};
use crate::pipeline::doorbell::{Callers, doorbell};
use crate::pipeline::ending::{PATIENCE, Patience};
use crate::pipeline::flow_sink::{FlowChunk, FlowSink, flow_lanes};
use crate::pipeline::inquiry::Answer;
use crate::pipeline::lane::{Lane, Meeting, Shared};
use crate::pipeline::ledger::{Ledger, Noted};
use crate::pipeline::measure::{LiveMeasures, Measured, WriterMeasures};
use crate::pipeline::orders::{Inbox, Orders, orders};
use crate::pipeline::outcome::Outcome;
pub use crate::pipeline::outlet::WhenFull;
use crate::pipeline::outlet::{FlowQueue, FromWorker, Offers, QueueOutlet, queue_places};
use crate::pipeline::shares::Shares;
use crate::pipeline::sink::{Account, Kind, Running, SinkError, Watch, Working};
use crate::pipeline::spread::{Chunk, ChunkSource, Guide};
use crate::pipeline::total::Total;
use crate::pipeline::worker::{Worker, WorkerSettings};
use crate::source::Source;
use crate::source::file::{CaptureError, CaptureFile};
use crate::stop::{Stop, Why};

/// Chunks of flow records that may wait.
pub const FLOW_QUEUE: usize = 32;
/// Chunks of a file on their way to the workers.
const CHUNKS: usize = 4;

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

/// Where the results go.
#[derive(Default)]
pub struct Sinks {
    /// The capture.
    pub capture: Option<CaptureWriter>,
    /// Flow records.
    pub flows: Vec<JsonLines>,
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

/// Workers with their sinks, ready to be fed.
pub struct Pipeline {
    lanes: Vec<Lane>,
    settings: WorkerSettings,
    steering: Steering,
    sinks: Vec<Running>,
    /// What the capture's sink is told and tells beside its account.
    capture_notes: Arc<CaptureNotes>,
    measured: Receiver<WriterMeasures>,
    /// How long the end waits for sinks without progress; `None` for as long as it takes.
    patience: Option<Duration>,
    shared: Arc<Shared>,
    orders: Orders<Answer>,
    /// Why a thread could not be started, where that happened.
    no_thread: Option<io::Error>,
    /// Records read from files that are done.
    records: u64,
}

/// The queue to the capture's sink, and back.
struct CaptureQueue {
    /// Batches that each worker has.
    most: usize,
    full: Callers<FromWorker>,
    empty: Vec<Receiver<Batch>>,
}

impl Pipeline {
    /// Starts the sinks. The flow table is shared out among the workers.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(settings: WorkerSettings, sinks: Sinks, sharing: Sharing) -> io::Result<Self> {
        let Sharing {
            steering,
            when_full,
            ..
        } = sharing;
        let workers = steering.workers.max(1) as usize;
        let is_live = when_full == WhenFull::Drop;
        let working = Arc::new(Working::default());
        let capture_notes = Arc::new(CaptureNotes::default());
        let (orders, mut inboxes) = orders(workers + usize::from(sinks.capture.is_some()));
        let (measures_tx, measured) = bounded(1);
        let mut running = Vec::new();
        let for_capture = sinks.capture.and_then(|capture| {
            let notes = Arc::clone(&capture_notes);
            Some((capture, inboxes.pop()?, notes, measures_tx))
        });
        let (queue, capture) = start_capture(for_capture, sharing, &working)?;
        running.extend(capture);
        let (queues, flows) = start_flows(sinks.flows, flow_lanes(workers, when_full), &working)?;
        running.extend(flows);
        let shared = Arc::new(Shared {
            failed: AtomicBool::new(false),
            working,
            shares: Shares::new(),
            meeting: Meeting::default(),
        });
        let lane = |(number, (empty, inbox))| Lane {
            worker: Worker::new(WorkerSettings {
                max_flows: max_flows_of(number as u32, steering, settings.max_flows),
                ..settings.clone()
            }),
            outlet: QueueOutlet::new(
                (number, workers),
                queue.most,
                when_full,
                queue.full.clone(),
                empty,
                queues.iter().cloned().map(FlowQueue::new).collect(),
            ),
            logged_sessions: 0,
            // The first worker watches the clock.
            live: is_live.then(|| LiveMeasures::new(number == 0)),
            inbox,
            latest_ns: 0,
            highest_ns: 0,
        };
        let lanes = queue.empty.into_iter().zip(inboxes).enumerate();
        Ok(Self {
            lanes: lanes.map(lane).collect(),
            settings,
            steering,
            sinks: running,
            capture_notes,
            measured,
            patience: is_live.then_some(PATIENCE),
            shared,
            orders,
            no_thread: None,
            records: 0,
        })
    }

    /// What gives its threads orders while it runs; [`crate::pipeline::inquiry::Interim::ask`] does.
    pub fn orders(&self) -> Orders<Answer> {
        self.orders.clone()
    }

    /// Feeds each worker from a source of its own, on a thread of its own, until all end, `stop` is set,
    /// `count` frames are delivered or an output fails. Stopped sources are emptied first of what arrived until
    /// then. `pin` is called on each thread with the worker's number.
    ///
    /// # Errors
    ///
    /// The first source's that failed. What came before the error is kept.
    pub fn feed<S: Source<Error: Send> + Send>(
        &mut self,
        sources: &mut [S],
        stop: &Stop,
        count: Option<u64>,
        pin: impl Fn(usize) + Sync,
    ) -> Result<(), S::Error> {
        let Self {
            lanes,
            shared,
            no_thread,
            ..
        } = self;
        shared.shares.want(count);
        shared.meeting.await_workers(lanes.len().min(sources.len()));
        let pin = &pin;
        std::thread::scope(|scope| {
            let _others_end = shared.fails_with_panic();
            let mut pairs = lanes.iter_mut().zip(sources).enumerate();
            // The first worker stays on this thread.
            let first = pairs.next();
            let mut others = Vec::new();
            for (number, (lane, source)) in pairs {
                let shared: &Shared = shared;
                let started = worker_thread(number).spawn_scoped(scope, move || {
                    let _others_end = shared.fails_with_panic();
                    pin(number);
                    lane.run(source, stop, shared)
                });
                match started {
                    Ok(other) => others.push(other),
                    Err(error) => {
                        *no_thread = Some(error);
                        stop.order(Why::Fault);
                        break;
                    }
                }
            }
            let mut outcome = match first {
                Some((number, (lane, source))) => {
                    pin(number);
                    lane.run(source, stop, shared)
                }
                None => Ok(()),
            };
            for other in others {
                // A panic goes on here: it is a defect, and a run that hid it would claim too much.
                let ended = other.join().unwrap_or_else(|panic| resume_unwind(panic));
                outcome = outcome.and(ended);
            }
            outcome
        })
    }

    /// Feeds the workers from a capture file, until `stop` is set.
    ///
    /// # Errors
    ///
    /// The file's. What came before the error is kept.
    pub fn replay(&mut self, file: &mut CaptureFile, stop: &Stop) -> Result<(), CaptureError> {
        file.number_from(self.records);
        let outcome = if self.lanes.len() == 1 {
            self.feed(std::slice::from_mut(file), stop, None, |_| {})
        } else {
            self.spread(file, stop)
        };
        self.records += file.packets();
        outcome
    }

    /// Reads a file on this thread and lets the workers, each on its own, do the rest.
    fn spread(&mut self, file: &mut CaptureFile, stop: &Stop) -> Result<(), CaptureError> {
        let Self {
            lanes,
            settings,
            steering,
            shared,
            no_thread,
            ..
        } = self;
        shared.shares.want(None);
        // What was read is worked on.
        let never = Stop::new();
        let (empty_tx, empty_rx) = bounded(CHUNKS);
        let mut guide = Guide::new(*steering, settings.tunnels.clone(), settings.plain);
        std::thread::scope(|scope| {
            let mut queues = Vec::new();
            for (number, lane) in lanes.iter_mut().enumerate() {
                let (chunk_tx, chunk_rx) = bounded(CHUNKS);
                let (shared, never): (&Shared, _) = (shared, &never);
                let empty_tx = empty_tx.clone();
                let started = worker_thread(number).spawn_scoped(scope, move || {
                    let number = u32::try_from(number).unwrap_or(u32::MAX);
                    let mut source = ChunkSource::new(number, chunk_rx, empty_tx);
                    lane.run(&mut source, never, shared)
                });
                if let Err(error) = started {
                    *no_thread = Some(error);
                    return Ok(());
                }
                queues.push(chunk_tx);
            }
            let pass_on = |chunk: Chunk| {
                let chunk = Arc::new(chunk);
                queues
                    .iter()
                    .all(|queue| queue.send(Arc::clone(&chunk)).is_ok())
            };
            let mut chunk = Chunk::default();
            let outcome = loop {
                if stop.is_set() {
                    break Ok(());
                }
                let record = match file.next_record() {
                    Ok(Some(record)) => record,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                };
                chunk.add(guide.worker_for(&record), &record);
                // From a pipe, what is here is worked on before more is waited for.
                if chunk.is_full() || file.may_wait() {
                    let mut next = empty_rx.try_recv().unwrap_or_default();
                    next.clear();
                    if !pass_on(std::mem::replace(&mut chunk, next)) {
                        break Ok(());
                    }
                }
            };
            if !chunk.is_empty() {
                pass_on(chunk);
            }
            outcome
        })
    }

    /// The accounting so far.
    pub fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for lane in &self.lanes {
            ledger.merge(lane.worker.ledger());
        }
        ledger
    }

    /// Whether nothing can come of the run any more: there were sinks and none works, or a worker's thread could
    /// not be started.
    pub fn has_failed(&self) -> bool {
        self.no_thread.is_some() || self.shared.working.is_none_left()
    }

    /// What the sinks have done so far, for those who ask while the run goes on.
    pub fn watch(&self) -> Watch {
        Watch::of(&self.sinks)
    }

    /// Ends the run: flows are handed out, queues emptied, files finished. `kernel_dropped` datagrams
    /// were lost before they could be received. A live run does not wait for ever for an output that
    /// takes nothing: what it did not take is lost.
    pub fn finish(self, kernel_dropped: u64) -> Outcome {
        let Self {
            lanes,
            sinks,
            patience,
            no_thread,
            capture_notes,
            ..
        } = self;
        capture_notes
            .kernel_dropped
            .store(kernel_dropped, Ordering::Relaxed);
        let mut measured = Measured::default();
        let measures = lanes.iter().filter_map(|lane| lane.live.as_ref());
        measures.for_each(|live| live.add_to(&mut measured));
        let steps = {
            let watch = Watch::of(&sinks);
            move || watch.steps()
        };
        let mut patience = Patience::new(patience, &steps);
        let lanes = lanes.into_iter().map(|lane| (lane.worker, lane.outlet));
        let (workers, mut outlets): (Vec<_>, Vec<_>) = lanes.unzip();
        for outlet in &mut outlets {
            outlet.end(&mut patience);
        }
        let total = Total::of(workers);
        let mut ledger = total.ledger.clone();
        measured.merge(&total.measured);
        if let Some(outlet) = outlets.first_mut().filter(|_| self.settings.flows) {
            for record in total.records() {
                outlet.last_flow(record, &mut patience);
            }
            outlet.end_flows(&mut patience);
        }
        let (offers, flows_no_room) = offered(&outlets);
        // The sinks end when nobody can send to them any more.
        drop(outlets);
        let mut flows_no_room = flows_no_room.into_iter();
        let finish = |sink: Running| match sink.kind() {
            Kind::Capture => sink.finish(ledger.delivered, offers.capture_no_room, &mut patience),
            Kind::Flows => {
                let no_room = flows_no_room.next().unwrap_or_default();
                sink.finish(offers.flow_records, no_room, &mut patience)
            }
        };
        let sinks: Vec<Account> = sinks.into_iter().map(finish).collect();
        let behind = capture_notes.behind();
        ledger.note_many(Noted::Late, behind.late);
        ledger.note_many(Noted::OutOfOrder, behind.out_of_order);
        if let Ok(measures) = self.measured.try_recv() {
            measured.arrival_to_written = Some(measures.arrival_to_written().clone());
        }
        Outcome {
            ledger,
            sessions: total.sessions,
            other_ports: total.other_ports,
            not_allowed: total.strangers.most(),
            sinks,
            flow_records: offers.flow_records,
            received: total.received,
            flows_joined: total.flows_joined,
            measured,
            kernel_counters: None,
            thread_fault: no_thread.map(SinkError::NoThread),
        }
    }
}

/// The thread of worker `number`, to be started.
fn worker_thread(number: usize) -> Builder {
    Builder::new().name(format!("vxtap-{number}"))
}

/// What the sink of the capture is made of: the file, its orders, what is told beside, and where its measures
/// go.
type ForCapture = (
    CaptureWriter,
    Inbox<Answer>,
    Arc<CaptureNotes>,
    crossbeam_channel::Sender<WriterMeasures>,
);

/// Starts the capture's sink, if there is one, and the queue to it.
fn start_capture(
    capture: Option<ForCapture>,
    sharing: Sharing,
    working: &Arc<Working>,
) -> io::Result<(CaptureQueue, Option<Running>)> {
    let Sharing {
        steering,
        max_reorder,
        when_full,
    } = sharing;
    let workers = steering.workers.max(1) as usize;
    let most = capture_queue_batches(when_full, workers);
    let (full, full_rx) = doorbell(queue_places(workers, most));
    let (empty_txs, empty): (Vec<_>, Vec<_>) = (0..workers).map(|_| bounded(most)).unzip();
    let queue = CaptureQueue { most, full, empty };
    let Some((writer, inbox, notes, measured)) = capture else {
        return Ok((queue, None));
    };
    let max_wait = match when_full {
        WhenFull::Drop => max_reorder,
        // A file is in order however long a worker takes: it always comes, or promises.
        WhenFull::Wait => Duration::MAX,
    };
    let (path, synced) = (writer.path().to_owned(), writer.synced());
    let sink = CaptureSink {
        writer,
        merge: Merge::new(workers, max_wait),
        empty: empty_txs,
        measures: (when_full == WhenFull::Drop).then(WriterMeasures::default),
        measured,
        inbox,
        notes,
    };
    let running = Running::start(Kind::Capture, &path, synced, sink, full_rx, working)?;
    Ok((queue, Some(running)))
}

/// Puts chunks of flow records into the queue of one sink.
type FlowCallers = Callers<Arc<FlowChunk>>;

/// Starts a sink for each flow file; the queues to them are in the same order.
fn start_flows(
    files: Vec<JsonLines>,
    lanes: usize,
    working: &Arc<Working>,
) -> io::Result<(Vec<FlowCallers>, Vec<Running>)> {
    let (mut queues, mut running) = (Vec::new(), Vec::new());
    for file in files {
        let (queue, queue_rx) = doorbell(FLOW_QUEUE);
        let (path, synced) = (file.path().to_owned(), file.synced());
        let sink = FlowSink::new(file, lanes);
        running.push(Running::start(
            Kind::Flows,
            &path,
            synced,
            sink,
            queue_rx,
            working,
        )?);
        queues.push(queue);
    }
    Ok((queues, running))
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
