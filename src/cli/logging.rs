//! What is logged on standard error, and how much of it; that may change while a run goes on.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::{self, FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::say::LogLine;

/// Sets another filter.
type Set = Box<dyn Fn(Targets) -> Result<(), String> + Send + Sync>;

static SET: OnceLock<Set> = OnceLock::new();

/// Whether lines are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Lines of the log, in the form that is wanted at the moment.
struct Lines {
    text: Format<Full>,
    json: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        match JSON.load(Ordering::Relaxed) {
            false => self.text.format_event(context, writer, event),
            true => self.json.format_event(context, writer, event),
        }
    }
}

/// From now on lines are JSON, or text.
pub fn set_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Logs on standard error from now on.
pub fn start(filter: Targets) {
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .event_format(Lines {
            text: format().with_target(false),
            json: format().json().flatten_event(true).with_target(false),
        })
        .with_writer(|| LogLine);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    let set = move |filter| {
        let set = handle.reload(filter);
        set.map_err(|error| error.to_string())
    };
    let _ = SET.set(Box::new(set));
}

/// From now on so much is logged.
///
/// # Errors
///
/// What is wrong with the filter, in words.
pub fn set(filter: &str) -> Result<(), String> {
    let filter = read(filter)?;
    SET.get().map_or(Ok(()), |set| set(filter))
}

/// What is logged where nothing else is said.
fn usual() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
}

/// What is logged, by the value of VXTAP_LOG, and what is wrong with it.
pub fn of_environment(value: Option<OsString>) -> (Targets, Option<String>) {
    let text = match &value {
        None => return (usual(), None),
        Some(value) => value.to_string_lossy(),
    };
    if text.trim().is_empty() {
        return (usual(), None);
    }
    match read(&text) {
        Ok(filter) => (filter, None),
        Err(needed) => {
            let wrong = format!("VXTAP_LOG={text} is no log filter: {needed}; taking info");
            (usual(), Some(wrong))
        }
    }
}

/// A log filter: a level, or levels of modules.
///
/// # Errors
///
/// What is needed, in words.
pub fn read(text: &str) -> Result<Targets, String> {
    // A word that is no level is taken for the name of a module, of which nothing would ever be logged.
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let is_level = |word: &str| levels.iter().any(|level| word.eq_ignore_ascii_case(level));
    let known = |part: &str| match part.split_once('=') {
        Some((_, level)) => is_level(level.trim()),
        None => is_level(part.trim()) || part.trim().starts_with("vxtap"),
    };
    let filter = text.parse().ok();
    filter
        .filter(|_| text.split(',').all(known))
        .ok_or_else(|| "error, warn, info, debug, trace or off is needed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_filters() {
        let wrong = |value: &str| of_environment(Some(value.into())).1;
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
        assert_eq!(of_environment(None).1, None);
    }
}
