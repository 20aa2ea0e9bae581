//! What a clone copies: RAM, and behind it the disks, where each host has its own. Both are pages with numbers,
//! those of the disks behind those of RAM.

use std::io;

use devices::layout::PAGE_BYTES;
use vmm::VmmError;
use vmm::kvm::{DirtyRam, Reader};
use vmm::memory::{PageSet, Ram, ram_bytes, read_page, touched_pages};

use super::telling::PAGE;
use crate::host::disk::DiskPages;

/// Of a guest that runs.
pub struct Copied {
    /// Its RAM.
    pub ram: DirtyRam,
    /// Its disks, if they are copied.
    pub disks: Option<DiskPages>,
}

impl Copied {
    fn ram_pages(&self) -> u64 {
        ram_bytes(self.ram.memory()) / PAGE_BYTES
    }

    /// Number of pages.
    pub fn count(&self) -> u64 {
        self.ram_pages() + self.disks.as_ref().map_or(0, DiskPages::count)
    }

    /// Begins to remember which pages are written.
    pub fn watch(&self) -> Result<(), VmmError> {
        if let Some(disks) = &self.disks {
            disks.watch();
        }
        self.ram.log(Reader::Clone, true)
    }

    /// No pages.
    pub fn no_pages(&self) -> PageSet {
        PageSet::empty(self.count() * PAGE_BYTES)
    }

    /// Takes the pages that were written since the last call.
    pub fn take_dirty(&self, into: &mut PageSet) -> Result<(), VmmError> {
        let first = self.ram_pages();
        if let Some(disks) = &self.disks {
            disks.take_written(|page| into.insert(first + page));
        }
        self.ram.take_dirty(Reader::Clone, into)
    }

    /// Pages that may hold something else than zeros.
    pub fn touched(&self) -> PageSet {
        let mut pages = self.no_pages();
        for gfn in self.ram.touched().iter() {
            pages.insert(gfn);
        }
        for page in self.ram_pages()..self.count() {
            pages.insert(page);
        }
        pages
    }

    /// Reads a page.
    ///
    /// # Errors
    /// It is one of a disk that can't be read there.
    pub fn read(&self, page: u64, into: &mut [u8; PAGE]) -> io::Result<()> {
        match (&self.disks, page.checked_sub(self.ram_pages())) {
            (Some(disks), Some(page)) => disks.read(page, into),
            _ => {
                read_page(self.ram.memory(), page, into);
                Ok(())
            }
        }
    }
}

/// What a joiner has of an earlier copy. Nobody writes to it but the clone for which it is told.
#[derive(Clone)]
pub struct Left {
    /// RAM; none is RAM of zeros.
    pub ram: Option<Ram>,
    /// Size of RAM in bytes.
    pub ram_bytes: u64,
    /// Disks of its own.
    pub disks: Option<DiskPages>,
}

impl Left {
    /// Number of pages.
    pub fn count(&self) -> u64 {
        self.ram_bytes / PAGE_BYTES + self.disks.as_ref().map_or(0, DiskPages::count)
    }

    /// Calls `page` with each page that may hold something else than zeros, in rising order, until it says
    /// `false`.
    ///
    /// # Errors
    /// A disk can't be read.
    pub fn each(&self, mut page: impl FnMut(u64, &[u8; PAGE]) -> bool) -> io::Result<()> {
        let mut bytes = [0; PAGE];
        if let Some(ram) = &self.ram {
            for gfn in touched_pages(ram).iter() {
                read_page(ram, gfn, &mut bytes);
                if !page(gfn, &bytes) {
                    return Ok(());
                }
            }
        }
        if let Some(disks) = &self.disks {
            for number in 0..disks.count() {
                disks.read(number, &mut bytes)?;
                if !page(self.ram_bytes / PAGE_BYTES + number, &bytes) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
