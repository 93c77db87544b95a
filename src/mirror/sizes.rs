//! Which sizes packets were left with, in bounded memory.
//!
//! The summary of Misra and Gries (1982): while there is room each size has its own count; a size that finds no
//! room takes as much from every count as it has itself. A size that more than one packet in [`SIZES_KEPT`]
//! has is never lost, however many others come and in whatever order, and counts of several workers add up.

/// Distinct sizes remembered. Sessions that are cut show one or a few.
pub const SIZES_KEPT: usize = 64;

/// What a packet was left with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Bytes of inner frame that arrived.
    pub frame: u32,
    /// Bytes of the outer IP packet around it; 0 when there was none.
    pub outer: u32,
}

/// How often each size was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SizeCounts {
    sizes: Vec<(Size, u64)>,
    total: u64,
    /// A size may have been seen so many times more than its count says.
    passed_over: u64,
}

impl SizeCounts {
    /// Counts a size.
    pub fn add(&mut self, size: Size, count: u64) {
        self.total += count;
        self.keep(size, count);
    }

    fn keep(&mut self, size: Size, count: u64) {
        if let Some((_, seen)) = self.sizes.iter_mut().find(|(known, _)| *known == size) {
            *seen += count;
        } else if self.sizes.len() < SIZES_KEPT {
            self.sizes.push((size, count));
        } else {
            let fewest = self.sizes.iter().map(|(_, seen)| *seen).min();
            let taken = fewest.unwrap_or_default().min(count);
            self.sizes.iter_mut().for_each(|(_, seen)| *seen -= taken);
            self.sizes.retain(|(_, seen)| *seen > 0);
            self.passed_over += taken;
            if count > taken {
                self.sizes.push((size, count - taken));
            }
        }
    }

    /// All that were counted.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Those of the sizes asked for: exact up to [`SIZES_KEPT`] sizes, at least so many beyond.
    pub fn of(&self, asked: impl Fn(Size) -> bool) -> u64 {
        let counts = self.sizes.iter().filter(|(size, _)| asked(*size));
        counts.map(|(_, seen)| seen).sum()
    }

    /// The length that at least nine in ten share; `length` picks it.
    pub fn constant(&self, length: impl Fn(Size) -> u32) -> Option<u32> {
        let of = |asked| self.of(|size| length(size) == asked);
        let lengths = self.sizes.iter().map(|(size, _)| length(*size));
        let (seen, most) = lengths.map(|asked| (of(asked), asked)).max()?;
        let at_most = seen + self.passed_over;
        (at_most.saturating_mul(10) >= self.total.saturating_mul(9)).then_some(most)
    }

    /// Adds the counts of another worker.
    pub fn merge(&mut self, other: &Self) {
        for (size, seen) in &other.sizes {
            self.keep(*size, *seen);
        }
        self.total += other.total;
        self.passed_over += other.passed_over;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(frame: u32) -> Size {
        let outer = frame + 36;
        Size { frame, outer }
    }

    #[test]
    fn nine_in_ten_are_constant() {
        let mut counts = SizeCounts::default();
        assert_eq!(counts.constant(|size| size.frame), None);
        counts.add(frame(96), 9);
        counts.add(frame(80), 1);
        assert_eq!(counts.constant(|size| size.frame), Some(96));
        counts.add(frame(81), 1);
        assert_eq!(counts.constant(|size| size.frame), None);
        assert_eq!(counts.of(|size| size.frame > 80), 10);
    }

    #[test]
    fn one_length_may_be_constant_where_the_other_is_not() {
        let mut counts = SizeCounts::default();
        for frame in 1400..1410 {
            counts.add(Size { frame, outer: 1500 }, 1);
        }
        assert_eq!(counts.constant(|size| size.frame), None);
        assert_eq!(counts.constant(|size| size.outer), Some(1500));
    }

    /// Odd sizes come first and fill every place, or come between: the one that matters is found all the same,
    /// by one worker and by several.
    #[test]
    fn odd_sizes_do_not_hide_the_one_that_matters() {
        let odd: Vec<u32> = (200..300).collect();
        let true_size = vec![96; 1900];
        let between = odd.iter().flat_map(|odd| {
            let mut twenty = vec![96; 19];
            twenty.push(*odd);
            twenty
        });
        let orders: [Vec<u32>; 3] = [
            [odd.clone(), true_size.clone()].concat(),
            [true_size, odd.clone()].concat(),
            between.collect(),
        ];
        for order in orders {
            let mut one = SizeCounts::default();
            order.iter().for_each(|size| one.add(frame(*size), 1));
            let mut workers = [
                SizeCounts::default(),
                SizeCounts::default(),
                SizeCounts::default(),
            ];
            for (at, size) in order.iter().enumerate() {
                workers[at % 3].add(frame(*size), 1);
            }
            let mut several = SizeCounts::default();
            workers.iter().for_each(|worker| several.merge(worker));
            for counts in [one, several] {
                assert_eq!(counts.constant(|size| size.frame), Some(96));
                assert_eq!(counts.total(), 2000);
                assert!(counts.sizes.len() <= SIZES_KEPT);
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_constant_by_being_passed_over() {
        let mut counts = SizeCounts::default();
        for size in 0..100_000 {
            counts.add(frame(size), 1);
            assert!(counts.sizes.len() <= SIZES_KEPT);
        }
        assert_eq!(counts.total(), 100_000);
        assert_eq!(counts.constant(|size| size.frame), None);
        // Many workers with many sizes each.
        let mut all = SizeCounts::default();
        for worker in 0..8 {
            let mut part = SizeCounts::default();
            (0..1000).for_each(|size| part.add(frame(worker * 1000 + size), 2));
            all.merge(&part);
        }
        assert_eq!(
            (all.total(), all.constant(|size| size.outer)),
            (16_000, None)
        );
        assert!(all.sizes.len() <= SIZES_KEPT);
    }
}
