//! Where results go: every sink has a thread, a bounded queue and an account of its own, and one harness runs
//! them all.
//!
//! A sink that fails is not given up: it counts what it is offered as lost, and the others go on. The run
//! ends when no sink is left that works.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::capture_sink::CaptureNotes;
use super::doorbell::Sleeper;
use super::ending::{PATIENCE, Patience, Task, Unended};
use super::ledger::{Ledger, Noted};
use super::outlet::Offers;
use crate::capture::store::holdings::{self, Holdings};
use crate::capture::view::tee::{Seen, Tees};
use crate::export::collector::reach::{self, Reach};
use crate::outfile::{OutError, Standing};
use crate::threads::NoThread;
use crate::wire::refusal::reasons;

/// How often it is looked whether the reader of a quiet pipe is still there.
const LOOK_FOR_READER: Duration = Duration::from_millis(100);

reasons! {
    /// Why a sink does not have what it was offered.
    Missing {
        /// Its queue was full: the disk or the reader of the pipe is too slow.
        Queue => "queue",
        /// The run is at a limit (--cpu-limit, --disk-rate), and this conversation was left out for it.
        Limit => "limit",
        /// It could not be written.
        Write => "write",
        /// The disk of a store did not take it.
        Disk => "disk",
        /// The collector refused it, or was not there.
        Collector => "collector",
        /// The reader of the pipe went away.
        ReaderLeft => "reader_left",
        /// The output took nothing any more when the run ended.
        Stuck => "stuck",
    }
}

/// What a sink takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mirrored frames.
    Capture,
    /// Flow records.
    Flows,
    /// Mirrored frames, to whoever looks at them live.
    View,
}

impl Kind {
    /// Its name in the summary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Flows => "flows",
            Self::View => "view",
        }
    }
}

/// Something that takes items on a thread of its own.
pub trait Sink: Send + 'static {
    /// What it takes.
    type Item: Send + 'static;

    /// Takes one item. `now` is the time since any fixed moment.
    fn take(&mut self, item: Self::Item, now: Duration);

    /// Comes behind each item and each sleep. `is_idle`: no item waits, so what is gathered should become
    /// visible.
    fn tick(&mut self, now: Duration, is_idle: bool);

    /// Comes now and then while no item waits: whoever reads a pipe may have left, and nothing is written that
    /// would tell.
    fn look_for_reader(&mut self) {}

    /// How long it may sleep; `None` until the next item comes.
    fn sleeps(&self) -> Option<Duration>;

    /// Whether it cannot go on with what it has: a worker's promise would let it.
    fn waits_for_more(&self) -> bool {
        false
    }

    /// How it stands.
    fn standing(&self) -> Standing;

    /// What went wrong, once; nothing is written from then on.
    fn take_error(&mut self) -> Option<OutError>;

    /// Nobody will bring more: writes the rest.
    fn close(&mut self, now: Duration);

    /// Ends the file and tells where it is and how many bytes it has.
    ///
    /// # Errors
    ///
    /// When the file cannot be given its name.
    fn finish(self) -> Result<(String, u64), OutError>;
}

/// What went wrong with a sink.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SinkError {
    #[error(transparent)]
    Out(#[from] OutError),
    #[error(transparent)]
    NoThread(#[from] NoThread),
    #[error("{path} takes nothing any more: what it did not take is lost")]
    Stuck { path: String },
    #[error("the writer of {path} failed, which is a defect: what it did not write is lost")]
    Panicked { path: String },
}

impl SinkError {
    /// The reader of a pipe went away: the end of that output, not a fault.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Out(error) if error.is_closed_pipe())
    }
}

/// What went wrong with a sink of a run that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In words.
    pub text: String,
    /// It is only that the reader of a pipe went away.
    pub reader_left: bool,
}

/// How a sink stands while the run goes on.
#[derive(Debug)]
pub struct State {
    /// Its account, so far.
    pub account: Account,
    /// Why nothing is written any more.
    pub fault: Option<Fault>,
    /// What it holds, where it is a store.
    pub store: Option<Holdings>,
    /// How it is reached, where it is a collector.
    pub collector: Option<Reach>,
}

/// Where an output tells what its sink does not: those who look on read it while it is written.
#[derive(Clone, Debug, Default)]
pub struct Tells {
    /// Bytes that the end of a file brings to the disk.
    pub synced: Arc<AtomicU64>,
    /// What a store holds.
    pub store: Option<holdings::Told>,
    /// How a collector is reached.
    pub collector: Option<reach::Told>,
}

