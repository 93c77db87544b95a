//! The ring's filter: which packets of an interface the kernel copies out at all. Pure.
//!
//! UDP to the ports asked for, over IPv4 and IPv6, behind up to two VLAN tags. Fragments of UDP pass
//! whatever their port is, because only the first piece names it; so do IPv6 packets with extension
//! headers, unless ICMPv6 or TCP follows the first one: every host reports its multicast groups that way.
//! The worker, which puts pieces together and reads extension headers, counts those that were not meant.
//!
//! Packets from sources that are not allowed pass too, but for their headers only: the worker counts them by
//! their source, and a flood of them fills a ring twenty times slower than whole packets would. Where there are more
//! networks than fit, those closest to each other are taken for one, gaps included: the worker is exact. Where eBPF is
//! possible [`crate::bpf::refuse`] knows all of them, and leaves a flood out.

use crate::bpf::assembler::*;
use crate::mirror::networks::{Network, Networks};
use crate::wire::numbers::{ether_type, protocol};

/// What the kernel keeps of a packet that passes, in bytes: all of it.
pub(super) const WHOLE: u32 = 0x4_0000;
/// What it keeps of a packet from a source that is not allowed: its headers, so that it can be counted. The
/// longest are Ethernet with two tags (22), IPv4 with options (60) and UDP (8).
pub(super) const HEADERS: u32 = 96;
/// Ranges of IPv4 addresses that are tried to fit.
const MAX_RANGES: usize = 1024;
/// More networks of IPv6 are not told apart.
const MAX_NETWORKS_V6: usize = 64;
/// Scratch cells: where the IP header begins, then words of the source address.
pub(super) const M_IP: u32 = 0;
const M_SOURCE: u32 = 1;
/// More ports or interfaces than this are not told apart in the kernel.
const MAX_PORTS: usize = 1024;
/// Headers of IPv6 that another header may follow.
const EXTENSIONS: [u8; 8] = [
    protocol::HOP_BY_HOP,
    protocol::ROUTING,
    protocol::FRAGMENT,
    protocol::AUTHENTICATION,
    protocol::DESTINATION_OPTIONS,
    protocol::MOBILITY,
    protocol::HIP,
    protocol::SHIM6,
];
/// What IPv6 headers with extensions hardly ever lead to a tunnel with.
const NOT_MEANT: [u8; 2] = [protocol::TCP, protocol::ICMPV6];

/// What a packet starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// The IP header.
    RawIp,
}

/// A program that keeps nothing.
pub fn nothing() -> Vec<Instruction> {
    vec![Instruction {
        code: RET_K,
        jump_true: 0,
        jump_false: 0,
        operand: 0,
    }]
}

/// A program that keeps what came in elsewhere than on the interfaces with these numbers. Too many to tell
/// apart keep nothing: nobody gets a packet twice.
///
/// # Errors
///
/// [`ProgramError`]; none is known that could come of it.
pub fn not_from(interfaces: &[u32]) -> Result<Vec<Instruction>, ProgramError> {
    if interfaces.len() > MAX_PORTS {
        return Ok(nothing());
    }
    let mut asm = Assembler::default();
    let ours = asm.label();
    asm.op(LD_W_ABS, AD_INTERFACE);
    for interface in interfaces {
        asm.jump_if(JEQ_K, *interface, ours);
    }
    asm.op(RET_K, WHOLE);
    asm.place(ours);
    asm.op(RET_K, 0);
    asm.assemble()
}

