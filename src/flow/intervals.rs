//! Stretches of time at whose ends the records of flows that go on end too: which packet is the first of one. Pure.

/// Intervals of one length, counted from 1970.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    length_ns: u64,
    /// The end of the one that was reached.
    end_ns: u64,
}

impl Intervals {
    /// Of so many nanoseconds; 0 for none.
    pub const fn new(length_ns: u64) -> Self {
        let end_ns = if length_ns == 0 { u64::MAX } else { 0 };
        Self { length_ns, end_ns }
    }

    /// When the interval began that a time reaches first, in nanoseconds since 1970. Times that go back reach none.
    #[inline]
    pub const fn reached(&mut self, ts_ns: u64) -> Option<u64> {
        if ts_ns < self.end_ns {
            return None;
        }
        self.next(ts_ns)
    }

    #[cold]
    const fn next(&mut self, ts_ns: u64) -> Option<u64> {
        // There are none, or none behind the last of all.
        if self.end_ns == u64::MAX {
            return None;
        }
        let Some(within) = ts_ns.checked_rem(self.length_ns) else {
            return None;
        };
        let began_ns = ts_ns - within;
        self.end_ns = began_ns.saturating_add(self.length_ns);
        Some(began_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_reached_once() {
        let mut intervals = Intervals::new(10);
        let reached = [25, 29, 30, 31, 29, 24, 75].map(|ts_ns| intervals.reached(ts_ns));
        let expected = [Some(20), None, Some(30), None, None, None, Some(70)];
        assert_eq!(reached, expected);
    }

    /// The last one ends with time itself.
    #[test]
    fn behind_the_last_comes_none() {
        let mut intervals = Intervals::new(10);
        let times = [u64::MAX, u64::MAX, 5].map(|ts_ns| intervals.reached(ts_ns));
        assert_eq!(times, [Some(u64::MAX - 5), None, None]);
    }

    #[test]
    fn none_is_reached_where_there_are_none() {
        let mut none = Intervals::new(0);
        assert_eq!([0, 5, u64::MAX].map(|ts_ns| none.reached(ts_ns)), [None; 3]);
    }
}
