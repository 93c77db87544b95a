//! Steering: which worker a mirrored packet goes to, decided in the kernel by its inner flow.
//!
//! The kernel's own hash sees only the outer header: it puts the two directions of a conversation on
//! different workers, or everything on one when the outer port is constant. This module builds a
//! classic BPF program that hashes the *inner* packet so that both directions, and copies from two
//! mirror sources, meet on one worker. It also computes the same hash itself, to test the program and for
//! what replay finds no flow in. Pure: what comes out is a list of instructions.
//!
//! An IP packet may follow without a frame: behind a header whose P flag is set (VXLAN-GPE), and from senders
//! that leave the frame out. It is hashed as the same packet in a frame is. What the worker proves by checksum
//! and lengths is told here by the first byte and the EtherType; where that is not enough (IPv6 whose source
//! address has an EtherType in its middle) hardware addresses are taken that are none.
//!
//! The hash leaves out the outer address and the VNI. It is symmetric: addresses and ports enter by
//! sums. A random odd multiplier, new at every start, keeps anyone from aiming at one worker.

use crate::bpf::assembler::*;
use crate::wire::be16;
use crate::wire::numbers::{ether_type, protocol};

/// Where offset 0 of the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// The UDP payload: SO_ATTACH_REUSEPORT_CBPF (net/core/sock_reuseport.c pulls the UDP header).
    UdpPayload,
    /// The outer IP header: PACKET_FANOUT_DATA (net/packet/af_packet.c).
    OuterIp {
        /// Ports of tunnels whose inner packet is not where the program looks, [`MAX_UNSTEERED`] at the
        /// most: worker 0 takes them.
        unsteered: &'a [u16],
    },
}

/// How packets are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    /// Workers to choose from, at least 1.
    pub workers: u32,
    /// Odd multiplier of the hash.
    pub multiplier: u32,
}

/// Mixes the sum of ports before it meets the addresses; 2^32 divided by the golden ratio.
const PORTS_MULTIPLIER: u32 = 0x9e37_79b1;
/// Ports that one worker takes whole, at the most: for more the program may have no room.
pub const MAX_UNSTEERED: usize = 1024;
/// Tags looked behind; the same number in both the program and [`Steering::worker_of`].
const MAX_TAGS: usize = 2;

/// Offsets from the VXLAN header, without VLAN tags.
mod at {
    /// Flags, of which P says that the next protocol is named (draft-ietf-nvo3-vxlan-gpe section 3.1).
    pub const FLAGS: u32 = 0;
    pub const NEXT_PROTOCOL: u32 = 3;
    /// The inner packet: a frame, or an IP packet with no frame around it.
    pub const INNER: u32 = 8;
    pub const DST_MAC_LOW: u32 = 10;
    pub const SRC_MAC_LOW: u32 = 16;
    pub const ETHER_TYPE: u32 = 20;
    /// The IP header in a frame.
    pub const IP: u32 = 22;
}

/// The P flag, and next protocols that are IP.
const FLAG_P: u8 = 0x04;
const NEXT_IPV4: u8 = 1;
const NEXT_IPV6: u8 = 2;

/// First byte of an IPv4 packet without options; no hardware address of one machine begins with it.
const PLAIN_IPV4: u8 = 0x45;
/// Largest length that stands in the place of an EtherType (IEEE 802.3), and what follows it mostly: two
/// service access points of SNAP.
const MAX_802_3_LEN: u16 = 1500;
const SNAP: u16 = 0xaaaa;

/// Scratch cells of the program.
const M_HASH: u32 = 0;
const M_SAVED: u32 = 1;
const M_START: u32 = 2;

