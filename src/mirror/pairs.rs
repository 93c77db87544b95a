//! Pairs of mirror sessions that saw the same packets: how many, and how far apart in time.
//!
//! The first session of a pair is the one that a packet passed first, the second the one that it passed then.
//! The time between is that of one copy's arrival at this target and of the other's. It is the latency between
//! the two mirror points plus the difference of the ways from there to here and of the clocks that stamped the
//! copies, so it can be below zero; what it tells is relative.

use std::hash::Hash;

use hashbrown::HashMap;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::direction::Direction;
use super::duplicates::{CopyOf, MAX_WINDOW_NS, Sighting};

/// Most pairs that a worker keeps apart; copies in more are counted together.
pub const MAX_PAIRS: usize = 64;

/// Digits of times that are kept, at least.
const DIGITS: u8 = 2;

/// Bytes of a histogram of times: 128 places for each doubling, of eight bytes each, and 256 to begin with.
const HISTOGRAM_BYTES: usize = (2 + MAX_WINDOW_NS.ilog2() as usize - 7) * 128 * size_of::<u64>();

/// Most bytes of memory that the pairs of a worker take.
pub const MEMORY_BYTES: usize = 2 * MAX_PAIRS * (HISTOGRAM_BYTES + size_of::<(u64, Pair)>());

/// How far apart in time copies were.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    /// Packets.
    packets: u64,
    /// Nanoseconds by which the second session's copy arrived later; earlier in the other.
    later: Option<Histogram<u64>>,
    earlier: Option<Histogram<u64>>,
    /// Exact.
    least_ns: i64,
    most_ns: i64,
}

/// Times between copies in a few numbers, in nanoseconds, right to one part in a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TimesApart {
    /// Smallest, exact.
    pub min: i64,
    /// Half of them are no larger.
    pub p50: i64,
    /// 99 in 100 are no larger.
    pub p99: i64,
    /// Largest, exact.
    pub max: i64,
}

impl Pair {
    fn count(&mut self, after_ns: i64) {
        if self.packets == 0 {
            (self.least_ns, self.most_ns) = (after_ns, after_ns);
        }
        self.packets += 1;
        self.least_ns = self.least_ns.min(after_ns);
        self.most_ns = self.most_ns.max(after_ns);
        let side = if after_ns < 0 {
            &mut self.earlier
        } else {
            &mut self.later
        };
        if side.is_none() {
            *side = Histogram::new_with_bounds(1, MAX_WINDOW_NS, DIGITS).ok();
        }
        if let Some(side) = side {
            side.saturating_record(after_ns.unsigned_abs());
        }
    }

    fn merge(&mut self, other: Self) {
        if self.packets == 0 {
            *self = other;
            return;
        }
        self.packets += other.packets;
        self.least_ns = self.least_ns.min(other.least_ns);
        self.most_ns = self.most_ns.max(other.most_ns);
        let sides = [
            (&mut self.later, other.later),
            (&mut self.earlier, other.earlier),
        ];
        for (mine, theirs) in sides {
            match (mine, theirs) {
                (Some(mine), Some(theirs)) => {
                    // Fails only where theirs holds larger values than mine can: the bounds are the same.
                    let _ = mine.add(&theirs);
                }
                (mine @ None, theirs) => *mine = theirs,
                (Some(_), None) => {}
            }
        }
    }

    /// Packets of which both sessions had a copy.
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// How far apart their copies were.
    pub fn times_apart(&self) -> TimesApart {
        let of = |share: (u64, u64)| {
            // The place of the value among all, the earliest first.
            let place = (self.packets * share.0).div_ceil(share.1).max(1);
            let earlier = self.earlier.as_ref().map_or(0, Histogram::len);
            let value = if place <= earlier {
                // The earlier a copy was, the larger its number.
                let place = earlier - place + 1;
                at_place(self.earlier.as_ref(), place).map(|ns| -ns)
            } else {
                at_place(self.later.as_ref(), place - earlier)
            };
            value.unwrap_or_default().clamp(self.least_ns, self.most_ns)
        };
        TimesApart {
            min: self.least_ns,
            p50: of((50, 100)),
            p99: of((99, 100)),
            max: self.most_ns,
        }
    }
}

/// The value at this place, the smallest of all being at 1.
fn at_place(counts: Option<&Histogram<u64>>, place: u64) -> Option<i64> {
    let counts = counts?;
    let mut before = 0;
    let value = counts.iter_recorded().find_map(|step| {
        before += step.count_since_last_iteration();
        (before >= place).then(|| step.value_iterated_to())
    })?;
    i64::try_from(counts.median_equivalent(value)).ok()
}

/// Pairs by what names their sessions.
#[derive(Clone, Debug)]
pub struct Pairs<K> {
    kept: HashMap<(K, K), Pair, foldhash::fast::RandomState>,
    /// Copies in pairs beyond those kept.
    others: u64,
}

impl<K> Default for Pairs<K> {
    fn default() -> Self {
        Self {
            kept: HashMap::default(),
            others: 0,
        }
    }
}

impl<K: Copy + Eq + Hash + Ord> Pairs<K> {
    /// Counts a packet that passed the first session and then the second, whose copy arrived `after_ns`
    /// nanoseconds after that of the first.
    #[inline]
    pub fn count(&mut self, (first, second): (K, K), after_ns: i64) {
        let is_full = self.kept.len() >= MAX_PAIRS;
        match self.kept.get_mut(&(first, second)) {
            Some(pair) => pair.count(after_ns),
            None if is_full => self.others += 1,
            None => self
                .kept
                .entry((first, second))
                .or_default()
                .count(after_ns),
        }
    }

