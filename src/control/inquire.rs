//! The summary of a run that goes on: SIGUSR1 prints it on standard error.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::host::counters::Counters;
use crate::pipeline::answers::Answer;
use crate::pipeline::change::Known;
use crate::pipeline::inquiry::Interim;
use crate::pipeline::orders::Orders;
use crate::pipeline::run::Pipeline;
use crate::pipeline::watch::Watch;
use crate::pipeline::worker::WorkerSettings;
use crate::report::summary::Summary;

/// Knows whom to ask, and how to put what they say.
pub struct Teller {
    orders: Orders<Answer>,
    watch: Watch,
    settings: WorkerSettings,
    known: Known,
    /// The kernel's counters as the run began, where it is live.
    counters_before: Option<Counters>,
    /// The word for packets the kernel had no room for.
    reason: &'static str,
    begun: Instant,
}

impl Teller {
    /// Asks the threads of `pipeline`. `counters_before` are the kernel's as a live run began, `reason` is the
    /// word for packets it had no room for.
    #[allow(
        clippy::disallowed_methods,
        reason = "once, to tell how long the run has been going on"
    )]
    pub fn new(
        pipeline: &Pipeline,
        settings: &WorkerSettings,
        counters_before: Option<&Counters>,
        reason: &'static str,
    ) -> Self {
        Self {
            orders: pipeline.orders(),
            watch: pipeline.watch(),
            settings: settings.clone(),
            known: pipeline.known(),
            counters_before: counters_before.cloned(),
            reason,
            begun: Instant::now(),
        }
    }

    /// The page of the run as it is now.
    pub async fn page(&self) -> String {
        let mut interim = Interim::ask(&self.orders, &self.watch).await;
        if let Some(before) = &self.counters_before {
            interim.outcome.kernel_counters = Some(Counters::read().since(before));
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        let settings = WorkerSettings {
            inventory: self.known.now(),
            ..self.settings.clone()
        };
        page(&interim, &settings, self.reason, seconds)
    }
}

fn page(
    interim: &Interim,
    settings: &WorkerSettings,
    reason: &'static str,
    seconds: f64,
) -> String {
    let outcome = &interim.outcome;
    if outcome.received.is_empty() {
        return "vxtap: no thread answered: the run has not begun, waits for an output, or is ending\n"
            .to_owned();
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