impl Steering {
    /// The program. It returns a number below `workers`; a packet too short for a load ends it with 0,
    /// so that is where cut and broken packets go.
    ///
    /// # Errors
    ///
    /// [`ProgramError::TooLong`] when there are more than [`MAX_UNSTEERED`] ports or so.
    pub fn program(self, start: Start<'_>) -> Result<Vec<Instruction>, ProgramError> {
        let mut asm = Assembler::default();
        let finish = asm.label();
        let to = Kinds::new(&mut asm);
        asm.op(LD_IMM, 0);
        asm.op(ST, M_HASH);
        match start {
            Start::UdpPayload => asm.op(LDX_IMM, 0),
            Start::OuterIp { unsteered } => outer_ip(&mut asm, finish, unsteered),
        }
        asm.op(STX, M_START);
        find_inner(&mut asm, to);
        find_without_frame(&mut asm, to);
        add_ipv4(&mut asm, to, finish);
        add_ipv6(&mut asm, to, finish);

        asm.place(to.hardware);
        asm.op(LDX_MEM, M_START);
        add_words(&mut asm, &[at::DST_MAC_LOW, at::SRC_MAC_LOW]);

        asm.place(finish);
        asm.op(LD_MEM, M_HASH);
        asm.op(MUL_K, self.multiplier);
        asm.op(RSH_K, 16);
        asm.op(MOD_K, self.workers.max(1));
        asm.op(RET_A, 0);
        asm.assemble()
    }

    /// What the program returns for `udp_payload`, which starts with the VXLAN header.
    pub fn worker_of(self, udp_payload: &[u8]) -> u32 {
        self.choose(hash_of_payload(udp_payload))
    }
}

impl Steering {
    /// What the program returns for a VXLAN datagram that carries `frame`.
    pub fn worker_of_frame(self, frame: &[u8]) -> u32 {
        self.choose(hash_of_frame(frame))
    }

    /// The worker of an IP packet that has no frame around it.
    pub fn worker_of_packet(self, ether_type: u16, packet: &[u8]) -> u32 {
        self.choose(hash_of_packet(ether_type, packet, || Err(())))
    }

    fn choose(self, hash: Result<u32, ()>) -> u32 {
        hash.map_or(0, |hash| {
            (hash.wrapping_mul(self.multiplier) >> 16) % self.workers.max(1)
        })
    }
}

/// Leaves X at the VXLAN header behind an outer IP header at offset 0. Fragments go to `finish`: their
/// pieces must meet, and only the first holds the inner packet.
fn outer_ip(asm: &mut Assembler, finish: Label, unsteered: &[u16]) {
    // The kernel takes the first VLAN tag off; a second one still stands in front of the IP header.
    let (tagged, ip, ipv6, udp) = (asm.label(), asm.label(), asm.label(), asm.label());
    asm.op(LDX_IMM, 0);
    asm.op(LD_W_ABS, AD_PROTOCOL);
    for vlan in ether_type::VLANS {
        asm.jump_if(JEQ_K, u32::from(vlan), tagged);
    }
    asm.jump(ip);
    asm.place(tagged);
    asm.op(LDX_IMM, 4);
    asm.place(ip);
    asm.op(LD_B_X, 0);
    asm.op(RSH_K, 4);
    asm.jump_if(JEQ_K, 6, ipv6);
    asm.op(LD_H_X, 6);
    asm.jump_if(JSET_K, 0x3fff, finish);
    asm.op(LD_B_X, 0);
    asm.op(AND_K, 0x0f);
    asm.op(LSH_K, 2);
    asm.op(ADD_X, 0);
    asm.op(TAX, 0);
    asm.jump(udp);
    asm.place(ipv6);
    asm.op(LD_B_X, 6);
    // Extension headers, fragments among them.
    asm.jump_unless(JEQ_K, u32::from(protocol::UDP), finish);
    add_to_x(asm, 40);
    asm.place(udp);
    asm.op(LD_H_X, 2);
    for port in unsteered {
        asm.jump_if(JEQ_K, u32::from(*port), finish);
    }
    add_to_x(asm, 8);
}

