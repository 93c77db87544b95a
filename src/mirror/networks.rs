//! Sets of networks, put together so that an address is looked up in tens of nanoseconds however many there are. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::wire::ip::Address;

/// A network: an address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    ipv6: bool,
    words: [u64; 2],
    masks: [u64; 2],
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NetworkError {
    #[error("'{0}' is no IP address; use for example 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")]
    Address(String),
    #[error("'{prefix}' is no prefix length: {address} has 0 to {most}")]
    Prefix {
        address: IpAddr,
        prefix: String,
        most: u8,
    },
    #[error(
        "{address}/{prefix} has bits set behind its prefix: write {network}/{prefix} for the network, {address} for \
         the one address"
    )]
    HostBits {
        address: IpAddr,
        prefix: u8,
        network: IpAddr,
    },
}

impl FromStr for Network {
    type Err = NetworkError;

    /// `ADDRESS/PREFIX`, or an address alone. An IPv4 address written as IPv6 (`::ffff:10.0.0.1`) is IPv4.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address
            .parse()
            .map_err(|_| NetworkError::Address(address.to_owned()))?;
        let most = if written.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => prefix
                .parse()
                .ok()
                // No sign, no blanks.
                .filter(|len| *len <= most && prefix.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or_else(|| NetworkError::Prefix {
                    address: written,
                    prefix: prefix.to_owned(),
                    most,
                })?,
        };
        let (canonical, canonical_prefix) = match written.to_canonical() {
            v4 @ IpAddr::V4(_) if written.is_ipv6() && prefix >= 96 => (v4, prefix - 96),
            _ => (written, prefix),
        };
        Self::new(canonical, canonical_prefix)
    }
}

/// As it can be typed: `10.0.0.0/8`, and `192.0.2.7` for one address.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address();
        if self.is_one() {
            return address.fmt(f);
        }
        write!(f, "{address}/{}", self.prefix())
    }
}

impl Network {
    /// The network of this address and length of its prefix.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Prefix`] and [`NetworkError::HostBits`].
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most {
            return Err(NetworkError::Prefix {
                address,
                prefix: prefix.to_string(),
                most,
            });
        }
        let Address { words, ipv6 } = address.into();
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        let masks = [(mask >> 64) as u64, mask as u64];
        let [high, low] = words;
        let [high_mask, low_mask] = masks;
        let network = [high & high_mask, low & low_mask];
        if network != words {
            let network = Address {
                words: network,
                ipv6,
            };
            return Err(NetworkError::HostBits {
                address,
                prefix,
                network: network.ip(),
            });
        }
        Ok(Self { ipv6, words, masks })
    }

    /// Whether it is one address alone.
    pub const fn is_one(self) -> bool {
        self.prefix() == if self.ipv6 { 128 } else { 32 }
    }

    /// Whether it is a network of IPv6.
    pub const fn is_ipv6(self) -> bool {
        self.ipv6
    }

    /// Whether an address belongs to it.
    #[inline]
    pub const fn contains(self, address: Address) -> bool {
        let ([high, low], [high_mask, low_mask]) = (address.words, self.masks);
        let [network_high, network_low] = self.words;
        self.ipv6 == address.ipv6
            && high & high_mask == network_high
            && low & low_mask == network_low
    }

    /// The address it begins with.
    pub const fn address(self) -> IpAddr {
        Address {
            words: self.words,
            ipv6: self.ipv6,
        }
        .ip()
    }

    /// Its first and its last address, from the first bit of 128 on.
    const fn ends(self) -> (u128, u128) {
        let ([high, low], [high_mask, low_mask]) = (self.words, self.masks);
        let first = (high as u128) << 64 | low as u128;
        let mask = (high_mask as u128) << 64 | low_mask as u128;
        (first, first | !mask)
    }

    /// The length of its prefix, in bits.
    pub const fn prefix(self) -> u8 {
        let [high, low] = self.masks;
        (high.leading_ones() + low.leading_ones()) as u8
    }

    /// Its address and mask in words of 32 bits, the first one first: one for IPv4, four for IPv6.
    pub fn words(self) -> Vec<(u32, u32)> {
        let halves = |words: [u64; 2]| words.map(|word| [(word >> 32) as u32, word as u32]);
        let (words, masks) = (halves(self.words), halves(self.masks));
        let pairs = words.into_iter().flatten().zip(masks.into_iter().flatten());
        pairs.take(if self.ipv6 { 4 } else { 1 }).collect()
    }
}

