//! Guest RAM, and which of its pages were written since when.
//!
//! Two writers exist: the vCPU (KVM's dirty log) and the device models (vm-memory's bitmap). A
//! snapshot carries the union of both.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;

use devices::GuestMemory;
use devices::layout::{PAGE_BYTES, RAM_BYTES_MAX};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
    mmap::MmapRegionBuilder,
};

use crate::error::VmmError;

mod touched;

pub use touched::touched_pages;

/// Bytes of a huge page. KVM maps RAM by huge pages only where guest-physical and host-virtual
/// address agree modulo this, and by 4 KiB pages, each with a fault of its own, elsewhere.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Guest RAM and the mapping it lies in, which goes when the last clone goes.
#[derive(Clone)]
pub struct Ram {
    memory: GuestMemory,
    mapping: Arc<Mapping>,
}

impl std::ops::Deref for Ram {
    type Target = GuestMemory;

    fn deref(&self) -> &GuestMemory {
        &self.memory
    }
}

impl Ram {
    /// Makes `bytes` of guest RAM from guest-physical address 0. `bytes` is a multiple of 4096 and
    /// at most 3 GiB.
    pub fn allocate(bytes: u64) -> Result<Ram, VmmError> {
        let refuse = |why: String| VmmError::Memory { bytes, why };
        if bytes == 0 || !bytes.is_multiple_of(PAGE_BYTES) || bytes > RAM_BYTES_MAX {
            return Err(refuse(format!(
                "must be a multiple of {PAGE_BYTES} between {PAGE_BYTES} and {RAM_BYTES_MAX}"
            )));
        }
        let mapping = Mapping::new(bytes as usize).map_err(|error| refuse(error.to_string()))?;
        let region = mapping.region(bytes as usize).map_err(refuse)?;
        let region = GuestRegionMmap::new(region, GuestAddress(0))
            .ok_or_else(|| refuse("address overflow".to_owned()))?;
        let memory =
            GuestMemory::from_regions(vec![region]).map_err(|error| refuse(error.to_string()))?;
        Ok(Ram {
            memory,
            mapping: Arc::new(mapping),
        })
    }

    /// Where guest-physical address 0 is in this process.
    pub fn host_address(&self) -> u64 {
        self.mapping.aligned() as u64
    }
}