/// The program that keeps UDP to `ports`; of packets that come from none of the `networks` only the headers. More than
/// 1,024 ports are not told apart here, networks as far as they fit; no networks allow every source.
///
/// # Errors
///
/// [`ProgramError`]; none is known that could come of it.
pub fn udp_to(
    ports: &[u16],
    networks: &Networks,
    link: Link,
) -> Result<Vec<Instruction>, ProgramError> {
    if networks.is_empty() {
        return program(ports, link, None);
    }
    let (ranges, fewest) = (networks.ranges_v4(), networks.fewest());
    let v6: Vec<Network> = fewest.into_iter().filter(|one| one.is_ipv6()).collect();
    let mut most = MAX_RANGES;
    loop {
        let sources = Sources {
            v4: &at_most(most, &ranges),
            v6: (v6.len() <= MAX_NETWORKS_V6).then_some(&v6),
        };
        match program(ports, link, Some(sources)) {
            Err(ProgramError::TooLong { .. }) if most > 1 => most /= 2,
            outcome => return outcome,
        }
    }
}

/// The program that keeps UDP to `ports`, and notes in the cell `M_IP` where the IP header of what it keeps begins.
///
/// # Errors
///
/// As [`udp_to`].
pub fn udp_noting_place(ports: &[u16], link: Link) -> Result<Vec<Instruction>, ProgramError> {
    let (mut asm, _) = udp(ports, link, true);
    asm.op(RET_K, WHOLE);
    asm.assemble()
}

/// Sources that are told apart.
#[derive(Clone, Copy)]
struct Sources<'a> {
    /// First and last addresses, in their order.
    v4: &'a [(u32, u32)],
    /// Networks; `None` for all of IPv6.
    v6: Option<&'a [Network]>,
}

/// `most` ranges that hold all of these: those with the smallest gaps between them are taken for one.
fn at_most(most: usize, ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let pairs = ranges.iter().zip(ranges.iter().skip(1));
    let mut gaps: Vec<(u32, usize)> = pairs
        .enumerate()
        .map(|(at, ((_, last), (first, _)))| (first - last, at))
        .collect();
    gaps.sort_unstable_by_key(|(gap, _)| std::cmp::Reverse(*gap));
    gaps.truncate(most.max(1) - 1);
    let mut ends: Vec<usize> = gaps.into_iter().map(|(_, at)| at).collect();
    ends.sort_unstable();
    ends.extend(ranges.len().checked_sub(1));
    let mut begin = 0;
    let joined = ends.into_iter().filter_map(|end| {
        let (first, _) = ranges.get(begin)?;
        let (_, last) = ranges.get(end)?;
        begin = end + 1;
        Some((*first, *last))
    });
    joined.collect()
}

fn program(
    ports: &[u16],
    link: Link,
    sources: Option<Sources<'_>>,
) -> Result<Vec<Instruction>, ProgramError> {
    let (mut asm, whole) = udp(ports, link, sources.is_some());
    if let Some(sources) = sources {
        headers_unless_from(&mut asm, sources, whole);
    }
    asm.place(whole);
    asm.op(RET_K, WHOLE);
    asm.assemble()
}

/// Writes what leaves out all but UDP to `ports`; what is kept goes on behind it. Also a label for where all of it is.
fn udp(ports: &[u16], link: Link, notes_place: bool) -> (Assembler, Label) {
    let mut asm = Assembler::default();
    let (port, keep, whole) = (asm.label(), asm.label(), asm.label());
    let ways = Ways {
        port,
        keep,
        notes_place,
    };
    match link {
        Link::Ethernet => behind_ethernet(&mut asm, 0, ways),
        Link::RawIp => {
            let (ipv4, ipv6) = (asm.label(), asm.label());
            asm.op(LD_B_ABS, 0);
            asm.op(RSH_K, 4);
            asm.jump_if(JEQ_K, 4, ipv4);
            asm.jump_if(JEQ_K, 6, ipv6);
            asm.op(RET_K, 0);
            ip(&mut asm, 0, ipv4, ipv6, ways);
        }
    }
    // A is the destination port.
    asm.place(port);
    if ports.len() > MAX_PORTS {
        asm.jump(keep);
    }
    for wanted in ports.iter().take(MAX_PORTS) {
        asm.jump_if(JEQ_K, u32::from(*wanted), keep);
    }
    asm.op(RET_K, 0);
    asm.place(keep);
    (asm, whole)
}

