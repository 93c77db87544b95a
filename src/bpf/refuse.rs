//! The ring's filter as an eBPF program, for lists of any length: packets of sources that are not allowed get no
//! further than this, and are counted. Pure.
//!
//! The classic program ([`crate::bpf::filter`]) says which packets are meant and where their IP header is; it is
//! translated as it stands, as the kernel itself does. What it would keep is looked up by source in maps of prefixes.
//! Of strangers the headers of the first [`STRANGERS_AT_ONCE`] packets of each second pass on each core, so that they are
//! counted by source; the rest is counted here and nothing else.

use crate::bpf::assembler as classic;
use crate::bpf::ebpf::{Instruction, Label, Program};
use crate::bpf::filter::{HEADERS, M_IP, WHOLE};

/// Packets of strangers whose headers pass in 2³⁰ ns, on each core.
pub const STRANGERS_AT_ONCE: i32 = 1024;
/// The time in which so many pass: the clock's nanoseconds are shifted by so many bits.
const WINDOW_BITS: i32 = 30;

/// Words of 64 bits that the program keeps for each core: packets counted and left out, the window of time, and how many
/// may pass in it.
pub const WORDS: u32 = 3;
const LEFT_OUT_AT: i16 = 0;
const WINDOW_AT: i16 = 8;
const MAY_PASS_AT: i16 = 16;

/// Descriptors of the maps that the program uses.
#[derive(Clone, Copy, Debug)]
pub struct Maps {
    /// Prefixes of IPv4.
    pub v4: i32,
    /// Prefixes of IPv6.
    pub v6: i32,
    /// [`WORDS`] words for each core.
    pub words: i32,
}

/// Registers: what is returned, loaded or looked up; arguments of calls; the packet, X of the classic program, a value
/// that survives calls, the stack.
const A: u8 = 0;
const ARG1: u8 = 1;
const ARG2: u8 = 2;
const CONTEXT: u8 = 6;
const X: u8 = 7;
const KEPT: u8 = 8;
const STACK: u8 = 10;
/// Where keys are put on the stack, below the classic program's cells.
const KEY_AT: i16 = -96;

const CALL_LOOKUP: i32 = 1;
const CALL_TIME: i32 = 5;

// Operations of eBPF (RFC 9669).
const COPY: u8 = 0xbf;
const SET: u8 = 0xb4;
const ADD_64: u8 = 0x07;
const LSH: u8 = 0x64;
const AND: u8 = 0x54;
const RSH: u8 = 0x74;
const RSH_64: u8 = 0x77;
const TO_BIG_ENDIAN: u8 = 0xdc;
const LOAD_WORD: u8 = 0x61;
const LOAD_DOUBLE: u8 = 0x79;
const STORE_WORD: u8 = 0x63;
const STORE_WORD_NUMBER: u8 = 0x62;
const STORE_DOUBLE: u8 = 0x7b;
const STORE_DOUBLE_NUMBER: u8 = 0x7a;
const PACKET_BYTE_AT: u8 = 0x30;
const PACKET_BYTE_X: u8 = 0x50;
const PACKET_WORD_X: u8 = 0x40;
const IF_NULL: u8 = 0x15;
const IF_NOT_NULL: u8 = 0x55;
const IF_SAME_64: u8 = 0x1d;
const IF_EQUAL: u8 = 0x16;

/// The program that does as `filter`, which notes the place of the IP header, but for packets of sources in neither
/// map; `None` where that has an instruction that is not known here.
pub fn refusing(filter: &[classic::Instruction], maps: Maps) -> Option<Vec<Instruction>> {
    let mut program = Program::default();
    let judge = program.label();
    program.op(COPY, CONTEXT, ARG1, 0, 0);
    program.op(SET, A, 0, 0, 0);
    program.op(SET, X, 0, 0, 0);
    translate(&mut program, filter, judge)?;
    program.place(judge);
    judge_source(&mut program, maps);
    program.assemble()
}

/// The cell of a classic program on the stack.
fn cell(number: u32) -> i16 {
    -4 * (i16::try_from(number).unwrap_or(0) + 1)
}

/// Writes a classic program as eBPF; where it keeps all of a packet it goes on at `judge`.
fn translate(program: &mut Program, filter: &[classic::Instruction], judge: Label) -> Option<()> {
    let labels: Vec<Label> = filter.iter().map(|_| program.label()).collect();
    for (at, instruction) in filter.iter().enumerate() {
        let classic::Instruction {
            code,
            jump_true,
            jump_false,
            operand,
        } = *instruction;
        program.place(*labels.get(at)?);
        let number = operand.cast_signed();
        let to = |distance: u32| labels.get(at + 1 + distance as usize).copied();
        let low = u8::try_from(code).ok()?;
        match code {
            classic::LD_W_ABS | classic::LD_H_ABS | classic::LD_B_ABS => {
                program.op(low, A, 0, 0, number);
            }
            classic::LD_W_X | classic::LD_H_X | classic::LD_B_X => {
                program.op(low, A, X, 0, number);
            }
            classic::LDX_MSH => {
                program.op(COPY, KEPT, A, 0, 0);
                program.op(PACKET_BYTE_AT, A, 0, 0, number);
                program.op(AND, A, 0, 0, 15);
                program.op(LSH, A, 0, 0, 2);
                program.op(COPY, X, A, 0, 0);
                program.op(COPY, A, KEPT, 0, 0);
            }
            classic::LD_IMM => program.op(SET, A, 0, 0, number),
            classic::ST => program.op(STORE_WORD, STACK, A, cell(operand), 0),
            classic::RSH_K | classic::AND_K => program.op(low, A, 0, 0, number),
            classic::JA => program.jump(to(operand)?),
            classic::JEQ_K | classic::JGT_K | classic::JSET_K => {
                // The same comparison of 32 bits.
                program.jump_if(low + 1, A, number, to(jump_true.into())?);
                if jump_false > 0 {
                    program.jump(to(jump_false.into())?);
                }
            }
            classic::RET_K if operand == WHOLE => program.jump(judge),
            classic::RET_K => program.end(number),
            _ => return None,
        }
    }
    Some(())
}

