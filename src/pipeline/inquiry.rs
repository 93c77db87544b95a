//! A look at a run while it goes on: every worker and the writer are ordered to tell what they counted, and
//! their answers are added up.

use std::time::Duration;

use super::evidence::Cut;
use super::glance::WorkerCounts;
use super::measure::{Distribution, Measured};
use super::orders::{Answers, Orders, Wants};
use super::outcome::Outcome;
use super::outlet::Offers;
use super::sink::Watch;
use super::total::Sum;
use super::worker::Snapshot;
use crate::mirror::session_key::SessionKey;

/// How long answers are waited for; an idle worker comes by every 10 ms.
pub(super) const WAIT: Duration = Duration::from_secs(1);

/// What a run has come to so far.
pub struct Interim {
    /// As at the end, without files.
    pub outcome: Outcome,
    /// Packets lost before they could be received.
    pub lost_before: u64,
    /// Threads that did not answer: the run is ending, or the machine is very busy.
    pub silent: usize,
}

impl Interim {
    /// Asks the workers and the writer of a run that goes on.
    pub async fn ask(orders: &Orders<Answer>, watch: &Watch) -> Self {
        let Answers { given, silent } = orders.ask(Wants::All, WAIT).await;
        let mut sum = Sum::default();
        let mut offers = Offers::default();
        let (mut lost_before, mut kernel_refused) = (0, 0);
        let mut workers = Vec::new();
        let mut writers = Vec::new();
        for (who, answer) in given {
            match answer {
                Answer::Worker(worker) => workers.push((who, worker)),
                Answer::Writer(writer) => writers.push(writer),
                // Nobody asked for it.
                Answer::Counts(_) | Answer::Cuts(_) => {}
            }
        }
        workers.sort_by_key(|(who, _)| *who);
        for (_, worker) in workers {
            sum.add(worker.snapshot);
            sum.measured.merge(&worker.measured);
            lost_before += worker.lost_before;
            kernel_refused += worker.kernel_refused;
            offers.merge(worker.offers);
        }
        sum.sort();
        for writer in writers {
            sum.measured.merge(&Measured {
                arrival_to_written: writer.arrival_to_written,
                ..Measured::default()
            });
        }
        watch.note_behind(&mut sum.ledger);
        let sinks = watch.accounts(sum.ledger.delivered, offers);
        Self {
            outcome: Outcome {
                ledger: sum.ledger,
                sessions: sum.sessions,
                other_ports: sum.other_ports,
                refused_sources: sum.refused.most(),
                kernel_refused,
                pairs: sum.pairs,
                one_in: sum.one_in,
                received: sum.received,
                measured: sum.measured,
                flow_records: offers.flow_records,
                sinks,
                ..Outcome::default()
            },
            lost_before,
            silent: silent.len(),
        }
    }
}

/// What one of them says.
pub enum Answer {
    /// A worker.
    Worker(Box<WorkerAnswer>),
    /// A worker that was asked for its counts only.
    Counts(Box<WorkerCounts>),
    /// A worker that was asked for what it knows of truncation in some mirror sessions.
    Cuts(Vec<(SessionKey, Cut)>),
    /// The capture's writer.
    Writer(WriterAnswer),
}

/// What a worker says.
pub struct WorkerAnswer {
    /// What it counted.
    pub snapshot: Snapshot,
    /// What it measured beside that.
    pub measured: Measured,
    /// Packets lost before its source could hand them over.
    pub lost_before: u64,
    /// Packets of sources that are not allowed that the kernel left out.
    pub kernel_refused: u64,
    /// What it had for the sinks.
    pub offers: Offers,
}

/// What the writer says.
pub struct WriterAnswer {
    /// Its latencies.
    pub arrival_to_written: Option<Distribution>,
}
