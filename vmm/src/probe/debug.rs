//! Single steps and breakpoints.

use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{CODE, EXCEPTION_PORT, Level, STUB_BYTES, STUBS, Scratch};
use crate::error::VmmError;
use crate::kvm::{BREAKPOINTS, Exit};

/// Eight NOPs; `out %al, $0x81; hlt`.
const NOPS: [u8; 11] = [
    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xe6, 0x81, 0xf4,
];

/// Whether single steps stop behind each instruction of the guest's kernel, and show there when it can take
/// an interrupt.
pub fn steps_kernel(kvm: &Kvm) -> Result<Finding, VmmError> {
    let finding = steps(kvm, Level::Kernel)?;
    if !finding.ok {
        return Ok(finding);
    }
    Ok(window_between_steps(kvm)?.unwrap_or(finding))
}

/// Whether single steps stop behind each instruction of the guest's user code, and breakpoints where its kernel
/// is entered.
pub fn steps_user(kvm: &Kvm) -> Result<Finding, VmmError> {
    let finding = steps(kvm, Level::User)?;
    if !finding.ok {
        return Ok(finding);
    }
    let entry = STUBS + 0x20 * STUB_BYTES;
    let mut scratch = Scratch::new(kvm, Level::User, &[0xcd, 0x20])?;
    scratch.vcpu.single_step([None, None, None, Some(entry)])?;
    let exit = scratch.run()?;
    Ok(match exit {
        Exit::Debug { pc, .. } if pc == entry => finding,
        Exit::PortOut {
            port: EXCEPTION_PORT,
            ..
        } => Finding::no("the guest runs past a breakpoint where its kernel is entered"),
        exit => Finding::no(format!("behind INT 20h: {}", scratch.describe(exit))),
    })
}

fn steps(kvm: &Kvm, level: Level) -> Result<Finding, VmmError> {
    let mut scratch = Scratch::new(kvm, level, &NOPS)?;
    scratch.vcpu.single_step([None; 4])?;
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

/// `sti; nop; nop; cli; nop`.
const OPENING: [u8; 5] = [0xfb, 0x90, 0x90, 0xfa, 0x90];
/// How many of them are done when it can take an interrupt. (Behind the first it can't, but that need not show,
/// and the first step may be two instructions.)
const OPEN: std::ops::Range<u64> = 2..4;

/// What is wrong with the window as it shows between single steps.
fn window_between_steps(kvm: &Kvm) -> Result<Option<Finding>, VmmError> {
    let mut scratch = Scratch::new(kvm, Level::Kernel, &OPENING)?;
    let mut done = 0;
    while done < OPENING.len() as u64 {
        scratch.vcpu.single_step([None; 4])?;
        let exit = scratch.run()?;
        if !exit.is_step() {
            return Ok(Some(Finding::no(scratch.describe(exit))));
        }
        let came_from = done;
        done = scratch.vcpu.regs().rip.wrapping_sub(CODE);
        if done <= came_from || done > came_from + 1 + u64::from(came_from == 0) {
            return Ok(Some(Finding::no(format!(
                "a step went from {came_from} to {done} of STI, NOP, NOP, CLI, NOP"
            ))));
        }
        let open = OPEN.contains(&done);
        if done > 1 && scratch.vcpu.ready_for_interrupt() != open {
            let (should, does) = if open {
                ("can", "can't")
            } else {
                ("can't", "can")
            };
            return Ok(Some(Finding::no(format!(
                "behind {done} of STI, NOP, NOP, CLI, NOP the guest {should} take an interrupt, but it shows \
                 that it {does}"
            ))));
        }
    }
    Ok(None)
}

/// Whether each of the hardware breakpoints stops the guest's kernel, and lets it go on.
pub fn hardware_breakpoint(kvm: &Kvm) -> Result<Finding, VmmError> {
    let mut scratch = Scratch::new(kvm, Level::Kernel, &NOPS)?;
    let places: [u64; BREAKPOINTS] = std::array::from_fn(|slot| CODE + 1 + slot as u64);
    scratch.vcpu.debug(places.map(Some))?;
    let mut last = None;
    for at in places {
        match scratch.run()? {
            Exit::Debug { pc, .. } if pc == at => {}
            Exit::Debug { pc, .. } if last == Some(pc) => {
                return Ok(Finding::no(
                    "stops at the instruction, but does not let it run afterwards (RFLAGS.RF)",
                ));
            }
            Exit::PortOut { port: 0x81, .. } => {
                return Ok(Finding::no("the guest ran past it"));
            }
            exit => return Ok(Finding::no(scratch.describe(exit))),
        }
        last = Some(at);
        scratch.vcpu.step_over();
    }
    let exit = scratch.run()?;
    Ok(match exit {
        Exit::PortOut { port: 0x81, .. } => {
            Finding::yes("each of four stops at its instruction, which then runs")
        }
        exit => Finding::no(format!("behind it: {}", scratch.describe(exit))),
    })
}
