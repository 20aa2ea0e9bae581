//! A split virtqueue (virtio 1.2, section 2.7), the device's side.
//!
//! Guest memory is touched only while the vCPU is stopped (the paper's bounce buffer), so plain
//! loads and stores do: no barrier, and no second look after enabling notifications.
//! `virtio_queue::Queue` is not used because it ignores VIRTQ_AVAIL_F_NO_INTERRUPT, hides state
//! (`num_added`) that would be lost on restore, and takes a broken chain for a short one.

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, Le16, Permissions};

use super::chain::Chain;
use super::error::{FaultReason, Ring};
use super::spec::feature;
use crate::{GuestMemory, RestoreError};

/// VIRTQ_AVAIL_F_NO_INTERRUPT.
const AVAIL_NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY.
const USED_NO_NOTIFY: u16 = 1;

/// State of a virtqueue: what the driver set up, and how far the device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Descriptors in the queue (QueueNum), a power of two.
    pub size: u16,
    /// QueueReady.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest-physical address of the available ring.
    pub avail_ring: u64,
    /// Guest-physical address of the used ring.
    pub used_ring: u64,
    /// Index of the next available entry to take, free-running.
    pub next_avail: u16,
    /// Index of the next used entry to write, free-running.
    pub next_used: u16,
}

/// A virtqueue.
#[derive(Debug)]
pub struct Queue {
    // Configuration.
    size_max: u16,
    // Volatile, saved.
    pub(super) state: QueueState,
    // Volatile, follows from the negotiated features.
    event_idx: bool,
    indirect: bool,
}

impl Queue {
    pub fn new(size_max: u16) -> Self {
        Queue {
            size_max,
            state: QueueState {
                size: size_max,
                ready: false,
                desc_table: 0,
                avail_ring: 0,
                used_ring: 0,
                next_avail: 0,
                next_used: 0,
            },
            event_idx: false,
            indirect: false,
        }
    }

    pub fn reset(&mut self) {
        *self = Queue::new(self.size_max);
    }

    pub fn size_max(&self) -> u16 {
        self.size_max
    }

    /// Takes over what the driver negotiated.
    pub fn set_features(&mut self, features: u64) {
        self.event_idx = features & feature::RING_EVENT_IDX != 0;
        self.indirect = features & feature::RING_INDIRECT_DESC != 0;
    }

    pub fn set_size(&mut self, size: u32) -> Result<(), FaultReason> {
        match u16::try_from(size) {
            Ok(valid) if valid.is_power_of_two() && valid <= self.size_max => {
                self.state.size = valid;
                Ok(())
            }
            _ => Err(FaultReason::QueueSize { size }),
        }
    }

    /// The three parts with their address, size in bytes and alignment (section 2.7).
    fn parts(&self) -> [(Ring, u64, u64, u64); 3] {
        let size = u64::from(self.state.size);
        [
            (Ring::Descriptor, self.state.desc_table, 16 * size, 16),
            (Ring::Available, self.state.avail_ring, 6 + 2 * size, 2),
            (Ring::Used, self.state.used_ring, 6 + 8 * size, 4),
        ]
    }

    /// Makes the queue live, once its parts proved to be aligned and in RAM.
    pub fn make_ready(&mut self, mem: &GuestMemory) -> Result<(), FaultReason> {
        for (ring, address, bytes, alignment) in self.parts() {
            let access = Permissions::ReadWrite;
            if !address.is_multiple_of(alignment)
                || !mem.check_range(GuestAddress(address), bytes as usize, access)
            {
                return Err(FaultReason::QueueAddress { ring, address });
            }
        }
        self.state.ready = true;
        Ok(())
    }

    /// How many chains the driver made available that were not taken yet.
    pub fn available(&self, mem: &GuestMemory) -> Result<u16, FaultReason> {
        if !self.state.ready {
            return Ok(0);
        }
        let index = read_u16(mem, Ring::Available, self.state.avail_ring, 2)?;
        let claimed = index.wrapping_sub(self.state.next_avail);
        if claimed > self.state.size {
            return Err(FaultReason::AvailableIndex { claimed });
        }
        Ok(claimed)
    }

    /// Takes the next chain; the caller knows by [`Queue::available`] that there is one.
    pub fn take(&mut self, mem: &GuestMemory, chain: &mut Chain) -> Result<(), FaultReason> {
        let slot = u64::from(self.state.next_avail % self.state.size);
        let head = read_u16(mem, Ring::Available, self.state.avail_ring, 4 + 2 * slot)?;
        chain.parse(
            mem,
            self.state.desc_table,
            self.state.size,
            head,
            self.indirect,
        )?;
        self.state.next_avail = self.state.next_avail.wrapping_add(1);
        Ok(())
    }

