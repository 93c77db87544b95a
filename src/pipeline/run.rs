//! Threads and queues: workers with nothing shared between them, one writer for the capture, one for
//! flow records, bounded queues in between.
//!
//! Live, a full queue is a counted drop and receiving goes on; in replay the reader waits.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Builder;
use std::time::Duration;

use crossbeam_channel::bounded;
use hashbrown::HashMap;

use crate::bpf::steer::Steering;
use crate::capture::merge::Merge;
use crate::capture::set::{CaptureOutError, CaptureSet, InterfaceStatistics, Settled, Written};
use crate::export::jsonl::JsonLines;
use crate::mirror::session::{Session, SessionKey};
use crate::pipeline::doorbell::doorbell;
use crate::pipeline::ending::{PATIENCE, Task};
use crate::pipeline::in_order::InOrder;
use crate::pipeline::inquiry::Answer;
use crate::pipeline::lane::{Lane, Shared};
use crate::pipeline::ledger::Ledger;
use crate::pipeline::measure::{LiveMeasures, Measured, WriterMeasures};
use crate::pipeline::orders::{Orders, orders};
use crate::pipeline::outcome::{Outcome, SinkError};
pub use crate::pipeline::outlet::WhenFull;
use crate::pipeline::outlet::{QueueOutlet, flow_lanes, queue_places};
use crate::pipeline::shares::Shares;
use crate::pipeline::spread::{Chunk, ChunkSource, Guide};
use crate::pipeline::total::Total;
use crate::pipeline::worker::{Outlet, Worker, WorkerSettings};
use crate::pipeline::writers::{CaptureEnd, FlowEnd, write_capture, write_flows};
use crate::source::Source;
use crate::source::file::{CaptureError, CaptureFile};
use crate::stop::{Stop, Why};

/// Chunks of flow records that may wait.
pub const FLOW_QUEUE: usize = 64;
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
    pub capture: Option<CaptureSet>,
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

/// Workers with their writers, ready to be fed.
pub struct Pipeline {
    lanes: Vec<Lane>,
    settings: WorkerSettings,
    steering: Steering,
    capture: Option<CaptureTask>,
    flows: Option<FlowTask>,
    /// How long the end waits for a writer without progress; `None` for as long as it takes.
    patience: Option<Duration>,
    shared: Arc<Shared>,
    orders: Orders<Answer>,
    /// Why a thread could not be started, where that happened.
    no_thread: Option<io::Error>,
    /// Records read from files that are done.
    records: u64,
}

/// The capture's writer.
struct CaptureTask {
    task: Task<CaptureEnd>,
    path: String,
    settled: Arc<Settled>,
}

/// The writer of flow records.
struct FlowTask {
    task: Task<FlowEnd>,
    path: String,
    /// Records that are in every file.
    settled: Arc<AtomicU64>,
}

