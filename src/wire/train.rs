//! Datagrams that were put together before the capture: one outer packet, several tunnel datagrams.
//!
//! Where tcpdump runs on the machine that sends or receives, it may see a packet that the kernel has yet to
//! take apart (UDP GSO, `UDP_SEGMENT`) or has put together (UDP GRO): one IP and one UDP header, then the
//! payloads of all datagrams, each as long as the first, the last one perhaps shorter. The capture says
//! nothing of it. A packet is a train only where every datagram proves itself: a tunnel header with the
//! flags and the VNI of the first where the length says, and an inner frame that declares as many bytes as
//! the datagram has. Pure.

use std::net::{IpAddr, Ipv4Addr};

use super::be16;
use super::decapsulate::{Tunnel, Tunnels, layer};
use super::inner::Inner;
use super::ip::{Address, IpHeader};
use super::numbers::{ether_type, protocol};
use super::outer::{self, LinkType, Outer, OuterUdp};
use super::vxlan::{HEADER_LEN, Payload};

/// Fewest bytes of a datagram: a tunnel header and an Ethernet header.
const SHORTEST: usize = HEADER_LEN + 14;
/// Longest frame that may be filled up: 60 bytes and an FCS.
const LONGEST_PADDED: usize = 64;
/// Bytes behind a frame that may be part of it.
const LONGEST_TRAILER: usize = 8;
/// Where each datagram is cut by the mirror source no length proves anything: this many must stand in a row.
const FEWEST_CUT: usize = 3;

/// Bytes behind an IP packet that are its padding or trailer: fewer than the shortest VXLAN datagram with IP.
const MOST_BEHIND: usize = SHORTEST + 20;

/// What a packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// One datagram, as far as can be told.
    One,
    /// Datagrams of so many bytes each, the last perhaps shorter.
    Train(usize),
    /// Perhaps several datagrams, but nothing proves where each begins.
    Unproven,
}

/// Whether a record of a packet that had `orig_len` bytes holds one datagram at the most, at a glance: its
/// lengths agree, and its inner frame declares what is there or leaves no room for another. Only Ethernet
/// without tags is looked at so.
#[inline]
pub fn is_one_record(link: LinkType, record: &[u8], orig_len: usize) -> bool {
    link == LinkType::Ethernet
        && (is_one_of_ipv4(record, orig_len) || is_one_of_any(record, orig_len))
}

/// The same for what most records are: a whole packet of VXLAN in IPv4 without options, and IP in that without more
/// behind it than padding. Of others it says nothing.
#[inline]
fn is_one_of_ipv4(record: &[u8], orig_len: usize) -> bool {
    /// Outer Ethernet, IPv4 and UDP, tunnel, and inner Ethernet, tag and IP up to the length of each kind.
    const HEADERS: usize = 14 + 20 + 8 + SHORTEST + 4 + 6;
    let Some(headers) = record.first_chunk::<HEADERS>() else {
        return false;
    };
    let at = |at| be16(headers, at).map_or(0, usize::from);
    let tag = match at(62) == usize::from(ether_type::VLAN) {
        true => 4,
        false => 0,
    };
    let ether_type = at(62 + tag);
    let declared = match ether_type == usize::from(ether_type::IPV4) {
        true => at(66 + tag),
        false => 40 + at(68 + tag),
    };
    let datagram_len = at(38);
    let behind = datagram_len.wrapping_sub(8 + SHORTEST + tag + declared);
    at(12) == usize::from(ether_type::IPV4)
        && headers.get(14) == Some(&0x45)
        && headers.get(23) == Some(&protocol::UDP)
        && at(20) & 0x3fff == 0
        && at(16) == 20 + datagram_len
        && orig_len == 14 + 20 + datagram_len
        && (ether_type == usize::from(ether_type::IPV4)
            || ether_type == usize::from(ether_type::IPV6))
        // Padding of the inner frame leaves no room for another datagram.
        && behind < SHORTEST
}

fn is_one_of_any(record: &[u8], orig_len: usize) -> bool {
    let at = |at| be16(record, at).unwrap_or_default();
    let (protocol, udp_at, ip_end) = match at(12) {
        ether_type::IPV4 => (record.get(23), 34, 14 + at(16)),
        ether_type::IPV6 => (record.get(20), 54, 54u16.saturating_add(at(18))),
        _ => return false,
    };
    if protocol.is_some_and(|number| *number != protocol::UDP) {
        // Extension headers may lead to UDP.
        return udp_at == 34;
    }
    if udp_at == 34 && record.get(14) != Some(&0x45) {
        return false;
    }
    let ip_end = usize::from(ip_end);
    let end = udp_at + usize::from(at(udp_at + 4));
    // A fragment holds a part of the datagram; anything behind the packet is padding, unless it is too much.
    let agree = end == ip_end && orig_len < ip_end + MOST_BEHIND;
    let fragment = udp_at == 34 && at(20) & 0x3fff != 0;
    let payload = record.get(udp_at + 8..).unwrap_or_default();
    fragment || (agree && is_one(payload, end.saturating_sub(udp_at + 8)))
}

