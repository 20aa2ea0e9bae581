//! The virtual machine monitor: KVM, guest memory, boot, CPU model, the vCPU and its positions.
//!
//! * [`boot`]: a kernel into guest RAM: decompression, RDTSC rewriting, ACPI, registers.
//! * [`clock`]: how positions in the execution are made.
//! * [`cpu_model`]: the CPUs a guest can have, by name, and the MSRs that are closed.
//! * [`image`]: what to boot inside a disk image.
//! * [`kvm`]: the host's KVM: a VM, a vCPU, decoded exits.
//! * [`memory`]: guest RAM and its dirty pages.
//! * [`cpu_state`]: a vCPU's whole state as one value.
//! * [`guest`]: vCPU, RAM and machine together: entering, carrying out exits, snapshots, hashes.
//! * [`probe`]: what the host's KVM really does.

pub mod boot;
pub mod clock;
pub mod cpu_model;
pub mod cpu_state;
pub mod error;
pub mod guest;
pub mod image;
pub mod kvm;
pub mod memory;
pub mod probe;

pub use error::VmmError;
