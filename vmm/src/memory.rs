//! Guest RAM, and which of its pages were written since when.
//!
//! Two writers exist: the vCPU (KVM's dirty log) and the device models (vm-memory's bitmap). A
//! snapshot carries the union of both.

use devices::GuestMemory;
use devices::layout::{PAGE_BYTES, RAM_BYTES_MAX};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use crate::error::VmmError;

/// Makes `bytes` of guest RAM from guest-physical address 0. `bytes` is a multiple of 4096 and at
/// most 3 GiB.
pub fn allocate(bytes: u64) -> Result<GuestMemory, VmmError> {
    let refuse = |why: String| VmmError::Memory { bytes, why };
    if bytes == 0 || bytes % PAGE_BYTES != 0 || bytes > RAM_BYTES_MAX {
        return Err(refuse(format!(
            "must be a multiple of {PAGE_BYTES} between {PAGE_BYTES} and {RAM_BYTES_MAX}"
        )));
    }
    let region = MmapRegion::<AtomicBitmap>::new(bytes as usize).map_err(|e| refuse(e.to_string()))?;
    let region = GuestRegionMmap::new(region, GuestAddress(0))
        .ok_or_else(|| refuse("address overflow".to_owned()))?;
    GuestMemory::from_regions(vec![region]).map_err(|e| refuse(e.to_string()))
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
        PageSet { words: vec![0; pages.div_ceil(64) as usize] }
    }

    /// Adds the pages of `bitmap`; words beyond the RAM are ignored.
    pub fn add(&mut self, bitmap: &[u64]) {
        for (word, more) in self.words.iter_mut().zip(bitmap) {
            *word |= more;
        }
    }

    /// Adds one page, if it is RAM.
    pub fn insert(&mut self, gfn: u64) {
        if let Some(word) = self.words.get_mut((gfn / 64) as usize) {
            *word |= 1 << (gfn % 64);
        }
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
    if memory.read_slice(page, GuestAddress(gfn * PAGE_BYTES)).is_err() {
        page.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_writes_are_found_once() {
        let memory = allocate(1 << 20).unwrap();
        memory.write_obj(7u32, GuestAddress(5 * 4096 + 4094)).unwrap();
        let mut dirty = PageSet::empty(1 << 20);
        take_device_dirty(&memory, &mut dirty);
        assert_eq!(dirty.iter().collect::<Vec<_>>(), [5, 6]);
        dirty.clear();
        take_device_dirty(&memory, &mut dirty);
        assert!(dirty.is_empty());
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for bytes in [0, 4095, RAM_BYTES_MAX + 4096] {
            assert!(allocate(bytes).is_err());
        }
    }
}