/// The account of a sink: offered = written + dropped.
#[derive(Debug)]
pub struct Account {
    /// What it takes.
    pub kind: Kind,
    /// Where it went: a path or "standard output".
    pub path: String,
    /// Viewers that came, where it is a tee.
    pub viewers: Option<u64>,
    /// Packets or records offered to it; by a tee to each viewer.
    pub offered: u64,
    /// Packets or records that are in it.
    pub written: u64,
    /// Bytes of it.
    pub bytes: u64,
    dropped: [u64; Missing::ALL.len()],
    /// Offered and still on its way; none once the run has ended.
    pub waiting: u64,
    /// What went wrong.
    pub errors: Vec<SinkError>,
}

impl Account {
    /// Of a sink that goes on: `delivered` frames were there for a capture, `offers` tells the rest; its queue had no place
    /// for `no_room`.
    pub fn so_far(
        (kind, path, standing): (Kind, &str, Standing),
        delivered: u64,
        offers: Offers,
        no_room: u64,
    ) -> Self {
        let (offered, left_out) = match kind {
            Kind::Capture => (delivered, offers.capture_left_out),
            Kind::Flows => (offers.flow_records, 0),
            Kind::View => (0, 0),
        };
        let mut account = Self {
            kind,
            path: path.to_owned(),
            viewers: None,
            offered,
            written: standing.written,
            bytes: standing.bytes,
            dropped: Default::default(),
            waiting: 0,
            errors: Vec::new(),
        };
        account.drop(Missing::Queue, no_room);
        account.drop(Missing::Limit, left_out);
        account.drop(Missing::Write, standing.lost);
        account.drop(Missing::Disk, standing.disk);
        account.drop(Missing::Collector, standing.collector);
        // The sink was looked at after the workers answered.
        account.offered = offered.max(account.written + account.lost());
        account.waiting = account.offered - account.written - account.lost();
        account
    }

    /// Of a tee, so far: it counts for itself.
    pub fn of_tee(name: &str, seen: Seen) -> Self {
        let mut account = Self {
            kind: Kind::View,
            path: name.to_owned(),
            viewers: Some(seen.viewers),
            offered: seen.offered,
            written: seen.written,
            bytes: seen.bytes,
            dropped: Default::default(),
            waiting: 0,
            errors: Vec::new(),
        };
        account.drop(Missing::Queue, seen.no_room);
        account.drop(Missing::ReaderLeft, seen.reader_left);
        account.drop(Missing::Stuck, seen.stuck);
        account.offered = seen.offered.max(account.written + account.lost());
        account.waiting = account.offered - account.written - account.lost();
        account
    }

    /// The same when the run has ended: nothing is on its way any more.
    pub fn of_ended_tee(name: &str, seen: Seen) -> Self {
        let mut account = Self::of_tee(name, seen);
        let rest = std::mem::take(&mut account.waiting);
        account.drop(Missing::Stuck, rest);
        account
    }

    /// Counts that did not arrive, by reason; zeros too.
    pub fn dropped(&self) -> impl Iterator<Item = (Missing, u64)> {
        Missing::ALL.iter().copied().zip(self.dropped)
    }

    /// All that did not arrive.
    pub fn lost(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether everything offered is written or counted as dropped.
    pub fn closes(&self) -> bool {
        self.offered == self.written + self.lost() + self.waiting
    }

    fn drop(&mut self, reason: Missing, n: u64) {
        if let Some(count) = self.dropped.get_mut(reason as usize) {
            *count += n;
        }
    }
}

/// What it means that the reader of a pipe leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReaderGone {
    /// The other sinks go on; with none left the run ends.
    #[default]
    OthersGoOn,
    /// The run ends.
    End,
    /// The run goes on, also with no sink left.
    Detach,
}

/// The sinks that still work, for those who feed them.
#[derive(Debug, Default)]
pub struct Working {
    on_reader_gone: OnReaderGone,
    sinks: AtomicUsize,
    none_left: AtomicBool,
    given_up: AtomicBool,
}

impl Working {
    /// None yet.
    pub fn new(on_reader_gone: OnReaderGone) -> Self {
        Self {
            on_reader_gone,
            ..Self::default()
        }
    }

    /// One more works.
    pub(super) fn begin(&self) {
        self.sinks.fetch_add(1, Ordering::Relaxed);
    }

