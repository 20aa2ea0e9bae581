//! virtio 1.2 devices over virtio-mmio version 2: disk, network card, entropy source, console.
//!
//! A queue notification is handled at the register write itself: data leaves guest memory there
//! and then (the paper's bounce buffer), and what the world shall do comes out as
//! [`Effect`](crate::Effect)s. Data enters guest memory only in [`VirtioMmio::input`]. So guest
//! memory changes at positions of the log alone, never beside a running vCPU.
//!
//! The driver is hostile input: whatever it puts into its rings ends in an error status of the
//! request or in a [`Fault`] (DEVICE_NEEDS_RESET), with bounded memory. Inputs and saved states
//! come from a peer: what does not fit is a [`VirtioError`] and leaves the device as it was.
//!
//! * `mmio`: the register window and the device's life cycle; `state`: save and restore.
//! * `queue`, `chain`: the rings and the requests in them, parsed once and strictly.
//! * `block`, `net`, `rng`, `console`: the devices; `device`: what they have in common.
//! * `error`: what a driver, and what a peer, can do wrong; `spec`: the specification's numbers.

mod block;
mod chain;
mod console;
mod device;
mod error;
#[cfg(test)]
mod fuzz;
mod mmio;
mod net;
mod queue;
mod rng;
mod spec;
mod state;
#[cfg(test)]
mod testing;

pub use block::{BlockState, DiskConfig, InFlight, Target};
pub use chain::Segment;
pub use console::ConsoleState;
pub use error::{Fault, FaultReason, Ring, VirtioError};
pub use mmio::VirtioMmio;
pub use net::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, NetConfig, NetState};
pub use queue::QueueState;
pub use rng::RngState;
pub use state::{DeviceState, TransportState, VirtioMmioState};

use device::Device;

/// A disk (virtio-blk, section 5.2); `disk` is its index in effects and inputs.
pub fn block(disk: u8, config: &DiskConfig) -> VirtioMmio {
    VirtioMmio::new(Device::Block(block::Block::new(disk, config)))
}

/// A network card (virtio-net, section 5.1) without offloads.
pub fn net(config: &NetConfig) -> VirtioMmio {
    VirtioMmio::new(Device::Net(net::Net::new(config)))
}

/// An entropy source (virtio-rng, section 5.4).
pub fn rng() -> VirtioMmio {
    VirtioMmio::new(Device::Rng(rng::Rng::new()))
}

/// A console with one port (virtio-console, section 5.3).
pub fn console() -> VirtioMmio {
    VirtioMmio::new(Device::Console(console::Console::new()))
}