/// What is hashed, by the kind of the inner packet.
#[derive(Clone, Copy)]
struct Kinds {
    /// X is at the VXLAN header, less the tags skipped.
    framed_ipv4: Label,
    framed_ipv6: Label,
    /// X is at the VXLAN header.
    bare_ipv4: Label,
    bare_ipv6: Label,
    /// Hardware addresses, wherever X is.
    hardware: Label,
}

impl Kinds {
    fn new(asm: &mut Assembler) -> Self {
        Self {
            framed_ipv4: asm.label(),
            framed_ipv6: asm.label(),
            bare_ipv4: asm.label(),
            bare_ipv6: asm.label(),
            hardware: asm.label(),
        }
    }
}

/// Leads to the kind that the VXLAN header or an EtherType names; comes out behind it where none does. X is at
/// the VXLAN header.
fn find_inner(asm: &mut Assembler, to: Kinds) {
    let framed = asm.label();
    asm.op(LD_B_X, at::FLAGS);
    asm.jump_unless(JSET_K, FLAG_P.into(), framed);
    asm.op(LD_B_X, at::NEXT_PROTOCOL);
    asm.jump_if(JEQ_K, NEXT_IPV4.into(), to.bare_ipv4);
    asm.jump_if(JEQ_K, NEXT_IPV6.into(), to.bare_ipv6);
    asm.place(framed);
    asm.op(LD_B_X, at::INNER);
    asm.jump_if(JEQ_K, PLAIN_IPV4.into(), to.bare_ipv4);
    for _ in 0..MAX_TAGS {
        let (tagged, untagged) = (asm.label(), asm.label());
        asm.op(LD_H_X, at::ETHER_TYPE);
        for vlan in ether_type::VLANS {
            asm.jump_if(JEQ_K, u32::from(vlan), tagged);
        }
        asm.jump(untagged);
        asm.place(tagged);
        add_to_x(asm, 4);
        asm.place(untagged);
    }
    asm.op(LD_H_X, at::ETHER_TYPE);
    asm.jump_if(JEQ_K, u32::from(ether_type::IPV4), to.framed_ipv4);
    asm.jump_if(JEQ_K, u32::from(ether_type::IPV6), to.framed_ipv6);
}

/// Leads to IP where the first byte says so and it is no frame of another kind, else to the hardware addresses.
fn find_without_frame(asm: &mut Assembler, to: Kinds) {
    let unknown = asm.label();
    asm.op(LDX_MEM, M_START);
    asm.op(LD_H_X, at::ETHER_TYPE);
    for known in ether_type::KNOWN {
        asm.jump_if(JEQ_K, u32::from(*known), to.hardware);
    }
    asm.jump_if(JGT_K, MAX_802_3_LEN.into(), unknown);
    asm.op(LD_H_X, at::IP);
    asm.jump_if(JEQ_K, SNAP.into(), to.hardware);
    asm.place(unknown);
    asm.op(LD_B_X, at::INNER);
    asm.op(RSH_K, 4);
    asm.jump_if(JEQ_K, 4, to.bare_ipv4);
    asm.jump_if(JEQ_K, 6, to.bare_ipv6);
    asm.jump(to.hardware);
}

/// Hashes addresses and ports of IPv4.
fn add_ipv4(asm: &mut Assembler, to: Kinds, finish: Label) {
    to_ip_header(asm, to.framed_ipv4, to.bare_ipv4);
    add_words(asm, &[12, 16]);
    asm.op(LD_H_X, 6);
    asm.jump_if(JSET_K, 0x3fff, finish);
    asm.op(LD_B_X, 0);
    asm.op(AND_K, 0x0f);
    asm.op(LSH_K, 2);
    asm.op(ST, M_SAVED);
    let ports = asm.label();
    asm.op(LD_B_X, 9);
    jump_if_ports(asm, ports, finish);
    asm.place(ports);
    asm.op(LD_MEM, M_SAVED);
    asm.op(ADD_X, 0);
    asm.op(TAX, 0);
    add_ports(asm);
    asm.jump(finish);
}

