//! The checks of KVM: a row names a probe, what it is for, and what to do when it finds nothing.

use std::path::Path;

use kvm_ioctls::Kvm;
use serde::Serialize;
use vmm::cpu_model::{self, CpuModel, CpuModelError};
use vmm::error::VmmError;
use vmm::kvm::vm::supported_cpuid;
use vmm::kvm::{missing_capabilities, open_device};
use vmm::probe::{self, Finding, Probe};
use vmm::probe::{cpuid, debug, dirty, instructions, msrs, pmu, stop, transfer, tsc, window};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is there and works.
    Ok,
    /// It is there in part: ftd goes on with less.
    Degraded,
    /// It isn't there, or doesn't work.
    Missing,
}

/// What is lost when a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Every guest.
    Everything,
    /// Logs: recording, replaying, pairs.
    Logs,
    /// Guests that are more than a tiny bare-metal program, such as Linux.
    FullGuests,
    /// The clock `exit`.
    ExitClock,
    /// The clock `pmu`.
    PmuClock,
    /// The clock `step`.
    StepClock,
    /// The clock `step`, for guests with user code.
    UserSteps,
    /// Comfort or speed.
    Little,
}

/// A check and how it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was seen.
    pub found: String,
    /// What it is for.
    pub needed_for: &'static str,
    /// What to do, when it isn't ok.
    pub advice: &'static str,
    /// What is lost when it isn't ok.
    pub loss: Loss,
}

/// A row of the table: everything but what was found.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub needed_for: &'static str,
    /// What to do when it fails.
    pub advice: &'static str,
    /// What is lost then.
    pub loss: Loss,
    /// How it is called then.
    pub otherwise: Status,
}

impl Row {
    /// The check, with what was found.
    pub fn with(&self, finding: Finding) -> Check {
        let Row {
            name,
            needed_for,
            advice,
            loss,
            otherwise,
        } = *self;
        let (status, advice) = if finding.ok {
            (Status::Ok, "")
        } else {
            (otherwise, advice)
        };
        Check {
            name,
            status,
            found: finding.found,
            needed_for,
            advice,
            loss,
        }
    }
}

const fn row(
    name: &'static str,
    loss: Loss,
    otherwise: Status,
    needed_for: &'static str,
    advice: &'static str,
) -> Row {
    Row {
        name,
        needed_for,
        advice,
        loss,
        otherwise,
    }
}

use Loss::{Everything, ExitClock, FullGuests, Logs, PmuClock, StepClock, UserSteps};
use Status::{Degraded, Missing};

const DEVICE: Row = row(
    "kvm-device",
    Everything,
    Missing,
    "every guest",
    "load kvm_intel or kvm_amd (the firmware may have to enable VT-x or SVM), or add this user to group kvm",
);
const CAPABILITIES: Row = row(
    "kvm-capabilities",
    Everything,
    Missing,
    "every guest",
    "use a host with Linux 5.10 or later",
);
const CPU_MODEL: Row = row(
    "cpu-model",
    Everything,
    Missing,
    "the same virtual CPU on both hosts",
    "use a host with an Intel or AMD CPU whose KVM offers x86-64",
);

const ELSEWHERE: &str =
    "use a host with Intel VT-x or AMD SVM and an upstream kvm_intel or kvm_amd";

