//! The virtio-mmio register window (virtio 1.2, section 4.2) and the device life cycle (3.1).

use super::chain::Chain;
use super::device::{Device, Rings};
use super::error::{Fault, FaultReason, Stop, VirtioError};
use super::queue::Queue;
use super::spec::{self, feature, interrupt, reg, status};
use super::state::TransportState;
use crate::{DiskRequest, Effect, GuestMemory, Input};

/// A virtio device behind its register window.
#[derive(Debug)]
pub struct VirtioMmio {
    // Configuration and state of its own.
    pub(super) device: Device,
    // Volatile, saved.
    pub(super) transport: TransportState,
    pub(super) queues: Vec<Queue>,
    // Runtime glue.
    chain: Chain,
}

impl VirtioMmio {
    pub(super) fn new(device: Device) -> Self {
        let queues = device.queue_sizes().iter().map(|&size| Queue::new(size));
        VirtioMmio {
            queues: queues.collect(),
            device,
            transport: TransportState::default(),
            chain: Chain::default(),
        }
    }

    /// The guest reads `data.len()` bytes at `offset` of the window. Registers are 32 bits wide
    /// and aligned, the configuration space (from 0x100 on) is read in any width; everything else
    /// reads as zero.
    pub fn read(&mut self, _mem: &GuestMemory, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = offset.checked_sub(reg::CONFIG) {
            self.device.read_config(at, data);
        } else if data.len() == 4 {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let transport = &self.transport;
        let queue = self.queues.get(transport.queue_sel as usize);
        match offset {
            reg::MAGIC_VALUE => spec::MAGIC,
            reg::VERSION => spec::MMIO_VERSION,
            reg::DEVICE_ID => self.device.id(),
            reg::VENDOR_ID => spec::VENDOR,
            reg::DEVICE_FEATURES => match transport.device_features_sel {
                0 => self.offered() as u32,
                1 => (self.offered() >> 32) as u32,
                _ => 0,
            },
            reg::QUEUE_NUM_MAX => queue.map_or(0, |queue| u32::from(queue.size_max())),
            reg::QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.state.ready)),
            reg::INTERRUPT_STATUS => transport.interrupt_status,
            reg::STATUS => transport.status,
            // All ones: there is no shared memory region (section 4.2.2).
            reg::SHM_LEN_LOW | reg::SHM_LEN_HIGH | reg::SHM_BASE_LOW | reg::SHM_BASE_HIGH => {
                u32::MAX
            }
            // The configuration space never changes.
            reg::CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    /// The guest writes `data` at `offset` of the window. Writes that are not 32 bits wide, go to
    /// no register or come at the wrong time (such as queue addresses after DRIVER_OK) are
    /// ignored. What the device asks of the world is pushed to `effects`.
    pub fn write(
        &mut self,
        mem: &GuestMemory,
        offset: u64,
        data: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        // The configuration space has no writable field with the features offered here.
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            reg::DEVICE_FEATURES_SEL => self.transport.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.transport.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.write_driver_features(value),
            reg::QUEUE_SEL => self.transport.queue_sel = value,
            reg::QUEUE_NOTIFY => self.notify(mem, value, effects),
            reg::INTERRUPT_ACK => self.transport.interrupt_status &= !value,
            reg::STATUS => self.write_status(mem, value, effects),
            _ => self.write_queue_register(mem, offset, value),
        }
    }

    fn write_driver_features(&mut self, value: u32) {
        let transport = &mut self.transport;
        if transport.status & status::FEATURES_OK != 0 {
            return;
        }
        let shift = match transport.driver_features_sel {
            0 => 0,
            1 => 32,
            _ => return,
        };
        transport.driver_features &= !(u64::from(u32::MAX) << shift);
        transport.driver_features |= u64::from(value) << shift;
    }