/// Networks, as ranges of addresses in their order, none of which touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    /// The upper halves of the first numbers of `v6`: comparing 128 bits makes a processor guess, and guess wrong.
    v6_high: Vec<u64>,
}

/// First and last numbers, apart: a search looks at the first ones alone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges<N> {
    firsts: Vec<N>,
    lasts: Vec<N>,
}

impl<N> Default for Ranges<N> {
    fn default() -> Self {
        Self {
            firsts: Vec::new(),
            lasts: Vec::new(),
        }
    }
}

impl<N: Copy + Ord> Ranges<N> {
    /// Puts ranges in order and together; `next` is the number behind one, if there is any.
    fn of(mut ranges: Vec<(N, N)>, next: impl Fn(N) -> Option<N>) -> Self {
        ranges.sort_unstable();
        let mut joined = Self::default();
        for (first, last) in ranges {
            match joined.lasts.last_mut() {
                Some(known) if next(*known).is_none_or(|next| first <= next) => {
                    *known = last.max(*known);
                }
                _ => {
                    joined.firsts.push(first);
                    joined.lasts.push(last);
                }
            }
        }
        joined
    }

    #[inline]
    fn contains(&self, number: N) -> bool {
        let behind = self.firsts.partition_point(|first| *first <= number);
        let last = behind.checked_sub(1).and_then(|at| self.lasts.get(at));
        last.is_some_and(|last| number <= *last)
    }

    /// The same where no range from number `behind` on has it. Mostly the one before is looked at alone.
    #[inline]
    fn contains_before(&self, behind: usize, number: N) -> bool {
        let Some(at) = behind.checked_sub(1) else {
            return false;
        };
        let (first, last) = (self.firsts.get(at), self.lasts.get(at));
        if first.is_some_and(|first| *first <= number) {
            return last.is_some_and(|last| number <= *last);
        }
        self.contains(number)
    }

    fn iter(&self) -> impl Iterator<Item = (N, N)> {
        self.firsts.iter().copied().zip(self.lasts.iter().copied())
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            let (first, last) = network.ends();
            match network.ipv6 {
                true => v6.push((first, last)),
                false => v4.push(((first >> 96) as u32, (last >> 96) as u32)),
            }
        }
        let v6 = Ranges::of(v6, |last| last.checked_add(1));
        Self {
            v4: Ranges::of(v4, |last| last.checked_add(1)),
            v6_high: v6.firsts.iter().map(|first| (first >> 64) as u64).collect(),
            v6,
        }
    }
}

impl Networks {
    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.v4.firsts.is_empty() && self.v6.firsts.is_empty()
    }

    /// These and those, to let packets in by: none, which lets in all, where one of the two is.
    pub fn let_in_with(&self, others: &Self) -> Self {
        if self.is_empty() || others.is_empty() {
            return Self::default();
        }
        self.fewest().into_iter().chain(others.fewest()).collect()
    }

    /// Whether an address belongs to one of them.
    #[inline]
    pub fn contains(&self, address: Address) -> bool {
        let [high, low] = address.words;
        if address.ipv6 {
            let number = u128::from(high) << 64 | u128::from(low);
            let behind = self.v6_high.partition_point(|first| *first <= high);
            self.v6.contains_before(behind, number)
        } else {
            self.v4.contains((high >> 32) as u32)
        }
    }

    /// First and last addresses of IPv4, in their order.
    pub fn ranges_v4(&self) -> Vec<(u32, u32)> {
        self.v4.iter().collect()
    }

    /// The fewest networks that hold the same addresses, those of IPv4 first.
    pub fn fewest(&self) -> Vec<Network> {
        let mut networks = Vec::new();
        for (first, last) in self.v4.iter() {
            let (first, last) = (u128::from(first), u128::from(last));
            cut(first, last, 32, |first, prefix| {
                let address = Ipv4Addr::from_bits(first as u32);
                networks.extend(Network::new(address.into(), prefix));
            });
        }
        for (first, last) in self.v6.iter() {
            cut(first, last, 128, |first, prefix| {
                let address = Ipv6Addr::from_bits(first);
                networks.extend(Network::new(address.into(), prefix));
            });
        }
        networks
    }
}

