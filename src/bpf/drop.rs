//! The drop as an eBPF program: which packets behind the ring go no further. Pure.
//!
//! Only what the ring surely has, and a socket would have got without anybody looking further: no fragments,
//! no IP options, no extension headers, no second VLAN tag. The rest costs its way through the stack, and
//! that is all.

use std::net::{IpAddr, SocketAddr};

use crate::bpf::ebpf::Instruction;
use crate::bpf::filter::Link;
use crate::wire::numbers::protocol::UDP;

/// More addresses than this are not told apart here: each costs every packet that is not for it.
const MAX_TARGETS: usize = 32;

/// `enum tcx_action_base` of linux/bpf.h: the next program decides.
const TCX_NEXT: i32 = -1;
/// The same: the packet ends here.
const TCX_DROP: i32 = 2;

/// Registers: what is returned or was loaded, the context, the packet, its end, and one to count with.
const VALUE: u8 = 0;
const CONTEXT: u8 = 1;
const PACKET: u8 = 2;
const PACKET_END: u8 = 3;
const SCRATCH: u8 = 4;

/// Offsets in the context, `struct __sk_buff` of linux/bpf.h.
const PACKET_AT: i16 = 76;
const PACKET_END_AT: i16 = 80;

const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_BYTE: u8 = 0x71;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb4;
const ADD: u8 = 0x07;
const AND: u8 = 0x54;
const IF_GREATER: u8 = 0x2d;
/// Comparisons of the lower 32 bits with a number.
const IF_EQUAL: u8 = 0x16;
const IF_NOT_EQUAL: u8 = 0x56;
const IF_ANY_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;

/// A program being written, with jumps that do not know yet how far they go.
#[derive(Default)]
struct Program {
    instructions: Vec<Instruction>,
    to_pass: Vec<usize>,
    /// A jump is longer than an instruction can say.
    is_too_long: bool,
}

impl Program {
    fn op(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        let instruction = Instruction::new(code, to, from, offset, immediate);
        self.instructions.push(instruction);
    }

    /// Passes the packet unless its first `len` bytes are in one piece: where a card or a driver leaves all but
    /// the headers elsewhere, the headers are. No more may be asked for than is looked at.
    fn make_sure_of(&mut self, len: i16) {
        self.op(COPY, SCRATCH, PACKET, 0, 0);
        self.op(ADD, SCRATCH, 0, 0, len.into());
        self.to_pass.push(self.instructions.len());
        self.op(IF_GREATER, SCRATCH, PACKET_END, 0, 0);
    }

    /// Passes the packet if the comparison of the value loaded last with `number` holds.
    fn pass_if(&mut self, code: u8, number: i32) {
        self.to_pass.push(self.instructions.len());
        self.op(code, VALUE, 0, 0, number);
    }

    /// Loads the byte at `at` of the packet.
    fn byte(&mut self, at: i16) {
        self.op(LOAD_BYTE, VALUE, PACKET, at, 0);
    }

    /// Loads two bytes as they are, like [`half`] has them.
    fn half(&mut self, at: i16) {
        self.op(LOAD_HALF, VALUE, PACKET, at, 0);
    }

    fn word(&mut self, at: i16) {
        self.op(LOAD_WORD, VALUE, PACKET, at, 0);
    }

    /// Lets the jumps at these places end before the next instruction.
    fn land(&mut self, jumps: &[usize]) {
        let here = self.instructions.len();
        for jump in jumps {
            if let Some(instruction) = self.instructions.get_mut(*jump) {
                let offset = i16::try_from(here - jump - 1);
                self.is_too_long |= offset.is_err();
                instruction.offset = offset.unwrap_or_default();
            }
        }
    }

    fn end(&mut self, verdict: i32) {
        self.op(SET, VALUE, 0, 0, verdict);
        self.op(EXIT, 0, 0, 0, 0);
    }
}

