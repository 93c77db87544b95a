//! Bytes that were passed by later ones and have not been seen: of one connection, and the pool that keeps
//! them for those few of a table's connections that have some at a time.
//!
//! A hole opens when a segment begins beyond what was expected. It closes when its bytes come late, or when
//! nobody needs to know any more: the other side acknowledged them a while ago. Then they are a gap, if they
//! never come. Four holes of a connection are known exactly. When a fifth opens, two neighbours become one with
//! known bytes missing somewhere in it; so the sum stays right however many packets a mirror loses.

use crate::flow::growth;
use crate::flow::key::Way;

/// Holes of a connection that are told apart.
const MOST: usize = 4;
/// Connections that may have holes at a time, at least, and one for so many flows beyond that.
const LEAST_PLACES: u32 = 1024;
const FLOWS_FOR_A_PLACE: u32 = 32;
/// Bits of the number of a place in the pool; 0 is none.
pub(super) const PLACE_BITS: u32 = 18;
/// Time is kept in units of 2 to the power of this many nanoseconds.
const TICK: u32 = 10;
/// How long an acknowledged hole is kept in case its bytes come late, in ticks: 100 ms.
const KEPT: u32 = 100_000_000 >> TICK;
/// How long holes are kept of a connection whose other side is not seen, so that nothing is acknowledged: 1 s.
const KEPT_ALONE: u32 = 10 * KEPT;
/// How long any hole is kept: a minute, the longest time a sender waits before it sends again (RFC 6298 §2.4).
const KEPT_AT_MOST: u32 = 600 * KEPT;

/// A time, in ticks.
#[inline]
pub(super) const fn ticks(ts_ns: u64) -> u32 {
    (ts_ns >> TICK) as u32
}

/// One hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hole {
    /// Sequence number of its first byte.
    start: u32,
    /// Bytes from there to its end.
    span: u32,
    /// Bytes of these that have not been seen.
    missing: u32,
    /// Whose bytes.
    way: Way,
    /// The other side has them.
    acknowledged: bool,
}

impl Hole {
    const NONE: Self = Self {
        start: 0,
        span: 0,
        missing: 0,
        way: Way::AToB,
        acknowledged: false,
    };

    const fn end(&self) -> u32 {
        self.start.wrapping_add(self.span)
    }

    /// Where `len` bytes from `start` on lie in it, if they do: from its first byte.
    fn overlap(&self, way: Way, start: u32, len: u32) -> Option<(u32, u32)> {
        let from = start.wrapping_sub(self.start) as i32;
        let to = start.wrapping_add(len).wrapping_sub(self.start) as i32;
        let (from, to) = (from.max(0) as u32, self.span.min(to.max(0) as u32));
        (self.way == way && from < to).then_some((from, to))
    }

    /// Whether nothing of it was seen.
    const fn is_exact(&self) -> bool {
        self.span == self.missing
    }
}

/// What late bytes were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filled {
    /// Bytes that had been missing.
    pub(super) bytes: u32,
    /// Of these, bytes that were counted as a gap.
    pub(super) of_gap: u32,
    /// The other side asked for them, twice or more.
    pub(super) asked_for: bool,
}

/// The holes of a connection, in the order in which they opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holes {
    holes: [Hole; MOST],
    len: u8,
    /// ACKs that stay at the first hole of each direction.
    duplicate_acks: [u8; 2],
    /// When each direction last went beyond all it had sent.
    advanced: [u32; 2],
    /// When a hole was last opened or acknowledged.
    touched: u32,
}

