//! Who sent packets without being allowed to, by network, in a table of fixed size. Pure.

use super::networks::Network;
use crate::wire::ip::Address;

/// Most networks counted (Metwally et al., "Efficient computation of frequent and top-k elements": the space-saving
/// table). Whoever sends more than a 64th of all refused packets is among them.
const COUNTED: usize = 64;
/// Most networks told.
pub const TOLD: usize = 16;

/// Counts refused packets by networks: of IPv4 by the first 24 bits, of IPv6 by the first 64. However many come, those
/// with the most packets stay: a new one takes the place of the one with the fewest, and begins with its count.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    /// The first word of each network, and whether it is IPv6: these alone are looked through.
    keys: Vec<(u64, bool)>,
    /// The packets of each, at the most.
    most: Vec<u64>,
    /// The rest of what is known of each.
    entries: Vec<Entry>,
    /// Where the last one is: the next packet is mostly from there.
    last: usize,
    /// Some were forgotten.
    made_room: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// So many of its packets may have been those of a network that was forgotten.
    others: u64,
    /// The address, while there is one alone.
    one: Option<Address>,
}

/// A network, or one address, that was not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedSource {
    /// The one address that sent, or the network in which several did.
    pub source: Network,
    /// Its packets.
    pub packets: u64,
    /// They may be more: it was not counted all the time.
    pub at_least: bool,
}

/// The network that an address belongs to.
const fn key_of(source: Address) -> (u64, bool) {
    let [high, _] = source.words;
    let high = if source.ipv6 {
        high
    } else {
        high & 0xffff_ff00_0000_0000
    };
    (high, source.ipv6)
}

impl Refused {
    /// Counts one packet from an address.
    pub fn add(&mut self, source: Address) {
        let key = key_of(source);
        let known = match self.keys.get(self.last) == Some(&key) {
            true => Some(self.last),
            false => self.keys.iter().position(|known| *known == key),
        };
        let place = known.unwrap_or_else(|| self.make_room(key, source));
        self.last = place;
        if let Some(most) = self.most.get_mut(place) {
            *most += 1;
        }
        if let Some(entry) = self.entries.get_mut(place) {
            entry.one = entry.one.filter(|one| *one == source);
        }
    }

    fn make_room(&mut self, key: (u64, bool), source: Address) -> usize {
        let one = Some(source);
        if self.keys.len() < COUNTED {
            self.keys.push(key);
            self.most.push(0);
            self.entries.push(Entry { others: 0, one });
            return self.keys.len() - 1;
        }
        self.made_room = true;
        let others = self.most.iter().copied().min().unwrap_or(0);
        let place = self
            .most
            .iter()
            .position(|most| *most == others)
            .unwrap_or(0);
        if let (Some(known), Some(entry)) = (self.keys.get_mut(place), self.entries.get_mut(place))
        {
            *known = key;
            *entry = Entry { others, one };
        }
        place
    }

    /// Most packets of a network that is not in the table.
    fn most_unknown(&self) -> u64 {
        let fewest = self.most.iter().copied().min();
        fewest.filter(|_| self.made_room).unwrap_or(0)
    }

    fn iter(&self) -> impl Iterator<Item = ((u64, bool), u64, Entry)> {
        let counts = self.most.iter().zip(&self.entries);
        let all = self.keys.iter().zip(counts);
        all.map(|(key, (most, entry))| (*key, *most, *entry))
    }

    /// Adds the counts of another worker.
    pub fn merge(&mut self, other: &Self) {
        let (unknown_here, unknown_there) = (self.most_unknown(), other.most_unknown());
        let mut all: Vec<_> = self.iter().collect();
        for (key, most, entry) in &mut all {
            let there = other.iter().find(|(there, ..)| there == key);
            *most += there.map_or(unknown_there, |(_, most, _)| most);
            entry.others += there.map_or(unknown_there, |(_, _, entry)| entry.others);
            if let Some((_, _, there)) = there {
                entry.one = entry.one.filter(|one| Some(*one) == there.one);
            }
        }
        for (key, most, entry) in other.iter() {
            if !self.keys.contains(&key) {
                let others = entry.others + unknown_here;
                all.push((key, most + unknown_here, Entry { others, ..entry }));
            }
        }
        all.sort_by_key(|(key, most, _)| (std::cmp::Reverse(*most), *key));
        self.made_room |= other.made_room || all.len() > COUNTED;
        all.truncate(COUNTED);
        self.keys = all.iter().map(|(key, ..)| *key).collect();
        self.most = all.iter().map(|(_, most, _)| *most).collect();
        self.entries = all.into_iter().map(|(.., entry)| entry).collect();
        self.last = 0;
    }

