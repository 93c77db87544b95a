//! What frames without an IP packet hold: the EtherTypes seen most often, in memory that does not grow.

use std::cmp::Reverse;
use std::fmt;

use crate::wire::numbers::ether_type;

/// EtherTypes counted at a time. Networks show a dozen; more than this are made up, and then only the most
/// frequent ones are right, to within what the rarest of the table counts (Metwally et al., "Efficient
/// computation of frequent and top-k elements in data streams", 2005).
const KEPT: usize = 64;
/// As many are told.
pub const TOLD: usize = 8;

/// What a frame holds in place of IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// It ends before it says so.
    #[default]
    Cut,
    /// An 802.3 length, and LLC behind it.
    Llc,
    /// An EtherType. That of IP where the IP header is cut, or cannot be one.
    EtherType(u16),
}

impl Content {
    /// From the last EtherType that was reached in a frame, or its 802.3 length; 0 where it is cut.
    pub const fn of(ether_type: u16) -> Self {
        match ether_type {
            0 => Self::Cut,
            1..0x0600 => Self::Llc,
            _ => Self::EtherType(ether_type),
        }
    }

    /// What people call it; `None` for an EtherType that is not known.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Cut => Some("cut before the EtherType"),
            Self::Llc => Some("LLC"),
            Self::EtherType(number) => ether_type::name(number),
        }
    }
}

/// `0x88cc`, `802.3`, or `none` where the frame is cut.
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => f.write_str("none"),
            Self::Llc => f.write_str("802.3"),
            Self::EtherType(number) => write!(f, "{number:#06x}"),
        }
    }
}

/// How often each was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtherTypes {
    seen: [(Content, u64); KEPT],
    len: usize,
}

impl Default for EtherTypes {
    fn default() -> Self {
        Self {
            seen: [(Content::Cut, 0); KEPT],
            len: 0,
        }
    }
}

impl EtherTypes {
    /// Counts a frame by the last EtherType that was reached in it.
    pub fn count(&mut self, ether_type: u16) {
        let content = Content::of(ether_type);
        let known = self.seen.iter_mut().take(self.len);
        if let Some((_, packets)) = known.into_iter().find(|(known, _)| *known == content) {
            *packets += 1;
        } else if let Some(free) = self.seen.get_mut(self.len) {
            *free = (content, 1);
            self.len += 1;
        } else if let Some(rarest) = self.seen.iter_mut().min_by_key(|(_, packets)| *packets) {
            // It may have come as often before it was forgotten.
            *rarest = (content, rarest.1 + 1);
        }
    }

    /// Adds what another worker counted.
    pub fn merge(&mut self, other: &Self) {
        let mut all = self.sorted();
        for (content, packets) in other.sorted() {
            match all.iter_mut().find(|(known, _)| *known == content) {
                Some((_, sum)) => *sum += packets,
                None => all.push((content, packets)),
            }
        }
        most_first(&mut all);
        self.len = all.len().min(KEPT);
        for (place, counted) in self.seen.iter_mut().zip(all) {
            *place = counted;
        }
    }

    /// The most frequent ones with their packets, most first, [`TOLD`] at the most.
    pub fn most(&self) -> Vec<(Content, u64)> {
        let mut all = self.sorted();
        all.truncate(TOLD);
        all
    }

    fn sorted(&self) -> Vec<(Content, u64)> {
        let mut all: Vec<_> = self.seen.iter().take(self.len).copied().collect();
        most_first(&mut all);
        all
    }
}

fn most_first(counts: &mut [(Content, u64)]) {
    counts.sort_by_key(|(content, packets)| (Reverse(*packets), *content));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_first_with_names() {
        let mut types = EtherTypes::default();
        for ether_type in [0x88cc, 0x0806, 0x0806, 39, 1500, 0, 0x9999] {
            types.count(ether_type);
        }
        let told: Vec<_> = types
            .most()
            .into_iter()
            .map(|(content, packets)| (content.to_string(), content.name(), packets))
            .collect();
        let expected = [
            ("802.3", Some("LLC"), 2),
            ("0x0806", Some("ARP"), 2),
            ("none", Some("cut before the EtherType"), 1),
            ("0x88cc", Some("LLDP"), 1),
            ("0x9999", None, 1),
        ];
        assert_eq!(
            told,
            expected.map(|(number, name, packets)| (number.to_owned(), name, packets))
        );
    }

    /// Any split over workers gives the same, in any order.
    #[test]
    fn workers_add_up() {
        let packets: Vec<u16> = (0..5000u32).map(|n| 0x0800 + (n * n % 61) as u16).collect();
        let mut alone = EtherTypes::default();
        packets
            .iter()
            .for_each(|ether_type| alone.count(*ether_type));
        for workers in 2..5 {
            let mut shares = vec![EtherTypes::default(); workers];
            for (at, ether_type) in packets.iter().enumerate() {
                shares[at * 7 % workers].count(*ether_type);
            }
            let mut sum = EtherTypes::default();
            shares.iter().rev().for_each(|share| sum.merge(share));
            assert_eq!(sum.most(), alone.most());
        }
    }

    /// A flood of made-up types does not hide the frequent ones, nor make the table grow.
    #[test]
    fn a_flood_leaves_the_frequent_ones() {
        let mut types = EtherTypes::default();
        for n in 0..60_000u32 {
            types.count(0x0600 + (n % 50_000) as u16);
            types.count(if n % 3 == 0 { 0x88cc } else { 0x0806 });
        }
        let most = types.most();
        assert_eq!(most.len(), TOLD);
        assert_eq!(most[0].0, Content::EtherType(0x0806));
        assert!((40_000..42_000).contains(&most[0].1), "{most:?}");
        assert_eq!(most[1].0, Content::EtherType(0x88cc));
        let before = most[0].1;
        types.merge(&types.clone());
        assert_eq!(types.most()[0].1, 2 * before);
    }
}
