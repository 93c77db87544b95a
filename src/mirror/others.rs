//! Sessions that found no room in the table: how many, and which of them have earned a place.

use std::hash::{BuildHasher, Hash};

use super::session_key::SessionKey;

/// Packets that earn a place: one made-up datagram does not.
pub const EARNS_A_PLACE: u64 = 16;

/// Newcomers counted at a time.
const NEWCOMERS: usize = 64;

/// Words of the sketch that counts distinct sessions.
const SKETCH_WORDS: usize = 1024;

/// Most bytes of memory that takes.
pub const MEMORY_BYTES: usize =
    SKETCH_WORDS * size_of::<u64>() + NEWCOMERS * size_of::<(SessionKey, u64)>();

/// What the session "other" gathers, in bounded memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Sessions that had a place and made room.
    pub aged: u64,
    /// A bit for each hash of a session that found no room; none before there was one.
    sketch: Vec<u64>,
    /// Packets of newcomers, as Misra and Gries count (see [`super::sizes`]).
    newcomers: Vec<(SessionKey, u64)>,
}

impl Others {
    /// Counts a packet of a session without a place; `true` when the session has earned one.
    pub fn note(&mut self, key: SessionKey) -> bool {
        let bit = hash_of(key) as usize % (SKETCH_WORDS * 64);
        self.sketch.resize(SKETCH_WORDS, 0);
        if let Some(word) = self.sketch.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
        if let Some(at) = self.newcomers.iter().position(|(known, _)| *known == key) {
            let Some((_, packets)) = self.newcomers.get_mut(at) else {
                return false;
            };
            *packets += 1;
            let earned = *packets >= EARNS_A_PLACE;
            if earned {
                self.newcomers.swap_remove(at);
            }
            return earned;
        }
        if self.newcomers.len() < NEWCOMERS {
            self.newcomers.push((key, 1));
        } else {
            self.newcomers
                .iter_mut()
                .for_each(|(_, packets)| *packets -= 1);
            self.newcomers.retain(|(_, packets)| *packets > 0);
        }
        false
    }

    /// Sessions that found no room, those included that got a place later. Linear counting (Whang and others, 1990):
    /// within one in a hundred up to some 10,000, and a lower bound far beyond.
    pub fn found_no_room(&self) -> u64 {
        let ones: u32 = self.sketch.iter().map(|word| word.count_ones()).sum();
        let bits = (SKETCH_WORDS * 64) as f64;
        let zeros = (bits - f64::from(ones)).max(1.0);
        (bits * (bits / zeros).ln()).round() as u64
    }

    /// Adds what another worker gathered.
    pub fn merge(&mut self, other: &Self) {
        self.aged += other.aged;
        if !other.sketch.is_empty() {
            self.sketch.resize(SKETCH_WORDS, 0);
        }
        for (word, others) in self.sketch.iter_mut().zip(&other.sketch) {
            *word |= others;
        }
    }
}

/// The same in every worker, so that sketches add up.
fn hash_of(key: SessionKey) -> u64 {
    struct Folded(SessionKey);
    impl Hash for Folded {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }
    foldhash::quality::FixedState::default().hash_one(Folded(key))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::wire::Vni;

    fn key(vni: u32) -> SessionKey {
        SessionKey::Mirror {
            source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            vni: Vni::new(vni).unwrap(),
        }
    }

    #[test]
    fn distinct_sessions_are_counted_once_by_any_number_of_workers() {
        let mut workers = [Others::default(), Others::default()];
        for vni in 0..6000u32 {
            workers[vni as usize % 2].note(key(vni));
            workers[0].note(key(vni));
        }
        let [mut all, other] = workers;
        all.merge(&other);
        let told = all.found_no_room();
        assert!((5940..=6060).contains(&told), "{told}");
        assert_eq!(Others::default().found_no_room(), 0);
    }

    /// Made-up sessions of one packet each come between: a session that sends more earns its place.
    #[test]
    fn a_session_that_goes_on_earns_a_place() {
        let mut others = Others::default();
        let mut earned = Vec::new();
        for round in 0..100u32 {
            for made_up in 0..20 {
                assert!(!others.note(key(1000 + round * 20 + made_up)));
            }
            if others.note(key(7)) {
                earned.push(round);
            }
            assert!(others.newcomers.len() <= NEWCOMERS);
        }
        assert!(!earned.is_empty());
    }
}