/// Two bytes of a packet as a load has them.
const fn half(bytes: [u8; 2]) -> i32 {
    u16::from_ne_bytes(bytes) as i32
}

/// The program that drops UDP to `targets`; `None` when they are too many.
pub fn dropping(targets: &[SocketAddr], link: Link) -> Option<Vec<Instruction>> {
    if targets.len() > MAX_TARGETS {
        return None;
    }
    let at: i16 = if link == Link::Ethernet { 14 } else { 0 };
    let mut program = Program::default();
    program.op(LOAD_WORD, PACKET, CONTEXT, PACKET_AT, 0);
    program.op(LOAD_WORD, PACKET_END, CONTEXT, PACKET_END_AT, 0);
    program.make_sure_of(at + 24);
    let to_ipv4 = match link {
        Link::Ethernet => {
            program.half(12);
            program.op(IF_EQUAL, VALUE, 0, 0, half([0x08, 0x00]));
            let to_ipv4 = program.instructions.len() - 1;
            program.pass_if(IF_NOT_EQUAL, half([0x86, 0xdd]));
            to_ipv4
        }
        Link::RawIp => {
            program.byte(0);
            program.op(IF_EQUAL, VALUE, 0, 0, 0x45);
            let to_ipv4 = program.instructions.len() - 1;
            // Any traffic class: its upper half is in this byte.
            program.op(AND, VALUE, 0, 0, 0xf0);
            program.pass_if(IF_NOT_EQUAL, 0x60);
            to_ipv4
        }
    };

    program.make_sure_of(at + 44);
    program.byte(at + 6);
    program.pass_if(IF_NOT_EQUAL, UDP.into());
    for target in targets {
        if let IpAddr::V6(ip) = target.ip() {
            let words = ip.octets();
            let words = words.as_chunks::<4>().0;
            let places = (at + 24..).step_by(4);
            drop_if(&mut program, at + 42, target.port(), places.zip(words));
        }
    }
    program.end(TCX_NEXT);

    program.land(&[to_ipv4]);
    program.byte(at);
    program.pass_if(IF_NOT_EQUAL, 0x45);
    program.byte(at + 9);
    program.pass_if(IF_NOT_EQUAL, UDP.into());
    program.half(at + 6);
    program.pass_if(IF_ANY_BIT, half([0x3f, 0xff]));
    for target in targets {
        if let IpAddr::V4(ip) = target.ip() {
            let word = ip.octets();
            drop_if(
                &mut program,
                at + 22,
                target.port(),
                [(at + 16, &word)].into_iter(),
            );
        }
    }
    let to_pass = std::mem::take(&mut program.to_pass);
    program.land(&to_pass);
    program.end(TCX_NEXT);
    (!program.is_too_long).then_some(program.instructions)
}

