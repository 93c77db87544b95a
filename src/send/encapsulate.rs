//! The way of a mirror source: cuts a frame, puts VXLAN in front of it, and the outer headers in front
//! of that where a packet is written instead of sent.
//!
//! In go frames, addresses and ports; out come UDP payloads and header bytes. The way back is
//! [`crate::wire::decapsulate`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, UdpHeader};

use crate::source::Record;
use crate::wire::Vni;
use crate::wire::inner::{Inner, Mac, Transport};
use crate::wire::length::max_inner_frame;
use crate::wire::outer::{self, LinkType, Outer, OuterUdp};
use crate::wire::vxlan::{self, FLAG_I, HEADER_LEN};

/// First outer source port: RFC 7348 §5 recommends the dynamic range, 49152 to 65535.
pub const FIRST_SOURCE_PORT: u16 = 49_152;

/// Outer hardware addresses: locally administered, so no network card has them.
const SRC_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];
const DST_MAC: Mac = [0x02, 0, 0, 0, 0, 0x02];
/// RFC 1700's default, and the one of Linux.
const TTL: u8 = 64;

/// The UDP payload that carries `frame`: I flag and VNI, everything reserved zero (RFC 7348 §5), then
/// the frame.
pub fn encapsulate(vni: Vni, frame: &[u8]) -> Vec<u8> {
    let [v0, v1, v2] = vni.to_be_bytes();
    let header: [u8; HEADER_LEN] = [FLAG_I, 0, 0, 0, v0, v1, v2, 0];
    [&header, frame].concat()
}

/// The datagram in a record of a capture, with its headers, if it is VXLAN already: to one of
/// `vxlan_ports`, with a header that can be read. `record_cut` as for [`outer::read`].
pub fn encapsulated_already<'a>(
    link: LinkType,
    record: &'a [u8],
    record_cut: bool,
    vxlan_ports: &[u16],
) -> Option<(OuterHeaders, OuterUdp<'a>)> {
    let Ok(Outer::Udp(udp)) = outer::read(link, record, record_cut) else {
        return None;
    };
    let cut = udp.carried_len > udp.payload.len();
    if !vxlan_ports.contains(&udp.dst_port) || vxlan::parse(udp.payload, cut).is_err() {
        return None;
    }
    let headers = OuterHeaders {
        ips: OuterIps::new(udp.src.ip(), udp.dst.ip())?,
        src_port: udp.src_port,
        dst_port: udp.dst_port,
    };
    Some((headers, udp))
}

/// Appends to `out` the frame that `record`, a packet of another link type than Ethernet, would have been;
/// `false` when none can be made of it.
pub fn frame(record: &Record<'_>, out: &mut Vec<u8>) -> bool {
    let Ok(link) = record.link.strip(record.bytes) else {
        return false;
    };
    let missing = record.orig_len as usize - record.bytes.len().min(record.orig_len as usize);
    // Linux gives frames with an 802.3 length a number of its own, below any EtherType.
    let ether_type = match link.ether_type {
        0..0x0600 => u16::try_from((link.payload.len() + missing).min(1500)).unwrap_or_default(),
        ether_type => ether_type,
    };
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&link.src_mac.unwrap_or_default());
    out.extend_from_slice(&ether_type.to_be_bytes());
    out.extend_from_slice(link.payload);
    true
}

/// What a mirror source keeps of each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Most bytes behind the VXLAN header: the packet length of a mirror session.
    pub packet_length: Option<u32>,
    /// Most bytes of the outer IP packet.
    pub mtu: Option<u32>,
}

impl Cut {
    /// The part of `frame` that is kept.
    pub fn apply(self, frame: &[u8], outer_ipv6: bool) -> &[u8] {
        let by_mtu = self.mtu.map(|mtu| max_inner_frame(mtu, outer_ipv6));
        let most = [self.packet_length, by_mtu].into_iter().flatten().min();
        let kept = most.and_then(|most| frame.get(..most as usize));
        kept.unwrap_or(frame)
    }
}