    fn fail(&self) {
        if self.sinks.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.none_left.store(true, Ordering::Relaxed);
        }
    }

    /// The reader of a sink left.
    fn reader_left(&self) {
        match self.on_reader_gone {
            OnReaderGone::OthersGoOn => self.fail(),
            OnReaderGone::End => self.none_left.store(true, Ordering::Relaxed),
            OnReaderGone::Detach => {}
        }
    }

    /// The run does not come about: sinks leave nothing behind. Before the queues are closed.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Whether there were sinks and none works any more, or one whose end is that of the run.
    pub fn is_none_left(&self) -> bool {
        self.none_left.load(Ordering::Relaxed)
    }
}

/// How far a sink has come, for those who wait for it.
#[derive(Debug, Default)]
struct Progress {
    /// What went wrong with it first.
    fault: OnceLock<Fault>,
    written: AtomicU64,
    lost: AtomicU64,
    disk: AtomicU64,
    collector: AtomicU64,
    bytes: AtomicU64,
    tells: Tells,
}

impl Progress {
    fn tell(&self, standing: Standing) {
        self.written.store(standing.written, Ordering::Relaxed);
        self.lost.store(standing.lost, Ordering::Relaxed);
        self.disk.store(standing.disk, Ordering::Relaxed);
        let collector = standing.collector;
        self.collector.store(collector, Ordering::Relaxed);
        self.bytes.store(standing.bytes, Ordering::Relaxed);
    }

    fn standing(&self) -> Standing {
        Standing {
            written: self.written.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            disk: self.disk.load(Ordering::Relaxed),
            collector: self.collector.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn tell_fault(&self, faults: &Faults) {
        if let Some(first) = faults.errors.first() {
            self.fault.get_or_init(|| Fault {
                text: first.to_string(),
                reader_left: first.is_closed_pipe(),
            });
        }
    }

    /// A number that changes as long as something is done.
    fn steps(&self) -> u64 {
        let Standing {
            written,
            lost,
            disk,
            collector,
            bytes,
        } = self.standing();
        let synced = self.tells.synced.load(Ordering::Relaxed);
        written
            .wrapping_add(lost)
            .wrapping_add(disk)
            .wrapping_add(collector)
            .wrapping_add(bytes)
            .wrapping_add(synced)
    }
}

/// What a sink's thread leaves.
#[derive(Default)]
struct End {
    standing: Standing,
    path: Option<String>,
    faults: Faults,
}

/// A sink at work.
pub struct Running {
    kind: Kind,
    path: String,
    task: Task<End>,
    progress: Arc<Progress>,
}

impl Running {
    /// Starts the thread of `sink`, which takes what comes through `queue`. Its output `tells` the rest.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start<S: Sink>(
        kind: Kind,
        path: &str,
        tells: Tells,
        sink: S,
        queue: Sleeper<S::Item>,
        working: &Arc<Working>,
    ) -> Result<Self, NoThread> {
        let progress = Arc::new(Progress {
            tells,
            ..Progress::default()
        });
        let (told, working) = (Arc::clone(&progress), Arc::clone(working));
        working.begin();
        let path = path.to_owned();
        let shown = path.clone();
        let task = Task::start(kind.name(), move || {
            run(sink, &shown, &queue, &told, &working)
        })?;
        Ok(Self {
            kind,
            path,
            task,
            progress,
        })
    }

    /// Waits for the end of a sink that was given up.
    pub fn give_up(self) {
        let steps = || 0;
        let _ = self.task.wait(&mut Patience::new(Some(PATIENCE), &steps));
    }

    /// What it takes.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Waits for its end and closes its account. `offered` is what all workers had for it; of that, its queue had no
    /// place for `no_room`, and `left_out` was left out at a limit of the run.
    pub fn finish(
        self,
        offered: u64,
        (no_room, left_out): (u64, u64),
        patience: &mut Patience<'_>,
    ) -> Account {
        let Self {
            kind,
            path,
            task,
            progress,
        } = self;
        let end = task.wait(patience).unwrap_or_else(|unended| End {
            standing: progress.standing(),
            path: None,
            faults: Faults::of(match unended {
                Unended::Stuck => SinkError::Stuck { path: path.clone() },
                Unended::Panicked => SinkError::Panicked { path: path.clone() },
            }),
        });
        let Standing {
            written,
            lost,
            disk,
            collector,
            bytes,
        } = end.standing;
        let mut account = Account {
            kind,
            path: end.path.unwrap_or(path),
            viewers: None,
            offered,
            written,
            bytes,
            dropped: Default::default(),
            waiting: 0,
            errors: end.faults.errors,
        };
        account.drop(Missing::Queue, no_room);
        account.drop(Missing::Limit, left_out);
        let reason = if end.faults.reader_left {
            Missing::ReaderLeft
        } else {
            Missing::Write
        };
        account.drop(reason, lost);
        account.drop(Missing::Disk, disk);
        account.drop(Missing::Collector, collector);
        // What is in no counter never reached the sink.
        let rest = offered.saturating_sub(account.written + account.lost());
        account.drop(Missing::Stuck, rest);
        account
    }
}

/// Looks at sinks from outside, while they work.
#[derive(Clone, Default)]
pub struct Watch {
    sinks: Vec<(Kind, String, Arc<Progress>)>,
    /// Flow records that each sink for them had no room for.
    flows_no_room: Vec<Arc<AtomicU64>>,
    tees: Option<Arc<Tees>>,
    /// What the capture tells of the order of its records.
    notes: Arc<CaptureNotes>,
}

impl Watch {
    /// Of these sinks, and of tees. `flows_no_room` counts what the queue of each sink for flow records had no place for.
    pub fn of(
        sinks: &[Running],
        flows_no_room: &[Arc<AtomicU64>],
        tees: Option<Arc<Tees>>,
        notes: Arc<CaptureNotes>,
    ) -> Self {
        let watched = |sink: &Running| (sink.kind, sink.path.clone(), Arc::clone(&sink.progress));
        Self {
            sinks: sinks.iter().map(watched).collect(),
            flows_no_room: flows_no_room.to_vec(),
            tees,
            notes,
        }
    }

