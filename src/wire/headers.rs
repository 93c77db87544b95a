//! Where the headers of a mirrored frame end and what they carry begins. Pure.

use super::be16;
use super::inner::{Inner, InnerIp, Transport};
use super::ip::is_extension;
use super::numbers::ether_type;
use super::numbers::protocol::{AUTHENTICATION, FRAGMENT, ICMP, ICMPV6, SCTP, TCP, UDP};

/// Fixed part of a TCP header.
const TCP_LEN: usize = 20;

/// Bytes of `frame`, of which `inner` tells what was read, up to the end of its headers: behind those of TCP, UDP,
/// SCTP, ICMP and ICMPv6; of other protocols and of later fragments behind the IP header and its extensions; without
/// IP behind the Ethernet header and its VLAN tags. Headers that are cut are all there is.
pub fn headers_len(frame: &[u8], inner: &Inner) -> usize {
    let len = match &inner.ip {
        Some(ip) => behind_transport(frame, ip),
        // A header that is cut behind its length.
        None if inner.ip_offset > 0 => frame.len(),
        None => behind_link(frame),
    };
    len.min(frame.len())
}

fn behind_transport(frame: &[u8], ip: &InnerIp) -> usize {
    let header = &ip.header;
    let at = ip.offset as usize + header.header_len;
    if header.options_cut {
        return at + extension_len(header.protocol, header.version(), frame.get(at..));
    }
    if header.is_later_fragment() {
        return at;
    }
    let transport_len = match (header.protocol, ip.transport) {
        (TCP, Transport::Ports { tcp: Some(tcp), .. }) => TCP_LEN.max(usize::from(tcp.header_len)),
        (TCP, _) => TCP_LEN,
        (UDP | ICMP | ICMPV6, _) => 8,
        (SCTP, _) => 12,
        _ => 0,
    };
    let end = match header.declared_len {
        0 => usize::MAX,
        // What follows is padding.
        len => ip.offset as usize + len as usize,
    };
    (at + transport_len).min(end).max(at)
}

/// Bytes of the extension header at the start of `rest`, as it declares itself.
fn extension_len(protocol: u8, version: u8, rest: Option<&[u8]>) -> usize {
    if !is_extension(protocol, version) {
        return 0;
    }
    match (protocol, rest.and_then(|rest| rest.get(1))) {
        (FRAGMENT, _) | (_, None) => 8,
        (AUTHENTICATION, Some(len)) => (usize::from(*len) + 2) * 4,
        (_, Some(len)) => (usize::from(*len) + 1) * 8,
    }
}