    /// The networks with the most packets, those with the most first, 16 at the most.
    pub fn most(&self) -> Vec<RefusedSource> {
        let told = self.iter().filter_map(|((high, ipv6), most, entry)| {
            let words = [high, 0];
            let source = match entry.one {
                Some(one) => Network::new(one.ip(), if ipv6 { 128 } else { 32 }),
                None => Network::new(Address { words, ipv6 }.ip(), if ipv6 { 64 } else { 24 }),
            };
            Some(RefusedSource {
                source: source.ok()?,
                packets: most - entry.others,
                at_least: entry.others > 0,
            })
        });
        let mut all: Vec<RefusedSource> = told.filter(|refused| refused.packets > 0).collect();
        all.sort_by_key(|refused| (std::cmp::Reverse(refused.packets), refused.source.address()));
        all.truncate(TOLD);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn told(refused: &Refused) -> Vec<(String, u64, bool)> {
        let most = refused.most().into_iter();
        most.map(|one| (one.source.to_string(), one.packets, one.at_least))
            .collect()
    }

    #[test]
    fn one_address_is_told_and_several_are_a_network() {
        let mut refused = Refused::default();
        for source in [
            "10.1.2.3",
            "10.1.2.3",
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.1",
            "fd00:1::1",
        ] {
            refused.add(address(source));
        }
        let expected = [("192.0.2.0/24", 3), ("10.1.2.3", 2), ("fd00:1::1", 1)];
        assert_eq!(
            told(&refused),
            expected.map(|(source, packets)| (source.to_owned(), packets, false))
        );
        let mut other = Refused::default();
        for source in ["10.1.2.3", "10.1.2.3", "fd00:1::ffff", "198.51.100.9"] {
            other.add(address(source));
        }
        refused.merge(&other);
        let expected = [
            ("10.1.2.3", 4),
            ("192.0.2.0/24", 3),
            ("fd00:1::/64", 2),
            ("198.51.100.9", 1),
        ];
        assert_eq!(
            told(&refused),
            expected.map(|(source, packets)| (source.to_owned(), packets, false))
        );
    }

    /// However many others come, those with the most packets are told, and no count is too high.
    #[test]
    fn the_loudest_are_told() {
        let mut refused = Refused::default();
        let (loud, late) = (address("192.0.2.1"), address("2001:db8::1"));
        let mut sent = [0; 2];
        for number in 0..100_000u32 {
            let random = number.wrapping_mul(2_654_435_761);
            refused.add(IpAddr::from(random.to_be_bytes()).into());
            refused.add(loud);
            sent[0] += 1;
            if number > 50_000 && number % 2 == 0 {
                refused.add(late);
                sent[1] += 1;
            }
        }
        let mut other = Refused::default();
        for _ in 0..50_000 {
            other.add(address("198.51.100.9"));
        }
        refused.merge(&other);
        let all = told(&refused);
        assert!(all.len() <= TOLD);
        let of = |source: &str| all.iter().find(|(told, ..)| told == source).unwrap();
        assert_eq!(
            *of("192.0.2.1"),
            ("192.0.2.1".to_owned(), sent[0], false),
            "there from the beginning"
        );
        let (_, packets, at_least) = of("2001:db8::1");
        assert!(
            *at_least && *packets <= sent[1] && *packets > sent[1] / 2,
            "{packets} of {}",
            sent[1]
        );
        // It may have been forgotten by the other worker.
        let (_, packets, at_least) = of("198.51.100.9");
        assert!(*packets == 50_000 && *at_least);
    }
}
