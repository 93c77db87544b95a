//! The mirrored frame, read leniently: the layers that arrived are kept, reading stops where the bytes
//! do.
//!
//! A cut packet is normal here. Nothing in this module fails: a frame too short for an Ethernet header
//! still has a length, and a TCP header cut after its ports still has ports. Checksums are not looked
//! at; a mirror copies packets before the sender's network card has filled them in.

use super::be16;
use super::ip::IpHeader;
use super::numbers::{ether_type, protocol, tcp_flag};

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
        /// The rest of a TCP header; `None` for other protocols, and when it is cut before the end of its flags.
        tcp: Option<TcpHead>,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
}

/// A TCP header behind its ports (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHead {
    /// Sequence number of the first byte of payload, or of the SYN.
    pub seq: u32,
    /// Acknowledgement number; means something with the ACK flag.
    pub ack: u32,
    /// The nine flags, see [`super::numbers::tcp_flag`].
    pub flags: u16,
    /// Window, not scaled; `None` when it is cut.
    pub window: Option<u16>,
    /// Bytes of the header with its options, as it declares itself; below 20 it is none.
    pub header_len: u8,
    /// Most payload bytes of a segment that the sender of a SYN takes (RFC 9293 §3.7.1); `None` where it does
    /// not say, its option is cut, or this is no SYN.
    pub mss: Option<u16>,
}

