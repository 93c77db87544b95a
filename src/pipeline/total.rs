//! What all workers together came to: one ledger, one list of sessions, one list of flows.
//!
//! A flow lives on one worker, but not every packet shows the kernel where it belongs: a fragment hides
//! its ports, an extension header hides the protocol. Such strays are put together with their flow here,
//! so that records do not depend on how many workers there were.

use hashbrown::HashMap;

use super::ledger::Ledger;
use super::measure::Measured;
use super::worker::{OtherPort, Snapshot, Worker};
use crate::flow::ended::EndReason;
use crate::flow::record::{FlowRecord, Occasion};
use crate::flow::remaining::Remaining;
use crate::mirror::pairs::Pairs;
use crate::mirror::refused::Refused;
use crate::mirror::session::{Session, SessionId};
use crate::mirror::session_key::SessionKey;

/// What workers counted, added up.
#[derive(Default)]
pub struct Sum {
    /// The accounting.
    pub ledger: Ledger,
    /// Mirror sessions, as they were first seen.
    pub sessions: Vec<Session>,
    /// UDP traffic that went to other ports.
    pub other_ports: Vec<OtherPort>,
    /// Who sent without being allowed to.
    pub refused: Refused,
    /// Sessions that saw the same packets.
    pub pairs: Pairs<SessionKey>,
    /// One TCP connection in so many was looked at for what the mirror lost.
    pub one_in: u32,
    /// Packets each worker received.
    pub received: Vec<u64>,
    /// What was measured.
    pub measured: Measured,
    /// Where each session is.
    places: HashMap<SessionKey, usize, foldhash::fast::RandomState>,
}

impl Sum {
    /// Adds one worker.
    pub fn add(&mut self, worker: Snapshot) {
        self.ledger.merge(&worker.ledger);
        self.received.push(worker.ledger.received);
        self.one_in = self.one_in.max(worker.one_in);
        for session in worker.sessions {
            let place = self.places.get(&session.key);
            match place.and_then(|place| self.sessions.get_mut(*place)) {
                Some(known) => known.merge(&session),
                None => {
                    self.places.insert(session.key, self.sessions.len());
                    self.sessions.push(session);
                }
            }
        }
        for other in worker.other_ports {
            let mut known = self.other_ports.iter_mut();
            match known.find(|known| known.port == other.port) {
                Some(known) => {
                    known.packets += other.packets;
                    known.like_vxlan += other.like_vxlan;
                }
                None => self.other_ports.push(other),
            }
        }
        self.refused.merge(&worker.refused);
        self.pairs.merge(worker.pairs);
        let frame = Some(worker.frames);
        self.measured.merge(&Measured {
            frame,
            ..Measured::default()
        });
    }

    /// Mirror sessions by source and VNI.
    pub fn sort(&mut self) {
        self.sessions.sort_by_key(|session| session.key);
    }
}

/// The sum over all workers.
pub struct Total {
    /// The accounting.
    pub ledger: Ledger,
    /// Mirror sessions, by source and VNI.
    pub sessions: Vec<Session>,
    /// UDP traffic that went to other ports.
    pub other_ports: Vec<OtherPort>,
    /// Who sent without being allowed to.
    pub refused: Refused,
    /// Sessions that saw the same packets.
    pub pairs: Pairs<SessionKey>,
    /// One TCP connection in so many was looked at for what the mirror lost.
    pub one_in: u32,
    /// Packets each worker received.
    pub received: Vec<u64>,
    /// What the workers measured.
    pub measured: Measured,
    /// Flows that several workers had a part of, and that were put together here.
    pub flows_joined: u64,
    /// Flows that live to the end; their sessions are places in `sessions`, and behind these in `aged`.
    flows: Remaining,
    /// Names of sessions that made room in every worker that saw them, by source and VNI.
    aged: Vec<Session>,
    /// Records of flows that had to make room for the last packets.
    evicted: Vec<FlowRecord>,
}

impl Total {
    /// Ends the workers and adds them up.
    pub fn of(workers: impl IntoIterator<Item = Worker>) -> Self {
        let mut sum = Sum::default();
        let mut parts = Vec::new();
        let mut evicted = Vec::new();
        let mut aged = Vec::new();
        for worker in workers {
            let part = worker.end();
            evicted.extend(part.evicted);
            let names = part.sessions.named_since(0);
            let keys: Vec<SessionKey> = names.map(|(_, session)| session.key).collect();
            let (list, its_aged) = part.sessions.into_lists();
            aged.extend(its_aged);
            sum.add(Snapshot {
                ledger: part.ledger,
                sessions: list,
                other_ports: part.other_ports,
                refused: part.refused,
                pairs: part.pairs,
                one_in: part.one_in,
                frames: part.frames,
            });
            parts.push((keys, part.flows));
        }
        sum.sort();
        let Sum {
            ledger,
            mut sessions,
            other_ports,
            refused,
            pairs,
            one_in,
            received,
            measured,
            ..
        } = sum;
        aged.sort_by_key(|session: &Session| session.key);
        aged.dedup_by_key(|session| session.key);
        // Each worker numbers sessions for itself; now they have the place in the list of all.
        let place_of = |key| {
            let place = sessions
                .binary_search_by_key(&key, |session| session.key)
                .or_else(|_| {
                    let aged = aged.binary_search_by_key(&key, |session| session.key);
                    aged.map(|at| sessions.len() + at)
                });
            SessionId(u32::try_from(place.unwrap_or(usize::MAX)).unwrap_or(u32::MAX))
        };
        let parts = parts.into_iter().map(|(keys, mut flows)| {
            let places: Vec<SessionId> = keys.into_iter().map(place_of).collect();
            flows.renumber(|id| {
                let place = places.get(id.0 as usize);
                place.copied().unwrap_or(SessionId(u32::MAX))
            });
            flows
        });
        let (flows, flows_joined) = Remaining::join(parts);
        for flow in flows.iter() {
            let session = sessions.get_mut(flow.key.session().0 as usize);
            if let Some((session, lost)) = session.zip(flow.lost()) {
                session.loss.add(&lost);
            }
        }
        Self {
            ledger,
            sessions,
            other_ports,
            refused,
            pairs,
            one_in,
            received,
            measured,
            flows_joined,
            flows,
            aged,
            evicted,
        }
    }

    /// The records that are still to be handed out: of flows that had to make room, and of those that
    /// lived to the end, in the order of their first packets.
    pub fn records(&self) -> impl Iterator<Item = FlowRecord> {
        let living = self.flows.by_first_packet().filter_map(|flow| {
            let place = flow.key.session().0 as usize;
            let aged = || self.aged.get(place.checked_sub(self.sessions.len())?);
            let session = self.sessions.get(place).or_else(aged)?;
            let reason = EndReason::Forced;
            Some(FlowRecord::new(&flow, session, reason, Occasion::End))
        });
        self.evicted.iter().cloned().chain(living)
    }
}
