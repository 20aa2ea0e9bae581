//! `ftd doctor`: what this host's KVM does, found by trying it, and what is possible with that.
//!
//! * [`checks`]: the checks, one row each.
//! * [`counter`]: those of what disturbs a counter of branches.
//! * [`host`]: those that are not about KVM.
//! * [`possible`]: what remains possible.
//! * [`report`]: the answer for people, and as JSON.

pub mod checks;
pub mod counter;
pub mod host;
pub mod possible;
pub mod report;

use std::path::Path;

use kvm_ioctls::Kvm;
use vmm::kvm::vm::supported_cpuid;
use vmm::probe::processor::Processor;

pub use checks::{Check, Status};
pub use host::Host;
pub use possible::Possible;

/// Everything that was found on this host.
#[derive(Debug, Clone)]
pub struct Examination {
    /// The host.
    pub host: Host,
    /// The checks, in the order of the table.
    pub checks: Vec<Check>,
    /// What is possible here.
    pub possible: Possible,
}

/// Examines this host, with KVM at `device`.
pub fn examine(device: &Path) -> Examination {
    let (mut checks, kvm) = checks::device(device);
    if let Some(kvm) = &kvm {
        checks.extend(checks::on_kvm(kvm));
    }
    let processor = kvm.as_ref().and_then(processor);
    checks.extend(counter::checks(processor.as_ref()));
    checks.extend(host::checks());
    Examination {
        host: Host::this(processor),
        possible: Possible::with(&checks),
        checks,
    }
}

fn processor(kvm: &Kvm) -> Option<Processor> {
    Some(Processor::of(&supported_cpuid(kvm).ok()?))
}
