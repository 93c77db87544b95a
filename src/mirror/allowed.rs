//! Who may feed the run: networks that outer packets may come from, and VNIs that are wanted. Pure.
//!
//! Port 4789 has no authentication, and a packet ring passes the host's firewall: these lists say whom to
//! listen to. An empty list allows everything.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::wire::Vni;
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
        let Self {
            words,
            ipv6,
            masks: [high, low],
        } = *self;
        let address = Address { words, ipv6 }.ip();
        if self.is_one() {
            return address.fmt(f);
        }
        write!(f, "{address}/{}", high.leading_ones() + low.leading_ones())
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
        let [high, low] = self.masks;
        let ones = high.leading_ones() + low.leading_ones();
        ones == if self.ipv6 { 128 } else { 32 }
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

    /// Its address and mask in words of 32 bits, the first one first: one for IPv4, four for IPv6.
    pub fn words(self) -> Vec<(u32, u32)> {
        let halves = |words: [u64; 2]| words.map(|word| [(word >> 32) as u32, word as u32]);
        let (words, masks) = (halves(self.words), halves(self.masks));
        let pairs = words.into_iter().flatten().zip(masks.into_iter().flatten());
        pairs.take(if self.ipv6 { 4 } else { 1 }).collect()
    }
}

/// A list of VNIs and ranges of them: `5`, `5,10-20`. Ranges are in their order, none of which touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VniList(Vec<(u32, u32)>);

impl VniList {
    /// All VNIs of these lists.
    pub fn joined(lists: &[Self]) -> Self {
        let ranges = lists.iter().flat_map(|list| list.0.iter().copied());
        Self::of(ranges.collect())
    }

    fn of(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(known) if first <= known.1.saturating_add(1) => known.1 = known.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// Whether there is none in it.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this VNI is in it.
    #[inline]
    pub fn contains(&self, vni: Vni) -> bool {
        let vni = vni.as_u32();
        let behind = self.0.partition_point(|(first, _)| *first <= vni);
        let range = behind.checked_sub(1).and_then(|at| self.0.get(at));
        range.is_some_and(|(_, last)| vni <= *last)
    }
}

/// As it can be typed.
impl fmt::Display for VniList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Why a text is no list of VNIs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum VniListError {
    #[error("'{0}' is no VNI; use for example 5, 5,7 or 10-20, each from 0 to 16777215")]
    Number(String),
    #[error("the range {first}-{last} ends before it begins; write {last}-{first}")]
    Backwards { first: u32, last: u32 },
}

impl FromStr for VniList {
    type Err = VniListError;

    fn from_str(text: &str) -> Result<Self, VniListError> {
        let number = |text: &str| {
            let digits = text.trim();
            let number = digits.parse().ok().and_then(Vni::new);
            let number = number.filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
            number
                .map(Vni::as_u32)
                .ok_or_else(|| VniListError::Number(text.to_owned()))
        };
        let ranges = text.split(',').map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(VniListError::Backwards { first, last });
            }
            Ok((first, last))
        });
        Ok(Self::of(ranges.collect::<Result<_, _>>()?))
    }
}

/// What is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    networks: Vec<Network>,
    vnis: VniList,
}

impl Allowed {
    /// Outer packets from these networks, and these VNIs; an empty list allows all.
    pub fn new(networks: &[Network], vnis: &[VniList]) -> Self {
        Self {
            networks: networks.to_vec(),
            vnis: VniList::joined(vnis),
        }
    }

    /// The networks; none where every source is allowed.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Whether everything is allowed.
    pub const fn is_everything(&self) -> bool {
        self.networks.is_empty() && self.vnis.is_empty()
    }

    /// Whether packets from this address are.
    #[inline]
    pub fn source(&self, address: Address) -> bool {
        self.networks.is_empty()
            || self
                .networks
                .iter()
                .any(|network| network.contains(address))
    }

    /// Whether this VNI is.
    #[inline]
    pub fn vni(&self, vni: Vni) -> bool {
        self.vnis.is_empty() || self.vnis.contains(vni)
    }
}

/// Most sources remembered by [`Strangers`].
const REMEMBERED: usize = 64;
/// Most sources told.
pub const TOLD: usize = 16;

/// Who sent packets without being allowed to, and how many. Bounded: sources with the most packets stay, a new
/// one takes the place of one with the fewest.
#[derive(Clone, Debug, Default)]
pub struct Strangers {
    known: Vec<(Address, u64)>,
    /// Where the last one is: the next packet is mostly from there.
    last: usize,
}

