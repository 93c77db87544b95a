//! Looks at a run that goes on, for all who ask: metrics, status, health checks and the heartbeat share one look a
//! second.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout};

use crate::host::counters::Counters;
use crate::host::process::Process;
use crate::host::space::Disk;
use crate::pipeline::evidence::Evidence;
use crate::pipeline::glance::Observer;
use crate::report::health::Health;
use crate::report::metrics::{self, Form, Series};
use crate::report::moment::{AboutRun, Moment};
use crate::report::status::{Status, cut_sessions};
use crate::stop::{Stop, wall_clock_ns};
use crate::threads;

/// So long a look is good for whoever asks.
const FRESH: Duration = Duration::from_secs(1);
/// Rates and what is new are told over this time at the most.
const LATELY: Duration = Duration::from_secs(10);
/// How long a file system is waited for that does not tell its room.
const DISKS_WAIT: Duration = Duration::from_millis(250);

/// What is needed to look.
pub struct Parts {
    /// What does not change during the run.
    pub about: AboutRun,
    /// Asks the threads of the run.
    pub observer: Observer,
    /// The kernel's counters as the run began.
    pub counters_before: Counters,
    /// Directories that results go to.
    pub directories: Vec<PathBuf>,
    /// Whether the run is to end.
    pub stop: Arc<Stop>,
}

/// Looks at the run.
pub struct Looker {
    about: Arc<AboutRun>,
    counters_before: Counters,
    directories: Vec<PathBuf>,
    stop: Arc<Stop>,
    begun: Instant,
    state: Mutex<State>,
    is_ready: AtomicBool,
    http_refused: AtomicU64,
}

struct State {
    observer: Observer,
    /// Moments seen lately, the newest last.
    recent: VecDeque<(Instant, Arc<Moment>)>,
    series: Series,
    /// The metrics of the newest moment, as far as somebody asked for them.
    texts: Vec<(Form, Arc<str>)>,
    /// What workers know of truncation then, where somebody asked; nothing where not all told.
    evidence: Option<Option<Arc<Evidence>>>,
    answered_ns: u64,
    disks: Vec<Disk>,
    /// A look at the disks that is under way.
    asked_disks: Option<oneshot::Receiver<Vec<Disk>>>,
}

/// A moment, and one of the seconds before it.
#[derive(Clone)]
pub struct Look {
    /// The run now, or up to a second ago.
    pub now: Arc<Moment>,
    /// The run some seconds before; `None` where it had not begun.
    pub earlier: Option<Arc<Moment>>,
}

impl Look {
    /// How the run is.
    pub fn health(&self) -> Health {
        Health::of(&self.now, self.earlier.as_deref())
    }

    /// What is to be told of it, without causes of truncation.
    pub fn status(&self) -> Status {
        Status::new(&self.now, self.earlier.as_deref(), None)
    }
}