    /// Adds those of another worker.
    pub fn merge(&mut self, other: Self) {
        self.others += other.others;
        for (sessions, pair) in other.kept {
            self.kept.entry(sessions).or_default().merge(pair);
        }
    }

    /// The same with other names for the sessions; those without a name are counted together.
    pub fn named<L: Copy + Eq + Hash + Ord>(self, name: impl Fn(K) -> Option<L>) -> Pairs<L> {
        let mut named = Pairs {
            others: self.others,
            ..Pairs::default()
        };
        for ((first, second), pair) in self.kept {
            match name(first).zip(name(second)) {
                Some(sessions) => named.kept.entry(sessions).or_default().merge(pair),
                None => named.others += pair.packets,
            }
        }
        named
    }

    /// The pairs, those with the most packets first.
    pub fn most(&self) -> Vec<((K, K), &Pair)> {
        let mut pairs: Vec<_> = self.kept.iter().map(|(k, pair)| (*k, pair)).collect();
        pairs.sort_by_key(|(sessions, pair)| (std::cmp::Reverse(pair.packets), *sessions));
        pairs
    }

    /// Copies in pairs that are not kept apart.
    pub const fn others(&self) -> u64 {
        self.others
    }
}

/// The sessions of `copy` and of what it is a copy of, in the order in which the packet passed them, and by how
/// much the second copy arrived later. `here` went this `way` at its mirror source.
///
/// Which came first is told by the mirror source that sent or received the packet, else by the time to live,
/// which routers count down, else by the order of arrival.
pub fn in_order(
    copy: &CopyOf,
    here: &Sighting,
    way: Direction,
) -> ((super::session::SessionId, super::session::SessionId), i64) {
    let there = &copy.first;
    let is_here_first = here.session != there.session
        && match way {
            Direction::Outbound => true,
            Direction::Inbound => false,
            Direction::Unknown => here.ttl > there.ttl,
        };
    if is_here_first {
        ((here.session, there.session), -copy.after_ns)
    } else {
        ((there.session, here.session), copy.after_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mirror::session::SessionId;

    #[test]
    fn pairs_are_bounded_and_add_up() {
        let mut pairs = Pairs::default();
        for second in 0..MAX_PAIRS as u32 + 3 {
            for _ in 0..=second {
                pairs.count((1000, second), 240_000);
            }
        }
        assert_eq!(pairs.most().len(), MAX_PAIRS);
        assert_eq!(pairs.others(), 65 + 66 + 67);
        let mut other = Pairs::default();
        other.count((1000, 63), -9);
        other.count((7000, 7000), 5);
        pairs.merge(other);
        let most = pairs.most();
        let (first, pair) = most[0];
        assert_eq!((first, pair.packets()), ((1000, 63), 65));
        let told = pair.times_apart();
        assert_eq!((told.min, told.max), (-9, 240_000));
        assert!(told.p50.abs_diff(240_000) <= 2400);
        let others = pairs.others();
        let named = pairs.named(|number| (number != 7000).then_some(number / 1000));
        assert_eq!(named.others(), others + 1);
        assert_eq!(named.most()[0].0, (1, 0));
        assert_eq!(named.most()[0].1.packets(), (1..=64).sum::<u64>() + 1);
    }

    #[test]
    fn a_histogram_takes_what_is_said() {
        let counts: Histogram<u64> = Histogram::new_with_bounds(1, MAX_WINDOW_NS, DIGITS).unwrap();
        assert!(counts.distinct_values() * 8 <= HISTOGRAM_BYTES);
    }

    #[test]
    fn the_order_on_the_way() {
        let sighting = |session, ttl| Sighting {
            session: SessionId(session),
            ts_ns: 0,
            ttl,
            vlan: None,
        };
        let order = |there: (u32, u8), here: (u32, u8), way| {
            let copy = CopyOf {
                first: sighting(there.0, there.1),
                after_ns: 30,
                is_second: true,
            };
            let ((SessionId(first), SessionId(second)), after_ns) =
                in_order(&copy, &sighting(here.0, here.1), way);
            (first, second, after_ns)
        };
        let unknown = Direction::Unknown;
        assert_eq!(order((1, 64), (2, 64), unknown), (1, 2, 30));
        assert_eq!(order((1, 64), (2, 63), unknown), (1, 2, 30));
        assert_eq!(order((1, 63), (2, 64), unknown), (2, 1, -30));
        assert_eq!(order((1, 64), (2, 64), Direction::Outbound), (2, 1, -30));
        assert_eq!(order((1, 63), (2, 64), Direction::Inbound), (1, 2, 30));
        assert_eq!(order((1, 63), (1, 64), unknown), (1, 1, 30), "one source");
    }

    proptest! {
        /// One part in a hundred beside the values of a sorted list.
        #[test]
        fn times_apart_are_those_of_a_sorted_list(
            mut values in proptest::collection::vec(
                prop_oneof![-5_000_000i64..5_000_000, -300i64..300, Just(0)], 1..200,
            ),
            split in 0usize..200,
        ) {
            let split = split.min(values.len());
            let mut parts = [Pairs::default(), Pairs::default()];
            for (at, value) in values.iter().enumerate() {
                parts[usize::from(at < split)].count(("a", "b"), *value);
            }
            let [mut all, more] = parts;
            all.merge(more);
            let told = all.most()[0].1.times_apart();
            values.sort_unstable();
            let at = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
            for (told, value) in [(told.p50, at(50)), (told.p99, at(99))] {
                prop_assert!(told.abs_diff(value) <= value.unsigned_abs() / 100 + 1, "{told} {value}");
            }
            prop_assert_eq!((told.min, told.max), (values[0], values[values.len() - 1]));
        }
    }
}
