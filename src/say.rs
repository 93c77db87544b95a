//! What this program says to people: lines and pages on standard error.
//!
//! Standard error may be closed, full, or a terminal that is stopped. None of these ends the run, and none
//! keeps a thread that receives packets: one thread writes, everybody else puts texts into its queue. At the
//! end of the run [`flush`] waits for what is left, as long as there is progress.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::threads;

/// Texts that may wait.
const MOST_WAITING: usize = 64;
/// Bytes written at a time: more than most pages, and what a pipe takes in one piece.
const PIECE_LEN: usize = 4096;
/// How often a non-blocking standard error without room is tried again.
const ROOM_AGAIN: Duration = Duration::from_millis(10);

/// Says `text`, which ends with a newline. Never blocks: while standard error takes nothing and the queue is
/// full, the text is lost.
pub fn say(text: impl Into<String>) {
    let text = text.into();
    match mouth() {
        Some(mouth) => mouth.put(text),
        // No thread can be had: the text is still worth more than the wait.
        None if INSTEAD.get().is_none() => _ = io::stderr().write_all(text.as_bytes()),
        None => {}
    }
}

/// Where texts go instead of standard error, if anywhere.
static INSTEAD: OnceLock<Option<File>> = OnceLock::new();

/// From now on texts go to a file, or nowhere: whoever started this process takes every text on standard error for a
/// fault. Before the first text.
pub fn divert(to: Option<File>) {
    let _ = INSTEAD.set(to);
}

/// Says the last text of a run, a fault. It comes to standard error also where other texts do not.
pub fn say_fault(text: impl Into<String>) {
    let text = text.into();
    if INSTEAD.get().is_some() {
        let _ = io::stderr().write_all(text.as_bytes());
    }
    say(text);
}

/// Starts the thread that writes, if it does not run yet and the system gives one.
pub fn start() {
    let _ = mouth();
}

fn mouth() -> Option<&'static Mouth> {
    static MOUTH: OnceLock<Option<&'static Mouth>> = OnceLock::new();
    *MOUTH.get_or_init(Mouth::start)
}

/// Has the thread that writes do `work`, before its next text. Does nothing where there is none.
pub fn have_done(work: impl FnOnce() + Send + 'static) {
    if let Some(mouth) = mouth() {
        mouth.state().work = Some(Box::new(work));
        mouth.changed.notify_all();
    }
}

/// Waits until everything that was said is written; `false` when standard error has taken nothing for as long
/// as there is `patience`. After that it is not waited for again, unless it has gone on since.
pub fn flush(patience: Duration) -> bool {
    MOUTH_STATE.flush(patience)
}

