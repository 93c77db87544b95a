//! When a file of a store ends and the next begins. Pure.

use std::time::Duration;

/// What ends a file; the first that is met does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Triggers {
    /// Most bytes of a file.
    pub size: Option<u64>,
    /// Multiples of it since 1970: at 5 minutes files end at :00, :05, :10.
    pub interval: Option<Duration>,
    /// Longest time from a file's beginning to its end.
    pub duration: Option<Duration>,
    /// Most packets of a file.
    pub packets: Option<u64>,
}

/// Why a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has the size asked for.
    Size,
    /// The interval is over.
    Interval,
    /// It is as long as asked for.
    Duration,
    /// It has as many packets as asked for.
    Packets,
    /// Somebody asked for it (SIGUSR2).
    Asked,
    /// The run ended.
    End,
    /// Too many files were open; the session goes on in another one.
    OpenFiles,
    /// Nothing more could be written to it.
    Fault,
    /// The run that wrote it was killed; a later one finished it.
    Recovered,
}

impl Reason {
    /// Its name in the manifest and for hooks.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Interval => "interval",
            Self::Duration => "duration",
            Self::Packets => "packets",
            Self::Asked => "asked",
            Self::End => "end",
            Self::OpenFiles => "open_files",
            Self::Fault => "fault",
            Self::Recovered => "recovered",
        }
    }
}

/// A file that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Bytes it would have if it ended now.
    pub bytes: u64,
    /// Packets in it.
    pub packets: u64,
    /// When it began, nanoseconds since 1970.
    pub began_ns: u64,
}

impl Triggers {
    /// Whether `open` ends before a packet of `ts_ns` that takes `len` bytes.
    pub fn before(&self, open: &Open, ts_ns: u64, len: u64) -> Option<Reason> {
        if open.packets > 0 {
            if self.size.is_some_and(|most| open.bytes + len > most) {
                return Some(Reason::Size);
            }
            if self.packets.is_some_and(|most| open.packets >= most) {
                return Some(Reason::Packets);
            }
        }
        self.at(open, ts_ns)
    }

    /// Whether `open` ends at this time, whatever comes.
    pub fn at(&self, open: &Open, now_ns: u64) -> Option<Reason> {
        if self.interval_of(now_ns) > self.interval_of(open.began_ns) {
            return Some(Reason::Interval);
        }
        let age = now_ns.saturating_sub(open.began_ns);
        let is_over = |longest: Duration| u128::from(age) >= longest.as_nanos();
        self.duration
            .is_some_and(is_over)
            .then_some(Reason::Duration)
    }

    /// The number of the interval that a time lies in.
    pub fn interval_of(&self, ns: u64) -> u64 {
        let interval = self
            .interval
            .map_or(u128::MAX, |interval| interval.as_nanos());
        let number = u128::from(ns).checked_div(interval).unwrap_or_default();
        u64::try_from(number).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn open(bytes: u64, packets: u64) -> Open {
        Open {
            bytes,
            packets,
            began_ns: 100 * SECOND,
        }
    }

    #[test]
    fn a_file_ends_before_it_is_too_large() {
        let triggers = Triggers {
            size: Some(1000),
            ..Triggers::default()
        };
        let before = |bytes, packets, len| triggers.before(&open(bytes, packets), 0, len);
        assert_eq!(before(900, 5, 100), None);
        assert_eq!(before(900, 5, 101), Some(Reason::Size));
        assert_eq!(
            before(200, 0, 5000),
            None,
            "a packet that no file has room for"
        );
    }

    #[test]
    fn packets_are_counted() {
        let triggers = Triggers {
            packets: Some(2),
            ..Triggers::default()
        };
        let before = |packets| triggers.before(&open(0, packets), 0, 1);
        assert_eq!([0, 1, 2].map(before), [None, None, Some(Reason::Packets)]);
    }

    #[test]
    fn intervals_are_those_of_the_clock() {
        let triggers = Triggers {
            interval: Some(Duration::from_secs(30)),
            ..Triggers::default()
        };
        let at = |second: u64| triggers.at(&open(0, 0), second * SECOND);
        assert_eq!(at(119), None);
        assert_eq!(at(120), Some(Reason::Interval), "100 lies in 90 to 120");
        assert_eq!(at(80), None, "a clock that was set back ends nothing");
    }

    #[test]
    fn a_duration_begins_with_its_file() {
        let triggers = Triggers {
            duration: Some(Duration::from_millis(1500)),
            ..Triggers::default()
        };
        let at = |ns| triggers.at(&open(0, 0), 100 * SECOND + ns);
        assert_eq!(at(1_499_999_999), None);
        assert_eq!(at(1_500_000_000), Some(Reason::Duration));
        assert_eq!(Triggers::default().at(&open(0, 0), u64::MAX), None);
    }
}
