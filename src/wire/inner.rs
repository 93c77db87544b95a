//! The mirrored frame, read leniently: the layers that arrived are kept, reading stops where the bytes
//! do.
//!
//! A cut packet is normal here. Nothing in this module fails: a frame too short for an Ethernet header
//! still has a length, and a TCP header cut after its ports still has ports. Checksums are not looked
//! at; a mirror copies packets before the sender's network card has filled them in.

use super::be16;
use super::ip::IpHeader;
use super::numbers::{ether_type, protocol};

/// A hardware address.
pub type Mac = [u8; 6];

/// What follows the inner IP header, as far as it is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// No ports: another protocol, a later fragment, or the header is cut before them.
    #[default]
    None,
    /// TCP, UDP or SCTP.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
        /// CWR ECE URG ACK PSH RST SYN FIN; `None` unless TCP, and when the header is cut before it.
        tcp_flags: Option<u8>,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
}

/// The IP packet inside a mirrored frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerIp {
    /// Bytes of the frame before the IP header.
    pub offset: u32,
    /// The header.
    pub header: IpHeader,
    /// What follows.
    pub transport: Transport,
}

/// A mirrored frame, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inner {
    /// Destination hardware address, when the Ethernet header is whole.
    pub dst_mac: Option<Mac>,
    /// Source hardware address, when the Ethernet header is whole.
    pub src_mac: Option<Mac>,
    /// VLAN identifier of the outermost inner tag.
    pub vlan: Option<u16>,
    /// VLAN identifier of the tag behind it.
    pub vlan_inner: Option<u16>,
    /// EtherType behind all tags, or an 802.3 length; 0 when it is cut.
    pub ether_type: u16,
    /// The IP packet; `None` for other protocols and when its header is cut.
    pub ip: Option<InnerIp>,
    /// Bytes of the frame before the IP header; 0 when there is none.
    pub ip_offset: u32,
    /// Length the inner IP header declares, header and payload; 0 when nothing declares one. A header
    /// that is cut behind its length field still tells it.
    pub ip_len: u32,
}

impl Inner {
    /// Reads a frame from its destination MAC on.
    pub fn read(frame: &[u8]) -> Self {
        let mut inner = Self::default();
        inner.fill_in(frame);
        inner
    }

    /// As [`Self::read`], into a value that is still empty: this is more than is copied for free.
    pub fn fill_in(&mut self, frame: &[u8]) {
        let Some((header, _)) = frame.split_first_chunk::<14>() else {
            return;
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        self.dst_mac = Some([d0, d1, d2, d3, d4, d5]);
        self.src_mac = Some([s0, s1, s2, s3, s4, s5]);
        self.ether_type = u16::from_be_bytes([t0, t1]);
        let mut offset = 14;
        while ether_type::is_vlan(self.ether_type) {
            let Some([c0, c1, t0, t1]) = frame.get(offset..).and_then(<[u8]>::first_chunk::<4>)
            else {
                self.ether_type = 0;
                return;
            };
            let id = u16::from_be_bytes([*c0, *c1]) & 0x0fff;
            match self.vlan {
                None => self.vlan = Some(id),
                Some(_) => _ = self.vlan_inner.get_or_insert(id),
            }
            self.ether_type = u16::from_be_bytes([*t0, *t1]);
            offset += 4;
        }
        let version = match self.ether_type {
            ether_type::IPV4 => 4,
            ether_type::IPV6 => 6,
            ether_type::MPLS | ether_type::MPLS_UPSTREAM => match behind_mpls(frame, offset) {
                Some((behind, version)) => {
                    offset = behind;
                    version
                }
                None => return,
            },
            _ => return,
        };
        let packet = frame.get(offset..).unwrap_or_default();
        if packet.first().is_none_or(|first| first >> 4 != version) {
            return;
        }
        self.ip_offset = u32::try_from(offset).unwrap_or(u32::MAX);
        self.ip = InnerIp::read(packet, self.ip_offset);
        self.ip_len = match &self.ip {
            Some(ip) => ip.header.declared_len,
            None => IpHeader::declared_len_of_cut(packet),
        };
    }
}

impl InnerIp {
    #[inline(always)]
    fn read(packet: &[u8], offset: u32) -> Option<Self> {
        let header = IpHeader::read(packet).ok()?;
        let transport = if header.options_cut || header.is_later_fragment() {
            Transport::None
        } else {
            Transport::read(header.protocol, header.payload(packet))
        };
        Some(Self {
            offset,
            header,
            transport,
        })
    }
}

impl Transport {
    /// Reads as much of a transport header as `bytes` hold.
    #[inline]
    fn read(protocol: u8, bytes: &[u8]) -> Self {
        match protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                let (Some(src), Some(dst)) = (be16(bytes, 0), be16(bytes, 2)) else {
                    return Self::None;
                };
                let tcp_flags = if protocol == protocol::TCP {
                    bytes.get(13).copied()
                } else {
                    None
                };
                Self::Ports {
                    src,
                    dst,
                    tcp_flags,
                }
            }
            protocol::ICMP | protocol::ICMPV6 => match bytes.first_chunk::<2>() {
                Some(&[kind, code]) => Self::Icmp { kind, code },
                None => Self::None,
            },
            _ => Self::None,
        }
    }
}

