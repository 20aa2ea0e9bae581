//! What the transport and its four devices need of each other.

use super::block::Block;
use super::chain::Chain;
use super::console::Console;
use super::error::{FaultReason, Stop};
use super::net::Net;
use super::queue::Queue;
use super::rng::Rng;
use super::{block, console, net, rng};
use crate::{Effect, GuestMemory, Input};

/// A live device's way to its driver: exists only between DRIVER_OK and a reset or a fault.
pub(super) struct Rings<'a> {
    pub mem: &'a GuestMemory,
    pub queues: &'a mut [Queue],
    /// Scratch for the chain at hand.
    pub chain: &'a mut Chain,
    /// Features the driver accepted.
    pub features: u64,
    /// Set when the driver wants to know of used buffers.
    pub interrupt: &'a mut bool,
}

impl Rings<'_> {
    /// Asks for an interrupt if the driver wants one for what `queue` used since `used_before`.
    pub fn interrupt_for(&mut self, queue: usize, used_before: u16) -> Result<(), FaultReason> {
        if self.queues[queue].interrupt_wanted(self.mem, used_before)? {
            *self.interrupt = true;
        }
        Ok(())
    }
}

/// The device behind a window.
#[derive(Debug)]
pub(super) enum Device {
    Block(Block),
    Net(Net),
    Rng(Rng),
    Console(Console),
}

impl Device {
    /// Device ID of section 5.
    pub fn id(&self) -> u32 {
        match self {
            Device::Net(_) => 1,
            Device::Block(_) => 2,
            Device::Console(_) => 3,
            Device::Rng(_) => 4,
        }
    }

    /// The name used in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Device::Block(_) => "virtio-blk",
            Device::Net(_) => "virtio-net",
            Device::Rng(_) => "virtio-rng",
            Device::Console(_) => "virtio-console",
        }
    }

    /// Largest size of each of the device's queues.
    pub fn queue_sizes(&self) -> &'static [u16] {
        match self {
            Device::Block(_) => block::QUEUE_SIZES,
            Device::Net(_) => net::QUEUE_SIZES,
            Device::Rng(_) => rng::QUEUE_SIZES,
            Device::Console(_) => console::QUEUE_SIZES,
        }
    }

    /// Feature bits of the device's own kind.
    pub fn features(&self) -> u64 {
        match self {
            Device::Block(block) => block.features(),
            Device::Net(net) => net.features(),
            Device::Rng(_) | Device::Console(_) => 0,
        }
    }

    /// Reads the configuration space from `offset` on; bytes beyond it stay as they are.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        match self {
            Device::Block(block) => copy_config(&block.config_space(), offset, data),
            Device::Net(net) => copy_config(&net.config_space(), offset, data),
            // No size, no multiport, no emergency write: nothing to read.
            Device::Rng(_) | Device::Console(_) => {}
        }
    }

    /// The driver made chains available in `queue`.
    pub fn notify(
        &mut self,
        rings: &mut Rings<'_>,
        queue: usize,
        effects: &mut Vec<Effect>,
    ) -> Result<(), FaultReason> {
        match self {
            Device::Block(block) => block.process(rings, effects),
            Device::Net(net) => net.notify(rings, queue, effects),
            Device::Rng(rng) => rng.serve(rings, effects),
            Device::Console(console) => console.notify(rings, queue, effects),
        }
    }

    /// An input arrived; `rings` is there when the driver is.
    pub fn input(
        &mut self,
        rings: Option<&mut Rings<'_>>,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        match self {
            Device::Block(block) => block.input(rings, input, effects),
            Device::Net(net) => net.input(rings, input),
            Device::Rng(rng) => rng.input(rings, input, effects),
            Device::Console(console) => console.input(rings, input),
        }
    }

    /// The driver is gone (reset) or not to be trusted (fault): nothing of its queues is touched
    /// from here on.
    pub fn abandon(&mut self) {
        match self {
            Device::Block(block) => block.abandon(),
            Device::Net(net) => net.abandon(),
            Device::Rng(_) => {}
            Device::Console(console) => console.abandon(),
        }
    }
}

fn copy_config(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|start| space.get(start..))
        .unwrap_or_default();
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
}