/// Whether a payload is one datagram.
#[inline]
fn is_one(payload: &[u8], whole_len: usize) -> bool {
    let frame = payload.get(HEADER_LEN..).unwrap_or_default();
    let (ether_type, tag) = match be16(frame, 12) {
        Some(ether_type::VLAN) => (be16(frame, 16), 4),
        ether_type => (ether_type, 0),
    };
    let ip = frame.get(14 + tag..).unwrap_or_default();
    let declared = match (ether_type, be16(ip, 2), be16(ip, 4)) {
        (Some(ether_type::IPV4), Some(len), _) => SHORTEST + tag + usize::from(len),
        (Some(ether_type::IPV6), _, Some(len)) => SHORTEST + tag + 40 + usize::from(len),
        _ => return whole_len < 2 * SHORTEST,
    };
    match declared <= whole_len {
        true => whole_len < declared + SHORTEST,
        // The mirror source cut it. It may be the first of several of its size.
        false => whole_len < FEWEST_CUT * (SHORTEST + 20),
    }
}

/// Looks for a train in `bytes`, which stand behind a UDP header; `whole_len` of them were there before the
/// capture cut them. `tunnel` is what the port stands for.
#[cold]
pub fn look(tunnels: &Tunnels, tunnel: Tunnel, bytes: &[u8], whole_len: usize) -> Found {
    let search = Search {
        tunnels,
        tunnel,
        bytes,
        whole_len,
    };
    if search.headers_from(SHORTEST).next().is_none() {
        return Found::One;
    }
    let Some(first) = search.piece(0, whole_len) else {
        return Found::One;
    };
    match first.declared {
        Some(declared) if declared <= whole_len => search.behind(declared),
        _ => search.of_cut(),
    }
}

struct Search<'a> {
    tunnels: &'a Tunnels,
    tunnel: Tunnel,
    bytes: &'a [u8],
    whole_len: usize,
}

/// A datagram of a train, or what might be one.
struct Datagram {
    /// Bytes of tunnel header.
    header_len: usize,
    /// Bytes of datagram as the inner frame declares them.
    declared: Option<usize>,
    /// The inner IP header cannot be there by chance.
    proven_ip: bool,
    /// It carries another tunnel.
    nested: bool,
}

