//! A host's own disks as pages with numbers, so that they are copied as guest RAM is.

use std::io;
use std::sync::Arc;

use devices::{DiskOp, DiskOutcome};

use super::Disk;
use super::written::PAGE_BYTES;

/// All of a guest's disks, one after the other, in pages of 4096 bytes. Of a disk that ends within a page
/// the rest of the page reads as zeros.
#[derive(Debug, Clone)]
pub struct DiskPages {
    disks: Arc<[Arc<Disk>]>,
}

/// Where a page is.
struct Place<'a> {
    disk: &'a Disk,
    offset: u64,
    len: usize,
}

/// Pages of a disk of `capacity` bytes.
fn pages_of(capacity: u64) -> u64 {
    capacity.div_ceil(PAGE_BYTES as u64)
}

impl DiskPages {
    /// The pages of these disks.
    pub fn new(disks: &[Arc<Disk>]) -> DiskPages {
        DiskPages {
            disks: disks.into(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        let disks = self.disks.iter();
        disks.map(|disk| pages_of(disk.capacity_bytes())).sum()
    }

    fn place(&self, mut page: u64) -> io::Result<Place<'_>> {
        for disk in self.disks.iter() {
            let pages = pages_of(disk.capacity_bytes());
            if page < pages {
                let offset = page * PAGE_BYTES as u64;
                let len = (disk.capacity_bytes() - offset).min(PAGE_BYTES as u64) as usize;
                return Ok(Place { disk, offset, len });
            }
            page -= pages;
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a page beyond the last disk",
        ))
    }

    /// Reads page `page`.
    ///
    /// # Errors
    /// The disk can't be read there, or there is no such page.
    pub fn read(&self, page: u64, into: &mut [u8; PAGE_BYTES]) -> io::Result<()> {
        let Place { disk, offset, len } = self.place(page)?;
        let (data, rest) = into.split_at_mut(len);
        rest.fill(0);
        disk.read_exact_at(offset, data)
    }

    /// Writes page `page`; no data are zeros. No request may be under way.
    ///
    /// # Errors
    /// The disk can't be written there, or there is no such page, or `data` isn't one.
    pub fn write(&self, page: u64, data: &[u8]) -> io::Result<()> {
        let Place { disk, offset, len } = self.place(page)?;
        if !data.is_empty() && data.len() != PAGE_BYTES {
            let what = format!("a page of {} bytes", data.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let data = match data.get(..len) {
            Some(data) => data.to_vec(),
            None => vec![0; len],
        };
        match disk.perform(&DiskOp::Write { offset, data }) {
            DiskOutcome::Failed(_) => Err(io::Error::other(format!(
                "{} can't be written (see the log)",
                disk.path().display()
            ))),
            DiskOutcome::Done | DiskOutcome::Read(_) => Ok(()),
        }
    }

    /// Remembers from here on which pages are written.
    pub fn watch(&self) {
        for disk in self.disks.iter() {
            disk.written.start();
        }
    }

    /// Takes the pages that were written since [`DiskPages::watch`] or the last call.
    pub fn take_written(&self, mut page: impl FnMut(u64)) {
        let mut first = 0;
        for disk in self.disks.iter() {
            disk.written.take(|number| page(first + number));
            first += pages_of(disk.capacity_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::disk::DiskOptions;

    fn disk(folder: &Path, name: &str, bytes: u64) -> Arc<Disk> {
        let path = folder.join(name);
        std::fs::File::create(&path)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        let options = DiskOptions {
            format: super::super::DiskFormat::Raw,
            ..DiskOptions::default()
        };
        Arc::new(Disk::open(&path, &options).unwrap())
    }

    #[test]
    fn pages_of_all_disks_are_read_written_and_watched() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (
            disk(folder.path(), "a", 8192 + 512),
            disk(folder.path(), "b", 8192),
        );
        let pages = DiskPages::new(&[Arc::clone(&first), Arc::clone(&second)]);
        assert_eq!(pages.count(), 5);
        pages.watch();
        let page = |byte| [byte; PAGE_BYTES];
        for (number, byte) in [(0, 1), (2, 3), (3, 4)] {
            pages.write(number, &page(byte)).unwrap();
        }
        let mut found = page(9);
        pages.read(2, &mut found).unwrap();
        assert_eq!(found[..512], [3; 512]);
        assert_eq!(found[512..], [0; 3584], "beyond the end of the disk");
        second.read_exact_at(0, &mut found).unwrap();
        assert_eq!(found, page(4));
        let mut written = Vec::new();
        pages.take_written(|number| written.push(number));
        assert_eq!(written, [0, 2, 3]);
        pages.write(0, &[]).unwrap();
        pages.read(0, &mut found).unwrap();
        assert_eq!(found, page(0));
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pages = DiskPages::new(&[disk(folder.path(), "a", 4096)]);
        assert!(pages.write(1, &[]).is_err());
        assert!(pages.read(u64::MAX, &mut [0; PAGE_BYTES]).is_err());
        assert!(pages.write(0, &[1]).is_err());
    }
}