/// Hashes addresses and ports of IPv6.
fn add_ipv6(asm: &mut Assembler, to: Kinds, finish: Label) {
    to_ip_header(asm, to.framed_ipv6, to.bare_ipv6);
    let words: Vec<u32> = (0..8).map(|word| 8 + 4 * word).collect();
    add_words(asm, &words);
    let ports = asm.label();
    asm.op(LD_B_X, 6);
    jump_if_ports(asm, ports, finish);
    asm.place(ports);
    add_to_x(asm, 40);
    add_ports(asm);
    asm.jump(finish);
}

/// X points at the inner IP header, whichever of the two places it came from.
fn to_ip_header(asm: &mut Assembler, framed: Label, bare: Label) {
    let ip = asm.label();
    asm.place(framed);
    add_to_x(asm, at::IP);
    asm.jump(ip);
    asm.place(bare);
    add_to_x(asm, at::INNER);
    asm.place(ip);
}

/// X moves on by `bytes`; A is lost.
fn add_to_x(asm: &mut Assembler, bytes: u32) {
    asm.op(TXA, 0);
    asm.op(ADD_K, bytes);
    asm.op(TAX, 0);
}

/// Adds 32-bit words at these offsets from X to the hash.
fn add_words(asm: &mut Assembler, offsets: &[u32]) {
    for offset in offsets {
        asm.op(STX, M_SAVED);
        asm.op(LD_W_X, *offset);
        asm.op(LDX_MEM, M_HASH);
        asm.op(ADD_X, 0);
        asm.op(ST, M_HASH);
        asm.op(LDX_MEM, M_SAVED);
    }
}

/// Jumps to `ports` when A is a protocol with ports, else to `finish`.
fn jump_if_ports(asm: &mut Assembler, ports: Label, finish: Label) {
    for protocol in protocol::WITH_PORTS {
        asm.jump_if(JEQ_K, u32::from(protocol), ports);
    }
    asm.jump(finish);
}

/// Mixes the ports, which X points at, into the hash.
fn add_ports(asm: &mut Assembler) {
    asm.op(LD_H_X, 0);
    asm.op(ST, M_SAVED);
    asm.op(LD_H_X, 2);
    asm.op(LDX_MEM, M_SAVED);
    asm.op(ADD_X, 0);
    asm.op(MUL_K, PORTS_MULTIPLIER);
    asm.op(LDX_MEM, M_HASH);
    asm.op(XOR_X, 0);
    asm.op(ST, M_HASH);
}

/// The hash of what a VXLAN header carries, before the multiplier. `Err` where the program would read past
/// the end.
fn hash_of_payload(udp_payload: &[u8]) -> Result<u32, ()> {
    let byte = |at: u32| udp_payload.get(at as usize).copied().ok_or(());
    let inner = udp_payload.get(at::INNER as usize..).unwrap_or_default();
    if byte(at::FLAGS)? & FLAG_P != 0 {
        match byte(at::NEXT_PROTOCOL)? {
            NEXT_IPV4 => return hash_of_packet(ether_type::IPV4, inner, || Err(())),
            NEXT_IPV6 => return hash_of_packet(ether_type::IPV6, inner, || Err(())),
            _ => {}
        }
    }
    let first = inner.first().copied().ok_or(())?;
    if first == PLAIN_IPV4 {
        return hash_of_packet(ether_type::IPV4, inner, || Err(()));
    }
    hash_of_frame_or(inner, || {
        let half = |at: u32| be16(udp_payload, at as usize).ok_or(());
        let ether_type = half(at::ETHER_TYPE)?;
        let is_frame = ether_type::KNOWN.contains(&ether_type)
            || ether_type <= MAX_802_3_LEN && half(at::IP)? == SNAP;
        match first >> 4 {
            4 if !is_frame => hash_of_packet(ether_type::IPV4, inner, || Err(())),
            6 if !is_frame => hash_of_packet(ether_type::IPV6, inner, || Err(())),
            _ => hash_of_hardware(inner),
        }
    })
}