/// Anonymous memory, large enough to hold RAM at a multiple of [`HUGE_PAGE_BYTES`].
struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: an address and a length; whoever reads and writes there does so through vm-memory's
// volatile accesses, from any thread.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    #[allow(unsafe_code)]
    fn new(ram_bytes: usize) -> nix::Result<Mapping> {
        let bytes = ram_bytes + HUGE_PAGE_BYTES;
        let length = NonZeroUsize::new(bytes).ok_or(nix::Error::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping wherever the kernel likes touches no existing memory.
        let start = unsafe { mmap_anonymous(None, length, protection, flags)? };
        let mapping = Mapping { start, bytes };
        let ram = mapping
            .start
            .map_addr(|start| start.saturating_add(mapping.aligned() - start.get()));
        // A child has no use for it, and so it is a mapping of its own in /proc/PID/maps, whatever
        // lies beside it: who looks from outside can find it.
        // SAFETY: the advice changes nothing in this process; the range lies within the mapping.
        unsafe { madvise(ram, ram_bytes, MmapAdvise::MADV_DONTFORK)? };
        Ok(mapping)
    }

    fn aligned(&self) -> usize {
        (self.start.as_ptr() as usize).next_multiple_of(HUGE_PAGE_BYTES)
    }

    #[allow(unsafe_code)]
    fn region(&self, ram_bytes: usize) -> Result<MmapRegion<AtomicBitmap>, String> {
        let page = NonZeroUsize::new(PAGE_BYTES as usize).ok_or("page size")?;
        let builder =
            MmapRegionBuilder::new_with_bitmap(ram_bytes, AtomicBitmap::new(ram_bytes, page))
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: `ram_bytes` from the aligned address on lie within the mapping, which is larger
        // by the alignment, and `Ram` keeps it for as long as it hands the region out.
        let builder = unsafe { builder.with_raw_mmap_pointer(self.aligned() as *mut u8) };
        builder.build().map_err(|error| error.to_string())
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: made by `new`, and no clone of the `Ram` that it belongs to is left.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

/// Size of guest RAM in bytes.
pub fn ram_bytes(memory: &GuestMemory) -> u64 {
    memory.iter().map(|r| r.len()).sum()
}

/// A set of guest pages, one bit a page, least significant bit first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// The empty set over `ram_bytes` of RAM.
    pub fn empty(ram_bytes: u64) -> PageSet {
        let pages = ram_bytes / PAGE_BYTES;
        PageSet {
            words: vec![0; pages.div_ceil(64) as usize],
        }
    }

    /// Adds the pages of `bitmap`; words beyond the RAM are ignored.
    pub fn add(&mut self, bitmap: &[u64]) {
        for (word, more) in self.words.iter_mut().zip(bitmap) {
            *word |= more;
        }
    }

    /// Adds the pages of another set.
    pub fn merge(&mut self, other: &PageSet) {
        self.add(&other.words);
    }

    /// Adds one page, if it is RAM.
    pub fn insert(&mut self, gfn: u64) {
        if let Some(word) = self.words.get_mut((gfn / 64) as usize) {
            *word |= 1 << (gfn % 64);
        }
    }

    /// Whether a page is in the set.
    pub fn contains(&self, gfn: u64) -> bool {
        let word = usize::try_from(gfn / 64)
            .ok()
            .and_then(|at| self.words.get(at));
        word.is_some_and(|word| word >> (gfn % 64) & 1 != 0)
    }

    /// Number of pages in the set.
    pub fn len(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Guest frame numbers in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros() as u64;
                rest &= rest - 1;
                Some(index as u64 * 64 + bit)
            })
        })
    }
}

/// Takes (and clears) the pages that device models wrote.
pub fn take_device_dirty(memory: &GuestMemory, into: &mut PageSet) {
    for region in memory.iter() {
        into.add(&(**region).bitmap().get_and_reset());
    }
}

/// Reads page `gfn` into `page`; all zero when it is not RAM.
pub fn read_page(memory: &GuestMemory, gfn: u64, page: &mut [u8; PAGE_BYTES as usize]) {
    if memory
        .read_slice(page, GuestAddress(gfn * PAGE_BYTES))
        .is_err()
    {
        page.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_writes_are_found_once() {
        let memory = Ram::allocate(1 << 20).unwrap();
        memory
            .write_obj(7u32, GuestAddress(5 * 4096 + 4094))
            .unwrap();
        let mut dirty = PageSet::empty(1 << 20);
        take_device_dirty(&memory, &mut dirty);
        assert_eq!(dirty.iter().collect::<Vec<_>>(), [5, 6]);
        dirty.clear();
        take_device_dirty(&memory, &mut dirty);
        assert!(dirty.is_empty());
    }

    #[test]
    fn a_set_has_the_pages_that_were_added_and_no_others() {
        let mut set = PageSet::empty(1 << 20);
        for gfn in [0, 63, 64, 255, 256, u64::MAX] {
            set.insert(gfn);
        }
        let found: Vec<u64> = (0..300).filter(|gfn| set.contains(*gfn)).collect();
        assert_eq!(found, [0, 63, 64, 255]);
        assert_eq!(found, set.iter().collect::<Vec<_>>());
        assert!(!set.contains(256) && !set.contains(u64::MAX));
    }

    #[test]
    fn ram_is_aligned_for_huge_pages() {
        let memories: Vec<_> = (0..4).map(|_| Ram::allocate(16 << 20).unwrap()).collect();
        for memory in &memories {
            let host = memory.host_address() as usize;
            assert_eq!(host % HUGE_PAGE_BYTES, 0);
        }
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for bytes in [0, 4095, RAM_BYTES_MAX + 4096] {
            assert!(Ram::allocate(bytes).is_err());
        }
    }
}
