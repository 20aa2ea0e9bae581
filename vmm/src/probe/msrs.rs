//! Whether accesses to the MSRs that must not reach the host exit, and those of the machine's APIC.

use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{EXCEPTION_PORT, Level, Scratch};
use crate::cpu_model::msr::CLOSED;
use crate::error::VmmError;
use crate::kvm::Exit;

/// `rdmsr; out %al, $0x81; hlt`.
const READ: [u8; 5] = [0x0f, 0x32, 0xe6, 0x81, 0xf4];
const X2APIC_VERSION: u32 = 0x803;
/// No CPU has it.
const UNKNOWN: u32 = 0x0dea_d000;
const GP: u8 = 13;

/// Reads the first MSR of each range that is closed.
pub fn filter(kvm: &Kvm) -> Result<Finding, VmmError> {
    let mut open = Vec::new();
    let mut scratch = Scratch::new(kvm, Level::Kernel, &READ)?;
    for range in CLOSED {
        let exit = read(&mut scratch, range.first)?;
        if exit != (Exit::ReadMsr { index: range.first }) {
            open.push(range.name);
            continue;
        }
        scratch.vcpu.answer_msr(Some(0x1122_3344_5566_7788));
        let exit = scratch.run()?;
        let regs = scratch.vcpu.regs();
        if !matches!(exit, Exit::PortOut { port: 0x81, .. })
            || (regs.rdx, regs.rax) != (0x1122_3344, 0x5566_7788)
        {
            return Ok(Finding::no(format!(
                "the value given for {} did not arrive: {}",
                range.name,
                scratch.describe(exit)
            )));
        }
    }
    if open.is_empty() {
        return Ok(Finding::yes(format!(
            "all {} closed ranges exit",
            CLOSED.len()
        )));
    }
    Ok(Finding::no(format!(
        "these reach the host: {}",
        open.join(", ")
    )))
}

/// Reads an x2APIC MSR, and one that no CPU has and that is answered with a fault.
pub fn user_space(kvm: &Kvm) -> Result<Finding, VmmError> {
    let mut scratch = Scratch::new(kvm, Level::Kernel, &READ)?;
    for index in [X2APIC_VERSION, UNKNOWN] {
        let exit = read(&mut scratch, index)?;
        if exit != (Exit::ReadMsr { index }) {
            return Ok(Finding::no(format!(
                "reading MSR {index:#x}: {}",
                scratch.describe(exit)
            )));
        }
    }
    scratch.vcpu.answer_msr(None);
    let exit = scratch.run()?;
    let raised = matches!(
        exit,
        Exit::PortOut {
            port: EXCEPTION_PORT,
            ..
        }
    ) && scratch.out_byte() == GP;
    Ok(if raised {
        Finding::yes("x2APIC and unknown MSRs exit, and can be answered with #GP")
    } else {
        Finding::no(format!(
            "an access that was refused raised no #GP: {}",
            scratch.describe(exit)
        ))
    })
}

fn read(scratch: &mut Scratch, index: u32) -> Result<Exit, VmmError> {
    scratch.restart(&READ)?;
    let mut regs = scratch.vcpu.regs();
    regs.rcx = u64::from(index);
    scratch.vcpu.set_regs(regs);
    scratch.run()
}