/// Where packets go on.
#[derive(Clone, Copy)]
struct Ways {
    /// With the destination port in A.
    port: Label,
    /// Kept whatever its port is.
    keep: Label,
    /// The place of the IP header is kept in `M_IP`.
    notes_place: bool,
}

/// Keeps no more than the headers of a packet that comes from elsewhere; others go on at `whole`.
fn headers_unless_from(asm: &mut Assembler, sources: Sources<'_>, whole: Label) {
    let ipv4 = asm.label();
    asm.op(LDX_MEM, M_IP);
    asm.op(LD_B_X, 0);
    asm.op(RSH_K, 4);
    asm.jump_if(JEQ_K, 4, ipv4);
    match sources.v6 {
        None => asm.jump(whole),
        Some(networks) => {
            for word in 0..4 {
                asm.op(LD_W_X, 8 + 4 * word);
                asm.op(ST, M_SOURCE + word);
            }
            for network in networks {
                let next = asm.label();
                for (cell, (value, mask)) in (M_SOURCE..).zip(network.words()) {
                    if mask != 0 {
                        asm.op(LD_MEM, cell);
                        asm.op(AND_K, mask);
                        asm.jump_unless(JEQ_K, value, next);
                    }
                }
                asm.jump(whole);
                asm.place(next);
            }
            asm.op(RET_K, HEADERS);
        }
    }
    asm.place(ipv4);
    asm.op(LD_W_X, 12);
    search(asm, sources.v4);
}

/// Looks for the range that A is in, the one in the middle first.
fn search(asm: &mut Assembler, ranges: &[(u32, u32)]) {
    let (before, rest) = ranges.split_at(ranges.len() / 2);
    let Some(((first, last), behind)) = rest.split_first() else {
        return asm.op(RET_K, HEADERS);
    };
    let (below, above) = (asm.label(), asm.label());
    asm.jump_unless(JGE_K, *first, below);
    asm.jump_if(JGT_K, *last, above);
    asm.op(RET_K, WHOLE);
    asm.place(above);
    search(asm, behind);
    asm.place(below);
    search(asm, before);
}

/// Reads on behind `tags` VLAN tags; the kernel has taken off the first one, if there is any.
fn behind_ethernet(asm: &mut Assembler, tags: u32, ways: Ways) {
    let (tagged, ipv4, ipv6) = (asm.label(), asm.label(), asm.label());
    asm.op(LD_H_ABS, 12 + 4 * tags);
    asm.jump_if(JEQ_K, u32::from(ether_type::IPV4), ipv4);
    asm.jump_if(JEQ_K, u32::from(ether_type::IPV6), ipv6);
    if tags < 2 {
        for vlan in ether_type::VLANS {
            asm.jump_if(JEQ_K, u32::from(vlan), tagged);
        }
    }
    asm.op(RET_K, 0);
    ip(asm, 14 + 4 * tags, ipv4, ipv6, ways);
    if tags < 2 {
        asm.place(tagged);
        behind_ethernet(asm, tags + 1, ways);
    }
}

