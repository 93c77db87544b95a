//! The packet around the tunnel: link layer, VLAN tags, IPv4 or IPv6, UDP.
//!
//! In goes one record of a capture file; out comes its UDP datagram, or a fragment of one for
//! [`super::reassembly`], or the reason why it is neither.

use std::net::IpAddr;

use super::be16;
use super::inner::Mac;
use super::ip::{Address, Fragment, IpError, IpHeader, is_extension};
use super::numbers::{ether_type, protocol};
use super::refusal::{Filtered, Malformed, Refusal};

/// The link layers that can be read (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// Ethernet, 1.
    Ethernet,
    /// BSD loopback, 0: a 4-byte address family in the writer's byte order.
    Null,
    /// OpenBSD loopback, 108: the same in network byte order.
    Loop,
    /// Raw IPv4 or IPv6, 101 (and 12 or 14 as some systems write it), 228 and 229.
    RawIp,
    /// Linux "cooked" capture, 113.
    LinuxSll,
    /// Linux "cooked" capture version 2, 276.
    LinuxSll2,
    /// Any other, by its number: an interface of a pcapng file that stands beside readable ones.
    Unreadable(u16),
}

impl LinkType {
    /// From the number in a capture file; `None` when it cannot be read here. Bits above the low 26
    /// hold an FCS length and are ignored, as libpcap does.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number & 0x03ff_ffff {
            0 => Self::Null,
            1 => Self::Ethernet,
            12 | 14 | 101 | 228 | 229 => Self::RawIp,
            108 => Self::Loop,
            113 => Self::LinuxSll,
            276 => Self::LinuxSll2,
            _ => return None,
        })
    }

    /// Splits a record into the EtherType and the bytes it names.
    ///
    /// # Errors
    ///
    /// [`Malformed::OuterLink`] when the header is cut, [`Filtered::NotIp`] for an unknown loopback
    /// address family, [`Filtered::LinkType`] for a link type that cannot be read.
    #[inline]
    pub fn strip(self, record: &[u8]) -> Result<LinkPayload<'_>, Refusal> {
        let cut = Refusal::from(Malformed::OuterLink);
        let at = |ether_type: u16, offset: usize| LinkPayload {
            src_mac: None,
            ether_type,
            payload: record.get(offset..).unwrap_or_default(),
        };
        match self {
            Self::Ethernet => {
                let ether_type = be16(record, 12).ok_or(cut)?;
                let src_mac = record.get(6..).and_then(<[u8]>::first_chunk::<6>).copied();
                Ok(LinkPayload {
                    src_mac,
                    ..at(ether_type, 14)
                })
            }
            Self::LinuxSll => {
                let ether_type = be16(record, 14).ok_or(cut)?;
                let src_mac = if be16(record, 4) == Some(6) {
                    record.get(6..)
                } else {
                    None
                };
                Ok(LinkPayload {
                    src_mac: src_mac.and_then(<[u8]>::first_chunk::<6>).copied(),
                    ..at(ether_type, 16)
                })
            }
            Self::LinuxSll2 => {
                let ether_type = be16(record, 0).ok_or(cut)?;
                let src_mac = record.get(12..20).ok_or(cut)?.first_chunk::<6>().copied();
                let src_mac = if record.get(11) == Some(&6) {
                    src_mac
                } else {
                    None
                };
                Ok(LinkPayload {
                    src_mac,
                    ..at(ether_type, 20)
                })
            }
            Self::RawIp => match record.first().ok_or(cut)? >> 4 {
                4 => Ok(at(ether_type::IPV4, 0)),
                6 => Ok(at(ether_type::IPV6, 0)),
                _ => Err(Malformed::OuterIp.into()),
            },
            Self::Null | Self::Loop => {
                let family = *record.first_chunk::<4>().ok_or(cut)?;
                let swapped = u32::from_le_bytes(family);
                let family = u32::from_be_bytes(family);
                let family = if self == Self::Null && family > 0xffff {
                    swapped
                } else {
                    family
                };
                match family {
                    2 => Ok(at(ether_type::IPV4, 4)),
                    // AF_INET6 of Linux, Windows, NetBSD, FreeBSD and Darwin.
                    10 | 23 | 24 | 28 | 30 => Ok(at(ether_type::IPV6, 4)),
                    _ => Err(Filtered::NotIp.into()),
                }
            }
            Self::Unreadable(_) => Err(Filtered::LinkType.into()),
        }
    }
}

