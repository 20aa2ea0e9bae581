//! A kernel file: bzImage, its payload in any compression, ELF.

use std::cell::RefCell;

use vm_memory::{GuestAddress, GuestMemoryBackend as _};
use vmm::boot::{self, BootRequest, KERNEL_BYTES_MAX};

use crate::heap::bounded;
use crate::ram::Ram;
use crate::source::Source;

/// Enough for a kernel that is linked for 16 MiB.
const RAM_BYTES: usize = 32 << 20;
/// Memory beside the decompressed kernel, of which there may be two for a moment, in bytes.
const MEMORY: usize = 2 * KERNEL_BYTES_MAX as usize + (256 << 20);

thread_local! {
    static RAM: RefCell<Option<Ram>> = const { RefCell::new(None) };
}

/// The first byte: bit 0, RDTSC is closed; bit 1, there is an initrd. The rest is the file.
///
/// # Panics
/// A kernel that is loaded begins outside of RAM or of itself, or memory is not bounded.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mode = source.u8();
    let kernel = source.rest();
    let request = BootRequest {
        kernel,
        initrd: (mode & 2 != 0).then_some(&[7; 5000]),
        cmdline: "console=ttyS0",
        rng_seed: Some([3; 32]),
        ram_bytes: RAM_BYTES as u64,
        virtio_windows: &[(0xd000_0000, 16)],
        close_rdtsc: mode & 1 != 0,
    };
    RAM.with_borrow_mut(|ram| {
        let ram = ram.get_or_insert_with(|| Ram::new(RAM_BYTES));
        let loaded = bounded(MEMORY, || boot::load(ram.memory(), &request));
        if let Ok(state) = loaded {
            assert!(ram.memory().address_in_range(GuestAddress(state.rip)));
        }
    });
}
