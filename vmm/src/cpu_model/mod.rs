//! The named CPU models a guest can have.
//!
//! A guest's CPU is fixed by the name of its model, never taken from the host: both hosts must
//! show the guest the same CPU, and the same one after a fail-over. There is a level v2 (x86-64-v2
//! with what supervisor code gains from) and a level v1 (the baseline, for hosts whose KVM offers
//! little), for each vendor, less everything that would bring non-determinism:
//!
//! | hidden | why |
//! |---|---|
//! | TSC, RDTSCP, RDPID, TSC deadline, invariant TSC | clocks and CPU numbers without an exit |
//! | RDRAND, RDSEED | a random source without an exit |
//! | XSAVE and what needs it (AVX) | the size and the in-use bits it writes differ between hosts |
//! | RTM, HLE | an abort depends on caches and interrupts of the host |
//! | MONITOR/MWAIT, WAITPKG | waking up depends on the host |
//! | PMU, DS, PT, MPERF/APERF | counts of the host |
//! | VMX, SVM | nested guests would not be under the recorder's control |
//! | IBRS, IBPB, STIBP, SSBD, ARCH_CAPABILITIES, VIRT_SSBD | they need MSRs that differ between hosts and microcode versions; Linux falls back to retpolines |
//! | MTRR, MCE, MCA | state in MSRs that nothing in a guest without firmware and machine checks needs |
//! | PCID | not on every AMD host |
//!
//! * [`leaves`]: the contents of each model's CPUID leaves.
//! * [`features`]: names of feature bits, for messages.
//! * [`msr`]: MSRs that would let non-determinism in.

mod check;
pub mod features;
pub mod leaves;
pub mod msr;

use std::fmt;
use std::str::FromStr;

use kvm_bindings::kvm_cpuid_entry2;

/// A CPU model: what CPUID says, all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum CpuModel {
    /// The x86-64 baseline as an AMD CPU of family 17h: for hosts whose KVM offers little.
    V1Amd,
    /// The x86-64 baseline as an Intel CPU of the Nehalem generation.
    V1Intel,
    /// x86-64-v2 as an AMD CPU of family 17h (Zen 2).
    V2Amd,
    /// x86-64-v2 as an Intel CPU of the Nehalem generation.
    V2Intel,
}

/// Why a host can't run a model, or there is no such model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuModelError {
    /// The host's CPU or KVM lacks features of the model.
    #[error(
        "this host can't run CPU model {model}: its KVM does not offer {} (`ftd doctor` lists the \
         models that fit)", .missing.join(", ")
    )]
    Missing {
        /// The model.
        model: CpuModel,
        /// Names of the features.
        missing: Vec<String>,
    },
    /// The host has neither an AMD nor an Intel CPU.
    #[error(
        "there is no CPU model for a host with CPU vendor {vendor:?}; ftd has {}",
        names()
    )]
    Vendor {
        /// The host's vendor, as CPUID has it.
        vendor: String,
    },
    /// No model has that name.
    #[error("there is no CPU model {name:?}; ftd has {}", names())]
    Unknown {
        /// What was asked for.
        name: String,
    },
}

impl CpuModel {
    /// Every model.
    pub const ALL: [Self; 4] = [Self::V1Amd, Self::V1Intel, Self::V2Amd, Self::V2Intel];

    /// The name under which users, logs and handshakes know the model.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1Amd => "ftd-v1-amd",
            Self::V1Intel => "ftd-v1-intel",
            Self::V2Amd => "ftd-v2-amd",
            Self::V2Intel => "ftd-v2-intel",
        }
    }

    /// Whether it is an AMD CPU; else it is an Intel CPU.
    #[must_use]
    pub const fn is_amd(self) -> bool {
        matches!(self, Self::V1Amd | Self::V2Amd)
    }

    /// The model with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.name() == name)
    }

    /// The best model for a host with this KVM_GET_SUPPORTED_CPUID. Its vendor is the host's,
    /// because a guest of another vendor's CPU meets instructions and MSRs that behave otherwise.
    ///
    /// # Errors
    ///
    /// The host's vendor has no model, or the host supports none.
    pub fn for_host(host_supported: &[kvm_cpuid_entry2]) -> Result<Self, CpuModelError> {
        let vendor = host_supported
            .iter()
            .find(|entry| entry.function == 0)
            .map(leaves::vendor)
            .unwrap_or_default();
        let (best, least) = match &vendor {
            // Hygon's CPUs are Zen, under another name.
            b"AuthenticAMD" | b"HygonGenuine" => (Self::V2Amd, Self::V1Amd),
            b"GenuineIntel" => (Self::V2Intel, Self::V1Intel),
            other => {
                return Err(CpuModelError::Vendor {
                    vendor: String::from_utf8_lossy(other).into_owned(),
                });
            }
        };
        cpuid(best, host_supported)
            .map(|_| best)
            .or_else(|_| cpuid(least, host_supported).map(|_| least))
    }
}

/// The CPUID leaves of `model`, for KVM_SET_CPUID2, after a check against what the host supports.
///
/// # Errors
///
/// The host lacks features of the model: [`CpuModelError::Missing`] names them.
pub fn cpuid(
    model: CpuModel,
    host_supported: &[kvm_cpuid_entry2],
) -> Result<Vec<kvm_cpuid_entry2>, CpuModelError> {
    let leaves = leaves::of(model);
    let missing = check::missing(&leaves, host_supported);
    if missing.is_empty() {
        Ok(leaves)
    } else {
        Err(CpuModelError::Missing { model, missing })
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CpuModel {
    type Err = CpuModelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::by_name(name).ok_or_else(|| CpuModelError::Unknown { name: name.into() })
    }
}

fn names() -> String {
    CpuModel::ALL.map(CpuModel::name).join(", ")
}

#[cfg(test)]
mod tests;
