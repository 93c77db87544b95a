//! How long the frames of a mirror session were at its source, and how many of each length arrived cut: histograms
//! of fixed size.
//!
//! Lengths are told apart in steps: of 4 bytes up to 128, and of a sixteenth of the next lower power of two above,
//! which is 64 bytes from 1,024 to 2,047. These are the steps of an HDR histogram of one digit, found in a quarter of
//! the instructions. What several workers counted adds up.

/// Longest frame told apart, in bytes; longer ones count as this.
const LONGEST: u32 = 65_535;

/// Steps up to the longest.
const STEPS: usize = 176;

/// Most bytes of memory of a session's two histograms.
pub const MEMORY_BYTES: usize = 2 * size_of::<Counts>();

/// Frames in each step.
type Counts = [u64; STEPS];

/// Lengths of frames.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    /// Of all frames; memory is asked for by the first one.
    all: Option<Box<Counts>>,
    /// Of those that arrived cut.
    cut: Option<Box<Counts>>,
}

/// A step with frames in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Shortest length, in bytes.
    pub from: u64,
    /// Longest length, in bytes.
    pub to: u64,
    /// Frames.
    pub packets: u64,
    /// Those of them that arrived cut.
    pub truncated: u64,
}

impl Lengths {
    /// Counts a frame of `len` bytes at the mirror source.
    #[inline]
    pub fn add(&mut self, len: u32, is_cut: bool) {
        let step = step_of(len);
        count(&mut self.all, step);
        if is_cut {
            count(&mut self.cut, step);
        }
    }

    /// Adds what another worker counted.
    pub fn merge(&mut self, other: &Self) {
        merge(&mut self.all, other.all.as_deref());
        merge(&mut self.cut, other.cut.as_deref());
    }

    /// The steps that hold frames, the shortest first.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        let all = (0..).zip(self.all.iter().flat_map(|all| all.iter().copied()));
        let cut = |step: usize| self.cut.as_ref().and_then(|cut| cut.get(step));
        let steps = all.map(move |(step, packets)| Step {
            from: shortest_of(step),
            to: shortest_of(step + 1) - 1,
            packets,
            truncated: cut(step).copied().unwrap_or_default(),
        });
        steps.filter(|step| step.packets > 0)
    }
}

/// The step of a length.
#[inline]
fn step_of(len: u32) -> usize {
    let len = len.min(LONGEST);
    // Of lengths below 128 as of those from 64 on.
    let power = (len | 64).ilog2();
    (16 * (power - 6) + (len >> (power - 4))) as usize
}

/// The shortest length of a step.
const fn shortest_of(step: usize) -> u64 {
    let step = step as u64;
    match step {
        0..32 => 4 * step,
        _ => (16 + step % 16) << (step / 16 + 1),
    }
}

#[inline]
fn count(counts: &mut Option<Box<Counts>>, step: usize) {
    match counts {
        Some(counts) => {
            if let Some(count) = counts.get_mut(step) {
                *count += 1;
            }
        }
        None => begin(counts, step),
    }
}

#[cold]
fn begin(counts: &mut Option<Box<Counts>>, step: usize) {
    *counts = Some(Box::new([0; STEPS]));
    count(counts, step);
}

fn merge(mine: &mut Option<Box<Counts>>, theirs: Option<&Counts>) {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine += theirs;
            }
        }
        (mine @ None, theirs) => *mine = theirs.copied().map(Box::new),
        (Some(_), None) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_are_fine_where_frames_are_small() {
        let mut lengths = Lengths::default();
        assert_eq!(lengths.steps().count(), 0);
        for (len, is_cut) in [
            (60, false),
            (96, false),
            (99, true),
            (1514, true),
            (1535, false),
        ] {
            lengths.add(len, is_cut);
        }
        lengths.add(u32::MAX, false);
        let step = |from, to, packets, truncated| Step {
            from,
            to,
            packets,
            truncated,
        };
        let steps: Vec<Step> = lengths.steps().collect();
        let expected = [
            step(60, 63, 1, 0),
            step(96, 99, 2, 1),
            step(1472, 1535, 2, 1),
            step(63_488, 65_535, 1, 0),
        ];
        assert_eq!(steps, expected);
    }

    proptest! {
        /// Every frame is in the step of its length, by one worker and by several.
        #[test]
        fn workers_add_up(frames in proptest::collection::vec((0u32..70_000, any::<bool>(), 0usize..3), 0..200)) {
            let mut one = Lengths::default();
            let mut workers = [Lengths::default(), Lengths::default(), Lengths::default()];
            for (len, is_cut, worker) in &frames {
                one.add(*len, *is_cut);
                workers[*worker].add(*len, *is_cut);
            }
            let [mut sum, b, c] = workers;
            sum.merge(&b);
            sum.merge(&c);
            prop_assert!(sum.steps().eq(one.steps()));
            for step in one.steps() {
                let of = |frame: &&(u32, bool, usize)| (step.from..=step.to).contains(&u64::from(frame.0.min(65_535)));
                let held = frames.iter().filter(of);
                prop_assert_eq!(held.clone().count() as u64, step.packets);
                prop_assert_eq!(held.filter(|frame| frame.1).count() as u64, step.truncated);
            }
        }
    }

    /// The steps are those of the crate hdrhistogram, for every length.
    #[test]
    fn steps_are_those_of_an_hdr_histogram() {
        let steps = hdrhistogram::Histogram::<u64>::new_with_bounds(4, LONGEST.into(), 1).unwrap();
        assert_eq!(steps.distinct_values(), STEPS);
        for len in 0..=LONGEST {
            let mut lengths = Lengths::default();
            lengths.add(len, false);
            let step = lengths.steps().next().unwrap();
            let expected = (
                steps.lowest_equivalent(len.into()),
                steps.highest_equivalent(len.into()),
            );
            assert_eq!((step.from, step.to), expected, "{len}");
        }
    }
}
