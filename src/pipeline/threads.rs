//! Threads and queues: a worker on the thread that receives, one writer for the capture, one for flow
//! records, bounded queues between them.
//!
//! Live, a full queue is a counted drop and receiving goes on; in replay the reader waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use hashbrown::HashMap;

use crate::capture::encode::{BATCH_LEN, Batch};
use crate::capture::set::{CaptureOutError, CaptureSet, InterfaceStatistics, Written};
use crate::export::jsonl::{FlowFile, JsonLines};
use crate::flow::record::FlowRecord;
use crate::mirror::session::{Session, SessionKey};
use crate::outfile::OutError;
use crate::pipeline::ledger::Ledger;
use crate::pipeline::worker::{OtherPort, Outlet, Worker, WorkerSettings};
use crate::source::{Progress, Source};

/// Flow records handed over at a time.
const FLOW_CHUNK: usize = 128;
/// Chunks of flow records that may wait.
const FLOW_QUEUE: usize = 64;
/// A batch is handed over when it is this old, so that a quiet link reaches the file.
const MAX_BATCH_AGE: Duration = Duration::from_millis(20);
/// How long a stopped run goes on emptying its source.
const MAX_DRAIN: Duration = Duration::from_secs(1);

/// What a full queue means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait: a file can be read later.
    Wait,
    /// Drop and count: the network does not wait.
    Drop,
}

/// Buffers between a worker and the capture writer.
pub const fn capture_queue_batches(when_full: WhenFull) -> usize {
    match when_full {
        WhenFull::Wait => 8,
        WhenFull::Drop => 256,
    }
}

/// Bytes the capture queue may take, for the memory line printed at start.
pub const fn capture_queue_bytes(when_full: WhenFull) -> usize {
    capture_queue_batches(when_full) * BATCH_LEN
}

/// Where the results go.
#[derive(Default)]
pub struct Sinks {
    /// The capture.
    pub capture: Option<CaptureSet>,
    /// Flow records.
    pub flows: Vec<JsonLines>,
}

/// What a run came to.
pub struct Outcome {
    /// The accounting, closed.
    pub ledger: Ledger,
    /// Every mirror session, by source and VNI.
    pub sessions: Vec<Session>,
    /// UDP traffic that went elsewhere.
    pub other_ports: Vec<OtherPort>,
    /// The capture file, if one was written.
    pub capture: Option<Written>,
    /// Flow files.
    pub flow_files: Vec<FlowFile>,
    /// Flow records written to every flow file.
    pub flow_records: u64,
    /// Flow records that found no room in their queue or could not be written.
    pub flow_records_dropped: u64,
    /// What went wrong while writing.
    pub errors: Vec<SinkError>,
}

