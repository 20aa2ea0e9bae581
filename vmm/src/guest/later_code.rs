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

/// Most pages that are looked at in one call: 64 MiB, more than all of Linux' code.
const PAGES_MAX: u64 = 1 << 14;

/// What was found in later code, since this process has run the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaterRdtsc {
    /// RDTSC instructions that now are IN.
    pub closed: u64,
    /// Those that could not be rewritten; each is a hole.
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
    let pages = (regs.rsi & 0x7fff_ffff).min(PAGES_MAX);
    let addresses = (0..pages).map(|page| first.wrapping_add(page * PAGE_BYTES));
    let mut found = LaterRdtsc::default();
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
            code,
        } = std::mem::take(self);
        let before = code.clone();
        let mut after = code;
        let sites = rdtsc::rewrite(&mut after, address);
        found.left += sites.left as u64;
        let page_bytes = PAGE_BYTES as usize;
        let contents = before.chunks(page_bytes).zip(after.chunks(page_bytes));
        let mut kept = true;
        for (physical, (before, after)) in pages.into_iter().zip(contents) {
            if before != after {
                kept &= memory.write_slice(after, GuestAddress(physical)).is_ok();
            }
        }
        match kept {
            true => found.closed += sites.rewritten as u64,
            false => found.left += sites.rewritten as u64,
        }
    }
}
