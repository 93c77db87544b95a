//! When to look at a flow again: a timer wheel through the places of flows.
//!
//! A slot holds the places to look at in one step of time, in a ring of links that begins and ends at the slot. Adding,
//! moving and taking one out touches three links, however many there are. A flow is not moved when a packet comes: who
//! finds it too early looks again later, so the wheel costs nothing for each packet.

use super::growth;

/// Slots, as many as a power of two: with the steps of [`super::lifetime`] about nine minutes. What is due later is
/// looked at earlier, in vain.
const SLOTS: u32 = 2048;
/// Steps that time may go back without the wheel turning back with it.
const BACK: u64 = 4;
/// Most places.
pub const MOST_PLACES: u32 = u32::MAX - SLOTS;

/// Neighbours in the ring of a slot; a slot is a place of its own.
#[derive(Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

/// Most bytes of a wheel of `most` places.
pub const fn memory_bytes(most: u64) -> u64 {
    (SLOTS as u64 + most) * size_of::<Link>() as u64
}

/// Places by the step of time in which to look at them.
pub struct Wheel {
    /// The slots, and behind them the places.
    links: Vec<Link>,
    /// The step to be looked at next; the ones before it are done.
    next: u64,
    /// How many places there may be.
    most: u32,
}

impl Wheel {
    /// For at most `most` places, none yet.
    pub fn new(most: u32) -> Self {
        Self {
            links: (0..SLOTS).map(Link::alone).collect(),
            next: 0,
            most,
        }
    }

    /// Looks at `place` in `step`, or in the next one that is left. It may be waited for already: then that is
    /// forgotten.
    pub fn schedule(&mut self, place: u32, step: u64) {
        let at = place + SLOTS;
        while self.links.len() <= at as usize {
            let new = Link::alone(self.links.len() as u32);
            let most = SLOTS as usize + self.most as usize;
            growth::push(&mut self.links, new, most);
        }
        self.unlink(at);
        let step = step.clamp(self.next, self.next.saturating_add(u64::from(SLOTS) - 1));
        let slot = slot_of(step);
        let Some(Link { before, .. }) = self.link(slot) else {
            return;
        };
        self.set(at, before, slot);
        if let Some(link) = self.links.get_mut(before as usize) {
            link.after = at;
        }
        if let Some(link) = self.links.get_mut(slot as usize) {
            link.before = at;
        }
    }

    /// Waits for `place` no longer.
    pub fn cancel(&mut self, place: u32) {
        self.unlink(place + SLOTS);
    }

    /// A place to look at up to `step`, which is waited for no longer; `None` once all were handed out.
    pub fn due(&mut self, step: u64) -> Option<u32> {
        if step.saturating_add(BACK) < self.next {
            // The clock was set back, or another file begins.
            self.next = step;
        }
        // Once around is everything there is.
        self.next = (self.next).max(step.saturating_add(1).saturating_sub(SLOTS.into()));
        while self.next <= step {
            let slot = slot_of(self.next);
            let first = self.link(slot)?.after;
            if first != slot {
                self.unlink(first);
                return Some(first - SLOTS);
            }
            self.next += 1;
        }
        None
    }

    fn link(&self, at: u32) -> Option<Link> {
        self.links.get(at as usize).copied()
    }

    fn set(&mut self, at: u32, before: u32, after: u32) {
        if let Some(link) = self.links.get_mut(at as usize) {
            *link = Link { before, after };
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(Link { before, after }) = self.link(at) else {
            return;
        };
        if let Some(link) = self.links.get_mut(before as usize) {
            link.after = after;
        }
        if let Some(link) = self.links.get_mut(after as usize) {
            link.before = before;
        }
        self.set(at, at, at);
    }
}

impl Link {
    const fn alone(at: u32) -> Self {
        Self {
            before: at,
            after: at,
        }
    }
}

const fn slot_of(step: u64) -> u32 {
    (step % SLOTS as u64) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn all_due(wheel: &mut Wheel, step: u64) -> Vec<u32> {
        std::iter::from_fn(|| wheel.due(step)).collect()
    }

    #[test]
    fn each_in_its_step() {
        let mut wheel = Wheel::new(20);
        let begin = 6_000_000_000;
        assert_eq!(wheel.due(begin), None);
        wheel.schedule(7, begin + 3);
        wheel.schedule(1, begin + 2);
        wheel.schedule(2, begin + 2);
        wheel.schedule(3, begin + 2);
        wheel.cancel(2);
        assert!(all_due(&mut wheel, begin + 1).is_empty());
        assert_eq!(all_due(&mut wheel, begin + 2), [1, 3]);
        // The step is over.
        wheel.schedule(1, begin);
        assert!(all_due(&mut wheel, begin + 2).is_empty());
        assert_eq!(all_due(&mut wheel, begin + 3), [7, 1]);
        wheel.cancel(7);
        assert!(all_due(&mut wheel, u64::MAX - 1).is_empty());
    }

    #[test]
    fn what_is_due_late_is_looked_at_early() {
        let mut wheel = Wheel::new(20);
        wheel.due(99);
        wheel.schedule(5, 100 + 5000);
        assert_eq!(all_due(&mut wheel, 99 + u64::from(SLOTS)), [5]);
    }

    #[test]
    fn time_goes_back() {
        let mut wheel = Wheel::new(20);
        wheel.due(1_000_000);
        wheel.schedule(1, 1_000_010);
        // A little: nothing changes.
        assert_eq!(wheel.due(999_998), None);
        wheel.schedule(2, 999_999);
        assert_eq!(all_due(&mut wheel, 1_000_001), [2]);
        // For good.
        wheel.due(5000);
        wheel.schedule(3, 5004);
        assert!(!all_due(&mut wheel, 5003).contains(&3));
        assert!(all_due(&mut wheel, 5004).contains(&3));
    }

    proptest! {
        /// Against a map, while time goes on.
        #[test]
        fn as_a_map_would(
            steps in proptest::collection::vec((0u32..20, 0u64..1500, 0u64..40, any::<bool>()), 1..200),
        ) {
            let (mut wheel, mut model) = (Wheel::new(20), BTreeMap::new());
            let mut now = 77_777;
            wheel.due(now);
            for (place, ahead, pause, cancels) in steps {
                if cancels {
                    wheel.cancel(place);
                    model.remove(&place);
                } else {
                    wheel.schedule(place, now + ahead);
                    model.insert(place, (now + ahead).max(now + 1));
                }
                now += pause;
                let mut due = all_due(&mut wheel, now);
                due.sort_unstable();
                let expected: Vec<u32> =
                    model.iter().filter(|(_, step)| **step <= now).map(|(place, _)| *place).collect();
                model.retain(|_, step| *step > now);
                prop_assert_eq!(due, expected);
            }
        }
    }
}
