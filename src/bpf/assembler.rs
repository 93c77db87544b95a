//! Classic BPF: its instructions, and an assembler with labels. Pure; the kernel runs the programs.
//!
//! [`crate::bpf::steer`] and [`crate::bpf::filter`] build theirs with it.

/// One instruction of classic BPF, as in linux/filter.h `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Where a word load finds the packet's EtherType instead of its bytes: `SKF_AD_OFF + SKF_AD_PROTOCOL`
/// of linux/filter.h.
pub const AD_PROTOCOL: u32 = 0xffff_f000;

/// The same for the number of the interface it came in on: `SKF_AD_OFF + SKF_AD_IFINDEX`.
pub const AD_INTERFACE: u32 = 0xffff_f008;

// Operations, as in linux/bpf_common.h.
pub(super) const LD_W_X: u16 = 0x40;
pub(super) const LD_H_X: u16 = 0x48;
pub(super) const LD_B_X: u16 = 0x50;
pub(super) const LD_W_ABS: u16 = 0x20;
pub(super) const LD_B_ABS: u16 = 0x30;
pub(super) const LD_H_ABS: u16 = 0x28;
pub(super) const LD_IMM: u16 = 0x00;
pub(super) const LDX_IMM: u16 = 0x01;
pub(super) const LD_MEM: u16 = 0x60;
pub(super) const LDX_MEM: u16 = 0x61;
pub(super) const ST: u16 = 0x02;
pub(super) const STX: u16 = 0x03;
pub(super) const ADD_K: u16 = 0x04;
pub(super) const ADD_X: u16 = 0x0c;
pub(super) const MUL_K: u16 = 0x24;
pub(super) const AND_K: u16 = 0x54;
pub(super) const LSH_K: u16 = 0x64;
pub(super) const RSH_K: u16 = 0x74;
pub(super) const MOD_K: u16 = 0x94;
pub(super) const XOR_X: u16 = 0xac;
pub(super) const JA: u16 = 0x05;
pub(super) const JEQ_K: u16 = 0x15;
pub(super) const JSET_K: u16 = 0x45;
pub(super) const TAX: u16 = 0x07;
pub(super) const TXA: u16 = 0x87;
pub(super) const RET_A: u16 = 0x16;
pub(super) const RET_K: u16 = 0x06;
/// X = 4 * (byte & 15): the length of an IPv4 header.
pub(super) const LDX_MSH: u16 = 0xb1;

/// A place to jump to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// An instruction whose jumps are labels; `None` falls through.
struct Line {
    code: u16,
    operand: u32,
    on_true: Option<Label>,
    on_false: Option<Label>,
}

/// Puts a program together.
#[derive(Default)]
pub struct Assembler {
    lines: Vec<Line>,
    /// For each label, the line it stands before.
    labels: Vec<Option<usize>>,
}

impl Assembler {
    /// A label without a place.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts a label before the next instruction.
    pub fn place(&mut self, label: Label) {
        let here = self.lines.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
    }

    /// An instruction that falls through.
    pub fn op(&mut self, code: u16, operand: u32) {
        self.lines.push(Line {
            code,
            operand,
            on_true: None,
            on_false: None,
        });
    }

    /// A comparison that jumps when it holds.
    pub fn jump_if(&mut self, code: u16, operand: u32, to: Label) {
        self.lines.push(Line {
            code,
            operand,
            on_true: Some(to),
            on_false: None,
        });
    }

    /// A comparison that jumps when it does not hold.
    pub fn jump_unless(&mut self, code: u16, operand: u32, to: Label) {
        self.lines.push(Line {
            code,
            operand,
            on_true: None,
            on_false: Some(to),
        });
    }

    /// Jumps whatever happens.
    pub fn jump(&mut self, to: Label) {
        self.jump_if(JA, 0, to);
    }

    fn distance(&self, from: usize, to: Option<Label>) -> u32 {
        let target = to.and_then(|label| self.labels.get(label.0).copied().flatten());
        target.map_or(0, |target| {
            u32::try_from(target.saturating_sub(from + 1)).unwrap_or(u32::MAX)
        })
    }