/// Where the payload of a transport header is: of TCP, UDP, SCTP and ICMP behind their headers, of other
/// protocols and of later fragments behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Bytes of the frame before it. The frame may end earlier.
    pub at: u32,
    /// Its bytes at the mirror source, as the IP header declares them.
    pub len: u32,
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
    /// Destination hardware address, when the Ethernet header is whole; of the innermost Ethernet header,
    /// where one carries another (802.1ah, FabricPath, TRILL, a pseudowire).
    pub dst_mac: Option<Mac>,
    /// Source hardware address, likewise.
    pub src_mac: Option<Mac>,
    /// VLAN identifier of the outermost inner tag.
    pub vlan: Option<u16>,
    /// VLAN identifier of the tag behind it.
    pub vlan_inner: Option<u16>,
    /// The last EtherType that was reached, behind all tags, or an 802.3 length; 0 when it is cut.
    pub ether_type: u16,
    /// The IP packet; `None` for other protocols and when its header is cut.
    pub ip: Option<InnerIp>,
    /// Bytes of the frame before the IP header; 0 when there is none.
    pub ip_offset: u32,
    /// Length the inner IP header declares, header and payload; 0 when nothing declares one. A header
    /// that is cut behind its length field still tells it.
    pub ip_len: u32,
    /// Bytes of the frame as the innermost layer in front of IP declares that tells a length (802.3, PPPoE);
    /// 0 when none does. IP knows better.
    pub frame_len: u32,
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
        // IP before tags: it is what most frames hold.
        while !ether_type::is_ip(self.ether_type) && ether_type::is_vlan(self.ether_type) {
            let Some([c0, c1, t0, t1]) = frame.get(offset..).and_then(<[u8]>::first_chunk::<4>)
            else {
                self.ether_type = 0;
                return;
            };
            self.tag(u16::from_be_bytes([*c0, *c1]));
            self.ether_type = u16::from_be_bytes([*t0, *t1]);
            offset += 4;
        }
        let version = match self.ether_type {
            ether_type::IPV4 => 4,
            ether_type::IPV6 => 6,
            _ => match self.dig(frame, offset) {
                Some((behind, version)) => {
                    offset = behind;
                    version
                }
                None => return,
            },
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
        if self.ip.is_none() && self.ip_len == 0 {
            self.ip_offset = 0;
        }
    }

    /// Keeps the identifier in the two bytes of a VLAN tag.
    #[inline]
    pub(super) fn tag(&mut self, control: u16) {
        let id = control & 0x0fff;
        match self.vlan {
            None => self.vlan = Some(id),
            Some(_) => _ = self.vlan_inner.get_or_insert(id),
        }
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

impl InnerIp {
    /// The transport's payload; `None` where the header in front of it is cut or declares a length that
    /// cannot be. `frame_len` is the frame's length at the mirror source, for IP packets that declare none.
    pub fn payload(&self, frame_len: u32) -> Option<Span> {
        if self.header.options_cut {
            return None;
        }
        let transport_len = match self.transport {
            _ if self.header.is_later_fragment() => 0,
            Transport::Ports { tcp, .. } => match self.header.protocol {
                protocol::TCP => u32::from(tcp.filter(|tcp| tcp.header_len >= 20)?.header_len),
                protocol::UDP => 8,
                _ => 12,
            },
            Transport::Icmp { .. } => 8,
            Transport::None => match self.header.protocol {
                protocol::TCP
                | protocol::UDP
                | protocol::SCTP
                | protocol::ICMP
                | protocol::ICMPV6 => return None,
                _ => 0,
            },
        };
        let headers = u32::try_from(self.header.header_len).ok()? + transport_len;
        let ip_len = match self.header.declared_len {
            0 => frame_len.saturating_sub(self.offset),
            len => len,
        };
        Some(Span {
            at: self.offset.saturating_add(headers),
            len: ip_len.checked_sub(headers)?,
        })
    }
}

impl TcpHead {
    /// Reads a TCP header from its source port on.
    #[inline]
    fn read(bytes: &[u8]) -> Option<Self> {
        let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, o, f] = *bytes.first_chunk::<14>()?;
        let flags = u16::from_be_bytes([o, f]) & tcp_flag::ALL;
        let header_len = (o >> 4) * 4;
        Some(Self {
            seq: u32::from_be_bytes([s0, s1, s2, s3]),
            ack: u32::from_be_bytes([a0, a1, a2, a3]),
            flags,
            window: be16(bytes, 14),
            header_len,
            mss: if flags & tcp_flag::SYN == 0 {
                None
            } else {
                Self::read_mss(bytes, header_len)
            },
        })
    }

    /// Looks for the option among those of a header of `header_len` bytes.
    #[cold]
    fn read_mss(bytes: &[u8], header_len: u8) -> Option<u16> {
        let header = bytes.get(..header_len.into()).unwrap_or(bytes);
        let mut options = header.get(20..)?;
        loop {
            options = match options {
                [1, rest @ ..] => rest,
                [2, 4, high, low, ..] => return Some(u16::from_be_bytes([*high, *low])),
                [0, ..] | [] => return None,
                [_, len @ 2..=40, ..] => options.get(usize::from(*len)..)?,
                _ => return None,
            };
        }
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
                let tcp = if protocol == protocol::TCP {
                    TcpHead::read(bytes)
                } else {
                    None
                };
                Self::Ports { src, dst, tcp }
            }
            protocol::ICMP | protocol::ICMPV6 => match bytes.first_chunk::<2>() {
                Some(&[kind, code]) => Self::Icmp { kind, code },
                None => Self::None,
            },
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{LaxSlicedPacket, TcpOptionElement, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    /// By hand: Ethernet, 802.1ad and 802.1Q tags (VLAN 5 and 6), IPv4, TCP SYN with its 20-byte header.
    const QINQ_SYN: [u8; 62] = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xa8, 0x20, 5, 0x81, 0, 0, 6, 0x08,
        0, // link
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        0x30, 0x39, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0x51, 0x02, 9, 16, 0, 0, 0, 0, // TCP
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
                tcp: Some(TcpHead {
                    seq: 0x0102_0304,
                    ack: 0x0506_0708,
                    flags: tcp_flag::SYN | tcp_flag::AE,
                    window: Some(0x0910),
                    header_len: 20,
                    mss: None,
                })
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
            let tcp = matches!(transport, Transport::Ports { tcp: Some(_), .. });
            assert_eq!(tcp, len >= 56, "prefix of {len} bytes");
            let payload = inner.ip.and_then(|ip| ip.payload(62));
            let behind = Span { at: 62, len: 0 };
            assert_eq!(payload, tcp.then_some(behind), "prefix of {len} bytes");
        }
    }

    /// Payload by transport, of IPv4 packets whose declared length is 60 bytes.
    #[test]
    fn where_the_payload_is() {
        let payload = |protocol: u8, first: u8, fragment: u8, len: u8, l4: &[u8]| {
            let mut frame = QINQ_SYN[..12].to_vec();
            frame.extend([
                8, 0, first, 0, 0, len, 0, 0, 0, fragment, 64, protocol, 0, 0,
            ]);
            frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            frame.extend(l4);
            Inner::read(&frame).ip.unwrap().payload(80)
        };
        let at = |at, len| Some(Span { at, len });
        let tcp = |offset: u8| [&[0; 12][..], &[offset << 4, 0x10, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(payload(6, 0x45, 0, 60, &tcp(5)), at(54, 20));
        assert_eq!(
            payload(6, 0x45, 0, 60, &tcp(8)),
            at(66, 8),
            "options cut, payload told"
        );
        assert_eq!(
            payload(6, 0x45, 0, 60, &tcp(4)),
            None,
            "no header is that short"
        );
        assert_eq!(
            payload(6, 0x45, 0, 50, &tcp(8)),
            None,
            "longer than its packet"
        );
        assert_eq!(payload(6, 0x45, 0, 60, &tcp(5)[..13]), None, "cut");
        assert_eq!(
            payload(6, 0x45, 0, 0, &tcp(5)),
            at(54, 26),
            "no declared length"
        );
        assert_eq!(payload(17, 0x45, 0, 60, &[0; 8]), at(42, 32));
        assert_eq!(
            payload(17, 0x45, 0, 60, &[0; 4]),
            at(42, 32),
            "only its ports"
        );
        assert_eq!(payload(17, 0x45, 0, 60, &[0; 3]), None);
        assert_eq!(
            payload(17, 0x45, 2, 60, &[0; 3]),
            at(34, 40),
            "a later fragment"
        );
        assert_eq!(payload(132, 0x45, 0, 60, &[0; 4]), at(46, 28));
        assert_eq!(payload(1, 0x45, 0, 60, &[8, 0]), at(42, 32));
        assert_eq!(payload(47, 0x45, 0, 60, &[]), at(34, 40));
        assert_eq!(payload(47, 0x46, 0, 60, &[0; 3]), None, "IP options cut");
    }

    #[test]
    fn an_ether_type_that_lies_about_the_version_is_not_ip() {
        let mut frame = QINQ_SYN;
        frame[20..22].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(Inner::read(&frame).ip, None);
    }

    /// The option as etherparse reads it.
    fn etherparse_mss(tcp: &etherparse::TcpSlice<'_>) -> Option<u16> {
        let mut options = tcp.options_iterator().map_while(Result::ok);
        options.find_map(|option| match option {
            TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
            _ => None,
        })
    }

    /// By hand: the option alone, behind others, in a header that ends before it, cut, and with lengths that
    /// cannot be.
    #[test]
    fn the_largest_segment_of_a_syn() {
        let mss = |flags: u8, words: u8, options: &[u8]| {
            let mut header = [0; 20];
            (header[12], header[13]) = (words << 4, flags);
            let head = TcpHead::read(&[&header[..], options].concat()).unwrap();
            head.mss
        };
        let behind = [1, 3, 3, 7, 8, 4, 9, 9, 2, 4, 5, 0xb4, 0, 0, 0, 0];
        assert_eq!(mss(0x02, 6, &[2, 4, 0x23, 0x28]), Some(9000));
        assert_eq!(mss(0x12, 9, &behind), Some(1460));
        assert_eq!(mss(0x10, 9, &behind), None, "no SYN");
        assert_eq!(mss(0x02, 7, &behind), None, "behind the header");
        assert_eq!(mss(0x02, 9, &behind[..11]), None, "cut");
        assert_eq!(mss(0x02, 9, &behind[..12]), Some(1460), "cut behind it");
        assert_eq!(mss(0x02, 6, &[0, 2, 4, 5]), None, "behind the end");
        for options in [[3, 0, 2, 4], [3, 1, 2, 4], [2, 3, 5, 0xb4], [3, 9, 2, 4]] {
            assert_eq!(
                mss(0x02, 7, &[&options[..], &[2, 4, 5, 0xb4]].concat()),
                None
            );
        }
        assert_eq!(mss(0x02, 4, &behind), None, "no header is that short");
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
                // etherparse reads no option behind one that it does not know.
                let read_mss = TcpHead::read(tcp.slice()).unwrap().mss;
                let expected = Transport::Ports {
                    src: tcp.source_port(),
                    dst: tcp.destination_port(),
                    tcp: Some(TcpHead {
                        seq: tcp.sequence_number(),
                        ack: tcp.acknowledgment_number(),
                        flags: u16::from(tcp.slice()[13]) | (u16::from(tcp.ns()) << 8),
                        window: Some(tcp.window_size()),
                        header_len: tcp.data_offset() * 4,
                        mss: etherparse_mss(tcp).or(read_mss).filter(|_| tcp.syn()),
                    }),
                };
                prop_assert_eq!(ours.ip.unwrap().transport, expected);
            }
            Some(TransportSlice::Udp(udp)) => {
                let expected = Transport::Ports {
                    src: udp.source_port(),
                    dst: udp.destination_port(),
                    tcp: None,
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
