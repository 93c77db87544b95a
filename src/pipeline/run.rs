//! Threads and queues: workers with nothing shared between them, a sink for the capture and one for each
//! flow file, bounded queues in between.
//!
//! Live, a full queue is a counted drop and receiving goes on; in replay the reader waits.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::alarm::Activity;
use super::sharing::{Sharing, max_flows_of};
use super::sinks::Sinks;
use crate::bpf::steer::Steering;
use crate::capture::store::hooks::Hooks;
use crate::flow::intervals::Intervals;
use crate::pcap::annotation::Tally;
use crate::pcap::losses;
use crate::pcap::record::Format;
use crate::pipeline::account::SinkError;
use crate::pipeline::annotations::Annotations;
use crate::pipeline::answers::Answer;
use crate::pipeline::apart::{Apart, ApartFile};
use crate::pipeline::budget::{self, Budget};
use crate::pipeline::change::{Change, Known};
use crate::pipeline::ending::{PATIENCE, Patience};
use crate::pipeline::glance::Observer;
use crate::pipeline::lane::{Lane, Meeting, Shared, Told};
use crate::pipeline::learned::Log;
use crate::pipeline::ledger::Ledger;
use crate::pipeline::measure::{LiveMeasures, Measured};
use crate::pipeline::orders::{Inbox, Orders, orders};
use crate::pipeline::outcome::Outcome;
use crate::pipeline::outlet::{LAST_PLACES, QueueOutlet};
pub use crate::pipeline::queues::WhenFull;
use crate::pipeline::shares::Shares;
use crate::pipeline::sink::Working;
use crate::pipeline::sinks::{ForCapture, Queues, SinkSet};
use crate::pipeline::spread::{Chunk, ChunkSource, Guide};
use crate::pipeline::total::Total;
use crate::pipeline::watch::Watch;
use crate::pipeline::worker::{Worker, WorkerSettings};
use crate::source::aside::{Aside, aside};
use crate::source::file::{CaptureError, CaptureFile};
use crate::source::{Record, Source};
use crate::stop::{Stop, Why};
use crate::threads::{self, NoThread};

/// How long threads have to take other settings.
const CHANGE_WAIT: Duration = Duration::from_secs(5);
/// Chunks of a file on their way to the workers.
const CHUNKS: usize = 4;

/// Workers with their sinks, ready to be fed.
pub struct Pipeline {
    lanes: Vec<Lane>,
    settings: WorkerSettings,
    known: Known,
    steering: Steering,
    sinks: SinkSet,
    /// Programs that are run for finished files.
    hooks: Option<Hooks>,
    /// How long the end waits for sinks without progress; `None` for as long as it takes.
    patience: Option<Duration>,
    shared: Arc<Shared>,
    orders: Orders<Answer>,
    flow_orders: Orders<()>,
    /// Why a thread could not be started, where that happened.
    no_thread: Option<NoThread>,
    /// Records read from files that are done.
    records: u64,
    /// Takes apart what a capture holds as one packet.
    apart: Apart,
    /// Packets that the files read say were lost before they were written.
    input_dropped: Option<u64>,
    /// The way of what files say about their packets to a capture that can hold it.
    aside: Option<Aside>,
    /// What they said.
    annotations: Tally,
}

impl Pipeline {
    /// Starts the sinks. The flow table is shared out among the workers.
    ///
    /// # Errors
    ///
    /// When the system gives no thread. No output is left behind then.
    pub fn start(
        mut settings: WorkerSettings,
        mut sinks: Sinks,
        sharing: Sharing,
    ) -> Result<Self, NoThread> {
        let Sharing {
            steering,
            when_full,
            ..
        } = sharing;
        let workers = steering.workers.max(1) as usize;
        let is_live = when_full == WhenFull::Drop;
        let working = Arc::new(Working::new(sinks.on_reader_gone));
        let has_capture = usize::from(sinks.capture.is_some());
        let (orders, mut inboxes) = orders(workers + has_capture);
        let inbox = inboxes.split_off(workers).pop();
        let (aside, annotations) = annotations(&settings, is_live).unzip();
        let hooks = sinks.hooks.clone();
        let wants_places = settings.flows && !sinks.flows.is_empty();
        let capture = sinks.capture.as_mut().filter(|_| wants_places);
        let places = capture.and_then(|capture| capture.tell_firsts(workers));
        settings.first_places = places.is_some();
        let for_capture = ForCapture {
            inbox,
            annotations,
            has_directions: settings.capture == Some(Format::PcapNg),
        };
        let learned = Log::default();
        let dozing = if is_live { workers } else { 0 };
        let (activity, alarms) = Activity::begun(dozing);
        let started = SinkSet::start(sinks, sharing, for_capture, &learned, &working);
        let (sinks, queues) = started?;
        let shared = Arc::new(Shared {
            failed: AtomicBool::new(false),
            working,
            shares: Shares::new(),
            meeting: Meeting::default(),
            activity,
        });
        let flow_orders = queues.flow_orders.clone();
        // The capture's writer sleeps for 100 ms at a time.
        let bell = queues.full.bell();
        orders.wake_with(workers, move || bell.poke());
        let mut lanes = lanes(&settings, sharing, queues, inboxes);
        for lane in &mut lanes {
            lane.outlet.tell_learned(learned.clone());
        }
        for ((number, lane), alarm) in lanes.iter_mut().enumerate().zip(alarms) {
            lane.alarm = Some(alarm);
            let shared = Arc::clone(&shared);
            orders.wake_with(number, move || shared.activity.wake(number));
        }
        if let Some(places) = places {
            for lane in &mut lanes {
                lane.outlet.await_places(Arc::clone(&places));
            }
        }
        sinks.tell_lost(lanes.iter().map(|lane| Arc::clone(&lane.lost)).collect());
        Ok(Self {
            lanes,
            known: Known::new(Arc::clone(&settings.inventory)),
            apart: Apart::new(settings.tunnels.clone()),
            settings,
            steering,
            sinks,
            hooks,
            patience: is_live.then_some(PATIENCE),
            shared,
            orders,
            flow_orders,
            no_thread: None,
            records: 0,
            input_dropped: None,
            aside,
            annotations: Tally::default(),
        })
    }

