//! What has to be the same on both sides, and why a peer is turned down.

use devices::layout::PAGE_BYTES;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::message::Generation;

/// What both sides must agree on before one can take the guest over from the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Name of the pair or set of replicas.
    pub vm_id: String,
    /// Name of the CPU model that the guest sees.
    pub cpu_model: String,
    /// Name of the clock that makes positions.
    pub clock: String,
    /// Guest RAM in bytes.
    pub ram_bytes: u64,
    /// A digest of the machine's configuration (devices, command line, kernel, initrd).
    pub machine_digest: [u8; 32],
    /// The disks, in order.
    pub disks: Vec<DiskFacts>,
    /// What keeps both on the same base: a digest of the image's identity (the shared disk's
    /// identifier, or that of the base image), empty when there is none.
    pub image_id: Vec<u8>,
}

/// What is told of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// Its capacity in bytes.
    pub capacity_bytes: u64,
    /// Whether both sides open the very same disk.
    pub shared: bool,
}

impl Facts {
    /// What a clone copies, in pages of 4096 bytes: RAM, and behind it the disks that each side has for itself.
    pub fn pages(&self) -> u64 {
        let own = self.disks.iter().filter(|disk| !disk.shared);
        let disks = own.map(|disk| disk.capacity_bytes.div_ceil(PAGE_BYTES));
        disks.fold(self.ram_bytes / PAGE_BYTES, u64::saturating_add)
    }

    /// Compares the primary's facts (`self`) with a joiner's.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn check(&self, backup: &Facts) -> Result<(), RejectReason> {
        let Facts {
            vm_id,
            cpu_model,
            clock,
            ram_bytes,
            machine_digest,
            disks,
            image_id,
        } = self;
        if *vm_id != backup.vm_id {
            return Err(RejectReason::Vm {
                primary: vm_id.clone(),
                backup: backup.vm_id.clone(),
            });
        }
        if *cpu_model != backup.cpu_model {
            return Err(RejectReason::CpuModel {
                primary: cpu_model.clone(),
                backup: backup.cpu_model.clone(),
            });
        }
        if *clock != backup.clock {
            return Err(RejectReason::Clock {
                primary: clock.clone(),
                backup: backup.clock.clone(),
            });
        }
        if *ram_bytes != backup.ram_bytes {
            return Err(RejectReason::Ram {
                primary: *ram_bytes,
                backup: backup.ram_bytes,
            });
        }
        if disks.len() != backup.disks.len() {
            return Err(RejectReason::DiskCount {
                primary: disks.len() as u32,
                backup: backup.disks.len() as u32,
            });
        }
        for (disk, (ours, theirs)) in disks.iter().zip(&backup.disks).enumerate() {
            let disk = disk as u32;
            if ours.capacity_bytes != theirs.capacity_bytes {
                return Err(RejectReason::DiskSize {
                    disk,
                    primary: ours.capacity_bytes,
                    backup: theirs.capacity_bytes,
                });
            }
            if ours.shared != theirs.shared {
                return Err(RejectReason::DiskShared { disk });
            }
        }
        if *image_id != backup.image_id {
            return Err(RejectReason::Image);
        }
        if *machine_digest != backup.machine_digest {
            return Err(RejectReason::Machine);
        }
        Ok(())
    }
}

/// Why a `Hello` was turned down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum RejectReason {
    /// Another version of the protocol.
    #[error(
        "the primary speaks protocol version {primary}, this backup {backup}: install the same ftd on both hosts"
    )]
    Version {
        /// The primary's.
        primary: u32,
        /// The backup's.
        backup: u32,
    },
    /// Another virtual machine.
    #[error("the primary runs the virtual machine {primary:?}, this backup is for {backup:?}")]
    Vm {
        /// The primary's.
        primary: String,
        /// The backup's.
        backup: String,
    },
    /// Another CPU model.
    #[error("the guest's CPU model is {primary:?} on the primary and {backup:?} on this backup")]
    CpuModel {
        /// The primary's.
        primary: String,
        /// The backup's.
        backup: String,
    },
    /// Another clock.
    #[error(
        "positions are made by clock {primary:?} on the primary and {backup:?} on this backup: start both with the same --clock (`ftd doctor` lists what each host can do)"
    )]
    Clock {
        /// The primary's.
        primary: String,
        /// The backup's.
        backup: String,
    },
    /// Another amount of RAM.
    #[error("the guest has {primary} bytes of RAM on the primary and {backup} on this backup")]
    Ram {
        /// The primary's, in bytes.
        primary: u64,
        /// The backup's, in bytes.
        backup: u64,
    },
    /// Another machine configuration.
    #[error(
        "the guest's devices, kernel or command line differ between the primary and this backup"
    )]
    Machine,
    /// Another number of disks.
    #[error("the guest has {primary} disk(s) on the primary and {backup} on this backup")]
    DiskCount {
        /// The primary's.
        primary: u32,
        /// The backup's.
        backup: u32,
    },
    /// A disk of another size.
    #[error("disk {disk} has {primary} bytes on the primary and {backup} on this backup")]
    DiskSize {
        /// Which disk, from 0.
        disk: u32,
        /// The primary's capacity in bytes.
        primary: u64,
        /// The backup's capacity in bytes.
        backup: u64,
    },
    /// A disk that only one side thinks to be shared.
    #[error("disk {disk} is shared on one of primary and backup only")]
    DiskShared {
        /// Which disk, from 0.
        disk: u32,
    },
    /// Another image.
    #[error("primary and backup were given different disk images")]
    Image,
    /// The primary has as many backups as it takes.
    #[error("the primary has as many backups as it takes (--backups)")]
    HasBackup,
    /// The primary can't take a backup at this moment; try again.
    #[error("the primary cannot take a backup at this moment: {why}")]
    Busy {
        /// Why.
        why: String,
    },
    /// The one that was asked isn't a primary.
    #[error("the host that was asked runs no live copy of the guest")]
    NotPrimary,
    /// The joiner knows of a newer generation than the primary, which has been superseded.
    #[error(
        "the host that was asked is at generation {primary}, but generation {backup} is known: it has been superseded"
    )]
    Superseded {
        /// The primary's.
        primary: Generation,
        /// The joiner's.
        backup: Generation,
    },
}

impl RejectReason {
    /// Whether trying again later can help without anybody changing a configuration.
    pub fn is_temporary(&self) -> bool {
        use RejectReason::{Busy, HasBackup, NotPrimary, Superseded};
        matches!(
            self,
            HasBackup | Busy { .. } | NotPrimary | Superseded { .. }
        )
    }
}