/// A record without its link-layer header; VLAN tags are still in front of `payload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkPayload<'a> {
    /// Sender's hardware address, where the link layer tells it.
    pub src_mac: Option<Mac>,
    /// EtherType of `payload`; below 1536 it is an 802.3 length or a Linux pseudo protocol.
    pub ether_type: u16,
    /// The bytes behind the header.
    pub payload: &'a [u8],
}

/// How a datagram came from its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pieces {
    /// In one IP packet.
    #[default]
    One,
    /// In IP fragments.
    Fragments {
        /// Bytes of the largest one, IP header included.
        largest: u32,
    },
    /// In IP fragments, of which only the first ones are here.
    FirstFragments {
        /// Bytes of the largest one, IP header included.
        largest: u32,
    },
    /// Not to be seen: the kernel joins fragments before a socket gets their datagram.
    Unseen,
}

/// A UDP datagram with what is known of the packet that carried it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterUdp<'a> {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// The payload, as far as it is here.
    pub payload: &'a [u8],
    /// Bytes of payload that were sent; more than `payload` holds when the record was cut.
    pub carried_len: usize,
    /// Bytes of the outer IP packet, header included.
    pub ip_len: u32,
    /// How it came.
    pub pieces: Pieces,
    /// IP and UDP length contradict each other or the bytes present.
    pub length_mismatch: bool,
}

impl OuterUdp<'_> {
    /// Bytes of the IP and UDP headers, where the lengths agree.
    pub fn headers_len(&self) -> usize {
        (self.ip_len as usize).saturating_sub(self.carried_len)
    }
}

/// A piece of a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterFragment<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Its place.
    pub fragment: Fragment,
    /// Its bytes of IP payload.
    pub payload: &'a [u8],
    /// Bytes of IP payload it had; more than `payload` holds where the capture cut it.
    pub len: usize,
}

/// What a record holds, if it is UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer<'a> {
    /// A whole datagram.
    Udp(OuterUdp<'a>),
    /// A piece of one.
    Fragment(OuterFragment<'a>),
}

/// Reads a record down to its UDP datagram. `record_cut` says that the capture stored fewer bytes than
/// the packet had.
///
/// # Errors
///
/// [`Filtered::NotIp`] and [`Filtered::NotUdp`] for other traffic, [`Malformed`] for broken headers.
#[inline]
pub fn read(link: LinkType, record: &[u8], record_cut: bool) -> Result<Outer<'_>, Refusal> {
    if link == LinkType::Ethernet
        && let Some(udp) = read_usual(record)
    {
        return Ok(Outer::Udp(udp));
    }
    read_any(link, record, record_cut)
}

