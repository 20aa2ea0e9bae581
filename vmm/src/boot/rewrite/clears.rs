//! Makes the rest of a kernel leave CR4.TSD alone.
//!
//! Linux clears it when it sets a CPU up, with VME, PVI and DE; it clears and toggles it for
//! processes that asked for RDTSC to fault or not to (`prctl(PR_SET_TSC)`):
//!
//! ```text
//! mov $0xf,%edi; call cr4_clear_bits                              (cpu_init)
//! xor %edi,%edi; mov $4,%esi; call cr4_update_irqsoff             (enable_TSC)
//! xor $4,%rdi; mov %rdi,%gs:...; call *pv_ops+write_cr4(%rip)     (__switch_to_xtra)
//! ```
//!
//! Such an operand loses bit 2 where the call that follows it soon reaches a load of CR4. Setting
//! TSD in this way is lost as well, which changes nothing: it is always set.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};

use super::follow::TSD;
use super::view::View;

/// The bits that Linux clears together: VME, PVI, TSD, DE (SDM vol. 3, section 2.5).
const AT_START: u8 = 0xf;
/// Instructions from the operand to the call, at most.
const TO_CALL: usize = 6;
/// Calls from there to the load of CR4, at most, and instructions looked at in each function.
const CALLS_MAX: usize = 3;
const PER_FUNCTION: usize = 40;

/// Takes TSD out of what the code at `range` of the file, linked for `address`, clears or toggles in
/// CR4. How many operands were changed.
pub fn leave_tsd(view: &mut View, range: std::ops::Range<usize>, address: u64) -> usize {
    let found: Vec<usize> = candidates(&view.file[range.clone()])
        .filter(|candidate| {
            let ip = address.wrapping_add(candidate.at as u64);
            next_call(view, ip).is_some_and(|callee| loads_cr4(view, callee, CALLS_MAX))
        })
        .map(|candidate| range.start + candidate.at + candidate.operand)
        .collect();
    for at in &found {
        view.file[*at] &= !(TSD as u8);
    }
    found.len()
}

/// An instruction that may be one to change: where it begins, and its operand's place in it.
struct Candidate {
    at: usize,
    operand: usize,
}

/// `mov $4 or $15, %edi or %esi`, and `xor $4` of any 64-bit register.
fn candidates(code: &[u8]) -> impl Iterator<Item = Candidate> + '_ {
    code.windows(5)
        .enumerate()
        .filter_map(|(at, bytes)| match bytes {
            [0xbe | 0xbf, 0x04 | AT_START, 0, 0, 0] => Some(Candidate { at, operand: 1 }),
            [0x48 | 0x49, 0x83, 0xf0..=0xf7, 0x04, _] => Some(Candidate { at, operand: 3 }),
            _ => None,
        })
}

/// Where the first call at or behind `ip` goes.
fn next_call(view: &View, mut ip: u64) -> Option<u64> {
    for _ in 0..TO_CALL {
        let instruction = decode(view, ip)?;
        match instruction.flow_control() {
            FlowControl::Next => ip = instruction.next_ip(),
            FlowControl::Call | FlowControl::IndirectCall | FlowControl::UnconditionalBranch => {
                return callee(view, &instruction);
            }
            _ => return None,
        }
    }
    None
}

fn callee(view: &View, instruction: &Instruction) -> Option<u64> {
    match instruction.flow_control() {
        FlowControl::IndirectCall | FlowControl::IndirectBranch => instruction
            .is_ip_rel_memory_operand()
            .then(|| view.u64_at(instruction.ip_rel_memory_address()))?,
        _ => Some(instruction.near_branch_target()),
    }
}

/// Whether a MOV to CR4 comes soon in the function at `ip`, or in one that it calls. Only forward
/// branches are followed.
fn loads_cr4(view: &View, ip: u64, calls: usize) -> bool {
    let mut waiting = vec![ip];
    let mut called = Vec::new();
    let mut steps = 0;
    let mut highest = ip;
    while let Some(mut ip) = waiting.pop() {
        while steps < PER_FUNCTION {
            steps += 1;
            let Some(instruction) = decode(view, ip) else {
                break;
            };
            if instruction.mnemonic() == Mnemonic::Mov
                && instruction.op0_register() == Register::CR4
            {
                return true;
            }
            highest = highest.max(ip);
            match instruction.flow_control() {
                FlowControl::Next => {}
                FlowControl::Call | FlowControl::IndirectCall => {
                    called.extend(callee(view, &instruction));
                }
                FlowControl::ConditionalBranch => {
                    let target = instruction.near_branch_target();
                    if target > highest {
                        waiting.push(target);
                    }
                }
                FlowControl::UnconditionalBranch if calls > 0 => {
                    // Within the function, or a tail call.
                    called.push(instruction.near_branch_target());
                    break;
                }
                _ => break,
            }
            ip = instruction.next_ip();
        }
    }
    calls > 0
        && called
            .into_iter()
            .any(|callee| loads_cr4(view, callee, calls - 1))
}

fn decode(view: &View, ip: u64) -> Option<Instruction> {
    let (_, bytes) = view.instruction_bytes(ip)?;
    let instruction = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}
