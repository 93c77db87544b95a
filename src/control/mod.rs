//! Who tells a run what to do while it goes on, and whom others ask how it is: one thread with the runtime, which has the
//! signals, the timers and the listeners for status and metrics. It never touches a packet.
//!
//! It is started before anything is opened, so that no signal finds a run unprepared. SIGINT, SIGTERM and
//! SIGHUP end the run in good order, a second one at once; SIGUSR1 asks for the summary so far; SIGUSR2 ends the files of a store;
//! where no terminal can have hung up SIGHUP does that too, and reads the settings anew; SIGXFSZ is a
//! write that fails, not the end.

#[cfg(target_os = "linux")]
mod heartbeat;
#[cfg(target_os = "linux")]
mod http;
pub mod inquire;
#[cfg(target_os = "linux")]
pub mod look;
#[cfg(target_os = "linux")]
mod probes;
#[cfg(unix)]
mod signals;
#[cfg(target_os = "linux")]
pub mod socket;
#[cfg(target_os = "linux")]
pub mod station;
#[cfg(target_os = "linux")]
pub mod token;
#[cfg(target_os = "linux")]
pub mod verbs;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::control::inquire::Teller;
#[cfg(target_os = "linux")]
use crate::control::look::Looker;
#[cfg(target_os = "linux")]
use crate::control::station::Station;
use crate::failure::Failure;
use crate::say::{self, flush, say};
use crate::stop::{Signal, Stop, Why};
use crate::threads;

/// A SIGHUP so soon after the signal that ends the run is not impatience: whoever closes a session sends it
/// SIGTERM and SIGHUP, or SIGHUP twice.
const SAME_CAUSE: Duration = Duration::from_millis(500);
/// How long the second signal waits for what is yet to be said.
const LAST_WORDS: Duration = Duration::from_millis(100);

type Rotate = Arc<dyn Fn() + Send + Sync>;
/// Reads the settings anew, has the run take them, and says what came of it. It may wait for the disk and for threads.
pub type Reload = Arc<dyn Fn() -> String + Send + Sync>;

/// What the run tells its control.
enum Message {
    /// It ends after this time.
    EndAfter(Duration),
    /// From now on there is something to tell.
    Tell(Box<Teller>),
    /// From now on there are files that can be ended.
    Rotate(Rotate),
    /// From now on there are settings that can be read anew.
    Reload(Reload),
    /// This is to be done once, on this thread.
    Do(Box<dyn FnOnce() + Send>),
    #[cfg(target_os = "linux")]
    /// From now on others may ask.
    Serve(Box<(Station, Looker)>),
}

/// The run's hand on its control.
pub struct Control {
    stop: Arc<Stop>,
    to: UnboundedSender<Message>,
}

/// Where orders from outside come from.
trait Outside {
    /// The next one.
    async fn next(&mut self) -> Came;
}

/// Systems without signals.
#[cfg(not(unix))]
struct NoSignals;

#[cfg(not(unix))]
impl Outside for NoSignals {
    async fn next(&mut self) -> Came {
        std::future::pending().await
    }
}

/// What has come from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    End(Signal),
    Asked,
    Rotate,
}

impl Control {
    /// Starts the thread; from now on signals are taken.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor or no thread left for it.
    pub fn start() -> Result<Self, Failure> {
        // Messages do without a thread, but take one: now, so that what is checked later is not taken by them.
        say::start();
        let cannot = |error: std::io::Error| {
            Failure::running(format!(
                "cannot take signals: {error}; 'ulimit -n' shows the limit of open files"
            ))
        };
        #[cfg(unix)]
        signals::enough_descriptors().map_err(cannot)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(cannot)?;
        #[cfg(unix)]
        let signals = {
            let _guard = runtime.enter();
            signals::Signals::take().map_err(cannot)?
        };
        #[cfg(not(unix))]
        let signals = NoSignals;
        let stop = Arc::new(Stop::new());
        let (to, inbox) = unbounded_channel();
        let for_thread = Arc::clone(&stop);
        threads::start("vxtap-control", move || {
            runtime.block_on(control(signals, inbox, &for_thread));
        })?;
        Ok(Self { stop, to })
    }

    /// Whether the run is to end.
    pub const fn stop(&self) -> &Arc<Stop> {
        &self.stop
    }

    /// Ends the run when `time` from now is over.
    pub fn end_after(&self, time: Duration) {
        let _ = self.to.send(Message::EndAfter(time));
    }

    /// From now on `teller` answers when the summary so far is asked for.
    pub fn tell_on_request(&self, teller: Teller) {
        let _ = self.to.send(Message::Tell(Box::new(teller)));
    }

    /// Has the control thread do `work` once, soon.
    pub fn have_done(&self, work: impl FnOnce() + Send + 'static) {
        let _ = self.to.send(Message::Do(Box::new(work)));
    }

    /// From now on `rotate` is called when the files of a store are to be ended.
    pub fn rotate_on_request(&self, rotate: impl Fn() + Send + Sync + 'static) {
        let _ = self.to.send(Message::Rotate(Arc::new(rotate)));
    }