    /// Keeps the run within `budget` from now on: what is too much is left out of the capture.
    ///
    /// # Errors
    ///
    /// When the system has no thread.
    pub fn keep_within(&mut self, budget: Budget) -> Result<(), NoThread> {
        if budget.is_some() {
            let shed = budget::keep(budget, self.watch())?;
            for lane in &mut self.lanes {
                lane.outlet.shed_by(Arc::clone(&shed));
            }
        }
        Ok(())
    }

    /// What gives its threads orders while it runs; [`crate::pipeline::inquiry::Interim::ask`] does.
    pub fn orders(&self) -> Orders<Answer> {
        self.orders.clone()
    }

    /// Looks at what it counts while it runs.
    pub fn observer(&self) -> Observer {
        Observer::new(self.orders(), self.watch(), self.lanes.len())
    }

    /// What has it take other settings while it runs: how many threads had not taken them after a while.
    pub fn changes(&self) -> impl Fn(&Arc<Change>) -> usize + Send + Sync + 'static + use<> {
        let (orders, flow_orders) = (self.orders.clone(), self.flow_orders.clone());
        let known = self.known.clone();
        move |change| {
            known.set(Arc::clone(&change.terms.inventory));
            orders.change(change, CHANGE_WAIT) + flow_orders.change(change, CHANGE_WAIT)
        }
    }

    /// What is known of mirror sessions, also once that has changed.
    pub fn known(&self) -> Known {
        self.known.clone()
    }

    /// The programs that are run for finished files.
    pub const fn hooks(&self) -> Option<&Hooks> {
        self.hooks.as_ref()
    }

    /// What has the files of its stores ended while it runs.
    pub fn rotation(&self) -> impl Fn() + Send + 'static + use<> {
        let (orders, flow_orders) = (self.orders.clone(), self.flow_orders.clone());
        move || {
            orders.rotate();
            flow_orders.rotate();
        }
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
                let started = threads::start_in(scope, &thread_name(number), move || {
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
        if self.lanes.len() == 1 {
            // Several workers have a thread that reads anyway.
            file.read_ahead();
        }
        file.hand_aside(self.aside.take());
        let mut apart = std::mem::take(&mut self.apart);
        let outcome = match (self.lanes.len(), self.settings.plain) {
            (1, true) => self.feed(std::slice::from_mut(file), stop, None, |_| {}),
            (1, false) => {
                let apart = &mut apart;
                let file = &mut *file;
                let source = ApartFile { file, apart };
                self.feed(&mut [source], stop, None, |_| {})
            }
            _ => self.spread(file, &mut apart, stop),
        };
        self.apart = apart;
        self.records += file.packets();
        self.aside = file.take_aside();
        self.annotations = self.annotations.plus(file.annotations());
        self.input_dropped = losses::add(self.input_dropped, file.input_dropped());
        outcome
    }

    /// Reads a file on this thread and lets the workers, each on its own, do the rest.
    fn spread(
        &mut self,
        file: &mut CaptureFile,
        apart: &mut Apart,
        stop: &Stop,
    ) -> Result<(), CaptureError> {
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
        let plain = settings.plain;
        let intervals = Intervals::new(settings.lifetimes.interval_ns);
        let mut guide = Guide::new(*steering, settings.tunnels.clone(), settings.plain);
        std::thread::scope(|scope| {
            let mut queues = Vec::new();
            for (number, lane) in lanes.iter_mut().enumerate() {
                let (chunk_tx, chunk_rx) = bounded(CHUNKS);
                let (shared, never): (&Shared, _) = (shared, &never);
                let empty_tx = empty_tx.clone();
                let started = threads::start_in(scope, &thread_name(number), move || {
                    let number = u32::try_from(number).unwrap_or(u32::MAX);
                    let mut source = ChunkSource::new(number, chunk_rx, empty_tx, intervals);
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
                let mut add = |record: &Record<'_>| chunk.add(guide.worker_for(record), record);
                if plain || !apart.hand_on_pieces(&record, |piece| add(&piece)) {
                    add(&record);
                }
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
        self.sinks.watch()
    }

    /// Ends the run: flows are handed out, queues emptied, files finished. `kernel_dropped` datagrams
    /// were lost before they could be received. A live run does not wait for ever for an output that
    /// takes nothing: what it did not take is lost.
    pub fn finish(self, kernel_dropped: u64) -> Outcome {
        let Self {
            lanes,
            sinks,
            hooks,
            no_thread,
            apart,
            input_dropped,
            annotations,
            settings,
            ..
        } = self;
        let watch = sinks.watch();
        let steps = move || watch.steps();
        let mut patience = Patience::new(self.patience, &steps);
        // A run that did not come about replaces no file.
        let has_received = |lane: &Lane| lane.worker.ledger().received > 0;
        let is_begun = no_thread.is_none() || lanes.iter().any(has_received);
        if !is_begun {
            self.shared.working.give_up();
        }
        sinks.tell_kernel_dropped(kernel_dropped);
        let (mut total, measured, outlets) = end_lanes(lanes, settings.flows, &mut patience);
        for (note, packets) in apart.notes() {
            total.ledger.note_many(note, packets);
        }
        let delivered = total.ledger.delivered;
        sinks.tell_flows(total.ledger.in_no_flow(), kernel_dropped);
        let mut closed = sinks.finish(outlets, delivered, &mut patience);
        closed.accounts.retain(|_| is_begun);
        let carried = closed.annotations;
        Outcome {
            // The files are finished: what is left is not ours, and may take its time.
            hooks: hooks.map(|hooks| hooks.finish()),
            input_dropped,
            not_carried: match settings.capture {
                Some(_) => annotations.without(carried),
                None => Tally::default(),
            },
            thread_fault: no_thread.map(SinkError::NoThread),
            ..Outcome::of(total, closed, measured)
        }
    }
}

/// A worker with its way out for each of `inboxes`.
fn lanes(
    settings: &WorkerSettings,
    sharing: Sharing,
    queues: Queues,
    inboxes: Vec<Inbox<Answer>>,
) -> Vec<Lane> {
    let Sharing {
        steering,
        when_full,
        ..
    } = sharing;
    let workers = inboxes.len();
    let lane = |(number, (empty, inbox))| Lane {
        worker: Worker::new(WorkerSettings {
            max_flows: max_flows_of(number as u32, steering, settings.max_flows),
            ..settings.clone()
        }),
        outlet: QueueOutlet::new(
            (number, workers),
            queues.most,
            when_full,
            queues.full.clone(),
            empty,
            queues.flows.clone(),
        ),
        logged_sessions: 0,
        // The first worker watches the clock.
        live: (when_full == WhenFull::Drop).then(|| LiveMeasures::new(number == 0)),
        inbox,
        latest_ns: 0,
        highest_ns: 0,
        lost: Arc::default(),
        flow_notes: Arc::clone(&queues.flow_notes),
        alarm: None,
        changing: None,
        told: Told::default(),
    };
    let lanes = queues.empty.into_iter().zip(inboxes).enumerate();
    lanes.map(lane).collect()
}

/// Ends the workers: what waits is given up, and flows that live are handed out where somebody takes their
/// `flows`.
fn end_lanes(
    lanes: Vec<Lane>,
    flows: bool,
    patience: &mut Patience<'_>,
) -> (Total, Measured, Vec<QueueOutlet>) {
    let mut measured = Measured::default();
    let measures = lanes.iter().filter_map(|lane| lane.live.as_ref());
    measures.for_each(|live| live.add_to(&mut measured));
    let lanes = lanes.into_iter().map(|lane| (lane.worker, lane.outlet));
    let (mut workers, mut outlets): (Vec<_>, Vec<_>) = lanes.unzip();
    for (worker, outlet) in workers.iter_mut().zip(&mut outlets) {
        worker.end_input(outlet);
        outlet.end(patience);
    }
    // The capture ends before flow records do, which tell where in it their first packets lie.
    for outlet in outlets.iter_mut().filter(|outlet| outlet.awaits_places()) {
        outlet.close_capture();
    }
    let mut for_places = patience.at_most(LAST_PLACES);
    for (worker, outlet) in workers.iter_mut().zip(&mut outlets) {
        outlet.last_places(&mut for_places, |found| {
            worker.found(found.flow, found.record, found.first);
        });
        outlet.end_flows(patience);
    }
    let total = Total::of(workers);
    measured.merge(&total.measured);
    if let Some(outlet) = outlets.first_mut().filter(|_| flows) {
        for record in total.records() {
            outlet.last_flow(record, patience);
        }
        outlet.end_flows(patience);
    }
    (total, measured, outlets)
}

/// The way of annotations from the files of a replay to a capture that can hold them: pcapng.
fn annotations(settings: &WorkerSettings, is_live: bool) -> Option<(Aside, Annotations)> {
    if is_live || settings.capture != Some(Format::PcapNg) {
        return None;
    }
    let (aside, from) = aside();
    Some((aside, Annotations::new(from)))
}

/// The name of the thread of worker `number`.
fn thread_name(number: usize) -> String {
    format!("vxtap-{number}")
}