impl Holes {
    pub(super) const NONE: Self = Self {
        holes: [Hole::NONE; MOST],
        len: 0,
        duplicate_acks: [0; 2],
        advanced: [0; 2],
        touched: 0,
    };

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, at: usize) -> Option<Hole> {
        let hole = self.holes.get(at).copied();
        hole.filter(|_| at < usize::from(self.len))
    }

    fn iter(&self) -> impl Iterator<Item = &Hole> {
        self.holes.iter().take(self.len.into())
    }

    /// Opens one of `span` bytes.
    pub(super) fn open(&mut self, way: Way, start: u32, span: u32, now: u32) {
        self.touched = now;
        self.make_room(way);
        self.insert(
            self.len.into(),
            Hole {
                start,
                span,
                missing: span,
                way,
                acknowledged: false,
            },
        );
    }

    /// Opens one of bytes that the other side has: they are a gap, until they come late.
    pub(super) fn open_acknowledged(&mut self, way: Way, start: u32, span: u32, now: u32) {
        self.touched = now;
        // One behind the other is one.
        let last = self.holes.iter_mut().take(self.len.into());
        let mut last = last.filter(|hole| hole.way == way);
        if let Some(hole) = last.next_back()
            && hole.acknowledged
            && hole.end() == start
        {
            hole.span = hole.span.saturating_add(span);
            hole.missing = hole.missing.saturating_add(span);
            return;
        }
        self.open(way, start, span, now);
        let opened = usize::from(self.len).saturating_sub(1);
        if let Some(hole) = self.holes.get_mut(opened) {
            hole.acknowledged = true;
        }
    }

    /// A direction went beyond all it had sent.
    pub(super) const fn advance(&mut self, way: Way, now: u32) {
        let [a, b] = &mut self.advanced;
        match way {
            Way::AToB => *a = now,
            Way::BToA => *b = now,
        }
    }

    /// Nanoseconds since that.
    pub(super) const fn since_advance_ns(&self, way: Way, now: u32) -> u64 {
        let [a, b] = self.advanced;
        let ticks = now.wrapping_sub(match way {
            Way::AToB => a,
            Way::BToA => b,
        });
        (ticks as u64) << TICK
    }

    /// Takes `len` bytes from `start` on, which are below what was expected.
    pub(super) fn fill(&mut self, way: Way, start: u32, len: u32) -> Filled {
        let mut filled = Filled::default();
        let first = self
            .iter()
            .find(|hole| hole.way == way && !hole.acknowledged);
        filled.asked_for = first.is_some_and(|hole| hole.start == start) && self.asked(way) >= 2;
        let mut at = 0;
        while let Some(hole) = self.at(at) {
            if let Some((from, to)) = hole.overlap(way, start, len) {
                let bytes = (to - from).min(hole.missing);
                filled.bytes += bytes;
                if hole.acknowledged {
                    filled.of_gap += bytes;
                }
                let before = self.len;
                self.take(at, from, to, bytes);
                if self.len < before {
                    continue;
                }
            }
            at += 1;
        }
        if filled.bytes > 0 {
            self.forget_duplicate_acks(way);
        }
        filled
    }

    /// Removes the bytes `from` to `to` of the hole at `at`, of which `bytes` were missing.
    fn take(&mut self, at: usize, from: u32, to: u32, bytes: u32) {
        let Some(hole) = self.holes.get_mut(at) else {
            return;
        };
        let before = *hole;
        hole.missing -= bytes;
        if hole.missing == 0 {
            return self.remove(at);
        }
        if !before.is_exact() {
            return;
        }
        match (from, to == before.span) {
            (0, _) => {
                hole.start = hole.start.wrapping_add(to);
                hole.span -= to;
            }
            (_, true) => hole.span = from,
            (_, false) if usize::from(self.len) < MOST => {
                (hole.span, hole.missing) = (from, from);
                let behind = Hole {
                    start: before.start.wrapping_add(to),
                    span: before.span - to,
                    missing: before.span - to,
                    ..before
                };
                self.insert(at + 1, behind);
            }
            // Without room for two it stays one, with some of its bytes missing.
            (_, false) => {}
        }
    }

    /// Takes an ACK of the bytes that go `way` up to `ack`: returns how many of them are a gap now.
    /// `is_pure` tells whether it came alone.
    pub(super) fn acknowledge(&mut self, way: Way, ack: u32, is_pure: bool, now: u32) -> u32 {
        let mut gap: u32 = 0;
        let mut at = 0;
        while let Some(hole) = self.at(at) {
            let beyond = ack.wrapping_sub(hole.start) as i32;
            if hole.way == way && !hole.acknowledged && beyond == 0 && is_pure {
                let [a, b] = &mut self.duplicate_acks;
                let acks = if way == Way::AToB { a } else { b };
                *acks = acks.saturating_add(1);
            }
            if hole.way == way && !hole.acknowledged && beyond > 0 {
                let beyond = beyond as u32;
                if beyond >= hole.span {
                    gap = gap.saturating_add(hole.missing);
                    self.set_acknowledged(at, now);
                } else if hole.is_exact() && usize::from(self.len) < MOST {
                    gap = gap.saturating_add(beyond);
                    let behind = Hole {
                        start: ack,
                        span: hole.span - beyond,
                        missing: hole.span - beyond,
                        ..hole
                    };
                    if let Some(hole) = self.holes.get_mut(at) {
                        (hole.span, hole.missing) = (beyond, beyond);
                    }
                    self.insert(at + 1, behind);
                    self.set_acknowledged(at, now);
                    // The ACK is the first one for what is behind.
                    at += 1;
                }
            }
            at += 1;
        }
        gap
    }

    fn set_acknowledged(&mut self, at: usize, now: u32) {
        self.touched = now;
        if let Some(hole) = self.holes.get_mut(at) {
            hole.acknowledged = true;
            let way = hole.way;
            self.forget_duplicate_acks(way);
        }
    }

    /// Forgets holes that nothing is to be expected of any more. `alone` tells whether only one side is seen.
    pub(super) fn expire(&mut self, now: u32, alone: bool) {
        let age = now.wrapping_sub(self.touched);
        // Time may go back a little.
        if age <= KEPT || age > u32::MAX / 2 {
            return;
        }
        if age > KEPT_AT_MOST || (alone && age > KEPT_ALONE) {
            *self = Self::NONE;
        }
        let mut at = 0;
        while let Some(hole) = self.at(at) {
            if hole.acknowledged {
                self.remove(at);
            } else {
                at += 1;
            }
        }
    }

    const fn asked(&self, way: Way) -> u8 {
        let [a, b] = self.duplicate_acks;
        match way {
            Way::AToB => a,
            Way::BToA => b,
        }
    }

    const fn forget_duplicate_acks(&mut self, way: Way) {
        let [a, b] = &mut self.duplicate_acks;
        match way {
            Way::AToB => *a = 0,
            Way::BToA => *b = 0,
        }
    }

    /// Makes room for a hole of a direction: what is acknowledged goes first; then two neighbours become one.
    fn make_room(&mut self, way: Way) {
        if usize::from(self.len) < MOST {
            return;
        }
        let acknowledged = self.iter().position(|hole| hole.acknowledged);
        if let Some(at) = acknowledged {
            return self.remove(at);
        }
        // Of more than two holes two go the same way.
        let pair = |way: Way| {
            let mut of_way = (0..MOST).filter(|at| {
                let hole = self.holes.get(*at);
                hole.is_some_and(|hole| hole.way == way)
            });
            Some((of_way.next()?, of_way.next()?))
        };
        if let Some((first, second)) = pair(way).or_else(|| pair(way.reverse()))
            && let (Some(a), Some(b)) = (self.holes.get(first), self.holes.get(second))
        {
            let one = Hole {
                span: b.end().wrapping_sub(a.start),
                missing: a.missing.saturating_add(b.missing),
                ..*a
            };
            if let Some(hole) = self.holes.get_mut(first) {
                *hole = one;
            }
            self.remove(second);
        }
    }

    fn insert(&mut self, at: usize, hole: Hole) {
        if let Some(behind) = self.holes.get_mut(at..)
            && usize::from(self.len) < MOST
        {
            behind.rotate_right(1);
            if let Some(first) = behind.first_mut() {
                *first = hole;
                self.len += 1;
            }
        }
    }

    fn remove(&mut self, at: usize) {
        if let Some(from_here) = self.holes.get_mut(at..) {
            from_here.rotate_left(1);
            self.len = self.len.saturating_sub(1);
        }
    }
}

