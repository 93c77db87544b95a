//! Whether a run is to end, since when and why. Who ends it sets it once; who works looks at it between two
//! batches.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A signal that ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill` without a number, systemd, containers.
    Terminate,
    /// The terminal or the connection is gone.
    Hangup,
}

impl Signal {
    /// Its name, as `kill -l` has it with SIG in front.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
        }
    }

    /// The exit code of a process that it ended at once: 128 and its number.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::Hangup => 129,
        }
    }
}

/// Why a run ends before its input does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked for it.
    Signal(Signal),
    /// --duration is over.
    TimeIsUp,
    /// A worker's source or an output cannot go on.
    Fault,
}

/// An order to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// When it was given, nanoseconds since 1970: what arrived up to then belongs to the run.
    pub at_ns: u64,
    /// Why.
    pub why: Why,
}

/// Whether a run is to end. The first order counts.
#[derive(Debug, Default)]
pub struct Stop(OnceLock<Ordered>);

impl Stop {
    /// Nobody has ended the run yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Ends the run now.
    pub fn order(&self, why: Why) {
        self.order_at(wall_clock_ns(), why);
    }

    /// Ends the run with what arrived up to `at_ns`.
    pub fn order_at(&self, at_ns: u64, why: Why) {
        let _ = self.0.set(Ordered { at_ns, why });
    }

    /// The order, once there is one.
    pub fn ordered(&self) -> Option<Ordered> {
        self.0.get().copied()
    }

    /// Whether the run is to end.
    pub fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// The signal that ended the run, if one did.
    pub fn signal(&self) -> Option<Signal> {
        match self.ordered()?.why {
            Why::Signal(signal) => Some(signal),
            Why::TimeIsUp | Why::Fault => None,
        }
    }

    /// Sleeps for `time`, or until shortly after the run is to end.
    pub fn sleep(&self, time: Duration) {
        /// How late the end of the run may be noticed.
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let mut left = time;
        while left > LOOK_EVERY {
            if self.is_set() {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
            left -= LOOK_EVERY;
        }
        std::thread::sleep(left);
    }
}

/// Nanoseconds since 1970, as the kernel stamps datagrams.
#[allow(
    clippy::disallowed_methods,
    reason = "the moment of an order; once a batch, for who stands between packets and the clock"
)]
pub fn wall_clock_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_order_counts() {
        let stop = Stop::new();
        assert!(!stop.is_set());
        assert_eq!(stop.ordered(), None);
        stop.order_at(7, Why::Signal(Signal::Hangup));
        stop.order_at(9, Why::TimeIsUp);
        assert_eq!(stop.ordered().map(|order| order.at_ns), Some(7));
        assert_eq!(stop.signal(), Some(Signal::Hangup));
        // Nobody sleeps on.
        stop.sleep(Duration::from_secs(3600));
    }
}