/// Outer source port of a frame's flow, from [`FIRST_SOURCE_PORT`] up.
///
/// 64-bit FNV-1a over source address, destination address, protocol, source port and destination
/// port, as they stand in the frame, folded to 14 bits. Fragments leave their ports out, so that a
/// packet stays on one port. A frame without an IP header is hashed by its hardware addresses and
/// EtherType. The two directions of a conversation usually differ; a flow's port is the same in every
/// run.
pub fn source_port(frame: &[u8]) -> u16 {
    let inner = Inner::read(frame);
    let hash = match inner.ip {
        Some(ip) => {
            let hash = fnv1a_ip(fnv1a_ip(FNV_OFFSET, ip.header.src.ip()), ip.header.dst.ip());
            let hash = fnv1a(hash, &[ip.header.protocol]);
            match ip.transport {
                Transport::Ports { src, dst, .. } if ip.header.fragment.is_none() => {
                    fnv1a(fnv1a(hash, &src.to_be_bytes()), &dst.to_be_bytes())
                }
                _ => hash,
            }
        }
        None => {
            let macs = frame.get(..12).unwrap_or(frame);
            fnv1a(fnv1a(FNV_OFFSET, macs), &inner.ether_type.to_be_bytes())
        }
    };
    // FNV's low bits are its weakest: every bit gets a say.
    let folded = hash ^ (hash >> 32);
    let folded = folded ^ (folded >> 14) ^ (folded >> 28);
    FIRST_SOURCE_PORT | (folded & 0x3fff) as u16
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn fnv1a_ip(hash: u64, address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => fnv1a(hash, &address.octets()),
        IpAddr::V6(address) => fnv1a(hash, &address.octets()),
    }
}

/// Both ends of an outer packet, in one IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterIps {
    /// IPv4.
    V4 {
        /// Source address: the VTEP.
        src: Ipv4Addr,
        /// Destination address: the mirror target.
        dst: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// Source address: the VTEP.
        src: Ipv6Addr,
        /// Destination address: the mirror target.
        dst: Ipv6Addr,
    },
}

/// Where nobody names them: addresses for documentation (RFC 5737, RFC 3849).
const SRC_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DST_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SRC_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const DST_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

impl OuterIps {
    /// As [`Self::new`], with addresses for documentation where none are given, in the IP version of
    /// the other end: 192.0.2.1 to 192.0.2.2, or 2001:db8::1 to 2001:db8::2.
    pub fn or_documentation(src: Option<IpAddr>, dst: Option<IpAddr>) -> Option<Self> {
        let ipv6 = dst.or(src).is_some_and(|known| known.is_ipv6());
        let (default_src, default_dst): (IpAddr, IpAddr) = if ipv6 {
            (SRC_IPV6.into(), DST_IPV6.into())
        } else {
            (SRC_IPV4.into(), DST_IPV4.into())
        };
        Self::new(src.unwrap_or(default_src), dst.unwrap_or(default_dst))
    }

    /// `None` when the addresses differ in IP version.
    pub const fn new(src: IpAddr, dst: IpAddr) -> Option<Self> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Self::V4 { src, dst }),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Self::V6 { src, dst }),
            _ => None,
        }
    }

    /// Whether they are IPv6.
    pub const fn is_ipv6(self) -> bool {
        matches!(self, Self::V6 { .. })
    }
}