/// A source that was not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its address.
    pub source: IpAddr,
    /// Its packets; fewer than came where it was forgotten for a time.
    pub packets: u64,
}

impl Strangers {
    /// Counts packets from an address.
    pub fn add(&mut self, source: Address, packets: u64) {
        if let Some((known, count)) = self.known.get_mut(self.last)
            && *known == source
        {
            *count += packets;
            return;
        }
        let place = self.known.iter().position(|(known, _)| *known == source);
        let place = place.unwrap_or_else(|| {
            if self.known.len() < REMEMBERED {
                self.known.push((source, 0));
                return self.known.len() - 1;
            }
            let fewest = self.known.iter().enumerate();
            let fewest = fewest.min_by_key(|(_, (_, count))| *count);
            let place = fewest.map_or(0, |(at, _)| at);
            if let Some(known) = self.known.get_mut(place) {
                *known = (source, 0);
            }
            place
        });
        self.last = place;
        if let Some((_, count)) = self.known.get_mut(place) {
            *count += packets;
        }
    }

    /// Adds those of another worker.
    pub fn merge(&mut self, other: &Self) {
        for (source, packets) in &other.known {
            self.add(*source, *packets);
        }
    }

    /// The sources with the most packets, those with the most first, 16 at the most.
    pub fn most(&self) -> Vec<Stranger> {
        let mut all: Vec<Stranger> = self
            .known
            .iter()
            .map(|(source, packets)| Stranger {
                source: source.ip(),
                packets: *packets,
            })
            .collect();
        all.sort_by_key(|stranger| (std::cmp::Reverse(stranger.packets), stranger.source));
        all.truncate(TOLD);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
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
            let allowed = Allowed::new(&[network], &[]);
            assert_eq!(allowed.source(address(inside)), holds);
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
    fn vnis_are_listed_and_ranged() {
        let list = |text: &str| text.parse::<VniList>();
        let allowed = Allowed::new(
            &[],
            &[list("20-30,5, 7").unwrap(), list("6,25-40").unwrap()],
        );
        assert_eq!(allowed.vnis.to_string(), "5-7,20-40");
        for (vni, is_allowed) in [
            (0, false),
            (4, false),
            (5, true),
            (7, true),
            (8, false),
            (19, false),
            (20, true),
            (40, true),
            (41, false),
            (0xff_ffff, false),
        ] {
            assert_eq!(allowed.vni(Vni::new(vni).unwrap()), is_allowed, "{vni}");
        }
        assert!(allowed.source(address("10.0.0.1")), "no list of sources");
        let all = Allowed::new(&[], &[list("0-16777215").unwrap()]);
        assert!(all.vni(Vni::MAX) && all.vni(Vni::new(0).unwrap()));
        assert!(Allowed::default().vni(Vni::MAX));
        for bad in [
            "", ",", "5,", "a", "-5", "5-", "16777216", "+5", "1-2-3", "5;6", "0x10",
        ] {
            assert!(matches!(list(bad), Err(VniListError::Number(_))), "{bad}");
        }
        let error = list("9-3").unwrap_err();
        assert!(error.to_string().contains("write 3-9"), "{error}");
    }

    /// However many others come, those with the most packets are told.
    #[test]
    fn the_loudest_strangers_are_told() {
        let mut strangers = Strangers::default();
        let loud = address("192.0.2.1");
        for number in 0..100_000u32 {
            strangers.add(std::net::IpAddr::from(number.to_be_bytes()).into(), 1);
            strangers.add(loud, 1);
            strangers.add(address("2001:db8::1"), if number % 10 == 0 { 3 } else { 0 });
        }
        let mut other = Strangers::default();
        other.add(loud, 5);
        other.add(address("198.51.100.9"), 50_000);
        strangers.merge(&other);
        let most = strangers.most();
        assert_eq!(most.len(), TOLD);
        let told = |at: usize, source: &str, packets| {
            let source = source.parse().unwrap();
            assert_eq!(most[at], Stranger { source, packets });
        };
        told(0, "192.0.2.1", 100_005);
        told(1, "198.51.100.9", 50_000);
        told(2, "2001:db8::1", 30_000);
        assert!(strangers.known.len() <= REMEMBERED);
        assert_eq!(Strangers::default().most(), []);
    }
}
