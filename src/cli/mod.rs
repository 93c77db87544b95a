//! The commands: each file reads its flags, composes the rooms and reports what came of it.

pub mod args;
#[cfg(target_os = "linux")]
mod check;
mod extcap;
pub mod extract;
#[cfg(target_os = "linux")]
mod hints;
pub mod listen;
pub mod ls;
pub mod manual;
mod progress;
pub mod replay;
pub mod report;
pub mod send;
pub mod settings;
pub mod status;
mod values;
pub mod verify;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::FromArgMatches;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use settings::layers::Layers;
use settings::{meant, typed};

use crate::failure::Failure;
use crate::patience::PATIENCE;
use crate::say::{LogLine, flush, say_fault};

/// Runs the program on the process's own command line.
pub fn main() -> ExitCode {
    if let Some(call) = extcap::Call::of_arguments() {
        return end(&extcap::answer(&call));
    }
    let (filter, wrong) = log_filter(std::env::var_os("VXTAP_LOG"));
    log(filter);
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

/// Logs on standard error from now on.
fn log(filter: EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogLine)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
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

/// What is logged, by the value of VXTAP_LOG, and what is wrong with it.
fn log_filter(value: Option<OsString>) -> (EnvFilter, Option<String>) {
    let text = match &value {
        None => "info".into(),
        Some(value) => value.to_string_lossy(),
    };
    if text.trim().is_empty() {
        return (EnvFilter::new("info"), None);
    }
    // A word that is no level is taken for the name of a module, of which nothing would ever be logged.
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let is_level = |word: &str| levels.iter().any(|level| word.eq_ignore_ascii_case(level));
    let known = |part: &str| match part.split_once('=') {
        Some((_, level)) => is_level(level.trim()),
        None => is_level(part.trim()) || part.trim().starts_with("vxtap"),
    };
    let filter = EnvFilter::builder().parse(&text).ok();
    match filter.filter(|_| text.split(',').all(known)) {
        Some(filter) => (filter, None),
        None => {
            let wrong = format!(
                "VXTAP_LOG={text} is no log filter: error, warn, info, debug, trace or off is needed; taking info"
            );
            (EnvFilter::new("info"), Some(wrong))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_filters() {
        let wrong = |value: &str| log_filter(Some(value.into())).1;
        for good in [
            "",
            "info",
            "DEBUG",
            "off",
            "warn,vxtap::source=debug",
            "vxtap=trace",
        ] {
            assert_eq!(wrong(good), None, "{good}");
        }
        for bad in ["loud", "debgu", "info,verbose", "vxtap=loud", "7", "[["] {
            let said = wrong(bad).unwrap_or_default();
            assert!(said.contains(&format!("VXTAP_LOG={bad}")), "{bad}: {said}");
        }
        assert_eq!(log_filter(None).1, None);
    }
}
