//! What a worker has counted: at the end, and while it goes on.

use super::{OtherPort, Outlet, Worker};
use crate::flow::record::FlowRecord;
use crate::flow::remaining::Remaining;
use crate::mirror::duplicates::Duplicates;
use crate::mirror::pairs::Pairs;
use crate::mirror::refused::Refused;
use crate::mirror::session::{Session, SessionId, Sessions};
use crate::mirror::session_key::SessionKey;
use crate::pcap::record::Batch;
use crate::pipeline::ledger::{Dropped, Ledger, Noted};
use crate::pipeline::measure::Distribution;
use crate::pipeline::watched::Watched;

/// What one worker counted.
pub struct Part {
    /// The accounting.
    pub ledger: Ledger,
    /// Mirror sessions.
    pub sessions: Sessions,
    /// Flows that live.
    pub flows: Remaining,
    /// Records of flows that had to make room for the last packets.
    pub evicted: Vec<FlowRecord>,
    /// UDP traffic that went to other ports.
    pub other_ports: Vec<OtherPort>,
    /// Who sent without being allowed to.
    pub refused: Refused,
    /// Sessions that saw the same packets.
    pub pairs: Pairs<SessionKey>,
    /// One TCP connection in so many was looked at for what the mirror lost.
    pub one_in: u32,
    /// Bytes of the frames delivered.
    pub frames: Distribution,
}

/// What a worker that goes on has counted so far.
pub struct Snapshot {
    /// The accounting; fragments that wait for others are received and not yet anything else.
    pub ledger: Ledger,
    /// Mirror sessions, in the order they were first seen.
    pub sessions: Vec<Session>,
    /// UDP traffic that went to other ports.
    pub other_ports: Vec<OtherPort>,
    /// Who sent without being allowed to.
    pub refused: Refused,
    /// Sessions that saw the same packets.
    pub pairs: Pairs<SessionKey>,
    /// One TCP connection in so many was looked at for what the mirror lost.
    pub one_in: u32,
    /// Bytes of the frames delivered.
    pub frames: Distribution,
}

/// Where flow records go when there is no outlet any more.
struct Evicted(Vec<FlowRecord>);

impl Outlet for Evicted {
    fn room(&mut self, _len: usize) -> Option<&mut Batch> {
        None
    }

    fn current(&mut self) -> Option<&mut Batch> {
        None
    }

    fn no_room(&mut self, _session: SessionId) {}

    fn flow(&mut self, record: FlowRecord) {
        self.0.push(record);
    }
}

impl Worker {
    /// Ends the input: gives up what waits for more and hands out what was counted.
    pub fn end(mut self) -> Part {
        // Nothing is left after `end_input`, and without it nobody takes frames any more.
        while self.reassembly.give_up_oldest() {}
        while let Some(given_up) = self.reassembly.next_given_up() {
            self.ledger
                .drop(Dropped::FragmentIncomplete, given_up.pieces);
        }
        let mut evicted = Evicted(Vec::new());
        self.settle(&mut evicted);
        let ledger = self.ledger_of_now();
        let pairs = std::mem::take(&mut self.pairs);
        let pairs = pairs.named(|id| key_of(&self.sessions, id));
        let flows = self.flows.end();
        Part {
            one_in: one_in(self.watched.as_ref()),
            ledger,
            flows,
            evicted: evicted.0,
            pairs,
            sessions: self.sessions,
            other_ports: self.other_ports,
            refused: self.refused,
            frames: self.frames,
        }
    }

    /// What was counted so far. The worker goes on.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            one_in: one_in(self.watched.as_ref()),
            ledger: self.ledger_of_now(),
            pairs: self.pairs.clone().named(|id| key_of(&self.sessions, id)),
            sessions: self.sessions.list().to_vec(),
            other_ports: self.other_ports.clone(),
            refused: self.refused.clone(),
            frames: self.frames.clone(),
        }
    }

    /// The accounting so far, with what is noted elsewhere.
    pub fn ledger_of_now(&self) -> Ledger {
        let mut ledger = self.ledger.clone();
        let made_room = self.duplicates.as_ref().map_or(0, Duplicates::made_room);
        ledger.note_many(Noted::DuplicateWindow, made_room);
        ledger
    }

    /// The accounting so far.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Bytes of the frames delivered.
    pub const fn frames(&self) -> &Distribution {
        &self.frames
    }

    /// Flows that live, where somebody takes their records.
    pub fn live_flows(&self) -> usize {
        if self.settings.flows {
            self.flows.len()
        } else {
            0
        }
    }

    /// The mirror sessions seen so far.
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

fn key_of(sessions: &Sessions, id: SessionId) -> Option<SessionKey> {
    sessions.session(id).map(|session| session.key)
}

/// One TCP connection in so many is looked at for what the mirror lost.
fn one_in(watched: Option<&Watched>) -> u32 {
    watched.map_or(1, Watched::one_in)
}
