//! Whether somebody set the clock while we ran.
//!
//! Datagrams carry the kernel's wall-clock time of arrival; where that clock is set, the times in our files
//! jump with it. The monotonic clock does not, so the two part. Pure: both times are given.

use std::time::Duration;

/// The least that counts as a step. NTP moves the clock by less than a millisecond a second where it slews,
/// and the monotonic clock with it.
const STEP_NS: i128 = 500_000_000;

/// The clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Back, by so much.
    Back(Duration),
    /// Forward, by so much; a machine that slept and woke looks the same.
    Forward(Duration),
}

/// How often the clock was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSteps {
    /// Back.
    pub back: u64,
    /// Forward.
    pub forward: u64,
}

impl ClockSteps {
    /// Counts a step.
    pub const fn count(&mut self, step: Step) {
        match step {
            Step::Back(_) => self.back += 1,
            Step::Forward(_) => self.forward += 1,
        }
    }

    /// Adds those another worker saw.
    pub const fn merge(&mut self, other: Self) {
        self.back += other.back;
        self.forward += other.forward;
    }
}

/// Compares the wall clock with the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockWatch {
    /// Both clocks when they last agreed.
    agreed: Option<(u64, Duration)>,
    /// They did not agree at the last look.
    suspected: bool,
}

impl ClockWatch {
    /// Takes note of both clocks, read one right after the other: `wall_ns` since 1970, `monotonic` since
    /// any fixed moment. Returns a step when they part by half a second and more, and stay apart: a thread
    /// that had to wait between the two readings sees them part once.
    pub fn look(&mut self, wall_ns: u64, monotonic: Duration) -> Option<Step> {
        let Some((agreed_ns, since)) = self.agreed else {
            self.agreed = Some((wall_ns, monotonic));
            return None;
        };
        let went = monotonic.saturating_sub(since).as_nanos() as i128;
        let off = i128::from(wall_ns) - i128::from(agreed_ns) - went;
        if off.abs() < STEP_NS {
            (self.agreed, self.suspected) = (Some((wall_ns, monotonic)), false);
            return None;
        }
        if !self.suspected {
            self.suspected = true;
            return None;
        }
        (self.agreed, self.suspected) = (Some((wall_ns, monotonic)), false);
        let by = Duration::from_nanos(u64::try_from(off.abs()).unwrap_or(u64::MAX));
        Some(if off < 0 {
            Step::Back(by)
        } else {
            Step::Forward(by)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * S;

    /// What a watch says to wall clock and monotonic clock, in nanoseconds.
    fn steps(looks: &[(u64, u64)]) -> Vec<Step> {
        let mut watch = ClockWatch::default();
        let look =
            |(wall, monotonic): &(u64, u64)| watch.look(*wall, Duration::from_nanos(*monotonic));
        looks.iter().filter_map(look).collect()
    }

    #[test]
    fn clocks_that_go_together_are_no_step() {
        assert_eq!(steps(&[]), []);
        assert_eq!(
            steps(&[(DAY, 0), (DAY + S, S), (DAY + 900 * S, 900 * S)]),
            []
        );
        // Slewing: 400 ms at a time, for ever.
        let slewed: Vec<_> = (0..100)
            .map(|n| (DAY + n * S + n * 4 * S / 10, n * S))
            .collect();
        assert_eq!(steps(&slewed), []);
    }

    #[test]
    fn a_step_is_told_once_with_its_size() {
        let back = [
            (DAY, 0),
            (DAY - 9 * S, S),
            (DAY - 8 * S, 2 * S),
            (DAY - 7 * S, 3 * S),
        ];
        assert_eq!(steps(&back), [Step::Back(Duration::from_secs(10))]);
        let forward = [
            (DAY, 0),
            (2 * DAY, 0),
            (2 * DAY + S, S),
            (2 * DAY + 2 * S, 2 * S),
        ];
        assert_eq!(
            steps(&forward),
            [Step::Forward(Duration::from_secs(86_400))]
        );
        // There and back again.
        let both = [
            (DAY, 0),
            (DAY + 5 * S, 0),
            (DAY + 5 * S, 0),
            (DAY, 0),
            (DAY, 0),
            (DAY, 0),
        ];
        let five = Duration::from_secs(5);
        assert_eq!(steps(&both), [Step::Forward(five), Step::Back(five)]);
    }

    #[test]
    fn half_a_second_is_the_border() {
        let under = [(DAY, 0), (DAY + S / 2 - 1, 0), (DAY + S / 2 - 1, 0)];
        assert_eq!(steps(&under), []);
        let at = [(DAY, 0), (DAY + S / 2, 0), (DAY + S / 2, 0)];
        assert_eq!(steps(&at), [Step::Forward(Duration::from_millis(500))]);
    }

    #[test]
    fn a_wait_between_the_two_readings_is_no_step() {
        // Monotonic read first, then two seconds asleep, then the wall clock.
        assert_eq!(
            steps(&[(DAY, 0), (DAY + 3 * S, S), (DAY + 4 * S, 4 * S)]),
            []
        );
    }

    #[test]
    fn the_ends_of_time_do_no_harm() {
        let looks = [
            (u64::MAX, u64::MAX),
            (0, 0),
            (0, 0),
            (u64::MAX, 0),
            (u64::MAX, 0),
        ];
        assert_eq!(steps(&looks).len(), 2);
    }

    #[test]
    fn steps_are_counted_by_direction() {
        let mut steps = ClockSteps::default();
        steps.count(Step::Back(Duration::from_secs(1)));
        steps.count(Step::Forward(Duration::from_secs(1)));
        steps.count(Step::Forward(Duration::from_secs(1)));
        assert_eq!(
            steps,
            ClockSteps {
                back: 1,
                forward: 2
            }
        );
    }
}
