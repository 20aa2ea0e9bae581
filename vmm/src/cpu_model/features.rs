//! Names of the feature bits that models have, and of those they must never have.

use Register::{Eax, Ebx, Ecx, Edx};

/// A register that CPUID returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// A feature: leaf (index 0), register, bit and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// CPUID function.
    pub function: u32,
    /// Register it is in.
    pub register: Register,
    /// Bit number.
    pub bit: u32,
    /// Name as Linux or the manuals have it, lower case.
    pub name: &'static str,
}

const fn feature(function: u32, register: Register, bit: u32, name: &'static str) -> Feature {
    Feature {
        function,
        register,
        bit,
        name,
    }
}

/// In every model: x86-64's baseline, CMPXCHG16B, LAHF and x2APIC (SDM vol. 2A, CPUID; APM vol. 3,
/// appendix E).
pub const COMMON: &[Feature] = &[
    feature(1, Edx, 0, "fpu"),
    feature(1, Edx, 2, "de"),
    feature(1, Edx, 3, "pse"),
    feature(1, Edx, 5, "msr"),
    feature(1, Edx, 6, "pae"),
    feature(1, Edx, 8, "cx8"),
    feature(1, Edx, 9, "apic"),
    feature(1, Edx, 11, "sep"),
    feature(1, Edx, 13, "pge"),
    feature(1, Edx, 15, "cmov"),
    feature(1, Edx, 16, "pat"),
    feature(1, Edx, 17, "pse36"),
    feature(1, Edx, 19, "clflush"),
    feature(1, Edx, 23, "mmx"),
    feature(1, Edx, 24, "fxsr"),
    feature(1, Edx, 25, "sse"),
    feature(1, Edx, 26, "sse2"),
    feature(1, Ecx, 13, "cx16"),
    feature(1, Ecx, 21, "x2apic"),
    feature(1, Ecx, 31, "hypervisor"),
    feature(0x8000_0001, Ecx, 0, "lahf_lm"),
    feature(0x8000_0001, Edx, 11, "syscall"),
    feature(0x8000_0001, Edx, 20, "nx"),
    feature(0x8000_0001, Edx, 29, "lm"),
];

/// In the models of level v2: the instructions of x86-64-v2, and what supervisor code gains from.
pub const V2: &[Feature] = &[
    feature(1, Ecx, 0, "sse3"),
    feature(1, Ecx, 9, "ssse3"),
    feature(1, Ecx, 19, "sse4_1"),
    feature(1, Ecx, 20, "sse4_2"),
    feature(1, Ecx, 23, "popcnt"),
    feature(7, Ebx, 0, "fsgsbase"),
    feature(7, Ebx, 7, "smep"),
    feature(7, Ebx, 20, "smap"),
    feature(0x8000_0001, Edx, 26, "pdpe1gb"),
];

/// In the AMD models only. AMD repeats leaf 1's older bits in leaf 8000_0001h.
pub const AMD: &[Feature] = &[
    feature(0x8000_0001, Edx, 0, "fpu"),
    feature(0x8000_0001, Edx, 2, "de"),
    feature(0x8000_0001, Edx, 3, "pse"),
    feature(0x8000_0001, Edx, 5, "msr"),
    feature(0x8000_0001, Edx, 6, "pae"),
    feature(0x8000_0001, Edx, 8, "cx8"),
    feature(0x8000_0001, Edx, 9, "apic"),
    feature(0x8000_0001, Edx, 13, "pge"),
    feature(0x8000_0001, Edx, 15, "cmov"),
    feature(0x8000_0001, Edx, 16, "pat"),
    feature(0x8000_0001, Edx, 17, "pse36"),
    feature(0x8000_0001, Edx, 22, "mmxext"),
    feature(0x8000_0001, Edx, 23, "mmx"),
    feature(0x8000_0001, Edx, 24, "fxsr"),
];

/// In the Intel models only.
pub const INTEL: &[Feature] = &[feature(6, Eax, 2, "arat")];

/// In the Intel models of level v2 only.
pub const INTEL_V2: &[Feature] = &[feature(7, Ebx, 9, "erms")];

/// In no model, ever: each lets non-determinism in, or needs what a model can't give.
pub const NEVER: &[Feature] = &[
    feature(1, Edx, 4, "tsc"),
    feature(1, Edx, 7, "mce"),
    feature(1, Edx, 12, "mtrr"),
    feature(1, Edx, 14, "mca"),
    feature(1, Edx, 21, "ds"),
    feature(1, Edx, 28, "ht"),
    feature(1, Ecx, 2, "dtes64"),
    feature(1, Ecx, 3, "monitor"),
    feature(1, Ecx, 5, "vmx"),
    feature(1, Ecx, 15, "pdcm"),
    feature(1, Ecx, 17, "pcid"),
    feature(1, Ecx, 24, "tsc_deadline"),
    feature(1, Ecx, 26, "xsave"),
    feature(1, Ecx, 27, "osxsave"),
    feature(1, Ecx, 28, "avx"),
    feature(1, Ecx, 30, "rdrand"),
    feature(6, Ecx, 0, "aperfmperf"),
    feature(7, Ebx, 1, "tsc_adjust"),
    feature(7, Ebx, 2, "sgx"),
    feature(7, Ebx, 4, "hle"),
    feature(7, Ebx, 11, "rtm"),
    feature(7, Ebx, 18, "rdseed"),
    feature(7, Ebx, 25, "intel_pt"),
    feature(7, Ecx, 5, "waitpkg"),
    feature(7, Ecx, 22, "rdpid"),
    feature(7, Edx, 26, "spec_ctrl"),
    feature(7, Edx, 27, "stibp"),
    feature(7, Edx, 29, "arch_capabilities"),
    feature(7, Edx, 31, "ssbd"),
    feature(0x8000_0001, Ecx, 2, "svm"),
    feature(0x8000_0001, Ecx, 22, "topoext"),
    feature(0x8000_0001, Ecx, 23, "perfctr_core"),
    feature(0x8000_0001, Ecx, 29, "monitorx"),
    feature(0x8000_0001, Edx, 4, "tsc (8000_0001h)"),
    feature(0x8000_0001, Edx, 27, "rdtscp"),
    feature(0x8000_0007, Edx, 8, "invariant_tsc"),
    feature(0x8000_0008, Ebx, 4, "rdpru"),
    feature(0x8000_0008, Ebx, 12, "ibpb"),
    feature(0x8000_0008, Ebx, 14, "ibrs"),
    feature(0x8000_0008, Ebx, 25, "virt_ssbd"),
    feature(0x4000_0001, Eax, 0, "kvmclock"),
    feature(0x4000_0001, Eax, 3, "kvmclock2"),
    feature(0x4000_0001, Eax, 4, "kvm_async_pf"),
    feature(0x4000_0001, Eax, 5, "kvm_steal_time"),
    feature(0x4000_0001, Eax, 6, "kvm_pv_eoi"),
    feature(0x4000_0001, Eax, 24, "kvmclock_stable"),
];