/// Both IP headers at the offset `at`.
fn ip(asm: &mut Assembler, at: u32, ipv4: Label, ipv6: Label, ways: Ways) {
    let note_place = |asm: &mut Assembler| {
        if ways.notes_place {
            asm.op(LD_IMM, at);
            asm.op(ST, M_IP);
        }
    };
    asm.place(ipv4);
    note_place(asm);
    let (udp4, piece) = (asm.label(), asm.label());
    asm.op(LD_B_ABS, at + 9);
    asm.jump_if(JEQ_K, u32::from(protocol::UDP), udp4);
    asm.op(RET_K, 0);
    asm.place(udp4);
    asm.op(LD_H_ABS, at + 6);
    asm.jump_if(JSET_K, 0x3fff, piece);
    asm.op(LDX_MSH, at);
    asm.op(LD_H_X, at + 2);
    asm.jump(ways.port);
    asm.place(piece);
    asm.jump(ways.keep);

    asm.place(ipv6);
    note_place(asm);
    let (udp6, extended, not_meant) = (asm.label(), asm.label(), asm.label());
    asm.op(LD_B_ABS, at + 6);
    asm.jump_if(JEQ_K, u32::from(protocol::UDP), udp6);
    for extension in EXTENSIONS {
        asm.jump_if(JEQ_K, u32::from(extension), extended);
    }
    asm.op(RET_K, 0);
    asm.place(extended);
    // Each of these headers begins with the number of the next one.
    asm.op(LD_B_ABS, at + 40);
    for protocol in NOT_MEANT {
        asm.jump_if(JEQ_K, u32::from(protocol), not_meant);
    }
    asm.jump(ways.keep);
    asm.place(not_meant);
    asm.op(RET_K, 0);
    asm.place(udp6);
    asm.op(LD_H_ABS, at + 40 + 2);
    asm.jump(ways.port);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::assembler::tests::interpret;

    /// An Ethernet header with tags, behind it `packet` of `ether_type`.
    fn frame(tags: usize, ether_type: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tag in 0..tags {
            let tpid = [0x88a8u16, 0x8100][tag.min(1)];
            frame.extend([tpid.to_be_bytes(), [0, 5]].concat());
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn v4(options: usize, protocol: u8, flags_and_offset: u16, port: u16) -> Vec<u8> {
        let mut packet = vec![0; 20 + 4 * options];
        packet[0] = 0x45 + options as u8;
        packet[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
        packet[9] = protocol;
        packet.extend([[0xc0, 0], port.to_be_bytes(), [0, 16], [0, 0]].concat());
        packet
    }

    fn v6(next_header: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![0; 40];
        (packet[0], packet[6]) = (0x60, next_header);
        packet.extend([[0xc0, 0], port.to_be_bytes(), [0, 16], [0, 0]].concat());
        packet
    }

    #[test]
    fn udp_to_the_ports_asked_for() {
        for ports in [&[4789u16][..], &[4789, 6081, 8472], &[4789; 128]] {
            let ethernet = udp_to(ports, &Networks::default(), Link::Ethernet).unwrap();
            let raw = udp_to(ports, &Networks::default(), Link::RawIp).unwrap();
            let expect = |ether_type: u16, packet: &[u8], keeps: bool, what: &str| {
                let keeps = if keeps { WHOLE } else { 0 };
                for tags in 0..=2 {
                    let frame = frame(tags, ether_type, packet);
                    assert_eq!(interpret(&ethernet, &frame), keeps, "{what}, {tags} tags");
                }
                assert_eq!(interpret(&raw, packet), keeps, "{what}, no link layer");
                assert_eq!(interpret(&nothing(), packet), 0);
            };
            for options in [0, 1, 10] {
                expect(0x0800, &v4(options, 17, 0x4000, 4789), true, "VXLAN");
                expect(0x0800, &v4(options, 17, 0, 4788), false, "another port");
            }
            expect(0x0800, &v4(0, 6, 0, 4789), false, "TCP");
            expect(0x0800, &v4(0, 17, 0x2000, 53), true, "a first piece");
            expect(0x0800, &v4(0, 17, 0x0010, 0), true, "a later piece");
            expect(0x0800, &v4(0, 1, 0x0010, 0), false, "a later piece of ICMP");
            expect(0x86dd, &v6(17, 4789), true, "IPv6");
            expect(0x86dd, &v6(17, 53), false, "IPv6 to another port");
            expect(0x86dd, &v6(6, 4789), false, "TCP over IPv6");
            expect(0x86dd, &v6(44, 0), true, "an IPv6 fragment");
            let mut report = v6(0, 0);
            report[40] = 58;
            expect(0x86dd, &report, false, "a multicast listener report");
            report[40] = 17;
            expect(0x86dd, &report, true, "UDP behind hop-by-hop options");
        }
        let arp = frame(0, 0x0806, &[0; 28]);
        assert_eq!(
            interpret(
                &udp_to(&[4789], &Networks::default(), Link::Ethernet).unwrap(),
                &arp
            ),
            0
        );
    }

    #[test]
    fn packets_that_end_early_are_left_out() {
        let program = udp_to(&[4789], &Networks::default(), Link::Ethernet).unwrap();
        let whole = frame(0, 0x0800, &v4(0, 17, 0, 4789));
        for len in 0..14 + 20 + 4 {
            assert_eq!(interpret(&program, &whole[..len]), 0, "{len} bytes");
        }
    }

    #[test]
    fn other_interfaces_pass() {
        use crate::bpf::assembler::tests::interpret_on;
        let program = not_from(&[3, 7]).unwrap();
        for (interface, kept) in [(1, WHOLE), (3, 0), (7, 0), (8, WHOLE)] {
            assert_eq!(interpret_on(&program, interface), kept, "{interface}");
        }
        let some: Vec<u32> = (10..900).collect();
        for (interface, kept) in [(9, WHOLE), (10, 0), (300, 0), (899, 0), (900, WHOLE)] {
            let program = not_from(&some).unwrap();
            assert_eq!(interpret_on(&program, interface), kept, "{interface}");
        }
        let many: Vec<u32> = (10..2000).collect();
        assert_eq!(interpret_on(&not_from(&many).unwrap(), 1), 0);
    }

    #[test]
    fn very_many_ports_are_told_apart_later() {
        let other = frame(0, 0x0800, &v4(0, 17, 0, 9));
        for (count, kept) in [(300, 0), (1024, 0), (1025, WHOLE), (9000, WHOLE)] {
            let ports: Vec<u16> = (1000..).take(count).collect();
            let program = udp_to(&ports, &Networks::default(), Link::Ethernet).unwrap();
            assert_eq!(interpret(&program, &other), kept, "{count} ports");
            for port in [1000, 999 + count as u16] {
                let ours = frame(1, 0x0800, &v4(2, 17, 0, port));
                assert_eq!(interpret(&program, &ours), WHOLE, "{port} of {count}");
            }
        }
    }

    /// From whom is not allowed the headers are kept, also of pieces and behind tags, and of nobody else less
    /// than all.
    #[test]
    fn headers_are_kept_of_strangers() {
        let networks = [
            "10.1.0.0/16",
            "192.0.2.7",
            "2001:db8:5::/48",
            "fd00::4/126",
            "::/0",
        ];
        let networks: Vec<Network> = networks.iter().map(|one| one.parse().unwrap()).collect();
        let from = |source: &str, mut packet: Vec<u8>| {
            match source.parse().unwrap() {
                std::net::IpAddr::V4(ip) => packet[12..16].copy_from_slice(&ip.octets()),
                std::net::IpAddr::V6(ip) => packet[8..24].copy_from_slice(&ip.octets()),
            }
            packet
        };
        let check = |networks: &[Network], source: &str, packet: &[u8], kept: u32| {
            let packet = from(source, packet.to_vec());
            let ether_type = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
            let networks = networks.iter().copied().collect();
            let ethernet = udp_to(&[4789], &networks, Link::Ethernet).unwrap();
            let raw = udp_to(&[4789], &networks, Link::RawIp).unwrap();
            for tags in 0..=2 {
                let frame = frame(tags, ether_type, &packet);
                assert_eq!(interpret(&ethernet, &frame), kept, "{source}, {tags} tags");
            }
            assert_eq!(interpret(&raw, &packet), kept, "{source}");
        };
        for (source, kept) in [
            ("10.1.255.3", WHOLE),
            ("10.2.0.0", HEADERS),
            ("192.0.2.7", WHOLE),
            ("192.0.2.6", HEADERS),
        ] {
            for options in [0, 10] {
                check(&networks, source, &v4(options, 17, 0x4000, 4789), kept);
            }
            check(&networks, source, &v4(0, 17, 0x2000, 53), kept);
            check(&networks, source, &v4(0, 17, 0x0010, 0), kept);
            check(&networks, source, &v4(0, 17, 0, 53), 0);
            // No network of IPv6 says nothing of IPv4.
            check(&networks[2..], source, &v4(0, 17, 0, 4789), HEADERS);
            check(&[], source, &v4(0, 17, 0, 4789), WHOLE);
        }
        for (source, kept) in [
            ("2001:db8:5:ffff::1", WHOLE),
            ("2001:db8:6::", HEADERS),
            ("fd00::7", WHOLE),
            ("fd00::8", HEADERS),
            ("fd00:0:0:1::4", HEADERS),
        ] {
            check(&networks[..4], source, &v6(17, 4789), kept);
            check(&networks[..4], source, &v6(44, 0), kept);
            check(&networks, source, &v6(17, 4789), WHOLE);
            check(&networks[..2], source, &v6(17, 4789), HEADERS);
        }
        let many: Vec<Network> = (0..MAX_NETWORKS_V6 as u16)
            .map(|at| format!("2001:db8:{at:x}:1:2:3:4:5").parse().unwrap())
            .collect();
        check(&many, "2001:db8:3f:1:2:3:4:5", &v6(17, 4789), WHOLE);
        check(&many, "2001:db8:3f:1:2:3:4:6", &v6(17, 4789), HEADERS);
        let more: Vec<Network> = (0..65)
            .map(|at| format!("2001:db8:{at:x}::1").parse().unwrap())
            .collect();
        check(&more[..64], "2001:db8:7f:1:2:3:4:6", &v6(17, 4789), HEADERS);
        check(&more, "2001:db8:7f:1:2:3:4:6", &v6(17, 4789), WHOLE);
    }

    /// Of a long list every source is let in, and what is let in beside them is between two that are close.
    #[test]
    fn long_lists_are_searched() {
        let list = |count: u32, step: u32| -> Networks {
            let address = |at: u32| std::net::Ipv4Addr::from(0x0a00_0000 + at * step);
            let one = |at: u32| Network::new(address(at).into(), 32).unwrap();
            (0..count)
                .map(one)
                .chain([Network::new([203, 0, 113, 0].into(), 24).unwrap()])
                .collect()
        };
        let kept = |program: &[Instruction], source: [u8; 4]| {
            let mut packet = v4(0, 17, 0, 4789);
            packet[12..16].copy_from_slice(&source);
            interpret(program, &frame(1, 0x0800, &packet))
        };
        for (count, is_exact) in [
            (1, true),
            (2, true),
            (300, true),
            (700, true),
            (10_000, false),
        ] {
            let program = udp_to(&[4789, 6081], &list(count, 2), Link::Ethernet).unwrap();
            assert!(program.len() <= 4096);
            for at in (0..count).step_by(7).chain([count - 1]) {
                let source = (0x0a00_0000 + at * 2).to_be_bytes();
                assert_eq!(kept(&program, source), WHOLE, "{at} of {count}");
                let beside = (0x0a00_0001 + at * 2).to_be_bytes();
                if is_exact || at == count - 1 {
                    assert_eq!(kept(&program, beside), HEADERS, "behind {at} of {count}");
                }
            }
            for (source, expected) in [
                ([9, 255, 255, 255], HEADERS),
                ([203, 0, 112, 255], HEADERS),
                ([203, 0, 113, 255], WHOLE),
                ([203, 0, 114, 0], HEADERS),
            ] {
                assert_eq!(kept(&program, source), expected, "{source:?} of {count}");
            }
        }
    }
}