fn behind_link(frame: &[u8]) -> usize {
    let mut at = 14;
    let mut kind = be16(frame, 12);
    while let Some(vlan) = kind
        && ether_type::is_vlan(vlan)
    {
        kind = be16(frame, at + 2);
        at += 4;
    }
    // A header that is cut, or cannot be one.
    at + match kind {
        Some(ether_type::IPV4) => 20,
        Some(ether_type::IPV6) => 40,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn len(frame: &[u8]) -> usize {
        headers_len(frame, &Inner::read(frame))
    }

    /// Ethernet with `tags` VLAN tags, and `kind` behind them.
    fn link(tags: usize, kind: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend(kind.to_be_bytes());
        frame
    }

    fn ipv4(tags: usize, protocol: u8, fragment: u16, behind: &[u8]) -> Vec<u8> {
        let mut frame = link(tags, 0x0800);
        let total = 20 + behind.len() as u16;
        frame.extend([0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(behind);
        frame
    }

    fn tcp(words: u8) -> Vec<u8> {
        let mut header = vec![0, 9, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, words << 4, 0x10];
        header.resize(100, 0xee);
        header
    }

    #[test]
    fn behind_each_transport() {
        assert_eq!(len(&ipv4(0, 6, 0, &tcp(5))), 14 + 20 + 20);
        assert_eq!(len(&ipv4(2, 6, 0, &tcp(8))), 22 + 20 + 32);
        assert_eq!(len(&ipv4(0, 6, 0, &tcp(2))), 54, "no header is that short");
        assert_eq!(len(&ipv4(1, 17, 0, &[0xee; 60])), 18 + 20 + 8);
        assert_eq!(len(&ipv4(0, 1, 0, &[8; 60])), 14 + 20 + 8);
        assert_eq!(len(&ipv4(0, 132, 0, &[1; 60])), 14 + 20 + 12);
        assert_eq!(len(&ipv4(0, 47, 0, &[1; 60])), 34, "another protocol");
        assert_eq!(len(&ipv4(0, 17, 3, &[1; 60])), 34, "a later fragment");
        assert_eq!(
            len(&ipv4(0, 17, 0x2000, &[1; 60])),
            42,
            "the first fragment"
        );
    }

    #[test]
    fn behind_ipv6_extensions() {
        let mut frame = link(0, 0x86dd);
        frame.extend([0x60, 0, 0, 0, 0, 24 + 8 + 50, 0, 64]);
        frame.extend([1; 32]);
        // Hop-by-hop options of 16 bytes, destination options of 8, then UDP.
        frame.extend([60, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        frame.extend([0, 9, 0, 9, 0, 58, 0, 0]);
        frame.extend([0xee; 50]);
        assert_eq!(len(&frame), 14 + 40 + 24 + 8);
        for cut in 0..frame.len() {
            assert_eq!(len(&frame[..cut]), cut.min(86), "{cut}");
        }
        // An extension that declares more than there is leaves nothing to cut off.
        frame[54 + 1] = 250;
        assert_eq!(len(&frame), frame.len());
    }

    #[test]
    fn without_ip_behind_the_tags() {
        for tags in 0..4 {
            let mut frame = link(tags, 0x0806);
            frame.extend([1; 46]);
            assert_eq!(len(&frame), 14 + 4 * tags);
        }
        let mut frame = link(0, 0x0800);
        frame.extend([0x41; 60]);
        assert_eq!(len(&frame), 34, "no IP header can be that short");
    }

    #[test]
    fn padding_is_no_header() {
        let mut frame = ipv4(0, 6, 0, &[]);
        frame.extend([0; 26]);
        assert_eq!(len(&frame), 34);
        let mut frame = ipv4(0, 6, 0, &tcp(5)[..20]);
        frame.extend([0; 6]);
        assert_eq!(len(&frame), 54);
    }

    proptest! {
        /// Whatever comes: what is left is the beginning, and its headers are read as before.
        #[test]
        fn what_is_left_reads_the_same(
            mut frame in proptest::collection::vec(any::<u8>(), 0..160),
            kind in 0..4usize,
            protocol in prop_oneof![Just(6u8), Just(17), Just(1), Just(0), Just(44), Just(51), any::<u8>()],
        ) {
            if frame.len() > 40 {
                let (at, version) = [(12, 4), (12, 6), (16, 4), (12, 0)][kind];
                if at == 16 {
                    frame[12..14].copy_from_slice(&[0x81, 0]);
                }
                if version == 4 {
                    frame[at..at + 3].copy_from_slice(&[8, 0, 0x45]);
                    frame[at + 11] = protocol;
                }
                if version == 6 {
                    frame[at..at + 3].copy_from_slice(&[0x86, 0xdd, 0x60]);
                    frame[at + 8] = protocol;
                }
            }
            let whole = Inner::read(&frame);
            let left = headers_len(&frame, &whole);
            prop_assert!(left <= frame.len());
            let cut = Inner::read(&frame[..left]);
            if let Some(ip) = whole.ip {
                prop_assert_eq!(cut.ip.map(|ip| ip.header), Some(ip.header));
                prop_assert_eq!(cut.ip.map(|ip| ip.transport), Some(ip.transport));
                if let Some(payload) = ip.payload(u32::MAX) {
                    prop_assert!(left <= payload.at as usize);
                }
            }
            prop_assert_eq!((cut.vlan, cut.vlan_inner), (whole.vlan, whole.vlan_inner));
            prop_assert_eq!(headers_len(&frame[..left], &cut), left);
        }
    }
}
