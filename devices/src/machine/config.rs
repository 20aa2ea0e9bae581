//! What devices a machine has, and where they are.

use serde::{Deserialize, Serialize};

use crate::layout::{VIRTIO_GSI_BASE, VIRTIO_MMIO_BASE, VIRTIO_MMIO_COUNT, VIRTIO_MMIO_STRIDE};
use crate::virtio::{self, DiskConfig, NetConfig, VirtioMmio};

/// A machine's devices. Both hosts must have the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// What the RTC shows at power-on, in seconds since 1970 (UTC).
    pub boot_unix_seconds: u64,
    /// The disks, in the order of their indices.
    pub disks: Vec<DiskConfig>,
    /// The network card, if there is one.
    pub net: Option<NetConfig>,
    /// Whether there is a virtio-rng.
    pub rng: bool,
    /// Whether there is a virtio-console.
    pub console: bool,
}

/// Which device is in a virtio-mmio window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The disk with this index.
    Disk(u8),
    /// The network card.
    Net,
    /// The entropy source.
    Rng,
    /// The console.
    Console,
}

impl MachineConfig {
    /// The device of each window, from window 0 on: disks, network card, entropy source, console.
    /// There are [`VIRTIO_MMIO_COUNT`] windows; see [`MachineConfig::fits`].
    pub fn slots(&self) -> Vec<Slot> {
        let disks = (0u8..=u8::MAX)
            .zip(&self.disks)
            .map(|(index, _)| Slot::Disk(index));
        disks
            .chain(self.net.is_some().then_some(Slot::Net))
            .chain(self.rng.then_some(Slot::Rng))
            .chain(self.console.then_some(Slot::Console))
            .take(VIRTIO_MMIO_COUNT)
            .collect()
    }

    /// Whether all devices find a window. Those that don't are left out of the machine.
    pub fn fits(&self) -> bool {
        let others = [self.net.is_some(), self.rng, self.console];
        let devices = self.disks.len() + others.iter().filter(|present| **present).count();
        devices <= VIRTIO_MMIO_COUNT
    }

    /// The devices, one for each of [`MachineConfig::slots`].
    pub(super) fn build(&self) -> Vec<VirtioMmio> {
        self.slots()
            .into_iter()
            .filter_map(|slot| match slot {
                Slot::Disk(index) => {
                    Some(virtio::block(index, self.disks.get(usize::from(index))?))
                }
                Slot::Net => self.net.as_ref().map(virtio::net),
                Slot::Rng => Some(virtio::rng()),
                Slot::Console => Some(virtio::console()),
            })
            .collect()
    }
}

/// Base address and GSI of window `index`.
pub(super) fn window(index: usize) -> (u64, u32) {
    let base = VIRTIO_MMIO_BASE + index as u64 * VIRTIO_MMIO_STRIDE;
    (base, VIRTIO_GSI_BASE + index as u32)
}
