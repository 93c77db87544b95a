//! What is known of truncation in some mirror sessions of a run that goes on. It is asked for by name, behind a glance:
//! to copy it for all sessions would take long.

use hashbrown::HashMap;

use crate::mirror::session::Sessions;
use crate::mirror::session_key::SessionKey;
use crate::mirror::truncation::{self, Truncation};

/// Most sessions that are asked for at a time.
pub const MOST_ASKED: usize = 1000;

/// Most bytes of memory of one worker's answer.
pub const MEMORY_BYTES: usize =
    MOST_ASKED * (size_of::<(SessionKey, Cut)>() + truncation::MEMORY_BYTES);

/// What is known of one session.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Its frames.
    pub packets: u64,
    /// What was cut of them.
    pub truncation: Truncation,
}

impl Cut {
    /// What a worker knows of the `asked` sessions among its own.
    pub fn of_each(sessions: &Sessions, asked: &[SessionKey]) -> Vec<(SessionKey, Self)> {
        let known = asked.iter().filter_map(|key| {
            let session = sessions.of_name(*key)?;
            let cut = Self {
                packets: session.packets,
                truncation: session.truncation.clone(),
            };
            Some((*key, cut))
        });
        known.collect()
    }
}

/// What all workers know of some sessions together.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    cuts: HashMap<SessionKey, Cut, foldhash::fast::RandomState>,
}

impl Evidence {
    /// Adds what one worker knows.
    pub fn add(&mut self, of_worker: Vec<(SessionKey, Cut)>) {
        for (key, cut) in of_worker {
            let sum = self.cuts.entry(key).or_default();
            sum.packets += cut.packets;
            sum.truncation.merge(&cut.truncation);
        }
    }

    /// What is known of a session; `None` where nobody asked for it.
    pub fn of(&self, key: SessionKey) -> Option<&Cut> {
        self.cuts.get(&key)
    }
}
