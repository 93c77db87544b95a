//! When datagrams are sent: at once, at a rate, or as they were recorded.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cli::args::SendArgs;

/// A sender further behind its pace than this does not catch up: no burst follows a stall.
const MOST_BEHIND: Duration = Duration::from_millis(100);
const LONGEST_GAP: Duration = Duration::from_secs(365 * 86_400);

/// How fast datagrams follow each other.
enum Tempo {
    FullSpeed,
    Every(Duration),
    Recorded { speed: f64 },
}

/// When the next datagram is due.
pub struct Pace {
    tempo: Tempo,
    due: Option<Instant>,
    /// Recorded time of the frame before it; none for the first of a file.
    pub last_ts_ns: Option<u64>,
}

impl Pace {
    pub fn new(args: &SendArgs) -> Self {
        let speed = args.speed.or(args.as_recorded.then_some(1.0));
        let tempo = match (args.pps, speed) {
            (Some(pps), _) => Tempo::Every(seconds(1.0 / pps)),
            (None, Some(speed)) => Tempo::Recorded { speed },
            (None, None) => Tempo::FullSpeed,
        };
        Self {
            tempo,
            due: None,
            last_ts_ns: None,
        }
    }

    /// Sleeps until the frame recorded at `ts_ns` is due. Deadlines follow from one another: what a
    /// sleep takes too long is made up for.
    pub fn wait(&mut self, ts_ns: u64) {
        let last_ts_ns = self.last_ts_ns.replace(ts_ns).unwrap_or(ts_ns);
        let recorded_ns = ts_ns.saturating_sub(last_ts_ns);
        let gap = match self.tempo {
            Tempo::FullSpeed => return,
            Tempo::Every(gap) => gap,
            Tempo::Recorded { speed } => seconds(recorded_ns as f64 / 1e9 / speed),
        };
        let now = now();
        let mut due = self.due.map_or(now, |due| due + gap);
        if now.saturating_duration_since(due) > MOST_BEHIND {
            due = now;
        }
        sleep(due.saturating_duration_since(now));
        self.due = Some(due);
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
