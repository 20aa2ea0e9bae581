//! The host's KVM: what it offers, a VM with one memory slot, and one vCPU without in-kernel
//! interrupt controller.

pub mod exit;
pub mod vcpu;
pub mod vm;

pub use exit::Exit;
pub use vcpu::Vcpu;
pub use vm::{DirtyRam, Vm, open_kvm};
