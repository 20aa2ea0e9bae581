//! Whether the host counts the guest's conditional branches, and only those: what the counter clock
//! needs to name a position between two exits.

use std::path::Path;

use kvm_ioctls::Kvm;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

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

/// Where some of a host's CPUs are of another kind (Intel's efficient cores), the event is counted on the others
/// only: why this process would lose branches, if it may run there.
fn mixed_cores() -> Option<String> {
    let devices = Path::new("/sys/bus/event_source/devices");
    if !devices.join("cpu_atom").exists() {
        return None;
    }
    let counting = std::fs::read_to_string(devices.join("cpu_core/cpus")).unwrap_or_default();
    let counting = counting.trim();
    let allowed = sched_getaffinity(Pid::from_raw(0)).ok();
    let may_run = |cpu| {
        let set = allowed.as_ref();
        set.is_none_or(|set| set.is_set(cpu).unwrap_or(false))
    };
    let all = CpuSet::count();
    let elsewhere = (0..all).any(|cpu| may_run(cpu) && !is_listed(counting, cpu));
    elsewhere.then(|| {
        format!(
            "this host has CPUs of two kinds, and branches are counted on {counting} only: run ftd on \
             those (taskset --cpu-list {counting})"
        )
    })
}

/// Whether a list such as `0-7,12` has this number.
fn is_listed(list: &str, number: usize) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.trim().parse::<usize>(), last.trim().parse()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&number),
            _ => false,
        }
    })
}

/// Counts a loop of a thousand branches, in kernel and user code.
pub fn branches(kvm: &Kvm) -> Result<Finding, VmmError> {
    let processor = Processor::of(&supported_cpuid(kvm)?);
    let Some(event) = processor.design().branches() else {
        return Ok(Finding::no(format!(
            "no event is known that counts the branches of {processor}"
        )));
    };
    if let Some(why) = mixed_cores() {
        return Ok(Finding::no(why));
    }
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

#[cfg(test)]
mod tests {
    use super::is_listed;

    #[test]
    fn lists_of_cpus_are_understood() {
        let listed: Vec<usize> = (0..20)
            .filter(|cpu| is_listed("0-3,8,10-11", *cpu))
            .collect();
        assert_eq!(listed, [0, 1, 2, 3, 8, 10, 11]);
        assert!(!is_listed("", 0) && !is_listed("x-y", 0));
    }
}
