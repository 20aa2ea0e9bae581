//! The host's KVM: what it offers, a VM with one memory slot, and one vCPU without in-kernel
//! interrupt controller, and the kick that stops it.

pub mod counter;
mod dirty;
mod exit;
pub mod kick;
pub mod vcpu;
pub mod vm;

pub use counter::Counter;
pub use dirty::{DirtyRam, Reader};
pub use exit::Exit;
pub use kick::{Kick, KickTimer};
pub use vcpu::{BREAKPOINTS, Vcpu};
pub use vm::{DEVICE, Vm, missing_capabilities, open_device, open_kvm};
