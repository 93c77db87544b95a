//! Whether a run does what it is for: judged from two moments of it. Pure.
//!
//! No traffic is no fault: nobody mirrors anything perhaps.

use serde::{Deserialize, Serialize};

use super::moment::Moment;
use crate::mirror::words::counted;
use crate::pipeline::account::{Kind, Missing};
use crate::pipeline::glance::Silent;
use crate::pipeline::ledger;
use crate::pipeline::watch::State;
use crate::wire::refusal::reasons;

reasons! {
    /// A kind of problem.
    Trouble {
        /// A worker did not answer within a second.
        WorkerSilent => "worker_silent",
        /// The writer of the capture did not answer within a second.
        WriterSilent => "writer_silent",
        /// An output failed: nothing is written to it any more.
        OutputFailed => "output_failed",
        /// Something was lost on the way to an output lately.
        OutputLost => "output_lost",
        /// The kernel had no room for datagrams lately.
        KernelLost => "kernel_lost",
        /// Packets were received and lost lately.
        PacketsLost => "packets_lost",
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Problem {
    /// The word for its kind.
    pub kind: String,
    /// What it is.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// How a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Health {
    /// There is no problem.
    pub healthy: bool,
    /// All workers answered, and the run was not told to end: packets are taken.
    pub receiving: bool,
    /// No output has failed or is stuck, and none lost what its disk did not take lately.
    pub writing: bool,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
}

impl Health {
    /// Judges `now` by what happened since `earlier`, or since the run began.
    pub fn of(now: &Moment, earlier: Option<&Moment>) -> Self {
        let mut health = Self {
            healthy: false,
            receiving: !now.is_ending,
            writing: true,
            problems: Vec::new(),
        };
        if !now.is_ending {
            health.judge_threads(now);
        }
        health.judge_losses(now, earlier);
        for (at, sink) in now.glance.sinks.iter().enumerate() {
            let before = earlier.and_then(|earlier| earlier.glance.sinks.get(at));
            health.judge_sink(sink, before);
        }
        health.healthy = health.problems.is_empty();
        health
    }

    /// Whether the run takes packets and writes what comes of them.
    pub const fn is_ready(&self) -> bool {
        self.receiving && self.writing
    }

    /// How many problems there are of each kind, zeros too.
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, usize)> {
        Trouble::ALL.iter().map(|kind| {
            let kind = kind.reason();
            let problems = self.problems.iter();
            (
                kind,
                problems.filter(|problem| problem.kind == kind).count(),
            )
        })
    }

    fn note(&mut self, kind: Trouble, what: String, remedy: impl Into<String>) {
        self.problems.push(Problem {
            kind: kind.reason().to_owned(),
            what,
            remedy: remedy.into(),
        });
    }

    fn judge_threads(&mut self, now: &Moment) {
        for silent in &now.glance.silent {
            let what = format!("{} did not answer within a second", silent.name());
            match silent {
                Silent::Worker(_) => {
                    self.receiving = false;
                    let remedy = "the machine is too busy, or an output stands still and the worker waits for it: look at \
                                  'top -H' and at the outputs";
                    self.note(Trouble::WorkerSilent, what, remedy);
                }
                Silent::Writer => {
                    self.writing = false;
                    let remedy = "the capture's disk, or the reader of its pipe, takes nothing: look at 'iostat -x' and at \
                                  the reader";
                    self.note(Trouble::WriterSilent, what, remedy);
                }
            }
        }
    }

    fn judge_losses(&mut self, now: &Moment, earlier: Option<&Moment>) {
        let since = earlier.map_or_else(Vec::new, |earlier| earlier.lost().collect());
        for (at, (reason, count)) in now.lost().enumerate() {
            let before = since.get(at).map_or(0, |(_, before)| *before);
            let lost = count.saturating_sub(before);
            if lost == 0 {
                continue;
            }
            if reason == now.about.kernel_reason {
                let what = format!(
                    "the kernel had no room for {} ({reason})",
                    counted(lost, "datagram")
                );
                self.note(Trouble::KernelLost, what, kernel_remedy(reason));
            } else {
                let meaning = ledger::meaning(reason).unwrap_or_default();
                let meaning = meaning.trim_end_matches('.');
                let what = format!("{} dropped: {reason} ({meaning})", counted(lost, "packet"));
                let remedy = "let fragments pass on the way (security group, 'nft list ruleset'), or raise the MTU of the \
                              path so that nothing is fragmented";
                self.note(Trouble::PacketsLost, what, remedy);
            }
        }
    }

    fn judge_sink(&mut self, sink: &State, before: Option<&State>) {
        let account = &sink.account;
        let path = &account.path;
        if let Some(fault) = sink.fault.as_ref().filter(|fault| !fault.reader_left) {
            self.writing = false;
            let what = format!("{path} failed: {}", fault.text);
            let remedy = "mend what it says and start vxtap again; the other outputs go on";
            self.note(Trouble::OutputFailed, what, remedy);
        }
        // A viewer only looks, and who left wanted no more.
        if account.kind == Kind::View {
            return;
        }
        let before = before.filter(|before| before.account.path == *path);
        let before: Vec<u64> = before.map_or_else(Vec::new, |before| {
            before.account.dropped().map(|(_, count)| count).collect()
        });
        let thing = match account.kind {
            Kind::Flows => "flow record",
            Kind::Capture | Kind::View => "packet",
        };
        for (at, (why, count)) in account.dropped().enumerate() {
            let lost = count.saturating_sub(before.get(at).copied().unwrap_or_default());
            let Some(remedy) = sink_remedy(why).filter(|_| lost > 0) else {
                continue;
            };
            // Who takes part of it still writes.
            if matches!(why, Missing::Write | Missing::Disk | Missing::Stuck) {
                self.writing = false;
            }
            let meaning = why.meaning().trim_end_matches('.');
            let lost = counted(lost, thing);
            let what = format!("{lost} not in {path}: {} ({meaning})", why.reason());
            self.note(Trouble::OutputLost, what, remedy);
        }
    }
}

/// What to do where the kernel has no room.
pub fn kernel_remedy(reason: &str) -> &'static str {
    match reason {
        "socket_overflow" => {
            "more room: 'sysctl -w net.core.rmem_max=67108864' and start again; more --workers; --backend packet loses fewer"
        }
        _ => {
            "more --workers on cores of their own (--cpus), or less work for each: --slice headers, fewer outputs"
        }
    }
}

