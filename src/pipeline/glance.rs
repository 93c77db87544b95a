//! A quick look at a run while it goes on: what workers and sinks have counted, without what takes long to copy
//! (histograms of each session, series over time).
//!
//! Counts never go back: for a worker that does not answer, what it said last stands.

use hashbrown::HashMap;

use super::answers::{Answer, WAIT};
use super::answers::{SessionCounts, WorkerCounts};
use super::evidence::Evidence;
use super::ledger::Ledger;
use super::measure::{Distribution, Measured};
use super::orders::{Answers, Orders, Wants};
use super::queues::Offers;
use super::watch::{State, Watch};
use crate::mirror::session_key::SessionKey;

/// A thread that did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silent {
    /// A worker.
    Worker(usize),
    /// The writer of the capture.
    Writer,
}

impl Silent {
    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::Worker(number) => format!("worker {number}"),
            Self::Writer => "capture writer".to_owned(),
        }
    }
}

/// What a run has counted so far.
#[derive(Debug, Default)]
pub struct Glance {
    /// The accounting.
    pub ledger: Ledger,
    /// Every mirror session, by source and VNI.
    pub sessions: Vec<SessionCounts>,
    /// Packets each worker received.
    pub received: Vec<u64>,
    /// What was measured.
    pub measured: Measured,
    /// Packets lost before they could be received.
    pub lost_before: u64,
    /// Packets of sources that are not allowed that the kernel left out.
    pub kernel_refused: u64,
    /// Flow records made.
    pub flow_records: u64,
    /// Flows that live.
    pub flows: u64,
    /// Time of the last packet, nanoseconds since 1970; 0 before the first.
    pub latest_ns: u64,
    /// How each sink stands, the capture first.
    pub sinks: Vec<State>,
    /// Who did not answer: the machine is very busy, an output takes nothing, or the run is ending.
    pub silent: Vec<Silent>,
}

/// Looks at a run again and again.
pub struct Observer {
    orders: Orders<Answer>,
    watch: Watch,
    /// What each worker said last.
    workers: Vec<WorkerCounts>,
    arrival_to_written: Option<Distribution>,
}

impl Observer {
    /// Of a run with so many workers.
    pub fn new(orders: Orders<Answer>, watch: Watch, workers: usize) -> Self {
        Self {
            orders,
            watch,
            workers: vec![WorkerCounts::default(); workers],
            arrival_to_written: None,
        }
    }

    /// Asks all threads; waits a second at the most.
    pub async fn look(&mut self) -> Glance {
        let Answers { given, silent } = self.orders.ask(Wants::Counts, WAIT).await;
        for (who, answer) in given {
            match (answer, self.workers.get_mut(who)) {
                (Answer::Counts(counts), Some(last)) => *last = *counts,
                (Answer::Writer(writer), _) => {
                    self.arrival_to_written = writer.arrival_to_written;
                }
                _ => {}
            }
        }
        let mut glance = sum(&self.workers);
        glance.measured.arrival_to_written = self.arrival_to_written.clone();
        self.watch.note_behind(&mut glance.ledger);
        let offers = self.workers.iter().fold(Offers::default(), |mut sum, of| {
            sum.merge(of.offers);
            sum
        });
        glance.flow_records = offers.flow_records;
        glance.sinks = self.watch.states(glance.ledger.delivered, offers);
        let name = |who| match who < self.workers.len() {
            true => Silent::Worker(who),
            false => Silent::Writer,
        };
        glance.silent = silent.into_iter().map(name).collect();
        glance
    }

    /// Asks workers what they know of truncation in these sessions, of which there are at most
    /// [`MOST_ASKED`](super::evidence::MOST_ASKED); waits a second at the most. `None` where one does not answer: a cause
    /// is told by all packets of a session.
    pub async fn evidence(&self, asked: Vec<SessionKey>) -> Option<Evidence> {
        let mut evidence = Evidence::default();
        if asked.is_empty() {
            return Some(evidence);
        }
        let wants = Wants::Cuts(asked.into());
        let Answers { given, silent } = self.orders.ask(wants, WAIT).await;
        if silent.iter().any(|who| *who < self.workers.len()) {
            return None;
        }
        for (_, answer) in given {
            if let Answer::Cuts(cuts) = answer {
                evidence.add(cuts);
            }
        }
        Some(evidence)
    }
}

