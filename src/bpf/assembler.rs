//! Classic BPF: its instructions, and an assembler with labels. Pure; the kernel runs the programs.
//!
//! What cannot be encoded is refused: a program is right or there is none.
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
pub(super) const JGT_K: u16 = 0x25;
pub(super) const JGE_K: u16 = 0x35;
pub(super) const JSET_K: u16 = 0x45;
pub(super) const TAX: u16 = 0x07;
pub(super) const TXA: u16 = 0x87;
pub(super) const RET_A: u16 = 0x16;
pub(crate) const RET_K: u16 = 0x06;
/// X = 4 * (byte & 15): the length of an IPv4 header.
pub(super) const LDX_MSH: u16 = 0xb1;

/// Most instructions of a program: `BPF_MAXINSNS` of linux/bpf_common.h.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Scratch cells: `BPF_MEMWORDS` of linux/filter.h.
const SCRATCH_CELLS: u32 = 16;

/// Why lines are no program. Lines count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ProgramError {
    #[error("a program for the kernel has {len} instructions, and {MAX_INSTRUCTIONS} are the most")]
    TooLong { len: usize },
    #[error("line {line} of a program for the kernel jumps to a label that has no place")]
    Unplaced { line: usize },
    #[error("line {line} of a program for the kernel jumps backwards")]
    Backwards { line: usize },
    #[error("a program for the kernel does not end with a verdict")]
    NoEnd,
    #[error(
        "line {line} of a program for the kernel has the operand {operand}, which the kernel refuses"
    )]
    Operand { line: usize, operand: u32 },
}

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

    /// The program.
    ///
    /// A comparison reaches 255 instructions far. Behind one whose label is farther stands a plain jump,
    /// which reaches any.
    ///
    /// # Errors
    ///
    /// [`ProgramError`], when this is no program the kernel can run (`bpf_check_classic` in net/core/filter.c).
    pub fn assemble(&self) -> Result<Vec<Instruction>, ProgramError> {
        let (far, places) = self.lay_out()?;
        let mut program = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            line.check(at)?;
            let target = match line.on_true.or(line.on_false) {
                None => None,
                Some(label) => Some(self.target(at, label, &places)?),
            };
            let here = program.len();
            let distance = |from: usize| {
                let target = target.unwrap_or(from);
                // `target` found that the label stands behind this line.
                u32::try_from(target.saturating_sub(from)).unwrap_or(u32::MAX)
            };
            let plain = |code, operand| Instruction {
                code,
                jump_true: 0,
                jump_false: 0,
                operand,
            };
            if line.code == JA {
                program.push(plain(JA, distance(here + 1)));
                continue;
            }
            let is_far = far.get(at) == Some(&true);
            let to_label = match is_far {
                // Past the jump behind it is one instruction, to that jump none.
                true => 0,
                false => u8::try_from(distance(here + 1)).unwrap_or(u8::MAX),
            };
            let past = u8::from(is_far);
            program.push(Instruction {
                jump_true: if line.on_true.is_some() {
                    to_label
                } else {
                    past
                },
                jump_false: if line.on_false.is_some() {
                    to_label
                } else {
                    past
                },
                ..plain(line.code, line.operand)
            });
            if is_far {
                program.push(plain(JA, distance(here + 2)));
            }
        }
        if program.len() > MAX_INSTRUCTIONS {
            return Err(ProgramError::TooLong { len: program.len() });
        }
        match program.last() {
            Some(last) if matches!(last.code, RET_A | RET_K) => Ok(program),
            _ => Err(ProgramError::NoEnd),
        }
    }

    /// Which lines need a jump behind them, and where each line will stand.
    fn lay_out(&self) -> Result<(Vec<bool>, Vec<usize>), ProgramError> {
        let mut far = vec![false; self.lines.len()];
        loop {
            let mut next = 0;
            let places: Vec<usize> = far
                .iter()
                .map(|far| {
                    let here = next;
                    next += 1 + usize::from(*far);
                    here
                })
                .collect();
            let mut is_done = true;
            for (at, line) in self.lines.iter().enumerate() {
                let Some(label) = line.on_true.or(line.on_false).filter(|_| line.code != JA) else {
                    continue;
                };
                let target = self.target(at, label, &places)?;
                let from = places.get(at).map_or(0, |place| place + 1);
                if let Some(far) = far.get_mut(at).filter(|far| !**far)
                    && target.saturating_sub(from) > usize::from(u8::MAX)
                {
                    *far = true;
                    is_done = false;
                }
            }
            if is_done {
                return Ok((far, places));
            }
        }
    }

    /// The place of the instruction that line `from` jumps to.
    fn target(&self, from: usize, label: Label, places: &[usize]) -> Result<usize, ProgramError> {
        let line = self.labels.get(label.0).copied().flatten();
        let line = line.ok_or(ProgramError::Unplaced { line: from })?;
        if line <= from {
            return Err(ProgramError::Backwards { line: from });
        }
        places.get(line).copied().ok_or(ProgramError::NoEnd)
    }
}

