//! The moment a run with several sockets or rings begins. They are let in one after the other, and what came
//! in between reached some of them only: a run that kept it would begin with holes. Pure: time is given.

use crate::source::DISORDER_NS;

/// Longest that letting all in may take, in nanoseconds. A packet that seems older came after the clock was set
/// back.
const LONGEST_NS: u64 = 1_000_000_000;

/// What came before all were let in, as one of them sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beginning {
    /// Nanoseconds since 1970; 0 once nothing from before can follow.
    at_ns: u64,
}

impl Beginning {
    /// All were let in at `at_ns`.
    pub const fn at(at_ns: u64) -> Self {
        Self { at_ns }
    }

    /// Whether a packet that arrived at `ts_ns` is from before.
    #[inline]
    pub fn is_before(&mut self, ts_ns: u64) -> bool {
        self.at_ns != 0 && self.look(ts_ns)
    }

    #[cold]
    fn look(&mut self, ts_ns: u64) -> bool {
        let early_ns = self.at_ns.saturating_sub(ts_ns);
        if ts_ns >= self.at_ns.saturating_add(DISORDER_NS) || early_ns > LONGEST_NS {
            self.at_ns = 0;
        }
        (1..=LONGEST_NS).contains(&early_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: u64 = 1_700_000_000_000_000_000;

    #[test]
    fn what_came_before_is_left_out() {
        let mut beginning = Beginning::at(BEGUN);
        assert!(beginning.is_before(BEGUN - 1));
        assert!(!beginning.is_before(BEGUN));
        // Times go back a little where two cores deliver.
        assert!(beginning.is_before(BEGUN - 1));
        assert!(!beginning.is_before(BEGUN + DISORDER_NS));
        assert!(!beginning.is_before(BEGUN - 1), "it is over");
        assert!(!Beginning::default().is_before(0));
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_nothing_out() {
        let mut beginning = Beginning::at(BEGUN);
        assert!(!beginning.is_before(BEGUN - LONGEST_NS - 1));
        assert!(!beginning.is_before(BEGUN - 1));
    }
}
