//! One worker at work: it takes packets from its source, hands on what comes of them, and ends when it is
//! to. Each has a thread of its own.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::alarm::{Activity, Alarm};
use super::answers::{Answer, WorkerAnswer, WorkerCounts};
use super::clock::Step;
use super::evidence::Cut;
use super::flow_sink::FlowNotes;
use super::measure::{LiveMeasures, Measured};
use super::orders::{Changing, Inbox, Order, Wants};
use super::outlet::QueueOutlet;
use super::shares::Shares;
use super::sink::Working;
use super::worker::Worker;
use crate::source::{DISORDER_NS, Progress, Source};
use crate::stop::{Stop, Why, wall_clock_ns};

/// How long a stopped run goes on working on what arrived before. What is left then is counted only.
const MAX_DRAIN: Duration = Duration::from_secs(5);
/// How long counting may take. Nothing but a clock set back makes it take as long.
const MAX_READ_OUT: Duration = Duration::from_secs(30);
/// From its time stamp to its socket a packet may have to wait for the kernel, longest where that is busy.
const STAMP_TO_SEEN: Duration = Duration::from_millis(20);
const STAMP_TO_SEEN_NS: u64 = STAMP_TO_SEEN.as_nanos() as u64;
/// So often the source is looked at in vain before it is believed to be empty.
const LOOKS_IN_VAIN: u32 = 10;
/// After so long without a packet live time is the wall clock's.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a worker sleeps at a time while nothing comes to any of them.
const MOST_DOZED: Duration = Duration::from_millis(100);
/// How often sinks are told what the source lost.
const TELL_LOST: Duration = Duration::from_millis(100);
/// How often a worker asks again when others have taken on the last frames wanted.
const OTHERS_TURN: Duration = Duration::from_millis(1);

/// What the threads tell each other.
pub(super) struct Shared {
    /// A worker panicked: the others end.
    pub failed: AtomicBool,
    /// The sinks that work.
    pub working: Arc<Working>,
    /// The frames wanted.
    pub shares: Shares,
    /// Where the workers of a run that ends agree on its end.
    pub meeting: Meeting,
    /// Whether packets come to any worker.
    pub activity: Activity,
}

/// Where workers agree on the end of a run. Each has taken packets until it heard of the end: they all go on to
/// the latest of these times, so that none ends before another.
#[derive(Default)]
pub(super) struct Meeting {
    /// Workers who have not come yet.
    awaited: AtomicUsize,
    end_ns: AtomicU64,
}

impl Meeting {
    /// How long the others are waited for: one that is in the middle of a batch comes soon.
    const WAIT: Duration = Duration::from_secs(1);

    /// So many workers will come.
    pub fn await_workers(&self, workers: usize) {
        self.end_ns.store(0, Ordering::SeqCst);
        self.awaited.store(workers, Ordering::SeqCst);
    }

    /// A worker will not come: it has ended.
    fn excuse(&self) {
        let less = |awaited: usize| awaited.checked_sub(1);
        let _ = self
            .awaited
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }

    /// A worker comes, who has taken packets up to `at_ns`; returns the end once all have come, or the others
    /// were waited for as long as `patience` lasts.
    fn agree(&self, at_ns: u64, patience: Duration) -> u64 {
        self.end_ns.fetch_max(at_ns, Ordering::SeqCst);
        self.excuse();
        let step = Duration::from_micros(200);
        let mut waited = Duration::ZERO;
        while self.awaited.load(Ordering::SeqCst) > 0 && waited < patience {
            std::thread::sleep(step);
            waited += step;
        }
        self.end_ns.load(Ordering::SeqCst)
    }
}

/// One worker and its way out.
pub(super) struct Lane {
    pub worker: Worker,
    pub outlet: QueueOutlet,
    /// Sessions the log has heard of.
    pub logged_sessions: usize,
    /// What is measured of packets that come live.
    pub live: Option<LiveMeasures>,
    pub inbox: Inbox<Answer>,
    /// Time of the last packet taken, nanoseconds since 1970.
    pub latest_ns: u64,
    /// Live, the latest time of a packet taken, since the clock was last set back.
    pub highest_ns: u64,
    /// Packets that its source lost, as it was last asked.
    pub lost: Arc<AtomicU64>,
    /// What the sinks of flow records are told beside them.
    pub flow_notes: Arc<FlowNotes>,
    /// What this worker has told them.
    pub told: Told,
    /// Wakes it while it dozes; `None` where it never does.
    pub alarm: Option<Alarm>,
    /// Other settings, and the time from which on all packets that come are such as they ask for.
    pub changing: Option<(Changing, u64)>,
}