/// An output that failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SinkError {
    #[error("capture: {0}")]
    Capture(#[from] CaptureOutError),
    #[error("flow records: {0}")]
    Flows(#[from] OutError),
}

impl SinkError {
    /// The reader of a pipe went away: the end of the run, not a fault.
    pub fn is_closed_pipe(&self) -> bool {
        let out = match self {
            Self::Capture(CaptureOutError::Out(out)) | Self::Flows(out) => out,
            Self::Capture(_) => return false,
        };
        matches!(out, OutError::Write { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// A worker with its writers, ready to be fed.
pub struct Pipeline {
    worker: Worker,
    outlet: QueueOutlet,
    capture: Option<JoinHandle<CaptureEnd>>,
    flows: Option<JoinHandle<FlowEnd>>,
    failed: Arc<AtomicBool>,
    /// Sessions the log has heard of.
    logged_sessions: usize,
}

struct CaptureEnd {
    set: CaptureSet,
    lost: u64,
    error: Option<CaptureOutError>,
}

struct FlowEnd {
    files: Vec<JsonLines>,
    error: Option<OutError>,
}

impl Pipeline {
    /// Starts the writers.
    pub fn start(settings: WorkerSettings, sinks: Sinks, when_full: WhenFull) -> Self {
        let failed = Arc::new(AtomicBool::new(false));
        let most = capture_queue_batches(when_full);
        let (full_tx, full_rx) = bounded(most);
        let (empty_tx, empty_rx) = bounded(most);
        let (flow_tx, flow_rx) = bounded(FLOW_QUEUE);
        let capture = sinks.capture.map(|set| {
            let failed = Arc::clone(&failed);
            std::thread::spawn(move || write_capture(set, &full_rx, &empty_tx, &failed))
        });
        let flows = (!sinks.flows.is_empty()).then(|| {
            let failed = Arc::clone(&failed);
            std::thread::spawn(move || write_flows(sinks.flows, &flow_rx, &failed))
        });
        let outlet = QueueOutlet {
            current: if capture.is_some() {
                Batch::with_room()
            } else {
                Batch::default()
            },
            begun: None,
            allocated: 1,
            most,
            full: full_tx,
            empty: empty_rx,
            when_full,
            flow_chunk: Vec::new(),
            flows: flow_tx,
            flow_records: 0,
            flow_records_dropped: 0,
        };
        Self {
            worker: Worker::new(settings),
            outlet,
            capture,
            flows,
            failed,
            logged_sessions: 0,
        }
    }

    /// Feeds the worker from `source` until it ends, `stop` is set, `count` frames are delivered or an
    /// output fails. A stopped source is emptied first.
    ///
    /// # Errors
    ///
    /// The source's. What came before the error is kept.
    #[allow(
        clippy::disallowed_methods,
        reason = "one clock call a batch, to hand over batches that grow old"
    )]
    pub fn feed<S: Source>(
        &mut self,
        source: &mut S,
        stop: &AtomicBool,
        count: Option<u64>,
    ) -> Result<(), S::Error> {
        let Self {
            worker,
            outlet,
            failed,
            logged_sessions,
            ..
        } = self;
        let mut stopped_at = None;
        loop {
            let wanted = count.map_or(u64::MAX, |count| {
                count.saturating_sub(worker.ledger().delivered)
            });
            if wanted == 0 || failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let most = usize::try_from(wanted).unwrap_or(usize::MAX);
            let progress = source.next_batch(most, |arrival| worker.take(&arrival, outlet))?;
            let now = Instant::now();
            log_new_sessions(worker, logged_sessions);
            match progress {
                Progress::Batch => outlet.hand_over_if_old(now),
                Progress::Idle | Progress::End => outlet.hand_over_now(),
            }
            if stop.load(Ordering::Relaxed) {
                let since = now - *stopped_at.get_or_insert(now);
                if progress == Progress::Idle
                    || since >= MAX_DRAIN
                    || outlet.when_full == WhenFull::Wait
                {
                    return Ok(());
                }
            }
            if progress == Progress::End {
                return Ok(());
            }
        }
    }

    /// The accounting so far.
    pub const fn ledger(&self) -> &Ledger {
        self.worker.ledger()
    }

    /// Whether an output has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Ends the run: flows are handed out, queues emptied, files finished. `kernel_dropped` datagrams
    /// were lost before they could be received.
    pub fn finish(self, kernel_dropped: u64) -> Outcome {
        let Self {
            mut worker,
            mut outlet,
            capture,
            flows,
            ..
        } = self;
        outlet.when_full = WhenFull::Wait;
        worker.finish(&mut outlet);
        outlet.hand_over_now();
        outlet.hand_over_flows();
        let (mut flow_records, mut flow_records_dropped) =
            (outlet.flow_records, outlet.flow_records_dropped);
        // The writers end when nobody can send to them any more.
        drop(outlet);
        let mut ledger = worker.ledger().clone();
        let mut errors = Vec::new();
        let mut written = None;
        let sessions = worker.sessions().list();
        let by_key: HashMap<SessionKey, &Session, foldhash::fast::RandomState> = sessions
            .iter()
            .map(|session| (session.key, session))
            .collect();
        let statistics = |key| {
            by_key.get(&key).map(|session| InterfaceStatistics {
                received: session.packets,
                kernel_dropped,
                queue_dropped: session.capture_dropped,
                first_ns: session.first_ns,
                last_ns: session.last_ns,
            })
        };
        if let Some(end) = capture.and_then(|thread| thread.join().ok()) {
            ledger.lose_written(end.lost);
            errors.extend(end.error.map(SinkError::from));
            match end.set.finish(statistics) {
                Ok(file) => written = Some(file),
                Err(error) if errors.is_empty() => errors.push(error.into()),
                Err(_) => {}
            }
        }
        let mut flow_files = Vec::new();
        if let Some(end) = flows.and_then(|thread| thread.join().ok()) {
            errors.extend(end.error.map(SinkError::from));
            let handed_over = flow_records;
            for file in end.files {
                match file.finish() {
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
        let mut sessions = sessions.to_vec();
        sessions.sort_by_key(|session| session.key);
        Outcome {
            ledger,
            sessions,
            other_ports: worker.other_ports().to_vec(),
            capture: written,
            flow_files,
            flow_records,
            flow_records_dropped,
            errors,
        }
    }
}

/// Tells of sessions that are new since the last batch; their table is bounded, and so is this.
fn log_new_sessions(worker: &Worker, logged: &mut usize) {
    let sessions = worker.sessions().list();
    for session in sessions.iter().skip(*logged) {
        tracing::debug!(session = %session.key.interface_name(), "mirror session first seen");
    }
    *logged = sessions.len();
}

fn write_capture(
    mut set: CaptureSet,
    full: &Receiver<Batch>,
    empty: &Sender<Batch>,
    failed: &AtomicBool,
) -> CaptureEnd {
    let (mut lost, mut error) = (0, None);
    for mut batch in full {
        if error.is_some() {
            lost += batch.records;
        } else if let Err(first) = set.write(0, &mut batch) {
            lost += batch.records;
            error = Some(first);
            failed.store(true, Ordering::Relaxed);
        }
        batch.clear();
        // There is room for every buffer that exists; when the worker is gone nobody needs it.
        let _ = empty.try_send(batch);
    }
    CaptureEnd { set, lost, error }
}

fn write_flows(
    mut files: Vec<JsonLines>,
    chunks: &Receiver<Vec<FlowRecord>>,
    failed: &AtomicBool,
) -> FlowEnd {
    let mut error = None;
    for chunk in chunks {
        if error.is_some() {
            continue;
        }
        let written = files
            .iter_mut()
            .try_for_each(|file| chunk.iter().try_for_each(|record| file.write(record)));
        if let Err(first) = written {
            error = Some(first);
            failed.store(true, Ordering::Relaxed);
        }
    }
    FlowEnd { files, error }
}

/// Hands a worker's output to the writers.
struct QueueOutlet {
    current: Batch,
    /// When the current batch got its first record, as far as batches tell.
    begun: Option<Instant>,
    allocated: usize,
    most: usize,
    full: Sender<Batch>,
    empty: Receiver<Batch>,
    when_full: WhenFull,
    flow_chunk: Vec<FlowRecord>,
    flows: Sender<Vec<FlowRecord>>,
    flow_records: u64,
    flow_records_dropped: u64,
}

impl Outlet for QueueOutlet {
    fn room(&mut self, len: usize) -> Option<&mut Batch> {
        let used = self.current.bytes.len();
        if used > 0 && used + len > BATCH_LEN && !self.hand_over() {
            return None;
        }
        Some(&mut self.current)
    }

    fn flow(&mut self, record: FlowRecord) {
        self.flow_chunk.push(record);
        if self.flow_chunk.len() >= FLOW_CHUNK {
            self.hand_over_flows();
        }
    }
}

impl QueueOutlet {
    /// Swaps the current batch for an empty one; `false` when there is none to be had.
    fn hand_over(&mut self) -> bool {
        let next = match self.empty.try_recv() {
            Ok(batch) => batch,
            Err(_) if self.allocated < self.most => {
                self.allocated += 1;
                Batch::with_room()
            }
            Err(_) if self.when_full == WhenFull::Drop => return false,
            Err(_) => match self.empty.recv() {
                Ok(batch) => batch,
                Err(_) => return false,
            },
        };
        let full = std::mem::replace(&mut self.current, next);
        self.begun = None;
        // As many batches exist as the queue has places: this finds one.
        self.full.send(full).is_ok()
    }

    fn hand_over_now(&mut self) {
        if self.current.records > 0 {
            self.hand_over();
        }
    }

    fn hand_over_if_old(&mut self, now: Instant) {
        if self.current.records == 0 {
            return;
        }
        match self.begun {
            None => self.begun = Some(now),
            Some(begun) if now - begun >= MAX_BATCH_AGE => self.hand_over_now(),
            Some(_) => {}
        }
    }

    fn hand_over_flows(&mut self) {
        let chunk = std::mem::take(&mut self.flow_chunk);
        let len = chunk.len() as u64;
        let sent = match self.when_full {
            WhenFull::Wait => self.flows.send(chunk).is_ok(),
            WhenFull::Drop => self.flows.try_send(chunk).is_ok(),
        };
        if sent {
            self.flow_records += len;
        } else {
            self.flow_records_dropped += len;
        }
    }
}
