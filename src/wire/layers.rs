//! What may stand between the first Ethernet header of a mirrored frame and its IP packet: PPPoE, LLC and
//! SNAP, MPLS, VN-tag, FabricPath, provider backbone bridges and more, nested in any order.
//!
//! In goes a frame whose first EtherType is neither IP nor a VLAN tag with IP behind; out comes where the IP
//! packet is, if one can be reached. Lengths that are declared on the way are kept for frames without one.
//!
//! Most layers name what follows. MPLS does not, and an Ethernet pseudowire may begin with any hardware
//! address: what is read behind a label stack has to prove itself, because a length taken from a hardware
//! address would call a whole packet truncated.

use std::cmp::Ordering;

use super::be16;
use super::inner::Inner;
use super::numbers::{ether_type, protocol};

/// More layers than this are an attack, not a frame.
const MAX_LAYERS: usize = 16;
/// More labels than this neither.
const MAX_LABELS: usize = 32;
/// Largest value of the field behind the hardware addresses that is a length (IEEE 802.3 §3.2.6).
const MAX_802_3_LEN: u16 = 1500;

/// Ethernet pads what it carries to so many bytes.
const MIN_PAYLOAD: usize = 46;
/// Networks carry no larger frames, even where they carry jumbo frames.
const LARGEST_FRAME: usize = 9216;

/// What the next bytes are.
#[derive(Clone, Copy)]
enum Next {
    /// What this EtherType says.
    Type(u16),
    /// An Ethernet header.
    Frame,
    /// An LLC header (IEEE 802.2).
    Llc,
    /// A PPP protocol number.
    Ppp,
    /// MPLS labels.
    Labels,
    /// An IP packet of this version.
    Ip(u8),
}

/// How an IP header shows that it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Proof {
    /// It cannot be one.
    None,
    /// Nothing contradicts it. An offload may have left the checksum out.
    Likely,
    /// Chance does not make such bytes.
    Sure,
}

impl Inner {
    /// Where the IP packet of `frame` begins, and its version. `at` counts the bytes before what
    /// [`Self::ether_type`] names.
    #[cold]
    pub(super) fn dig(&mut self, frame: &[u8], at: usize) -> Option<(usize, u8)> {
        let next = Next::Type(self.ether_type);
        let mut left = MAX_LAYERS;
        self.dig_on(frame, at, next, false, &mut left)
    }

