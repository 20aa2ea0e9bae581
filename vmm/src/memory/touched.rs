//! Which pages of RAM were never touched.
//!
//! RAM is anonymous memory: what nobody has touched has no page in the host, reads as zeros, and
//! would get a page by being read. A guest's RAM is mostly that for a good while.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use devices::layout::PAGE_BYTES;

use super::{PageSet, Ram, ram_bytes};

/// An entry of /proc/self/pagemap, in bytes.
const ENTRY_BYTES: usize = 8;
/// Entries read at once.
const ENTRIES: usize = 8192;
/// Bit 63: present in RAM; bit 62: swapped out (Documentation/admin-guide/mm/pagemap.rst).
const TOUCHED: u64 = 3 << 62;

/// The pages that may hold something else than zeros. All of them, where the host won't tell.
pub fn touched_pages(ram: &Ram) -> PageSet {
    let bytes = ram_bytes(ram);
    let mut pages = PageSet::empty(bytes);
    if let Err(error) = read(ram.host_address(), bytes, &mut pages) {
        tracing::debug!("cannot read /proc/self/pagemap ({error}): every page counts as touched");
        (0..bytes / PAGE_BYTES).for_each(|gfn| pages.insert(gfn));
    }
    pages
}

fn read(address: u64, bytes: u64, pages: &mut PageSet) -> io::Result<()> {
    let map = File::open("/proc/self/pagemap")?;
    let mut buffer = vec![0u8; ENTRIES * ENTRY_BYTES];
    let count = bytes / PAGE_BYTES;
    let mut gfn = 0;
    while gfn < count {
        let here = usize::try_from(count - gfn).unwrap_or(ENTRIES).min(ENTRIES);
        let part = &mut buffer[..here * ENTRY_BYTES];
        let offset = (address / PAGE_BYTES + gfn) * ENTRY_BYTES as u64;
        map.read_exact_at(part, offset)?;
        for entry in part.as_chunks::<ENTRY_BYTES>().0 {
            if u64::from_le_bytes(*entry) & TOUCHED != 0 {
                pages.insert(gfn);
            }
            gfn += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    #[test]
    fn what_was_written_is_touched_and_most_of_the_rest_is_not() {
        let ram = Ram::allocate(64 << 20).unwrap();
        assert!(touched_pages(&ram).is_empty());
        let written = [0u64, 4095, 8192, 8193, 16383];
        for gfn in written {
            let at = GuestAddress(gfn * PAGE_BYTES + 8);
            ram.write_obj(7u64, at).unwrap();
        }
        let touched = touched_pages(&ram);
        let found: Vec<u64> = touched.iter().collect();
        assert!(written.iter().all(|gfn| found.contains(gfn)));
        // A huge page may come for each.
        assert!(found.len() <= written.len() * 512, "{}", found.len());
    }
}
