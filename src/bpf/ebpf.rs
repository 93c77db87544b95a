//! eBPF: its instructions, and a program being written, with jumps that do not know yet how far they go. Pure.

/// One instruction, `struct bpf_insn` of linux/bpf.h (RFC 9669 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub(super) code: u8,
    /// Destination in the lower half, source in the upper one; the other way round on big-endian machines.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

impl Instruction {
    /// An instruction from register to register.
    pub(super) const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        let registers = if cfg!(target_endian = "little") {
            to | from << 4
        } else {
            to << 4 | from
        };
        Self {
            code,
            registers,
            offset,
            immediate,
        }
    }
}

const JUMP: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const SET: u8 = 0xb4;
/// Loads 64 bits that follow in two instructions; with this source they are a map's descriptor.
const LOAD_64: u8 = 0x18;
const OF_MAP: u8 = 1;

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program being written.
#[derive(Default)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
    /// Where each label stands.
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Program {
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts a label before the next instruction.
    pub fn place(&mut self, label: Label) {
        let here = self.instructions.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
    }

    pub fn op(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        let instruction = Instruction::new(code, to, from, offset, immediate);
        self.instructions.push(instruction);
    }

    /// Jumps if the comparison of a register with a number holds.
    pub fn jump_if(&mut self, code: u8, register: u8, number: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.op(code, register, 0, 0, number);
    }

    /// Jumps if the comparison of two registers holds.
    pub fn jump_if_same(&mut self, code: u8, left: u8, right: u8, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.op(code, left, right, 0, 0);
    }

    pub fn jump(&mut self, to: Label) {
        self.jump_if(JUMP, 0, 0, to);
    }

    pub fn call(&mut self, helper: i32) {
        self.op(CALL, 0, 0, 0, helper);
    }

    /// Loads a map, by its descriptor.
    pub fn map(&mut self, register: u8, descriptor: i32) {
        self.op(LOAD_64, register, OF_MAP, 0, descriptor);
        self.op(0, 0, 0, 0, 0);
    }

    pub fn end(&mut self, verdict: i32) {
        self.op(SET, 0, 0, 0, verdict);
        self.op(EXIT, 0, 0, 0, 0);
    }

    /// The program; `None` where a label has no place, or a jump leads backwards or farther than it can say.
    pub fn assemble(mut self) -> Option<Vec<Instruction>> {
        for (at, label) in self.jumps {
            let place = self.labels.get(label.0).copied().flatten()?;
            let distance = place.checked_sub(at + 1)?;
            self.instructions.get_mut(at)?.offset = i16::try_from(distance).ok()?;
        }
        Some(self.instructions)
    }
}