/// The same for what nearly every mirrored packet is: all of UDP in IPv4, without tags, options or pieces, and
/// with lengths that agree. Of others it says nothing. It reads at a fifth of what [`read_any`] costs, and a test
/// holds the two equal.
#[inline(always)]
fn read_usual(record: &[u8]) -> Option<OuterUdp<'_>> {
    let (headers, behind) = record.split_first_chunk::<42>()?;
    let [
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        type0,
        type1, //
        version,
        _,
        len0,
        len1,
        _,
        _,
        place0,
        place1,
        _,
        protocol,
        _,
        _,
        a0,
        a1,
        a2,
        a3,
        b0,
        b1,
        b2,
        b3, //
        s0,
        s1,
        d0,
        d1,
        l0,
        l1,
        _,
        _,
    ] = *headers;
    let ip_len = u16::from_be_bytes([len0, len1]);
    let udp_len = u16::from_be_bytes([l0, l1]);
    let usual = u16::from_be_bytes([type0, type1]) == ether_type::IPV4
        && version == 0x45
        && protocol == protocol::UDP
        // More fragments, or an offset.
        && u16::from_be_bytes([place0, place1]) & 0x3fff == 0
        && udp_len >= 8
        && u32::from(ip_len) == 20 + u32::from(udp_len);
    if !usual {
        return None;
    }
    let payload = behind.get(..usize::from(udp_len) - 8)?;
    Some(OuterUdp {
        src: Address::v4([a0, a1, a2, a3]),
        dst: Address::v4([b0, b1, b2, b3]),
        src_port: u16::from_be_bytes([s0, s1]),
        dst_port: u16::from_be_bytes([d0, d1]),
        payload,
        carried_len: payload.len(),
        ip_len: ip_len.into(),
        pieces: Pieces::One,
        length_mismatch: false,
    })
}

/// As [`read`], for whatever there may be.
fn read_any(link: LinkType, record: &[u8], record_cut: bool) -> Result<Outer<'_>, Refusal> {
    let (ether_type, payload) = behind_tags(link, record)?;
    let version = match ether_type {
        ether_type::IPV4 => 4,
        ether_type::IPV6 => 6,
        _ => return Err(Filtered::NotIp.into()),
    };
    if payload.first().is_some_and(|first| first >> 4 == version) {
        read_ip(payload, record_cut)
    } else {
        Err(mislabelled(payload, record_cut))
    }
}

/// EtherType and bytes behind the link layer and all VLAN tags.
#[inline]
fn behind_tags(link: LinkType, record: &[u8]) -> Result<(u16, &[u8]), Refusal> {
    let LinkPayload {
        mut ether_type,
        mut payload,
        ..
    } = link.strip(record)?;
    while !ether_type::is_ip(ether_type) && ether_type::is_vlan(ether_type) {
        ether_type = be16(payload, 2).ok_or(Malformed::OuterLink)?;
        payload = payload.get(4..).unwrap_or_default();
    }
    Ok((ether_type, payload))
}

/// What stands behind the UDP header of a packet, whatever that header says of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BehindUdp<'a> {
    /// Destination port.
    pub dst_port: u16,
    /// First byte of the IP packet in its record.
    packet_at: usize,
    /// First byte of the UDP header in it.
    udp_at: usize,
    /// The bytes that are here.
    pub bytes: &'a [u8],
    /// Bytes that were there; more where the capture cut them.
    pub whole_len: usize,
}

impl BehindUdp<'_> {
    /// Writes the headers of `record`, which this was read from, to `out`, with the lengths of a datagram of
    /// `len` bytes. Tells how many bytes they are. The checksums stay as they are.
    pub fn write_headers(&self, record: &[u8], len: usize, out: &mut Vec<u8>) -> usize {
        let headers_len = self.udp_at + 8;
        out.clear();
        out.extend_from_slice(record.get(..headers_len).unwrap_or_default());
        let is_v4 = out.get(self.packet_at).is_some_and(|first| first >> 4 == 4);
        // IPv6 counts what follows its first 40 bytes.
        let (ip_len_at, not_counted) = match is_v4 {
            true => (self.packet_at + 2, 0),
            false => (self.packet_at + 4, 40),
        };
        let ip_len = headers_len - self.packet_at - not_counted + len;
        for (at, len) in [(ip_len_at, ip_len), (self.udp_at + 4, 8 + len)] {
            let field = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>);
            if let (Some(field), Ok(len)) = (field, u16::try_from(len)) {
                *field = len.to_be_bytes();
            }
        }
        headers_len
    }
}