    /// As [`Self::dig`], at what `next` says. `guarded`: only an IP packet that proves itself is taken.
    /// `left` is how many layers may still be read.
    fn dig_on(
        &mut self,
        frame: &[u8],
        mut at: usize,
        mut next: Next,
        guarded: bool,
        left: &mut usize,
    ) -> Option<(usize, u8)> {
        loop {
            *left = left.checked_sub(1)?;
            let bytes = frame.get(at..)?;
            let (skip, then) = match next {
                Next::Ip(4) => return (!guarded || ipv4(bytes) > Proof::None).then_some((at, 4)),
                Next::Ip(version) => {
                    return (!guarded || ipv6(bytes) > Proof::None).then_some((at, version));
                }
                Next::Frame => {
                    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] =
                        *bytes.first_chunk::<14>()?;
                    self.dst_mac = Some([d0, d1, d2, d3, d4, d5]);
                    self.src_mac = Some([s0, s1, s2, s3, s4, s5]);
                    (14, Next::Type(u16::from_be_bytes([t0, t1])))
                }
                Next::Type(ether_type) => {
                    self.ether_type = ether_type;
                    self.behind_type(bytes, at, ether_type)?
                }
                Next::Llc => behind_llc(bytes)?,
                Next::Ppp => behind_ppp(bytes)?,
                Next::Labels => return self.behind_labels(frame, at, guarded, left),
            };
            at += skip;
            next = then;
        }
    }

    /// How many bytes the header that `ether_type` names has, and what follows it.
    fn behind_type(&mut self, bytes: &[u8], at: usize, ether_type: u16) -> Option<(usize, Next)> {
        let type_at = |at| be16(bytes, at).map(Next::Type);
        Some(match ether_type {
            ether_type::IPV4 => (0, Next::Ip(4)),
            ether_type::IPV6 => (0, Next::Ip(6)),
            vlan if ether_type::is_vlan(vlan) => {
                // A tag that is cut leaves no EtherType.
                self.ether_type = 0;
                let then = type_at(2)?;
                self.tag(be16(bytes, 0)?);
                (4, then)
            }
            // Destination and source interface, then the EtherType (Cisco's VN-tag, before 802.1BR).
            ether_type::VN_TAG | ether_type::HSR => (6, type_at(4)?),
            // IEEE 802.1BR §7.5: ingress and extended channel identifiers.
            ether_type::E_TAG => (8, type_at(6)?),
            // Version 1, length 1: one security group tag.
            ether_type::CISCO_METADATA if bytes.starts_with(&[1, 1]) => (8, type_at(6)?),
            // IEEE 802.1ah: the I-TAG, then the customer's frame.
            ether_type::BACKBONE_SERVICE => (4, Next::Frame),
            // Tree and time to live end FabricPath's header of 16 bytes, the customer's frame follows.
            ether_type::FABRICPATH => (2, Next::Frame),
            // RFC 6325 §3.1: the length of options in units of 4 bytes is 5 bits of the first two bytes.
            ether_type::TRILL => {
                let options = usize::from((be16(bytes, 0)? >> 6) & 0x1f) * 4;
                (6 + options, Next::Frame)
            }
            // RFC 8300 §2.2: the length in units of 4 bytes, and what follows.
            ether_type::NSH => {
                let [_, len, _, next] = *bytes.first_chunk::<4>()?;
                let then = match next {
                    1 => Next::Ip(4),
                    2 => Next::Ip(6),
                    3 => Next::Frame,
                    5 => Next::Labels,
                    _ => return None,
                };
                (usize::from(len & 0x3f).max(2) * 4, then)
            }
            // RFC 2516 §4: version and type 1, code, session, length.
            ether_type::PPPOE_DISCOVERY | ether_type::PPPOE_SESSION => {
                let [0x11, code, _, _, l0, l1] = *bytes.first_chunk::<6>()? else {
                    return None;
                };
                self.declares(at + 6, u16::from_be_bytes([l0, l1]));
                if ether_type == ether_type::PPPOE_DISCOVERY || code != 0 {
                    return None;
                }
                (6, Next::Ppp)
            }
            ether_type::MPLS | ether_type::MPLS_UPSTREAM => (0, Next::Labels),
            ether_type::JUMBO_LLC => (0, Next::Llc),
            len @ 1..=MAX_802_3_LEN => {
                self.declares(at, len);
                (0, Next::Llc)
            }
            _ => return None,
        })
    }

    /// Notes that `len` bytes follow the first `at` of the frame; the innermost layer has the last word.
    fn declares(&mut self, at: usize, len: u16) {
        if len > 0 {
            self.frame_len = u32::try_from(at)
                .unwrap_or(u32::MAX)
                .saturating_add(u32::from(len));
        }
    }

    /// Reads on at a label stack (RFC 3032 §2.1). It does not name what it carries, but for two reserved
    /// labels.
    fn behind_labels(
        &mut self,
        frame: &[u8],
        mut at: usize,
        guarded: bool,
        left: &mut usize,
    ) -> Option<(usize, u8)> {
        let mut last = None;
        for _ in 0..MAX_LABELS {
            let [l0, l1, low, _] = *frame.get(at..)?.first_chunk::<4>()?;
            at += 4;
            if low & 1 != 0 {
                last = Some(u32::from_be_bytes([0, l0, l1, low]) >> 4);
                break;
            }
        }
        let (label, bytes) = (last?, frame.get(at..)?);
        let version = bytes.first()? >> 4;
        // RFC 3032 §2.1: "IPv4 Explicit NULL" and "IPv6 Explicit NULL".
        if matches!((label, version), (0, 4) | (2, 6)) && !guarded {
            return Some((at, version));
        }
        let proof = match version {
            4 => ipv4(bytes),
            6 => ipv6(bytes),
            _ => Proof::None,
        };
        if proof == Proof::Sure && (version == 4 || no_ethernet(bytes)) {
            return Some((at, version));
        }
        // An Ethernet pseudowire, with a control word (RFC 4448 §4.6: it begins with four zero bits) or not.
        for (skip, possible) in [(4, version == 0), (0, true)] {
            if !possible {
                continue;
            }
            let mut within = *self;
            let found = within.dig_on(frame, at + skip, Next::Frame, true, left);
            if found.is_some() {
                *self = within;
                return found;
            }
        }
        (proof == Proof::Likely && no_ethernet(bytes)).then_some((at, version))
    }
}