    /// Puts the last `chains` taken back, as if they had not been taken.
    pub fn untake(&mut self, chains: u16) {
        self.state.next_avail = self.state.next_avail.wrapping_sub(chains);
    }

    /// Hands a chain back to the driver, `written` bytes of its writable part filled.
    pub fn add_used(
        &mut self,
        mem: &GuestMemory,
        head: u16,
        written: u32,
    ) -> Result<(), FaultReason> {
        let slot = u64::from(self.state.next_used % self.state.size);
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        let used_ring = self.state.used_ring;
        let address = offset(Ring::Used, used_ring, 4 + 8 * slot)?;
        mem.write_slice(&element, address)
            .map_err(|_| ring_fault(Ring::Used, used_ring))?;
        self.state.next_used = self.state.next_used.wrapping_add(1);
        write_u16(mem, Ring::Used, used_ring, 2, self.state.next_used)
    }

    /// Index of the next used entry; [`Queue::interrupt_wanted`] takes it as the starting point.
    pub fn next_used(&self) -> u16 {
        self.state.next_used
    }

    /// Whether the driver wants an interrupt for the entries used since `next_used` was
    /// `used_before` (section 2.7.7.2).
    pub fn interrupt_wanted(
        &self,
        mem: &GuestMemory,
        used_before: u16,
    ) -> Result<bool, FaultReason> {
        let added = self.state.next_used.wrapping_sub(used_before);
        if added == 0 {
            return Ok(false);
        }
        let avail_ring = self.state.avail_ring;
        if self.event_idx {
            let at = 4 + 2 * u64::from(self.state.size);
            let used_event = read_u16(mem, Ring::Available, avail_ring, at)?;
            let past = self.state.next_used.wrapping_sub(used_event);
            Ok(past.wrapping_sub(1) < added)
        } else {
            let flags = read_u16(mem, Ring::Available, avail_ring, 0)?;
            Ok(flags & AVAIL_NO_INTERRUPT == 0)
        }
    }

    /// Says whether the driver shall notify the device of the next chain it makes available
    /// (section 2.7.10). Each notification is an exit, so queues that are looked at anyway go
    /// without.
    pub fn set_notify(&self, mem: &GuestMemory, wanted: bool) -> Result<(), FaultReason> {
        if !self.state.ready {
            return Ok(());
        }
        let used_ring = self.state.used_ring;
        if self.event_idx {
            // An avail_event that stays behind is never crossed (but once in 65536 entries, where
            // a needless notification does no harm).
            if wanted {
                let at = 4 + 8 * u64::from(self.state.size);
                write_u16(mem, Ring::Used, used_ring, at, self.state.next_avail)?;
            }
            Ok(())
        } else {
            let flags = if wanted { 0 } else { USED_NO_NOTIFY };
            write_u16(mem, Ring::Used, used_ring, 0, flags)
        }
    }

    /// Whether this queue can have had the state.
    pub fn check(&self, state: &QueueState, device: &'static str) -> Result<(), RestoreError> {
        let QueueState {
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
            next_avail,
            next_used,
        } = *state;
        let check = |valid, field| RestoreError::check(valid, device, field);
        check(
            size.is_power_of_two() && size <= self.size_max,
            "queue.size",
        )?;
        if ready {
            check(desc_table.is_multiple_of(16), "queue.desc_table")?;
            check(avail_ring.is_multiple_of(2), "queue.avail_ring")?;
            check(used_ring.is_multiple_of(4), "queue.used_ring")
        } else {
            check(next_avail == 0, "queue.next_avail")?;
            check(next_used == 0, "queue.next_used")
        }
    }
}

fn ring_fault(ring: Ring, address: u64) -> FaultReason {
    FaultReason::QueueAddress { ring, address }
}

fn offset(ring: Ring, base: u64, at: u64) -> Result<GuestAddress, FaultReason> {
    let address = base.checked_add(at).ok_or(ring_fault(ring, base))?;
    Ok(GuestAddress(address))
}

fn read_u16(mem: &GuestMemory, ring: Ring, base: u64, at: u64) -> Result<u16, FaultReason> {
    let value: Le16 = mem
        .read_obj(offset(ring, base, at)?)
        .map_err(|_| ring_fault(ring, base))?;
    Ok(value.into())
}

fn write_u16(
    mem: &GuestMemory,
    ring: Ring,
    base: u64,
    at: u64,
    value: u16,
) -> Result<(), FaultReason> {
    mem.write_obj(Le16::from(value), offset(ring, base, at)?)
        .map_err(|_| ring_fault(ring, base))
}

#[cfg(test)]
mod tests;
