//! The summary of a run that goes on: SIGUSR1 prints it on standard error.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;
use crate::host::counters::Counters;
use crate::pipeline::inquiry::Interim;
use crate::pipeline::run::Pipeline;
use crate::pipeline::worker::WorkerSettings;
use crate::report::summary::Summary;
use crate::say::say;

/// From now on prints the page of `pipeline` as it is so far whenever SIGUSR1 comes. `counters_before` are
/// the kernel's as the run began, `reason` the word for packets it had no room for.
///
/// # Errors
///
/// When the signal cannot be taken.
#[allow(
    clippy::disallowed_methods,
    reason = "once at the start and once a signal, to tell how long the run has been going on"
)]
pub fn on_request(
    pipeline: &mut Pipeline,
    settings: &WorkerSettings,
    counters_before: &Counters,
    reason: &'static str,
) -> Result<(), Failure> {
    let Some(inquirer) = pipeline.take_inquirer() else {
        return Ok(());
    };
    let (settings, counters_before) = (settings.clone(), counters_before.clone());
    // A thread of its own: asking waits for answers, and the signals that end a run must not wait for that.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut asked = {
        let _guard = runtime.enter();
        signal(SignalKind::user_defined1())?
    };
    let begun = Instant::now();
    std::thread::spawn(move || {
        while runtime.block_on(asked.recv()).is_some() {
            let mut interim = Interim::ask(&inquirer);
            interim.outcome.kernel_counters = Some(Counters::read().since(&counters_before));
            let seconds = begun.elapsed().as_secs_f64();
            say(page(&interim, &settings, reason, seconds));
        }
    });
    Ok(())
}

fn page(
    interim: &Interim,
    settings: &WorkerSettings,
    reason: &'static str,
    seconds: f64,
) -> String {
    let outcome = &interim.outcome;
    if outcome.received.is_empty() {
        return "vxtap: no worker answered: the run is ending\n".to_owned();
    }
    let mut kernel_dropped = BTreeMap::from([(reason, interim.lost_before)]);
    kernel_dropped.retain(|_, count| *count > 0);
    let summary = Summary::new(outcome, kernel_dropped, settings, Vec::new());
    let silent = match interim.silent {
        0 => String::new(),
        silent => format!(", without {silent} threads that did not answer"),
    };
    format!(
        "vxtap: so far, after {seconds:.1} s{silent}:\n{}vxtap: going on\n",
        summary.page(outcome)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::outcome::Outcome;

    #[test]
    fn a_page_says_that_it_is_not_the_last_one_and_what_is_missing() {
        let mut interim = Interim {
            outcome: Outcome::default(),
            lost_before: 3,
            silent: 0,
        };
        // Two pieces of a datagram that is not complete yet.
        interim.outcome.ledger.received = 2;
        interim.outcome.received = vec![2];
        let text = page(
            &interim,
            &WorkerSettings::default(),
            "socket_overflow",
            12.34,
        );
        assert!(text.starts_with("vxtap: so far, after 12.3 s:\n"), "{text}");
        assert!(text.contains("3 lost in the kernel"), "{text}");
        assert!(text.contains("2 of them are fragments that wait"), "{text}");
        interim.silent = 1;
        let text = page(&interim, &WorkerSettings::default(), "socket_overflow", 1.0);
        assert!(text.contains("without 1 threads"), "{text}");
        interim.outcome.received.clear();
        let text = page(&interim, &WorkerSettings::default(), "socket_overflow", 1.0);
        assert!(!text.contains("received"), "{text}");
    }
}
