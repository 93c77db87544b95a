//! The private networks that a mirror session's packets come from and go to: which part of a cloud it shows.
//!
//! Networks are told apart by prefixes of /24 (IPv6: /64). Where there would be too many, all prefixes become shorter,
//! so that what comes out depends on the packets alone, in whatever order they came, and what several workers saw adds
//! up. Public addresses are left out: they are those of the whole Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ip::Address;

/// Most networks of a session and IP version.
const MOST: usize = 16;

/// Most bytes of memory that a session's networks take, beside themselves: it grows as far as it needs.
pub const MEMORY_BYTES: usize = 2 * MOST * size_of::<u64>();

/// Lengths of IPv4 prefixes, in bits.
const V4: [u32; 5] = [24, 20, 16, 12, 8];
/// Lengths of IPv6 prefixes, in bits.
const V6: [u32; 5] = [64, 56, 48, 32, 8];

/// Networks of both IP versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    v4: Networks<false>,
    v6: Networks<true>,
}

/// Networks, each the first 64 bits of an address with zeros behind the prefix; an IPv4 address is the upper half.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Networks<const IPV6: bool> {
    /// Which of the lengths they have.
    level: usize,
    /// At most [`MOST`].
    known: Vec<u64>,
}

impl Prefixes {
    /// Notes an address of a packet.
    #[inline]
    pub fn add(&mut self, address: Address) {
        let [word, _] = address.words;
        if address.ipv6 {
            if is_private_v6(word) {
                self.v6.add(word);
            }
        } else if is_private_v4(word) {
            self.v4.add(word);
        }
    }

    /// Adds what another worker saw.
    pub fn merge(&mut self, other: &Self) {
        self.v4.merge(&other.v4);
        self.v6.merge(&other.v6);
    }

    /// The networks with the lengths of their prefixes, IPv4 first, in order.
    pub fn list(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.v4.list().chain(self.v6.list())
    }
}

impl<const IPV6: bool> Networks<IPV6> {
    const fn prefix_len(&self) -> u32 {
        let lengths = if IPV6 { V6 } else { V4 };
        match self.level {
            0 => lengths[0],
            1 => lengths[1],
            2 => lengths[2],
            3 => lengths[3],
            _ => lengths[4],
        }
    }

    #[inline]
    fn add(&mut self, word: u64) {
        let network = word & (u64::MAX << (64 - self.prefix_len()));
        if !self.known.contains(&network) {
            self.add_new(word);
        }
    }

    #[cold]
    fn add_new(&mut self, word: u64) {
        loop {
            let network = word & (u64::MAX << (64 - self.prefix_len()));
            if self.known.contains(&network) {
                return;
            }
            if self.known.len() < MOST {
                return self.known.push(network);
            }
            if self.level + 1 >= V4.len() {
                // There are no more private networks of the shortest length than there is room for.
                return;
            }
            self.shorten_to(self.level + 1);
        }
    }

    fn shorten_to(&mut self, level: usize) {
        self.level = level;
        let old = std::mem::take(&mut self.known);
        old.into_iter().for_each(|word| self.add(word));
    }

    fn merge(&mut self, other: &Self) {
        if other.level > self.level {
            self.shorten_to(other.level);
        }
        other.known.iter().for_each(|word| self.add(*word));
    }

    fn list(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let mut words = self.known.clone();
        words.sort_unstable();
        let prefix_len = self.prefix_len();
        words.into_iter().map(move |word| {
            let address = if IPV6 {
                IpAddr::V6(Ipv6Addr::from_bits(u128::from(word) << 64))
            } else {
                IpAddr::V4(Ipv4Addr::from_bits((word >> 32) as u32))
            };
            (address, prefix_len)
        })
    }
}

/// Private addresses (RFC 1918 §3) and those shared behind a carrier's NAT, which clouds use for their own
/// services (RFC 6598 §7).
#[inline]
const fn is_private_v4(word: u64) -> bool {
    match word >> 56 {
        10 => true,
        172 => (word >> 52) & 0xf == 1,
        192 => (word >> 48) & 0xff == 168,
        100 => (word >> 54) & 3 == 1,
        _ => false,
    }
}

/// Unique local addresses (RFC 4193 §3.1).
#[inline]
const fn is_private_v6(word: u64) -> bool {
    word >> 57 == 0xfc >> 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Prefixes {
        let mut prefixes = Prefixes::default();
        for address in addresses {
            prefixes.add(address.parse::<IpAddr>().unwrap().into());
        }
        prefixes
    }

    fn told(prefixes: &Prefixes) -> Vec<String> {
        let list = prefixes.list();
        list.map(|(address, len)| format!("{address}/{len}"))
            .collect()
    }

    #[test]
    fn private_networks_only() {
        let prefixes = seen([
            "10.1.2.3",
            "10.1.2.99",
            "8.8.8.8",
            "172.16.0.1",
            "172.32.0.1",
            "192.168.7.1",
            "192.169.7.1",
            "100.64.1.1",
            "100.128.1.1",
            "fd00:1:2:3::1",
            "2001:db8::1",
            "fe80::1",
        ]);
        let networks = [
            "10.1.2.0/24",
            "100.64.1.0/24",
            "172.16.0.0/24",
            "192.168.7.0/24",
            "fd00:1:2:3::/64",
        ];
        assert_eq!(told(&prefixes), networks);
    }

    #[test]
    fn many_become_shorter() {
        let many: Vec<String> = (0..17).map(|third| format!("10.0.{third}.1")).collect();
        let mut prefixes = seen(many.iter().map(String::as_str));
        assert_eq!(told(&prefixes), ["10.0.0.0/20", "10.0.16.0/20"]);
        prefixes.merge(&seen(["192.168.1.1", "fd00::1"]));
        let networks = ["10.0.0.0/20", "10.0.16.0/20", "192.168.0.0/20", "fd00::/64"];
        assert_eq!(told(&prefixes), networks);
    }

    proptest! {
        /// The order does not matter, nor who saw what.
        #[test]
        fn workers_add_up(words in prop::collection::vec((any::<u32>(), any::<bool>()), 0..200)) {
            let address = |(word, is_near): (u32, bool)| {
                let low = if is_near { word & 0xffff } else { word & 0xff_ffff };
                Address::from(IpAddr::V4(Ipv4Addr::from_bits(10 << 24 | low)))
            };
            let mut all = Prefixes::default();
            words.iter().for_each(|word| all.add(address(*word)));
            let (mut one, mut other) = (Prefixes::default(), Prefixes::default());
            for (at, word) in words.iter().rev().enumerate() {
                let worker = if at % 3 == 0 { &mut one } else { &mut other };
                worker.add(address(*word));
            }
            one.merge(&other);
            prop_assert_eq!(told(&one), told(&all));
            prop_assert!(told(&all).len() <= MOST);
        }
    }
}
