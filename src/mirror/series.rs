//! What a session sent over time: counts in a bounded number of equal stretches of time, and when truncation changed.
//!
//! Stretches begin at multiples of their width, a second at first. Where there would be too many, two neighbours become
//! one. So what comes out depends on the packets alone, in whatever order they came, and what several workers saw
//! adds up.

/// Most stretches.
pub const STRETCHES: usize = 64;

/// Bytes of memory of a series, at the most: it grows as far as it needs.
pub const MEMORY_BYTES: usize = STRETCHES * size_of::<Stretch>();

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Fewer packets than this in a stretch say nothing of its share of truncated ones.
const ENOUGH: u64 = 30;

/// What came in one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// Frames.
    pub packets: u64,
    /// Bytes of frame that arrived.
    pub bytes: u64,
    /// Frames that were cut.
    pub truncated: u64,
    /// Fewest and most bytes that a cut frame was left with; 0 and 0 where none was cut.
    pub cut: (u32, u32),
    /// Fewest and most bytes of the outer IP packets of cut frames, likewise.
    pub cut_outer: (u32, u32),
    /// Most bytes of a frame that arrived, and of an outer IP packet.
    pub largest: (u32, u32),
}

impl Stretch {
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        if other.truncated > 0 {
            let is_first = self.truncated == 0;
            let around = |a: (u32, u32), b: (u32, u32)| match is_first {
                true => b,
                false => (a.0.min(b.0), a.1.max(b.1)),
            };
            self.cut = around(self.cut, other.cut);
            self.cut_outer = around(self.cut_outer, other.cut_outer);
        }
        let (frame, outer) = other.largest;
        self.largest = (self.largest.0.max(frame), self.largest.1.max(outer));
        self.truncated += other.truncated;
    }

    /// The one length that cut frames were left with.
    pub fn cut_size(&self) -> Option<u32> {
        (self.truncated > 0 && self.cut.0 == self.cut.1).then_some(self.cut.0)
    }
}

/// A session over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// Number of the first stretch since 1970.
    first: u64,
    /// A stretch is a second, doubled so many times.
    doubled: u32,
    stretches: Vec<Stretch>,
}

/// A change of what is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Frames were cut to one length, and then to another.
    Size {
        /// Bytes before.
        from: u32,
        /// Bytes from then on.
        to: u32,
    },
    /// Another share of the frames is cut: in parts of one.
    Share {
        /// Before.
        from: f64,
        /// From then on.
        to: f64,
    },
}

/// A change and its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Beginning of the stretch from which on it shows, nanoseconds since 1970.
    pub at_ns: u64,
    /// What changed.
    pub change: Change,
}

