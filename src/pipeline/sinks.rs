//! The sinks of a run together: started with their queues, watched, and their accounts closed at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::account::{Account, Kind};
use super::annotations::Annotations;
use super::answers::Answer;
use super::capture_notes::CaptureNotes;
use super::capture_sink::CaptureSink;
use super::doorbell::{Callers, Sleeper, doorbell};
use super::ending::{PATIENCE, Patience};
use super::flow_sink::{FlowNotes, FlowOutput, FlowSink, flow_lanes};
use super::learned::{Directions, Log};
use super::measure::{Distribution, WriterMeasures};
use super::orders::{Inbox, Orders, orders};
use super::outlet::{FlowQueue, QueueOutlet};
use super::queues::{FromWorker, Offers, WhenFull, queue_places};
use super::sharing::{FLOW_QUEUE, Sharing, capture_queue_batches};
use super::sink::OnReaderGone;
use super::sink::{Running, Working};
use super::watch::{Tells, Watch};
use crate::capture::merge::{Behind, Merge};
use crate::capture::output::Output;
use crate::capture::store::hooks::Hooks;
use crate::capture::view::tee::Tees;
use crate::pcap::annotation::Tally;
use crate::pcap::record::Batch;
use crate::threads::NoThread;

/// Where the results go.
#[derive(Default)]
pub struct Sinks {
    /// The capture.
    pub capture: Option<Output>,
    /// Flow records.
    pub flows: Vec<FlowOutput>,
    /// What it means that the reader of a pipe leaves.
    pub on_reader_gone: OnReaderGone,
    /// Programs that are run for finished files.
    pub hooks: Option<Hooks>,
}

/// The sinks of a run, at work.
pub struct SinkSet {
    /// The capture first.
    running: Vec<Running>,
    /// Those who look at the capture live.
    tees: Option<Arc<Tees>>,
    /// How long viewers without progress are waited for at the end; `None` for as long as it takes.
    viewers_have: Option<Duration>,
    /// What the capture's sink is told and tells beside its account.
    notes: Arc<CaptureNotes>,
    /// The same of the sinks of flow records.
    flow_notes: Arc<FlowNotes>,
    /// Flow records that each of them had no room for.
    flows_no_room: Vec<Arc<AtomicU64>>,
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
    /// The queue of each sink of flow records.
    pub flows: Vec<FlowQueue>,
    /// What these sinks are told beside records.
    pub flow_notes: Arc<FlowNotes>,
    /// What gives the sinks of flow records orders.
    pub flow_orders: Orders<()>,
}

/// What the capture's sink works with beside its output.
#[derive(Default)]
pub struct ForCapture {
    /// Its orders.
    pub inbox: Option<Inbox<Answer>>,
    /// What an input says about its packets, where it is carried.
    pub annotations: Option<Annotations>,
    /// Whether its records have room for directions.
    pub has_directions: bool,
}

/// What the sinks came to.
pub struct Closed {
    /// The account of each, the capture first.
    pub accounts: Vec<Account>,
    /// Flow records made.
    pub flow_records: u64,
    /// Records that were written behind later ones.
    pub behind: Behind,
    /// Annotations of the input that are in the capture.
    pub annotations: Tally,
    /// From the kernel's time of arrival until the record was given to the capture file.
    pub arrival_to_written: Option<Distribution>,
}

impl SinkSet {
    /// Starts a thread for each sink. What workers learn of hardware addresses will stand in `learned`.
    ///
    /// # Errors
    ///
    /// When the system gives no thread. No output is left behind then.
    pub fn start(
        sinks: Sinks,
        sharing: Sharing,
        for_capture: ForCapture,
        learned: &Log,
        working: &Arc<Working>,
    ) -> Result<(Self, Queues), NoThread> {
        let mut running = Vec::new();
        let tees = sinks.capture.as_ref().and_then(Output::tees).cloned();
        if tees.is_some() && sinks.capture.as_ref().is_some_and(Output::is_kept) {
            // Tees go on where the capture fails.
            working.begin();
        }
        match start_each(
            sinks,
            sharing,
            (for_capture, learned),
            working,
            &mut running,
        ) {
            Ok((notes, measured, queues)) => {
                let set = Self {
                    running,
                    tees,
                    viewers_have: (sharing.when_full == WhenFull::Drop).then_some(PATIENCE),
                    notes,
                    flow_notes: Arc::clone(&queues.flow_notes),
                    flows_no_room: queues.flows.iter().map(FlowQueue::no_room).collect(),
                    measured,
                };
                Ok((set, queues))
            }
            Err(error) => {
                running.into_iter().for_each(Running::give_up);
                Err(error)
            }
        }
    }

