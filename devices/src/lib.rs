//! Device models as pure state machines: guest access in, [`Effect`]s out.
//!
//! Architecture invariant: **`devices` opens no file or socket, starts no thread and reads no
//! clock.** Everything that crosses inwards is an [`Input`] (which the caller logs or replays);
//! everything that crosses outwards is an [`Effect`]. Two machines that were restored from one
//! [`machine::MachineState`] and are fed the same accesses and inputs stay equal for ever.
//!
//! * [`boundary`]: `Input` and `Effect`, the two ways across the deterministic boundary.
//! * [`layout`]: the guest-physical memory map, I/O ports and interrupt lines.
//! * [`restore`]: why a saved state is refused.
//! * [`machine`]: the whole machine, which is all that the VMM sees of this crate.
//! * [`lapic`], [`ioapic`], [`pic`]: the interrupt controllers.
//! * [`pit`], [`rtc`], [`acpi_pm`]: the timers, the clock, power management.
//! * [`uart`]: the serial console.
//! * [`virtio`]: disk, network card, entropy source and console over virtio-mmio.

pub mod acpi_pm;
pub mod boundary;
pub mod ioapic;
pub mod lapic;
pub mod layout;
pub mod machine;
pub mod pic;
pub mod pit;
pub mod restore;
pub mod rtc;
mod time;
pub mod uart;
pub mod virtio;

pub use boundary::{Console, DiskError, DiskOp, DiskOutcome, DiskRequest, Effect, Input};
pub use machine::{MachinePart, PartVisitor};
pub use restore::RestoreError;

/// Guest RAM as every crate of ftd sees it; the bitmap records pages written by device DMA.
pub type GuestMemory = vm_memory::GuestMemoryMmap<vm_memory::bitmap::AtomicBitmap>;

/// Virtual time in nanoseconds since the guest's power-on. Never goes back.
pub type VirtualNs = u64;
