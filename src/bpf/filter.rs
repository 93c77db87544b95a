//! The ring's filter: which packets of an interface the kernel copies out at all. Pure.
//!
//! UDP to the ports asked for, over IPv4 and IPv6, behind up to two VLAN tags. Fragments of UDP pass
//! whatever their port is, because only the first piece names it; so do IPv6 packets with extension
//! headers, unless ICMPv6 or TCP follows the first one: every host reports its multicast groups that way.
//! The worker, which puts pieces together and reads extension headers, counts those that were not meant.

use crate::bpf::assembler::*;
use crate::wire::numbers::{ether_type, protocol};

/// What the kernel keeps of a packet that passes, in bytes: all of it.
const WHOLE: u32 = 0x4_0000;
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

/// The program that keeps UDP to `ports`. More than 1,024 ports are not told apart here.
///
/// # Errors
///
/// [`ProgramError`]; none is known that could come of it.
pub fn udp_to(ports: &[u16], link: Link) -> Result<Vec<Instruction>, ProgramError> {
    let mut asm = Assembler::default();
    let port = asm.label();
    match link {
        Link::Ethernet => behind_ethernet(&mut asm, 0, port),
        Link::RawIp => {
            let (ipv4, ipv6) = (asm.label(), asm.label());
            asm.op(LD_B_ABS, 0);
            asm.op(RSH_K, 4);
            asm.jump_if(JEQ_K, 4, ipv4);
            asm.jump_if(JEQ_K, 6, ipv6);
            asm.op(RET_K, 0);
            ip(&mut asm, 0, ipv4, ipv6, port);
        }
    }
    // A is the destination port.
    asm.place(port);
    let keep = asm.label();
    if ports.len() > MAX_PORTS {
        asm.jump(keep);
    }
    for wanted in ports.iter().take(MAX_PORTS) {
        asm.jump_if(JEQ_K, u32::from(*wanted), keep);
    }
    asm.op(RET_K, 0);
    asm.place(keep);
    asm.op(RET_K, WHOLE);
    asm.assemble()
}

/// Reads on behind `tags` VLAN tags; the kernel has taken off the first one, if there is any.
fn behind_ethernet(asm: &mut Assembler, tags: u32, port: Label) {
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
    ip(asm, 14 + 4 * tags, ipv4, ipv6, port);
    if tags < 2 {
        asm.place(tagged);
        behind_ethernet(asm, tags + 1, port);
    }
}

/// Both IP headers at the offset `at`; goes to `port` with the destination port in A.
fn ip(asm: &mut Assembler, at: u32, ipv4: Label, ipv6: Label, port: Label) {
    asm.place(ipv4);
    let (udp4, piece) = (asm.label(), asm.label());
    asm.op(LD_B_ABS, at + 9);
    asm.jump_if(JEQ_K, u32::from(protocol::UDP), udp4);
    asm.op(RET_K, 0);
    asm.place(udp4);
    asm.op(LD_H_ABS, at + 6);
    asm.jump_if(JSET_K, 0x3fff, piece);
    asm.op(LDX_MSH, at);
    asm.op(LD_H_X, at + 2);
    asm.jump(port);
    asm.place(piece);
    asm.op(RET_K, WHOLE);

    asm.place(ipv6);
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
    asm.op(RET_K, WHOLE);
    asm.place(not_meant);
    asm.op(RET_K, 0);
    asm.place(udp6);
    asm.op(LD_H_ABS, at + 40 + 2);
    asm.jump(port);
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
            let ethernet = udp_to(ports, Link::Ethernet).unwrap();
            let raw = udp_to(ports, Link::RawIp).unwrap();
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
            interpret(&udp_to(&[4789], Link::Ethernet).unwrap(), &arp),
            0
        );
    }

    #[test]
    fn packets_that_end_early_are_left_out() {
        let program = udp_to(&[4789], Link::Ethernet).unwrap();
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
            let program = udp_to(&ports, Link::Ethernet).unwrap();
            assert_eq!(interpret(&program, &other), kept, "{count} ports");
            for port in [1000, 999 + count as u16] {
                let ours = frame(1, 0x0800, &v4(2, 17, 0, port));
                assert_eq!(interpret(&program, &ours), WHOLE, "{port} of {count}");
            }
        }
    }
}
