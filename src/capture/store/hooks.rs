//! A program that is run for each file that was finished (`--on-rotate`): few at a time, at the lowest priority, and
//! not for ever. What it does, and whether it fails, changes nothing for the run.

use std::fmt::{self, Debug};
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};
use serde::Serialize;

use super::manifest::FileFacts;
use crate::mirror::words::counted;
use crate::threads::{self, NoThread};

/// Programs that run at a time.
pub const AT_ONCE: usize = 2;
/// Files that may wait.
const WAITING: usize = 64;
/// How long one may run, and how long all that are left may at the end of a run.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long one that is told to end may take to do so.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether one has ended, at first and at the most.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// What became of the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Files for which the program was run.
    pub run: u64,
    /// Of these, those for which it could not be started, or ended with another status than 0 or by a signal.
    pub failed: u64,
    /// Of these, those for which it took too long and was killed.
    pub timed_out: u64,
    /// Files for which it was not run: too many waited, or the time at the end was over.
    pub skipped: u64,
}

/// The programs of a run.
#[derive(Clone)]
pub struct Hooks(Arc<Handle>);

struct Handle {
    jobs: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    state: Arc<State>,
    /// Who brings a file waits until there is room.
    waits: bool,
}

struct State {
    program: Mutex<Arc<Path>>,
    timeout: Duration,
    end_by: OnceLock<Instant>,
    waiting: AtomicU64,
    run: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    skipped: AtomicU64,
}

/// A file for which the program is to be run.
pub struct Job {
    /// The file.
    pub file: PathBuf,
    /// What is known of it.
    pub facts: FileFacts,
    /// Told whether the program has ended.
    done: Option<Box<dyn FnOnce(bool) + Send>>,
    has_ended: bool,
    /// Held as long as this lives, so that other processes leave the file alone.
    lock: Option<File>,
}

impl Job {
    /// For `file`; `done` is called when nobody needs it any more, and told whether the program was run for it. `lock`
    /// locks the file already, where there is one.
    pub fn new(
        file: PathBuf,
        facts: FileFacts,
        lock: Option<File>,
        done: impl FnOnce(bool) + Send + 'static,
    ) -> Self {
        let lock = lock.or_else(|| File::open(&file).ok());
        // Others may read it.
        let lock = lock.filter(|file| file.try_lock_shared().is_ok());
        Self {
            file,
            facts,
            done: Some(Box::new(done)),
            has_ended: false,
            lock,
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Whoever is told may delete it.
        drop(self.lock.take());
        if let Some(done) = self.done.take() {
            done(self.has_ended);
        }
    }
}

impl Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hooks of {}", self.0.state.program().display())
    }
}

/// Finds a program as a shell does: along PATH where its name has no `/`.
///
/// # Errors
///
/// What is wrong with it, in words.
pub fn find(program: &Path) -> Result<PathBuf, String> {
    let shown = program.display();
    if program.as_os_str().is_empty() {
        return Err("the name of the program is empty".to_owned());
    }
    let is_program = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        return match program.metadata() {
            Err(error) => Err(format!("{shown}: {error}")),
            Ok(meta) if meta.is_dir() => Err(format!("{shown} is a directory")),
            Ok(_) if is_program(program) => {
                std::path::absolute(program).map_err(|error| format!("{shown}: {error}"))
            }
            Ok(_) => Err(format!("{shown} may not be executed: 'chmod +x {shown}'")),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(program));
    candidates.find(|path| is_program(path)).ok_or_else(|| {
        format!("there is no program {shown} in PATH; name one in this directory as ./{shown}")
    })
}

impl Hooks {
    /// Starts the threads that run `program`. `waits`: who brings a file waits while too many do; otherwise such a
    /// file is skipped.
    ///
    /// # Errors
    ///
    /// When the system has no thread.
    pub fn start(program: PathBuf, waits: bool) -> Result<Self, NoThread> {
        Self::start_with(program, waits, TIMEOUT)
    }

    fn start_with(program: PathBuf, waits: bool, timeout: Duration) -> Result<Self, NoThread> {
        let (sender, jobs) = bounded(WAITING);
        let state = Arc::new(State {
            program: Mutex::new(program.into()),
            timeout,
            end_by: OnceLock::new(),
            waiting: AtomicU64::new(0),
            run: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        });
        let start = |_| {
            let (state, jobs) = (Arc::clone(&state), jobs.clone());
            threads::start("vxtap-hook", move || state.work(&jobs))
        };
        let threads: Result<Vec<_>, _> = (0..AT_ONCE).map(start).collect();
        Ok(Self(Arc::new(Handle {
            jobs: Mutex::new(Some(sender)),
            threads: Mutex::new(threads?),
            state,
            waits,
        })))
    }

    /// From now on this program is run.
    pub fn change(&self, program: PathBuf) {
        let held = self.0.state.program.lock();
        *held.unwrap_or_else(PoisonError::into_inner) = program.into();
    }