/// Behind LLC (IEEE 802.2): SNAP with an EtherType (RFC 1042, and the bridge-tunnel encapsulation of
/// 802.1H), or IP by its own service access point.
fn behind_llc(bytes: &[u8]) -> Option<(usize, Next)> {
    match *bytes {
        [0xaa, 0xaa, 0x03, 0, 0, 0 | 0xf8, t0, t1, ..] => {
            Some((8, Next::Type(u16::from_be_bytes([t0, t1]))))
        }
        [0x06, 0x06, 0x03, ..] => Some((3, Next::Ip(4))),
        _ => None,
    }
}

/// Behind a PPP protocol number (RFC 1661 §2), whose first byte is left out where both sides agreed on it
/// (§6.5): the last byte is odd, the one before it even.
fn behind_ppp(bytes: &[u8]) -> Option<(usize, Next)> {
    let (len, number) = match *bytes {
        [low, ..] if low & 1 != 0 => (1, u16::from(low)),
        [high, low, ..] => (2, u16::from_be_bytes([high, low])),
        _ => return None,
    };
    let next = match number {
        0x0021 => Next::Ip(4),
        0x0057 => Next::Ip(6),
        0x0281 | 0x0283 => Next::Labels,
        _ => return None,
    };
    Some((len, next))
}

/// How an IPv4 header at the start of `bytes` proves itself: by its checksum, or by a length that is exactly
/// what is here.
fn ipv4(bytes: &[u8]) -> Proof {
    let Some((fixed, _)) = bytes.split_first_chunk::<20>() else {
        return Proof::None;
    };
    let [
        first,
        _,
        l0,
        l1,
        _,
        _,
        _,
        _,
        ttl,
        _,
        c0,
        c1,
        s0,
        _,
        _,
        _,
        d0,
        _,
        _,
        _,
    ] = *fixed;
    let header_len = usize::from(first & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([l0, l1]));
    let header = bytes
        .get(..header_len)
        .filter(|_| first >> 4 == 4 && header_len >= 20);
    let Some(header) = header.filter(|_| total_len == 0 || total_len >= header_len) else {
        return Proof::None;
    };
    if checksum(header) == 0 && total_len > 0 {
        return Proof::Sure;
    }
    // A length that is exactly what is here is no chance either. Padding leaves room for chance, unless an
    // offload left the checksum out.
    let padded = total_len < bytes.len() && bytes.len() <= MIN_PAYLOAD;
    let fits = total_len == bytes.len() || ((total_len == 0 || padded) && (c0, c1) == (0, 0));
    // Neither "this network" nor multicast sends, and nothing goes to the former.
    if fits && ttl > 0 && matches!(s0, 1..224) && d0 != 0 {
        Proof::Likely
    } else {
        Proof::None
    }
}

/// How an IPv6 header at the start of `bytes` proves itself: it has no checksum, so its addresses, its next
/// header, its length and what follows have to be such as are used.
fn ipv6(bytes: &[u8]) -> Proof {
    let Some((fixed, payload)) = bytes.split_first_chunk::<40>() else {
        return Proof::None;
    };
    let [first, _, _, _, l0, l1, next, hops, addresses @ ..] = fixed;
    let [src, dst] = addresses.as_chunks::<16>().0 else {
        return Proof::None;
    };
    let to_group = matches!(dst, [0xff, 0x01..=0x0e | 0x10..=0x7e, ..]);
    let sent_by_nobody = *src == [0; 16];
    let addresses = (is_host(src) || (sent_by_nobody && to_group)) && (is_host(dst) || to_group);
    if first >> 4 != 6 || *hops == 0 || !addresses {
        return Proof::None;
    }
    let payload_len = usize::from(u16::from_be_bytes([*l0, *l1]));
    match payload_len.cmp(&payload.len()) {
        Ordering::Equal if is_known(*next) => Proof::Sure,
        Ordering::Equal => Proof::Likely,
        // Padding, or a length that is told elsewhere.
        Ordering::Less if is_known(*next) => Proof::Likely,
        Ordering::Less => Proof::None,
        Ordering::Greater => cut_payload(*next, payload_len, payload),
    }
}

