//! What lies on the guest's stack where it stands. Code without a branch can call the same function twice, with the same
//! registers: only the return address says in which of the calls the guest is. (With the thunks that Linux returns
//! by on some processors, all its functions end in the same one.)

use devices::GuestMemory;
use kvm_bindings::kvm_sregs;
use vm_memory::{Bytes, GuestAddress};

use super::paging::{self, CR0_PG};

/// From RSP on: the frames of what is small enough to leave all registers alone.
const BYTES: usize = 256;

/// A mark of the stack's top: the low half of the CRC32C of 256 bytes from SS:RSP on, or of those of its page if the
/// next is not there. Of none in 32-bit paging.
pub fn mark(memory: &GuestMemory, sregs: &kvm_sregs, rsp: u64) -> u16 {
    // In 64-bit mode there are no bases (SDM vol. 3, 3.2.4).
    let base = if sregs.cs.l == 1 { 0 } else { sregs.ss.base };
    let top = base.wrapping_add(rsp);
    let mut bytes = [0; BYTES];
    let length = if sregs.cr0 & CR0_PG != 0 {
        paging::read_some(memory, sregs, top, &mut bytes)
    } else {
        memory.read(&mut bytes, GuestAddress(top)).unwrap_or(0)
    };
    crc32c::crc32c(&bytes[..length]) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;

    #[test]
    fn a_word_within_reach_shows() {
        let memory = Ram::allocate(1 << 20).unwrap();
        let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        // The first 2 MiB are mapped to themselves.
        put(0x1000, 0x2000 | 7);
        put(0x2000, 0x3000 | 7);
        put(0x3000, 1 << 7 | 7);
        let mut paged = kvm_sregs {
            cr0: CR0_PG,
            cr3: 0x1000,
            efer: 1 << 10,
            ..Default::default()
        };
        paged.cs.l = 1;
        // What 64-bit mode leaves out of account.
        paged.ss.base = 0x100;
        let mut plain = kvm_sregs::default();
        plain.ss.base = 0x8000;
        for (sregs, rsp) in [(paged, 0x8000), (plain, 0)] {
            let mark = || mark(&memory, &sregs, rsp);
            let before = mark();
            put(0x8000 - 8, 1);
            put(0x8000 + 256, 1);
            assert_eq!(mark(), before, "beyond its reach");
            for word in 0..32 {
                put(0x8000 + word * 8, 0xffff_ffff_8100_0000);
                assert_ne!(mark(), before, "word {word}");
                put(0x8000 + word * 8, 0);
            }
            assert_eq!(mark(), before);
        }
    }

    #[test]
    fn a_stack_that_is_not_there_has_a_mark_too() {
        let memory = Ram::allocate(1 << 20).unwrap();
        let mut sregs = kvm_sregs::default();
        for cr0 in [0, CR0_PG] {
            sregs.cr0 = cr0;
            assert_eq!(mark(&memory, &sregs, u64::MAX - 7), 0);
        }
        sregs.cr0 = 0;
        memory.write_obj(1u64, GuestAddress((1 << 20) - 8)).unwrap();
        assert_ne!(mark(&memory, &sregs, (1 << 20) - 8), 0, "the last of RAM");
    }
}
