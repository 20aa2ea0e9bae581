//! What the host's KVM really does, found by running a few instructions in a scratch machine:
//! capability flags say what a kernel was built to do, not what this one does.
//!
//! * [`scratch`]: the machine.
//! * [`window`]: where the interrupt window opens.
//! * [`stop`]: stopping a guest anywhere, and finishing its last access.
//! * [`transfer`]: moving a vCPU's state.
//! * [`dirty`]: the log of pages written.
//! * [`msrs`]: MSRs that exit.
//! * [`cpuid`]: the CPU model, as the guest sees it.
//! * [`tsc`]: RDTSC in user code.
//! * [`debug`]: single steps and breakpoints.
//! * [`instructions`]: what a kernel is made of.
//! * [`pmu`]: the counter of branches.
//! * [`processor`]: which CPU this is.

pub mod cpuid;
pub mod debug;
pub mod dirty;
pub mod instructions;
pub mod msrs;
pub mod pmu;
pub mod processor;
pub mod scratch;
pub mod stop;
pub mod transfer;
pub mod tsc;
pub mod window;

use std::time::Instant;

use kvm_ioctls::Kvm;

use crate::clock::Clock;
use crate::error::VmmError;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the host does what was asked for.
    pub ok: bool,
    /// What was seen, for people.
    pub found: String,
}

impl Finding {
    /// The host does it.
    pub fn yes(found: impl Into<String>) -> Finding {
        Finding {
            ok: true,
            found: found.into(),
        }
    }

    /// It doesn't.
    pub fn no(found: impl Into<String>) -> Finding {
        Finding {
            ok: false,
            found: found.into(),
        }
    }
}

/// A probe: looks at one thing that the host's KVM should do.
pub type Probe = fn(&Kvm) -> Result<Finding, VmmError>;

/// Runs a probe on a thread of its own, which takes the kick signals; a probe that fails has found
/// that the host doesn't do it.
pub fn run(probe: Probe, kvm: &Kvm) -> Finding {
    let started = Instant::now();
    let ended = std::thread::scope(|scope| scope.spawn(|| probe(kvm)).join());
    tracing::trace!("a probe took {:?}", started.elapsed());
    match ended {
        Ok(Ok(finding)) => finding,
        Ok(Err(error)) => Finding::no(crate::error::chain(&error)),
        Err(_) => Finding::no("the probe panicked; this is a defect of ftd"),
    }
}

/// What every guest needs and that is quick to find out.
const EVERY_GUEST: [Probe; 2] = [msrs::filter, msrs::user_space];
/// What a guest with a Linux kernel needs besides.
const LINUX: [Probe; 3] = [
    instructions::kernel,
    tsc::trapped,
    debug::hardware_breakpoint,
];

/// Checks that guests can run here; `linux`: those with a Linux kernel.
///
/// # Errors
///
/// [`VmmError::Unfit`] with the first thing that the host does not do.
pub fn require(kvm: &Kvm, linux: bool) -> Result<(), VmmError> {
    let probes: &[Probe] = if linux { &LINUX } else { &EVERY_GUEST };
    for probe in probes {
        let finding = run(*probe, kvm);
        if !finding.ok {
            return Err(VmmError::Unfit {
                found: finding.found,
            });
        }
    }
    Ok(())
}

/// The best clock that this host has, and what it lacks for a better one.
pub fn best_clock(kvm: &Kvm) -> (Clock, String) {
    let without = |clock, probes: &[Probe]| {
        first_lack(probes, kvm).map(|found| format!("no clock {clock}: {found}"))
    };
    if let Some(why) = without(Clock::Exit, &WINDOW) {
        return (Clock::PlainExit, why);
    }
    match without(Clock::Pmu, &COUNTED) {
        Some(why) => (Clock::Exit, why),
        None => (Clock::Pmu, String::new()),
    }
}

/// Why this host can't keep `clock`, if it can't.
pub fn lacks(clock: Clock, kvm: &Kvm) -> Option<String> {
    let needed: &[&[Probe]] = match clock {
        Clock::Pmu => &[&WINDOW, &COUNTED],
        Clock::Exit => &[&WINDOW],
        Clock::PlainExit => &[],
        Clock::Step => &[&STEPPED],
    };
    first_lack(&needed.concat(), kvm)
}

/// What the `exit` clock needs.
const WINDOW: [Probe; 1] = [window::interrupt_window];
/// What the `pmu` clock needs besides.
const COUNTED: [Probe; 2] = [pmu::branches, debug::hardware_breakpoint];
/// What the `step` clock needs, for guests that stay in their kernel.
const STEPPED: [Probe; 1] = [debug::steps_kernel];

/// What the first of these probes that fails has found.
fn first_lack(probes: &[Probe], kvm: &Kvm) -> Option<String> {
    let mut findings = probes.iter().map(|probe| run(*probe, kvm));
    let failed = findings.find(|finding| !finding.ok);
    failed.map(|finding| finding.found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kvm() -> Option<Kvm> {
        let kvm = crate::kvm::open_kvm(crate::kvm::DEVICE.as_ref()).ok();
        if kvm.is_none() {
            eprintln!("skipped: this machine has no usable /dev/kvm");
        }
        kvm
    }

    #[test]
    fn the_window_is_judged_alike_every_time() {
        let Some(kvm) = kvm() else { return };
        let first = run(window::interrupt_window, &kvm);
        for _ in 0..3 {
            assert_eq!(
                run(window::interrupt_window, &kvm).ok,
                first.ok,
                "{first:?}"
            );
        }
    }

    #[test]
    fn what_every_guest_needs_is_there() {
        let Some(kvm) = kvm() else { return };
        let needed: [Probe; 6] = [
            stop::kick,
            stop::settle,
            transfer::state,
            dirty::log,
            msrs::filter,
            msrs::user_space,
        ];
        for probe in needed {
            let finding = run(probe, &kvm);
            assert!(finding.ok, "{finding:?}");
        }
    }

    #[test]
    fn the_parts_of_the_tsc_trap_agree() {
        let Some(kvm) = kvm() else { return };
        // A host that ignores CR4.TSD has no #GP to stop at.
        let disabled = run(tsc::disabled, &kvm);
        assert!(disabled.ok || !run(tsc::trapped, &kvm).ok, "{disabled:?}");
    }

    #[test]
    fn a_probe_that_fails_has_found_that() {
        let Some(kvm) = kvm() else { return };
        let failing: Probe = |_| {
            Err(VmmError::MissingCapability {
                what: "KVM_CAP_TEST",
            })
        };
        let finding = run(failing, &kvm);
        assert!(!finding.ok && finding.found.contains("KVM_CAP_TEST"));
    }
}
