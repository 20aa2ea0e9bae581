//! MSRs through which non-determinism could come in, and what is to become of an access.
//!
//! Hiding a feature in CPUID does not keep a guest from reading its MSRs: KVM answers many of them
//! from the host. So these are filtered (KVM_X86_SET_MSR_FILTER): an access exits to user space,
//! where it is a log entry or a fault, the same on both hosts.

/// What an access to an MSR ends as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// A value of the virtual clock: the read is a log entry.
    Clock,
    /// It belongs to a device model, which KVM would otherwise stand in for.
    Machine,
    /// #GP, as on a CPU that lacks it.
    Fault,
}

/// MSRs that must not reach the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrRange {
    /// First MSR.
    pub first: u32,
    /// How many follow each other.
    pub count: u32,
    /// What an access ends as.
    pub treatment: Treatment,
    /// Name in the manuals.
    pub name: &'static str,
    /// Why it is here.
    pub reason: &'static str,
}

const fn range(
    first: u32,
    count: u32,
    treatment: Treatment,
    name: &'static str,
    reason: &'static str,
) -> MsrRange {
    MsrRange {
        first,
        count,
        treatment,
        name,
        reason,
    }
}

use Treatment::{Clock, Fault, Machine};

/// Every MSR that must exit to user space or fault (SDM vol. 4; APM vol. 2, appendix A).
pub const CLOSED: &[MsrRange] = &[
    range(
        0x10,
        1,
        Clock,
        "IA32_TIME_STAMP_COUNTER",
        "the host's clock",
    ),
    range(
        0x1b,
        1,
        Machine,
        "IA32_APIC_BASE",
        "the local APIC is the machine's, and so is whether it is on",
    ),
    range(0x3a, 1, Fault, "IA32_FEATURE_CONTROL", "VMX is hidden"),
    range(0x3b, 1, Fault, "IA32_TSC_ADJUST", "shifts the host's clock"),
    range(
        0x48,
        2,
        Fault,
        "IA32_SPEC_CTRL, IA32_PRED_CMD",
        "hidden; differs with microcode",
    ),
    range(0xc1, 8, Fault, "IA32_PMC0-7", "counts of the host"),
    range(0xe1, 1, Fault, "IA32_UMWAIT_CONTROL", "WAITPKG is hidden"),
    range(
        0xe7,
        2,
        Fault,
        "IA32_MPERF, IA32_APERF",
        "clocks of the host",
    ),
    range(
        0x10a,
        2,
        Fault,
        "IA32_ARCH_CAPABILITIES, IA32_FLUSH_CMD",
        "hidden; differs with microcode",
    ),
    range(0x122, 1, Fault, "IA32_TSX_CTRL", "TSX is hidden"),
    range(0x186, 8, Fault, "IA32_PERFEVTSEL0-7", "counts of the host"),
    range(
        0x19c,
        1,
        Fault,
        "IA32_THERM_STATUS",
        "temperature of the host",
    ),
    range(
        0x1b1,
        1,
        Fault,
        "IA32_PACKAGE_THERM_STATUS",
        "temperature of the host",
    ),
    range(
        0x1c9,
        1,
        Fault,
        "MSR_LASTBRANCH_TOS",
        "branch records of the host",
    ),
    range(0x309, 3, Fault, "IA32_FIXED_CTR0-2", "counts of the host"),
    range(
        0x345,
        1,
        Fault,
        "IA32_PERF_CAPABILITIES",
        "the PMU is hidden",
    ),
    range(
        0x38d,
        4,
        Fault,
        "IA32_FIXED_CTR_CTRL to IA32_PERF_GLOBAL_OVF_CTRL",
        "counts of the host",
    ),
    range(0x3f1, 1, Fault, "IA32_PEBS_ENABLE", "counts of the host"),
    range(0x4c1, 8, Fault, "IA32_A_PMC0-7", "counts of the host"),
    range(0x560, 34, Fault, "IA32_RTIT_*", "a trace of the host's CPU"),
    range(0x600, 1, Fault, "IA32_DS_AREA", "records of the host's PMU"),
    range(0x606, 1, Fault, "MSR_RAPL_POWER_UNIT", "energy of the host"),
    range(
        0x611,
        1,
        Fault,
        "MSR_PKG_ENERGY_STATUS",
        "energy of the host",
    ),
    range(
        0x6e0,
        1,
        Fault,
        "IA32_TSC_DEADLINE",
        "a timer on the host's clock",
    ),
    range(0xda0, 1, Fault, "IA32_XSS", "XSAVE is hidden"),
    range(
        0x1b01,
        1,
        Fault,
        "IA32_UARCH_MISC_CTL",
        "timing of the host",
    ),
    range(
        0x11,
        2,
        Fault,
        "MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME",
        "the host's clock",
    ),
    range(
        0x4b56_4d00,
        9,
        Fault,
        "MSR_KVM_WALL_CLOCK_NEW to MSR_KVM_MIGRATION_CONTROL",
        "clocks, steal time, page faults of the host",
    ),
    range(
        0x4000_0000,
        0x120,
        Fault,
        "HV_X64_*",
        "Hyper-V's clocks and timers",
    ),
    range(
        0xc000_00e7,
        2,
        Fault,
        "MPerfReadOnly, APerfReadOnly",
        "clocks of the host",
    ),
    range(0xc000_00e9, 1, Fault, "IRPerfCount", "counts of the host"),
    range(
        0xc000_0103,
        1,
        Fault,
        "TSC_AUX",
        "RDTSCP and RDPID are hidden",
    ),
    range(
        0xc000_0104,
        1,
        Fault,
        "MSR_AMD64_TSC_RATIO",
        "scales the host's clock",
    ),
    range(
        0xc000_0300,
        4,
        Fault,
        "PerfCntrGlobalStatus to PerfCntrGlobalStatusSet",
        "counts of the host",
    ),
    range(
        0xc001_0000,
        8,
        Fault,
        "PerfEvtSel0-3, PerfCtr0-3",
        "counts of the host",
    ),
    range(0xc001_0114, 1, Fault, "VM_CR", "SVM is hidden"),
    range(0xc001_0117, 1, Fault, "VM_HSAVE_PA", "SVM is hidden"),
    range(
        0xc001_011f,
        1,
        Fault,
        "VIRT_SPEC_CTRL",
        "hidden; differs with microcode",
    ),
    range(
        0xc001_0200,
        12,
        Fault,
        "PerfEvtSel and PerfCtr 0-5",
        "counts of the host",
    ),
    range(
        0xc001_1030,
        12,
        Fault,
        "IBS registers",
        "samples of the host's CPU",
    ),
    range(
        0xc001_0299,
        3,
        Fault,
        "RAPL registers",
        "energy of the host",
    ),
];

/// The entry of [`CLOSED`] that `msr` is in.
#[must_use]
pub fn closed(msr: u32) -> Option<&'static MsrRange> {
    CLOSED.iter().find(|range| {
        msr.checked_sub(range.first)
            .is_some_and(|at| at < range.count)
    })
}
