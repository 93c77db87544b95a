//! Lets workers doze when nothing comes to any of them, and wakes them: for orders, and when a packet comes to one.
//!
//! To wake up sixty times a second in vain took each worker 0.4 % of a core of a virtual machine (docs/BENCHMARKS.md).

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The alarm of one worker.
pub struct Alarm {
    rung: Arc<AtomicBool>,
    pipe: PipeReader,
}

/// Rings the alarm of one worker.
#[derive(Clone)]
struct Bell {
    rung: Arc<AtomicBool>,
    pipe: Arc<PipeWriter>,
}

impl Alarm {
    /// Readable once it rings.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Turns it off if it rings. Whoever rings in between finds the worker awake.
    pub fn turn_off(&mut self) {
        if self.rung.load(Ordering::Acquire) && self.pipe.read(&mut [0]).is_ok() {
            self.rung.store(false, Ordering::Release);
        }
    }
}

impl Bell {
    fn ring(&self) {
        // One byte at the most waits in the pipe, so that nobody waits for room.
        if !self.rung.swap(true, Ordering::AcqRel) {
            let _ = (&*self.pipe).write(&[0]);
        }
    }
}

/// What workers know of each other's packets: whether any came lately.
pub struct Activity {
    begun: Instant,
    /// When packets came to one of them, as far as was told, in milliseconds since then.
    at_ms: AtomicU64,
    bells: Vec<Bell>,
}

impl Activity {
    /// Of so many workers of a run that begins now, with an alarm for each; without alarms where the system has no pipes
    /// left, and then nobody dozes.
    #[allow(clippy::disallowed_methods, reason = "once, at the start")]
    pub fn begun(workers: usize) -> (Self, Vec<Alarm>) {
        Self::of(workers, Instant::now())
    }

    fn of(workers: usize, now: Instant) -> (Self, Vec<Alarm>) {
        let pairs: io::Result<Vec<(Bell, Alarm)>> = (0..workers).map(|_| pair()).collect();
        let (bells, alarms) = pairs.unwrap_or_default().into_iter().unzip();
        let activity = Self {
            begun: now,
            at_ms: AtomicU64::new(0),
            bells,
        };
        (activity, alarms)
    }

    /// Packets have come to a worker by `now`.
    pub fn note(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.begun).as_millis();
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        self.at_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// How long nothing has come to any worker, as far as was told.
    pub fn silent_for(&self, now: Instant) -> Duration {
        let at = Duration::from_millis(self.at_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.begun).saturating_sub(at)
    }

    /// Wakes worker `number`.
    pub fn wake(&self, number: usize) {
        if let Some(bell) = self.bells.get(number) {
            bell.ring();
        }
    }

    /// Wakes all.
    pub fn wake_all(&self) {
        self.bells.iter().for_each(Bell::ring);
    }
}

fn pair() -> io::Result<(Bell, Alarm)> {
    let (reader, writer) = io::pipe()?;
    // A byte that is still on its way is not waited for: the alarm rings once more then.
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let rung = Arc::new(AtomicBool::new(false));
    let bell = Bell {
        rung: Arc::clone(&rung),
        pipe: Arc::new(writer),
    };
    Ok((bell, Alarm { rung, pipe: reader }))
}

#[cfg(all(test, target_os = "linux"))]
#[allow(
    clippy::disallowed_methods,
    reason = "moments are given to what is tested"
)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_that_of_all_workers() {
        let begun = Instant::now();
        let (activity, alarms) = Activity::of(3, begun);
        assert_eq!(alarms.len(), 3);
        let at = |ms| begun + Duration::from_millis(ms);
        assert_eq!(activity.silent_for(at(700)), Duration::from_millis(700));
        activity.note(at(500));
        activity.note(at(400));
        assert_eq!(activity.silent_for(at(700)), Duration::from_millis(200));
        assert_eq!(activity.silent_for(at(300)), Duration::ZERO);
    }

    #[test]
    fn an_alarm_rings_until_it_is_turned_off_however_often_it_was_rung() {
        let (activity, mut alarms) = Activity::of(2, Instant::now());
        let rings = |alarm: &Alarm| crate::sys::wait_readable([alarm.fd()], 0).unwrap() == 1;
        for _ in 0..3 {
            assert!(!alarms.iter().any(rings));
            // More than a pipe holds.
            for _ in 0..100_000 {
                activity.wake(1);
            }
            activity.wake(7);
            assert!(!rings(&alarms[0]) && rings(&alarms[1]));
            activity.wake_all();
            assert!(alarms.iter().all(rings));
            alarms.iter_mut().for_each(Alarm::turn_off);
        }
        alarms[0].turn_off();
    }
}