    /// Notes in `ledger` what the capture tells of the order of its records.
    pub fn note_behind(&self, ledger: &mut Ledger) {
        let behind = self.notes.behind();
        ledger.note_many(Noted::Late, behind.late);
        ledger.note_many(Noted::OutOfOrder, behind.out_of_order);
    }

    /// A number that changes as long as any of them does something.
    pub fn steps(&self) -> u64 {
        let steps = self.sinks.iter().map(|(.., progress)| progress.steps());
        let tees = self.tees.as_ref().map_or(0, |tees| tees.steps());
        steps.fold(tees, u64::wrapping_add)
    }

    /// How each stands.
    pub fn standings(&self) -> impl Iterator<Item = (Kind, &str, Standing)> {
        self.sinks.iter().map(move |watched| {
            let (kind, path, progress) = watched;
            (*kind, path.as_str(), progress.standing())
        })
    }

    /// The account of each, so far: `delivered` frames were there for a capture, `offers` tells the rest.
    pub fn accounts(&self, delivered: u64, offers: Offers) -> Vec<Account> {
        let states = self.states(delivered, offers).into_iter();
        states.map(|state| state.account).collect()
    }

    /// How each stands, as [`Self::accounts`].
    pub fn states(&self, delivered: u64, offers: Offers) -> Vec<State> {
        let mut no_room = self.flows_no_room.iter();
        let mut no_room = |kind| match kind {
            Kind::Capture => offers.capture_no_room,
            Kind::Flows => no_room
                .next()
                .map_or(0, |lost| lost.load(Ordering::Relaxed)),
            Kind::View => 0,
        };
        let state = |(kind, path, progress): &(Kind, String, Arc<Progress>)| {
            let standing = (*kind, path.as_str(), progress.standing());
            let no_room = no_room(*kind);
            State {
                account: Account::so_far(standing, delivered, offers, no_room),
                fault: progress.fault.get().cloned(),
                store: progress.tells.store.as_ref().map(holdings::Told::now),
                collector: progress.tells.collector.as_ref().map(reach::Told::now),
            }
        };
        // The thread that feeds nothing but tees has none.
        let sinks = self.sinks.iter().filter(|(kind, ..)| *kind != Kind::View);
        let tees = self.tees.iter().flat_map(|tees| tees.seen());
        let tees = tees.map(|(name, seen)| State {
            account: Account::of_tee(name, seen),
            fault: None,
            store: None,
            collector: None,
        });
        sinks.map(state).chain(tees).collect()
    }
}

/// A panic on the sink's thread is told to those who feed it and those who look at it.
struct FailsWithPanic<'a> {
    path: &'a str,
    progress: &'a Progress,
    working: &'a Working,
}

