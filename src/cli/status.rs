//! `vxtap status`: how a running instance is.

use super::args::StatusArgs;
use crate::failure::Failure;

#[cfg(target_os = "linux")]
pub use linux::{no_answer, run, socket_of};

/// Says that this system cannot.
///
/// # Errors
///
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn run(_: &StatusArgs) -> Result<(), Failure> {
    Err(Failure::running(
        "status needs Linux: nobody listens elsewhere",
    ))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::ErrorKind;
    use std::os::unix::net::UnixStream;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::{Failure, StatusArgs};
    use crate::control::socket;
    use crate::mirror::words::counted;
    use crate::outfile::{Creation, write_whole};
    use crate::report::status::Status;

    /// How long an answer is waited for: a run that is very busy takes a second and more.
    const WAIT: Duration = Duration::from_secs(10);

    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When there is no instance, it does not answer, or it is not healthy.
    pub fn run(args: &StatusArgs) -> Result<(), Failure> {
        let path = socket_of(args.control.as_deref())?;
        let answer =
            socket::ask(&path, "status", WAIT).map_err(|error| no_answer(&path, &error))?;
        let status: Status = serde_json::from_str(&answer).map_err(|error| {
            Failure::running(format!(
                "{} answered something else than a status ({error}): is it another version of vxtap?",
                path.display()
            ))
        })?;
        let text = match args.json {
            true => serde_json::to_string_pretty(&status)? + "\n",
            false => status.page(),
        };
        write_whole(Path::new("-"), Creation::default(), text.into_bytes())?;
        let problems = &status.health.problems;
        match problems.first() {
            None => Ok(()),
            Some(first) => {
                let number = counted(problems.len() as u64, "problem");
                Err(Failure::running(format!(
                    "vxtap (pid {}) is not healthy: {number}, first: {}",
                    status.pid, first.what
                )))
            }
        }
    }

    /// The control socket of the instance that was named, or of the only one that runs.
    ///
    /// # Errors
    ///
    /// When none was named, and none or several run.
    pub fn socket_of(named: Option<&Path>) -> Result<PathBuf, Failure> {
        named.map_or_else(only_instance, |named| Ok(named_socket(named)))
    }

    /// A path, or the number of a process.
    fn named_socket(named: &Path) -> PathBuf {
        let digits = named.to_str().filter(|text| text.parse::<u32>().is_ok());
        match (digits, socket::usual_directory()) {
            (Some(pid), Some(directory)) => directory.join(format!("{pid}.sock")),
            _ => named.to_owned(),
        }
    }

    /// The socket of the instance that runs, where it is one.
    fn only_instance() -> Result<PathBuf, Failure> {
        let none = |why: String| {
            Failure::NotThere(anyhow::Error::msg(format!(
                "no running vxtap listen of this user: {why}. --control names the socket of another one; as root, \
                 'sudo vxtap status' finds those of root"
            )))
        };
        let Some(directory) = socket::usual_directory() else {
            return Err(none("XDG_RUNTIME_DIR names no directory".to_owned()));
        };
        let at = directory.display();
        let sockets = match socket::sockets_in(&directory) {
            Ok(sockets) => sockets,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(none(format!("there is no {at}")));
            }
            Err(error) => return Err(none(format!("cannot read {at}: {error}"))),
        };
        let is_heard = |path: &PathBuf| UnixStream::connect(path).is_ok();
        let running: Vec<PathBuf> = sockets.into_iter().filter(is_heard).collect();
        match running.as_slice() {
            [] => Err(none(format!("nobody answers in {at}"))),
            [one] => Ok(one.clone()),
            several => {
                let paths: Vec<String> = several
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                Err(Failure::usage(format!(
                    "{} run: name one with --control: {}",
                    counted(paths.len() as u64, "instance"),
                    paths.join(", ")
                )))
            }
        }
    }

    /// What to say where nobody answers.
    pub fn no_answer(path: &Path, error: &std::io::Error) -> Failure {
        let at = path.display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::NotThere(
                anyhow::Error::msg(format!("no vxtap listens on {at}: {error}")),
            ),
            ErrorKind::PermissionDenied => Failure::running(format!(
                "{at}: {error}; ask as the user that runs vxtap, or as root"
            )),
            _ => Failure::running(format!("{at} does not answer: {error}")),
        }
    }
}