/// How the payload of an IPv6 packet proves that it is the beginning of `payload_len` bytes of `protocol`.
fn cut_payload(protocol: u8, payload_len: usize, payload: &[u8]) -> Proof {
    let agrees = match (protocol, payload) {
        (protocol::UDP, [_, _, _, _, l0, l1, ..]) => {
            usize::from(u16::from_be_bytes([*l0, *l1])) == payload_len
        }
        // Three bits are reserved between the header's length and the flags.
        (protocol::TCP, [_, _, _, _, _, _, _, _, _, _, _, _, low, ..]) => {
            low >> 4 >= 5 && low & 0x0e == 0 && payload_len <= LARGEST_FRAME
        }
        (protocol::ICMPV6, [kind, ..]) => {
            matches!(kind, 1..=4 | 128..=161) && payload_len <= LARGEST_FRAME
        }
        (
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS,
            [next, len, ..],
        ) => *next != protocol::HOP_BY_HOP && is_known(*next) && *len <= 16,
        (protocol::FRAGMENT, [next, 0, ..]) => is_known(*next),
        // Cut before it can tell.
        (protocol::UDP | protocol::TCP, _) if payload_len <= LARGEST_FRAME => {
            return Proof::Likely;
        }
        _ => false,
    };
    if agrees { Proof::Sure } else { Proof::None }
}

/// Whether an IPv6 header names it often enough to be evidence.
const fn is_known(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::IPV4
            | protocol::TCP
            | protocol::UDP
            | protocol::IPV6
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::GRE
            | protocol::ESP
            | protocol::AUTHENTICATION
            | protocol::ICMPV6
            | protocol::NO_NEXT
            | protocol::DESTINATION_OPTIONS
            | protocol::OSPF
            | protocol::PIM
            | protocol::VRRP
            | protocol::L2TP
            | protocol::SCTP
    )
}

