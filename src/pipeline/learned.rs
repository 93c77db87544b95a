//! What workers learned of mirror sources' hardware addresses, on its way to the sinks that tell directions by it.
//!
//! A fact stands in the log before the packet that showed it, and whatever follows it, leaves its worker. So a sink that
//! is handed something, and knows that nothing earlier will come, finds all earlier facts there. Facts are few: at most
//! [`own_macs::MOST_OWN`] and [`own_macs::MOST_OTHERS`] of a session and worker. A packet that shows nothing new does
//! not come here, and whoever reads looks at one number to see that nothing is new.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;

use crate::mirror::direction::Direction;
use crate::mirror::own_macs::{self, Claims, Fact};
use crate::mirror::session::{MAX_AGED, MAX_SESSIONS, SessionId};
use crate::mirror::session_key::SessionKey;
use crate::pcap::record::{Batch, NewSession, settle_direction};
use crate::wire::inner::Mac;

/// Facts of a session, at most.
const FACTS: usize = own_macs::MOST_OWN + own_macs::MOST_OTHERS;

/// Most bytes that the log of so many workers and the claims of so many readers take.
pub const fn memory_bytes(workers: u64, readers: u64) -> u64 {
    let sessions = (MAX_SESSIONS + MAX_AGED) as u64;
    let log = workers * sessions * (FACTS * size_of::<(SessionKey, Fact)>()) as u64;
    let claims = size_of::<(SessionKey, Claims)>() + FACTS * size_of::<(u64, Mac)>();
    log + readers * sessions * claims as u64
}

/// What workers learned, in the order in which they told it. Clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    facts: Mutex<Vec<(SessionKey, Fact)>>,
    /// How many they are.
    len: AtomicUsize,
}

impl Log {
    /// Notes a fact of a session.
    #[cold]
    pub fn tell(&self, session: SessionKey, fact: Fact) {
        let mut facts = self.0.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.push((session, fact));
        self.0.len.store(facts.len(), Ordering::Release);
    }
}

/// The claims of all sessions, as far as the log was read.
#[derive(Debug, Default)]
pub struct Directions {
    log: Log,
    read: usize,
    sessions: HashMap<SessionKey, Claims, foldhash::fast::RandomState>,
    /// For each worker, the keys of its sessions by its own numbers.
    keys: Vec<Vec<SessionKey>>,
}

impl Directions {
    /// By what will stand in `log`.
    pub fn new(log: Log) -> Self {
        Self {
            log,
            ..Self::default()
        }
    }

    /// Reads what is new; whether any direction can be told.
    fn look(&mut self) -> bool {
        if self.log.0.len.load(Ordering::Acquire) > self.read {
            self.read_log();
        }
        !self.sessions.is_empty()
    }

    #[cold]
    fn read_log(&mut self) {
        let shared = &self.log.0;
        let facts = shared.facts.lock().unwrap_or_else(PoisonError::into_inner);
        for (session, fact) in facts.iter().skip(self.read) {
            self.sessions.entry(*session).or_default().note(fact);
        }
        self.read = facts.len();
    }

    /// The direction of a frame from `src` to `dst` in `session`, at `place`.
    pub fn of(&mut self, session: SessionKey, dst: Mac, src: Mac, place: u64) -> Direction {
        if !self.look() {
            return Direction::Unknown;
        }
        let claims = self.sessions.get(&session);
        claims.map_or(Direction::Unknown, |claims| {
            claims.direction(dst, src, place)
        })
    }

    /// Takes over sessions that a batch of `worker` tells of.
    pub fn introduce(&mut self, worker: usize, new_sessions: &[NewSession]) {
        if new_sessions.is_empty() {
            return;
        }
        if self.keys.len() <= worker {
            self.keys.resize_with(worker + 1, Vec::new);
        }
        let Some(keys) = self.keys.get_mut(worker) else {
            return;
        };
        for new in new_sessions {
            let at = new.id.0 as usize;
            keys.resize(keys.len().max(at + 1), SessionKey::Other);
            if let Some(key) = keys.get_mut(at) {
                *key = new.key;
            }
        }
    }

    /// Puts directions into records of `worker`, pcapng, that lack them: those in `records`, which are places in the batch.
    pub fn settle(&mut self, worker: usize, batch: &mut Batch, records: std::ops::Range<usize>) {
        if !self.look() {
            return;
        }
        let Self { sessions, keys, .. } = self;
        let keys = keys.get(worker).map_or(&[][..], Vec::as_slice);
        // Neighbours are often of one session.
        let mut lately: Option<(SessionId, Option<&Claims>)> = None;
        let Batch {
            records: all,
            bytes,
            ..
        } = batch;
        for record in all.get(records).unwrap_or_default() {
            let claims = match lately {
                Some((session, claims)) if session == record.session => claims,
                _ => {
                    let key = keys.get(record.session.0 as usize);
                    let claims = key.and_then(|key| sessions.get(key));
                    claims.filter(|claims| !claims.is_empty())
                }
            };
            lately = Some((record.session, claims));
            if let Some(claims) = claims {
                settle_direction(bytes, record, |dst, src| {
                    claims.direction(dst, src, record.place)
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::own_macs::Whose;
    use crate::wire::Vni;

    const OURS: Mac = [2, 0, 0, 0, 0, 0x0a];
    const GATEWAY: Mac = [2, 0, 0, 0, 0, 0xfe];

    fn session(vni: u32) -> SessionKey {
        SessionKey::Mirror {
            source: [10, 0, 0, 1].into(),
            vni: Vni::new(vni).unwrap(),
        }
    }

    /// What is told to one clone of the log is known to every reader, in its session, for what comes behind it.
    #[test]
    fn readers_hear_of_every_fact() {
        let log = Log::default();
        let [mut early, mut late] = [(); 2].map(|()| Directions::new(log.clone()));
        assert_eq!(early.of(session(1), GATEWAY, OURS, 9), Direction::Unknown);
        let (mac, whose) = (OURS, Whose::Own);
        log.clone().tell(
            session(1),
            Fact {
                mac,
                whose,
                place: 5,
            },
        );
        for reader in [&mut early, &mut late] {
            assert_eq!(reader.of(session(1), GATEWAY, OURS, 6), Direction::Outbound);
            assert_eq!(reader.of(session(1), OURS, GATEWAY, 6), Direction::Inbound);
            assert_eq!(reader.of(session(1), GATEWAY, OURS, 5), Direction::Unknown);
            assert_eq!(reader.of(session(2), GATEWAY, OURS, 6), Direction::Unknown);
        }
        log.tell(
            session(1),
            Fact {
                mac,
                whose: Whose::Other,
                place: 7,
            },
        );
        assert_eq!(early.of(session(1), GATEWAY, OURS, 7), Direction::Outbound);
        assert_eq!(early.of(session(1), GATEWAY, OURS, 8), Direction::Unknown);
    }
}