/// Looks the source up, and keeps all of the packet, its headers or nothing.
fn judge_source(program: &mut Program, maps: Maps) {
    let [ipv6, refused, whole] = [(); 3].map(|()| program.label());
    program.op(LOAD_WORD, X, STACK, cell(M_IP), 0);
    program.op(PACKET_BYTE_X, A, X, 0, 0);
    program.op(RSH, A, 0, 0, 4);
    program.jump_if(IF_EQUAL, A, 6, ipv6);
    for (is_ipv6, source_at, words, map) in [(false, 12, 1, maps.v4), (true, 8, 4, maps.v6)] {
        if is_ipv6 {
            program.place(ipv6);
        }
        for word in 0..words {
            program.op(PACKET_WORD_X, A, X, 0, source_at + 4 * i32::from(word));
            program.op(TO_BIG_ENDIAN, A, 0, 0, 32);
            program.op(STORE_WORD, STACK, A, KEY_AT + 4 + 4 * word, 0);
        }
        program.op(STORE_WORD_NUMBER, STACK, 0, KEY_AT, 32 * i32::from(words));
        look_up(program, map);
        program.jump_if(IF_NOT_NULL, A, 0, whole);
        if !is_ipv6 {
            program.jump(refused);
        }
    }
    program.place(refused);
    refuse(program, maps.words);
    program.place(whole);
    program.end(WHOLE.cast_signed());
}

fn look_up(program: &mut Program, map: i32) {
    program.map(ARG1, map);
    program.op(COPY, ARG2, STACK, 0, 0);
    program.op(ADD_64, ARG2, 0, 0, KEY_AT.into());
    program.call(CALL_LOOKUP);
}

/// Lets the headers of some packets pass, and counts the others.
fn refuse(program: &mut Program, words: i32) {
    let [same_window, headers, left_out] = [(); 3].map(|()| program.label());
    program.op(STORE_WORD_NUMBER, STACK, 0, KEY_AT, 0);
    look_up(program, words);
    // It is there; the verifier wants to see that somebody looked.
    program.jump_if(IF_NULL, A, 0, headers);
    program.op(COPY, KEPT, A, 0, 0);
    program.call(CALL_TIME);
    program.op(RSH_64, A, 0, 0, WINDOW_BITS);
    program.op(LOAD_DOUBLE, ARG1, KEPT, WINDOW_AT, 0);
    program.jump_if_same(IF_SAME_64, A, ARG1, same_window);
    program.op(STORE_DOUBLE, KEPT, A, WINDOW_AT, 0);
    program.op(STORE_DOUBLE_NUMBER, KEPT, 0, MAY_PASS_AT, STRANGERS_AT_ONCE);
    program.place(same_window);
    program.op(LOAD_DOUBLE, ARG1, KEPT, MAY_PASS_AT, 0);
    program.jump_if(IF_NULL, ARG1, 0, left_out);
    program.op(ADD_64, ARG1, 0, 0, -1);
    program.op(STORE_DOUBLE, KEPT, ARG1, MAY_PASS_AT, 0);
    program.place(headers);
    program.end(HEADERS.cast_signed());
    program.place(left_out);
    program.op(LOAD_DOUBLE, ARG1, KEPT, LEFT_OUT_AT, 0);
    program.op(ADD_64, ARG1, 0, 0, 1);
    program.op(STORE_DOUBLE, KEPT, ARG1, LEFT_OUT_AT, 0);
    program.end(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::filter::{self, Link, udp_noting_place};

    /// All jumps lead forward, into the program, and no instruction of the classic filter is unknown.
    #[test]
    fn the_filter_can_be_translated() {
        let maps = Maps {
            v4: 3,
            v6: 4,
            words: 5,
        };
        for link in [Link::Ethernet, Link::RawIp] {
            let classic = udp_noting_place(&[4789, 6081], link).unwrap();
            let program = refusing(&classic, maps).unwrap();
            assert!(program.len() < 4096, "{}", program.len());
        }
        assert_eq!(
            refusing(&filter::not_from(&[1]).unwrap(), maps).map(|_| ()),
            Some(())
        );
        let unknown = classic::Instruction {
            code: classic::RET_A,
            jump_true: 0,
            jump_false: 0,
            operand: 0,
        };
        assert!(refusing(&[unknown], maps).is_none());
    }
}
