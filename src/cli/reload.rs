//! `vxtap reload`: has a running instance read its settings anew.

use std::path::Path;
use std::time::Duration;

use super::args::ReloadArgs;
use super::reloading::Reloaded;
use super::status::{no_answer, socket_of};
use crate::control::socket;
use crate::failure::Failure;
use crate::outfile::{Creation, write_whole};

/// How long an answer is waited for: longer than threads have to take other settings.
const WAIT: Duration = Duration::from_secs(30);

/// Runs the command.
///
/// # Errors
///
/// When there is no instance or it does not answer, and [`Failure::Usage`] where its settings have mistakes.
pub fn run(args: &ReloadArgs) -> Result<(), Failure> {
    let path = socket_of(args.control.as_deref())?;
    let answer = socket::ask(&path, "reload", WAIT).map_err(|error| no_answer(&path, &error))?;
    let reloaded: Reloaded = serde_json::from_str(&answer).map_err(|_| {
        Failure::running(format!(
            "{} did not read its settings anew: {}",
            path.display(),
            answer.trim()
        ))
    })?;
    if args.json {
        let text = serde_json::to_string_pretty(&reloaded)? + "\n";
        write_whole(Path::new("-"), Creation::default(), text.into_bytes())?;
    }
    match reloaded.mistakes.as_slice() {
        [] if args.json => Ok(()),
        [] => {
            let text = reloaded.in_words();
            Ok(write_whole(
                Path::new("-"),
                Creation::default(),
                text.into_bytes(),
            )?)
        }
        mistakes => Err(Failure::usage(format!(
            "{}\nvxtap: nothing has changed",
            mistakes.join("\nvxtap: error: ")
        ))),
    }
}