/// Reads a record of a packet that had `orig_len` bytes down to what stands behind its UDP header, up to the
/// end that the IP header declares, or that of the packet where that is not believed. `None` where there is
/// no UDP, or a fragment of it.
#[cold]
pub fn behind_udp(
    link: LinkType,
    record: &[u8],
    orig_len: usize,
    believe_ip: bool,
) -> Option<BehindUdp<'_>> {
    let (_, packet) = behind_tags(link, record).ok()?;
    let ip = IpHeader::read(packet).ok()?;
    if ip.fragment.is_some() || ip.options_cut || ip.protocol != protocol::UDP {
        return None;
    }
    let (header, behind) = packet.get(ip.header_len..)?.split_first_chunk::<8>()?;
    let [_, _, d0, d1, ..] = *header;
    let headers_len = ip.header_len + 8;
    let there = behind.len() + orig_len.saturating_sub(record.len());
    let whole_len = match ip.declared_len as usize {
        1.. if !believe_ip => there,
        0 => there,
        len => len.checked_sub(headers_len)?.min(there),
    };
    Some(BehindUdp {
        dst_port: u16::from_be_bytes([d0, d1]),
        packet_at: record.len() - packet.len(),
        udp_at: record.len() - packet.len() + ip.header_len,
        bytes: behind.get(..whole_len).unwrap_or(behind),
        whole_len,
    })
}

/// What is wrong with a packet whose IP version is not the one its EtherType names.
#[cold]
fn mislabelled(packet: &[u8], record_cut: bool) -> Refusal {
    match read_ip(packet, record_cut) {
        Ok(_) => Malformed::OuterIp.into(),
        Err(refusal) => refusal,
    }
}

/// Reads an IP packet down to its UDP datagram; arguments and errors as [`read`].
///
/// # Errors
///
/// As [`read`].
#[inline(always)]
pub fn read_ip(packet: &[u8], record_cut: bool) -> Result<Outer<'_>, Refusal> {
    let ip = IpHeader::read_plain(packet).map_err(|_: IpError| Malformed::OuterIp)?;
    let cut = if ip.declared_len == 0 {
        record_cut
    } else {
        ip.declared_len as usize > packet.len()
    };
    if let Some(fragment) = ip.fragment {
        if fragment.protocol != protocol::UDP && !is_extension(fragment.protocol, ip.version()) {
            return Err(Filtered::NotUdp.into());
        }
        let end = if ip.declared_len == 0 {
            packet.len()
        } else {
            packet.len().min(ip.declared_len as usize)
        };
        let payload = packet.get(fragment.payload_at..end).unwrap_or_default();
        let declared = (ip.declared_len as usize).saturating_sub(fragment.payload_at);
        return Ok(Outer::Fragment(OuterFragment {
            src: ip.src.ip(),
            dst: ip.dst.ip(),
            fragment,
            payload,
            len: declared.max(payload.len()),
        }));
    }
    if ip.options_cut {
        return Err(Malformed::OuterIp.into());
    }
    if ip.protocol == protocol::AUTHENTICATION {
        return behind_authentication(packet, cut);
    }
    if ip.protocol != protocol::UDP {
        return Err(Filtered::NotUdp.into());
    }
    read_udp(&ip, ip.payload(packet), cut).map(Outer::Udp)
}

/// The UDP datagram behind IPv4's authentication header.
#[cold]
fn behind_authentication(packet: &[u8], cut: bool) -> Result<Outer<'_>, Refusal> {
    match IpHeader::read(packet) {
        Ok(ip) if !ip.options_cut && ip.protocol == protocol::UDP => {
            read_udp(&ip, ip.payload(packet), cut).map(Outer::Udp)
        }
        Ok(ip) if !ip.options_cut => Err(Filtered::NotUdp.into()),
        _ => Err(Malformed::OuterIp.into()),
    }
}