    /// From now on `reload` is called when the settings are to be read anew.
    pub fn reload_on_request(&self, reload: Reload) {
        let _ = self.to.send(Message::Reload(reload));
    }

    #[cfg(target_os = "linux")]
    /// From now on whoever asks at `station` is answered with what `looker` sees.
    pub fn serve(&self, station: Station, looker: Looker) {
        let _ = self.to.send(Message::Serve(Box::new((station, looker))));
    }
}

/// Whether a terminal controls this process: what hangs up then is that.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// What a service does that is hung up: it reads its settings anew and ends the files of its stores.
fn hang_up(reload: Option<Reload>, rotate: Option<Rotate>) {
    let Some(reload) = reload else {
        return rotate.into_iter().for_each(|rotate| rotate());
    };
    // Files are read, and threads waited for: signals are not to wait for that.
    let started = threads::start("vxtap-reload", move || {
        say(reload());
        rotate.into_iter().for_each(|rotate| rotate());
    });
    if let Err(error) = started {
        say(format!("vxtap: the settings were not read anew: {error}\n"));
    }
}

/// The thread's work, for as long as the process lives.
async fn control(mut signals: impl Outside, mut inbox: UnboundedReceiver<Message>, stop: &Stop) {
    let mut teller: Option<Arc<Teller>> = None;
    let mut rotate: Option<Rotate> = None;
    let mut reload: Option<Reload> = None;
    let mut telling: Option<JoinHandle<()>> = None;
    let mut open = true;
    let mut end_at: Option<Instant> = None;
    let mut ended_at: Option<(Signal, Instant)> = None;
    loop {
        let time_is_up = async {
            match end_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What the run has said comes first: whoever sees that it listens may ask at once.
            biased;
            message = inbox.recv(), if open => match message {
                Some(Message::EndAfter(time)) => end_at = Instant::now().checked_add(time),
                Some(Message::Tell(new)) => teller = Some(Arc::from(new)),
                Some(Message::Rotate(new)) => rotate = Some(new),
                Some(Message::Reload(new)) => reload = Some(new),
                Some(Message::Do(work)) => work(),
                #[cfg(target_os = "linux")]
                Some(Message::Serve(both)) => {
                    let (station, looker) = *both;
                    if let Err(error) = station.serve(looker) {
                        tracing::error!("nobody can ask this run: {error}");
                    }
                }
                // The run is over; what is left of it may still be stuck.
                None => (open, teller) = (false, None),
            },
            came = signals.next() => match came {
                // A service has no terminal that could hang up.
                Came::End(Signal::Hangup)
                    if (rotate.is_some() || reload.is_some())
                        && ended_at.is_none()
                        && !has_terminal() =>
                {
                    hang_up(reload.clone(), rotate.clone());
                }
                Came::Rotate => match &rotate {
                    Some(rotate) => rotate(),
                    None => say("vxtap: nothing to rotate: neither -w nor --flows names a directory\n"),
                },
                Came::End(signal) => match ended_at {
                    None => {
                        stop.order(Why::Signal(signal));
                        ended_at = Some((signal, Instant::now()));
                    }
                    // Which of two that come together is seen first is chance.
                    Some((first, at))
                        if [first, signal].contains(&Signal::Hangup)
                            && at.elapsed() < SAME_CAUSE => {}
                    Some(_) => {
                        flush(LAST_WORDS);
                        std::process::exit(signal.exit_code().into());
                    }
                },
                Came::Asked => match &teller {
                    None => say("vxtap: nothing to tell yet\n"),
                    // One answer at a time; who asks again meanwhile gets the one that is under way.
                    Some(_) if telling.as_ref().is_some_and(|telling| !telling.is_finished()) => {}
                    Some(teller) => {
                        let teller = Arc::clone(teller);
                        telling = Some(tokio::spawn(async move { say(teller.page().await) }));
                    }
                },
            },
            () = time_is_up => {
                end_at = None;
                stop.order(Why::TimeIsUp);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts how often it is looked at; nothing comes.
    struct Quiet(Arc<AtomicU32>);

    impl Outside for Quiet {
        async fn next(&mut self) -> Came {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        }
    }

    /// No signal is looked at before everything that the run has said is known: a question that comes right
    /// behind the first line has an answer.
    #[test]
    fn what_the_run_says_comes_before_signals() {
        let (to, inbox) = unbounded_channel();
        for _ in 0..100 {
            let in_an_hour = Message::EndAfter(Duration::from_secs(3600));
            assert!(to.send(in_an_hour).is_ok());
        }
        let looks = Arc::new(AtomicU32::new(0));
        let signals = Quiet(Arc::clone(&looks));
        let stop = Stop::new();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().unwrap();
        let ended = runtime.block_on(async {
            let some_time = Duration::from_millis(50);
            tokio::time::timeout(some_time, control(signals, inbox, &stop)).await
        });
        assert!(ended.is_err(), "it goes on for as long as the process");
        let looks = looks.load(Ordering::Relaxed);
        assert!((1..5).contains(&looks), "{looks} looks");
    }
}
