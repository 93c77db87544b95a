//! What this process may still do once it is set up: files below some directories, connections to the collectors it
//! was given, and no program, no capability and no system call that it does not need.
//!
//! A thread that enters keeps these limits for good, and so do the threads it starts. The limits come from capabilities(7),
//! PR_SET_NO_NEW_PRIVS, Landlock (Linux 5.13) and seccomp(2). Without one of them the others still hold.

mod calls;
mod files;
mod rights;

use std::path::PathBuf;
use std::sync::Arc;

/// How much the process insists on its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// There are none.
    Off,
    /// Those that this kernel has.
    #[default]
    Auto,
    /// All, or the run does not begin.
    Require,
}

/// What the run still needs.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Directories whose files are written, renamed and deleted. They exist.
    pub write: Vec<PathBuf>,
    /// Files and directories that are read.
    pub read: Vec<PathBuf>,
    /// Directories in which files are deleted and nothing else.
    pub delete: Vec<PathBuf>,
    /// TCP ports that are connected to.
    pub tcp_ports: Vec<u16>,
    /// UDP sockets are connected.
    pub udp: bool,
    /// Names of hosts are looked up.
    pub names: bool,
    /// TCP connections are accepted on sockets that are opened later.
    pub listens: bool,
}

/// The limits, ready to be entered by any number of threads.
#[derive(Clone)]
pub struct Sandbox(Arc<Limits>);

struct Limits {
    kept: rights::Kept,
    files: Option<files::Files>,
    calls: Option<calls::Calls>,
    missing: Vec<String>,
}

/// A limit that was wanted does not hold.
#[derive(Debug, thiserror::Error)]
#[error("--sandbox require: {0}; use --sandbox auto to run with the limits that this system has")]
pub struct NoSandbox(String);

impl Sandbox {
    /// Prepares the limits; `None` where there are to be none.
    ///
    /// # Errors
    ///
    /// [`NoSandbox`] where `mode` insists on a limit that this system does not have.
    pub fn prepare(mode: Mode, needs: &Needs) -> Result<Option<Self>, NoSandbox> {
        if mode == Mode::Off {
            return Ok(None);
        }
        let mut missing = Vec::new();
        let mut note = |what: &str, error: String| missing.push(format!("{what}: {error}"));
        let files = files::Files::prepare(needs)
            .map_err(|error| note("no Landlock", error))
            .ok();
        let calls = calls::Calls::prepare(needs)
            .map_err(|error| note("no list of system calls (seccomp)", error))
            .ok();
        let kept = rights::Kept::needed(needs);
        if mode == Mode::Require && !missing.is_empty() {
            return Err(NoSandbox(missing.join("; ")));
        }
        Ok(Some(Self(Arc::new(Limits {
            kept,
            files,
            calls,
            missing,
        }))))
    }

    /// From now on the limits hold for this thread and those that it starts.
    ///
    /// # Errors
    ///
    /// What does not hold, in words. What could be entered is.
    pub fn enter(&self) -> Result<(), String> {
        let Limits {
            kept, files, calls, ..
        } = &*self.0;
        let mut failed = Vec::new();
        failed.extend(kept.drop_others().err());
        failed.extend(
            nix::sys::prctl::set_no_new_privs()
                .err()
                .map(|error| format!("no_new_privs: {error}")),
        );
        failed.extend(files.as_ref().and_then(|files| files.enter().err()));
        // The last: the list has none of the calls above.
        failed.extend(calls.as_ref().and_then(|calls| calls.enter().err()));
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed.join("; ")),
        }
    }

    /// What it means that a thread could not enter: the end where `mode` insists, else a warning.
    ///
    /// # Errors
    ///
    /// [`NoSandbox`].
    pub fn fell_short(&self, mode: Mode, error: String) -> Result<(), NoSandbox> {
        if mode == Mode::Require {
            return Err(NoSandbox(error));
        }
        tracing::warn!("the sandbox is not complete: {error}");
        Ok(())
    }

    /// The limits that this system does not have, each with the reason.
    pub fn missing(&self) -> &[String] {
        &self.0.missing
    }

    /// What holds, in a sentence.
    pub fn in_words(&self) -> String {
        let Limits {
            kept, files, calls, ..
        } = &*self.0;
        let mut holds = vec![kept.in_words(), "no new privileges".to_owned()];
        holds.extend(files.as_ref().map(files::Files::in_words));
        holds.extend(
            calls
                .as_ref()
                .map(|_| "no program is started, system calls are limited".to_owned()),
        );
        holds.join("; ")
    }
}