/// What a worker has told the sinks of flow records.
#[derive(Default)]
pub(super) struct Told {
    ignored: u64,
    dropped: u64,
}

impl Shared {
    /// Whether workers end before their sources do.
    fn must_end(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.working.is_none_left()
    }

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

/// A worker's way through time.
struct Clock {
    begun: Instant,
    /// When packets were last handed over.
    last_packets: Instant,
    /// The last batch ended a silence.
    ends_silence: bool,
    /// When the last batch had been worked on.
    now: Instant,
    /// The wall clock before the look at the source: what comes after that look is later.
    looked_ns: u64,
    /// When the sinks are told next what the source lost.
    tell_lost_at: Instant,
}

/// A run that was told to end, as one worker sees it.
struct Ending {
    since: Instant,
    /// Looks at the source in vain, one after the other.
    in_vain: u32,
    /// What is still there is counted, and no longer worked on.
    reads_out: bool,
}

impl Lane {
    /// Feeds the worker until its source ends, no more frames are wanted or an output fails. Once `stop` is set
    /// a live source is emptied of what arrived before.
    ///
    /// # Errors
    ///
    /// The source's; the other workers end with it.
    pub fn run<S: Source>(
        &mut self,
        source: &mut S,
        stop: &Stop,
        shared: &Shared,
    ) -> Result<(), S::Error> {
        let mut ending = None;
        let outcome = self.work(source, stop, shared, &mut ending);
        if ending.is_none() {
            shared.meeting.excuse();
        }
        outcome
    }

    fn work<S: Source>(
        &mut self,
        source: &mut S,
        stop: &Stop,
        shared: &Shared,
        ending: &mut Option<Ending>,
    ) -> Result<(), S::Error> {
        let mut clock = Clock::start();
        loop {
            self.take_orders(source);
            if shared.must_end() {
                if self.live.is_none() {
                    return Ok(());
                }
                stop.order(Why::Fault);
            }
            let Some(share) = shared.shares.take() else {
                return Ok(());
            };
            if share == 0 {
                if stop.is_set() {
                    return Ok(());
                }
                std::thread::sleep(OTHERS_TURN);
                continue;
            }
            let reads_out = ending.as_ref().is_some_and(|e: &Ending| e.reads_out);
            let taken = self.take_batch(source, share, shared, reads_out);
            let progress = taken.inspect_err(|error| self.tell_fault(error, stop))?;
            self.tell_time(source, progress, &mut clock);
            if self.is_over(source, progress, stop, shared, ending) {
                return Ok(());
            }
            if ending.is_none() {
                self.doze(source, &clock, shared);
            }
        }
    }

    /// Sleeps for longer where nothing has come to any worker for a while. The first packets behind that wake the others,
    /// whose promises the capture's writer waits for.
    fn doze(&mut self, source: &mut impl Source, clock: &Clock, shared: &Shared) {
        let Some(alarm) = &mut self.alarm else {
            return;
        };
        let Shared { activity, .. } = shared;
        if clock.last_packets == clock.now {
            // Twice a second is as often as the others need it.
            if clock.ends_silence {
                activity.note(clock.now);
                activity.wake_all();
            } else if activity.silent_for(clock.now) >= SILENCE / 2 {
                activity.note(clock.now);
            }
            return;
        }
        let is_silent =
            clock.now - clock.last_packets >= SILENCE && activity.silent_for(clock.now) >= SILENCE;
        if is_silent && self.changing.is_none() {
            source.doze(alarm.fd(), MOST_DOZED);
            alarm.turn_off();
        }
    }

    /// Does what was ordered since the last batch.
    fn take_orders(&mut self, source: &mut impl Source) {
        while let Some(order) = self.inbox.take() {
            match order {
                Order::Tell(tell) => match tell.wants().clone() {
                    Wants::Counts => {
                        tell.answer(|| Answer::Counts(Box::new(self.counts(source))));
                    }
                    Wants::Cuts(asked) => {
                        tell.answer(|| Answer::Cuts(Cut::of_each(self.worker.sessions(), &asked)));
                    }
                    Wants::All => tell.answer(|| {
                        Answer::Worker(Box::new(WorkerAnswer {
                            snapshot: self.worker.snapshot(),
                            measured: self.measured(),
                            lost_before: source.lost_so_far(),
                            kernel_refused: source.refused_so_far(),
                            offers: self.outlet.offers(),
                        }))
                    }),
                },
                // That is for the sinks.
                Order::Rotate => {}
                Order::Change(changing) => {
                    // Until the worker goes by the new list the kernel must keep whole what either list wants.
                    let now = &self.worker.allowed().networks;
                    let either = now.let_in_with(&changing.change.allowed.networks);
                    let since_ns = match source.let_in(&either) {
                        true => wall_clock_ns().saturating_add(STAMP_TO_SEEN_NS),
                        false => 0,
                    };
                    self.changing = Some((changing, since_ns));
                }
            }
        }
    }