/// The hash of a frame before the multiplier. `Err` where the program would read past the end.
fn hash_of_frame(frame: &[u8]) -> Result<u32, ()> {
    hash_of_frame_or(frame, || hash_of_hardware(frame))
}

/// Without IP the low words of both hardware addresses have to do.
fn hash_of_hardware(frame: &[u8]) -> Result<u32, ()> {
    Ok(word(frame, 2)?.wrapping_add(word(frame, 8)?))
}

/// The same; `otherwise` has it where there is no IP.
fn hash_of_frame_or(frame: &[u8], otherwise: impl FnOnce() -> Result<u32, ()>) -> Result<u32, ()> {
    let type_at = |at: usize| be16(frame, at).ok_or(());
    let mut at = 12;
    for _ in 0..MAX_TAGS {
        if ether_type::is_vlan(type_at(at)?) {
            at += 4;
        }
    }
    let packet = frame.get(at + 2..).unwrap_or_default();
    hash_of_packet(type_at(at)?, packet, otherwise)
}

fn hash_of_packet(
    ether_type: u16,
    packet: &[u8],
    otherwise: impl FnOnce() -> Result<u32, ()>,
) -> Result<u32, ()> {
    let half = |at: usize| be16(packet, at).map(u32::from).ok_or(());
    let byte = |at: usize| packet.get(at).copied().ok_or(());
    let sum = |words: &[usize]| {
        words
            .iter()
            .try_fold(0u32, |sum, at| Ok(sum.wrapping_add(word(packet, *at)?)))
    };
    let (addresses, protocol, transport) = match ether_type {
        ether_type::IPV4 => {
            let addresses = sum(&[12, 16])?;
            if half(6)? & 0x3fff != 0 {
                return Ok(addresses);
            }
            (addresses, byte(9)?, usize::from(byte(0)? & 0x0f) * 4)
        }
        ether_type::IPV6 => (sum(&[8, 12, 16, 20, 24, 28, 32, 36])?, byte(6)?, 40),
        _ => return otherwise(),
    };
    if !protocol::WITH_PORTS.contains(&protocol) {
        return Ok(addresses);
    }
    let ports = half(transport)?.wrapping_add(half(transport + 2)?);
    Ok(addresses ^ ports.wrapping_mul(PORTS_MULTIPLIER))
}