    fn write_status(&mut self, mem: &GuestMemory, value: u32, effects: &mut Vec<Effect>) {
        if value == 0 {
            self.reset();
            return;
        }
        let old = self.transport.status;
        // A driver may set bits but clears none except by a reset (section 2.1.1).
        let mut new = old | (value & status::DRIVERS);
        let features = self.transport.driver_features;
        let acceptable = features & !self.offered() == 0 && features & feature::VERSION_1 != 0;
        if !acceptable {
            // The driver reads FEATURES_OK back and finds it refused (section 3.1.1).
            new &= !status::FEATURES_OK | old;
        }
        if new & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
        }
        if new & !old & status::FEATURES_OK != 0 {
            for queue in &mut self.queues {
                queue.set_features(features);
            }
        }
        self.transport.status = new;
        if new & !old & status::FAILED != 0 {
            self.device.abandon();
        }
        if new & !old & status::DRIVER_OK != 0 {
            // A driver may fill its rings before DRIVER_OK, and need not notify afterwards.
            self.notify(mem, 0, effects);
        }
    }

    fn reset(&mut self) {
        self.transport = TransportState::default();
        for queue in &mut self.queues {
            queue.reset();
        }
        self.device.abandon();
    }

    /// Queues are set up between FEATURES_OK and DRIVER_OK (section 3.1.1, step 7); nothing else
    /// may move a ring under the device.
    fn write_queue_register(&mut self, mem: &GuestMemory, offset: u64, value: u32) {
        let phase = status::FEATURES_OK | status::DRIVER_OK | status::FAILED | status::NEEDS_RESET;
        let selected = self.transport.queue_sel;
        let Some(queue) = self.queues.get_mut(selected as usize) else {
            return;
        };
        if self.transport.status & phase != status::FEATURES_OK || queue.state.ready {
            return;
        }
        let low = |address: &mut u64| *address = *address >> 32 << 32 | u64::from(value);
        let high = |address: &mut u64| {
            *address = u64::from(value) << 32 | *address & u64::from(u32::MAX);
        };
        let mut outcome = Ok(());
        match offset {
            reg::QUEUE_NUM => outcome = queue.set_size(value),
            reg::QUEUE_READY if value & 1 != 0 => outcome = queue.make_ready(mem),
            reg::QUEUE_DESC_LOW => low(&mut queue.state.desc_table),
            reg::QUEUE_DESC_HIGH => high(&mut queue.state.desc_table),
            reg::QUEUE_DRIVER_LOW => low(&mut queue.state.avail_ring),
            reg::QUEUE_DRIVER_HIGH => high(&mut queue.state.avail_ring),
            reg::QUEUE_DEVICE_LOW => low(&mut queue.state.used_ring),
            reg::QUEUE_DEVICE_HIGH => high(&mut queue.state.used_ring),
            _ => {}
        }
        if let Err(reason) = outcome {
            // Below the number of queues, as `queue` was found.
            self.fail(selected as u16, reason);
        }
    }

    fn notify(&mut self, mem: &GuestMemory, index: u32, effects: &mut Vec<Effect>) {
        let index = index as usize;
        if !self.transport.is_live() || index >= self.queues.len() {
            return;
        }
        let mut interrupt = false;
        let mut rings = Rings {
            mem,
            queues: &mut self.queues,
            chain: &mut self.chain,
            features: self.transport.driver_features,
            interrupt: &mut interrupt,
        };
        let outcome = self.device.notify(&mut rings, index, effects);
        self.raise(interrupt);
        if let Err(reason) = outcome {
            self.fail(index as u16, reason);
        }
    }

    /// Whether the level-triggered interrupt line is up: InterruptStatus is not zero.
    pub fn interrupt_line(&self) -> bool {
        self.transport.interrupt_status != 0
    }

    /// Applies an input that is for this device; consequences are pushed to `effects`.
    ///
    /// # Errors
    /// The input fits no request of this device. Nothing changed.
    pub fn input(
        &mut self,
        mem: &GuestMemory,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Result<(), VirtioError> {
        let mut interrupt = false;
        let mut rings = self.transport.is_live().then_some(Rings {
            mem,
            queues: &mut self.queues,
            chain: &mut self.chain,
            features: self.transport.driver_features,
            interrupt: &mut interrupt,
        });
        let outcome = self.device.input(rings.as_mut(), input, effects);
        self.raise(interrupt);
        match outcome {
            Ok(()) => Ok(()),
            Err(Stop::Input(error)) => Err(error),
            // Queue 0 is the one that takes inputs, in every device here.
            Err(Stop::Driver(reason)) => {
                self.fail(0, reason);
                Ok(())
            }
        }
    }

    /// Disk requests that were emitted and are not complete, in order of their identifiers, with
    /// the data of writes. Those made before a reset of the device are among them, because later
    /// requests wait for them. Empty for other devices.
    pub fn outstanding(&self) -> Vec<DiskRequest> {
        match &self.device {
            Device::Block(block) => block.outstanding(),
            _ => Vec::new(),
        }
    }

    /// How many bytes of entropy were asked for by the last
    /// [`EntropyWanted`](Effect::EntropyWanted) and have not come; whoever goes live asks its own
    /// host for them again.
    pub fn entropy_wanted(&self) -> Option<u32> {
        match &self.device {
            Device::Rng(rng) => rng.wanted(),
            _ => None,
        }
    }

    /// Whether a received frame would find a buffer. False for other devices.
    pub fn can_accept_rx(&self) -> bool {
        match &self.device {
            Device::Net(net) => self.transport.is_live() && net.can_accept(),
            _ => false,
        }
    }

    /// What the driver did wrong, if the device stopped because of it and was not reset since.
    pub fn fault(&self) -> Option<Fault> {
        self.transport.fault
    }

    /// The feature bits the device offers.
    pub(super) fn offered(&self) -> u64 {
        self.device.features() | feature::COMMON
    }

    fn raise(&mut self, wanted: bool) {
        if wanted {
            self.transport.interrupt_status |= interrupt::USED_BUFFER;
        }
    }

    /// Stops the device until the driver resets it (section 2.1.2).
    fn fail(&mut self, queue: u16, reason: FaultReason) {
        if self.transport.status & status::DRIVER_OK != 0 {
            self.transport.interrupt_status |= interrupt::CONFIG_CHANGE;
        }
        self.transport.status |= status::NEEDS_RESET;
        self.transport.fault = Some(Fault { queue, reason });
        self.device.abandon();
    }
}

#[cfg(test)]
mod tests;
