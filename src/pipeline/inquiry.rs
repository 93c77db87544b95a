//! A look at a run while it goes on: one side asks, every worker and the writer answer between two batches.
//!
//! Asking costs those who are asked one relaxed load a batch, and a copy of their counts when somebody did
//! ask. Nobody waits for the one who asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};

use super::measure::{Distribution, Measured};
use super::outcome::Outcome;
use super::total::Sum;
use super::worker::Snapshot;

/// How long answers are waited for; an idle worker comes by every 10 ms.
const WAIT: Duration = Duration::from_secs(1);

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
    pub fn ask(inquirer: &Inquirer) -> Self {
        let (answers, silent) = inquirer.ask(WAIT);
        let mut sum = Sum::default();
        let mut outcome = Outcome::default();
        let mut lost_before = 0;
        let mut workers = Vec::new();
        let mut writers = Vec::new();
        for answer in answers {
            match answer {
                Answer::Worker(worker) => workers.push(worker),
                Answer::Writer(writer) => writers.push(writer),
            }
        }
        workers.sort_by_key(|worker| worker.worker);
        for worker in workers {
            sum.add(worker.snapshot);
            sum.measured.merge(&worker.measured);
            lost_before += worker.lost_before;
            outcome.flow_records += worker.flow_records.0;
            outcome.flow_records_dropped += worker.flow_records.1;
        }
        sum.sort();
        for writer in writers {
            sum.ledger.lose_written(writer.lost);
            sum.ledger.note_late(writer.late);
            sum.measured.merge(&Measured {
                arrival_to_written: writer.arrival_to_written,
                ..Measured::default()
            });
        }
        Self {
            outcome: Outcome {
                ledger: sum.ledger,
                sessions: sum.sessions,
                other_ports: sum.other_ports,
                not_allowed: sum.strangers.most(),
                received: sum.received,
                measured: sum.measured,
                ..outcome
            },
            lost_before,
            silent,
        }
    }
}

/// What one of them says.
pub enum Answer {
    /// A worker.
    Worker(Box<WorkerAnswer>),
    /// The capture's writer.
    Writer(WriterAnswer),
}

/// What a worker says.
pub struct WorkerAnswer {
    /// Its number.
    pub worker: usize,
    /// What it counted.
    pub snapshot: Snapshot,
    /// What it measured beside that.
    pub measured: Measured,
    /// Packets lost before its source could hand them over.
    pub lost_before: u64,
    /// Flow records handed over, and those that found no room.
    pub flow_records: (u64, u64),
}

/// What the writer says.
pub struct WriterAnswer {
    /// Its latencies.
    pub arrival_to_written: Option<Distribution>,
    /// Records written behind later ones.
    pub late: u64,
    /// Records that could not be written.
    pub lost: u64,
}

/// The side that asks.
pub struct Inquirer {
    asked: Arc<AtomicU64>,
    answers: Receiver<(u64, Answer)>,
    respondents: usize,
}

/// The side that answers.
pub struct Respondent {
    asked: Arc<AtomicU64>,
    answered: u64,
    answers: Sender<(u64, Answer)>,
}

/// One who asks and `respondents` who answer.
pub fn inquiry(respondents: usize) -> (Inquirer, Vec<Respondent>) {
    let asked = Arc::new(AtomicU64::new(0));
    // Room for the answers to one question and for those that came late to the one before.
    let (sender, answers) = bounded(2 * respondents);
    let respondent = |_| Respondent {
        asked: Arc::clone(&asked),
        answered: 0,
        answers: sender.clone(),
    };
    let all = (0..respondents).map(respondent).collect();
    let inquirer = Inquirer {
        asked,
        answers,
        respondents,
    };
    (inquirer, all)
}

impl Inquirer {
    /// Asks all and returns the answers that came before `wait` was over, and how many did not.
    pub fn ask(&self, wait: Duration) -> (Vec<Answer>, usize) {
        loop {
            match self.answers.try_recv() {
                // Too late for an earlier question.
                Ok(_) => {}
                Err(TryRecvError::Empty) => break,
                // The run is over.
                Err(TryRecvError::Disconnected) => return (Vec::new(), self.respondents),
            }
        }
        let question = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let time_is_up = crossbeam_channel::after(wait);
        let mut answers = Vec::with_capacity(self.respondents);
        while answers.len() < self.respondents {
            select! {
                recv(self.answers) -> answer => match answer {
                    Ok((of, answer)) if of == question => answers.push(answer),
                    Ok(_) => {}
                    Err(_) => break,
                },
                recv(time_is_up) -> _ => break,
            }
        }
        let silent = self.respondents - answers.len();
        (answers, silent)
    }
}

impl Respondent {
    /// Answers with what `answer` gathers, if somebody has asked since the last time.
    #[inline]
    pub fn answer_if_asked(&mut self, answer: impl FnOnce() -> Answer) {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked != self.answered {
            self.answered = asked;
            // Where there is no room, nobody is waiting for it.
            let _ = self.answers.try_send((asked, answer()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(late: u64) -> Answer {
        Answer::Writer(WriterAnswer {
            arrival_to_written: None,
            late,
            lost: 0,
        })
    }

    fn late(answer: &Answer) -> u64 {
        match answer {
            Answer::Writer(writer) => writer.late,
            Answer::Worker(_) => panic!("no worker here"),
        }
    }

    #[test]
    fn every_question_is_answered_once_by_each() {
        let (inquirer, mut respondents) = inquiry(2);
        for respondent in &mut respondents {
            respondent.answer_if_asked(|| panic!("nobody asked"));
        }
        let (answers, silent) = inquirer.ask(Duration::from_millis(1));
        assert_eq!((answers.len(), silent), (0, 2));
        // Both come too late, and do not stand for answers to the next question.
        for respondent in &mut respondents {
            respondent.answer_if_asked(|| writer(1));
            respondent.answer_if_asked(|| panic!("answered before"));
        }
        let asking = std::thread::spawn(move || {
            let answers = inquirer.ask(Duration::from_secs(60));
            (inquirer, answers)
        });
        let mut calls = 0;
        while calls < 2 {
            for respondent in &mut respondents {
                respondent.answer_if_asked(|| {
                    calls += 1;
                    writer(1 + calls)
                });
            }
            std::thread::yield_now();
        }
        let (inquirer, (answers, silent)) = asking.join().unwrap();
        assert_eq!(answers.iter().map(late).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(silent, 0);
        // Who is gone is not waited for.
        drop(respondents);
        assert_eq!(inquirer.ask(Duration::from_secs(60)).1, 2);
    }
}
