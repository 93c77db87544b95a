//! From a UDP payload to the verdict on the length of the frame inside.
//!
//! The input is the payload of a datagram to each tunnel port, complete and cut, dug into one to four
//! layers deep; and once more it is the inner frame itself. What is held true:
//!
//! - a mirrored frame is not empty, is borrowed from the payload, and no longer than what was carried;
//! - a deeper look either finds the same frame or a shorter one inside it, and never turns an answer
//!   into a refusal;
//! - what the inner headers tell lies within the frame; ports are only told where their bytes are;
//! - `orig` is the most that was captured, carried or declared; truncated means that more than padding
//!   is missing of it, unknown that nothing declares a length, oversize that the packet is larger than
//!   the rule; our own cut is never the mirror's;
//! - a shorter copy of a frame declares the same length or none, so it never looks longer than the
//!   frame it came from, unless there may be labels in it: behind those a length is also evidence;
//! - the answer to a packet has its flow key, the other way, and the opposite direction.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use vxtap::flow::key::{FlowKey, Ports, Way};
use vxtap::mirror::direction::Direction;
use vxtap::mirror::session::SessionId;
use vxtap::wire::decapsulate::{Mirrored, Tunnel, Tunnels, decapsulate};
use vxtap::wire::inner::{Inner, Transport};
use vxtap::wire::length::{Evidence, FrameLen, Verdict, judge};
use vxtap::wire::outer::{OuterUdp, Pieces};
use vxtap::wire::{Vni, geneve, vxlan};
use vxtap_fuzz::lies_within;

const MTU: u32 = 1500;
const SOURCES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 1, 11)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x11)),
];

fuzz_target!(|data: &[u8]| {
    for src in SOURCES {
        for dst_port in [vxlan::PORT, vxlan::GPE_PORT, geneve::PORT] {
            for missing in [0, 77] {
                let udp = OuterUdp {
                    src: src.into(),
                    dst: src.into(),
                    src_port: 50_000,
                    dst_port,
                    payload: data,
                    carried_len: data.len() + missing,
                    ip_len: u32::try_from(data.len() + missing).unwrap(),
                    pieces: Pieces::One,
                    length_mismatch: false,
                };
                every_depth(&udp);
            }
        }
    }
    frame(data, data.len(), SOURCES[0]);
});

fn every_depth(udp: &OuterUdp<'_>) {
    let at_depth = |depth| {
        let tunnels = Tunnels {
            depth,
            ..Tunnels::default()
        };
        decapsulate(&tunnels, udp)
    };
    let outermost = at_depth(1);
    let mut before = outermost;
    for depth in 1..=4 {
        let answer = at_depth(depth);
        let (mirrored, shallower) = match (answer, before) {
            (Ok(mirrored), Ok(shallower)) => (mirrored, shallower),
            (Err(refusal), Err(same)) => {
                assert_eq!(refusal, same);
                continue;
            }
            _ => panic!("depth {depth}: {answer:?} after {before:?}"),
        };
        if mirrored != shallower {
            assert!(lies_within(mirrored.bytes, shallower.bytes));
            assert!(mirrored.bytes.len() < shallower.bytes.len());
        }
        plausible(&mirrored, udp);
        before = answer;
    }
    if let Ok(mirrored) = outermost
        && udp.dst_port != geneve::PORT
    {
        let missing = udp.carried_len - udp.payload.len();
        assert_eq!(mirrored.carried_len - mirrored.bytes.len(), missing);
        assert_eq!(mirrored.source, udp.src);
    }
}

