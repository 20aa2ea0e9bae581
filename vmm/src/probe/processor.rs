//! Which CPU the host has: the event that counts branches differs between makes.

use kvm_bindings::kvm_cpuid_entry2;

use crate::cpu_model::leaves;

/// The host's CPU, as KVM_GET_SUPPORTED_CPUID names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processor {
    /// CPUID's vendor, such as `GenuineIntel`.
    pub vendor: String,
    /// Family, with the extended one added.
    pub family: u32,
    /// Model, with the extended one in its high digit.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

/// Designs with one way to count branches (DESIGN of the counter clock; rr's PerfCounters_x86.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Design {
    /// Intel Skylake and older.
    IntelSkylake,
    /// Intel Ice Lake and later.
    IntelIceLake,
    /// Intel Lunar Lake, Arrow Lake and later.
    IntelLunarLake,
    /// AMD Zen, any.
    AmdZen,
    /// Another AMD CPU; emulated ones call themselves so, and count as Zen does.
    AmdOther,
    /// Not known to ftd.
    Unknown,
}

impl Processor {
    /// Reads it from what KVM supports.
    pub fn of(supported: &[kvm_cpuid_entry2]) -> Processor {
        let leaf = |function| supported.iter().find(|entry| entry.function == function);
        let vendor = leaf(0).map(leaves::vendor).unwrap_or_default();
        let signature = leaf(1).map_or(0, |entry| entry.eax);
        let base = signature >> 8 & 0xf;
        let family = if base == 0xf {
            base + (signature >> 20 & 0xff)
        } else {
            base
        };
        let extended_model = if base == 0xf || base == 6 {
            signature >> 12 & 0xf0
        } else {
            0
        };
        Processor {
            vendor: String::from_utf8_lossy(&vendor).into_owned(),
            family,
            model: extended_model | signature >> 4 & 0xf,
            stepping: signature & 0xf,
        }
    }

    /// Its design.
    pub fn design(&self) -> Design {
        match (self.vendor.as_str(), self.family, self.model) {
            ("GenuineIntel", 6, 0xb5 | 0xbd | 0xc5 | 0xc6) => Design::IntelLunarLake,
            // Ice Lake, Tiger Lake, Rocket Lake, Alder Lake, Raptor Lake, Meteor Lake, and their servers.
            (
                "GenuineIntel",
                6,
                0x6a | 0x6c | 0x7d | 0x7e | 0x8c | 0x8d | 0x8f | 0x97 | 0x9a | 0xa7 | 0xaa | 0xac
                | 0xad | 0xae | 0xb7 | 0xba | 0xbf | 0xcf,
            ) => Design::IntelIceLake,
            // Nehalem to Comet Lake.
            ("GenuineIntel", 6, 0x1a..=0x5f | 0x66 | 0x8e | 0x9e | 0xa5 | 0xa6) => {
                Design::IntelSkylake
            }
            ("AuthenticAMD", 0x17..=0x1a, _) | ("HygonGenuine", 0x18, _) => Design::AmdZen,
            ("AuthenticAMD", ..) => Design::AmdOther,
            _ => Design::Unknown,
        }
    }
}

impl Design {
    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Design::IntelSkylake => "Intel, Skylake or older",
            Design::IntelIceLake => "Intel, Ice Lake or later",
            Design::IntelLunarLake => "Intel, Lunar Lake or later",
            Design::AmdZen => "AMD Zen",
            Design::AmdOther => "AMD, not Zen",
            Design::Unknown => "a design ftd does not know",
        }
    }

    /// The raw perf event that counts retired conditional branches.
    pub const fn branches(self) -> Option<u64> {
        match self {
            Design::IntelSkylake => Some(0x51_01c4),
            Design::IntelIceLake => Some(0x51_11c4),
            Design::IntelLunarLake => Some(0x0100_0051_11c4),
            Design::AmdZen | Design::AmdOther => Some(0x51_00d1),
            Design::Unknown => None,
        }
    }
}

impl Design {
    /// By how many branches an overflow of that event may be late (rr's PerfCounters_x86.h). On Zen it
    /// is unbounded: what comes later still is a miss, and repaired as one.
    pub const fn skid(self) -> u64 {
        match self {
            Design::IntelSkylake => 100,
            Design::IntelIceLake | Design::IntelLunarLake | Design::Unknown => 125,
            Design::AmdZen => 10_000,
            // The emulated ones of the testbed are late by at most 1000 instructions, of which no more than
            // every other is a conditional branch in what compilers make.
            Design::AmdOther => 550,
        }
    }
}

impl std::fmt::Display for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} family {:#x} model {:#x} stepping {} ({})",
            self.vendor,
            self.family,
            self.model,
            self.stepping,
            self.design().name()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(vendor: &[u8; 12], signature: u32) -> Processor {
        let word = |at: usize| {
            u32::from_le_bytes([vendor[at], vendor[at + 1], vendor[at + 2], vendor[at + 3]])
        };
        Processor::of(&[
            kvm_cpuid_entry2 {
                ebx: word(0),
                edx: word(4),
                ecx: word(8),
                ..Default::default()
            },
            kvm_cpuid_entry2 {
                function: 1,
                eax: signature,
                ..Default::default()
            },
        ])
    }

    #[test]
    fn signatures_of_real_cpus_are_known() {
        // Cascade Lake, Ice Lake server, Sapphire Rapids, Arrow Lake, EPYC Rome, EPYC Genoa.
        for (vendor, signature, design) in [
            (b"GenuineIntel", 0x5_0657, Design::IntelSkylake),
            (b"GenuineIntel", 0x6_06a6, Design::IntelIceLake),
            (b"GenuineIntel", 0x8_06f8, Design::IntelIceLake),
            (b"GenuineIntel", 0xc_0662, Design::IntelLunarLake),
            (b"AuthenticAMD", 0x83_0f10, Design::AmdZen),
            (b"AuthenticAMD", 0xa1_0f11, Design::AmdZen),
            (b"CentaurHauls", 0x6fd, Design::Unknown),
        ] {
            assert_eq!(
                processor(vendor, signature).design(),
                design,
                "{signature:x}"
            );
        }
        let genoa = processor(b"AuthenticAMD", 0xa1_0f11);
        assert_eq!((genoa.family, genoa.model, genoa.stepping), (0x19, 0x11, 1));
    }
}
