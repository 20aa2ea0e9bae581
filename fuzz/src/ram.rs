//! Guest RAM between two pages that nobody may touch, so that an access beside it ends the process; the
//! guest's own accesses leave no trace in the dirty bitmap, a device's do.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use devices::GuestMemory;
use devices::layout::PAGE_BYTES;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap};

const PAGE: usize = PAGE_BYTES as usize;

/// RAM of a guest from address 0 on.
pub struct Ram {
    memory: GuestMemory,
    mapping: NonNull<std::ffi::c_void>,
    len: usize,
}

impl Ram {
    /// `len` bytes of zeros, a multiple of a page.
    ///
    /// # Panics
    /// The host has no memory.
    #[allow(unsafe_code)]
    pub fn new(len: usize) -> Ram {
        let all = NonZeroUsize::new(len + 2 * PAGE).expect("not 0");
        let (none, both) = (
            ProtFlags::PROT_NONE,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        );
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping wherever the kernel likes touches no existing memory.
        let mapping = unsafe { mmap_anonymous(None, all, none, flags) }.expect("address space");
        let start = mapping.map_addr(|at| at.saturating_add(PAGE));
        // SAFETY: a part of the mapping, which nothing refers to yet.
        unsafe { mprotect(start, len, both) }.expect("a part of the mapping");
        let page = NonZeroUsize::new(PAGE).expect("not 0");
        let builder = MmapRegionBuilder::new_with_bitmap(len, AtomicBitmap::new(len, page))
            .with_mmap_prot(3)
            .with_mmap_flags(MapFlags::MAP_PRIVATE.bits() | MapFlags::MAP_ANONYMOUS.bits());
        // SAFETY: `len` bytes from there on can be read and written until the drop of this value, which
        // hands the region out by reference only.
        let region = unsafe { builder.with_raw_mmap_pointer(start.as_ptr().cast()) };
        let region = region.build().expect("a region");
        let region = GuestRegionMmap::new(region, GuestAddress(0)).expect("from 0 on");
        Ram {
            memory: GuestMemory::from_regions(vec![region]).expect("one region"),
            mapping,
            len,
        }
    }

    /// As devices see it.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// As the guest sees it.
    #[allow(unsafe_code)]
    pub fn bytes(&mut self) -> &mut [u8] {
        let start = self.mapping.map_addr(|at| at.saturating_add(PAGE));
        // SAFETY: these bytes can be read and written, and no device runs meanwhile: `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), self.len) }
    }

    /// Writes as the guest does; what lies beyond RAM is left out.
    pub fn poke(&mut self, address: u64, data: &[u8]) {
        let Some(start) = usize::try_from(address).ok().filter(|at| *at < self.len) else {
            return;
        };
        let len = data.len().min(self.len - start);
        self.bytes()[start..start + len].copy_from_slice(&data[..len]);
    }

    /// Two bytes at `address`, 0 beyond RAM.
    pub fn u16_at(&mut self, address: u64) -> u16 {
        let at = usize::try_from(address).unwrap_or(usize::MAX);
        let bytes = self.bytes().get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
    }

    /// Zeros, and no page dirty.
    pub fn clear(&mut self) {
        self.bytes().fill(0);
        self.take_dirty();
    }

    /// The pages that devices wrote since the last call, one bit a page.
    pub fn take_dirty(&self) -> Vec<u64> {
        let region = self.memory.iter().next().expect("one region");
        debug_assert_eq!(region.len() as usize, self.len);
        (**region).bitmap().get_and_reset()
    }
}

impl Drop for Ram {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: made by `new`; nothing that was handed out outlives this value.
        let _ = unsafe { munmap(self.mapping, self.len + 2 * PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes as _;

    #[test]
    fn a_device_leaves_a_trace_and_the_guest_does_not() {
        let mut ram = Ram::new(4 * PAGE);
        ram.poke(PAGE as u64, &[1, 2]);
        assert_eq!(ram.take_dirty(), [0]);
        assert_eq!(ram.u16_at(PAGE as u64), 0x201);
        ram.memory()
            .write_obj(7u8, GuestAddress(2 * PAGE_BYTES))
            .unwrap();
        assert_eq!(ram.take_dirty(), [4]);
        assert_eq!(ram.bytes()[2 * PAGE], 7);
        assert!(
            ram.memory()
                .write_obj(7u8, GuestAddress(4 * PAGE_BYTES))
                .is_err()
        );
    }
}