fn plausible(mirrored: &Mirrored<'_>, udp: &OuterUdp<'_>) {
    assert!(!mirrored.bytes.is_empty());
    assert!(lies_within(mirrored.bytes, udp.payload));
    assert!(mirrored.carried_len >= mirrored.bytes.len());
    assert_eq!(mirrored.outer_ip_len, udp.ip_len);
    assert!(mirrored.vni <= Vni::MAX);
    assert_eq!(mirrored.source.is_ipv4(), mirrored.target.is_ipv4());
    if mirrored.tunnel == Tunnel::Geneve {
        assert_eq!(udp.dst_port, geneve::PORT);
    }
    if mirrored.payload == vxlan::Payload::Ethernet {
        frame(mirrored.bytes, mirrored.carried_len, mirrored.source.ip());
    }
}

/// Reads and judges a frame, and some shorter copies of it.
fn frame(bytes: &[u8], carried_len: usize, source: IpAddr) {
    let inner = Inner::read(bytes);
    headers(&inner, bytes);
    let (lengths, _) = verdict(&inner, bytes.len(), carried_len);
    let Some(last) = bytes.last() else {
        return;
    };
    for kept in [
        usize::from(*last) % bytes.len(),
        bytes.len() - 1,
        14,
        34,
        54,
    ] {
        let Some(short) = bytes.get(..kept) else {
            continue;
        };
        let cut = Inner::read(short);
        headers(&cut, short);
        if may_have_labels(bytes) {
            continue;
        }
        if cut.ip_len != 0 {
            assert_eq!(
                (cut.ip_len, cut.ip_offset),
                (inner.ip_len, inner.ip_offset),
                "cut to {kept}"
            );
            let (cut_lengths, _) = verdict(&cut, kept, kept);
            assert!(cut_lengths.orig <= lengths.orig);
        }
        if let Some(ip) = cut.ip {
            let longer = inner.ip.expect("an IP header that is there when cut");
            assert_eq!(
                (ip.header.src, ip.header.dst, ip.header.declared_len),
                (
                    longer.header.src,
                    longer.header.dst,
                    longer.header.declared_len
                )
            );
        }
    }
    both_ways(&inner, source);
}

/// Whether an EtherType of MPLS or NSH, or MPLS in PPP, stands somewhere.
fn may_have_labels(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| {
        matches!(
            pair,
            [0x88, 0x47 | 0x48] | [0x89, 0x4f] | [0x02, 0x81 | 0x83]
        )
    })
}

fn headers(inner: &Inner, bytes: &[u8]) {
    assert_eq!(inner.src_mac.is_some(), bytes.len() >= 14);
    assert_eq!(inner.dst_mac.is_some(), inner.src_mac.is_some());
    assert!(inner.vlan.is_none_or(|vlan| vlan < 4096));
    assert!(inner.ip_offset as usize <= bytes.len());
    assert!(inner.ip_offset == 0 || inner.ip_offset >= 14);
    assert!(inner.ip_len == 0 || inner.ip_offset != 0);
    let Some(ip) = inner.ip else {
        return;
    };
    assert_eq!(ip.offset, inner.ip_offset);
    assert_eq!(ip.header.declared_len, inner.ip_len);
    let packet = &bytes[ip.offset as usize..];
    let fixed = if ip.header.version() == 4 { 20 } else { 40 };
    assert!((fixed..=packet.len()).contains(&ip.header.header_len));
    assert!(ip.header.declared_len == 0 || ip.header.declared_len >= fixed as u32);
    assert_eq!(ip.header.src.is_ipv4(), ip.header.dst.is_ipv4());
    if let Some(fragment) = ip.header.fragment {
        assert!(fragment.offset < 1 << 13);
        assert!(fragment.more || fragment.offset != 0);
    }
    let payload = ip.header.payload(packet);
    assert!(lies_within(payload, packet));
    let needed = match ip.transport {
        Transport::None => return,
        Transport::Ports { tcp, .. } => tcp.map_or(4, |_| 14),
        Transport::Icmp { .. } => 2,
    };
    assert!(payload.len() >= needed);
    assert!(!ip.header.is_later_fragment() && !ip.header.options_cut);
}