    /// `lost` tells for each worker how many packets its source lost so far.
    pub fn tell_lost(&self, lost: Vec<Arc<AtomicU64>>) {
        let _ = self.notes.lost_so_far.set(lost);
    }

    /// What the sinks have done so far, for those who ask while the run goes on.
    pub fn watch(&self) -> Watch {
        let notes = Arc::clone(&self.notes);
        let sinks = self.running.iter().map(Running::watched).collect();
        Watch::of(sinks, &self.flows_no_room, self.tees.clone(), notes)
    }

    /// `kernel_dropped` datagrams never came in the whole run: before the capture's queue ends.
    pub fn tell_kernel_dropped(&self, kernel_dropped: u64) {
        let notes = &self.notes;
        notes
            .kernel_dropped
            .store(kernel_dropped, Ordering::Relaxed);
    }

    /// So many packets are in no flow, and so many never came, in the whole run: before the queues of flow records end.
    pub fn tell_flows(&self, ignored: u64, dropped: u64) {
        self.flow_notes.set(ignored, dropped);
    }

    /// Waits for the sinks to end and closes their accounts. `outlets` have handed over what they had;
    /// `delivered` frames were there for a capture.
    pub fn finish(
        self,
        outlets: Vec<QueueOutlet>,
        delivered: u64,
        patience: &mut Patience<'_>,
    ) -> Closed {
        let Self {
            running,
            tees,
            viewers_have,
            notes,
            flows_no_room,
            measured,
            ..
        } = self;
        let offers = offered(&outlets);
        // The sinks end when nobody can send to them any more.
        drop(outlets);
        let mut flows_no_room = flows_no_room.into_iter();
        let finish = |sink: Running| match sink.kind() {
            Kind::Capture => {
                let missing = (offers.capture_no_room, offers.capture_left_out);
                sink.finish(delivered, missing, patience)
            }
            Kind::Flows => {
                let no_room = flows_no_room
                    .next()
                    .map_or(0, |lost| lost.load(Ordering::Relaxed));
                sink.finish(offers.flow_records, (no_room, 0), patience)
            }
            // What its thread was offered is told by tee.
            Kind::View => sink.finish(0, (0, 0), patience),
        };
        let mut accounts: Vec<Account> = running.into_iter().map(finish).collect();
        if let Some(tees) = tees {
            tees.end(viewers_have);
            tell_tees(&tees, &mut accounts);
        }
        let measures = measured.try_recv().ok();
        Closed {
            accounts,
            flow_records: offers.flow_records,
            behind: notes.behind(),
            annotations: notes.annotations(),
            arrival_to_written: measures.map(|measures| measures.arrival_to_written().clone()),
        }
    }
}

/// Puts the account of each tee in the place of that of the thread that fed nothing else, or behind the capture's.
fn tell_tees(tees: &Tees, accounts: &mut Vec<Account>) {
    let told = tees
        .seen()
        .map(|(name, seen)| Account::of_ended_tee(name, seen));
    let mut told: Vec<Account> = told.collect();
    let at = match accounts.first_mut() {
        Some(only) if only.kind == Kind::View => {
            let faults = std::mem::take(&mut only.errors);
            if let Some(first) = told.first_mut() {
                first.errors = faults;
            }
            accounts.remove(0);
            0
        }
        _ => 1.min(accounts.len()),
    };
    accounts.splice(at..at, told);
}