/// What all workers counted together.
fn sum(workers: &[WorkerCounts]) -> Glance {
    let mut sum = Glance::default();
    let mut places: HashMap<SessionKey, usize, foldhash::fast::RandomState> = HashMap::default();
    for worker in workers {
        sum.ledger.merge(&worker.ledger);
        sum.received.push(worker.ledger.received);
        sum.measured.merge(&worker.measured);
        sum.lost_before += worker.lost_before;
        sum.kernel_refused += worker.kernel_refused;
        sum.flows += worker.flows;
        sum.latest_ns = sum.latest_ns.max(worker.latest_ns);
        for session in &worker.sessions {
            let place = places.get(&session.key).copied();
            match place.and_then(|place| sum.sessions.get_mut(place)) {
                Some(known) => known.add(session),
                None => {
                    places.insert(session.key, sum.sessions.len());
                    sum.sessions.push(*session);
                }
            }
        }
    }
    sum.sessions.sort_unstable_by_key(|session| session.key);
    sum
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::evidence::Cut;
    use super::super::orders::{Order, orders};
    use super::*;
    use crate::wire::Vni;

    fn session(vni: u32, packets: u64) -> SessionCounts {
        let key = SessionKey::Mirror {
            source: [10, 0, 0, 1].into(),
            vni: Vni::new(vni).unwrap(),
        };
        SessionCounts {
            packets,
            bytes: 100 * packets,
            truncated: packets / 2,
            missing_bytes: packets,
            last_ns: packets,
            ..SessionCounts::none(key)
        }
    }

    /// All of `received` packets were delivered.
    fn received_all(received: u64) -> Ledger {
        let mut ledger = Ledger::default();
        (ledger.received, ledger.delivered) = (received, received);
        ledger
    }

    fn counts(received: u64, sessions: &[SessionCounts]) -> WorkerCounts {
        WorkerCounts {
            ledger: received_all(received),
            sessions: sessions.to_vec(),
            lost_before: 1,
            flows: 2,
            latest_ns: received,
            ..WorkerCounts::default()
        }
    }

    #[test]
    fn workers_add_up_by_session() {
        let glance = sum(&[
            counts(7, &[session(5, 3), session(1, 4)]),
            counts(9, &[session(5, 9)]),
        ]);
        assert_eq!(glance.received, [7, 9]);
        assert_eq!(glance.ledger.received, 16);
        assert_eq!(
            (glance.lost_before, glance.flows, glance.latest_ns),
            (2, 4, 9)
        );
        let expected = SessionCounts {
            truncated: 5,
            last_ns: 9,
            ..session(5, 12)
        };
        assert_eq!(glance.sessions, [session(1, 4), expected]);
    }

    /// A session has the target that its first packet went to, whichever worker saw that.
    #[test]
    fn ways_of_sessions_add_up() {
        let of = |target: u8, first_ns, largest_outer| SessionCounts {
            target: Some([10, 0, 9, target].into()),
            first_ns,
            largest_outer,
            ..session(5, 1)
        };
        let (early, late) = (of(1, 3, 1500), of(2, 7, 1600));
        for workers in [[early, late], [late, early]] {
            let glance = sum(&workers.map(|session| counts(1, &[session])));
            let [session] = glance.sessions[..] else {
                panic!("{:?}", glance.sessions);
            };
            assert_eq!(session.target, early.target);
            assert_eq!((session.first_ns, session.largest_outer), (3, 1600));
        }
    }

    /// A cause is told by all packets of a session: where a worker says nothing, none is.
    #[test]
    fn evidence_is_of_all_workers_or_none() {
        let (orders, mut inboxes) = orders(3);
        let observer = Observer::new(orders, Watch::default(), 2);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let asked = vec![session(1, 1).key, session(2, 1).key];
        for answering in [2, 1] {
            let answer = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                for (who, inbox) in inboxes.iter_mut().enumerate() {
                    while let Some(Order::Tell(tell)) = inbox.take() {
                        let Wants::Cuts(keys) = tell.wants().clone() else {
                            panic!("{:?}", tell.wants());
                        };
                        assert_eq!(*keys, *asked);
                        let cut = Cut {
                            packets: 10,
                            ..Cut::default()
                        };
                        if who < answering {
                            tell.answer(|| Answer::Cuts(vec![(keys[0], cut)]));
                        }
                    }
                }
            };
            let evidence = observer.evidence(asked.clone());
            let (evidence, ()) = runtime.block_on(async { tokio::join!(evidence, answer) });
            let packets = evidence.map(|evidence| {
                let packets = |key| evidence.of(key).map(|cut| cut.packets);
                [packets(asked[0]), packets(asked[1])]
            });
            // The writer, which is the third, has none.
            assert_eq!(packets, (answering == 2).then_some([Some(20), None]));
        }
        // Nobody is asked for nothing.
        let nothing = runtime.block_on(observer.evidence(Vec::new()));
        assert!(nothing.is_some() && inboxes[0].take().is_none());
    }

    /// What a worker said last stands as long as it says nothing new: no counter goes back.
    #[test]
    fn counts_of_a_silent_worker_stand() {
        let (orders, mut inboxes) = orders(3);
        let mut observer = Observer::new(orders, Watch::default(), 2);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        for answering in [2, 1] {
            let answer = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                for (who, inbox) in inboxes.iter_mut().enumerate() {
                    while let Some(Order::Tell(tell)) = inbox.take() {
                        if who < answering {
                            tell.answer(|| Answer::Counts(Box::new(counts(10, &[session(1, 10)]))));
                        }
                    }
                }
            };
            let (glance, ()) = runtime.block_on(async { tokio::join!(observer.look(), answer) });
            assert_eq!(glance.received, [10, 10]);
            assert_eq!(glance.sessions[0].packets, 20);
            let silent = match answering {
                2 => vec![Silent::Writer],
                _ => vec![Silent::Worker(1), Silent::Writer],
            };
            assert_eq!(glance.silent, silent);
        }
    }
}