fn verdict(inner: &Inner, captured_len: usize, carried_len: usize) -> (FrameLen, Verdict) {
    let evidence = Evidence {
        captured_len: u32::try_from(captured_len).unwrap(),
        carried_len: u32::try_from(carried_len).unwrap(),
        ip_offset: inner.ip_offset,
        ip_len: inner.ip_len,
        frame_len: inner.frame_len,
        outer_ip_len: u32::try_from(captured_len).unwrap() + 36,
        ..Evidence::default()
    };
    let (lengths, verdict) = judge(&evidence, MTU);
    assert_eq!(lengths.captured, evidence.captured_len);
    assert!(lengths.orig >= lengths.captured);
    assert_eq!(lengths.missing(), lengths.orig - lengths.captured);
    // Where the bytes of the IP packet end; 0 when nothing says so.
    let end = match inner.ip_len {
        0 => inner.frame_len,
        ip_len => inner.ip_offset + ip_len,
    };
    let known = evidence.captured_len.max(evidence.carried_len);
    assert_eq!(lengths.orig, known.max(end));
    // Only padding is missing where a capture was cut behind the IP packet.
    let padding_only = end != 0 && end <= lengths.captured;
    let truncated = lengths.missing() > 0 && !padding_only;
    assert_eq!(verdict == Verdict::Truncated, truncated);
    let declared = end != 0 || carried_len > captured_len;
    assert_eq!(verdict == Verdict::Unknown, !declared);
    if verdict == Verdict::Oversize {
        assert!(
            evidence
                .needed_outer_len()
                .is_some_and(|needed| needed > MTU)
        );
    }
    (lengths, verdict)
}

/// Turns the packet round and compares.
fn both_ways(inner: &Inner, source: IpAddr) {
    let (session, vni) = (SessionId(3), Vni::new(7));
    let key = FlowKey::of(session, vni, inner);
    assert_eq!(key.is_some(), inner.ip.is_some());
    let (Some((key, way)), Some(mut ip)) = (key, inner.ip) else {
        return;
    };
    assert_eq!((key.session(), key.vni()), (session, vni));
    let ends = key.ends(way);
    assert_eq!(
        ends.map(|(address, _)| address),
        [ip.header.src.ip(), ip.header.dst.ip()]
    );
    if let Transport::Ports { src, dst, .. } = ip.transport {
        assert_eq!(ends.map(|(_, port)| port), [src, dst]);
    }

    (ip.header.src, ip.header.dst) = (ip.header.dst, ip.header.src);
    ip.transport = match ip.transport {
        Transport::None => Transport::None,
        Transport::Ports { src, dst, tcp } => Transport::Ports {
            src: dst,
            dst: src,
            tcp,
        },
        // What answers an echo request is in the key already.
        Transport::Icmp { kind, code } if key.ports() == Ports::IcmpPair => {
            let [(_, asked), (_, answer)] = ends;
            assert_eq!(asked, u16::from(kind));
            let kind = u8::try_from(answer).unwrap();
            Transport::Icmp { kind, code }
        }
        one_way => one_way,
    };
    let answer = Inner {
        ip: Some(ip),
        ..*inner
    };
    let (back_key, back_way) = FlowKey::of(session, vni, &answer).expect("it has an IP header");
    if key.ports() == Ports::IcmpOneWay {
        assert_eq!((way, back_way), (Way::AToB, Way::AToB));
        assert_eq!(back_key == key, ip.header.src == ip.header.dst);
    } else {
        assert_eq!(back_key, key);
        let same_ends = ends[0] == ends[1];
        assert_eq!(back_way, if same_ends { way } else { way.reverse() });
    }

    for mirror_source in [source.into(), ip.header.src, ip.header.dst] {
        let expected = match Direction::of(mirror_source, inner) {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
            Direction::Unknown => Direction::Unknown,
        };
        assert_eq!(Direction::of(mirror_source, &answer), expected);
    }
}