/// Starts a thread for each sink, which goes to `running`. Where one cannot be had, all are given up before their
/// queues end.
fn start_each(
    sinks: Sinks,
    sharing: Sharing,
    (for_capture, learned): (ForCapture, &Log),
    working: &Arc<Working>,
    running: &mut Vec<Running>,
) -> Result<(Arc<CaptureNotes>, Receiver<WriterMeasures>, Queues), NoThread> {
    let workers = sharing.steering.workers.max(1) as usize;
    let most = capture_queue_batches(sharing.when_full, workers);
    let (full, full_rx) = doorbell(queue_places(workers, most));
    let (empty_txs, empty): (Vec<_>, Vec<_>) = (0..workers).map(|_| bounded(most)).unzip();
    let (measures_tx, measured) = bounded(1);
    let notes = Arc::new(CaptureNotes::default());
    let directions = || Directions::new(learned.clone());
    if let Some((writer, inbox)) = sinks.capture.zip(for_capture.inbox) {
        let sink = CaptureSink {
            merge: Merge::new(workers, max_wait(sharing)),
            directions: for_capture.has_directions.then(directions),
            annotations: for_capture.annotations,
            empty: empty_txs,
            measures: (sharing.when_full == WhenFull::Drop).then(WriterMeasures::default),
            measured: measures_tx,
            inbox,
            notes: Arc::clone(&notes),
            writer,
        };
        let started = start_capture(sink, full_rx, working);
        running.push(started.inspect_err(|_| working.give_up())?);
    }
    let lanes = flow_lanes(workers, sharing.when_full);
    let mut flows = Vec::new();
    let flow_notes = Arc::<FlowNotes>::default();
    let (flow_orders, inboxes) = orders(sinks.flows.len());
    for (mut file, inbox) in sinks.flows.into_iter().zip(inboxes) {
        let (queue, queue_rx) = doorbell(FLOW_QUEUE);
        let queue = FlowQueue::new(queue);
        file.tell(Arc::clone(&flow_notes), queue.no_room());
        let (path, tells) = (file.path().to_owned(), file.tells());
        let sink = FlowSink::new(file, inbox, lanes, directions());
        let started = Running::start(Kind::Flows, &path, tells, sink, queue_rx, working);
        running.push(started.inspect_err(|_| working.give_up())?);
        flows.push(queue);
    }
    let queues = Queues {
        most,
        full,
        empty,
        flows,
        flow_notes,
        flow_orders,
    };
    Ok((notes, measured, queues))
}

fn start_capture(
    sink: CaptureSink,
    queue: Sleeper<FromWorker>,
    working: &Arc<Working>,
) -> Result<Running, NoThread> {
    let path = sink.writer.path().to_owned();
    let tells = Tells {
        synced: sink.writer.synced(),
        store: sink.writer.holdings(),
        collector: None,
    };
    let kind = match sink.writer.is_kept() {
        true => Kind::Capture,
        false => Kind::View,
    };
    Running::start(kind, &path, tells, sink, queue, working)
}

/// How long a worker that keeps silent is waited for. A file is in order however long one takes: it always
/// comes, or promises.
const fn max_wait(sharing: Sharing) -> Duration {
    match sharing.when_full {
        WhenFull::Drop => sharing.max_reorder,
        WhenFull::Wait => Duration::MAX,
    }
}

/// What all workers had for the sinks.
fn offered(outlets: &[QueueOutlet]) -> Offers {
    let mut offers = Offers::default();
    let all = outlets.iter().map(QueueOutlet::offers);
    all.for_each(|of| offers.merge(of));
    offers
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::bpf::steer::Steering;
    use crate::capture::writer::CaptureWriter;
    use crate::export::FlowFormat;
    use crate::export::flow_file::FlowFile;
    use crate::outfile::Creation;
    use crate::pcap::record::Format;
    use crate::pcap::section::About;
    use crate::pipeline::orders::orders;
    use crate::stop::Stop;

    /// Where a run does not come about, no output is left and none replaces what was there.
    #[test]
    fn sinks_that_are_given_up_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["c.pcapng", "f.jsonl"].map(|name| dir.path().join(name));
        fs::write(&names[0], "earlier").unwrap();
        let about = About {
            comments: Vec::new(),
            mtu: 1500,
            inventory: std::sync::Arc::default(),
        };
        let creation = Creation::default();
        let capture = CaptureWriter::create(
            &names[0],
            creation,
            None,
            Format::PcapNg,
            &about,
            &Stop::new(),
        );
        let sinks = Sinks {
            capture: Some(capture.unwrap().into()),
            flows: vec![
                FlowFile::create(FlowFormat::JsonLines, &names[1], creation, &Stop::new())
                    .unwrap()
                    .into(),
            ],
            ..Sinks::default()
        };
        let sharing = Sharing {
            steering: Steering {
                workers: 1,
                multiplier: 1,
            },
            max_reorder: Duration::ZERO,
            when_full: WhenFull::Wait,
        };
        let working = Arc::default();
        let for_capture = ForCapture {
            inbox: orders(1).1.pop(),
            ..ForCapture::default()
        };
        let learned = Log::default();
        let started = SinkSet::start(sinks, sharing, for_capture, &learned, &working);
        let (set, queues) = started.unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        working.give_up();
        drop(queues);
        set.running.into_iter().for_each(Running::give_up);
        assert_eq!(fs::read(&names[0]).unwrap(), b"earlier");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
