//! Guest RAM and KVM's log of the pages that are written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::GuestMemory;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use crate::error::VmmError;
use crate::memory::{PageSet, Ram, ram_bytes, take_device_dirty, touched_pages};

/// The slot that holds all of guest RAM.
const RAM_SLOT: u32 = 0;

/// Who wants to know what was written. Each learns of every page, whatever the other has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The log's snapshots.
    Snapshots,
    /// A live clone.
    Clone,
}

/// What is kept for one reader.
#[derive(Debug)]
struct Kept {
    /// It wants KVM's log to be on.
    wants: bool,
    /// Pages that the other one had KVM tell.
    pages: PageSet,
}

/// Guest RAM and its dirty log, for the vCPU's thread and one beside it (the pre-copy of a live clone).
#[derive(Clone)]
pub struct DirtyRam {
    fd: Arc<VmFd>,
    memory: Ram,
    kept: Arc<Mutex<[Kept; 2]>>,
}

impl DirtyRam {
    /// Makes `memory` the RAM of a VM; the log is off.
    pub(super) fn new(fd: Arc<VmFd>, memory: Ram) -> Result<DirtyRam, VmmError> {
        let kept = || Kept {
            wants: false,
            pages: PageSet::empty(ram_bytes(&memory)),
        };
        let kept = Arc::new(Mutex::new([kept(), kept()]));
        let ram = DirtyRam { fd, memory, kept };
        ram.set_log(false)?;
        Ok(ram)
    }

    /// Guest RAM.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// RAM alone, which outlives the VM that it belonged to.
    pub fn into_ram(self) -> Ram {
        self.memory
    }

    fn kept(&self) -> MutexGuard<'_, [Kept; 2]> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether `reader` wants KVM's log of pages that the vCPU writes. Off at first: with it on, KVM maps
    /// every page by itself and faults on its first write.
    ///
    /// # Errors
    /// KVM does not set it.
    pub fn log(&self, reader: Reader, on: bool) -> Result<(), VmmError> {
        let mut kept = self.kept();
        let was = kept.iter().any(|kept| kept.wants);
        let own = &mut kept[reader as usize];
        if !std::mem::replace(&mut own.wants, on) {
            own.pages.clear();
        }
        let is = kept.iter().any(|kept| kept.wants);
        match was == is {
            true => Ok(()),
            false => self.set_log(is),
        }
    }

    #[allow(unsafe_code)]
    fn set_log(&self, on: bool) -> Result<(), VmmError> {
        let bytes = ram_bytes(&self.memory);
        let region = kvm_userspace_memory_region {
            slot: RAM_SLOT,
            flags: if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: 0,
            memory_size: bytes,
            userspace_addr: self.memory.host_address(),
        };
        // SAFETY: the mapping is `bytes` long. Whoever holds the VM's descriptor (the Vm, its
        // vCPU's owner, a DirtyRam) holds a clone of the memory too, so it is not unmapped before.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(VmmError::ioctl("KVM_SET_USER_MEMORY_REGION"))
    }

    /// The pages that were ever written or read: all others are zero, and were not even touched.
    /// Whoever must not miss later writes starts the [log](DirtyRam::log) first.
    pub fn touched(&self) -> PageSet {
        touched_pages(&self.memory)
    }

    /// Moves the pages written (by vCPU or device) since this reader's last call into `into`.
    ///
    /// # Errors
    /// KVM does not tell.
    pub fn take_dirty(&self, reader: Reader, into: &mut PageSet) -> Result<(), VmmError> {
        let mut kept = self.kept();
        let log = self
            .fd
            .get_dirty_log(RAM_SLOT, ram_bytes(&self.memory) as usize)
            .map_err(VmmError::ioctl("KVM_GET_DIRTY_LOG"))?;
        into.add(&log);
        let [snapshots, clone] = &mut *kept;
        let (own, other) = match reader {
            Reader::Snapshots => (snapshots, clone),
            Reader::Clone => (clone, snapshots),
        };
        let mut by_device = PageSet::empty(ram_bytes(&self.memory));
        take_device_dirty(&self.memory, &mut by_device);
        into.merge(&by_device);
        into.merge(&own.pages);
        own.pages.clear();
        if other.wants {
            other.pages.add(&log);
            other.pages.merge(&by_device);
        }
        Ok(())
    }
}