    fn measured(&self) -> Measured {
        let mut measured = Measured::default();
        if let Some(live) = &self.live {
            live.add_to(&mut measured);
        }
        measured
    }

    /// What this worker has counted so far.
    fn counts(&self, source: &mut impl Source) -> WorkerCounts {
        let mut counts = WorkerCounts::of(&self.worker);
        counts.measured.merge(&self.measured());
        WorkerCounts {
            lost_before: source.lost_so_far(),
            kernel_refused: source.refused_so_far(),
            offers: self.outlet.offers(),
            latest_ns: self.latest_ns,
            ..counts
        }
    }

    /// Takes other settings once no packet will come that the kernel has cut by the old ones. Nothing earlier than
    /// `settled_ns` will follow.
    #[cold]
    fn change(&mut self, source: &mut impl Source, settled_ns: u64) {
        let due = self
            .changing
            .take_if(|(_, since_ns)| settled_ns >= *since_ns);
        if let Some((changing, _)) = due {
            self.worker.change(&changing.change);
            source.let_in(&changing.change.allowed.networks);
        }
    }

    /// Takes a batch of at most `share` frames from the source, and works on it.
    fn take_batch<S: Source>(
        &mut self,
        source: &mut S,
        share: u64,
        shared: &Shared,
        reads_out: bool,
    ) -> Result<Progress, S::Error> {
        let Self {
            worker,
            outlet,
            live,
            latest_ns,
            highest_ns,
            ..
        } = self;
        let most = usize::try_from(share).unwrap_or(usize::MAX);
        let before = worker.ledger().delivered;
        let outcome = if reads_out {
            source.next_batch(most, |arrival| worker.leave_unread(&arrival))
        } else {
            source.next_batch(most, |arrival| {
                *latest_ns = arrival.ts_ns();
                if let Some(live) = live {
                    live.arrived(*latest_ns);
                    *highest_ns = (*highest_ns).max(*latest_ns);
                }
                worker.take(&arrival, outlet);
            })
        };
        let delivered = worker.ledger().delivered - before;
        shared.shares.settle(share, delivered);
        if delivered == 0 && shared.shares.are_scarce() {
            // Nothing came for this worker: the last frames wanted may be waiting for another, which
            // can only take them on while nobody else holds them.
            std::thread::sleep(2 * OTHERS_TURN);
        }
        outcome
    }

    /// Tells the sinks of flow records what they do not see: packets that are in no record.
    fn tell_flows(&mut self) {
        let ignored = self.worker.ledger().in_no_flow();
        let dropped = self.lost.load(Ordering::Relaxed);
        let Told {
            ignored: before,
            dropped: dropped_before,
        } = std::mem::replace(&mut self.told, Told { ignored, dropped });
        self.flow_notes.add(
            ignored.saturating_sub(before),
            dropped.saturating_sub(dropped_before),
        );
    }