/// Offset behind an MPLS label stack (RFC 3032 §2.1) that starts at `offset`, and the IP version there,
/// if IP follows it.
///
/// The stack does not name what it carries, so the version nibble has to serve. But an Ethernet
/// pseudowire may begin with any MAC address, and a length read out of one would call a whole packet
/// truncated: an IPv4 header that declares more than is here is believed only with a right checksum.
fn behind_mpls(frame: &[u8], mut offset: usize) -> Option<(usize, u8)> {
    loop {
        let [_, _, label_end, _] = frame.get(offset..)?.first_chunk::<4>()?;
        offset += 4;
        if label_end & 1 != 0 {
            break;
        }
    }
    let packet = frame.get(offset..)?;
    match packet.first()? >> 4 {
        4 => {
            let header_len = usize::from(packet.first()? & 0x0f) * 4;
            let header = packet
                .get(..header_len)
                .filter(|header| header.len() >= 20)?;
            let fits = usize::from(be16(header, 2)?) <= packet.len();
            (fits || checksum(header) == 0).then_some((offset, 4))
        }
        6 => Some((offset, 6)),
        _ => None,
    }
}

/// The internet checksum (RFC 1071) over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.as_chunks::<2>().0 {
        sum += u32::from(u16::from_be_bytes(*pair));
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use etherparse::{LaxSlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    /// By hand: Ethernet, 802.1ad and 802.1Q tags (VLAN 5 and 6), IPv4, TCP SYN with its 20-byte header.
    const QINQ_SYN: [u8; 62] = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xa8, 0x20, 5, 0x81, 0, 0, 6, 0x08,
        0, // link
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        0x30, 0x39, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0, // TCP
    ];

    #[test]
    fn tags_addresses_ports_and_flags() {
        let inner = Inner::read(&QINQ_SYN);
        assert_eq!(inner.src_mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!((inner.vlan, inner.vlan_inner), (Some(5), Some(6)));
        assert_eq!(inner.ether_type, ether_type::IPV4);
        let ip = inner.ip.unwrap();
        assert_eq!((ip.offset, ip.header.declared_len), (22, 40));
        assert_eq!(
            ip.transport,
            Transport::Ports {
                src: 12345,
                dst: 80,
                tcp_flags: Some(2)
            }
        );
    }

    /// Each cut keeps the layers in front of it.
    #[test]
    fn every_prefix_keeps_what_arrived() {
        for len in 0..QINQ_SYN.len() {
            let inner = Inner::read(&QINQ_SYN[..len]);
            assert_eq!(inner.src_mac.is_some(), len >= 14, "prefix of {len} bytes");
            assert_eq!(inner.vlan.is_some(), len >= 18, "prefix of {len} bytes");
            assert_eq!(inner.ip.is_some(), len >= 42, "prefix of {len} bytes");
            assert_eq!(
                inner.ip_len,
                if len >= 26 { 40 } else { 0 },
                "prefix of {len} bytes"
            );
            let transport = inner.ip.map(|ip| ip.transport).unwrap_or_default();
            assert_eq!(
                transport != Transport::None,
                len >= 46,
                "prefix of {len} bytes"
            );
            let flags = matches!(
                transport,
                Transport::Ports {
                    tcp_flags: Some(_),
                    ..
                }
            );
            assert_eq!(flags, len >= 56, "prefix of {len} bytes");
        }
    }

    #[test]
    fn mpls_with_ip_and_without() {
        let mut frame = QINQ_SYN[..12].to_vec();
        frame.extend([0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64]); // two labels
        let ip_at = frame.len();
        frame.extend(&QINQ_SYN[22..]);
        assert!(
            Inner::read(&frame).ip.is_some(),
            "a wrong checksum may be the offload's"
        );
        frame[ip_at + 3] = 41;
        assert_eq!(
            Inner::read(&frame).ip,
            None,
            "but not where it would make a truncated packet"
        );
        let sum = checksum(&frame[ip_at..ip_at + 20]);
        frame[ip_at + 10..ip_at + 12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(Inner::read(&frame).ip.unwrap().offset as usize, ip_at);
        frame[ip_at] = 0x05;
        assert_eq!(Inner::read(&frame).ip, None, "a pseudowire's control word");
    }

    #[test]
    fn an_ether_type_that_lies_about_the_version_is_not_ip() {
        let mut frame = QINQ_SYN;
        frame[20..22].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(Inner::read(&frame).ip, None);
    }

    /// Holds this reader against etherparse's lax one.
    fn agrees_with_etherparse(frame: &[u8]) -> Result<(), TestCaseError> {
        let ours = Inner::read(frame);
        let Ok(theirs) = LaxSlicedPacket::from_ethernet(frame) else {
            prop_assert_eq!(ours.src_mac, None);
            return Ok(());
        };
        // etherparse stops after three tags, reads MACsec and does not look behind MPLS.
        if theirs.link_exts.len() >= 3 || matches!(ours.ether_type, 0x88e5 | 0x8847 | 0x8848) {
            return Ok(());
        }
        if let Some(etherparse::LaxNetSlice::Ipv4(ip)) = &theirs.net {
            let header = ours.ip.unwrap().header;
            prop_assert_eq!(
                header.src.ip(),
                std::net::IpAddr::V4(ip.header().source_addr())
            );
            prop_assert_eq!(
                header.dst.ip(),
                std::net::IpAddr::V4(ip.header().destination_addr())
            );
            prop_assert_eq!(header.ttl, ip.header().ttl());
            prop_assert_eq!(header.fragment.is_some(), ip.is_payload_fragmented());
        }
        if let Some(etherparse::LaxNetSlice::Ipv6(ip)) = &theirs.net {
            let header = ours.ip.unwrap().header;
            prop_assert_eq!(
                header.src.ip(),
                std::net::IpAddr::V6(ip.header().source_addr())
            );
            prop_assert_eq!(header.tos, ip.header().traffic_class());
            prop_assert_eq!(header.fragment.is_some(), ip.is_payload_fragmented());
        }
        match &theirs.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let expected = Transport::Ports {
                    src: tcp.source_port(),
                    dst: tcp.destination_port(),
                    tcp_flags: tcp.slice().get(13).copied(),
                };
                prop_assert_eq!(ours.ip.unwrap().transport, expected);
            }
            Some(TransportSlice::Udp(udp)) => {
                let expected = Transport::Ports {
                    src: udp.source_port(),
                    dst: udp.destination_port(),
                    tcp_flags: None,
                };
                prop_assert_eq!(ours.ip.unwrap().transport, expected);
            }
            _ => {}
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn random_frames_agree_with_etherparse(
            mut frame in proptest::collection::vec(any::<u8>(), 0..120),
            kind in 0..4usize,
            protocol in prop_oneof![Just(6u8), Just(17), Just(0), Just(44), Just(60), any::<u8>()],
        ) {
            // Steer random bytes towards IP so that the deeper layers are reached.
            if frame.len() > 34 {
                let at = match kind { 0 => 12, 1 => { frame[12] = 0x81; frame[13] = 0; 16 }, _ => 12 };
                let v6 = kind == 3;
                frame[at..at + 2].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
                frame[at + 2] = if v6 { 0x60 } else { 0x45 };
                frame[at + 4] = 0;
                if v6 { frame[at + 8] = protocol } else { frame[at + 11] = protocol; frame[at + 8] = 0; frame[at + 9] = 0; }
            }
            agrees_with_etherparse(&frame)?;
        }
    }
}
