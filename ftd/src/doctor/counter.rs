//! Checks of what can keep a counter of branches from being exact, or from being had at all.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use vmm::probe::Finding;
use vmm::probe::processor::{Design, Processor};

use super::checks::{Check, Loss, Row, Status};

const SPEC_LOCK_MAP: Row = Row {
    name: "spec-lock-map",
    needed_for: "clock pmu on AMD Zen: branches around locked instructions counted exactly",
    advice: "set bit 54 of MSR 0xc0011020 on every CPU (modprobe msr, then wrmsr; see rr's zen_workaround.py), \
             or the replica will differ now and then and be repaired",
    loss: Loss::Little,
    otherwise: Status::Degraded,
};
const MEDIATED_VPMU: Row = Row {
    name: "mediated-vpmu",
    needed_for: "clock pmu beside other guests: the counter stays the host's while a guest runs",
    advice: "load kvm_intel or kvm_amd with enable_mediated_pmu=0, or run no guest with a PMU on this host",
    loss: Loss::Little,
    otherwise: Status::Degraded,
};

/// Zen's load-store configuration, and its bit that switches the speculation of locks off.
const LS_CFG: u64 = 0xc001_1020;
const SPEC_LOCK_MAP_OFF: u64 = 1 << 54;

/// All of them.
pub fn checks(processor: Option<&Processor>) -> Vec<Check> {
    let mut checks = vec![MEDIATED_VPMU.with(mediated_vpmu())];
    if let Some(Design::AmdZen) = processor.map(Processor::design) {
        let msr = File::open("/dev/cpu/0/msr").and_then(|file| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, LS_CFG)?;
            Ok(u64::from_le_bytes(bytes))
        });
        checks.push(SPEC_LOCK_MAP.with(spec_lock_map(msr)));
    }
    checks
}

fn spec_lock_map(msr: std::io::Result<u64>) -> Finding {
    match msr {
        Ok(value) if value & SPEC_LOCK_MAP_OFF != 0 => Finding::yes("SpecLockMap is switched off"),
        Ok(value) => Finding::no(format!("SpecLockMap is on (MSR {LS_CFG:#x} is {value:#x})")),
        Err(error) => Finding::no(format!("cannot read MSR {LS_CFG:#x}: {error}")),
    }
}

/// A vendor module with the parameter set gives the counters to guests while these run.
fn mediated_vpmu() -> Finding {
    let on = ["kvm", "kvm_amd", "kvm_intel"].into_iter().find(|module| {
        let parameter = format!("/sys/module/{module}/parameters/enable_mediated_pmu");
        std::fs::read_to_string(parameter).is_ok_and(|value| value.trim() == "Y")
    });
    match on {
        Some(module) => Finding::no(format!("{module} was loaded with enable_mediated_pmu")),
        None => Finding::yes("no module of KVM has it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_decides() {
        assert!(spec_lock_map(Ok(1 << 54 | 7)).ok);
        assert!(!spec_lock_map(Ok(7)).ok);
        assert!(!spec_lock_map(Err(std::io::ErrorKind::NotFound.into())).ok);
    }
}
