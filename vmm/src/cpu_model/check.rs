//! Whether a host can run a model: each feature bit of the model must be among those its KVM
//! supports.

use kvm_bindings::kvm_cpuid_entry2;

use super::features::{AMD, COMMON, Feature, INTEL, INTEL_V2, Register, V2};
use super::leaves::register;

/// The registers that hold feature bits; all others hold numbers, which need no support.
const FEATURE_REGISTERS: [(u32, Register); 6] = [
    (1, Register::Ecx),
    (1, Register::Edx),
    (6, Register::Eax),
    (7, Register::Ebx),
    (0x8000_0001, Register::Ecx),
    (0x8000_0001, Register::Edx),
];

/// Bits that KVM does not report as supported, because it is user space that gives them.
const HYPERVISOR_BIT: (u32, Register, u32) = (1, Register::Ecx, 31);

/// Names of the features in `leaves` that the host does not support; and too large an address size.
pub(super) fn missing(
    leaves: &[kvm_cpuid_entry2],
    host_supported: &[kvm_cpuid_entry2],
) -> Vec<String> {
    let mut missing = Vec::new();
    for (function, which) in FEATURE_REGISTERS {
        let wanted = value(leaves, function, which);
        let lacking = wanted & !value(host_supported, function, which);
        for bit in (0..32).filter(|bit| lacking & 1 << bit != 0) {
            if (function, which, bit) != HYPERVISOR_BIT {
                missing.push(name(function, which, bit));
            }
        }
    }
    let bits = |entries| value(entries, 0x8000_0008, Register::Eax) & 0xff;
    let (wanted, offered) = (bits(leaves), bits(host_supported));
    // A host without the leaf has the 36 bits that are older than it.
    let offered = if offered == 0 { 36 } else { offered };
    if wanted > offered {
        missing.push(format!("{wanted} physical address bits (it has {offered})"));
    }
    missing
}

fn value(entries: &[kvm_cpuid_entry2], function: u32, which: Register) -> u32 {
    entries
        .iter()
        .find(|entry| entry.function == function && entry.index == 0)
        .map_or(0, |entry| *register(&mut entry.clone(), which))
}

fn name(function: u32, which: Register, bit: u32) -> String {
    let known = |feature: &&Feature| {
        feature.function == function && feature.register == which && feature.bit == bit
    };
    [COMMON, V2, AMD, INTEL, INTEL_V2]
        .into_iter()
        .flatten()
        .find(known)
        .map_or_else(
            || format!("CPUID {function:x}h {which:?} bit {bit}"),
            |feature| feature.name.to_owned(),
        )
}
