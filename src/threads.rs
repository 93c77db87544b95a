//! Threads of this program: each has a name, and where the system gives none the error says what limits them.
//!
//! `std::thread::spawn` panics there, so everything outside tests starts its threads here.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};
use std::time::Duration;

/// How often it is looked whether threads that have ended are gone, and how many times.
const GONE_AGAIN: (Duration, u32) = (Duration::from_millis(1), 100);

/// The system gives no thread, or no process.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {what}: {source}{advice}")]
pub struct NoThread {
    what: String,
    source: io::Error,
    advice: String,
}

impl NoThread {
    /// `what` could not be started.
    pub fn of(what: impl Into<String>, source: io::Error) -> Self {
        Self {
            what: what.into(),
            source,
            advice: advice(&limits(), false),
        }
    }

    fn named(name: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::of(format!("the thread {name}"), source)
    }
}

/// Starts a thread.
///
/// # Errors
///
/// [`NoThread`].
pub fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, NoThread> {
    let started = Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(NoThread::named(name))
}

/// Starts a thread that ends with `scope`.
///
/// # Errors
///
/// [`NoThread`].
pub fn start_in<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, NoThread> {
    let builder = Builder::new().name(name.to_owned());
    let started = builder.spawn_scoped(scope, work);
    started.map_err(NoThread::named(name))
}

/// The threads that a run is about to start.
#[derive(Clone, Debug, Default)]
pub struct Needed {
    /// How many workers there are. Fewer need fewer threads.
    pub workers: usize,
    /// Threads of the workers.
    pub for_workers: usize,
    /// Threads of the outputs.
    pub for_outputs: usize,
    /// Others, with what they are for.
    pub others: Vec<&'static str>,
}

impl Needed {
    /// Finds out whether the system gives all of them at once. A run that would fail for want of a thread in its
    /// middle so fails before it opens an output.
    ///
    /// # Errors
    ///
    /// [`NoThread`].
    pub fn check(&self) -> Result<(), NoThread> {
        let number = self.for_workers + self.for_outputs + self.others.len();
        let started = start_together(number);
        started.map_err(|source| NoThread {
            what: self.in_words(),
            source,
            advice: advice(&limits(), self.workers > 1),
        })
    }

    fn in_words(&self) -> String {
        let counted = |number: usize, of: &str| match number {
            0 => None,
            1 => Some(format!("1 for the {of}")),
            _ => Some(format!("{number} for the {of}s")),
        };
        let parts = [
            counted(self.for_workers, "worker"),
            counted(self.for_outputs, "output"),
        ];
        let others = self.others.iter().map(|what| format!("1 for {what}"));
        let parts: Vec<String> = parts.into_iter().flatten().chain(others).collect();
        format!("the threads of this run ({})", parts.join(", "))
    }
}

/// Starts `number` threads that do nothing, so that all are there at once, and ends them.
fn start_together(number: usize) -> io::Result<()> {
    let mut threads = Vec::new();
    let mut outcome = Ok(());
    for _ in 0..number {
        let (end, ended): (Sender<()>, _) = channel();
        let started = Builder::new().spawn(move || {
            let _ = ended.recv();
        });
        match started {
            Ok(thread) => threads.push((end, thread)),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    let before = threads_now().map(|now| now.saturating_sub(threads.len()));
    for (end, thread) in threads {
        drop(end);
        let _ = thread.join();
    }
    // To the system a thread may count for a moment after it was joined.
    let (moment, times) = GONE_AGAIN;
    for _ in 0..times {
        if threads_now() <= before {
            break;
        }
        std::thread::sleep(moment);
    }
    outcome
}

/// The threads of this process; `None` where the system does not tell.
fn threads_now() -> Option<usize> {
    Path::new("/proc/self/task")
        .read_dir()
        .ok()
        .map(Iterator::count)
}

/// What bounds the number of threads: where it is set, and the number.
fn limits() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut limits = Vec::new();
    limits.extend(pids_max(
        &read("/proc/self/cgroup"),
        Path::new("/sys/fs/cgroup"),
    ));
    let of_process = read("/proc/self/limits");
    if !is_root(&read("/proc/self/status")) {
        let number = soft_limit(&of_process, "Max processes");
        limits.extend(number.map(|number| format!("{number} threads of this user (ulimit -u)")));
    }
    let bytes = soft_limit(&of_process, "Max address space");
    limits.extend(bytes.map(|bytes| format!("{bytes} bytes of address space (ulimit -v)")));
    limits
}

/// The end of the message. Pure.
fn advice(limits: &[String], has_workers: bool) -> String {
    let mut text = match limits {
        [] => {
            "; threads-max and pid_max in /proc/sys/kernel limit the machine: raise them".to_owned()
        }
        [limit] => format!("; the limit is {limit}: raise it"),
        limits => format!(
            "; limits are {}: raise the one that is reached",
            limits.join(", ")
        ),
    };
    if has_workers {
        text.push_str(" or use fewer --workers");
    }
    text
}

/// The lowest `pids.max` of the cgroup of this process and those around it, with its file. `groups` is what
/// /proc/self/cgroup says, `mounts` where cgroups are mounted.
fn pids_max(groups: &str, mounts: &Path) -> Option<String> {
    let mut lowest: Option<(u64, String)> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let mount = match controllers {
            "" => mounts.to_owned(),
            v1 if v1.split(',').any(|name| name == "pids") => mounts.join(v1),
            _ => continue,
        };
        let group = mount.join(group.trim_start_matches('/'));
        for folder in group.ancestors().take_while(|at| at.starts_with(&mount)) {
            let file = folder.join("pids.max");
            // "max" is none.
            let limit = std::fs::read_to_string(&file).ok();
            let limit = limit.and_then(|text| text.trim().parse().ok());
            if let Some(limit) = limit
                && lowest.as_ref().is_none_or(|(lowest, _)| limit < *lowest)
            {
                lowest = Some((limit, file.display().to_string()));
            }
        }
    }
    lowest.map(|(limit, file)| format!("{limit} in {file}"))
}

