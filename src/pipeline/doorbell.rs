//! A bounded queue whose reader sleeps as soon as there is nothing.
//!
//! The channel's own wait yields the core several times before it sleeps. On a core that the reader shares
//! with a worker and the kernel each yield is a switch to them and back, a few hundred times a second in
//! vain. Here the reader parks at once, and whoever puts something in rings.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, SendError, SendTimeoutError, Sender, TryRecvError, TrySendError,
    bounded,
};

/// Puts values in; clones share the queue.
pub struct Callers<T> {
    // Dropped before the bell, which the reader then hears to find nobody left.
    queue: Sender<T>,
    bell: Bell,
}

/// Takes values out.
pub struct Sleeper<T> {
    queue: Receiver<T>,
    bell: Bell,
}

/// Wakes the reader; it keeps no queue open.
#[derive(Clone, Default)]
pub struct Bell(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The reader's thread, once it has begun to read.
    reader: OnceLock<Thread>,
    /// The reader cannot go on with what it has.
    waits: AtomicBool,
    /// The reader is to come back from its sleep without a value.
    poked: AtomicBool,
}

/// A queue with so many places.
pub fn doorbell<T>(places: usize) -> (Callers<T>, Sleeper<T>) {
    let (sender, receiver) = bounded(places);
    let bell = Bell::default();
    let callers = Callers {
        queue: sender,
        bell: bell.clone(),
    };
    let sleeper = Sleeper {
        queue: receiver,
        bell,
    };
    (callers, sleeper)
}

impl<T> Callers<T> {
    /// Puts `value` in; waits while there is no room.
    ///
    /// # Errors
    ///
    /// The value, when nobody reads any more.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.queue.send(value)?;
        self.bell.ring();
        Ok(())
    }

    /// Puts `value` in; waits so long while there is no room.
    ///
    /// # Errors
    ///
    /// The value, when there was none in time or nobody reads any more.
    pub fn send_timeout(&self, value: T, wait: Duration) -> Result<(), SendTimeoutError<T>> {
        self.queue.send_timeout(value, wait)?;
        self.bell.ring();
        Ok(())
    }

    /// Puts `value` in if there is room.
    ///
    /// # Errors
    ///
    /// The value, when there is none or nobody reads any more.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.queue.try_send(value)?;
        self.bell.ring();
        Ok(())
    }

    /// Values that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What wakes the reader.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Whether the reader has said last that it cannot go on with what it has.
    pub fn is_waited_for(&self) -> bool {
        self.bell.0.waits.load(Ordering::Relaxed)
    }
}

impl<T> Clone for Callers<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            bell: self.bell.clone(),
        }
    }
}

impl<T> Sleeper<T> {
    /// Takes a value; waits until there is one, for as long as `patience` says. Always on the same thread.
    ///
    /// # Errors
    ///
    /// When nothing came in time, or the reader was poked meanwhile; and when nobody is left who could put anything in.
    #[allow(
        clippy::disallowed_methods,
        reason = "a clock call before each sleep that is to end"
    )]
    pub fn recv(&self, patience: Option<Duration>) -> Result<T, RecvTimeoutError> {
        self.bell.hear();
        let mut until = None;
        loop {
            match self.queue.try_recv() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
            if self.bell.0.poked.load(Ordering::Acquire) {
                self.bell.0.poked.store(false, Ordering::Relaxed);
                return Err(RecvTimeoutError::Timeout);
            }
            let Some(patience) = patience else {
                std::thread::park();
                continue;
            };
            let now = Instant::now();
            let left = until
                .get_or_insert_with(|| now + patience)
                .saturating_duration_since(now);
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            std::thread::park_timeout(left);
        }
    }

    /// Whether no value waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Tells the callers whether the reader cannot go on with what it has. They may see it a little later.
    pub fn wait_for_more(&self, waits: bool) {
        if self.bell.0.waits.load(Ordering::Relaxed) != waits {
            self.bell.0.waits.store(waits, Ordering::Relaxed);
        }
    }

    /// Takes the values that wait, and does not wait itself.
    pub fn try_iter(&self) -> impl Iterator<Item = T> {
        self.queue.try_iter()
    }

    /// Values that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