/// The holes of a table's connections. Bounded: where more connections have holes than there are places, the
/// one that has had its place longest loses it, and with it what is known of its holes: bytes of them that
/// are acknowledged later are not counted as a gap.
#[derive(Debug)]
pub struct Pool {
    places: Vec<Place>,
    free: Vec<u32>,
    most: u32,
    /// Who loses its place next.
    hand: u32,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The connection, by its place in the table.
    owner: u32,
    holes: Holes,
}

/// Nobody's.
const FREE: u32 = u32::MAX;

/// Bytes that the pool of a table of `max_flows` flows may take.
pub const fn memory_bytes(max_flows: u32) -> u64 {
    most_places(max_flows) as u64 * (size_of::<Place>() + size_of::<u32>()) as u64
}

const fn most_places(max_flows: u32) -> u32 {
    let by_flows = max_flows / FLOWS_FOR_A_PLACE;
    let places = if by_flows < LEAST_PLACES {
        LEAST_PLACES
    } else {
        by_flows
    };
    let places = if places < max_flows {
        places
    } else {
        max_flows
    };
    let most = (1 << PLACE_BITS) - 1;
    if places < most { places } else { most }
}

impl Pool {
    /// For a table of `max_flows` flows. Takes memory when it is needed.
    pub const fn new(max_flows: u32) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            most: most_places(max_flows),
            hand: 0,
        }
    }

    /// What the place `number` holds, if it is `owner`'s.
    pub(super) fn of(&self, number: u32, owner: u32) -> Holes {
        match self.places.get(number.wrapping_sub(1) as usize) {
            Some(place) if place.owner == owner => place.holes,
            _ => Holes::NONE,
        }
    }

    /// Keeps the holes of `owner`, whose place is `number` or who has none; returns its place.
    pub(super) fn keep(&mut self, number: u32, owner: u32, holes: &Holes) -> u32 {
        let at = number.wrapping_sub(1);
        let own = self.places.get_mut(at as usize);
        let own = own.filter(|place| place.owner == owner);
        match (own, holes.is_empty()) {
            (None, true) => 0,
            (Some(place), true) => {
                place.owner = FREE;
                self.free.push(at);
                0
            }
            (Some(place), false) => {
                place.holes = *holes;
                number
            }
            (None, false) => self.place(owner, holes),
        }
    }

    /// Gives the place `number` free, if it is `owner`'s.
    pub fn release(&mut self, number: u32, owner: u32) {
        self.keep(number, owner, &Holes::NONE);
    }

    #[cold]
    fn place(&mut self, owner: u32, holes: &Holes) -> u32 {
        let taken = Place {
            owner,
            holes: *holes,
        };
        if let Some(at) = self.free.pop() {
            if let Some(place) = self.places.get_mut(at as usize) {
                *place = taken;
            }
            return at + 1;
        }
        if self.places.len() < self.most as usize {
            growth::push(&mut self.places, taken, self.most as usize);
            return u32::try_from(self.places.len()).unwrap_or_default();
        }
        let at = self.hand;
        self.hand = (at + 1) % self.most;
        if let Some(place) = self.places.get_mut(at as usize) {
            *place = taken;
        }
        at + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Way::{AToB, BToA};

    fn described(holes: &Holes) -> Vec<(u32, u32, u32, Way, bool)> {
        let each = |hole: &Hole| {
            (
                hole.start,
                hole.span,
                hole.missing,
                hole.way,
                hole.acknowledged,
            )
        };
        holes.iter().map(each).collect()
    }

    #[test]
    fn a_hole_is_filled_from_any_side() {
        let mut holes = Holes::NONE;
        holes.open(AToB, u32::MAX - 9, 40, 0);
        let bytes = |holes: &mut Holes, start: u32, len| holes.fill(AToB, start, len).bytes;
        assert_eq!(bytes(&mut holes, u32::MAX - 29, 30), 10, "its beginning");
        assert_eq!(bytes(&mut holes, 20, 100), 10, "its end");
        assert_eq!(bytes(&mut holes, 5, 5), 5, "its middle");
        let left = [(0, 5, 5, AToB, false), (10, 10, 10, AToB, false)];
        assert_eq!(described(&holes), left);
        assert_eq!(bytes(&mut holes, 5, 5), 0, "again");
        assert_eq!(holes.fill(BToA, 0, 100).bytes, 0, "the other way");
        assert_eq!(bytes(&mut holes, u32::MAX, 100), 15);
        assert!(holes.is_empty());
    }

    #[test]
    fn what_is_acknowledged_is_a_gap_until_it_comes() {
        let mut holes = Holes::NONE;
        holes.open(AToB, 100, 50, 0);
        assert_eq!(holes.acknowledge(AToB, 100, true, 1), 0);
        assert_eq!(holes.acknowledge(BToA, 150, true, 1), 0);
        assert_eq!(holes.acknowledge(AToB, 120, true, 1), 20);
        assert_eq!(holes.acknowledge(AToB, 150, true, 1), 30);
        assert_eq!(holes.acknowledge(AToB, 500, true, 1), 0, "counted once");
        let filled = holes.fill(AToB, 90, 20);
        assert_eq!((filled.bytes, filled.of_gap), (10, 10));
    }

    #[test]
    fn holes_are_not_kept_for_ever() {
        let mut holes = Holes::NONE;
        holes.open(AToB, 100, 50, 7);
        holes.open(AToB, 200, 50, 7);
        holes.acknowledge(AToB, 150, true, 9);
        let left = |after: u32, alone| {
            let mut holes = holes;
            holes.expire(9u32.wrapping_add(after), alone);
            holes.iter().count()
        };
        assert_eq!((left(KEPT, true), left(KEPT + 1, true)), (2, 1));
        assert_eq!((left(KEPT_ALONE, true), left(KEPT_ALONE + 1, true)), (1, 0));
        assert_eq!(left(KEPT_ALONE + 1, false), 1);
        assert_eq!(left(KEPT_AT_MOST + 1, false), 0);
        assert_eq!(left(0u32.wrapping_sub(5), true), 2, "time goes back");
    }

    #[test]
    fn acknowledged_bytes_in_a_row_are_one_hole() {
        let mut holes = Holes::NONE;
        for at in 0..10 {
            holes.open_acknowledged(BToA, at * 7, 7, at);
        }
        assert_eq!(described(&holes), [(0, 70, 70, BToA, true)]);
    }

    /// The receiver's two ACKs for the first hole ask for it.
    #[test]
    fn duplicate_acks_ask_for_the_first_hole() {
        let mut holes = Holes::NONE;
        holes.open(AToB, 100, 50, 0);
        holes.open(AToB, 200, 50, 0);
        for (acks, expected) in [(1, false), (2, true)] {
            let mut holes = holes;
            for _ in 0..acks {
                holes.acknowledge(AToB, 100, true, 0);
                holes.acknowledge(AToB, 100, false, 0);
            }
            assert!(!{ holes }.fill(AToB, 200, 50).asked_for);
            assert_eq!(holes.fill(AToB, 100, 50).asked_for, expected);
            assert!(!holes.fill(AToB, 200, 50).asked_for, "asked for the other");
        }
    }

    /// The fifth hole is known too, at the price of two that become one.
    #[test]
    fn more_holes_than_there_is_room_for() {
        let mut holes = Holes::NONE;
        for at in 0..6 {
            holes.open(AToB, 100 * at, 10, 0);
        }
        holes.open(BToA, 5, 5, 0);
        let first = (0, 310, 40, AToB, false);
        let rest = [
            (400, 10, 10, AToB, false),
            (500, 10, 10, AToB, false),
            (5, 5, 5, BToA, false),
        ];
        assert_eq!(described(&holes)[0], first);
        assert_eq!(described(&holes)[1..], rest);
        assert_eq!(holes.acknowledge(AToB, 309, true, 0), 0, "not all of it");
        assert_eq!(holes.fill(AToB, 100, 10).bytes, 10);
        assert_eq!(holes.acknowledge(AToB, 310, true, 0), 30);
        holes.open(BToA, 50, 5, 0);
        assert_eq!(described(&holes)[0].0, 400, "acknowledged ones make room");
    }

    #[test]
    fn places_are_given_again() {
        let mut pool = Pool::new(2);
        let hole = |start| {
            let mut holes = Holes::NONE;
            holes.open(AToB, start, 1, 0);
            holes
        };
        let start_of = |pool: &Pool, number, owner| {
            let holes = pool.of(number, owner);
            holes.iter().next().map(|hole| hole.start)
        };
        assert_eq!(pool.keep(0, 7, &Holes::NONE), 0);
        let seven = pool.keep(0, 7, &hole(70));
        let eight = pool.keep(0, 8, &hole(80));
        assert_eq!(pool.keep(seven, 7, &hole(71)), seven);
        assert_eq!(start_of(&pool, seven, 7), Some(71));
        assert_eq!(start_of(&pool, seven, 8), None);
        // Full: seven has had its place longest.
        let nine = pool.keep(0, 9, &hole(90));
        assert_eq!((nine, start_of(&pool, seven, 7)), (seven, None));
        pool.release(seven, 7);
        assert_eq!(
            start_of(&pool, nine, 9),
            Some(90),
            "it was not its own any more"
        );
        pool.release(eight, 8);
        assert_eq!(start_of(&pool, eight, 8), None);
        assert_eq!(pool.keep(seven, 7, &hole(72)), eight);
        assert_eq!(start_of(&pool, 0, 7), None);
    }

    #[test]
    fn memory_is_bounded() {
        assert_eq!(most_places(10), 10);
        assert_eq!(most_places(5000), 1024);
        assert_eq!(most_places(1 << 20), 1 << 15);
        assert_eq!(most_places(u32::MAX), (1 << PLACE_BITS) - 1);
        let each = memory_bytes(1 << 20) as f64 / f64::from(1 << 20);
        assert!(each < 3.0, "{each} bytes a flow");
    }

    proptest! {
        /// Against a list of every byte: what is missing and what is filled, as long as no holes are joined.
        #[test]
        fn bytes_one_by_one_tell_the_same(
            base in any::<u32>(),
            opened in proptest::collection::vec((1u32..20, 1u32..20), 1..=2),
            steps in proptest::collection::vec((any::<bool>(), 0u32..90, 0u32..40), 0..12),
        ) {
            let mut holes = Holes::NONE;
            // By byte: missing, and whether that was counted.
            let mut bytes: Vec<Option<bool>> = Vec::new();
            for (seen, missing) in opened {
                bytes.extend((0..seen).map(|_| None));
                holes.open(AToB, base.wrapping_add(bytes.len() as u32), missing, 0);
                bytes.extend((0..missing).map(|_| Some(false)));
            }
            for (is_ack, start, len) in steps {
                let at = start as usize;
                if is_ack {
                    let gap = holes.acknowledge(AToB, base.wrapping_add(start), true, 0);
                    let below = bytes.iter_mut().take(at);
                    let counted = below.filter_map(|byte| byte.as_mut().filter(|counted| !**counted));
                    let expected = counted.map(|counted| *counted = true).count();
                    // A hole that could not be cut is acknowledged when all of it is.
                    if holes.iter().all(|hole| hole.is_exact()) && usize::from(holes.len) < MOST {
                        prop_assert_eq!(gap as usize, expected);
                    } else {
                        return Ok(());
                    }
                } else {
                    let filled = holes.fill(AToB, base.wrapping_add(start), len);
                    let range = bytes.iter_mut().skip(at).take(len as usize);
                    let taken: Vec<bool> = range.filter_map(Option::take).collect();
                    prop_assert_eq!(filled.bytes as usize, taken.len());
                    prop_assert_eq!(filled.of_gap as usize, taken.iter().filter(|counted| **counted).count());
                    if holes.iter().any(|hole| !hole.is_exact()) {
                        return Ok(());
                    }
                }
                prop_assert_eq!(holes.iter().map(|hole| hole.missing as usize).sum::<usize>(), bytes.iter().flatten().count());
            }
        }
    }
}
