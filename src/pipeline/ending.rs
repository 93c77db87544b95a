//! The end of a run: what the writers have yet to do is waited for, but live not for ever.
//!
//! The reader of a pipe may stand still, a network disk may hang. A run that was told to end and cannot
//! get rid of what it holds says so, counts it as lost and ends.

use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

pub use crate::patience::PATIENCE;

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
    /// When the system has no thread left.
    pub fn start(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (running, ended) = bounded(0);
        let named = Builder::new().name(name.to_owned());
        let thread = named.spawn(move || {
            let _running: crossbeam_channel::Sender<()> = running;
            work()
        })?;
        Ok(Self { thread, ended })
    }

    /// What it came to. `None` when it panicked, or when `progress` did not change for as long as there is
    /// `patience`: then the thread is left to itself.
    pub fn wait(self, patience: Option<Duration>, progress: impl Fn() -> u64) -> Option<T> {
        let Some(patience) = patience else {
            return self.thread.join().ok();
        };
        let mut before = progress();
        loop {
            match self.ended.recv_timeout(patience) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return self.thread.join().ok(),
                Err(RecvTimeoutError::Timeout) => {
                    let now = progress();
                    if now == before {
                        return None;
                    }
                    before = now;
                }
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
            for _ in wait {
                in_thread.fetch_add(1, Ordering::SeqCst);
            }
            7
        })
        .unwrap();
        let asked = AtomicU64::new(0);
        let go_on = std::cell::RefCell::new(Some(go_on));
        let ask = || {
            if asked.fetch_add(1, Ordering::SeqCst) == 4 {
                go_on.borrow_mut().take();
            } else if let Some(go_on) = go_on.borrow().as_ref() {
                go_on.send(()).unwrap();
            }
            asked.load(Ordering::SeqCst)
        };
        assert_eq!(task.wait(Some(Duration::from_millis(1)), ask), Some(7));
        assert_eq!(progress.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn what_makes_none_is_left() {
        let (go_on, wait) = bounded::<()>(0);
        let task = Task::start("test", move || wait.recv()).unwrap();
        assert_eq!(task.wait(Some(Duration::from_millis(1)), || 0), None);
        drop(go_on);
        let task = Task::start("test", || 7).unwrap();
        assert_eq!(task.wait(None, || 0), Some(7));
    }
}