impl Drop for FailsWithPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.working.fail();
            let path = self.path.to_owned();
            let panicked = Faults::of(SinkError::Panicked { path });
            self.progress.tell_fault(&panicked);
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a clock call an item, which is a batch, to bound the wait for a silent worker"
)]
fn run<S: Sink>(
    mut sink: S,
    path: &str,
    queue: &Sleeper<S::Item>,
    progress: &Progress,
    working: &Working,
) -> End {
    let _told = FailsWithPanic {
        path,
        progress,
        working,
    };
    let begun = Instant::now();
    let mut faults = Faults::default();
    let mut look_at = Duration::ZERO;
    loop {
        let item = queue.recv(sink.sleeps());
        let now = begun.elapsed();
        match item {
            Ok(item) => sink.take(item, now),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let is_idle = queue.is_empty();
        sink.tick(now, is_idle);
        if is_idle && now >= look_at {
            look_at = now + LOOK_FOR_READER;
            sink.look_for_reader();
        }
        queue.wait_for_more(sink.waits_for_more());
        progress.tell(sink.standing());
        faults.note(sink.take_error(), path, working);
        progress.tell_fault(&faults);
    }
    if working.given_up.load(Ordering::Relaxed) {
        // Dropped and not finished, an output without data leaves nothing.
        drop(sink);
        return End::default();
    }
    sink.close(begun.elapsed());
    let mut standing = sink.standing();
    progress.tell(standing);
    faults.note(sink.take_error(), path, working);
    let path = match sink.finish() {
        Ok((path, bytes)) => {
            standing.bytes = bytes;
            Some(path)
        }
        Err(error) => {
            faults.note(Some(error), path, working);
            None
        }
    };
    End {
        standing,
        path,
        faults,
    }
}

/// What went wrong with a sink so far.
#[derive(Default)]
struct Faults {
    errors: Vec<SinkError>,
    reader_left: bool,
}

impl Faults {
    fn of(error: SinkError) -> Self {
        Self {
            errors: vec![error],
            reader_left: false,
        }
    }

    /// Tells of a fault at once; the first takes the sink from those that work.
    fn note(&mut self, error: Option<OutError>, path: &str, working: &Working) {
        let Some(error) = error.map(SinkError::from) else {
            return;
        };
        if error.is_closed_pipe() {
            self.reader_left = true;
            tracing::warn!("the reader of {path} went away");
        } else {
            tracing::error!("{error}");
        }
        match self.errors.is_empty() {
            true if self.reader_left => working.reader_left(),
            true => working.fail(),
            false => {}
        }
        self.errors.push(error);
    }
}

#[cfg(test)]
mod tests {
    use super::super::doorbell::doorbell;
    use super::*;

    /// Writes numbers nowhere, until it comes to one that breaks it.
    struct Breaks {
        at: u32,
        written: u64,
    }

    impl Sink for Breaks {
        type Item = u32;

        fn take(&mut self, item: u32, _now: Duration) {
            if item == self.at {
                // Not `panic!`: what the hook prints would look like a failure.
                std::panic::resume_unwind(Box::new("broken on purpose"));
            }
            self.written += 1;
        }

        fn tick(&mut self, _now: Duration, _is_idle: bool) {}

        fn sleeps(&self) -> Option<Duration> {
            None
        }

        fn standing(&self) -> Standing {
            Standing {
                written: self.written,
                ..Standing::default()
            }
        }

        fn take_error(&mut self) -> Option<OutError> {
            None
        }

        fn close(&mut self, _now: Duration) {}

        fn finish(self) -> Result<(String, u64), OutError> {
            Ok(("written".to_owned(), 0))
        }
    }

    /// Those who feed it hear of it at once, and the account says so: what it had written counts, the rest is lost.
    #[test]
    fn a_sink_that_panics_is_told() {
        for others in [0, 1] {
            let working = Arc::<Working>::default();
            (0..others).for_each(|_| working.begin());
            let (queue, taken) = doorbell(8);
            for item in 0..5 {
                queue.send(item).unwrap();
            }
            let sink = Breaks { at: 3, written: 0 };
            let (kind, tells) = (Kind::Flows, Tells::default());
            let running = Running::start(kind, "f.jsonl", tells, sink, taken, &working).unwrap();
            // The queue stays open: it is the panic that ends the thread.
            let mut patience = Patience::new(None, &|| 0);
            let account = running.finish(5, (0, 0), &mut patience);
            assert_eq!(working.is_none_left(), others == 0);
            let [SinkError::Panicked { path }] = &account.errors[..] else {
                panic!("{account:?}")
            };
            assert_eq!(path, "f.jsonl");
            assert_eq!((account.offered, account.written), (5, 3));
            let stuck = account.dropped().find(|(why, _)| *why == Missing::Stuck);
            assert_eq!(stuck, Some((Missing::Stuck, 2)));
            assert!(account.closes());
            drop(queue);
        }
    }
}