impl Search<'_> {
    /// Reads the datagram of `len` bytes at `at`, as far as it is here.
    fn piece(&self, at: usize, len: usize) -> Option<Datagram> {
        let here = self.bytes.get(at..)?;
        let here = here.get(..len).unwrap_or(here);
        let nowhere = Address::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let udp = OuterUdp {
            src: nowhere,
            dst: nowhere,
            src_port: 0,
            dst_port: 0,
            payload: here,
            carried_len: len,
            ip_len: 0,
            pieces: outer::Pieces::One,
            length_mismatch: false,
        };
        let mirrored = layer(self.tunnels, self.tunnel, &udp).ok()?;
        let frame = mirrored.bytes;
        let header_len = here.len() - frame.len();
        let (ip_offset, frame_len, read) = match mirrored.payload {
            Payload::Ethernet => {
                let inner = Inner::read(frame);
                let frame_len = match inner.ether_type {
                    _ if inner.ip_len > 0 => inner.ip_offset + inner.ip_len,
                    // Hardware and protocol addresses of 6 and 4 bytes (RFC 826).
                    ether_type::ARP => 14 + 28,
                    _ => inner.frame_len,
                };
                let within = outer::read(LinkType::Ethernet, frame, true);
                (inner.ip_offset, frame_len, within)
            }
            Payload::Ipv4 | Payload::Ipv6 => {
                let ip_len = IpHeader::read(frame).ok()?.declared_len;
                (0, ip_len, outer::read_ip(frame, true))
            }
        };
        let ip = frame.get(ip_offset as usize..).unwrap_or_default();
        let within = match read {
            Ok(Outer::Udp(udp)) => self.tunnels.at_port(udp.dst_port),
            _ => None,
        };
        Some(Datagram {
            header_len,
            declared: (frame_len > 0).then_some(header_len + frame_len as usize),
            proven_ip: frame_len > 0 && is_proven(ip),
            nested: within.is_some(),
        })
    }

    /// Where tunnel headers like the first stand, from `at` on.
    fn headers_from(&self, at: usize) -> impl Iterator<Item = usize> {
        let flags = self.bytes.first().copied().unwrap_or_default();
        let rest = self.bytes.get(at..).unwrap_or_default();
        let places = memchr::memchr_iter(flags, rest).map(move |place| at + place);
        places.filter(|place| self.is_header(*place))
    }

    /// Whether the tunnel header at `at` has the flags and the VNI of the first.
    fn is_header(&self, at: usize) -> bool {
        let header = |at| self.bytes.get(at..).and_then(<[u8]>::first_chunk::<8>);
        match (header(0), header(at)) {
            // Geneve begins with version and length of its options, VXLAN with its flags.
            (Some([f0, _, _, _, v0, v1, v2, _]), Some([g0, _, _, _, w0, w1, w2, _])) => {
                f0 == g0 && [v0, v1, v2] == [w0, w1, w2]
            }
            _ => false,
        }
    }

    /// The first frame ends before the bytes do: a datagram may begin behind it.
    fn behind(&self, declared: usize) -> Found {
        let room = self.whole_len - declared;
        if room < SHORTEST {
            return Found::One;
        }
        self.search(declared, false)
    }

    /// Every frame may be cut by the mirror source to one size, and no length proves anything. A frame that
    /// holds VXLAN looks so too.
    fn of_cut(&self) -> Found {
        self.search(SHORTEST, true)
    }

    /// The first size, from `shortest` on, of which the bytes prove to be datagrams.
    fn search(&self, shortest: usize, all_cut: bool) -> Found {
        let mut unproven = false;
        let last = self.whole_len.saturating_sub(SHORTEST);
        for segment in self.headers_from(shortest).take_while(|at| *at <= last) {
            match self.check(segment, all_cut) {
                Check::Proven => return Found::Train(segment),
                Check::Possible => unproven = true,
                Check::No => {}
            }
        }
        match unproven {
            true => Found::Unproven,
            false => Found::One,
        }
    }

    /// Whether the bytes are datagrams of `segment` bytes each.
    fn check(&self, segment: usize, all_cut: bool) -> Check {
        let mut number = 0;
        let mut trailer = None;
        let mut lengths_agree = true;
        for at in (0..self.whole_len).step_by(segment) {
            let len = segment.min(self.whole_len - at);
            let here = self.bytes.len().saturating_sub(at);
            if here < SHORTEST && here < len {
                // The capture did not store the rest.
                break;
            }
            if !self.is_header(at) {
                return Check::No;
            }
            let Some(piece) = self.piece(at, len) else {
                return Check::No;
            };
            number += 1;
            if all_cut && (piece.nested || !piece.proven_ip) {
                return Check::No;
            }
            let agrees = match piece.declared {
                Some(declared) if declared <= len => {
                    let more = len - declared;
                    let first = *trailer.get_or_insert(more);
                    more == 0
                        || len - piece.header_len <= LONGEST_PADDED
                        || (more == first && more <= LONGEST_TRAILER)
                }
                // Cut by the mirror source: all such frames have one size.
                Some(_) => piece.proven_ip && len == segment,
                None => true,
            };
            // A frame that is no IP begins where it should, and says no more.
            lengths_agree &= agrees;
        }
        match (lengths_agree, number) {
            (_, 0 | 1) => Check::No,
            (false, _) => Check::Possible,
            (true, _) if all_cut && number < FEWEST_CUT => Check::Possible,
            (true, _) => Check::Proven,
        }
    }
}

enum Check {
    /// Every datagram is where it should be, with the length it should have.
    Proven,
    /// The headers are there, the lengths do not agree.
    Possible,
    No,
}

/// Whether an IP header cannot be there by chance.
fn is_proven(ip: &[u8]) -> bool {
    match ip.first() {
        Some(first @ 0x45..=0x4f) => {
            let header = ip.get(..usize::from(first & 0x0f) * 4);
            header.is_some_and(|header| {
                let words = header.chunks_exact(2);
                let sum: u32 = words.filter_map(|word| be16(word, 0)).map(u32::from).sum();
                // RFC 1071: with its checksum a header adds up to ones.
                (sum & 0xffff) + (sum >> 16) == 0xffff
            })
        }
        // Payload length, next header and hop limit leave little to chance behind a tunnel and an Ethernet
        // header.
        Some(first) => first >> 4 == 6 && ip.len() >= 40,
        None => false,
    }
}