/// What to do where a sink lost something for that reason; `None` where that is no fault.
pub const fn sink_remedy(why: Missing) -> Option<&'static str> {
    Some(match why {
        Missing::Queue => {
            "the disk or the reader is too slow: a faster one, --slice headers or --snaplen, less --compress, or --vni and \
             --allow to take less"
        }
        Missing::Limit => {
            "a limit that you set: raise --cpu-limit or --disk-rate, or take less with --vni, --filter or --slice headers"
        }
        Missing::Write => "the first error of this output says why; mend it and start vxtap again",
        Missing::Disk => {
            "make room on the disk, or let the store delete: --keep-bytes, --min-free, --on-full delete-oldest"
        }
        Missing::Collector => {
            "is the collector there, and does a firewall on the way let it be reached?"
        }
        Missing::Stuck => {
            "the output takes nothing any more: look at its disk or at the reader of the pipe"
        }
        Missing::ReaderLeft => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::outfile::Standing;
    use crate::pipeline::account::Account;
    use crate::pipeline::change::Known;
    use crate::pipeline::glance::Glance;
    use crate::pipeline::ledger::{Dropped, Ledger};
    use crate::pipeline::queues::Offers;
    use crate::pipeline::watch::Fault;
    use crate::pipeline::worker::WorkerSettings;
    use crate::report::moment::AboutRun;

    /// All of `received` packets were delivered.
    fn received_all(received: u64) -> Ledger {
        let mut ledger = Ledger::default();
        (ledger.received, ledger.delivered) = (received, received);
        ledger
    }

    /// A run that has received `received` packets and lost `lost` in the kernel, at so many seconds.
    pub fn moment(seconds: f64, received: u64, lost: u64) -> Moment {
        let about = AboutRun {
            pid: 7,
            began_ns: 1_000_000_000,
            addresses: vec!["0.0.0.0:4789".to_owned()],
            backend: "udp".to_owned(),
            kernel_reason: "socket_overflow",
            max_flows: Some(1000),
            route: WorkerSettings::default().route(),
            known: Known::default(),
        };
        Moment {
            inventory: about.known.now(),
            about: Arc::new(about),
            at_ns: 1_000_000_000 + (seconds * 1e9) as u64,
            seconds,
            is_ending: false,
            answered_ns: 1_000_000_000,
            glance: Glance {
                ledger: received_all(received),
                received: vec![received],
                lost_before: lost,
                ..Glance::default()
            },
            kernel_counters: Default::default(),
            disks: Vec::new(),
            process: None,
            http_refused: 0,
        }
    }

    /// A capture that lost `lost` packets of 10, because its disk took none.
    pub fn sink(lost: u64, fault: Option<Fault>) -> State {
        let standing = Standing {
            written: 10 - lost,
            disk: lost,
            ..Standing::default()
        };
        State {
            account: Account::so_far((Kind::Capture, "c/", standing), 10, Offers::default(), 0),
            fault,
            store: None,
            collector: None,
        }
    }

    fn kinds(health: &Health) -> Vec<&str> {
        health
            .problems
            .iter()
            .map(|problem| problem.kind.as_str())
            .collect()
    }

    #[test]
    fn without_traffic_a_run_is_healthy() {
        let health = Health::of(&moment(9.0, 0, 0), Some(&moment(4.0, 0, 0)));
        assert!(health.healthy && health.is_ready(), "{health:?}");
        assert!(health.by_kind().all(|(_, problems)| problems == 0));
        assert_eq!(health.by_kind().count(), 6, "zeros too");
    }

    #[test]
    fn losses_count_while_they_are_new() {
        let (now, before) = (moment(9.0, 100, 7), moment(4.0, 50, 2));
        let health = Health::of(&now, Some(&before));
        assert_eq!(kinds(&health), ["kernel_lost"]);
        assert!(
            health.problems[0].what.contains("5 datagrams"),
            "{health:?}"
        );
        assert!(health.problems[0].remedy.contains("rmem_max"), "{health:?}");
        assert!(
            !health.healthy && health.is_ready(),
            "it goes on all the same"
        );
        let since_begin = Health::of(&now, None);
        assert!(since_begin.problems[0].what.contains("7 datagrams"));
        assert!(Health::of(&now, Some(&now)).healthy);
        let mut dropped = moment(9.0, 100, 7);
        dropped.glance.ledger.drop(Dropped::FragmentIncomplete, 1);
        let health = Health::of(&dropped, Some(&now));
        assert_eq!(kinds(&health), ["packets_lost"]);
        assert!(
            health.problems[0]
                .what
                .starts_with("1 packet dropped: fragment_incomplete")
        );
    }

    #[test]
    fn who_does_not_answer_is_not_ready() {
        let mut now = moment(9.0, 0, 0);
        now.glance.silent = vec![Silent::Worker(1)];
        let health = Health::of(&now, None);
        assert!(!health.receiving && health.writing, "{health:?}");
        assert!(
            health.problems[0].what.starts_with("worker 1 did not"),
            "{health:?}"
        );
        now.glance.silent = vec![Silent::Writer];
        let health = Health::of(&now, None);
        assert!(health.receiving && !health.writing, "{health:?}");
        assert_eq!(kinds(&health), ["writer_silent"]);
    }

    #[test]
    fn a_run_that_ends_is_healthy_and_not_ready() {
        let mut now = moment(9.0, 0, 0);
        now.is_ending = true;
        now.glance.silent = vec![Silent::Worker(0), Silent::Writer];
        let health = Health::of(&now, None);
        assert!(health.healthy && !health.is_ready(), "{health:?}");
    }

    #[test]
    fn an_output_that_failed_or_takes_nothing_is_not_ready() {
        let fault = |reader_left| {
            Some(Fault {
                text: "cannot write c/: no space".to_owned(),
                reader_left,
            })
        };
        let with = |sink| {
            let mut moment = moment(9.0, 10, 0);
            moment.glance.sinks = vec![sink];
            moment
        };
        let failed = Health::of(&with(sink(0, fault(false))), None);
        assert_eq!(kinds(&failed), ["output_failed"]);
        assert!(!failed.is_ready());
        let left = Health::of(&with(sink(0, fault(true))), None);
        assert!(left.healthy, "a reader that leaves is no fault: {left:?}");
        let full = Health::of(&with(sink(3, None)), Some(&with(sink(1, None))));
        assert_eq!(kinds(&full), ["output_lost"]);
        assert!(
            full.problems[0]
                .what
                .starts_with("2 packets not in c/: disk"),
            "{full:?}"
        );
        assert!(!full.is_ready());
        assert!(Health::of(&with(sink(3, None)), Some(&with(sink(3, None)))).healthy);
    }
}