    /// The program.
    pub fn assemble(&self) -> Vec<Instruction> {
        let instruction = |(from, line): (usize, &Line)| {
            let (jump_true, jump_false) = (
                self.distance(from, line.on_true),
                self.distance(from, line.on_false),
            );
            if line.code == JA {
                return Instruction {
                    code: JA,
                    jump_true: 0,
                    jump_false: 0,
                    operand: jump_true,
                };
            }
            // Every conditional jump of this program is short; a test assembles all of them.
            let short = |distance: u32| u8::try_from(distance).unwrap_or(u8::MAX);
            Instruction {
                code: line.code,
                jump_true: short(jump_true),
                jump_false: short(jump_false),
                operand: line.operand,
            }
        };
        self.lines.iter().enumerate().map(instruction).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs a program over a packet as the kernel does (net/core/filter.c): a load past the end returns 0.
    pub fn interpret(program: &[Instruction], packet: &[u8]) -> u32 {
        interpret_as(program, 0x0800, packet)
    }

    /// The same where the kernel knows the packet's EtherType.
    pub fn interpret_as(program: &[Instruction], protocol: u16, packet: &[u8]) -> u32 {
        run(program, packet, &[(AD_PROTOCOL, u32::from(protocol))])
    }

    /// The same for an empty packet from an interface.
    pub fn interpret_on(program: &[Instruction], interface: u32) -> u32 {
        run(program, &[], &[(AD_INTERFACE, interface)])
    }

    fn run(program: &[Instruction], packet: &[u8], known: &[(u32, u32)]) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [0u32; 16], 0usize);
        let jumps = [JEQ_K, JSET_K];
        let is_jump = |(_, instruction): &(usize, &Instruction)| jumps.contains(&instruction.code);
        for (at, jump) in program.iter().enumerate().filter(is_jump) {
            let farthest = jump.jump_true.max(jump.jump_false);
            assert!(farthest < u8::MAX, "the jump at {at} is too long");
            assert!(at + 1 + usize::from(farthest) < program.len());
        }
        let load = |at: u32, len: usize| -> Option<u32> {
            if let Some((_, value)) = known.iter().find(|(place, _)| *place == at) {
                return Some(*value);
            }
            let bytes = packet.get(at as usize..)?.get(..len)?;
            Some(
                bytes
                    .iter()
                    .fold(0, |value, byte| (value << 8) | u32::from(*byte)),
            )
        };
        loop {
            let Instruction {
                code,
                jump_true,
                jump_false,
                operand: k,
            } = program[at];
            at += 1;
            let loaded = match code {
                LD_W_ABS => load(k, 4),
                LD_B_ABS => load(k, 1),
                LD_H_ABS => load(k, 2),
                LD_B_X => load(x.wrapping_add(k), 1),
                LD_H_X => load(x.wrapping_add(k), 2),
                LD_W_X => load(x.wrapping_add(k), 4),
                _ => Some(a),
            };
            let Some(loaded) = loaded else { return 0 };
            a = loaded;
            match code {
                LD_IMM => a = k,
                LDX_IMM => x = k,
                LD_MEM => a = memory[k as usize],
                LDX_MEM => x = memory[k as usize],
                ST => memory[k as usize] = a,
                STX => memory[k as usize] = x,
                ADD_K => a = a.wrapping_add(k),
                ADD_X => a = a.wrapping_add(x),
                MUL_K => a = a.wrapping_mul(k),
                AND_K => a &= k,
                LSH_K => a <<= k,
                RSH_K => a >>= k,
                MOD_K => a %= k,
                XOR_X => a ^= x,
                JA => at += k as usize,
                JEQ_K => at += usize::from(if a == k { jump_true } else { jump_false }),
                JSET_K => at += usize::from(if a & k != 0 { jump_true } else { jump_false }),
                TAX => x = a,
                TXA => a = x,
                RET_A => return a,
                RET_K => return k,
                LDX_MSH => {
                    let Some(first) = load(k, 1) else { return 0 };
                    x = (first & 0x0f) * 4;
                }
                LD_W_ABS | LD_B_ABS | LD_H_ABS | LD_B_X | LD_H_X | LD_W_X => {}
                _ => panic!("unknown operation {code:#x}"),
            }
        }
    }
}
