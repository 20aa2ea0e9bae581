//! Reading guest-virtual memory as the guest's supervisor maps it, whatever SMAP says.
//!
//! KVM_TRANSLATE checks permissions as well, and denies the supervisor all user pages while SMAP is
//! on; so the tables are walked here (SDM vol. 3, 4.5: 4-level and 5-level paging). Nothing is
//! written: accessed bits stay as they are, on every replica alike. Those that the processor sets are no part of a
//! digest ([`forget_accessed`]).

use devices::GuestMemory;
use devices::layout::PAGE_BYTES;
use kvm_bindings::kvm_sregs;
use vm_memory::{Bytes, GuestAddress};

/// CR0.PG: paging is on.
pub const CR0_PG: u64 = 1 << 31;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u64 = 1;
const ACCESSED: u64 = 1 << 5;
const LARGE: u64 = 1 << 7;
/// Bits 51:12 of an entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The guest-physical address behind a linear one, in 64-bit mode.
pub fn translate(memory: &GuestMemory, sregs: &kvm_sregs, address: u64) -> Option<u64> {
    if sregs.cr0 & CR0_PG == 0 || sregs.efer & EFER_LMA == 0 {
        return None;
    }
    let levels = if sregs.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
    let mut table = sregs.cr3 & FRAME;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let entry: u64 = memory
            .read_obj(GuestAddress(table + (address >> shift & 0x1ff) * 8))
            .ok()?;
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || level <= 2 && entry & LARGE != 0 {
            let inside = (1 << shift) - 1;
            return Some(entry & FRAME & !inside | address & inside);
        }
        table = entry & FRAME;
    }
    None
}

/// Reads from linear address `address` on; `false` if a page of it is not present or not RAM.
pub fn read(memory: &GuestMemory, sregs: &kvm_sregs, address: u64, into: &mut [u8]) -> bool {
    let mut done = 0;
    while done < into.len() {
        let at = address.wrapping_add(done as u64);
        let end = into.len().min(done + (4096 - (at & 4095)) as usize);
        let read = translate(memory, sregs, at).is_some_and(|at| {
            memory
                .read_slice(&mut into[done..end], GuestAddress(at))
                .is_ok()
        });
        if !read {
            return false;
        }
        done = end;
    }
    true
}

/// Reads as many of the bytes from `address` on as are there, in the page of the first and the next: how many.
pub fn read_some(memory: &GuestMemory, sregs: &kvm_sregs, address: u64, into: &mut [u8]) -> usize {
    if read(memory, sregs, address, into) {
        return into.len();
    }
    // They may be the last of their page.
    let left = into.len().min((4096 - (address & 4095)) as usize);
    match read(memory, sregs, address, &mut into[..left]) {
        true => left,
        false => 0,
    }
}

/// Clears the accessed bit of each word of a page that could be an entry of a page table: one that says that a
/// page of RAM, which ends at `ram_end`, is present. A processor may set that bit for an access on which it only
/// speculated (SDM vol. 3, 4.8; APM vol. 2, 5.4.2), so two copies may differ in it and neither has gone astray.
pub fn forget_accessed(page: &mut [u8; PAGE_BYTES as usize], ram_end: u64) {
    let never = FRAME & !(ram_end.next_power_of_two() - 1);
    let looked_at = PRESENT | ACCESSED | never;
    for some in page.as_chunks_mut::<64>().0 {
        // Few words are what could change, which is quicker to see for eight at once.
        let mut any = false;
        for bytes in some.as_chunks().0 {
            any |= u64::from_le_bytes(*bytes) & looked_at == PRESENT | ACCESSED;
        }
        if any {
            forget_in(some, ram_end);
        }
    }
}

fn forget_in(some: &mut [u8; 64], ram_end: u64) {
    for bytes in some.as_chunks_mut().0 {
        let word = u64::from_le_bytes(*bytes);
        // Nothing maps frame 0, whose entries most small numbers would be.
        let of_ram = (word & FRAME).wrapping_sub(1) < ram_end.saturating_sub(1);
        let forgotten = ACCESSED * u64::from(of_ram) * (word & PRESENT);
        *bytes = (word & !forgotten).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;

    fn long_mode(cr3: u64) -> kvm_sregs {
        kvm_sregs {
            cr0: CR0_PG,
            cr3,
            efer: EFER_LMA,
            ..Default::default()
        }
    }

    /// 0x1000 PML4, 0x2000 PDPT, 0x3000 PD (2 MiB page at 0), 0x4000 PT (0x40_0000 -> 0x5000).
    fn tables() -> (Ram, kvm_sregs) {
        let memory = Ram::allocate(1 << 20).unwrap();
        let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        put(0x1000, 0x2000 | 7);
        put(0x2000, 0x3000 | 7);
        put(0x3000, LARGE | 7);
        put(0x3010, 0x4000 | 7);
        put(0x4000, 0x5000 | 1 << 63 | 7);
        put(0x4008, 0x7000);
        (memory, long_mode(0x1000))
    }

    #[test]
    fn small_and_large_pages_are_found() {
        let (memory, sregs) = tables();
        let at = |address| translate(&memory, &sregs, address);
        assert_eq!(at(0x1_2345), Some(0x1_2345));
        assert_eq!(at(0x40_0123), Some(0x5123));
        assert_eq!(at(0x40_1000), None, "not present");
        assert_eq!(at(0x8000_0000_0000), None);
    }

    #[test]
    fn only_the_accessed_bits_of_entries_are_forgotten() {
        let ram_end = 0x10_0000;
        let forgotten = |word: u64| {
            let mut page = [0; 4096];
            page[72..80].copy_from_slice(&word.to_le_bytes());
            forget_accessed(&mut page, ram_end);
            let left = u64::from_le_bytes(page[72..80].try_into().unwrap());
            page[72..80].fill(0);
            assert_eq!(page, [0; 4096]);
            word & !left
        };
        for entry in [0x5067, 0xf_f021, 0x5021 | 1 << 63, 0xf_f0ff | 1 << 58] {
            assert_eq!(forgotten(entry), ACCESSED, "{entry:#x}");
        }
        for other in [
            0x5066,
            0x5007,
            0x21,
            0xfff,
            ram_end | 0x67,
            0x5067 | 1 << 40,
        ] {
            assert_eq!(forgotten(other), 0, "{other:#x}");
        }
        assert_eq!(forgotten(u64::MAX), 0);
    }

    #[test]
    fn a_read_over_a_missing_page_fails() {
        let (memory, sregs) = tables();
        memory.write_slice(b"ab", GuestAddress(0x5ffe)).unwrap();
        let mut two = [0; 2];
        assert!(read(&memory, &sregs, 0x40_0ffe, &mut two));
        assert_eq!(&two, b"ab");
        assert!(!read(&memory, &sregs, 0x40_0fff, &mut two));
        assert_eq!(read_some(&memory, &sregs, 0x40_0fff, &mut two), 1);
        assert_eq!(two[0], b'b');
        assert_eq!(read_some(&memory, &sregs, 0x40_0ffe, &mut two), 2);
        assert_eq!(read_some(&memory, &sregs, 0x40_1000, &mut two), 0);
        assert!(!read(&memory, &kvm_sregs::default(), 0, &mut two));
    }
}
