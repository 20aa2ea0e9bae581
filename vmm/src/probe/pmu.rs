//! Whether the host counts the guest's conditional branches, and only those: what the counter clock
//! needs to name a position between two exits.

use kvm_ioctls::Kvm;

use super::Finding;
use super::processor::Processor;
use super::scratch::{Level, Scratch};
use crate::error::VmmError;
use crate::guest::{Counting, Skid};
use crate::kvm::vm::supported_cpuid;
use crate::kvm::{Counter, Exit};

/// `mov $1000, %ecx; 1: dec %ecx; jnz 1b; out %al, $0x81; hlt`: a thousand conditional branches.
const LOOP: [u8; 12] = [
    0xb9, 0xe8, 0x03, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x81, 0xf4,
];
const BRANCHES: u64 = 1000;

/// How this host counts branches, by its CPU's design.
pub fn counting(kvm: &Kvm) -> Result<Option<Counting>, VmmError> {
    let design = Processor::of(&supported_cpuid(kvm)?).design();
    Ok(design.branches().map(|event| Counting {
        event,
        skid: Skid::new(design.skid()),
    }))
}

/// Counts a loop of a thousand branches, in kernel and user code.
pub fn branches(kvm: &Kvm) -> Result<Finding, VmmError> {
    let processor = Processor::of(&supported_cpuid(kvm)?);
    let Some(event) = processor.design().branches() else {
        return Ok(Finding::no(format!(
            "no event is known that counts the branches of {processor}"
        )));
    };
    let mut counter = match Counter::open(event) {
        Ok(counter) => counter,
        Err(error) => {
            return Ok(Finding::no(format!(
                "perf_event_open of raw event {event:#x}: {error}"
            )));
        }
    };
    for level in [Level::Kernel, Level::User] {
        let mut scratch = Scratch::new(kvm, level, &LOOP)?;
        counter.restart()?;
        let exit = scratch.run()?;
        if !matches!(exit, Exit::PortOut { port: 0x81, .. }) {
            return Ok(Finding::no(scratch.describe(exit)));
        }
        let counted = counter.branches()?;
        if counted != BRANCHES {
            return Ok(Finding::no(format!(
                "counted {counted} branches where the guest made {BRANCHES}"
            )));
        }
    }
    Ok(Finding::yes(format!(
        "counts the guest's conditional branches exactly (raw event {event:#x})"
    )))
}