/// Cuts a range of numbers of `bits` bits into networks: the largest that begins where the last one ended, and does
/// not go further.
fn cut(mut first: u128, last: u128, bits: u32, mut each: impl FnMut(u128, u8)) {
    loop {
        let aligned = first.trailing_zeros().min(bits);
        let left = last - first;
        // The largest power of two that is not more than what is left, and one more number than `left` says.
        let fits = match left.checked_add(1) {
            Some(count) => count.ilog2(),
            None => 128,
        };
        let free = aligned.min(fits);
        each(first, u8::try_from(bits - free).unwrap_or(0));
        let Some(next) = 1u128
            .checked_shl(free)
            .and_then(|step| first.checked_add(step))
        else {
            return;
        };
        if next > last {
            return;
        }
        first = next;
    }
}

/// Reads networks of a file: one a line; what stands behind `#` is a comment.
///
/// # Errors
///
/// Every line that is none, and that there is no network at all: that would allow every source.
pub fn read_lines(text: &str) -> Result<Vec<Network>, Vec<String>> {
    let mut wrong = Vec::new();
    let mut networks = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (line, _) = line.split_once('#').unwrap_or((line, ""));
        match line.trim() {
            "" => {}
            network => match network.parse() {
                Ok(network) => networks.push(network),
                Err(error) => wrong.push(format!("line {}: {error}", number + 1)),
            },
        }
    }
    if networks.is_empty() && wrong.is_empty() {
        wrong.push("it names no network, and no list allows every source; write one such as 10.0.0.0/8 a line".to_owned());
    }
    if wrong.is_empty() {
        Ok(networks)
    } else {
        Err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| network(text)).collect()
    }

    #[test]
    fn networks_hold_their_addresses() {
        let cases = [
            ("10.0.0.0/8", "10.255.3.4", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
            ("192.0.2.128/25", "192.0.2.127", false),
            ("192.0.2.128/25", "192.0.2.128", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "203.0.113.9", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("2001:db8:0:1::/64", "2001:db8:0:1:ffff::", true),
            ("2001:db8:0:1::/64", "2001:db8:0:2::", false),
            ("2001:db8::8/125", "2001:db8::f", true),
            ("2001:db8::8/125", "2001:db8::10", false),
            ("fe80::1", "fe80::1", true),
            ("::ffff:10.1.0.0/112", "10.1.200.3", true),
            ("::ffff:10.1.0.0/112", "10.2.0.0", false),
        ];
        for (text, inside, holds) in cases {
            let network = network(text);
            assert_eq!(
                network.contains(address(inside)),
                holds,
                "{inside} in {text}"
            );
            let all: Networks = [network].into_iter().collect();
            assert_eq!(all.contains(address(inside)), holds, "{inside} in {text}");
        }
        assert_eq!(network("10.0.0.0/9").words(), [(0x0a00_0000, 0xff80_0000)]);
        let words = [
            (0x2001_0db8, !0),
            (0x0001_0000, 0xffff_0000),
            (0, 0),
            (0, 0),
        ];
        assert_eq!(network("2001:db8:1::/48").words(), words);
    }

    #[test]
    fn what_is_no_network_says_why() {
        let said = |text: &str| text.parse::<Network>().unwrap_err().to_string();
        for text in ["", "10.0.0", "eth0", "/8", "10.0.0.0.0/8", "fe80::1%eth0"] {
            assert!(
                said(text).contains("is no IP address"),
                "{text}: {}",
                said(text)
            );
        }
        for text in [
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/ 8",
            "10.0.0.0/8/8",
            "::/129",
        ] {
            assert!(
                said(text).contains("is no prefix length"),
                "{text}: {}",
                said(text)
            );
        }
        assert_eq!(
            said("10.0.0.5/24"),
            "10.0.0.5/24 has bits set behind its prefix: write 10.0.0.0/24 for the network, 10.0.0.5 for the one \
             address"
        );
        assert!(said("2001:db8::1/64").contains("write 2001:db8::/64"));
    }

    #[test]
    fn networks_are_put_together() {
        let fewest = |texts: &[&str]| {
            let fewest = networks(texts).fewest();
            fewest.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            fewest(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.7", "10.0.2.0/25"]),
            ["10.0.0.0/23", "10.0.2.0/25"]
        );
        assert_eq!(
            fewest(&["0.0.0.0/1", "128.0.0.0/1", "::/0"]),
            ["0.0.0.0/0", "::/0"]
        );
        assert_eq!(
            fewest(&["255.255.255.255", "255.255.255.254"]),
            ["255.255.255.254/31"]
        );
        assert_eq!(
            fewest(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            ["10.0.0.1", "10.0.0.2/31"]
        );
        assert_eq!(
            fewest(&["fd00::/65", "fd00:0:0:0:8000::/65", "ffff::/16"]),
            ["fd00::/64", "ffff::/16"]
        );
        assert!(networks(&[]).is_empty() && !networks(&["::1"]).is_empty());
        assert_eq!(
            networks(&["10.0.0.0/31", "10.0.0.4"]).ranges_v4(),
            [(0x0a00_0000, 0x0a00_0001), (0x0a00_0004, 0x0a00_0004)]
        );
    }

    #[test]
    fn lines_of_a_file() {
        let text = "# mirror sources\n10.0.0.0/8 # all\n\n  2001:db8::1\r\n";
        assert_eq!(
            read_lines(text),
            Ok(vec![network("10.0.0.0/8"), network("2001:db8::1")])
        );
        let wrong = read_lines("10.0.0.1/8\n10.0.0.0/8\nx\n").unwrap_err();
        assert_eq!(wrong.len(), 2);
        assert!(
            wrong[0].starts_with("line 1: 10.0.0.1/8 has bits set"),
            "{wrong:?}"
        );
        assert!(
            wrong[1].starts_with("line 3: 'x' is no IP address"),
            "{wrong:?}"
        );
        assert!(read_lines("# nothing\n").unwrap_err()[0].contains("names no network"));
    }

    proptest! {
        /// Put together or one by one: the same addresses belong to them.
        #[test]
        fn as_one_by_one(
            given in proptest::collection::vec((any::<u32>(), 20u8..=32, any::<bool>()), 1..40),
            near in proptest::collection::vec((any::<prop::sample::Index>(), -2i64..3, any::<bool>()), 20),
        ) {
            let one = |base: u32, prefix: u8, ipv6: bool| {
                // Close together, so that they touch.
                let base = base & 0x0000_ffff;
                if ipv6 {
                    let prefix = prefix + 96;
                    let bits = (u128::from(base) >> (128 - prefix)) << (128 - prefix);
                    Network::new(Ipv6Addr::from_bits(bits).into(), prefix).unwrap()
                } else {
                    let bits = (u64::from(base) >> (32 - prefix)) << (32 - prefix);
                    Network::new(Ipv4Addr::from_bits(bits as u32).into(), prefix).unwrap()
                }
            };
            let given: Vec<Network> = given.into_iter().map(|(base, prefix, ipv6)| one(base, prefix, ipv6)).collect();
            let all: Networks = given.iter().copied().collect();
            let fewest = all.fewest();
            prop_assert!(fewest.len() <= given.len());
            for (index, step, last) in near {
                let network = index.get(&given);
                let (first, end) = network.ends();
                let unit = if network.is_ipv6() { 1 } else { 1i128 << 96 };
                let bits = (if last { end } else { first }).wrapping_add_signed(unit * i128::from(step));
                let address = if network.is_ipv6() {
                    IpAddr::V6(Ipv6Addr::from_bits(bits))
                } else {
                    IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32))
                };
                let address = Address::from(address);
                let expected = given.iter().any(|network| network.contains(address));
                prop_assert_eq!(all.contains(address), expected, "{:?}", address.ip());
                prop_assert_eq!(fewest.iter().any(|network| network.contains(address)), expected);
            }
        }
    }
}
