//! RDTSC in code that the guest's kernel gets later, in modules.
//!
//! Where the kernel makes memory executable ([`LaterCode`](crate::boot::rewrite::LaterCode)), a hardware breakpoint
//! gives the VMM the call, an exit on every replica alike. What is in the pages that its arguments name is
//! rewritten as the kernel was, before anything of it has run.

use devices::GuestMemory;
use devices::layout::PAGE_BYTES;
use kvm_bindings::{kvm_regs, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use super::paging;
use crate::boot::rewrite::rdtsc;

/// Most pages that are looked at in one call: 16 MiB, more than a module has.
const PAGES_MAX: u64 = 1 << 12;

/// What was found in later code, since this process has run the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaterRdtsc {
    /// RDTSC instructions that now are IN.
    pub closed: u64,
    /// Those that could not be rewritten, and calls with more code than is looked at; each is a hole.
    pub left: u64,
}

impl LaterRdtsc {
    pub(super) fn add(&mut self, found: LaterRdtsc) {
        self.closed += found.closed;
        self.left += found.left;
    }
}

/// Rewrites the pages that the call names in whose first instruction the guest stands.
pub fn close(memory: &GuestMemory, regs: &kvm_regs, sregs: &kvm_sregs) -> LaterRdtsc {
    let first = regs.rdi & !(PAGE_BYTES - 1);
    // The second argument is an int.
    let pages = regs.rsi & 0x7fff_ffff;
    let mut found = LaterRdtsc {
        closed: 0,
        left: u64::from(pages > PAGES_MAX),
    };
    let pages = pages.min(PAGES_MAX);
    let addresses = (0..pages).map(|page| first.wrapping_add(page * PAGE_BYTES));
    let mut piece = Piece::default();
    for address in addresses {
        match paging::translate(memory, sregs, address) {
            Some(physical) if piece.take(memory, address, physical) => {}
            _ => piece.close(memory, &mut found),
        }
    }
    piece.close(memory, &mut found);
    found
}

/// Pages that lie next to each other for the guest.
#[derive(Default)]
struct Piece {
    address: u64,
    /// Where each is in RAM.
    pages: Vec<u64>,
    code: Vec<u8>,
}

impl Piece {
    /// Adds a page behind the others; `false` if it is not RAM.
    fn take(&mut self, memory: &GuestMemory, address: u64, physical: u64) -> bool {
        let mut page = [0; PAGE_BYTES as usize];
        if memory
            .read_slice(&mut page, GuestAddress(physical))
            .is_err()
        {
            return false;
        }
        if self.pages.is_empty() {
            self.address = address;
        }
        self.pages.push(physical);
        self.code.extend(page);
        true
    }

    /// Rewrites what was taken, and writes back the pages that this has changed.
    fn close(&mut self, memory: &GuestMemory, found: &mut LaterRdtsc) {
        let Piece {
            address,
            pages,
            mut code,
        } = std::mem::take(self);
        let sites = rdtsc::rewrite(&mut code, address);
        found.left += sites.left as u64;
        let mut kept = true;
        for (physical, after) in pages.into_iter().zip(code.chunks(PAGE_BYTES as usize)) {
            let at = GuestAddress(physical);
            let mut before = [0; PAGE_BYTES as usize];
            kept &= memory.read_slice(&mut before, at).is_ok();
            if before != *after {
                kept &= memory.write_slice(after, at).is_ok();
            }
        }
        match kept {
            true => found.closed += sites.rewritten as u64,
            false => found.left += sites.rewritten as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;

    /// Maps 0x40_0000 and the pages behind it to these, by tables at 0x1000; 0 is no page.
    fn mapped(pages: &[u64]) -> (Ram, kvm_sregs) {
        let memory = Ram::allocate(1 << 20).unwrap();
        let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        put(0x1000, 0x2000 | 7);
        put(0x2000, 0x3000 | 7);
        put(0x3010, 0x4000 | 7);
        for (number, page) in pages.iter().enumerate() {
            let present = u64::from(*page != 0);
            put(0x4000 + number as u64 * 8, page | present);
        }
        let sregs = kvm_sregs {
            cr0: 1 << 31,
            cr3: 0x1000,
            efer: 1 << 10,
            ..Default::default()
        };
        (memory, sregs)
    }

    fn call(address: u64, pages: u64) -> kvm_regs {
        kvm_regs {
            rdi: address,
            rsi: pages,
            ..Default::default()
        }
    }

    /// NOPs with RDTSC at these places of a page.
    fn write(memory: &Ram, page: u64, places: &[u64]) {
        memory
            .write_slice(&[0x90; PAGE_BYTES as usize], GuestAddress(page))
            .unwrap();
        for at in places {
            memory
                .write_slice(&[0x0f, 0x31], GuestAddress(page + at))
                .unwrap();
        }
    }

    fn byte(memory: &Ram, at: u64) -> u8 {
        memory.read_obj(GuestAddress(at)).unwrap()
    }

    #[test]
    fn what_is_made_executable_is_rewritten_and_nothing_else() {
        let (memory, sregs) = mapped(&[0x9000, 0, 0x8000, 0xa000]);
        write(&memory, 0x9000, &[0x10]);
        write(&memory, 0x8000, &[0x20, 0x800]);
        write(&memory, 0xa000, &[0x30]);
        let found = close(&memory, &call(0x40_0000, 3), &sregs);
        let expected = LaterRdtsc { closed: 3, left: 0 };
        assert_eq!(found, expected);
        assert_eq!(byte(&memory, 0x9010), 0xe5);
        assert_eq!(byte(&memory, 0x8800), 0xe5);
        assert_eq!(byte(&memory, 0xa030), 0x0f, "behind the pages of the call");
        // The upper half of the register is no part of the argument.
        let again = close(&memory, &call(0x40_0000, 7 << 32 | 4), &sregs);
        assert_eq!(again, LaterRdtsc { closed: 1, left: 0 });
    }

    /// One across the border of two pages that do not lie next to each other in RAM.
    #[test]
    fn an_instruction_may_lie_in_two_pages() {
        let (memory, sregs) = mapped(&[0x9000, 0x8000]);
        write(&memory, 0x9000, &[0xfff]);
        write(&memory, 0x8000, &[]);
        memory.write_obj(0x31_u8, GuestAddress(0x8000)).unwrap();
        let found = close(&memory, &call(0x40_0000, 2), &sregs);
        assert_eq!(found, LaterRdtsc { closed: 1, left: 0 });
        assert_eq!(byte(&memory, 0x9fff), 0xe5);
        assert_ne!(byte(&memory, 0x8000), 0x31);
    }

    #[test]
    fn a_call_about_more_than_there_is_is_a_hole() {
        let (memory, sregs) = mapped(&[]);
        let huge = close(&memory, &call(u64::MAX - 4095, u64::MAX), &sregs);
        assert_eq!(huge, LaterRdtsc { closed: 0, left: 1 });
        assert_eq!(
            close(&memory, &call(0x40_0000, 0), &sregs),
            LaterRdtsc::default()
        );
    }
}