impl Bell {
    /// Names the thread that hears it, before that looks into the queue: what is put in after the look rings.
    ///
    /// The reader writes its name and reads the queue, a caller writes to the queue and reads the name. Each
    /// could miss what the other wrote but for the two fences: one of them comes first in the single order of
    /// all such fences, and what was written before it is seen by what is read behind the other.
    fn hear(&self) {
        if self.0.reader.get().is_none() {
            self.0.reader.get_or_init(std::thread::current);
            fence(Ordering::SeqCst);
        }
    }

    /// Has the reader come back from its sleep, or not fall asleep, once: something else than a value waits for it.
    pub fn poke(&self) {
        // What was put in its way before is seen by who sees this.
        self.0.poked.store(true, Ordering::Release);
        self.ring();
    }

    fn ring(&self) {
        fence(Ordering::SeqCst);
        if let Some(reader) = self.0.reader.get() {
            reader.unpark();
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is poked comes back once without a value, and sleeps on then.
    #[test]
    fn a_reader_that_is_poked_comes_back() {
        let (callers, sleeper) = doorbell::<u32>(1);
        let bell = callers.bell();
        let reader = std::thread::spawn(move || {
            let poked = sleeper.recv(None);
            (poked, sleeper.recv(None))
        });
        bell.poke();
        while !reader.is_finished() {
            // It may have come back, and wants a value now.
            let _ = callers.try_send(7);
            std::thread::yield_now();
        }
        let (first, second) = reader.join().unwrap();
        assert!(
            matches!(first, Err(RecvTimeoutError::Timeout) | Ok(7)),
            "{first:?}"
        );
        assert!(
            matches!(second, Err(RecvTimeoutError::Timeout) | Ok(7)),
            "{second:?}"
        );
        assert!(first.is_err() || second.is_err(), "the poke was not lost");
    }

    /// Values from several threads at all paces arrive, each caller's in order, and the end is heard even
    /// by a reader that sleeps without a limit.
    #[test]
    fn everything_arrives_and_the_end_is_heard() {
        const EACH: u32 = if cfg!(miri) { 100 } else { 20_000 };
        let (callers, sleeper) = doorbell(4);
        std::thread::scope(|scope| {
            for caller in 0..3usize {
                let callers = callers.clone();
                scope.spawn(move || {
                    for number in 0..EACH {
                        callers.send((caller, number)).unwrap();
                        if number % 64 == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            drop(callers);
            let mut next = [0; 3];
            loop {
                match sleeper.recv(None) {
                    Ok((caller, number)) => {
                        assert_eq!(number, next[caller]);
                        next[caller] += 1;
                    }
                    Err(end) => {
                        assert_eq!(end, RecvTimeoutError::Disconnected);
                        break;
                    }
                }
            }
            assert_eq!(next, [EACH; 3]);
        });
    }

    #[test]
    fn callers_hear_that_they_are_waited_for() {
        let (callers, sleeper) = doorbell::<u8>(1);
        assert!(!callers.is_waited_for());
        sleeper.wait_for_more(true);
        assert!(callers.clone().is_waited_for());
        sleeper.wait_for_more(false);
        assert!(!callers.is_waited_for());
    }

    #[test]
    fn patience_ends() {
        let (callers, sleeper) = doorbell(1);
        let none: Result<u8, _> = sleeper.recv(Some(Duration::from_millis(1)));
        assert_eq!(none, Err(RecvTimeoutError::Timeout));
        callers.try_send(7).unwrap();
        assert!(callers.try_send(8).is_err(), "no room");
        assert_eq!(sleeper.recv(Some(Duration::ZERO)), Ok(7));
        drop(sleeper);
        assert!(callers.send(9).is_err(), "nobody reads");
    }
}