impl Series {
    /// Counts a frame that arrived at `ts_ns` with `bytes`, cut or not, in an outer IP packet of `outer` bytes.
    #[inline]
    pub fn add(&mut self, ts_ns: u64, (bytes, outer): (u32, u32), is_cut: bool) {
        let number = (ts_ns / SECOND_NS) >> self.doubled;
        let at = usize::try_from(number.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        let stretch = Stretch {
            packets: 1,
            bytes: bytes.into(),
            truncated: is_cut.into(),
            cut: if is_cut { (bytes, bytes) } else { (0, 0) },
            cut_outer: if is_cut { (outer, outer) } else { (0, 0) },
            largest: (bytes, outer),
        };
        match self.stretches.get_mut(at) {
            Some(known) => known.add(&stretch),
            None => self.add_far(ts_ns / SECOND_NS, &stretch),
        }
    }

    /// Counts in a stretch that is not there yet.
    #[cold]
    fn add_far(&mut self, second: u64, stretch: &Stretch) {
        if self.stretches.is_empty() {
            self.first = second >> self.doubled;
        }
        loop {
            let number = second >> self.doubled;
            let last = self.first + (self.stretches.len() as u64).saturating_sub(1);
            let (first, last) = (self.first.min(number), last.max(number));
            if last - first < STRETCHES as u64 {
                let before = usize::try_from(self.first - first).unwrap_or_default();
                let empty = std::iter::repeat_n(Stretch::default(), before);
                self.stretches.splice(..0, empty);
                self.first = first;
                let len = usize::try_from(last - first + 1).unwrap_or(STRETCHES);
                self.stretches.resize(len, Stretch::default());
                let at = usize::try_from(number - first).unwrap_or_default();
                if let Some(known) = self.stretches.get_mut(at) {
                    known.add(stretch);
                }
                return;
            }
            self.double();
        }
    }

    /// Makes two stretches one.
    fn double(&mut self) {
        let old = std::mem::take(&mut self.stretches);
        let first = self.first / 2;
        for (number, stretch) in (self.first..).zip(&old) {
            let at = usize::try_from(number / 2 - first).unwrap_or_default();
            if at >= self.stretches.len() {
                self.stretches.resize(at + 1, Stretch::default());
            }
            if let Some(known) = self.stretches.get_mut(at) {
                known.add(stretch);
            }
        }
        self.first = first;
        self.doubled += 1;
    }

    /// Adds what another worker saw of the same session.
    pub fn merge(&mut self, other: &Self) {
        while self.doubled < other.doubled {
            self.double();
        }
        let width = other.width_seconds();
        for (number, stretch) in (other.first..).zip(&other.stretches) {
            if stretch.packets > 0 {
                self.add_far(number * width, stretch);
            }
        }
    }

    /// Seconds of a stretch.
    pub const fn width_seconds(&self) -> u64 {
        1 << self.doubled
    }

    /// The stretches with their beginnings, nanoseconds since 1970.
    pub fn stretches(&self) -> impl Iterator<Item = (u64, &Stretch)> {
        let width_ns = self.width_seconds().saturating_mul(SECOND_NS);
        let begin = move |number: u64| number.saturating_mul(width_ns);
        (self.first..).map(begin).zip(self.stretches.iter())
    }

    /// Times in which all cut frames were left with one length, with their beginnings, one after the other: what came
    /// between their first and last stretch with cut frames. A stretch in which the length changed is in none.
    pub fn spells(&self) -> Vec<(u64, Stretch)> {
        let mut spells: Vec<(u64, Stretch)> = Vec::new();
        let mut since = Stretch::default();
        let mut is_broken = false;
        for (at_ns, stretch) in self.stretches() {
            if stretch.truncated == 0 {
                since.add(stretch);
                continue;
            }
            let between = std::mem::take(&mut since);
            let Some(size) = stretch.cut_size() else {
                is_broken = true;
                continue;
            };
            match spells.last_mut() {
                Some((_, spell)) if spell.cut_size() == Some(size) && !is_broken => {
                    spell.add(&between);
                    spell.add(stretch);
                }
                _ => spells.push((at_ns, *stretch)),
            }
            is_broken = false;
        }
        spells
    }

    /// When it changed what is cut, in the order of time: the length that cut frames are left with, or, where neighbouring
    /// stretches have enough packets to tell, the share of them.
    pub fn changes(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let (mut size, mut share): (Option<u32>, Option<Stretch>) = (None, None);
        for (at_ns, stretch) in self.stretches() {
            if let Some(to) = stretch.cut_size() {
                if let Some(from) = size.filter(|from| *from != to) {
                    let change = Change::Size { from, to };
                    events.push(Event { at_ns, change });
                }
                size = Some(to);
            }
            if stretch.packets < ENOUGH {
                continue;
            }
            match &mut share {
                Some(before) if differ(before, stretch) => {
                    let change = Change::Share {
                        from: share_of(before),
                        to: share_of(stretch),
                    };
                    events.push(Event { at_ns, change });
                    *before = *stretch;
                }
                // What goes on unchanged is known the better the longer it does.
                Some(before) => before.add(stretch),
                None => share = Some(*stretch),
            }
        }
        events
    }
}

fn share_of(stretch: &Stretch) -> f64 {
    stretch.truncated as f64 / stretch.packets.max(1) as f64
}

/// Whether two shares are another: by a tenth of all packets, and by more than five times what chance lets
/// them differ (two proportions, pooled).
fn differ(a: &Stretch, b: &Stretch) -> bool {
    let (n, m) = (a.packets as f64, b.packets as f64);
    let off = (share_of(a) - share_of(b)).abs();
    let pooled = (a.truncated + b.truncated) as f64 / (n + m);
    let chance = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    off >= 0.1 && off > 5.0 * chance
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T0: u64 = 1_760_000_000 * SECOND_NS;

    #[test]
    fn stretches_grow_with_the_time_they_cover() {
        let mut series = Series::default();
        for second in 0..STRETCHES as u64 {
            series.add(T0 + second * SECOND_NS, (100, 150), second % 2 == 0);
        }
        assert_eq!(
            (series.width_seconds(), series.stretches().count()),
            (1, STRETCHES)
        );
        series.add(T0 + 1000 * SECOND_NS, (60, 110), true);
        assert_eq!(series.width_seconds(), 16);
        let all: Vec<_> = series.stretches().collect();
        assert_eq!(
            all.iter().map(|(_, stretch)| stretch.packets).sum::<u64>(),
            65
        );
        assert_eq!(all[0].0, T0, "a multiple of 16 seconds");
        assert_eq!(
            (all[0].1.packets, all[0].1.truncated, all[0].1.cut),
            (16, 8, (100, 100))
        );
        assert_eq!(all.last().unwrap().0, T0 + 992 * SECOND_NS);
        // Late, and before all others.
        series.add(T0 - 10_000 * SECOND_NS, (60, 110), false);
        assert_eq!(
            series
                .stretches()
                .map(|(_, stretch)| stretch.packets)
                .sum::<u64>(),
            66
        );
        // Times that nobody would believe.
        for ts_ns in [0, u64::MAX] {
            series.add(ts_ns, (1, 51), false);
        }
        assert_eq!(
            series
                .stretches()
                .map(|(_, stretch)| stretch.packets)
                .sum::<u64>(),
            68
        );
    }

    proptest! {
        /// In any order and shared out over any number of workers: the same.
        #[test]
        fn order_and_workers_do_not_matter(
            packets in proptest::collection::vec((0u64..100_000, 1u32..2000, any::<bool>(), 0usize..3), 1..200),
            turn in 0usize..200,
        ) {
            let mut one = Series::default();
            for (second, bytes, is_cut, _) in &packets {
                one.add(T0 + second * SECOND_NS, (*bytes, *bytes + 50), *is_cut);
            }
            let mut workers = [const { None }; 3].map(|_: Option<()>| Series::default());
            let mut packets = packets;
            let len = packets.len();
            packets.rotate_left(turn % len);
            for (second, bytes, is_cut, worker) in &packets {
                workers[*worker].add(T0 + second * SECOND_NS, (*bytes, *bytes + 50), *is_cut);
            }
            let [mut sum, b, c] = workers;
            sum.merge(&b);
            sum.merge(&c);
            prop_assert_eq!(sum, one);
        }
    }

    #[test]
    fn what_changed_and_when() {
        let mut series = Series::default();
        // (seconds, truncated of 100 packets, bytes of these)
        for (second, cut, bytes) in [
            (0, 40, 96),
            (1, 43, 96),
            (2, 38, 96),
            (3, 41, 1450),
            (4, 39, 1450),
            (5, 0, 0),
            (6, 0, 0),
            (7, 41, 1450),
        ] {
            for number in 0..100 {
                let is_cut = number < cut;
                series.add(
                    T0 + second * SECOND_NS + number,
                    if is_cut {
                        (bytes, bytes + 50)
                    } else {
                        (1000, 1050)
                    },
                    is_cut,
                );
            }
        }
        let changes: Vec<_> = series
            .changes()
            .into_iter()
            .map(|event| ((event.at_ns - T0) / SECOND_NS, event.change))
            .collect();
        let share = |from, to| Change::Share { from, to };
        assert_eq!(
            changes,
            [
                (3, Change::Size { from: 96, to: 1450 }),
                (5, share(0.402, 0.0)),
                (7, share(0.0, 0.41)),
            ]
        );
        // Few packets prove nothing.
        let mut few = Series::default();
        for second in 0..20 {
            few.add(T0 + second * SECOND_NS, (96, 146), second % 5 == 0);
        }
        assert!(few.changes().is_empty());
    }

    /// (seconds, frames cut to, whole frames): a stretch with two lengths is in no spell, nor is what comes behind the last
    /// cut frame.
    #[test]
    fn spells_of_one_length() {
        let mut series = Series::default();
        for (second, cut, whole) in [
            (0, &[96, 96][..], 80),
            (1, &[], 500),
            (2, &[96], 96),
            (3, &[96, 200], 0),
            (4, &[200], 150),
            (5, &[], 600),
        ] {
            let ts_ns = T0 + second * SECOND_NS;
            cut.iter()
                .for_each(|len| series.add(ts_ns, (*len, len + 36), true));
            series.add(ts_ns, (whole, whole + 36), false);
        }
        let told: Vec<_> = (series.spells().into_iter())
            .map(|(at_ns, spell)| {
                let second = (at_ns - T0) / SECOND_NS;
                (second, spell.cut, spell.cut_outer, spell.largest)
            })
            .collect();
        let expected = [
            (0, (96, 96), (132, 132), (500, 536)),
            (4, (200, 200), (236, 236), (200, 236)),
        ];
        assert_eq!(told, expected);
    }
}
