//! Stopping a guest that makes no exit, and finishing an access without running on: the two steps
//! that a snapshot anywhere begins with.

use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{CODE, Level, Scratch};
use crate::error::VmmError;
use crate::kvm::Exit;

/// `jmp` to itself.
const SPIN: [u8; 2] = [0xeb, 0xfe];
const AFTER: Duration = Duration::from_millis(5);
const TRIES: u32 = 3;

/// Whether a signal stops a spinning guest, in its kernel and in its user code.
pub fn kick(kvm: &Kvm) -> Result<Finding, VmmError> {
    let mut latest = Duration::ZERO;
    for level in [Level::Kernel, Level::User] {
        let mut scratch = Scratch::new(kvm, level, &SPIN)?;
        for _ in 0..TRIES {
            let start = Instant::now();
            let exit = scratch.run_for(AFTER)?;
            if exit != Exit::Interrupted {
                return Ok(Finding::no(scratch.describe(exit)));
            }
            let rip = scratch.vcpu.regs().rip;
            if rip != CODE {
                return Ok(Finding::no(format!(
                    "the guest spins at {CODE:#x}, but its RIP reads {rip:#x}"
                )));
            }
            latest = latest.max(start.elapsed().saturating_sub(AFTER));
        }
    }
    Ok(Finding::yes(format!(
        "a signal stops a spinning guest within {:.1} ms",
        latest.as_secs_f64() * 1e3
    )))
}

/// Whether the result of an IN reaches its register without another instruction being run.
pub fn settle(kvm: &Kvm) -> Result<Finding, VmmError> {
    // in $0x84, %eax; inc %ebx; hlt
    let mut scratch = Scratch::new(kvm, Level::Kernel, &[0xe5, 0x84, 0xff, 0xc3, 0xf4])?;
    let exit = scratch.run()?;
    if !matches!(exit, Exit::PortIn { port: 0x84, .. }) {
        return Ok(Finding::no(scratch.describe(exit)));
    }
    scratch
        .vcpu
        .port_data()
        .copy_from_slice(&0x1234_5678_u32.to_le_bytes());
    scratch.vcpu.settle()?;
    let regs = scratch.vcpu.regs();
    if (regs.rax, regs.rip, regs.rbx) != (0x1234_5678, CODE + 2, 0) {
        return Ok(Finding::no(format!(
            "after the access RAX is {:#x}, RIP {:#x}, and {} instructions too many have run",
            regs.rax, regs.rip, regs.rbx
        )));
    }
    let exit = scratch.run()?;
    if exit != Exit::Halt || scratch.vcpu.regs().rbx != 1 {
        return Ok(Finding::no(scratch.describe(exit)));
    }
    Ok(Finding::yes("an access is finished without running on"))
}
