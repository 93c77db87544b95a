//! When datagrams are sent: at once, at a rate, or as they were recorded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::options::Tempo;
use crate::stop::Stop;

/// A sender further behind its pace than this does not catch up: no burst follows a stall.
const MOST_BEHIND: Duration = Duration::from_millis(100);
const LONGEST_GAP: Duration = Duration::from_secs(365 * 86_400);

/// When the next datagram is due.
pub struct Pace {
    tempo: Tempo,
    due: Option<Instant>,
    /// Recorded time of the frame before it; none for the first of a file.
    pub last_ts_ns: Option<u64>,
    /// Nobody sleeps longer than the run lasts.
    stop: Arc<Stop>,
}

impl Pace {
    pub const fn new(tempo: Tempo, stop: Arc<Stop>) -> Self {
        Self {
            stop,
            tempo,
            due: None,
            last_ts_ns: None,
        }
    }

    /// Sleeps until the frame recorded at `ts_ns` is due, or the run was ended. Deadlines follow from one another: what a
    /// sleep takes too long is made up for.
    pub fn wait(&mut self, ts_ns: u64) {
        let last_ts_ns = self.last_ts_ns.replace(ts_ns).unwrap_or(ts_ns);
        let recorded_ns = ts_ns.saturating_sub(last_ts_ns);
        let gap = match self.tempo {
            Tempo::FullSpeed => return,
            Tempo::Pps(pps) => seconds(1.0 / pps),
            Tempo::Recorded(factor) => seconds(recorded_ns as f64 / 1e9 / factor),
        };
        let now = now();
        let mut due = self.due.map_or(now, |due| due + gap);
        if now.saturating_duration_since(due) > MOST_BEHIND {
            due = now;
        }
        self.stop.sleep(due.saturating_duration_since(now));
        self.due = Some(due);
    }
}

/// Deadlines of datagrams that go at a steady rate, several at a time. They are counted from the start, so
/// the average is exact, whatever a sleep takes too long.
#[cfg(target_os = "linux")]
pub struct Steady {
    started: Instant,
    /// Datagrams a second; none: at once.
    pps: Option<f64>,
    stop: Arc<Stop>,
}

/// A steady sender further behind than this forgets the rest: receivers need not bear what a stall of the
/// sender gathers.
#[cfg(target_os = "linux")]
const MOST_BEHIND_STEADY: Duration = Duration::from_millis(20);
/// Sleeps end late, by 50 to 100 microseconds on an idle Linux machine; what is left is waited for awake.
#[cfg(target_os = "linux")]
const SLEEP_LATENESS: Duration = Duration::from_micros(150);
/// Batches that far apart may be late by a sleep's lateness.
#[cfg(target_os = "linux")]
const SLEEP_ONLY_PPS: f64 = 50_000.0;

#[cfg(target_os = "linux")]
impl Steady {
    pub fn new(pps: Option<f64>, stop: Arc<Stop>) -> Self {
        Self {
            started: now(),
            pps,
            stop,
        }
    }

    /// How many datagrams of at most `most` go together: what is due within a millisecond.
    pub fn together(&self, most: usize) -> usize {
        self.pps
            .map_or(most, |pps| ((pps / 1000.0) as usize).clamp(1, most))
    }

    /// Waits until the datagram with this number, counted from 0, is due; `false` when that is at or behind
    /// `end`, or the run was ended meanwhile.
    pub fn wait(&mut self, number: u64, end: Option<Instant>) -> bool {
        let now_at = now();
        let Some(pps) = self.pps else {
            return end.is_none_or(|end| now_at < end) && !self.stop.is_set();
        };
        let mut due = self.started + seconds(number as f64 / pps);
        let behind = now_at.saturating_duration_since(due);
        if behind > MOST_BEHIND_STEADY {
            let forgotten = behind - MOST_BEHIND_STEADY;
            self.started += forgotten;
            due += forgotten;
        }
        if end.is_some_and(|end| due >= end) {
            return false;
        }
        let left = due.saturating_duration_since(now_at);
        if pps < SLEEP_ONLY_PPS {
            self.stop.sleep(left);
            return !self.stop.is_set();
        }
        self.stop.sleep(left.saturating_sub(SLEEP_LATENESS));
        while now() < due && !self.stop.is_set() {
            std::hint::spin_loop();
        }
        !self.stop.is_set()
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).map_or(LONGEST_GAP, |gap| gap.min(LONGEST_GAP))
}

#[allow(
    clippy::disallowed_methods,
    reason = "a sender needs a clock to keep its pace"
)]
pub fn now() -> Instant {
    Instant::now()
}
