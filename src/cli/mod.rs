//! The commands: each file reads its flags, composes the rooms and reports what came of it.

pub mod args;
pub mod listen;
pub mod replay;
pub mod send;
pub mod settings;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

use crate::failure::Failure;

/// Runs the program on the process's own command line.
pub fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("VXTAP_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let outcome = match Cli::parse().command {
        Command::Replay(args) => replay::run(&args),
        Command::Listen(args) => listen::run(&args),
        Command::Send(args) => send::run(&args),
    };
    let (error, code) = match outcome {
        // The reader of our standard output has all it wanted.
        Err(Failure::Running(error)) if is_closed_pipe(&error) => return ExitCode::SUCCESS,
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => (error, 2),
        Err(Failure::Running(error)) => (error, 1),
    };
    eprintln!("vxtap: error: {error}");
    ExitCode::from(code)
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