fn word(bytes: &[u8], at: usize) -> Result<u32, ()> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bpf::assembler::tests::{interpret, interpret_as};

    const TWO: Steering = Steering {
        workers: 2,
        multiplier: 0x85eb_ca6b,
    };

    /// A VXLAN datagram with the inner flow given, one way or the other.
    fn datagram(
        v6: bool,
        tags: usize,
        protocol: u8,
        ends: [(u8, u16); 2],
        extra: &[u8],
    ) -> Vec<u8> {
        let [(src, sport), (dst, dport)] = ends;
        let mut packet = vec![8, 0, 0, 0, 0, 0, 7, 0];
        packet.extend([2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src]);
        for _ in 0..tags {
            packet.extend([0x81, 0, 0, 5]);
        }
        if v6 {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, protocol, 64]);
            packet.extend([[0xfd; 15].as_slice(), &[src], &[0xfd; 15], &[dst]].concat());
        } else {
            packet.extend([0x08, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, protocol, 0, 0]);
            packet.extend([10, 0, 0, src, 10, 0, 0, dst]);
        }
        packet.extend(sport.to_be_bytes());
        packet.extend(dport.to_be_bytes());
        packet.extend(extra);
        packet
    }

    #[test]
    fn both_directions_meet_and_load_is_spread() {
        let outer_ip = Start::OuterIp { unsteered: &[6081] };
        for (start, outer) in [(Start::UdpPayload, 0), (outer_ip, 28), (outer_ip, 32)] {
            let program = TWO.program(start).unwrap();
            assert!(program.len() <= 4096, "the kernel's limit");
            let mut counts = [0u32; 2];
            for flow in 0..10_000u32 {
                let (v6, tags) = (
                    flow % 10 < 3,
                    usize::from(flow % 7 < 2) + usize::from(flow % 21 == 0),
                );
                let ends = [(flow as u8, (flow / 256) as u16 + 1024), (200, 443)];
                let [a, b] = ends;
                let mut forth = vec![0; outer];
                if outer > 0 {
                    forth[outer - 28] = 0x45;
                }
                // Four bytes more: a second VLAN tag in front of the outer header.
                let protocol = if outer == 32 { 0x8100 } else { 0x0800 };
                let mut back = forth.clone();
                forth.extend(datagram(
                    v6,
                    tags,
                    if flow % 2 == 0 { 6 } else { 17 },
                    [a, b],
                    &[0; 4],
                ));
                back.extend(datagram(
                    v6,
                    tags,
                    if flow % 2 == 0 { 6 } else { 17 },
                    [b, a],
                    &[1; 40],
                ));
                let worker = interpret_as(&program, protocol, &forth);
                assert_eq!(
                    worker,
                    interpret_as(&program, protocol, &back),
                    "flow {flow}"
                );
                assert_eq!(worker, TWO.worker_of(&forth[outer..]), "flow {flow}");
                counts[worker as usize] += 1;
            }
            assert!(
                counts.iter().all(|count| (4700..=5300).contains(count)),
                "{counts:?}"
            );
        }
    }

    /// Options of an outer IPv4 header, an outer IPv6 header, and a tunnel that is not looked into.
    #[test]
    fn the_outer_header_is_skipped_whole() {
        let program = TWO.program(Start::OuterIp { unsteered: &[6081] }).unwrap();
        let mut workers = [0; 2];
        for flow in 0..64 {
            let payload = datagram(false, 0, 6, [(flow, 1), (9, 2)], &[]);
            let expected = TWO.worker_of(&payload);
            workers[expected as usize] += 1;
            let to = |port: u16| [[0; 2], port.to_be_bytes(), [0; 2], [0; 2]].concat();
            for (first, len) in [(0x45u8, 20), (0x46, 24), (0x4f, 60), (0x60, 40)] {
                let mut header = vec![0; len];
                header[0] = first;
                if first == 0x60 {
                    header[6] = 17;
                }
                let vxlan = [&header[..], &to(4789), &payload].concat();
                assert_eq!(interpret(&program, &vxlan), expected, "{first:#x}");
                let geneve = [&header[..], &to(6081), &payload].concat();
                assert_eq!(interpret(&program, &geneve), 0);
            }
        }
        assert!(workers.iter().all(|share| *share > 10), "{workers:?}");
    }

    /// VXLAN-GPE with an IP packet and no frame: both directions and every packet of a flow meet where the
    /// same packets in frames do, whatever stands in the fields that change from packet to packet.
    #[test]
    fn packets_without_a_frame_meet() {
        let programs = [
            (TWO.program(Start::UdpPayload).unwrap(), 0),
            (
                TWO.program(Start::OuterIp { unsteered: &[6081] }).unwrap(),
                28,
            ),
        ];
        let mut counts = [0u32; 2];
        for flow in 0..2000u32 {
            let v6 = flow % 3 == 0;
            let protocol = [6, 17, 132, 1][flow as usize % 4];
            let ends = [(flow as u8, (flow / 256) as u16 + 1024), (200, 443)];
            let [a, b] = ends;
            let mut workers = Vec::new();
            for (number, ends) in [[a, b], [b, a], [a, b], [b, a]].into_iter().enumerate() {
                let framed = datagram(v6, 0, protocol, ends, &[number as u8; 30]);
                let mut bare = framed.clone();
                bare.drain(8..22);
                // With the P flag, and from senders that leave out the frame and say nothing.
                if flow % 2 == 0 {
                    (bare[0], bare[3]) = (0x0c, if v6 { 2 } else { 1 });
                }
                // IPv4: length, identification, TTL and checksum; IPv6: length and hop limit.
                let changing: &[usize] = if v6 {
                    &[4, 5, 7]
                } else {
                    &[2, 3, 4, 5, 8, 10, 11]
                };
                for at in changing {
                    bare[8 + at] = bare[8 + at].wrapping_add(number as u8 * 37);
                }
                workers.push(TWO.worker_of(&framed));
                workers.push(TWO.worker_of(&bare));
                let ether_type = if v6 { 0x86dd } else { 0x0800 };
                workers.push(TWO.worker_of_packet(ether_type, &bare[8..]));
                for (program, outer) in &programs {
                    let mut packet = vec![0; *outer];
                    if let [first, ..] = packet.as_mut_slice() {
                        *first = 0x45;
                    }
                    packet.extend(&bare);
                    workers.push(interpret(program, &packet));
                }
            }
            assert!(
                workers.iter().all(|worker| *worker == workers[0]),
                "flow {flow}: {workers:?}"
            );
            counts[workers[0] as usize] += 1;
        }
        assert!(counts.iter().all(|count| *count > 800), "{counts:?}");
    }

    /// A frame is a frame, whatever its hardware addresses begin with: what is known by its EtherType or is
    /// 802.3 with SNAP goes where its hardware addresses send it, and IP in it where its own addresses do.
    #[test]
    fn frames_of_any_hardware_address_are_frames() {
        let program = TWO.program(Start::UdpPayload).unwrap();
        for first in [0x02u8, 0x40, 0x46, 0x4e, 0x60, 0x62, 0x6a, 0x6e] {
            for flow in 0..64u8 {
                let mut ip = datagram(
                    flow % 2 == 0,
                    usize::from(flow % 3),
                    6,
                    [(flow, 1), (9, 2)],
                    &[0; 9],
                );
                let expected = TWO.worker_of(&ip);
                ip[8] = first;
                assert_eq!(TWO.worker_of(&ip), expected, "{first:#x}");
                assert_eq!(interpret(&program, &ip), expected, "{first:#x}");
                for (ether_type, then) in [
                    (0x8864u16, 0),
                    (0x8847, 0),
                    (0x0806, 1),
                    (300, 0xaaaa),
                    (0x8926, 7),
                ] {
                    let mut workers = Vec::new();
                    for number in 0..8u8 {
                        let mut packet = vec![
                            8, 0, 0, 0, 0, 0, 7, 0, first, 1, 1, 1, 1, flow, 2, 0, 0, 0, 0, 1,
                        ];
                        packet.extend([ether_type, then].map(u16::to_be_bytes).concat());
                        packet.extend([number.wrapping_mul(37); 50]);
                        workers.push(interpret(&program, &packet));
                        workers.push(TWO.worker_of(&packet));
                    }
                    assert!(
                        workers.iter().all(|worker| *worker == workers[0]),
                        "{first:#x} {ether_type:#x}"
                    );
                }
            }
        }
    }

    /// As many ports as are allowed fit, and far more are refused, not forgotten.
    #[test]
    fn many_ports_are_left_to_one_worker() {
        let ports: Vec<u16> = (1..=MAX_UNSTEERED as u16).collect();
        let program = TWO.program(Start::OuterIp { unsteered: &ports }).unwrap();
        let mut spread = [0; 2];
        for flow in 0..64 {
            let mut packet = vec![0; 28];
            packet[0] = 0x45;
            packet.extend(datagram(false, 0, 6, [(flow, 1), (9, 2)], &[]));
            for port in [1, 200, 255, 256, 257, 300, MAX_UNSTEERED as u16] {
                packet[22..24].copy_from_slice(&port.to_be_bytes());
                assert_eq!(interpret(&program, &packet), 0, "port {port}");
            }
            packet[22..24].copy_from_slice(&4789u16.to_be_bytes());
            spread[interpret(&program, &packet) as usize] += 1;
        }
        assert!(spread.iter().all(|share| *share > 10), "{spread:?}");
        let all: Vec<u16> = (1..=9000).collect();
        let refused = TWO.program(Start::OuterIp { unsteered: &all });
        assert!(matches!(refused, Err(ProgramError::TooLong { .. })));
    }

    #[test]
    fn fragments_of_an_outer_packet_meet() {
        let program = TWO.program(Start::OuterIp { unsteered: &[] }).unwrap();
        let mut first = vec![0x45, 0, 0, 0, 0, 1, 0x20, 0];
        first.resize(28, 0);
        first.extend(datagram(false, 0, 6, [(1, 2), (3, 4)], &[]));
        let mut second = vec![0x45, 0, 0, 0, 0, 1, 0, 9];
        second.resize(60, 0xaa);
        assert_eq!(interpret(&program, &first), interpret(&program, &second));
        let mut v6 = vec![0x60, 0, 0, 0, 0, 0, 44];
        v6.resize(100, 0x55);
        assert_eq!(interpret(&program, &v6), 0);
    }

    proptest! {
        /// The program and the function agree on whatever arrives.
        #[test]
        fn program_and_function_agree(
            mut packet in proptest::collection::vec(any::<u8>(), 0..90),
            kind in 0..9usize,
            workers in 1u32..9,
            multiplier in any::<u32>(),
            protocol in prop_oneof![Just(6u8), Just(17), Just(132), any::<u8>()],
            next in 0u8..4,
            first_byte in prop_oneof![Just(0x45u8), Just(0x46), Just(0x60), Just(0x6e), any::<u8>()],
        ) {
            let steering = Steering { workers, multiplier: multiplier | 1 };
            if packet.len() > 60 {
                let ether_type = [0x0800u16, 0x86dd, 0x8100, 0x88a8, 0x0806, 0x1234, 0, 300, 1500][kind];
                packet[20..22].copy_from_slice(&ether_type.to_be_bytes());
                if kind >= 2 { packet[24..26].copy_from_slice(&[0x08, 0]); }
                if protocol == 6 && kind >= 6 { packet[22..24].copy_from_slice(&[0xaa, 0xaa]); }
                packet[31] = protocol;
                packet[28] = protocol;
            }
            if let [flags, _, _, next_protocol, ..] = packet.as_mut_slice() && next > 0 {
                (*flags, *next_protocol) = (*flags | FLAG_P, next);
            }
            if next == 3 && let [flags, ..] = packet.as_mut_slice() { *flags &= !FLAG_P; }
            if next == 3 && let Some(first) = packet.get_mut(8) { *first = first_byte; }
            if next == 1 && packet.len() > 60 { packet[17] = protocol; }
            if next == 2 && packet.len() > 60 { packet[14] = protocol; }
            let program = steering.program(Start::UdpPayload).unwrap();
            let expected = interpret(&program, &packet);
            prop_assert_eq!(steering.worker_of(&packet), expected);
            // The same behind outer headers, however long.
            let outer = [&[0x46; 24][..], &[0; 8]].concat();
            let outer: Vec<u8> = outer.iter().enumerate().map(|(at, byte)| if (6..8).contains(&at) { 0 } else { *byte }).collect();
            let program = steering.program(Start::OuterIp { unsteered: &[9] }).unwrap();
            prop_assert_eq!(interpret(&program, &[outer, packet].concat()), expected);
            prop_assert!(expected < workers);
        }
    }
}
