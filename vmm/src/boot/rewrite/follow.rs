//! Follows start-up code and watches one bit: does a value without CR4.TSD reach CR4?
//!
//! An abstract interpreter over the instructions that kernels use to make the value of CR4. What it
//! does not know makes every register unknown, so that it errs on the side of an alarm.

use std::collections::HashSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::view::View;

/// CR4.TSD (SDM vol. 3, section 2.5).
pub const TSD: u64 = 1 << 2;
/// The same bit's number.
const TSD_BIT: u64 = 2;
/// Instructions followed at most; a start-up path has about a hundred.
const STEPS_MAX: usize = 4096;

/// How the followed code treats CR4.TSD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It loads CR4 at least once, and always with TSD.
    Kept,
    /// It loads CR4 with a value that lacks TSD, or may. With the place in the file of the
    /// immediate operand that could have set it, if there is one.
    Clears(Option<usize>),
    /// No load of CR4 was found.
    NoLoad,
}

/// What is known about bit 2 of a register, and which immediate operand decided it last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Bit {
    value: Option<bool>,
    immediate: Option<usize>,
}

impl Bit {
    fn known(value: bool, immediate: Option<usize>) -> Self {
        Self {
            value: Some(value),
            immediate,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self.value, other.value) {
            (Some(true), _) => other,
            (_, Some(true)) => self,
            // A 0 decides. If both are, the operand that can be changed is the one to name.
            (Some(false), _) if self.immediate.is_some() => self,
            (_, Some(false)) => other,
            _ => Self::default(),
        }
    }

    fn or(self, other: Self) -> Self {
        match (self.value, other.value) {
            (Some(true), _) => self,
            (_, Some(true)) => other,
            // Setting the bit in either operand would do; the later one is surest.
            (_, Some(false)) if other.immediate.is_some() => Self {
                value: self.value,
                immediate: other.immediate,
            },
            (value, Some(false)) => Self { value, ..self },
            _ => Self::default(),
        }
    }