impl Pipeline {
    /// Starts the writers. The flow table is shared out among the workers.
    ///
    /// # Errors
    ///
    /// When a thread cannot be started.
    pub fn start(settings: WorkerSettings, sinks: Sinks, sharing: Sharing) -> io::Result<Self> {
        let Sharing {
            steering,
            max_reorder,
            when_full,
        } = sharing;
        let workers = steering.workers.max(1) as usize;
        let shared = Arc::new(Shared {
            failed: AtomicBool::new(false),
            shares: Shares::new(),
        });
        let most = capture_queue_batches(when_full, workers);
        let (full_tx, full_rx) = doorbell(queue_places(workers, most));
        let (flow_tx, flow_rx) = bounded(FLOW_QUEUE);
        let (empty_txs, empty_rxs): (Vec<_>, Vec<_>) = (0..workers).map(|_| bounded(most)).unzip();
        let is_live = when_full == WhenFull::Drop;
        let (orders, mut inboxes) = orders(workers + usize::from(sinks.capture.is_some()));
        let for_writer = sinks.capture.and_then(|set| Some((set, inboxes.pop()?)));
        let capture = for_writer.map(|(set, inbox)| -> io::Result<CaptureTask> {
            let shared = Arc::clone(&shared);
            let max_wait = match when_full {
                WhenFull::Drop => max_reorder,
                // A file is in order however long a worker takes: it always comes, or promises.
                WhenFull::Wait => Duration::MAX,
            };
            let merge = Merge::new(workers, max_wait);
            let measures = is_live.then(WriterMeasures::default);
            Ok(CaptureTask {
                path: set.path().to_owned(),
                settled: set.settled(),
                task: Task::start("vxtap-capture", move || {
                    write_capture(
                        set,
                        merge,
                        &full_rx,
                        &empty_txs,
                        &shared.failed,
                        measures,
                        inbox,
                    )
                })?,
            })
        });
        let capture = capture.transpose()?;
        let flows = (!sinks.flows.is_empty()).then(|| -> io::Result<FlowTask> {
            let shared = Arc::clone(&shared);
            let paths: Vec<&str> = sinks.flows.iter().map(JsonLines::path).collect();
            let path = paths.join(", ");
            let settled = Arc::new(AtomicU64::new(0));
            let told = Arc::clone(&settled);
            let in_order = InOrder::new(flow_lanes(workers, when_full));
            Ok(FlowTask {
                path,
                settled,
                task: Task::start("vxtap-flows", move || {
                    write_flows(sinks.flows, &flow_rx, in_order, &shared.failed, &told)
                })?,
            })
        });
        let flows = flows.transpose()?;
        let share = |number: usize| WorkerSettings {
            max_flows: max_flows_of(number as u32, steering, settings.max_flows),
            ..settings.clone()
        };
        let lane = |(number, (empty, inbox))| Lane {
            worker: Worker::new(share(number)),
            outlet: QueueOutlet::new(
                (number, workers),
                most,
                when_full,
                full_tx.clone(),
                empty,
                flow_tx.clone(),
            ),
            logged_sessions: 0,
            // The first worker watches the clock.
            live: is_live.then(|| LiveMeasures::new(number == 0)),
            inbox,
            latest_ns: 0,
        };
        let lanes = empty_rxs.into_iter().zip(inboxes).enumerate();
        let lanes = lanes.map(lane).collect();
        Ok(Self {
            lanes,
            settings,
            steering,
            capture,
            flows,
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

    /// Whether an output has failed, or a worker's thread could not be started.
    pub fn has_failed(&self) -> bool {
        self.no_thread.is_some() || self.shared.failed.load(Ordering::Relaxed)
    }

    /// Ends the run: flows are handed out, queues emptied, files finished. `kernel_dropped` datagrams
    /// were lost before they could be received. A live run does not wait for ever for an output that
    /// takes nothing: what it did not take is lost.
    pub fn finish(self, kernel_dropped: u64) -> Outcome {
        let Self {
            lanes,
            capture,
            flows,
            patience,
            no_thread,
            ..
        } = self;
        let mut measured = Measured::default();
        let measures = lanes.iter().filter_map(|lane| lane.live.as_ref());
        measures.for_each(|live| live.add_to(&mut measured));
        let (workers, mut outlets): (Vec<_>, Vec<_>) = lanes
            .into_iter()
            .map(|lane| (lane.worker, lane.outlet))
            .unzip();
        for outlet in &mut outlets {
            outlet.wait_from_now_on(patience);
            outlet.hand_over_now();
            outlet.hand_over_flows(u64::MAX);
        }
        let total = Total::of(workers);
        let mut ledger = total.ledger.clone();
        measured.merge(&total.measured);
        if let Some(outlet) = outlets.first_mut().filter(|_| flows.is_some()) {
            for record in total.records() {
                outlet.flow(record);
            }
        }
        let (mut flow_records, mut flow_records_dropped) = (0, 0);
        for outlet in &mut outlets {
            outlet.hand_over_flows(u64::MAX);
            let (handed_over, dropped) = outlet.flow_records();
            flow_records += handed_over;
            flow_records_dropped += dropped;
        }
        // The writers end when nobody can send to them any more.
        drop(outlets);
        let mut errors: Vec<_> = no_thread.map(SinkError::NoThread).into_iter().collect();
        let mut written = None;
        if let Some(CaptureTask {
            task,
            path,
            settled,
        }) = capture
        {
            let of_session = |session: &Session| InterfaceStatistics {
                received: session.packets,
                kernel_dropped,
                queue_dropped: session.capture_dropped,
                first_ns: session.first_ns,
                last_ns: session.last_ns,
            };
            let sessions = total.sessions.iter();
            let statistics: Statistics = sessions
                .map(|session| (session.key, of_session(session)))
                .collect();
            let end = task.wait(patience, || settled.packets());
            let finished = end.and_then(|end| {
                let synced = end.set.synced();
                let finish = move || FinishedCapture::of(end, &statistics);
                Task::start("vxtap-capture", finish)
                    .ok()?
                    .wait(patience, || synced.load(Ordering::Relaxed))
            });
            match finished {
                Some(end) => {
                    measured.merge(&Measured {
                        arrival_to_written: end
                            .measures
                            .map(|measures| measures.arrival_to_written().clone()),
                        ..Measured::default()
                    });
                    ledger.lose_written(end.lost);
                    ledger.note_late(end.late);
                    errors.extend(end.error.map(SinkError::from));
                    written = end.written;
                }
                None => {
                    let (packets, bytes) = (settled.packets(), settled.bytes());
                    ledger.lose_written(ledger.delivered.saturating_sub(packets));
                    errors.push(SinkError::Stuck { path: path.clone() });
                    written = Some(Written {
                        path,
                        packets,
                        bytes,
                    });
                }
            }
        }
        let mut flow_files = Vec::new();
        if let Some(FlowTask {
            task,
            path,
            settled,
        }) = flows
        {
            let handed_over = flow_records;
            let written = || settled.load(Ordering::Relaxed);
            let end = task.wait(patience, written);
            let finished = end.and_then(|FlowEnd { files, error }| {
                errors.extend(error.map(SinkError::from));
                let synced: Vec<_> = files.iter().map(JsonLines::synced).collect();
                let finish = move || files.into_iter().map(JsonLines::finish).collect();
                let progress = || {
                    let counts = synced.iter().map(|count| count.load(Ordering::Relaxed));
                    counts.sum()
                };
                Task::start("vxtap-flows", finish)
                    .ok()?
                    .wait(patience, progress)
            });
            let finished: Vec<_> = finished.unwrap_or_else(|| {
                errors.push(SinkError::Stuck { path });
                flow_records = flow_records.min(written());
                Vec::new()
            });
            for file in finished {
                match file {
                    Ok((file, error)) => {
                        errors.extend(error.map(SinkError::from));
                        flow_records = flow_records.min(file.records);
                        flow_files.push(file);
                    }
                    Err(error) => {
                        flow_records = 0;
                        errors.push(error.into());
                    }
                }
            }
            // A record is written when every file has it.
            flow_records_dropped += handed_over - flow_records;
        }
        Outcome {
            ledger,
            sessions: total.sessions,
            other_ports: total.other_ports,
            not_allowed: total.strangers.most(),
            capture: written,
            flow_files,
            flow_records,
            flow_records_dropped,
            received: total.received,
            flows_joined: total.flows_joined,
            measured,
            kernel_counters: None,
            errors,
        }
    }
}

/// The thread of worker `number`, to be started.
fn worker_thread(number: usize) -> Builder {
    Builder::new().name(format!("vxtap-{number}"))
}

type Statistics = HashMap<SessionKey, InterfaceStatistics, foldhash::fast::RandomState>;

/// A capture that has been ended.
struct FinishedCapture {
    late: u64,
    measures: Option<WriterMeasures>,
    lost: u64,
    error: Option<CaptureOutError>,
    written: Option<Written>,
}

impl FinishedCapture {
    fn of(end: CaptureEnd, statistics: &Statistics) -> Self {
        let CaptureEnd {
            mut set,
            late,
            measures,
        } = end;
        set.flush();
        let (lost, mut error) = (set.lost(), set.take_error());
        let written = match set.finish(|key| statistics.get(&key).copied()) {
            Ok(file) => Some(file),
            Err(last) => {
                error.get_or_insert(last);
                None
            }
        };
        Self {
            late,
            measures,
            lost,
            error,
            written,
        }
    }
}
