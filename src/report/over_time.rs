//! How much came when: the stretches of several sessions, which differ in length, added up. Pure.

use super::summary::{SeriesSummary, SessionSummary};
use crate::capture::store::recover::parse_rfc3339;
use crate::mirror::series::STRETCHES;

/// Equal stretches of time, one after the other.
#[derive(Debug, PartialEq, Eq)]
pub struct Series {
    /// Beginning of the first, seconds since 1970.
    pub begin_s: u64,
    /// Seconds of each.
    pub seconds: u64,
    /// What came in each.
    pub stretches: Vec<Stretch>,
}

/// What came in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// Frames.
    pub packets: u64,
    /// Bytes of frame that arrived.
    pub bytes: u64,
    /// Frames that were cut.
    pub truncated: u64,
}

/// Longest stretch, in seconds: 64 of them are more than all time that there is.
const LONGEST_S: u64 = 1 << 40;

/// All that these sessions sent; `None` where that is nothing. Stretches are as long as the longest of theirs, or
/// longer where these would be too many: always a power of two, and begun at a multiple of it.
pub fn sum<'a>(sessions: impl Iterator<Item = &'a SessionSummary>) -> Option<Series> {
    let (mut seconds, mut all) = (1, Vec::new());
    for session in sessions {
        let series = &session.over_time;
        let width = series.seconds.clamp(1, LONGEST_S);
        seconds = u64::max(seconds, width.next_power_of_two());
        all.extend(stretches(series, width));
    }
    let first = all.iter().map(|(begin_s, _)| *begin_s).min()?;
    let last = all.iter().map(|(begin_s, _)| *begin_s).max()?;
    while last / seconds - first / seconds >= STRETCHES as u64 {
        seconds *= 2;
    }
    let count = usize::try_from(last / seconds - first / seconds + 1).unwrap_or(STRETCHES);
    let mut sum = vec![Stretch::default(); count];
    for (begin_s, stretch) in all {
        let at = usize::try_from(begin_s / seconds - first / seconds).unwrap_or_default();
        if let Some(sum) = sum.get_mut(at) {
            sum.packets = sum.packets.saturating_add(stretch.packets);
            sum.bytes = sum.bytes.saturating_add(stretch.bytes);
            sum.truncated = sum.truncated.saturating_add(stretch.truncated);
        }
    }
    Some(Series {
        begin_s: first / seconds * seconds,
        seconds,
        stretches: sum,
    })
}

/// The stretches with packets, and when each begins, in seconds since 1970.
fn stretches(series: &SeriesSummary, width: u64) -> impl Iterator<Item = (u64, Stretch)> {
    let begin_s = parse_rfc3339(&series.begin).unwrap_or_default() / 1_000_000_000;
    let begins = (0..).map(move |at: u64| begin_s.saturating_add(at.saturating_mul(width)));
    let counts = series.packets.iter().zip(&series.bytes);
    let counts = counts.zip(&series.truncated);
    let stretches = counts.map(|((packets, bytes), truncated)| Stretch {
        packets: *packets,
        bytes: *bytes,
        truncated: *truncated,
    });
    begins
        .zip(stretches)
        .filter(|(_, stretch)| stretch.packets > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::audit::tests::session;

    #[test]
    fn stretches_of_different_lengths_add_up() {
        let begin = |text: &str, seconds, packets: &[u64]| {
            let mut session = session();
            session.over_time = SeriesSummary {
                begin: text.to_owned(),
                seconds,
                packets: packets.to_vec(),
                bytes: packets
                    .iter()
                    .map(|packets| packets.saturating_mul(100))
                    .collect(),
                truncated: packets.iter().map(|packets| packets / 2).collect(),
            };
            session
        };
        let a = begin("2026-01-01T00:00:02Z", 1, &[2, 0, 4, 6]);
        let b = begin("2026-01-01T00:00:00Z", 4, &[10, 20]);
        let sum_of = |sessions: &[&SessionSummary]| sum(sessions.iter().copied());
        let series = sum_of(&[&a, &b]).unwrap();
        assert_eq!((series.begin_s % 60, series.seconds), (0, 4));
        let packets: Vec<u64> = series
            .stretches
            .iter()
            .map(|stretch| stretch.packets)
            .collect();
        assert_eq!(packets, [12, 30]);
        let alone = sum_of(&[&a]).unwrap();
        assert_eq!((alone.seconds, alone.stretches.len()), (1, 4));
        // Days apart, and times that nobody would believe.
        let c = begin("2026-01-03T00:00:00Z", 1, &[1]);
        let far = begin("nonsense", 0, &[1, u64::MAX]);
        let series = sum_of(&[&a, &b, &c, &far]).unwrap();
        assert!(series.stretches.len() <= STRETCHES);
        assert_eq!(series.seconds.count_ones(), 1);
        assert_eq!(sum_of(&[]), None);
    }
}