impl Line {
    /// Whether the kernel takes the operand.
    fn check(&self, line: usize) -> Result<(), ProgramError> {
        let is_fine = match self.code {
            ST | STX | LD_MEM | LDX_MEM => self.operand < SCRATCH_CELLS,
            LSH_K | RSH_K => self.operand < u32::BITS,
            MOD_K => self.operand != 0,
            _ => true,
        };
        match is_fine {
            true => Ok(()),
            false => Err(ProgramError::Operand {
                line,
                operand: self.operand,
            }),
        }
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
        let jumps = [JEQ_K, JGT_K, JGE_K, JSET_K];
        let is_jump = |(_, instruction): &(usize, &Instruction)| jumps.contains(&instruction.code);
        for (at, jump) in program.iter().enumerate().filter(is_jump) {
            let farthest = jump.jump_true.max(jump.jump_false);
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
                JGT_K => at += usize::from(if a > k { jump_true } else { jump_false }),
                JGE_K => at += usize::from(if a >= k { jump_true } else { jump_false }),
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

    /// A comparison with `between` instructions in front of its label, then `RET 1` without the jump and
    /// `RET 2` with it. The second comparison crosses the first one's label.
    fn with_distance(between: usize, unless: bool) -> Vec<Instruction> {
        let mut asm = Assembler::default();
        let (first, second) = (asm.label(), asm.label());
        asm.op(LD_B_ABS, 0);
        match unless {
            true => asm.jump_unless(JEQ_K, 7, first),
            false => asm.jump_if(JEQ_K, 7, first),
        }
        asm.jump_if(JEQ_K, 9, second);
        for _ in 2..between {
            asm.op(ADD_K, 0);
        }
        asm.op(RET_K, 1);
        asm.place(first);
        asm.jump_if(JEQ_K, 9, second);
        for _ in 0..between {
            asm.op(ADD_K, 0);
        }
        asm.op(RET_K, 2);
        asm.place(second);
        asm.op(RET_K, 3);
        asm.assemble().unwrap()
    }

    /// Jumps of any length lead where they are meant to, at the limit of what a comparison reaches too.
    #[test]
    fn long_jumps_go_where_they_are_meant_to() {
        for between in [2, 3, 128, 253, 254, 255, 256, 257, 300, 700, 2000] {
            let jumps = with_distance(between, false);
            for (byte, verdict) in [(7, 2), (9, 3), (8, 1)] {
                assert_eq!(interpret(&jumps, &[byte]), verdict, "{between}, {byte}");
            }
            let jumps = with_distance(between, true);
            for (byte, verdict) in [(7, 1), (9, 3), (8, 2)] {
                assert_eq!(
                    interpret(&jumps, &[byte]),
                    verdict,
                    "unless, {between}, {byte}"
                );
            }
        }
        assert_eq!(
            with_distance(3, false).len(),
            11,
            "no jump where none is needed"
        );
    }

    #[test]
    fn what_cannot_be_encoded_is_refused() {
        let assemble = |write: &dyn Fn(&mut Assembler)| {
            let mut asm = Assembler::default();
            write(&mut asm);
            asm.assemble()
        };
        let unplaced = assemble(&|asm| {
            let label = asm.label();
            asm.jump_if(JEQ_K, 1, label);
            asm.op(RET_K, 0);
        });
        assert_eq!(unplaced, Err(ProgramError::Unplaced { line: 0 }));
        let unplaced = assemble(&|asm| {
            let label = asm.label();
            asm.op(LD_IMM, 0);
            asm.jump(label);
        });
        assert_eq!(unplaced, Err(ProgramError::Unplaced { line: 1 }));
        let backwards = assemble(&|asm| {
            let label = asm.label();
            asm.place(label);
            asm.op(LD_IMM, 0);
            asm.jump_unless(JEQ_K, 1, label);
            asm.op(RET_K, 0);
        });
        assert_eq!(backwards, Err(ProgramError::Backwards { line: 1 }));
        let past_the_end = assemble(&|asm| {
            let label = asm.label();
            asm.jump(label);
            asm.op(RET_K, 0);
            asm.place(label);
        });
        assert_eq!(past_the_end, Err(ProgramError::NoEnd));
        assert_eq!(assemble(&|_| {}), Err(ProgramError::NoEnd));
        assert_eq!(assemble(&|asm| asm.op(LD_IMM, 0)), Err(ProgramError::NoEnd));
        for (code, operand) in [(ST, 16), (LD_MEM, 99), (LSH_K, 32), (RSH_K, 40), (MOD_K, 0)] {
            let refused = assemble(&|asm| {
                asm.op(code, operand);
                asm.op(RET_K, 0);
            });
            assert_eq!(refused, Err(ProgramError::Operand { line: 0, operand }));
        }
        let of_len = |len: usize| {
            assemble(&|asm| {
                for _ in 1..len {
                    asm.op(LD_IMM, 0);
                }
                asm.op(RET_A, 0);
            })
        };
        assert!(of_len(MAX_INSTRUCTIONS).is_ok());
        let len = MAX_INSTRUCTIONS + 1;
        assert_eq!(of_len(len), Err(ProgramError::TooLong { len }));
    }
}
