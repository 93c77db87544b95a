//! One worker at work: it takes packets from its source, hands on what comes of them, and ends when it is
//! to. Each has a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::clock::Step;
use super::inquiry::{Answer, Respondent, WorkerAnswer};
use super::measure::{LiveMeasures, Measured};
use super::outlet::{QueueOutlet, WhenFull};
use super::shares::Shares;
use super::worker::Worker;
use crate::source::{Progress, Source};

/// How long a stopped run goes on emptying its source.
const MAX_DRAIN: Duration = Duration::from_secs(1);
/// How often a worker asks again when others have taken on the last frames wanted.
const OTHERS_TURN: Duration = Duration::from_millis(1);
/// Datagrams may reach a socket a little after the time the kernel stamped them with.
const STAMP_TO_SOCKET_NS: u64 = 1_000_000;

/// What the threads tell each other.
pub(super) struct Shared {
    /// An output failed.
    pub failed: AtomicBool,
    /// The frames wanted.
    pub shares: Shares,
}

/// One worker and its way out.
pub(super) struct Lane {
    pub worker: Worker,
    pub outlet: QueueOutlet,
    /// Sessions the log has heard of.
    pub logged_sessions: usize,
    /// What is measured of packets that come live.
    pub live: Option<LiveMeasures>,
    pub respondent: Respondent,
}

impl Shared {
    /// A panic on the thread that holds the answer ends the others, which else might wait for the frames it
    /// took on.
    pub fn fails_with_panic(&self) -> FailsWithPanic<'_> {
        FailsWithPanic(self)
    }
}

/// See [`Shared::fails_with_panic`].
pub(super) struct FailsWithPanic<'a>(&'a Shared);

impl Drop for FailsWithPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Lane {
    /// Feeds the worker until its source ends, `stop` is set, no more frames are wanted or an output
    /// fails.
    #[allow(
        clippy::disallowed_methods,
        reason = "one clock call a batch, to hand over batches that grow old and to tell when the other clock is set"
    )]
    pub fn run<S: Source>(
        &mut self,
        source: &mut S,
        stop: &AtomicBool,
        shared: &Shared,
    ) -> Result<(), S::Error> {
        let Self {
            worker,
            outlet,
            logged_sessions,
            live,
            respondent,
        } = self;
        let begun = Instant::now();
        let mut stopped_at = None;
        loop {
            respondent.answer_if_asked(|| {
                let mut measured = Measured::default();
                if let Some(live) = live {
                    live.add_to(&mut measured);
                }
                Answer::Worker(Box::new(WorkerAnswer {
                    worker: outlet.worker(),
                    snapshot: worker.snapshot(),
                    measured,
                    lost_before: source.lost_so_far(),
                    flow_records: outlet.flow_records(),
                }))
            });
            let Some(share) = shared
                .shares
                .take()
                .filter(|_| !shared.failed.load(Ordering::Relaxed))
            else {
                return Ok(());
            };
            if share == 0 {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                std::thread::sleep(OTHERS_TURN);
                continue;
            }
            let before = worker.ledger().delivered;
            let most = usize::try_from(share).unwrap_or(usize::MAX);
            let outcome = source.next_batch(most, |arrival| {
                if let Some(live) = live {
                    live.arrived(arrival.ts_ns());
                }
                worker.take(&arrival, outlet);
            });
            worker.settle(outlet);
            let delivered = worker.ledger().delivered - before;
            shared.shares.settle(share, delivered);
            if share != u64::MAX && delivered == 0 {
                // Nothing came for this worker: the last frames wanted may be waiting for another, which
                // can only take them on while nobody else holds them.
                std::thread::sleep(2 * OTHERS_TURN);
            }
            let progress = outcome?;
            let now = Instant::now();
            let live_now = live.as_mut().map(|live| (live, wall_clock_ns()));
            let wall_ns = live_now.map(|(live, wall_ns)| {
                if let Some(step) = live.end_batch(wall_ns, now - begun) {
                    warn_of_step(step);
                }
                wall_ns
            });
            log_new_sessions(worker, logged_sessions);
            match progress {
                Progress::Batch => outlet.hand_over_if_old(now),
                Progress::End => outlet.hand_over_now(),
                Progress::UpTo(order) => {
                    outlet.hand_over_now();
                    outlet.promise(order);
                }
                Progress::Idle => {
                    outlet.hand_over_now();
                    if let Some(wall_ns) = wall_ns {
                        let lag_ns = STAMP_TO_SOCKET_NS + source.lag_ns();
                        outlet.promise(wall_ns.saturating_sub(lag_ns));
                    }
                }
            }
            if stop.load(Ordering::Relaxed) {
                let since = now - *stopped_at.get_or_insert(now);
                let waits = outlet.when_full() == WhenFull::Wait;
                // A source may be quiet while packets that have come cannot be seen yet.
                let is_empty =
                    progress == Progress::Idle && since >= Duration::from_nanos(source.lag_ns());
                if is_empty || since >= MAX_DRAIN || waits {
                    return Ok(());
                }
            }
            if progress == Progress::End {
                return Ok(());
            }
        }
    }
}

/// Nanoseconds since 1970, as the kernel stamps datagrams.
#[allow(
    clippy::disallowed_methods,
    reason = "once a batch, to tell how long its packets took and to let the writer go on where nothing arrives"
)]
pub(super) fn wall_clock_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn warn_of_step(step: Step) {
    let (by, whither) = match step {
        Step::Back(by) => (by, "back"),
        Step::Forward(by) => (by, "forward"),
    };
    tracing::warn!(
        "the clock was set {whither} by {:.1} s; times in the files jump with it",
        by.as_secs_f64()
    );
}

/// Tells of sessions that are new since the last batch; their table is bounded, and so is this.
fn log_new_sessions(worker: &Worker, logged: &mut usize) {
    let sessions = worker.sessions().list();
    for session in sessions.iter().skip(*logged) {
        tracing::debug!(session = %session.key.interface_name(), "mirror session first seen");
    }
    *logged = sessions.len();
}
