//! The commands: each file reads its flags, composes the rooms and reports what came of it.

pub mod args;
#[cfg(target_os = "linux")]
mod check;
mod extcap;
pub mod extract;
#[cfg(target_os = "linux")]
mod hints;
pub mod listen;
mod logging;
pub mod ls;
pub mod manual;
mod progress;
#[cfg(target_os = "linux")]
mod reload;
#[cfg(target_os = "linux")]
mod reloading;
pub mod replay;
pub mod report;
pub mod send;
pub mod settings;
pub mod status;
mod values;
pub mod verify;

use std::process::ExitCode;

use clap::FromArgMatches;

use args::{Cli, Command};
use settings::layers::Layers;
use settings::{meant, typed};

use crate::failure::Failure;
use crate::patience::PATIENCE;
use crate::say::{flush, say_fault};

/// Runs the program on the process's own command line.
pub fn main() -> ExitCode {
    if let Some(call) = extcap::Call::of_arguments() {
        return end(&extcap::answer(&call));
    }
    let (filter, wrong) = logging::of_environment(std::env::var_os("VXTAP_LOG"));
    logging::start(filter);
    if let Some(wrong) = wrong {
        tracing::warn!("{wrong}");
    }
    let typed = Cli::from_arg_matches(&args::command().get_matches());
    let outcome = match typed.unwrap_or_else(|error| error.exit()).command {
        Command::Replay(typed) => {
            let typed = Layers::new(*typed, typed::Replay::defaults());
            meant::Replay::meant(&typed).and_then(|settings| replay::run(&settings))
        }
        Command::Listen(args) => listen::run(*args),
        Command::Send(args) => send::run(&args),
        Command::Extcap(args) => extcap::install::run(&args),
        #[cfg(target_os = "linux")]
        Command::Reload(args) => reload::run(&args),
        #[cfg(target_os = "linux")]
        Command::Check(args) => check::run(*args),
        Command::Ls(args) => ls::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    };
    end(&outcome)
}

/// Tells what went wrong, and the exit code.
fn end(outcome: &Result<(), Failure>) -> ExitCode {
    let mut code = match outcome {
        Ok(()) => 0,
        // The reader of our standard output has all it wanted.
        Err(failure) if failure.is_closed_pipe() => 0,
        Err(Failure::Usage(_)) => 2,
        Err(Failure::Running(_)) => 1,
        Err(Failure::Loss(_) | Failure::NotThere(_)) => 3,
    };
    if let Err(failure) = outcome
        && code != 0
    {
        say_fault(format!("vxtap: error: {failure}\n"));
    }
    if !flush(PATIENCE) {
        code = code.max(1);
    }
    ExitCode::from(code)
}
