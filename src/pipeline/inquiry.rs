//! A look at a run while it goes on: every worker and the writer are ordered to tell what they counted, and
//! their answers are added up.

use super::answers::{Answer, WAIT};
use super::measure::Measured;
use super::orders::{Answers, Orders, Wants};
use super::outcome::Outcome;
use super::queues::Offers;
use super::total::Sum;
use super::watch::Watch;

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