impl Looker {
    /// Nobody has looked yet.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            about,
            observer,
            counters_before,
            directories,
            stop,
        } = parts;
        Self {
            about: Arc::new(about),
            counters_before,
            directories,
            stop,
            begun: Instant::now(),
            state: Mutex::new(State {
                observer,
                recent: VecDeque::new(),
                series: Series::default(),
                texts: Vec::new(),
                evidence: None,
                answered_ns: 0,
                disks: Vec::new(),
                asked_disks: None,
            }),
            is_ready: AtomicBool::new(false),
            http_refused: AtomicU64::new(0),
        }
    }

    /// The run as it is now; a look that is younger than a second serves too.
    pub async fn look(&self) -> Look {
        let mut state = self.state.lock().await;
        self.look_with(&mut state).await
    }

    /// What is to be told of it, with causes of truncation: workers are asked for their evidence once for each look.
    pub async fn status(&self) -> Status {
        let mut state = self.state.lock().await;
        let look = self.look_with(&mut state).await;
        let evidence = match &state.evidence {
            Some(known) => known.clone(),
            None => {
                let asked = cut_sessions(&look.now);
                let evidence = state.observer.evidence(asked).await.map(Arc::new);
                state.evidence = Some(evidence.clone());
                evidence
            }
        };
        drop(state);
        Status::new(&look.now, look.earlier.as_deref(), evidence.as_deref())
    }

    /// The metrics as they are now, likewise.
    pub async fn metrics(&self, form: Form) -> Arc<str> {
        let mut state = self.state.lock().await;
        let look = self.look_with(&mut state).await;
        let mut known = state.texts.iter();
        if let Some((_, text)) = known.find(|(its_form, _)| *its_form == form) {
            return Arc::clone(text);
        }
        let text = metrics::text_of(&look.now, look.earlier.as_deref(), &state.series, form);
        let text: Arc<str> = text.into();
        state.texts.push((form, Arc::clone(&text)));
        text
    }

    /// Whether the run took packets and wrote what came of them, when somebody looked last.
    pub fn was_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Whether the run is to end.
    pub fn is_ending(&self) -> bool {
        self.stop.is_set()
    }

    /// Counts a connection that was closed because there were too many.
    pub fn count_refused(&self) {
        self.http_refused.fetch_add(1, Ordering::Relaxed);
    }

    async fn look_with(&self, state: &mut State) -> Look {
        let is_fresh = |(at, _): &&(Instant, _)| at.elapsed() < FRESH;
        if state.recent.back().filter(is_fresh).is_none() {
            self.look_anew(state).await;
        }
        let last = state.recent.back();
        let now = last.map(|(_, moment)| Arc::clone(moment));
        let now = now.unwrap_or_else(|| Arc::new(self.nothing_yet()));
        let oldest = state.recent.front().map(|(_, moment)| Arc::clone(moment));
        let earlier = oldest.filter(|oldest| !Arc::ptr_eq(oldest, &now));
        Look { now, earlier }
    }

    async fn look_anew(&self, state: &mut State) {
        let ask_disks = ask_disks(&self.directories, &mut state.asked_disks);
        let (glance, disks) = tokio::join!(state.observer.look(), ask_disks);
        let now = Instant::now();
        let at_ns = wall_clock_ns();
        if glance.silent.is_empty() {
            state.answered_ns = at_ns;
        }
        state.disks = disks.unwrap_or_else(|| std::mem::take(&mut state.disks));
        state.series.update(&glance.sessions);
        state.texts.clear();
        state.evidence = None;
        let moment = Moment {
            at_ns,
            seconds: now.duration_since(self.begun).as_secs_f64(),
            answered_ns: state.answered_ns,
            glance,
            kernel_counters: Counters::read().since(&self.counters_before),
            disks: state.disks.clone(),
            process: Process::read(),
            ..self.nothing_yet()
        };
        let moment = Arc::new(moment);
        state.recent.push_back((now, Arc::clone(&moment)));
        // There is always one to compare with, however old.
        let is_late = |(at, _): &(Instant, _)| now.duration_since(*at) > LATELY;
        while state.recent.len() > 2 && state.recent.front().is_some_and(is_late) {
            state.recent.pop_front();
        }
        let oldest = state.recent.front().filter(|(at, _)| *at != now);
        let look = Look {
            now: moment,
            earlier: oldest.map(|(_, moment)| Arc::clone(moment)),
        };
        let is_ready = look.health().is_ready();
        self.is_ready.store(is_ready, Ordering::Relaxed);
    }

    /// The run before anybody looked.
    fn nothing_yet(&self) -> Moment {
        Moment {
            about: Arc::clone(&self.about),
            inventory: self.about.known.now(),
            at_ns: self.about.began_ns,
            seconds: 0.0,
            is_ending: self.stop.is_set(),
            answered_ns: 0,
            glance: Default::default(),
            kernel_counters: Default::default(),
            disks: Vec::new(),
            process: None,
            http_refused: self.http_refused.load(Ordering::Relaxed),
        }
    }
}

/// The room on the disks; `None` while they do not tell. A file system of the network that hangs keeps a thread waiting,
/// and nobody else.
async fn ask_disks(
    directories: &[PathBuf],
    asked: &mut Option<oneshot::Receiver<Vec<Disk>>>,
) -> Option<Vec<Disk>> {
    if directories.is_empty() {
        return Some(Vec::new());
    }
    if asked.is_none() {
        let (tell, told) = oneshot::channel();
        let directories = directories.to_vec();
        let asking = threads::start("vxtap-disks", move || {
            let disks = directories
                .iter()
                .filter_map(|directory| Disk::of(directory));
            let _ = tell.send(disks.collect());
        });
        asking.ok()?;
        *asked = Some(told);
    }
    let told = timeout(DISKS_WAIT, asked.as_mut()?).await.ok()?;
    *asked = None;
    told.ok()
}
