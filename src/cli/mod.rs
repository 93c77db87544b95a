//! The commands: each file reads its flags, composes the rooms and reports what came of it.

pub mod args;
pub mod listen;
pub mod replay;
pub mod send;
pub mod settings;
mod values;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::FromArgMatches;

use args::{Cli, Command};
use settings::layers::Layers;
use settings::{meant, typed};

use crate::failure::Failure;
use crate::patience::PATIENCE;
use crate::say::{LogLine, flush, say};

/// Runs the program on the process's own command line.
pub fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("VXTAP_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogLine)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let typed = Cli::from_arg_matches(&args::command().get_matches());
    let outcome = match typed.unwrap_or_else(|error| error.exit()).command {
        Command::Replay(typed) => {
            let typed = Layers::new(typed, typed::Replay::defaults());
            meant::Replay::meant(&typed).and_then(|settings| replay::run(&settings))
        }
        Command::Listen(typed) => listen::command(typed),
        Command::Send(args) => send::run(&args),
    };
    let mut code = match &outcome {
        Ok(()) => 0,
        // The reader of our standard output has all it wanted.
        Err(failure) if failure.is_closed_pipe() => 0,
        Err(Failure::Usage(_)) => 2,
        Err(Failure::Running(_)) => 1,
    };
    if let Err(failure) = outcome.as_ref()
        && code != 0
    {
        say(format!("vxtap: error: {failure}\n"));
    }
    if !flush(PATIENCE) {
        code = code.max(1);
    }
    ExitCode::from(code)
}
