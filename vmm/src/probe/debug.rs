//! Single steps and a breakpoint.

use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{CODE, EXCEPTION_PORT, Level, Scratch};
use crate::error::VmmError;
use crate::kvm::Exit;

/// Eight NOPs; `out %al, $0x81; hlt`.
const NOPS: [u8; 11] = [
    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xe6, 0x81, 0xf4,
];

/// Whether single steps stop behind each instruction of the guest's kernel.
pub fn steps_kernel(kvm: &Kvm) -> Result<Finding, VmmError> {
    steps(kvm, Level::Kernel)
}

/// Whether single steps stop behind each instruction of the guest's user code.
pub fn steps_user(kvm: &Kvm) -> Result<Finding, VmmError> {
    steps(kvm, Level::User)
}

fn steps(kvm: &Kvm, level: Level) -> Result<Finding, VmmError> {
    let mut scratch = Scratch::new(kvm, level, &NOPS)?;
    scratch.vcpu.single_step()?;
    for done in 1..=8 {
        match scratch.run()? {
            Exit::Debug { pc, .. } if pc == CODE + done => {}
            Exit::Debug { pc, .. } if (CODE..CODE + NOPS.len() as u64).contains(&pc) => {
                return Ok(Finding::no(format!(
                    "step {done} ended {} instructions on",
                    pc - CODE
                )));
            }
            // The guest's handler of #DB runs.
            Exit::Debug { .. }
            | Exit::PortOut {
                port: EXCEPTION_PORT,
                ..
            } => return Ok(Finding::no("the guest gets the #DB that is meant for ftd")),
            exit => return Ok(Finding::no(scratch.describe(exit))),
        }
    }
    Ok(Finding::yes("each step is one instruction"))
}

/// Whether a hardware breakpoint stops the guest's kernel, and lets it go on.
pub fn hardware_breakpoint(kvm: &Kvm) -> Result<Finding, VmmError> {
    let mut scratch = Scratch::new(kvm, Level::Kernel, &NOPS)?;
    let at = CODE + 4;
    scratch.vcpu.debug([Some(at), None])?;
    let exit = scratch.run()?;
    match exit {
        Exit::Debug { pc, .. } if pc == at => {}
        Exit::PortOut { port: 0x81, .. } => {
            return Ok(Finding::no("the guest ran past it"));
        }
        exit => return Ok(Finding::no(scratch.describe(exit))),
    }
    scratch.vcpu.step_over();
    let exit = scratch.run()?;
    Ok(match exit {
        Exit::PortOut { port: 0x81, .. } => {
            Finding::yes("stops at the instruction, which then runs")
        }
        Exit::Debug { pc, .. } if pc == at => {
            Finding::no("stops at the instruction, but does not let it run afterwards (RFLAGS.RF)")
        }
        exit => Finding::no(format!("behind it: {}", scratch.describe(exit))),
    })
}