    /// Runs the program for a file, as soon as there is room.
    pub fn submit(&self, job: Job) {
        let Handle { jobs, state, .. } = &*self.0;
        let sender = jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(sender) = sender else {
            return state.skip(&job, "the run has ended");
        };
        state.waiting.fetch_add(1, Ordering::Relaxed);
        let refused = match self.0.waits {
            true => sender.send(job).err().map(|error| error.into_inner()),
            false => sender.try_send(job).err().map(|error| error.into_inner()),
        };
        if let Some(job) = refused {
            state.waiting.fetch_sub(1, Ordering::Relaxed);
            state.skip(&job, &format!("{WAITING} files wait for it already"));
        }
    }

    /// Waits until the program has been run for every file, but no longer than it may run once, and tells what came of
    /// it.
    #[allow(clippy::disallowed_methods, reason = "once a run, at its end")]
    pub fn finish(&self) -> Tally {
        let Handle {
            jobs,
            threads,
            state,
            ..
        } = &*self.0;
        drop(jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = state.end_by.set(Instant::now() + state.timeout);
        let waiting = state.waiting.load(Ordering::Relaxed);
        if waiting > 0 {
            tracing::info!(
                "waiting for {} of {}, at most {} s; a second signal ends at once",
                counted(waiting, "run"),
                state.program().display(),
                state.timeout.as_secs()
            );
        }
        let mut threads = threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
        state.tally()
    }
}

/// How a program ended.
enum Ended {
    Itself(ExitStatus),
    TooLate,
    Unknown(io::Error),
}

impl State {
    fn program(&self) -> Arc<Path> {
        Arc::clone(&self.program.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tally(&self) -> Tally {
        Tally {
            run: self.run.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            timed_out: self.timed_out.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
        }
    }

    fn skip(&self, job: &Job, why: &str) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            "{} is not run for {}: {why}",
            self.program().display(),
            job.file.display()
        );
    }

    fn work(&self, jobs: &Receiver<Job>) {
        // A program inherits the priority of the thread that starts it.
        #[cfg(target_os = "linux")]
        if let Err(error) = crate::sys::be_nice(19) {
            tracing::debug!(%error, "no lower priority");
        }
        while let Ok(mut job) = jobs.recv() {
            if self.is_over() {
                self.skip(&job, "the time for it is over");
            } else {
                self.run(&mut job);
            }
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a deadline for another program, off the packets' way"
    )]
    fn is_over(&self) -> bool {
        self.end_by.get().is_some_and(|at| Instant::now() >= *at)
    }

    fn run(&self, job: &mut Job) {
        self.run.fetch_add(1, Ordering::Relaxed);
        let path = self.program();
        let (program, file) = (path.display(), job.file.display());
        let failed = |how: String| {
            self.failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("{program} failed for {file}: {how}");
        };
        let child = match start(&path, job) {
            Ok(child) => child,
            Err(error) => return failed(format!("it cannot be started: {error}")),
        };
        let ended = self.wait(child);
        job.has_ended = true;
        match ended {
            Ended::Itself(status) if status.success() => {
                tracing::debug!("{program} is done with {file}");
            }
            Ended::Itself(status) => failed(match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => format!("signal {signal} ended it"),
                (None, None) => "it ended otherwise".to_owned(),
            }),
            Ended::Unknown(error) => failed(error.to_string()),
            Ended::TooLate => {
                self.timed_out.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("{program} took too long for {file}: it was killed");
            }
        }
    }

    /// Waits for the end of a program, and sees to it.
    #[allow(
        clippy::disallowed_methods,
        reason = "a deadline for another program, off the packets' way"
    )]
    fn wait(&self, mut child: Child) -> Ended {
        let until = Instant::now() + self.timeout;
        let (mut pause, longest) = LOOK_AGAIN;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ended::Itself(status),
                Ok(None) => {}
                Err(error) => return Ended::Unknown(error),
            }
            if Instant::now() >= until || self.is_over() {
                end(child);
                return Ended::TooLate;
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(longest);
        }
    }
}

/// Starts the program for a file, in a process group of its own: Ctrl-C is for us.
#[allow(
    clippy::disallowed_methods,
    reason = "who waits for it ends it when its time is over"
)]
fn start(program: &Path, job: &Job) -> io::Result<Child> {
    let Job { file, facts, .. } = job;
    let mut command = Command::new(program);
    command.env("VXTAP_FILE", file);
    for (name, value) in [
        ("VXTAP_FIRST_TS", facts.first.clone()),
        ("VXTAP_LAST_TS", facts.last.clone()),
        ("VXTAP_PACKETS", Some(facts.packets.to_string())),
        ("VXTAP_BYTES", Some(facts.bytes.to_string())),
        ("VXTAP_SHA256", Some(facts.sha256.clone())),
        ("VXTAP_REASON", Some(facts.reason.clone())),
    ] {
        match value {
            Some(value) => command.env(name, value),
            // Not that of whoever started us.
            None => command.env_remove(name),
        };
    }
    // The standard library hands on no descriptor that it opened, and sets SIGPIPE back to what it usually is.
    command.arg(file).process_group(0).stdin(Stdio::null());
    command.stdout(io::stderr()).spawn()
}