/// Reads the UDP datagram that is the payload of `ip`; `cut` says that bytes of it are missing.
///
/// # Errors
///
/// [`Malformed::OuterUdp`] when the header is cut or its length is below 8.
#[inline(always)]
pub fn read_udp<'a>(
    ip: &IpHeader,
    ip_payload: &'a [u8],
    cut: bool,
) -> Result<OuterUdp<'a>, Refusal> {
    let Some((header, present)) = ip_payload.split_first_chunk::<8>() else {
        return Err(Malformed::OuterUdp.into());
    };
    let [s0, s1, d0, d1, l0, l1, _, _] = *header;
    let sent_len = match ip.declared_len {
        0 => None,
        len => Some((len as usize).saturating_sub(ip.header_len + 8)),
    };
    let (payload, carried_len, length_mismatch) = match usize::from(u16::from_be_bytes([l0, l1])) {
        // RFC 2675 §4: a jumbogram leaves both lengths at zero; so does BIG TCP.
        0 if sent_len.is_none() => (present, present.len(), false),
        len @ 8.. => {
            let want = len - 8;
            let payload = present.get(..want).unwrap_or(present);
            let sent = if cut {
                want.min(sent_len.unwrap_or(want))
            } else {
                payload.len()
            };
            let carried = sent.max(payload.len());
            let mismatch = if cut {
                sent_len.is_some_and(|sent| sent != want)
            } else {
                want != present.len()
            };
            (payload, carried, mismatch)
        }
        _ => return Err(Malformed::OuterUdp.into()),
    };
    let on_the_wire = ip.header_len + 8 + present.len();
    Ok(OuterUdp {
        src: ip.src,
        dst: ip.dst,
        src_port: u16::from_be_bytes([s0, s1]),
        dst_port: u16::from_be_bytes([d0, d1]),
        payload,
        carried_len,
        ip_len: if ip.declared_len == 0 {
            u32::try_from(on_the_wire).unwrap_or(u32::MAX)
        } else {
            ip.declared_len
        },
        pieces: Pieces::One,
        length_mismatch,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By hand: Ethernet, IPv4 (10.0.0.1 to 10.0.0.2, total length 38), UDP 50000 to 4789 with 10 bytes.
    fn frame() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0];
        frame.extend([
            0x45, 0, 0, 38, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([0xc3, 0x50, 0x12, 0xb5, 0, 18, 0, 0]);
        frame.extend(1..=10);
        frame
    }

    fn udp(link: LinkType, record: &[u8], cut: bool) -> OuterUdp<'_> {
        match read(link, record, cut).unwrap() {
            Outer::Udp(udp) => udp,
            Outer::Fragment(_) => panic!("a fragment"),
        }
    }

    proptest! {
        /// Whatever the headers say, the short way says nothing else than the long one.
        #[test]
        fn the_usual_packet_is_read_as_any(
            changes in prop::collection::vec((12usize..44, any::<u8>()), 0..3),
            len in 0usize..=56,
            same_lengths in any::<Option<u8>>(),
            cut in any::<bool>(),
        ) {
            let mut frame = frame();
            frame.extend([0xee; 4]);
            if let Some(len) = same_lengths {
                (frame[17], frame[39]) = (len, len.wrapping_sub(20));
            }
            for (at, byte) in changes {
                frame[at] = byte;
            }
            let record = &frame[..len];
            if let Some(usual) = read_usual(record) {
                prop_assert_eq!(read_any(LinkType::Ethernet, record, cut), Ok(Outer::Udp(usual)));
            }
        }
    }

    #[test]
    fn the_usual_packet_is_known() {
        let frame = frame();
        for record in [&frame[..], &[&frame[..], &[0; 4]].concat()] {
            assert!(read_usual(record).is_some());
        }
        assert_eq!(read_usual(&frame[..51]), None, "cut");
    }

    #[test]
    fn ethernet_and_its_padding() {
        let mut frame = frame();
        frame.extend([0xee; 4]);
        let udp = udp(LinkType::Ethernet, &frame, false);
        assert_eq!(udp.payload, (1..=10).collect::<Vec<u8>>());
        assert_eq!(
            (udp.src_port, udp.dst_port, udp.carried_len, udp.ip_len),
            (50000, 4789, 10, 38)
        );
        assert!(!udp.length_mismatch);
    }

    #[test]
    fn every_link_type_finds_the_same_datagram() {
        let frame = frame();
        let behind = |header: &[u8]| [header, &frame[14..]].concat();
        let sll = behind(&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 0x08, 0]);
        let sll2 = behind(&[
            0x08, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0,
        ]);
        for (link, record) in [
            (LinkType::LinuxSll, sll),
            (LinkType::LinuxSll2, sll2),
            (LinkType::RawIp, behind(&[])),
            (LinkType::Null, behind(&[2, 0, 0, 0])),
            (LinkType::Null, behind(&[0, 0, 0, 2])),
            (LinkType::Loop, behind(&[0, 0, 0, 2])),
        ] {
            assert_eq!(udp(link, &record, false).payload, &frame[42..], "{link:?}");
            for len in 0..record.len() {
                let _ = read(link, &record[..len], true);
            }
        }
    }

    #[test]
    fn lengths_that_disagree() {
        let mut longer = frame();
        longer[39] = 100;
        let udp_longer = udp(LinkType::Ethernet, &longer, false);
        assert_eq!((udp_longer.payload.len(), udp_longer.carried_len), (10, 10));
        assert!(udp_longer.length_mismatch);

        let mut shorter = frame();
        shorter[39] = 12;
        let udp_shorter = udp(LinkType::Ethernet, &shorter, false);
        assert_eq!(
            (udp_shorter.payload.len(), udp_shorter.length_mismatch),
            (4, true)
        );

        for len in 0..8 {
            let mut broken = frame();
            broken[39] = len;
            assert_eq!(
                read(LinkType::Ethernet, &broken, false),
                Err(Malformed::OuterUdp.into())
            );
        }
    }

    #[test]
    fn a_cut_record_tells_what_was_carried() {
        let frame = frame();
        let cut = udp(LinkType::Ethernet, &frame[..46], true);
        assert_eq!(
            (cut.payload.len(), cut.carried_len, cut.length_mismatch),
            (4, 10, false)
        );
    }

    #[test]
    fn big_tcp_leaves_both_lengths_at_zero() {
        let mut big = frame();
        big[16..18].fill(0);
        big[38..40].fill(0);
        let udp = udp(LinkType::Ethernet, &big, false);
        assert_eq!((udp.payload.len(), udp.ip_len), (10, 38));
    }

    #[test]
    fn an_authentication_header_is_walked_through() {
        let plain = frame();
        let mut authenticated = plain[..34].to_vec();
        (authenticated[17], authenticated[23]) = (62, 51);
        authenticated.extend([17, 4, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1]);
        authenticated.extend([0xaa; 12]);
        authenticated.extend(&plain[34..]);
        let datagram = udp(LinkType::Ethernet, &authenticated, false);
        assert_eq!((datagram.payload, datagram.ip_len), (&plain[42..], 62));
        authenticated[34] = 6;
        let read_it = |frame| read(LinkType::Ethernet, frame, false);
        assert_eq!(read_it(&authenticated), Err(Filtered::NotUdp.into()));
        assert_eq!(
            read_it(&authenticated[..50]),
            Err(Malformed::OuterIp.into())
        );
    }

    #[test]
    fn other_traffic_is_filtered() {
        let mut arp = frame();
        arp[13] = 6;
        assert_eq!(
            read(LinkType::Ethernet, &arp, false),
            Err(Filtered::NotIp.into())
        );
        let mut tcp = frame();
        tcp[23] = 6;
        assert_eq!(
            read(LinkType::Ethernet, &tcp, false),
            Err(Filtered::NotUdp.into())
        );
        let mut lie = frame();
        lie[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(
            read(LinkType::Ethernet, &lie, false),
            Err(Malformed::OuterIp.into())
        );
    }
}
