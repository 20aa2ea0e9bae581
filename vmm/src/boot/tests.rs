use super::*;
use vm_memory::GuestMemoryBackend as _;

fn ram(bytes: u64) -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), bytes as usize)]).unwrap()
}

/// Loads the kernel that `FTD_TEST_KERNEL` names, and prints what was done to it.
#[test]
fn a_real_kernel_is_loaded() {
    let Some(path) = std::env::var_os("FTD_TEST_KERNEL") else {
        return;
    };
    let kernel = std::fs::read(path).unwrap();
    let mem = ram(1 << 30);
    let started = std::time::Instant::now();
    let state = load(
        &mem,
        &BootRequest {
            kernel: &kernel,
            initrd: Some(&[0x55; 10_000]),
            cmdline: "console=ttyS0",
            ram_bytes: 1 << 30,
            virtio_windows: &[(0xd000_0000, 16)],
            close_rdtsc: true,
        },
    )
    .unwrap();
    println!("{state:x?}\nin {:?}", started.elapsed());
    assert!(state.rewrite.is_closed(), "{:?}", state.rewrite);
    assert!(mem.check_address(GuestAddress(state.rip)).is_some());
}