    /// Tells the worker, and the writer, how late it is.
    #[allow(
        clippy::disallowed_methods,
        reason = "one clock call a batch, to hand over batches that grow old and to tell when the other clock is set"
    )]
    fn tell_time(&mut self, source: &mut impl Source, progress: Progress, clock: &mut Clock) {
        let now = Instant::now();
        clock.now = now;
        if progress != Progress::Idle {
            clock.ends_silence = now - clock.last_packets >= SILENCE;
            clock.last_packets = now;
        }
        let mut now_ns = self.latest_ns;
        let mut wall_ns = None;
        if now >= clock.tell_lost_at {
            clock.tell_lost_at = now + TELL_LOST;
            if self.live.is_some() {
                self.lost.store(source.lost_so_far(), Ordering::Relaxed);
            }
            self.tell_flows();
        }
        if let Some(live) = &mut self.live {
            let wall = wall_clock_ns();
            if let Some(step) = live.end_batch(wall, now - clock.begun) {
                warn_of_step(step);
                self.highest_ns = 0;
            }
            if now - clock.last_packets >= SILENCE {
                now_ns = wall;
            }
            wall_ns = Some(wall);
        }
        self.worker.tick(now_ns, &mut self.outlet);
        let worker = &mut self.worker;
        self.outlet.take_places(now, |found| {
            worker.found(found.flow, found.record, found.first);
        });
        let settled_ns = source.settled_ns(clock.looked_ns);
        self.outlet.settle_to(settled_ns);
        if self.changing.is_some() {
            self.change(source, settled_ns);
        }
        log_new_sessions(&self.worker, &mut self.logged_sessions);
        match progress {
            Progress::Batch => self.outlet.hand_over_if_old(now),
            Progress::End => self.outlet.hand_over_now(),
            Progress::UpTo(order) => {
                self.outlet.hand_over_now();
                self.outlet.promise(order);
            }
            Progress::Idle => {
                self.outlet.hand_over_now();
                if wall_ns.is_some() && source.is_quiet() {
                    let lag_ns = DISORDER_NS + source.lag_ns();
                    let quiet_ns = clock.looked_ns.saturating_sub(lag_ns);
                    self.outlet.promise(settled_ns.max(quiet_ns));
                }
            }
        }
        clock.looked_ns = wall_ns.unwrap_or_default();
    }

    /// Whether this was the worker's last batch.
    #[allow(
        clippy::disallowed_methods,
        reason = "once a batch of a run that was told to end, which takes no longer than it may"
    )]
    fn is_over(
        &mut self,
        source: &mut impl Source,
        progress: Progress,
        stop: &Stop,
        shared: &Shared,
        ending: &mut Option<Ending>,
    ) -> bool {
        if progress == Progress::End {
            return true;
        }
        let Some(order) = stop.ordered() else {
            return false;
        };
        if self.live.is_none() {
            // What a file has left can be read another time.
            return true;
        }
        let now = Instant::now();
        let ending = ending.get_or_insert_with(|| {
            let own_ns = order.at_ns.max(self.highest_ns);
            source.end_at(shared.meeting.agree(own_ns, Meeting::WAIT));
            Ending {
                since: now,
                in_vain: 0,
                reads_out: false,
            }
        });
        let since = now - ending.since;
        // A source may be quiet while packets that have come cannot be seen yet. Where cores are scarce the
        // kernel needs longer, and so do the looks: their number counts as well.
        ending.in_vain = match progress {
            Progress::Idle => ending.in_vain + 1,
            _ => 0,
        };
        let unseen = Duration::from_nanos(source.lag_ns()) + STAMP_TO_SEEN;
        if ending.in_vain >= LOOKS_IN_VAIN && since >= unseen {
            return true;
        }
        if since >= MAX_DRAIN && !ending.reads_out {
            ending.reads_out = true;
        }
        if since < MAX_DRAIN + MAX_READ_OUT {
            return false;
        }
        tracing::error!(
            worker = self.outlet.worker(),
            "what arrived last could not be read in time, and is in no counter"
        );
        true
    }

    /// A source that fails ends the run at once: nobody reads its share of the traffic any more.
    fn tell_fault(&self, error: &impl Display, stop: &Stop) {
        if self.live.is_some() {
            tracing::error!(worker = self.outlet.worker(), "{error}; the run ends");
            stop.order(Why::Fault);
        }
    }
}

impl Clock {
    #[allow(
        clippy::disallowed_methods,
        reason = "once, to tell how long something has been going on"
    )]
    fn start() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            last_packets: now,
            ends_silence: false,
            now,
            looked_ns: wall_clock_ns(),
            tell_lost_at: now,
        }
    }
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
    let sessions = worker.sessions();
    if sessions.named() > *logged {
        for (_, session) in sessions.named_since(*logged) {
            tracing::debug!(session = %session.key.interface_name(), "mirror session first seen");
        }
        *logged = sessions.named();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOWEVER_LONG: Duration = Duration::MAX;

    /// Whoever comes first, all end with the packet that came last.
    #[test]
    fn workers_agree_on_one_end() {
        let meeting = Meeting::default();
        // The second time is a run of its own.
        for came_ns in [[30, 10, 20], [7, 9, 8]] {
            meeting.await_workers(came_ns.len());
            let meeting = &meeting;
            let ends = std::thread::scope(|scope| {
                let come = |at_ns| scope.spawn(move || meeting.agree(at_ns, HOWEVER_LONG));
                came_ns.map(come).map(|worker| worker.join().unwrap())
            });
            let latest = came_ns.into_iter().max().unwrap();
            assert_eq!(ends, [latest; 3]);
        }
    }

    #[test]
    fn who_has_ended_is_not_waited_for() {
        let meeting = Meeting::default();
        meeting.await_workers(3);
        meeting.excuse();
        meeting.excuse();
        assert_eq!(meeting.agree(5, HOWEVER_LONG), 5);
        // One too many, where a worker was not awaited, makes nobody wait.
        meeting.excuse();
        assert_eq!(meeting.agree(4, HOWEVER_LONG), 5);
    }

    #[test]
    fn who_does_not_come_is_not_waited_for_in_vain() {
        let meeting = Meeting::default();
        meeting.await_workers(2);
        assert_eq!(meeting.agree(5, Duration::ZERO), 5);
    }
}
