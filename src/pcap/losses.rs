//! What a pcapng file says of packets that were lost before it was written, pure: interface statistics
//! (draft-ietf-opsawg-pcapng §4.6) and the drop counts of single packets (§4.3).

use super::options::{Options, number64};

const ISB_IFDROP: u16 = 5;
const ISB_OSDROP: u16 = 7;

/// What is said of one interface; `None` where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Lost by the interface, by its last statistics: they count from the start of the capture.
    by_interface: Option<u64>,
    /// Lost by the operating system, likewise.
    by_system: Option<u64>,
    /// Lost between packets, the sum.
    between: Option<u64>,
}

impl Losses {
    /// Takes the options of a statistics block.
    pub fn statistics(&mut self, options: Options<'_>, big_endian: bool) {
        for (code, value) in options {
            let count = (value.len() == 8).then(|| number64(value, 0, big_endian));
            match code {
                ISB_IFDROP => self.by_interface = count.or(self.by_interface),
                ISB_OSDROP => self.by_system = count.or(self.by_system),
                _ => {}
            }
        }
    }

    /// Adds packets that were lost in front of one.
    pub fn before_packet(&mut self, packets: u64) {
        self.between = add(self.between, Some(packets));
    }

    /// What the interfaces of one section say together. `is_ours`: vxtap wrote what is said of it.
    pub fn of_section<'a>(interfaces: impl Iterator<Item = (&'a Self, bool)>) -> Option<u64> {
        let (mut sum, mut ours) = (None, None);
        for (losses, is_ours) in interfaces {
            let Self {
                by_interface,
                by_system,
                between,
            } = *losses;
            if is_ours {
                // Nobody can tell whose the packets were that the kernel lost: each interface has them all.
                ours = ours.max(by_interface);
                sum = add(sum, by_system);
            } else {
                // Both count the same packets, where a capture has both.
                sum = add(sum, add(by_interface, by_system).max(between));
            }
        }
        add(sum, ours)
    }
}

/// The sum of two counts that may be missing.
pub fn add(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(by_interface: u64, by_system: u64, between: u64) -> Losses {
        let said = |count| (count > 0).then_some(count);
        Losses {
            by_interface: said(by_interface),
            by_system: said(by_system),
            between: said(between),
        }
    }

    fn sum(interfaces: &[(Losses, bool)]) -> Option<u64> {
        Losses::of_section(
            interfaces
                .iter()
                .map(|(losses, is_ours)| (losses, *is_ours)),
        )
    }

    #[test]
    fn the_last_statistics_count() {
        let mut losses = Losses::default();
        let big_endian = [
            0, 5, 0, 8, 0, 0, 0, 0, 0, 0, 1, 0, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2,
        ];
        losses.statistics(Options::new(&big_endian, true), true);
        assert_eq!(sum(&[(losses, false)]), Some(258));
        let again = [0, 5, 0, 8, 0, 0, 0, 0, 0, 0, 1, 1];
        losses.statistics(Options::new(&again, true), true);
        assert_eq!(sum(&[(losses, false)]), Some(259));
        let odd = [0, 5, 0, 4, 0, 0, 0, 9];
        losses.statistics(Options::new(&odd, true), true);
        assert_eq!(
            sum(&[(losses, false)]),
            Some(259),
            "not a count of eight bytes"
        );
    }

    #[test]
    fn interfaces_add_up_but_ours_share_what_the_kernel_lost() {
        assert_eq!(sum(&[]), None);
        assert_eq!(
            sum(&[(Losses::default(), false), (Losses::default(), true)]),
            None
        );
        let other = (losses(3, 4, 0), false);
        assert_eq!(sum(&[other, other]), Some(14));
        let ours = [(losses(3, 4, 0), true), (losses(3, 1, 0), true)];
        assert_eq!(sum(&ours), Some(3 + 4 + 1));
        assert_eq!(sum(&[ours[0], other]), Some(14));
        let both = (losses(3, 4, 5), false);
        assert_eq!(sum(&[both]), Some(7), "the same packets twice");
        assert_eq!(sum(&[(losses(0, 1, 5), false)]), Some(5));
        let full = (losses(u64::MAX, 4, 0), false);
        assert_eq!(sum(&[full, full]), Some(u64::MAX));
    }
}