/// Ends a program that takes too long, and those it has started.
#[allow(
    clippy::disallowed_methods,
    reason = "a deadline for another program, off the packets' way"
)]
fn end(mut child: Child) {
    let group = i32::try_from(child.id()).map(Pid::from_raw);
    let kill = |signal: Signal| {
        if let Ok(group) = group {
            let _ = killpg(group, signal);
        }
    };
    kill(Signal::SIGTERM);
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(LOOK_AGAIN.1),
            _ => return,
        }
    }
    kill(Signal::SIGKILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("hook.sh");
        // By another process: a descriptor of ours could live on in a child of another test, and a file that is open
        // for writing cannot be executed.
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\"; chmod 700 \"$1\"",
            "sh",
        ]);
        assert!(shell.arg(&path).arg(text).status().unwrap().success());
        path
    }

    fn job(dir: &Path, number: u64, done: impl FnOnce(bool) + Send + 'static) -> Job {
        let file = dir.join(format!("{number}.pcapng"));
        fs::write(&file, "packets").unwrap();
        let facts = FileFacts {
            name: format!("{number}.pcapng"),
            packets: number,
            ..FileFacts::default()
        };
        Job::new(file, facts, None, done)
    }

    /// All are waited for, each is counted once, and its file is let go.
    #[test]
    fn failures_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(
            dir.path(),
            "case $VXTAP_PACKETS in 1) exit 3;; 2) kill -9 $$;; *) exit 0;; esac",
        );
        let hooks = Hooks::start(program, true).unwrap();
        let done = Arc::new(AtomicU64::new(0));
        for number in 0..5 {
            let done = Arc::clone(&done);
            let count =
                move |has_run: bool| _ = done.fetch_add(u64::from(has_run), Ordering::SeqCst);
            hooks.submit(job(dir.path(), number, count));
        }
        let tally = hooks.finish();
        let expected = Tally {
            run: 5,
            failed: 2,
            ..Tally::default()
        };
        assert_eq!(tally, expected);
        assert_eq!(done.load(Ordering::SeqCst), 5);
        let skipped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&skipped);
        let count = move |has_run: bool| _ = count.fetch_add(u64::from(!has_run), Ordering::SeqCst);
        hooks.submit(job(dir.path(), 9, count));
        assert_eq!(skipped.load(Ordering::SeqCst), 1);
        assert_eq!(hooks.finish().skipped, 1);
    }

    #[test]
    fn one_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "echo $$ > \"$1.pid\"; sleep 1000 & wait");
        let limit = Duration::from_millis(300);
        let hooks = Hooks::start_with(program, true, limit).unwrap();
        hooks.submit(job(dir.path(), 1, |_| {}));
        let tally = hooks.finish();
        assert_eq!((tally.run, tally.failed, tally.timed_out), (1, 0, 1));
        // It may have been killed before it wrote anything.
        let pid = fs::read_to_string(dir.path().join("1.pcapng.pid")).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse::<i32>() {
            assert!(!Path::new(&format!("/proc/{pid}")).exists());
        }
    }

    /// Live nobody waits: what finds no room is skipped.
    #[test]
    fn a_full_queue_skips() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "exec sleep 1000");
        let limit = Duration::from_millis(200);
        let hooks = Hooks::start_with(program, false, limit).unwrap();
        let files = (AT_ONCE + WAITING + 10) as u64;
        for number in 0..files {
            hooks.submit(job(dir.path(), number, |_| {}));
        }
        let tally = hooks.finish();
        assert_eq!(tally.run + tally.skipped, files, "{tally:?}");
        assert!(tally.skipped >= 10, "{tally:?}");
        assert_eq!(tally.timed_out, tally.run, "{tally:?}");
    }

    #[test]
    fn programs_are_found_or_told() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "");
        assert_eq!(find(&program), Ok(program.clone()));
        assert!(find(Path::new("sh")).unwrap().is_absolute());
        for (name, part) in [
            ("/nowhere/hook", "No such file"),
            ("/", "is a directory"),
            ("no-such-program-here", "in PATH"),
            ("", "empty"),
        ] {
            let said = find(Path::new(name)).unwrap_err();
            assert!(said.contains(part), "{name}: {said}");
        }
        fs::set_permissions(&program, fs::Permissions::from_mode(0o600)).unwrap();
        // Not even root may execute what nobody may.
        assert!(find(&program).unwrap_err().contains("chmod +x"));
    }
}
