//! The community id, version 1: one short name for a flow that other tools compute alike
//! (<https://github.com/corelight/community-id-spec>).
//!
//! It knows nothing of tunnels: flows of two VNIs with the same addresses share an id, so it is printed
//! in flow records and never used as their key.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::wire::numbers::protocol;

/// What an id is made of, seen from one direction.
#[derive(Clone, Copy, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same version.
    pub dst: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Ports, or ICMP type and code; `None` for protocols without.
    pub ports: Option<(u16, u16)>,
}

/// The ICMP type that answers `kind` (RFC 792, RFC 950, RFC 1256; for IPv6 RFC 4443, 2710, 4861, 4620
/// and the home agent discovery of RFC 6275).
pub const fn icmp_answer(kind: u8, ipv6: bool) -> Option<u8> {
    Some(match (ipv6, kind) {
        (false, 8) => 0,
        (false, 0) => 8,
        (false, 13) => 14,
        (false, 14) => 13,
        (false, 15) => 16,
        (false, 16) => 15,
        (false, 17) => 18,
        (false, 18) => 17,
        (false, 10) => 9,
        (false, 9) => 10,
        (true, 128) => 129,
        (true, 129) => 128,
        (true, 130) => 131,
        (true, 131) => 130,
        (true, 133) => 134,
        (true, 134) => 133,
        (true, 135) => 136,
        (true, 136) => 135,
        (true, 139) => 140,
        (true, 140) => 139,
        (true, 144) => 145,
        (true, 145) => 144,
        _ => return None,
    })
}

/// The id of a flow, with `seed` (0 unless two sites must not be compared).
pub fn community_id(seed: u16, tuple: &Tuple) -> CommunityId {
    CommunityId::of(digest(seed, tuple))
}

impl CommunityId {
    /// The text for a digest.
    pub fn of(digest: [u8; 20]) -> Self {
        let mut id = *b"1:____________________________";
        let [_, _, text @ ..] = &mut id;
        let written = STANDARD.encode_slice(digest, text);
        debug_assert!(matches!(written, Ok(28)), "20 bytes take 28 digits");
        Self(id)
    }
}

/// The digest that an id stands for.
pub fn digest(seed: u16, tuple: &Tuple) -> [u8; 20] {
    let Tuple {
        src,
        dst,
        protocol,
        mut ports,
    } = *tuple;
    let icmp = matches!(protocol, protocol::ICMP | protocol::ICMPV6);
    let mut one_way = false;
    if let (true, Some((kind, _))) = (icmp, ports) {
        match u8::try_from(kind)
            .ok()
            .and_then(|kind| icmp_answer(kind, protocol == protocol::ICMPV6))
        {
            Some(answer) => ports = Some((kind, u16::from(answer))),
            None => one_way = true,
        }
    }
    let (src_port, dst_port) = ports.unwrap_or_default();
    let ends = [(octets(src), src_port), (octets(dst), dst_port)];
    let [(first, first_port), (second, second_port)] = match ends {
        [a, b] if one_way || a <= b => [a, b],
        [a, b] => [b, a],
    };
    let mut hash = Sha1::new();
    hash.update(seed.to_be_bytes());
    hash.update(first.bytes());
    hash.update(second.bytes());
    hash.update([protocol, 0]);
    if ports.is_some() {
        hash.update(first_port.to_be_bytes());
        hash.update(second_port.to_be_bytes());
    }
    hash.finalize().into()
}

/// The digest that the text of an id stands for: `1:` and 28 digits of base 64.
pub fn parse(text: &str) -> Option<[u8; 20]> {
    let digest = STANDARD.decode(text.strip_prefix("1:")?).ok()?;
    digest.try_into().ok()
}

/// An id as text: `1:` and 28 digits of base 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommunityId([u8; 30]);

impl CommunityId {
    /// Its text, all ASCII.
    pub const fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text.
    #[inline]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for CommunityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address as 4 or 16 bytes that compare as the specification orders them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Octets {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Octets {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }
}

fn octets(address: IpAddr) -> Octets {
    match address {
        IpAddr::V4(v4) => Octets::V4(v4.octets()),
        IpAddr::V6(v6) => Octets::V6(v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(src: &str, dst: &str, protocol: u8, ports: Option<(u16, u16)>) -> String {
        community_id(
            0,
            &Tuple {
                src: src.parse().unwrap(),
                dst: dst.parse().unwrap(),
                protocol,
                ports,
            },
        )
        .to_string()
    }

    /// Baseline values of the specification's own test data, as tshark computes them too.
    #[test]
    fn six_vectors() {
        for (src, dst, protocol, ports, expected) in [
            (
                "128.232.110.120",
                "66.35.250.204",
                6,
                Some((34855, 80)),
                "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
            ),
            (
                "192.168.1.52",
                "8.8.8.8",
                17,
                Some((54585, 53)),
                "1:d/FP5EW3wiY1vCndhwleRRKHowQ=",
            ),
            (
                "192.168.0.89",
                "192.168.0.1",
                1,
                Some((8, 0)),
                "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=",
            ),
            (
                "10.0.0.1",
                "10.0.0.2",
                1,
                Some((11, 0)),
                "1:YHxtAirCG//0OzkcVAukqKQN9xM=",
            ),
            (
                "10.1.12.1",
                "10.1.12.2",
                46,
                None,
                "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=",
            ),
            (
                "192.168.170.8",
                "192.168.170.56",
                132,
                Some((7, 7)),
                "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs=",
            ),
        ] {
            assert_eq!(
                id(src, dst, protocol, ports),
                expected,
                "{src} {dst} {protocol}"
            );
        }
    }

    #[test]
    fn both_directions_share_an_id_unless_icmp_has_no_answer() {
        let forth = id("10.0.0.1", "10.0.0.2", 6, Some((1, 2)));
        assert_eq!(forth, id("10.0.0.2", "10.0.0.1", 6, Some((2, 1))));
        assert_eq!(
            id("10.0.0.1", "10.0.0.2", 1, Some((8, 0))),
            id("10.0.0.2", "10.0.0.1", 1, Some((0, 0)))
        );
        assert_ne!(
            id("10.0.0.1", "10.0.0.2", 1, Some((11, 0))),
            id("10.0.0.2", "10.0.0.1", 1, Some((11, 0)))
        );
        assert_eq!(
            id("fe80::1", "fe80::2", 58, Some((135, 0))),
            id("fe80::2", "fe80::1", 58, Some((136, 0)))
        );
    }
}