/// A limit in the words of /proc/self/limits; `None` when there is none. Pure.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Whether the real user is root, whom `ulimit -u` does not bind, in the words of /proc/self/status. Pure.
fn is_root(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|line| line.split_whitespace().next()) == Some("0")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn limits_are_found() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max address space         unlimited            unlimited            bytes     \n\
                      Max processes             17                   94000                processes \n";
        assert_eq!(soft_limit(limits, "Max processes"), Some(17));
        assert_eq!(soft_limit(limits, "Max address space"), None);
        assert_eq!(soft_limit("", "Max processes"), None);
        assert!(is_root("Name:\tvxtap\nUid:\t0\t0\t0\t0\n"));
        assert!(!is_root("Name:\tvxtap\nUid:\t1000\t0\t0\t0\n"));
        assert!(!is_root(""));
    }

    /// Version 1 and 2, the group itself and those around it, and groups whose folder is not in sight.
    #[test]
    fn the_lowest_limit_of_cgroups_counts() {
        let dir = tempfile::tempdir().unwrap();
        let put = |folder: &str, max: &str| {
            let folder = dir.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("pids.max"), max).unwrap();
        };
        let found = |groups: &str| {
            let found = pids_max(groups, dir.path())?;
            Some(found.replace(dir.path().to_str().unwrap(), ""))
        };
        put("a/b", "9\n");
        put("a", "5\n");
        put("c", "max\n");
        put("pids/d/e", "7\n");
        put("pids", "max\n");
        assert_eq!(found("0::/a/b\n").unwrap(), "5 in /a/pids.max");
        assert_eq!(found("0::/c\n"), None);
        assert_eq!(
            found("8:pids:/d/e\n0::/\n").unwrap(),
            "7 in /pids/d/e/pids.max"
        );
        assert_eq!(found("5:cpu,cpuacct:/a\n"), None);
        assert_eq!(found("0::/../elsewhere\nnonsense\n"), None);
        put("pids", "3\n");
        let below = "8:pids:/docker/0123\n0::/a/b\n";
        assert_eq!(found(below).unwrap(), "3 in /pids/pids.max");
    }

    #[test]
    fn what_is_needed_and_advice_in_words() {
        let needed = Needed {
            workers: 3,
            for_workers: 2,
            for_outputs: 1,
            others: vec!["the hints"],
        };
        let words = needed.in_words();
        assert_eq!(
            words,
            "the threads of this run (2 for the workers, 1 for the output, 1 for the hints)"
        );
        assert!(needed.check().is_ok());
        let limits = ["3 in pids.max", "4 threads"].map(str::to_owned);
        assert_eq!(
            advice(&limits[..1], true),
            "; the limit is 3 in pids.max: raise it or use fewer --workers"
        );
        assert_eq!(
            advice(&limits, false),
            "; limits are 3 in pids.max, 4 threads: raise the one that is reached"
        );
        assert!(advice(&[], false).contains("pid_max"));
    }
}