/// Whether it is an address as hosts have them: global, unique local, link-local, loopback, IPv4-mapped, of
/// NAT64 or of segment routing (RFC 9602).
const fn is_host(address: &[u8; 16]) -> bool {
    matches!(
        address,
        [0x20..=0x3f | 0xfc | 0xfd, ..]
            | [0xfe, 0x80..=0xbf, ..]
            | [0x5f, 0, ..]
            | [0, 0x64, 0xff, 0x9b, ..]
            | [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..]
            | [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    )
}

/// Whether reading `bytes` as an Ethernet frame fails: what stands where the EtherType would is none that is
/// known, or is contradicted by what follows.
pub(super) fn no_ethernet(bytes: &[u8]) -> bool {
    let Some(ether_type) = be16(bytes, 12) else {
        return true;
    };
    let behind = bytes.get(14..).unwrap_or_default();
    let version = behind.first().map_or(0, |first| first >> 4);
    match ether_type {
        ether_type::IPV4 => version != 4,
        ether_type::IPV6 => version != 6,
        ether_type::ARP => !behind.starts_with(&[0, 1, 8, 0]),
        0..=MAX_802_3_LEN => usize::from(ether_type) + 14 != bytes.len(),
        other => ether_type::name(other).is_none(),
    }
}

/// The version of the IP packet that `bytes` are, if they prove that they are one and no Ethernet frame.
pub(super) fn bare_ip(bytes: &[u8]) -> Option<u8> {
    let version = bytes.first()? >> 4;
    let proof = match version {
        4 => ipv4(bytes),
        6 => ipv6(bytes),
        _ => return None,
    };
    (proof == Proof::Sure && no_ethernet(bytes)).then_some(version)
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
    use proptest::prelude::*;

    use super::*;
    use crate::wire::inner::Transport;

    const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    const CUSTOMER: [u8; 12] = [2, 0, 0, 0, 0xaa, 2, 2, 0, 0, 0, 0xaa, 1];

    /// 192.0.2.10 to 192.0.2.20, UDP 5004 to 53, 100 bytes in all, the header's checksum right.
    fn udp4() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 100, 0, 1, 0, 0, 64, 17, 0, 0];
        packet.extend([192, 0, 2, 10, 192, 0, 2, 20, 0x13, 0x8c, 0, 53, 0, 80, 0, 0]);
        packet.resize(100, 0x55);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// 2001:db8::10 to 2001:db8::20, the same otherwise, 120 bytes in all.
    fn udp6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 80, 17, 64, 0x20, 1, 0x0d, 0xb8];
        packet.extend([0; 11]);
        packet.extend([0x10, 0x20, 1, 0x0d, 0xb8]);
        packet.extend([0; 11]);
        packet.extend([0x20, 0x13, 0x8c, 0, 53, 0, 80, 0, 0]);
        packet.resize(120, 0x55);
        packet
    }

    fn frame(macs: &[u8], ether_type: u16, payload: &[u8]) -> Vec<u8> {
        [macs, &ether_type.to_be_bytes(), payload].concat()
    }

    /// What each layer puts in front of `payload`, which is `ether_type`, and its own EtherType. By hand from
    /// its specification.
    fn layer(name: &str, ether_type: u16, payload: &[u8]) -> Option<(u16, Vec<u8>)> {
        let typed = |head: &[u8]| [head, &ether_type.to_be_bytes(), payload].concat();
        let bare = |head: &[u8]| [head, payload].concat();
        let len = payload.len() as u16;
        Some(match name {
            "0x8100" => (0x8100, typed(&[0x20, 5])),
            "0x88a8" => (0x88a8, typed(&[0, 6])),
            "0x9100" => (0x9100, typed(&[0, 7])),
            "0x9200" => (0x9200, typed(&[0, 8])),
            "0x8200" => (0x8200, typed(&[0, 9])),
            "vn-tag" => (0x8926, typed(&[0, 17, 0, 0])),
            "e-tag" => (0x893f, typed(&[0, 0, 0, 100, 0, 0])),
            "hsr" => (0x892f, typed(&[0, 106, 0, 1])),
            "cisco metadata" => (0x8909, typed(&[1, 1, 0, 1, 0, 4])),
            "802.1ah" => {
                let customer = frame(&CUSTOMER, ether_type, payload);
                (0x88e7, [&[0, 0, 0, 10][..], &customer].concat())
            }
            "fabricpath" => {
                let customer = frame(&CUSTOMER, ether_type, payload);
                (0x8903, [&[4, 1][..], &customer].concat())
            }
            "trill" => {
                let customer = frame(&CUSTOMER, ether_type, payload);
                let with_options = [0, 0x7f, 0, 1, 0, 2, 9, 9, 9, 9];
                (0x22f3, [&with_options[..], &customer].concat())
            }
            "pseudowire" => {
                let customer = frame(&CUSTOMER, ether_type, payload);
                (0x8847, [&[0, 1, 0x11, 64][..], &customer].concat())
            }
            "control word" => {
                let customer = frame(&CUSTOMER, ether_type, payload);
                (
                    0x8847,
                    [&[0, 1, 0x11, 64, 0, 0, 0, 3][..], &customer].concat(),
                )
            }
            "snap" => (len + 8, typed(&[0xaa, 0xaa, 3, 0, 0, 0])),
            "802.1h" => (len + 8, typed(&[0xaa, 0xaa, 3, 0, 0, 0xf8])),
            "jumbo llc" => (0x8870, typed(&[0xaa, 0xaa, 3, 0, 0, 0])),
            "llc ip" if ether_type == 0x0800 => (len + 3, bare(&[6, 6, 3])),
            "pppoe" | "compressed ppp" => {
                let number: &[u8] = match (ether_type, name) {
                    (0x0800, "pppoe") => &[0, 0x21],
                    (0x86dd, "pppoe") => &[0, 0x57],
                    (0x8847, "pppoe") => &[2, 0x81],
                    (0x0800, _) => &[0x21],
                    (0x86dd, _) => &[0x57],
                    _ => return None,
                };
                let [high, low] = (len + number.len() as u16).to_be_bytes();
                (
                    0x8864,
                    [&[0x11, 0, 0, 66, high, low], number, payload].concat(),
                )
            }
            "mpls" if matches!(ether_type, 0x0800 | 0x86dd) => {
                (0x8847, bare(&[0, 1, 0, 64, 0, 2, 1, 64]))
            }
            "nsh" => {
                let next = match ether_type {
                    0x0800 => 1,
                    0x86dd => 2,
                    0x8847 => 5,
                    _ => return None,
                };
                (0x894f, bare(&[0x0f, 0xc2, 2, next, 0, 0, 1, 0xff]))
            }
            _ => return None,
        })
    }

    const LAYERS: [&str; 22] = [
        "0x8100",
        "0x88a8",
        "0x9100",
        "0x9200",
        "0x8200",
        "vn-tag",
        "e-tag",
        "hsr",
        "cisco metadata",
        "802.1ah",
        "fabricpath",
        "trill",
        "pseudowire",
        "control word",
        "snap",
        "802.1h",
        "jumbo llc",
        "llc ip",
        "pppoe",
        "compressed ppp",
        "mpls",
        "nsh",
    ];

    /// The frame with these layers, the outermost first.
    fn nested(names: &[&str], packet: &[u8]) -> Option<Vec<u8>> {
        let mut ether_type = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let mut payload = packet.to_vec();
        for name in names.iter().rev() {
            (ether_type, payload) = layer(name, ether_type, &payload)?;
        }
        Some(frame(&MACS, ether_type, &payload))
    }

    /// Every layer alone, in pairs and in threes: the packet is found, and every cut that leaves its length
    /// field behind layers that name it tells how long it was.
    #[test]
    fn ip_is_found_behind_layers_in_any_order() {
        let mut tried = 0;
        let mut check = |names: &[&str]| {
            for packet in [udp4(), udp6()] {
                let Some(whole) = nested(names, &packet) else {
                    continue;
                };
                tried += 1;
                let inner = Inner::read(&whole);
                let at = whole.len() - packet.len();
                let told = (inner.ip_offset as usize, inner.ip_len as usize);
                assert_eq!(told, (at, packet.len()), "{names:?}");
                let transport = inner.ip.unwrap().transport;
                assert!(matches!(
                    transport,
                    Transport::Ports {
                        src: 5004,
                        dst: 53,
                        ..
                    }
                ));
                for kept in at..whole.len() {
                    let cut = Inner::read(&whole[..kept]);
                    let names_all = !names
                        .iter()
                        .any(|name| matches!(*name, "mpls" | "pseudowire" | "control word"));
                    let field = if packet[0] >> 4 == 4 { 4 } else { 6 };
                    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
                    let told = kept >= at + if names_all { field } else { header };
                    let expected = if told { packet.len() as u32 } else { 0 };
                    assert_eq!(cut.ip_len, expected, "{names:?} cut to {kept}");
                }
            }
        };
        for one in LAYERS {
            check(&[one]);
            for two in LAYERS {
                check(&[one, two]);
                for three in ["0x8100", "snap", "pppoe", "802.1ah", "mpls", "control word"] {
                    check(&[one, two, three]);
                }
            }
        }
        assert!(tried > 2000, "{tried}");
    }

    #[test]
    fn the_customers_addresses_and_both_tags() {
        let frame = nested(&["0x88a8", "802.1ah", "0x8100"], &udp4()).unwrap();
        let inner = Inner::read(&frame);
        assert_eq!(inner.src_mac, Some([2, 0, 0, 0, 0xaa, 1]));
        assert_eq!((inner.vlan, inner.vlan_inner), (Some(6), Some(5)));
        assert_eq!(inner.ether_type, ether_type::IPV4);
    }

    /// 802.3 and PPPoE declare a length for what is no IP.
    #[test]
    fn lengths_of_frames_without_ip() {
        let told = |ether_type: u16, payload: &[u8]| {
            let inner = Inner::read(&frame(&MACS, ether_type, payload));
            assert_eq!((inner.ip, inner.ip_offset, inner.ip_len), (None, 0, 0));
            inner.frame_len
        };
        let spanning_tree = [0x42, 0x42, 3, 0, 0, 2, 2];
        assert_eq!(told(39, &spanning_tree), 53);
        assert_eq!(told(1500, &spanning_tree), 1514);
        assert_eq!(told(1501, &spanning_tree), 0, "neither length nor type");
        assert_eq!(told(0, &spanning_tree), 0);
        let echo_request = [0x11, 0, 0, 66, 0, 10, 0xc0, 0x21, 9, 1, 0, 8];
        assert_eq!(told(0x8864, &echo_request), 14 + 6 + 10);
        assert_eq!(told(0x8863, &[0x11, 9, 0, 0, 0, 40]), 14 + 6 + 40);
        assert_eq!(
            told(0x8864, &[0x21, 0, 0, 66, 0, 10, 0, 0x21, 0x45]),
            0,
            "version 2"
        );
        assert_eq!(told(0x8864, &[0x11, 0, 0, 66, 0]), 0, "cut");
        assert_eq!(told(0x0806, &[0; 28]), 0);
    }

    /// A packet behind labels whose checksum an offload left out, or that is cut.
    #[test]
    fn mpls_needs_a_witness() {
        let behind = |labels: &[u8], packet: &[u8]| {
            let inner = Inner::read(&frame(&MACS, 0x8847, &[labels, packet].concat()));
            inner.ip.map(|ip| (ip.offset, inner.ip_len))
        };
        let one = [0, 1, 1, 64];
        let mut packet = udp4();
        assert_eq!(behind(&one, &packet), Some((18, 100)));
        assert_eq!(behind(&one, &packet[..40]), Some((18, 100)));
        packet[10..12].fill(0);
        assert_eq!(
            behind(&one, &packet),
            Some((18, 100)),
            "offloaded, but it fits"
        );
        assert_eq!(behind(&one, &packet[..99]), None, "it might be anything");
        let explicit_null = [0, 0, 1, 64];
        assert_eq!(behind(&explicit_null, &packet[..40]), Some((18, 100)));
        packet[0] = 0x05;
        assert_eq!(behind(&one, &packet), None);

        let mut packet = udp6();
        assert_eq!(behind(&one, &packet), Some((18, 120)));
        assert_eq!(
            behind(&one, &packet[..46]),
            Some((18, 120)),
            "the UDP length agrees"
        );
        packet[45] = 81;
        assert_eq!(behind(&one, &packet[..60]), None, "and here it does not");
        assert_eq!(
            behind(&[0, 0, 0x21, 64], &packet[..60]),
            Some((18, 120)),
            "label 2"
        );
        packet[45] = 80;
        packet[6] = 200;
        assert_eq!(
            behind(&one, &packet),
            Some((18, 120)),
            "unknown, but it fits"
        );
        assert_eq!(behind(&one, &packet[..119]), None);
        packet[6] = 17;
        packet[8] = 0xff;
        assert_eq!(behind(&one, &packet), None, "a group does not send");
        let endless: Vec<u8> = [0, 1, 0, 64].repeat(400);
        assert_eq!(behind(&endless, &udp4()), None);
    }

    /// Pseudowires of hardware addresses that look like the beginning of an IP header.
    #[test]
    fn hardware_addresses_are_no_ip() {
        let macs = [
            [
                0x60, 0x57, 0x18, 0x21, 5, 0xdc, 0x11, 0x40, 0x20, 1, 0x0d, 0xb8,
            ],
            [0x45, 0, 5, 0xdc, 5, 0xdc, 2, 0, 64, 17, 1, 2],
            [
                0x68, 0x5b, 0x35, 0xff, 0xff, 0xff, 6, 0x40, 0xfd, 1, 0x0d, 0xb8,
            ],
        ];
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &[0; 38]].concat();
        let lldp = [&[2, 7, 4, 2, 0, 0, 0, 0, 1][..], &[0x11; 60]].concat();
        for macs in macs {
            for (ether_type, payload) in [(0x0806, &arp), (0x88cc, &lldp), (0x9999, &lldp)] {
                let customer = frame(&macs, ether_type, payload);
                for kept in 0..=customer.len() {
                    let labelled = [&[0, 1, 1, 64], &customer[..kept]].concat();
                    let inner = Inner::read(&frame(&MACS, 0x8847, &labelled));
                    assert_eq!((inner.ip, inner.ip_len), (None, 0), "{macs:x?} {kept}");
                    assert_eq!(bare_ip(&customer[..kept]), None);
                }
            }
            for packet in [udp4(), udp6()] {
                let ether_type = if packet[0] == 0x45 { 0x0800 } else { 0x86dd };
                let customer = frame(&macs, ether_type, &packet);
                assert_eq!(bare_ip(&customer), None);
                let labelled = [&[0, 1, 1, 64], &customer[..]].concat();
                let inner = Inner::read(&frame(&MACS, 0x8847, &labelled));
                assert_eq!(
                    (inner.ip_offset, inner.src_mac.unwrap()[..] == macs[6..]),
                    (32, true)
                );
            }
        }
    }

    #[test]
    fn ip_without_a_frame_proves_itself() {
        for packet in [udp4(), udp6()] {
            let version = packet[0] >> 4;
            assert_eq!(bare_ip(&packet), Some(version));
            assert_eq!(bare_ip(&packet[..64]), Some(version), "cut");
            assert_eq!(bare_ip(&packet[..20]), (version == 4).then_some(4));
            assert_eq!(bare_ip(&packet[..19]), None);
        }
        let mut broken = udp4();
        broken[8] = 63;
        assert_eq!(bare_ip(&broken), None, "the checksum has to be right");
        // From 8.0.69.1: an EtherType, and then what may be an IPv4 header.
        let mut ambiguous = udp4();
        ambiguous[12..16].copy_from_slice(&[8, 0, 0x45, 1]);
        ambiguous[10..12].fill(0);
        let sum = checksum(&ambiguous[..20]);
        ambiguous[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(bare_ip(&ambiguous), None);
        ambiguous[14] = 0x35;
        ambiguous[10..12].fill(0);
        let sum = checksum(&ambiguous[..20]);
        ambiguous[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(bare_ip(&ambiguous), Some(4), "8.0.53.1 is none");
    }

    proptest! {
        /// Bytes changed in nested frames, and cuts: what is told stays within the frame.
        #[test]
        fn damaged_layers_are_read_to_some_end(
            names in proptest::collection::vec(proptest::sample::select(&LAYERS[..]), 0..6),
            ipv6 in any::<bool>(),
            changes in proptest::collection::vec((0..120usize, any::<u8>()), 0..4),
            keep in 0..300usize,
        ) {
            let packet = if ipv6 { udp6() } else { udp4() };
            let mut frame = nested(&names, &packet).unwrap_or(packet);
            for (at, byte) in changes {
                if let Some(changed) = frame.get_mut(at) {
                    *changed = byte;
                }
            }
            frame.truncate(keep);
            let inner = Inner::read(&frame);
            prop_assert!(inner.ip_offset as usize <= frame.len());
            prop_assert_eq!(inner.ip.is_some() || inner.ip_len > 0, inner.ip_offset >= 14);
            prop_assert!(inner.ip.is_none_or(|ip| ip.offset == inner.ip_offset));
        }
    }

    /// Layers in layers end somewhere.
    #[test]
    fn depth_is_bounded() {
        let tags = nested(&["0x8100"; 300], &udp4()).unwrap();
        assert!(Inner::read(&tags).ip.is_some(), "tags alone cost little");
        for names in [["vn-tag"; 300], ["control word"; 300], ["802.1ah"; 300]] {
            let inner = Inner::read(&nested(&names, &udp4()).unwrap());
            assert_eq!(inner.ip, None, "{}", names[0]);
        }
    }
}