    fn xor(self, other: Self) -> Self {
        match (self.value, other.value) {
            (_, Some(false)) => self,
            (Some(a), Some(b)) => Self::known(a != b, None),
            _ => Self::default(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    ip: u64,
    registers: [Bit; 16],
    cr4: Bit,
    /// Where a far return goes that comes next: the operand of an LEA whose result was pushed.
    pushed: Option<u64>,
}

/// Follows the code at the linked address `entry`, which is entered with CR4.TSD set.
pub fn follow(view: &View, entry: u64) -> Outcome {
    let mut waiting = vec![State {
        ip: entry,
        registers: [Bit::default(); 16],
        cr4: Bit::known(true, None),
        pushed: None,
    }];
    let mut seen = HashSet::new();
    let mut loads = 0;
    while let Some(mut state) = waiting.pop() {
        while seen.len() < STEPS_MAX && seen.insert(state.clone()) {
            let Some((instruction, immediate)) = decode(view, state.ip) else {
                break;
            };
            state.execute(&instruction, immediate);
            if let Some(value) = loaded_into_cr4(&instruction, &state) {
                if value.value != Some(true) {
                    return Outcome::Clears(value.immediate);
                }
                loads += 1;
            }
            match next(view, &instruction, &state) {
                Next::At(ip) => state.ip = ip,
                Next::Either(ip, other) => {
                    waiting.push(State {
                        ip: other,
                        ..state.clone()
                    });
                    state.ip = ip;
                }
                Next::Lost => break,
            }
        }
    }
    if loads > 0 {
        Outcome::Kept
    } else {
        Outcome::NoLoad
    }
}

/// Decodes one instruction; with the place in the file of its immediate operand.
fn decode(view: &View, ip: u64) -> Option<(Instruction, Option<usize>)> {
    let (at, bytes) = view.instruction_bytes(ip)?;
    let mut decoder = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let offsets = decoder.get_constant_offsets(&instruction);
    let immediate = offsets
        .has_immediate()
        .then(|| at + offsets.immediate_offset());
    Some((instruction, immediate))
}

enum Next {
    At(u64),
    Either(u64, u64),
    Lost,
}

fn next(view: &View, instruction: &Instruction, state: &State) -> Next {
    let lost_or = |ip: Option<u64>| ip.map_or(Next::Lost, Next::At);
    match instruction.flow_control() {
        FlowControl::Next if instruction.mnemonic() == Mnemonic::Hlt => Next::Lost,
        FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {
            Next::At(instruction.next_ip())
        }
        FlowControl::ConditionalBranch => {
            Next::Either(instruction.next_ip(), instruction.near_branch_target())
        }
        FlowControl::UnconditionalBranch => Next::At(instruction.near_branch_target()),
        FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
            lost_or(view.u64_at(instruction.ip_rel_memory_address()))
        }
        FlowControl::Return if instruction.mnemonic() == Mnemonic::Retf => lost_or(state.pushed),
        _ => Next::Lost,
    }
}

/// The value that `instruction` loads into CR4, if it does that.
fn loaded_into_cr4(instruction: &Instruction, state: &State) -> Option<Bit> {
    let loads = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == Register::CR4;
    loads.then_some(state.cr4)
}

impl State {
    fn execute(&mut self, instruction: &Instruction, immediate: Option<usize>) {
        let mnemonic = instruction.mnemonic();
        let pushed = self.pushed.take();
        match mnemonic {
            Mnemonic::Mov if instruction.op0_register() == Register::CR4 => {
                self.cr4 = self.read(instruction, 1, immediate);
            }
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Register => {
                let value = self.read(instruction, 1, immediate);
                self.write(instruction, value);
            }
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor
                if instruction.op0_kind() == OpKind::Register =>
            {
                let value = self.combine(instruction, immediate);
                self.write(instruction, value);
            }
            Mnemonic::Bts | Mnemonic::Btr
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op1_kind() == OpKind::Immediate8 =>
            {
                if instruction.immediate(1) & 63 == TSD_BIT {
                    self.write(instruction, Bit::known(mnemonic == Mnemonic::Bts, None));
                }
            }
            Mnemonic::Lea => {
                if instruction.is_ip_rel_memory_operand() {
                    self.pushed = Some(instruction.ip_rel_memory_address());
                }
                self.write(instruction, Bit::default());
            }
            Mnemonic::Push | Mnemonic::Retf => self.pushed = pushed,
            Mnemonic::Pop | Mnemonic::Add | Mnemonic::Sub | Mnemonic::Shr | Mnemonic::Shl => {
                self.write(instruction, Bit::default());
            }
            // These write no general register.
            Mnemonic::Mov
            | Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Bts
            | Mnemonic::Btr
            | Mnemonic::Bt
            | Mnemonic::Test
            | Mnemonic::Cmp
            | Mnemonic::Nop
            | Mnemonic::Endbr64
            | Mnemonic::Wrmsr
            | Mnemonic::Lgdt
            | Mnemonic::Lidt
            | Mnemonic::Cli
            | Mnemonic::Cld
            | Mnemonic::Popfq => {}
            _ if instruction.flow_control() == FlowControl::ConditionalBranch => {}
            _ if instruction.flow_control() == FlowControl::UnconditionalBranch => {}
            // Calls, and whatever is not known here.
            _ => self.registers = [Bit::default(); 16],
        }
    }

    fn combine(&self, instruction: &Instruction, immediate: Option<usize>) -> Bit {
        let same = instruction.op1_kind() == OpKind::Register
            && instruction.op0_register() == instruction.op1_register();
        let old = self.read(instruction, 0, immediate);
        let operand = self.read(instruction, 1, immediate);
        match instruction.mnemonic() {
            Mnemonic::Xor if same => Bit::known(false, None),
            Mnemonic::Xor => old.xor(operand),
            Mnemonic::And => old.and(operand),
            _ => old.or(operand),
        }
    }

    /// Bit 2 of an operand.
    fn read(&self, instruction: &Instruction, operand: u32, immediate: Option<usize>) -> Bit {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                match (register, index(register)) {
                    (Register::CR4, _) => self.cr4,
                    (_, Some(index)) => self.registers[index],
                    _ => Bit::default(),
                }
            }
            OpKind::Memory => Bit::default(),
            _ => {
                let value = instruction.try_immediate(operand).ok();
                Bit {
                    value: value.map(|value| value & TSD != 0),
                    immediate,
                }
            }
        }
    }

    /// Writes an instruction's first operand. A part of a register makes all of it unknown.
    fn write(&mut self, instruction: &Instruction, value: Bit) {
        if instruction.op0_kind() != OpKind::Register {
            return;
        }
        let register = instruction.op0_register();
        if let Some(index) = index(register) {
            self.registers[index] = if register.size() >= 4 {
                value
            } else {
                Bit::default()
            };
        }
    }
}

fn index(register: Register) -> Option<usize> {
    register
        .is_gpr()
        .then(|| register.full_register() as usize - Register::RAX as usize)
}
