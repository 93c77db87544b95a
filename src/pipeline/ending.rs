//! The end of a run: what the sinks have yet to do is waited for, but live not for ever.
//!
//! The reader of a pipe may stand still, a network disk may hang. A run that was told to end and cannot
//! get rid of what it holds says so, counts it as lost and ends.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

pub use crate::patience::PATIENCE;
use crate::threads::{self, NoThread};

/// How often progress is looked at while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One deadline for everything that is waited for at the end: it moves on as long as any sink makes
/// progress.
pub struct Patience<'a> {
    limit: Option<Duration>,
    steps: &'a dyn Fn() -> u64,
    seen: u64,
    since: Instant,
}

impl<'a> Patience<'a> {
    /// Waits no longer than `limit` without progress, `None` for as long as it takes; `steps` changes with
    /// every progress.
    #[allow(clippy::disallowed_methods, reason = "once a run, at its end")]
    pub fn new(limit: Option<Duration>, steps: &'a dyn Fn() -> u64) -> Self {
        Self {
            limit,
            steps,
            seen: steps(),
            since: Instant::now(),
        }
    }

    /// The same from now on, but for no longer than `limit` without progress.
    pub fn at_most(&self, limit: Duration) -> Self {
        Self::new(self.limit.map(|own| own.min(limit)), self.steps)
    }

    /// How long may be waited before asking again; `None` when patience is at its end.
    #[allow(
        clippy::disallowed_methods,
        reason = "at the end of a run, while something is waited for"
    )]
    pub fn left(&mut self) -> Option<Duration> {
        let Some(limit) = self.limit else {
            return Some(LOOK_EVERY);
        };
        let now = (self.steps)();
        if now != self.seen {
            (self.seen, self.since) = (now, Instant::now());
        }
        let left = limit.checked_sub(self.since.elapsed())?;
        (!left.is_zero()).then(|| left.min(LOOK_EVERY))
    }
}

/// Why a thread has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unended {
    /// Patience came to its end; the thread is left to itself.
    Stuck,
    /// It panicked.
    Panicked,
}

/// A thread whose end is waited for.
pub struct Task<T> {
    thread: JoinHandle<T>,
    /// Closed when the thread ends, however it does.
    ended: Receiver<()>,
}

impl<T: Send + 'static> Task<T> {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system gives none.
    pub fn start(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<Self, NoThread> {
        let (running, ended) = bounded(0);
        let thread = threads::start(name, move || {
            let _running: crossbeam_channel::Sender<()> = running;
            work()
        })?;
        Ok(Self { thread, ended })
    }

    /// What it came to.
    ///
    /// # Errors
    ///
    /// [`Unended`].
    pub fn wait(self, patience: &mut Patience<'_>) -> Result<T, Unended> {
        loop {
            let left = patience.left();
            match self.ended.recv_timeout(left.unwrap_or_default()) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    return self.thread.join().map_err(|_| Unended::Panicked);
                }
                Err(RecvTimeoutError::Timeout) if left.is_none() => return Err(Unended::Stuck),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_makes_progress_is_waited_for() {
        let progress = Arc::new(AtomicU64::new(0));
        let in_thread = Arc::clone(&progress);
        let (go_on, wait) = bounded(0);
        let task = Task::start("test", move || {
            // As often as it is asked, it has come further, and then it ends.
            for () in wait {
                in_thread.fetch_add(1, Ordering::SeqCst);
            }
            7
        });
        let asked = AtomicU64::new(0);
        let go_on = std::cell::RefCell::new(Some(go_on));
        let steps = || {
            if asked.fetch_add(1, Ordering::SeqCst) == 4 {
                go_on.borrow_mut().take();
            } else if let Some(go_on) = go_on.borrow().as_ref() {
                go_on.send(()).unwrap();
            }
            asked.load(Ordering::SeqCst)
        };
        let mut patience = Patience::new(Some(Duration::from_millis(1)), &steps);
        assert_eq!(task.unwrap().wait(&mut patience), Ok(7));
        assert_eq!(progress.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn what_makes_none_is_left() {
        let (go_on, wait) = bounded::<()>(0);
        let task = Task::start("test", move || wait.recv()).unwrap();
        let mut patience = Patience::new(Some(Duration::from_millis(1)), &|| 0);
        assert_eq!(task.wait(&mut patience), Err(Unended::Stuck));
        // The deadline is one for all: nobody else is waited for either, but who has ended is heard.
        assert_eq!(patience.left(), None);
        drop(go_on);
        let task = Task::start("test", || 7).unwrap();
        let mut patience = Patience::new(None, &|| 0);
        assert_eq!(task.wait(&mut patience), Ok(7));
    }

    #[test]
    fn a_panic_is_told_apart() {
        let task: Task<()> = Task::start("test", || {
            // Not `panic!`: what the hook prints would look like a failure.
            std::panic::resume_unwind(Box::new("broken on purpose"))
        })
        .unwrap();
        let mut patience = Patience::new(None, &|| 0);
        assert_eq!(task.wait(&mut patience), Err(Unended::Panicked));
    }
}