/// A line of the log, for `tracing`.
pub struct LogLine;

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        say(String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static MOUTH_STATE: Mouth = Mouth::new();

/// The queue and its writer.
struct Mouth {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: VecDeque<String>,
    /// A text is being written.
    busy: bool,
    /// Texts that found no room since the last one that did.
    lost: u64,
    /// Grows with every piece written.
    progress: u64,
    /// The progress at which somebody lost patience.
    stuck_at: Option<u64>,
    /// What the thread is to do before its next text.
    work: Option<Box<dyn FnOnce() + Send>>,
}

impl Mouth {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                busy: false,
                lost: 0,
                progress: 0,
                stuck_at: None,
                work: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Starts the thread that writes to standard error.
    fn start() -> Option<&'static Self> {
        let started = threads::start("vxtap-say", || match INSTEAD.get() {
            None => MOUTH_STATE.write_to(io::stderr()),
            Some(None) => MOUTH_STATE.write_to(io::sink()),
            Some(Some(file)) => MOUTH_STATE.write_to(file),
        });
        started.ok().map(|_| &MOUTH_STATE)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, text: String) {
        let mut state = self.state();
        if state.waiting.len() >= MOST_WAITING {
            state.lost += 1;
            return;
        }
        if state.lost > 0 {
            let lost = std::mem::take(&mut state.lost);
            state.waiting.push_back(format!(
                "vxtap: {lost} messages are missing here: standard error did not take them in time\n"
            ));
        }
        state.waiting.push_back(text);
        self.changed.notify_all();
    }

    /// Writes what is said, for ever. What `out` does not take is lost: there is nowhere else to say it.
    fn write_to(&self, mut out: impl Write) {
        loop {
            let mut state = self.state();
            let text = loop {
                if let Some(work) = state.work.take() {
                    drop(state);
                    work();
                    state = self.state();
                }
                match state.waiting.pop_front() {
                    Some(text) => break text,
                    None => {
                        state = self
                            .changed
                            .wait(state)
                            .unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            state.busy = true;
            drop(state);
            for piece in text.as_bytes().chunks(PIECE_LEN) {
                let written = write_piece(&mut out, piece);
                self.state().progress += 1;
                self.changed.notify_all();
                if written.is_err() {
                    break;
                }
            }
            self.state().busy = false;
            self.changed.notify_all();
        }
    }

    fn flush(&self, patience: Duration) -> bool {
        let mut state = self.state();
        while state.busy || !state.waiting.is_empty() {
            let before = state.progress;
            if state.stuck_at == Some(before) {
                return false;
            }
            let (after, waited) = self
                .changed
                .wait_timeout_while(state, patience, |state| {
                    state.progress == before && (state.busy || !state.waiting.is_empty())
                })
                .unwrap_or_else(PoisonError::into_inner);
            state = after;
            if waited.timed_out() && state.progress == before {
                state.stuck_at = Some(before);
                return false;
            }
        }
        true
    }
}

/// Writes all of `piece`, also where whoever gave us standard error made it non-blocking (O_NONBLOCK).
fn write_piece(out: &mut impl Write, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        match out.write(piece) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => piece = piece.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(ROOM_AGAIN)
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Takes a piece whenever the test lets it, and keeps what it took.
    struct Gate {
        open: Receiver<()>,
        taken: &'static Mutex<String>,
    }

    impl Write for Gate {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            let text = std::str::from_utf8(piece).unwrap();
            self.taken.lock().unwrap().push_str(text);
            Ok(piece.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_standard_error_that_takes_nothing() {
        static MOUTH: Mouth = Mouth::new();
        static TAKEN: Mutex<String> = Mutex::new(String::new());
        let moment = Duration::from_millis(1);
        assert!(MOUTH.flush(moment), "nothing was said");
        let (let_through, open) = channel();
        let gate = Gate {
            open,
            taken: &TAKEN,
        };
        std::thread::spawn(|| MOUTH.write_to(gate));
        for number in 0..2 * MOST_WAITING {
            MOUTH.put(format!("{number}\n"));
        }
        assert!(!MOUTH.flush(moment));
        // The second time it is known.
        assert!(!MOUTH.flush(Duration::from_secs(3600)));
        for _ in 0..=MOST_WAITING + 1 {
            let_through.send(()).unwrap();
        }
        while !MOUTH.flush(moment) {}
        MOUTH.put("last\n".to_owned());
        for _ in 0..2 {
            let_through.send(()).unwrap();
        }
        while !MOUTH.flush(moment) {}
        let taken = TAKEN.lock().unwrap();
        let lines: Vec<&str> = taken.lines().collect();
        assert_eq!(lines[..3], ["0", "1", "2"]);
        assert_eq!(lines.last(), Some(&"last"));
        // As many lines tell of losses as there were moments of room in between.
        let (told, shown): (Vec<&str>, Vec<&str>) =
            lines.iter().partition(|line| line.starts_with("vxtap: "));
        let lost =
            |line: &&str| -> usize {
                assert!(line.ends_with(
                    "messages are missing here: standard error did not take them in time"
                ));
                line.split(' ').nth(1).unwrap().parse().unwrap()
            };
        let lost: usize = told.iter().map(lost).sum();
        assert_eq!(lost + shown.len(), 2 * MOST_WAITING + 1);
        assert!(lost > 0);
        drop(taken);
        // It is closed: what is said is gone, and nobody waits.
        drop(let_through);
        MOUTH.put("into the void\n".repeat(PIECE_LEN));
        assert!(MOUTH.flush(Duration::from_secs(60)));
    }
}
