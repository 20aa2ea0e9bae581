//! Whether a vCPU's state, taken in the middle of a computation, goes on in another one as if nothing had
//! happened: what a live clone rests on.

use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{DATA, Level, Scratch};
use crate::cpu_state::{CpuState, RunState};
use crate::error::VmmError;
use crate::kvm::Exit;

/// Two rounds of a generator whose state is in RBX, XMM3, MXCSR and memory, with an exit between them.
const CODE: [u8; 66] = [
    0x0f, 0xae, 0x14, 0x25, 0x00, 0x80, 0x18, 0x00, // ldmxcsr 0x188000
    0xbb, 0x78, 0x56, 0x34, 0x12, // mov $0x12345678, %ebx
    0x66, 0x48, 0x0f, 0x6e, 0xdb, // movq %rbx, %xmm3
    0xbd, 0x02, 0x00, 0x00, 0x00, // mov $2, %ebp
    0xb9, 0xe8, 0x03, 0x00, 0x00, // 1: mov $1000, %ecx
    0x48, 0x69, 0xdb, 0x0d, 0x66, 0x19, 0x00, // 2: imul $1664525, %rbx, %rbx
    0x48, 0x81, 0xc3, 0x5f, 0xf3, 0x6e, 0x3c, // add $1013904223, %rbx
    0x48, 0x89, 0x1c, 0xcd, 0x00, 0x00, 0x18, 0x00, // mov %rbx, 0x180000(,%rcx,8)
    0xff, 0xc9, // dec %ecx
    0x75, 0xe6, // jnz 2b
    0x66, 0x48, 0x0f, 0x7e, 0xd8, // movq %xmm3, %rax
    0xe6, 0x81, // out %al, $0x81
    0xff, 0xcd, // dec %ebp
    0x75, 0xd6, // jnz 1b
    0xf4, // hlt
];
/// Round towards zero; exceptions masked.
const MXCSR: u32 = 0x7f80;
const MXCSR_AT: u64 = DATA + 0x8000;
const RESULT: u64 = DATA + 8;

/// Moves a state between two machines and compares the ends.
pub fn state(kvm: &Kvm) -> Result<Finding, VmmError> {
    let mut from = Scratch::new(kvm, Level::User, &CODE)?;
    from.put(MXCSR_AT, &MXCSR.to_le_bytes())?;
    let exit = from.run()?;
    if !matches!(exit, Exit::PortOut { port: 0x81, .. }) {
        return Ok(Finding::no(from.describe(exit)));
    }
    from.vcpu.settle()?;
    let state = CpuState::save(&from.vcpu, RunState::default())?.encode()?;

    let mut to = Scratch::new(kvm, Level::Kernel, &CODE)?;
    to.vcpu.settle()?;
    CpuState::decode(&state)?.load(&mut to.vcpu)?;
    to.vcpu.settle()?;

    for side in [&mut from, &mut to] {
        let exit = side.run()?;
        if !matches!(exit, Exit::PortOut { port: 0x81, .. }) {
            return Ok(Finding::no(side.describe(exit)));
        }
        side.vcpu.settle()?;
    }
    let saved = |side: &Scratch| CpuState::save(&side.vcpu, RunState::default());
    let memory: [[u8; 8]; 2] = [from.get(RESULT), to.get(RESULT)];
    if memory[0] != memory[1] || saved(&from)? != saved(&to)? {
        return Ok(Finding::no("the copy went on differently"));
    }
    Ok(Finding::yes("a copy goes on as the original does"))
}
