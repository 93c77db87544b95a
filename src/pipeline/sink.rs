//! Where results go: every sink has a thread, a bounded queue and an account of its own, and one harness runs
//! them all.
//!
//! A sink that fails is not given up: it counts what it is offered as lost, and the others go on. The run
//! ends when no sink is left that works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::account::{Account, Kind, Missing, SinkError};
use super::doorbell::Sleeper;
use super::ending::{PATIENCE, Patience, Task, Unended};
use super::watch::{Progress, Tells};
use crate::outfile::{OutError, Standing};
use crate::threads::NoThread;

/// How often it is looked whether the reader of a quiet pipe is still there.
const LOOK_FOR_READER: Duration = Duration::from_millis(100);

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

    /// Its name and how far it has come, for those who look at it.
    pub fn watched(&self) -> (Kind, String, Arc<Progress>) {
        (self.kind, self.path.clone(), Arc::clone(&self.progress))
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
            let panicked = SinkError::Panicked { path };
            self.progress.tell_fault(Some(&panicked));
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
        progress.tell_fault(faults.errors.first());
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