const PROBES: [(Row, Probe); 15] = [
    (
        row(
            "msr-filter",
            Everything,
            Missing,
            "hiding the host's clocks and counters",
            ELSEWHERE,
        ),
        msrs::filter,
    ),
    (
        row(
            "user-space-msrs",
            Everything,
            Missing,
            "the local APIC, which is not the kernel's",
            ELSEWHERE,
        ),
        msrs::user_space,
    ),
    (
        row(
            "kick",
            Everything,
            Missing,
            "stopping a guest that makes no exit",
            ELSEWHERE,
        ),
        stop::kick,
    ),
    (
        row(
            "settle",
            Logs,
            Missing,
            "a snapshot between two instructions",
            ELSEWHERE,
        ),
        stop::settle,
    ),
    (
        row(
            "state-transfer",
            Logs,
            Missing,
            "replay, and a backup that joins",
            ELSEWHERE,
        ),
        transfer::state,
    ),
    (
        row(
            "dirty-log",
            Logs,
            Missing,
            "snapshots of what has changed, and a backup that joins a running guest",
            ELSEWHERE,
        ),
        dirty::log,
    ),
    (
        row(
            "interrupt-window",
            ExitClock,
            Degraded,
            "clock exit: an interrupt as soon as the guest can take it",
            "nothing: ftd takes clock plain-exit by itself; a better host that is paired with this one needs --clock plain-exit",
        ),
        window::interrupt_window,
    ),
    (
        row(
            "kernel-instructions",
            FullGuests,
            Degraded,
            "guests with a Linux kernel",
            ELSEWHERE,
        ),
        instructions::kernel,
    ),
    (
        row(
            "cpuid",
            FullGuests,
            Degraded,
            "guests that ask for features, on two hosts with different CPUs",
            ELSEWHERE,
        ),
        cpuid::enforced,
    ),
    (
        row(
            "tsc-disable",
            FullGuests,
            Missing,
            "RDTSC in the guest's user code (CR4.TSD)",
            ELSEWHERE,
        ),
        tsc::disabled,
    ),
    (
        row(
            "tsc-trap",
            FullGuests,
            Missing,
            "answering that RDTSC with virtual time",
            ELSEWHERE,
        ),
        tsc::trapped,
    ),
    (
        row(
            "hardware-breakpoint",
            FullGuests,
            Missing,
            "the same, when a #GP has another cause, and for RDTSC in kernel modules; clock pmu",
            ELSEWHERE,
        ),
        debug::hardware_breakpoint,
    ),
    (
        row(
            "single-step",
            StepClock,
            Degraded,
            "clock step: points between two exits without a counter, for tests and tiny guests",
            "nothing: no other clock steps",
        ),
        debug::steps_kernel,
    ),
    (
        row(
            "single-step-user",
            UserSteps,
            Degraded,
            "the same, with guests that have user code",
            "nothing: with clock step use guests that stay in their kernel; no other clock steps",
        ),
        debug::steps_user,
    ),
    (
        row(
            "branch-counter",
            PmuClock,
            Degraded,
            "clock pmu: an input as soon as it comes, at a point between two exits",
            "nothing: ftd takes an exit clock by itself. For the pmu clock a virtual host needs its PMU \
             passed on, and kernel.perf_event_paranoid at 2 or less",
        ),
        pmu::branches,
    ),
];

/// Opens KVM; there are no other checks without it.
pub fn device(device: &Path) -> (Vec<Check>, Option<Kvm>) {
    match open_device(device) {
        Ok(kvm) => {
            let found = format!(
                "{}, API version {}",
                device.display(),
                kvm.get_api_version()
            );
            (vec![DEVICE.with(Finding::yes(found))], Some(kvm))
        }
        Err(error) => {
            let found = match error {
                VmmError::OpenKvm { device, source } => {
                    format!("cannot open {}: {source}", device.display())
                }
                VmmError::NotKvm { device } => format!("{} is not KVM", device.display()),
                other => vmm::error::chain(&other),
            };
            (vec![DEVICE.with(Finding::no(found))], None)
        }
    }
}

/// All checks of a KVM that could be opened.
pub fn on_kvm(kvm: &Kvm) -> Vec<Check> {
    let mut checks = vec![
        CAPABILITIES.with(capabilities(kvm)),
        CPU_MODEL.with(cpu_models(kvm)),
    ];
    checks.extend(
        PROBES
            .iter()
            .map(|(row, probe)| row.with(probe::run(*probe, kvm))),
    );
    checks
}

fn capabilities(kvm: &Kvm) -> Finding {
    let missing = missing_capabilities(kvm);
    if missing.is_empty() {
        Finding::yes("all that are needed")
    } else {
        Finding::no(format!("lacks {}", missing.join(", ")))
    }
}

/// Which models the host can give its guests.
fn cpu_models(kvm: &Kvm) -> Finding {
    let supported = match supported_cpuid(kvm) {
        Ok(supported) => supported,
        Err(error) => return Finding::no(vmm::error::chain(&error)),
    };
    match CpuModel::for_host(&supported) {
        Ok(best) => {
            let others: Vec<_> = CpuModel::ALL
                .into_iter()
                .filter(|model| *model != best && model.is_amd() == best.is_amd())
                .map(|model| match cpu_model::cpuid(model, &supported) {
                    Ok(_) => format!("{model} fits too"),
                    Err(CpuModelError::Missing { missing, .. }) => {
                        format!("{model} does not, for lack of {}", missing.join(", "))
                    }
                    Err(error) => error.to_string(),
                })
                .collect();
            Finding::yes(format!("{best}; {}", others.join("; ")))
        }
        Err(error) => Finding::no(error.to_string()),
    }
}
