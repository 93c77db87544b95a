//! Files that have ended are brought to the disk, named and listed on a thread of their own, so that the writer
//! goes on at once. In their order: each is listed before the next.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::hooks::{Hooks, Job as Hook};
use super::index::Builder;
use super::keeping::Fsync;
use super::manifest::FileFacts;
use super::ring::Ring;
use crate::outfile::{OutError, OutFile};
use crate::stop::wall_clock_ns;
use crate::threads::{self, NoThread};

/// Files that may wait.
const WAITING: usize = 4;

/// A file that has ended.
pub struct Finished {
    /// The file.
    pub out: OutFile,
    /// What its line in the manifest tells.
    pub facts: FileFacts,
    /// What lies where in it, where that was noted.
    pub index: Option<Builder>,
}

enum Job {
    Finish(Box<Finished>),
    /// Answers once everything before it is done.
    Wait(Sender<()>),
}

/// What became of the files.
#[derive(Debug, Default)]
struct Outcome {
    files: AtomicU64,
    /// Packets of files that could not be finished.
    lost: AtomicU64,
}

/// The thread's other end.
pub struct Finisher {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    outcome: Arc<Outcome>,
    told: Told,
}

/// Who is told of finished files.
#[derive(Clone)]
struct Told {
    ring: Arc<Mutex<Ring>>,
    hooks: Option<Hooks>,
    makes_room: bool,
}

impl Finisher {
    /// Starts the thread. `makes_room`: on a full disk the oldest file goes.
    ///
    /// # Errors
    ///
    /// When the system gives none.
    pub fn start(
        ring: Arc<Mutex<Ring>>,
        fsync: Fsync,
        hooks: Option<Hooks>,
        makes_room: bool,
    ) -> Result<Self, NoThread> {
        let (jobs, queue) = bounded(WAITING);
        let outcome = Arc::new(Outcome::default());
        let told = Told {
            ring,
            hooks,
            makes_room,
        };
        let (in_thread, to) = (Arc::clone(&outcome), told.clone());
        let thread = threads::start("vxtap-finish", move || {
            work(&to, fsync, &queue, &in_thread);
        })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            outcome,
            told,
        })
    }

    /// Runs the hook for files that were finished otherwise; they are held.
    pub fn announce(&self, files: Vec<FileFacts>) {
        for facts in files {
            self.told.tell(facts, None);
        }
    }

    /// Takes a file that has ended. Waits while several are on their way.
    pub fn finish(&self, file: Finished) {
        let packets = file.facts.packets;
        let job = Job::Finish(Box::new(file));
        let sent = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            self.outcome.lost.fetch_add(packets, Ordering::Relaxed);
        }
    }

    /// Waits until all files that were given to it are finished.
    pub fn wait(&self) {
        let (done, wait) = bounded(1);
        if let Some(jobs) = &self.jobs
            && jobs.send(Job::Wait(done)).is_ok()
        {
            let _ = wait.recv();
        }
    }

    /// Files finished.
    pub fn files(&self) -> u64 {
        self.outcome.files.load(Ordering::Relaxed)
    }

    /// Packets of files that could not be finished.
    pub fn lost(&self) -> u64 {
        self.outcome.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(told: &Told, fsync: Fsync, queue: &Receiver<Job>, outcome: &Outcome) {
    while let Ok(job) = queue.recv() {
        match job {
            Job::Finish(file) => {
                let packets = file.facts.packets;
                match finish(told, fsync, *file) {
                    Ok(()) => {
                        outcome.files.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        tracing::error!("{error}");
                        outcome.lost.fetch_add(packets, Ordering::Relaxed);
                    }
                }
            }
            Job::Wait(done) => {
                let _ = done.send(());
            }
        }
    }
}

fn finish(told: &Told, fsync: Fsync, file: Finished) -> Result<(), OutError> {
    let Finished {
        mut out,
        mut facts,
        index,
    } = file;
    if fsync != Fsync::Never {
        out.sync()?;
    }
    let ring = &told.ring;
    let place = hold(ring).place();
    facts.index = index.and_then(|index| place.write_index(index, &out, &facts));
    let written = facts.index.clone();
    let outcome = name_and_tell(told, out, facts);
    if let (Err(_), Some(index)) = (&outcome, written) {
        place.remove_index(&index);
    }
    outcome
}

/// Gives the file its name, and runs the hook.
fn name_and_tell(told: &Told, out: OutFile, facts: FileFacts) -> Result<(), OutError> {
    let Told {
        ring,
        hooks,
        makes_room,
    } = told;
    if hooks.is_none() {
        return hold(ring).finish(out, facts, *makes_room, wall_clock_ns());
    }
    // From its first moment on: it could be too old already.
    hold(ring).hold(&facts.name);
    let lock = out.keep_lock();
    let finished = hold(ring).finish(out, facts.clone(), *makes_room, wall_clock_ns());
    match &finished {
        Ok(()) => told.tell(facts, lock),
        // The next start finishes it, and runs the hook then.
        Err(_) => hold(ring).release(&facts.name, true, wall_clock_ns()),
    }
    finished
}

impl Told {
    /// Runs the hook for a file, which is held until that has ended; `lock` is what locked it while it was written,
    /// where this run wrote it.
    fn tell(&self, facts: FileFacts, lock: Option<File>) {
        let Some(hooks) = &self.hooks else {
            return;
        };
        let (ring, name) = (Arc::clone(&self.ring), facts.name.clone());
        let file = hold(&ring).dir().join(&name);
        let file = std::path::absolute(&file).unwrap_or(file);
        let release = move |is_done| hold(&ring).release(&name, is_done, wall_clock_ns());
        hooks.submit(Hook::new(file, facts, lock, release));
    }
}

/// The ring, also behind somebody who ended in a panic: what it knows stays true.
pub fn hold(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}