/// Drops the packet if it has this port, and these words at these places.
fn drop_if<'a>(
    program: &mut Program,
    port_at: i16,
    port: u16,
    words: impl Iterator<Item = (i16, &'a [u8; 4])>,
) {
    program.half(port_at);
    let mut others = vec![program.instructions.len()];
    program.op(IF_NOT_EQUAL, VALUE, 0, 0, half(port.to_be_bytes()));
    for (at, word) in words {
        program.word(at);
        others.push(program.instructions.len());
        program.op(IF_NOT_EQUAL, VALUE, 0, 0, i32::from_ne_bytes(*word));
    }
    program.end(TCX_DROP);
    program.land(&others);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does, and refuses what the kernel's verifier refuses: reading a register
    /// that nothing was put into, or bytes that nobody made sure of.
    fn run(program: &[Instruction], packet: &[u8]) -> i32 {
        #[derive(Clone, Copy, PartialEq, Debug)]
        enum Value {
            Number(u32),
            Context,
            Packet(usize),
            PacketEnd,
        }
        let mut registers: [Option<Value>; 11] = [None; 11];
        registers[usize::from(CONTEXT)] = Some(Value::Context);
        let (mut at, mut sure) = (0, 0);
        loop {
            let Instruction {
                code,
                registers: both,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            at += 1;
            let number = |value: Option<Value>| match value {
                Some(Value::Number(number)) => number,
                other => panic!("{other:?} is no number"),
            };
            let loads = |len: usize| match registers[from] {
                Some(Value::Context) if offset == PACKET_AT => Value::Packet(0),
                Some(Value::Context) if offset == PACKET_END_AT => Value::PacketEnd,
                Some(Value::Packet(start)) => {
                    let start = start.checked_add_signed(offset.into()).unwrap();
                    assert!(start + len <= sure, "nobody made sure of {start}");
                    let mut bytes = [0; 4];
                    bytes[..len].copy_from_slice(&packet[start..][..len]);
                    Value::Number(u32::from_le_bytes(bytes))
                }
                other => panic!("{other:?} at {offset} cannot be read"),
            };
            let immediate = immediate as u32;
            let mut holds = false;
            match code {
                0x61 => registers[to] = Some(loads(4)),
                0x69 => registers[to] = Some(loads(2)),
                0x71 => registers[to] = Some(loads(1)),
                0xbf => registers[to] = Some(registers[from].unwrap()),
                0xb4 => registers[to] = Some(Value::Number(immediate)),
                0x54 => registers[to] = Some(Value::Number(number(registers[to]) & immediate)),
                0x07 => match registers[to] {
                    Some(Value::Packet(start)) => {
                        registers[to] = Some(Value::Packet(start + immediate as usize));
                    }
                    other => panic!("{other:?}"),
                },
                0x2d => match (registers[to], registers[from]) {
                    (Some(Value::Packet(place)), Some(Value::PacketEnd)) => {
                        holds = place > packet.len();
                        sure = if holds { 0 } else { place };
                    }
                    other => panic!("{other:?}"),
                },
                0x16 => holds = number(registers[to]) == immediate,
                0x56 => holds = number(registers[to]) != immediate,
                0x46 => holds = number(registers[to]) & immediate != 0,
                0x95 => return number(registers[0]) as i32,
                _ => panic!("unknown operation {code:#x}"),
            }
            if holds {
                at += usize::try_from(offset).unwrap();
            }
        }
    }

    /// An IPv4 UDP packet with `edit`ed bytes.
    fn v4(dst: [u8; 4], port: u16, edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut packet = vec![0; 60];
        (packet[0], packet[6], packet[9]) = (0x45, 0x40, 17);
        packet[16..20].copy_from_slice(&dst);
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        edit(&mut packet);
        packet
    }

    fn v6(dst: &str, port: u16, next_header: u8) -> Vec<u8> {
        let mut packet = vec![0; 60];
        (packet[0], packet[6]) = (0x60, next_header);
        let dst: std::net::Ipv6Addr = dst.parse().unwrap();
        packet[24..40].copy_from_slice(&dst.octets());
        packet[42..44].copy_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn only_what_the_ring_surely_has() {
        let targets = [
            "10.0.0.5:4789",
            "10.0.0.6:4790",
            "[fd00::5]:4789",
            "[fd00::6]:6081",
        ];
        let targets = targets.map(|one| one.parse().unwrap());
        let [ethernet, raw] =
            [Link::Ethernet, Link::RawIp].map(|link| dropping(&targets, link).unwrap());
        let check = |ether_type: u16, packet: &[u8], drops: bool, what: &str| {
            let verdict = if drops { TCX_DROP } else { TCX_NEXT };
            let mut frame = vec![2; 12];
            frame.extend(ether_type.to_be_bytes());
            frame.extend(packet);
            assert_eq!(run(&ethernet, &frame), verdict, "{what}");
            assert_eq!(run(&raw, packet), verdict, "{what}, bare");
        };
        let as_is = |_: &mut Vec<u8>| {};
        check(0x0800, &v4([10, 0, 0, 5], 4789, as_is), true, "ours");
        check(0x0800, &v4([10, 0, 0, 6], 4790, as_is), true, "ours too");
        check(
            0x0800,
            &v4([10, 0, 0, 5], 4790, as_is),
            false,
            "the other's port",
        );
        check(
            0x0800,
            &v4([10, 0, 0, 7], 4789, as_is),
            false,
            "a stranger's",
        );
        let tcp = |packet: &mut Vec<u8>| packet[9] = 6;
        check(0x0800, &v4([10, 0, 0, 5], 4789, tcp), false, "TCP");
        let options = |packet: &mut Vec<u8>| packet[0] = 0x46;
        check(
            0x0800,
            &v4([10, 0, 0, 5], 4789, options),
            false,
            "IP options",
        );
        let first_piece = |packet: &mut Vec<u8>| packet[6] = 0x20;
        check(
            0x0800,
            &v4([10, 0, 0, 5], 4789, first_piece),
            false,
            "a fragment",
        );
        let later_piece = |packet: &mut Vec<u8>| packet[7] = 5;
        check(
            0x0800,
            &v4([10, 0, 0, 5], 4789, later_piece),
            false,
            "a later one",
        );
        let headers = |packet: &mut Vec<u8>| packet.truncate(28);
        check(
            0x0800,
            &v4([10, 0, 0, 5], 4789, headers),
            true,
            "ours, only the headers in the first piece",
        );
        check(
            0x86dd,
            &v6("fd00::5", 4789, 17)[..48],
            true,
            "the same over IPv6",
        );
        check(0x86dd, &v6("fd00::5", 4789, 17)[..43], false, "too short");
        let short = |packet: &mut Vec<u8>| packet.truncate(23);
        check(0x0800, &v4([10, 0, 0, 5], 4789, short), false, "too short");
        check(0x86dd, &v6("fd00::5", 4789, 17), true, "ours");
        check(0x86dd, &v6("fd00::6", 6081, 17), true, "ours too");
        check(0x86dd, &v6("fd00::5", 6081, 17), false, "the other's port");
        check(0x86dd, &v6("fd00::1:5", 4789, 17), false, "a stranger's");
        check(0x86dd, &v6("fd00::5", 4789, 44), false, "a fragment");
        check(0x86dd, &v6("fd00::5", 4789, 58), false, "ICMPv6");
        let arp = [0; 60];
        let mut frame = vec![2; 12];
        frame.extend([8, 6]);
        frame.extend(arp);
        assert_eq!(run(&ethernet, &frame), TCX_NEXT);
        assert_eq!(run(&raw, &arp), TCX_NEXT);
    }

    #[test]
    fn a_jump_that_cannot_be_encoded_is_noted() {
        for (between, is_too_long) in [(32_767, false), (32_768, true), (70_000, true)] {
            let mut program = Program::default();
            program.pass_if(IF_EQUAL, 0);
            for _ in 0..between {
                program.byte(0);
            }
            program.land(&[0]);
            assert_eq!(program.is_too_long, is_too_long, "{between}");
        }
    }

    #[test]
    fn many_addresses_and_too_many() {
        let many = |count: u16| -> Vec<SocketAddr> {
            let ip = |at: u16| {
                if at.is_multiple_of(2) {
                    [10, 0, 0, 5].into()
                } else {
                    IpAddr::from([5u16; 8])
                }
            };
            (0..count).map(|at| SocketAddr::new(ip(at), at)).collect()
        };
        for link in [Link::Ethernet, Link::RawIp] {
            let most = many(MAX_TARGETS as u16);
            let last = v4([10, 0, 0, 5], 30, |_| {});
            let mut frame = vec![2; 12];
            frame.extend([8, 0]);
            frame.extend(&last);
            let packet = if link == Link::Ethernet {
                &frame
            } else {
                &last
            };
            assert_eq!(run(&dropping(&most, link).unwrap(), packet), TCX_DROP);
            assert!(dropping(&many(MAX_TARGETS as u16 + 1), link).is_none());
        }
    }
}