/// A datagram that does not fit: its length has more than the 16 bits of the outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// The headers around a UDP payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterHeaders {
    /// Addresses.
    pub ips: OuterIps,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl OuterHeaders {
    /// Appends Ethernet, IP and UDP headers for `payload_len` bytes of UDP payload to `out`.
    ///
    /// The IPv4 header has its checksum and DF set: VTEPs must not fragment (RFC 7348 §4.3). The UDP
    /// checksum is zero, as RFC 7348 §5 asks for and RFC 6935 allows over IPv6.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] when the IP packet would be longer than 65535 bytes (IPv6: its payload); `out`
    /// is left alone.
    pub fn append_to(&self, payload_len: usize, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let length = payload_len.checked_add(UdpHeader::LEN).ok_or(TooLarge)?;
        let length = u16::try_from(length).map_err(|_| TooLarge)?;
        let udp = UdpHeader {
            source_port: self.src_port,
            destination_port: self.dst_port,
            length,
            checksum: 0,
        };
        let ethernet = |ether_type| Ethernet2Header {
            source: SRC_MAC,
            destination: DST_MAC,
            ether_type,
        };
        match self.ips {
            OuterIps::V4 { src, dst } => {
                let (src, dst) = (src.octets(), dst.octets());
                let mut ip =
                    Ipv4Header::new(length, TTL, IpNumber::UDP, src, dst).map_err(|_| TooLarge)?;
                ip.dont_fragment = true;
                ip.header_checksum = ip.calc_header_checksum();
                out.extend_from_slice(&ethernet(EtherType::IPV4).to_bytes());
                out.extend_from_slice(&ip.to_bytes());
            }
            OuterIps::V6 { src, dst } => {
                let ip = Ipv6Header {
                    payload_length: length,
                    next_header: IpNumber::UDP,
                    hop_limit: TTL,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                out.extend_from_slice(&ethernet(EtherType::IPV6).to_bytes());
                out.extend_from_slice(&ip.to_bytes());
            }
        }
        out.extend_from_slice(&udp.to_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::decapsulate::{Mirrored, Tunnels, decapsulate};

    const VTEP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    /// RFC 7348 §5, RFC 768 and RFC 791 by hand: VNI 0x123456, port 50000 to 4789, six bytes of frame.
    /// The IPv4 checksum on paper (RFC 1071): 4500+002a+4000+4011+c000+0201+c000+0202 make 2493e; with
    /// the carry added 4940, whose complement is b6bf.
    const BY_HAND: [u8; 56] = [
        0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01, 0x08, 0x00, // Ethernet
        0x45, 0, 0, 42, 0, 0, 0x40, 0, 64, 17, 0xb6, 0xbf, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
        0xc3, 0x50, 0x12, 0xb5, 0, 22, 0, 0, // UDP
        0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0, // VXLAN
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // the frame's first bytes
    ];

    /// RFC 8200 §3 by hand, for the same datagram.
    const IPV6_BY_HAND: [u8; 54] = [
        0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01, 0x86, 0xdd, // Ethernet
        0x60, 0, 0, 0, 0, 22, 17, 64, // IPv6
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // source
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // destination
    ];

    fn headers(src: &str, dst: &str) -> OuterHeaders {
        let ips = OuterIps::new(src.parse().unwrap(), dst.parse().unwrap()).unwrap();
        OuterHeaders {
            ips,
            src_port: 50_000,
            dst_port: 4789,
        }
    }

    fn packet(headers: OuterHeaders, vni: Vni, frame: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        headers.append_to(8 + frame.len(), &mut packet).unwrap();
        packet.extend(encapsulate(vni, frame));
        packet
    }

    #[test]
    fn headers_typed_by_hand() {
        let vni = Vni::new(0x12_3456).unwrap();
        let v4 = packet(headers("192.0.2.1", "192.0.2.2"), vni, &[0xff; 6]);
        assert_eq!(v4, BY_HAND);
        let v6 = packet(headers("2001:db8::1", "2001:db8::2"), vni, &[0xff; 6]);
        assert_eq!(v6, [&IPV6_BY_HAND, &BY_HAND[34..]].concat());
    }

    #[test]
    fn lengths_end_with_their_sixteen_bits() {
        let mut out = Vec::new();
        let v4 = headers("192.0.2.1", "192.0.2.2");
        assert_eq!(v4.append_to(65_508, &mut out), Err(TooLarge));
        let v6 = headers("2001:db8::1", "2001:db8::2");
        assert_eq!(v6.append_to(65_528, &mut out), Err(TooLarge));
        assert_eq!(v6.append_to(usize::MAX, &mut out), Err(TooLarge));
        assert!(out.is_empty());
        assert_eq!(v4.append_to(65_507, &mut out), Ok(()));
        assert_eq!(out[16..18], [0xff, 0xff]);
        out.clear();
        assert_eq!(v6.append_to(65_527, &mut out), Ok(()));
        assert_eq!(out[18..20], [0xff, 0xff]);
    }

    #[test]
    fn ips_of_two_versions_are_refused() {
        assert_eq!(OuterIps::new(VTEP, "::1".parse().unwrap()), None);
        assert!(!OuterIps::new(VTEP, TARGET).unwrap().is_ipv6());
    }

    #[test]
    fn ends_nobody_names() {
        let ends = |src: Option<&str>, dst: Option<&str>| {
            let parse = |end: Option<&str>| end.map(|end| end.parse().unwrap());
            OuterIps::or_documentation(parse(src), parse(dst))
        };
        let of = |src: &str, dst: &str| ends(Some(src), Some(dst));
        assert_eq!(ends(None, None), of("192.0.2.1", "192.0.2.2"));
        assert_eq!(ends(None, Some("10.0.0.1")), of("192.0.2.1", "10.0.0.1"));
        assert_eq!(ends(None, Some("fd00::1")), of("2001:db8::1", "fd00::1"));
        assert_eq!(ends(Some("fd00::1"), None), of("fd00::1", "2001:db8::2"));
        assert_eq!(ends(Some("fd00::1"), Some("10.0.0.1")), None);
    }

    #[test]
    fn vxlan_in_a_capture_is_known_by_port_and_header() {
        let found = |record: &[u8], port: u16| {
            let udp = encapsulated_already(LinkType::Ethernet, record, false, &[port]);
            udp.map(|(outer, udp)| {
                assert_eq!(outer, headers("192.0.2.1", "192.0.2.2"));
                udp.payload.to_vec()
            })
        };
        assert_eq!(found(&BY_HAND, 4789), Some(BY_HAND[42..].to_vec()));
        assert_eq!(found(&BY_HAND, 4790), None);
        assert_eq!(found(&BY_HAND[..49], 4789), None, "VXLAN header cut");
        let mut no_flag = BY_HAND;
        no_flag[42] = 0;
        assert_eq!(found(&no_flag, 4789), None);
        let mut tcp = BY_HAND;
        tcp[23] = 6;
        assert_eq!(found(&tcp, 4789), None);
    }

    #[test]
    fn the_shorter_cut_counts() {
        let frame = [7; 1514];
        let kept = |packet_length, mtu, ipv6| Cut { packet_length, mtu }.apply(&frame, ipv6).len();
        assert_eq!(kept(None, None, false), 1514);
        assert_eq!(kept(Some(96), None, false), 96);
        assert_eq!(kept(Some(1514), None, false), 1514);
        assert_eq!(kept(Some(9000), None, false), 1514);
        assert_eq!(kept(None, Some(1500), false), 1464);
        assert_eq!(kept(None, Some(1500), true), 1444);
        assert_eq!(kept(None, Some(1550), false), 1514);
        assert_eq!(kept(Some(96), Some(1500), false), 96);
        assert_eq!(kept(Some(1500), Some(1500), false), 1464);
    }

    /// Ethernet, IPv4 with `fragment` as its flags and offset, UDP from `port` to 53.
    fn inner_frame(port: u16, fragment: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 9, 0x08, 0];
        frame.extend([0x45, 0, 0, 28, 0, 1]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 53, 0, 8, 0, 0]);
        frame
    }

    #[test]
    fn a_flow_keeps_its_port() {
        let port = source_port(&inner_frame(4000, 0));
        assert_eq!(port, source_port(&inner_frame(4000, 0)));
        assert_ne!(port, source_port(&inner_frame(4001, 0)));
        let mut longer = inner_frame(4000, 0);
        longer.extend([1; 100]);
        assert_eq!(port, source_port(&longer), "payload has no say");
        let first = source_port(&inner_frame(4000, 0x2000));
        let last = source_port(&inner_frame(0x5555, 0x0002));
        assert_eq!(first, last, "fragments of one packet stay together");
    }

    /// The same in every release; these were worked out apart, in Python.
    #[test]
    fn the_hash_is_stable() {
        assert_eq!(source_port(&inner_frame(4000, 0)), 60_935);
        assert_eq!(source_port(&[0xff; 20]), 56_422);
        assert_eq!(source_port(&[]), 54_518);
    }

    #[test]
    fn flows_spread_over_the_whole_range() {
        let ports: std::collections::HashSet<u16> = (0..4000)
            .map(|port| source_port(&inner_frame(port, 0)))
            .collect();
        // 4000 balls in 16384 boxes hit about 3551 of them.
        assert!(ports.len() > 3300, "{} ports", ports.len());
        assert!(ports.iter().all(|port| *port >= FIRST_SOURCE_PORT));
        let buckets: std::collections::HashSet<u16> = ports.iter().map(|port| port / 64).collect();
        assert_eq!(buckets.len(), 256);
    }

    proptest! {
        /// What is put in comes out of the program's own reader.
        #[test]
        fn round_trip(
            frame in proptest::collection::vec(any::<u8>(), 1..2000),
            vni in 0u32..=0x00ff_ffff,
            v6 in any::<bool>(),
        ) {
            let vni = Vni::new(vni).unwrap();
            let headers = if v6 {
                headers("2001:db8::1", "2001:db8::2")
            } else {
                headers("192.0.2.1", "192.0.2.2")
            };
            let packet = packet(headers, vni, &frame);
            let Ok(Outer::Udp(udp)) = outer::read(LinkType::Ethernet, &packet, false) else {
                panic!("not UDP");
            };
            prop_assert!(!udp.length_mismatch);
            prop_assert_eq!(udp.src_port, 50_000);
            let Mirrored { vni: got, bytes, outer_ip_len, reserved_set, source, .. } =
                decapsulate(&Tunnels::default(), &udp).unwrap();
            prop_assert_eq!((got, bytes, reserved_set), (vni, frame.as_slice(), false));
            prop_assert_eq!(outer_ip_len as usize, packet.len() - 14);
            prop_assert_eq!(source.ipv6, v6);
        }

        #[test]
        fn every_frame_has_a_port(frame in proptest::collection::vec(any::<u8>(), 0..120)) {
            prop_assert!(source_port(&frame) >= FIRST_SOURCE_PORT);
        }
    }
}
