use super::testing::{LINKED, LOADED, bzimage, elf, put};
use super::*;
use proptest::prelude::*;
use vm_memory::GuestMemoryBackend as _;

const RAM: u64 = 64 << 20;

fn ram(bytes: u64) -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), bytes as usize)]).unwrap()
}

fn request<'a>(kernel: &'a [u8], initrd: Option<&'a [u8]>) -> BootRequest<'a> {
    BootRequest {
        kernel,
        initrd,
        cmdline: "console=ttyS0",
        rng_seed: Some([0x5e; 32]),
        ram_bytes: RAM,
        virtio_windows: &[(0xd000_0000, 16)],
        close_rdtsc: false,
    }
}

fn bytes_at<const N: usize>(mem: &GuestMemory, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

fn u32_at(mem: &GuestMemory, at: u64) -> u32 {
    u32::from_le_bytes(bytes_at(mem, at))
}

fn u64_at(mem: &GuestMemory, at: u64) -> u64 {
    u64::from_le_bytes(bytes_at(mem, at))
}

/// Like memtest86+'s: no payload, but protected-mode code that is entered 0x200 bytes behind its start.
#[test]
fn a_bzimage_without_a_payload_is_loaded_as_it_is() {
    let mut file = testing::bzimage(&[]);
    testing::put(&mut file, 0x214, &0x10_0000_u32.to_le_bytes());
    testing::put(&mut file, 0x260, &0x8000_u32.to_le_bytes());
    let too_short = kernel::KernelImage::parse(&file).unwrap_err();
    assert!(
        matches!(too_short, BootError::Truncated { .. }),
        "{too_short}"
    );
    file.truncate(1024);
    file.extend((0..0x1000_u32).map(|at| (at >> 4) as u8));
    let kernel = kernel::KernelImage::parse(&file).unwrap();
    let image = elf::Elf::parse(&kernel.elf).unwrap();
    assert_eq!(image.entry_physical().unwrap(), 0x10_0200);
    let segments: Vec<_> = image.load_segments().collect();
    let [segment] = segments[..] else {
        panic!("{segments:?}");
    };
    assert_eq!((segment.physical, segment.address), (0x10_0000, 0x10_0000));
    assert_eq!((segment.file_bytes, segment.memory_bytes), (0x1000, 0x8000));
    assert!(segment.executable);
    assert_eq!(image.segment_data(&segment).unwrap(), &file[1024..]);
}

#[test]
fn a_bzimage_is_loaded_with_everything_around_it() {
    let kernel = bzimage(&elf(&[0x90, 0xf4], true));
    let mem = ram(RAM);
    let state = load(&mem, &request(&kernel, Some(&[0x77; 5000]))).unwrap();

    assert_eq!(state.rip, LOADED);
    assert_eq!(bytes_at(&mem, LOADED), [0x90, 0xf4]);
    let page = state.rsi;
    assert_eq!(bytes_at(&mem, page + 0x202), *b"HdrS");
    // loadflags: loaded high, and no trace of a decompressor's KASLR_FLAG.
    assert_eq!(bytes_at(&mem, page + 0x211), [1]);
    let initrd = u64::from(u32_at(&mem, page + 0x218));
    assert_eq!(u32_at(&mem, page + 0x21c), 5000);
    assert_eq!(initrd, RAM - 8192);
    assert_eq!(bytes_at(&mem, initrd + 4999), [0x77]);
    let cmdline = u64::from(u32_at(&mem, page + 0x228));
    assert_eq!(bytes_at(&mem, cmdline), *b"console=ttyS0\0");
    let rsdp = u64_at(&mem, page + 0x70);
    assert_eq!(bytes_at(&mem, rsdp), *b"RSD PTR ");
    assert_eq!(bytes_at(&mem, page + 0x1e8), [6]);
    // The random seed: the only setup data, of type 9.
    let data = u64_at(&mem, page + 0x250);
    assert_eq!(u64_at(&mem, data), 0);
    assert_eq!((u32_at(&mem, data + 8), u32_at(&mem, data + 12)), (9, 32));
    assert_eq!(bytes_at(&mem, data + 16), [0x5e; 32]);
}

#[test]
fn the_low_4_gib_are_mapped_to_themselves() {
    let kernel = elf(&[0xf4], true);
    let mem = ram(RAM);
    let state = load(&mem, &request(&kernel, None)).unwrap();
    let table = |entry: u64| entry & 0x000f_ffff_ffff_f000;
    for address in [0, LOADED, 0xd000_0000, 0xfee0_0000, 0xffff_f000_u64] {
        let level3 = table(u64_at(&mem, state.cr3));
        let level2 = table(u64_at(&mem, level3 + (address >> 30) * 8));
        let entry = u64_at(&mem, level2 + (address >> 21 & 511) * 8);
        assert_eq!(entry, (address & !0x1f_ffff) | 0x83, "{address:#x}");
    }
}

#[test]
fn registers_are_those_of_the_64_bit_entry() {
    let kernel = elf(&[0xf4], true);
    let state = load(&ram(RAM), &request(&kernel, None)).unwrap();
    let sregs = state.sregs();
    assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
    assert_eq!(sregs.ds.selector, 0x18);
    assert_eq!(sregs.cr4, 0x20);
    assert_eq!(sregs.efer, 0x500);
    assert_eq!(state.regs().rsi, low_memory::ZERO_PAGE);
    assert_eq!(state.regs().rflags, 2);
}

#[test]
fn closing_rdtsc_is_seen_in_memory_and_in_cr4() {
    // rdtsc; mov $0xa0,%ecx; mov %rcx,%cr4; hlt
    let code = [0x0f, 0x31, 0xb9, 0xa0, 0, 0, 0, 0x0f, 0x22, 0xe1, 0xf4];
    let kernel = elf(&code, true);
    let mem = ram(RAM);
    let request = BootRequest {
        close_rdtsc: true,
        ..request(&kernel, None)
    };
    let state = load(&mem, &request).unwrap();
    assert_eq!(bytes_at(&mem, LOADED), [0xe5, 0xe8, 0xb9, 0xa4]);
    assert_eq!(state.cr4, 0x24);
    assert!(state.rewrite.is_closed());
    assert_eq!(state.rewrite.rdtsc_sites, 1);
}

#[test]
fn memory_beyond_the_file_is_zeroed() {
    let kernel = elf(&[0xf4; 3], true);
    let mem = ram(RAM);
    mem.write_slice(&[0xaa; 64], GuestAddress(LOADED)).unwrap();
    load(&mem, &request(&kernel, None)).unwrap();
    assert_eq!(bytes_at(&mem, LOADED), [0xf4, 0xf4, 0xf4, 0, 0]);
}

#[test]
fn an_elf_linked_at_a_virtual_entry_is_entered_at_its_physical_one() {
    let mut kernel = elf(&[0x90, 0xf4], true);
    put(&mut kernel, 24, &(LINKED + 1).to_le_bytes());
    let state = load(&ram(RAM), &request(&kernel, None)).unwrap();
    assert_eq!(state.rip, LOADED + 1);
}

#[test]
fn what_does_not_fit_is_refused() {
    let kernel = elf(&[0xf4], true);
    let initrd = vec![0; 60 << 20];
    let error = load(&ram(RAM), &request(&kernel, Some(&initrd))).unwrap_err();
    assert!(matches!(error, BootError::InitrdTooBig { .. }), "{error}");

    let small = BootRequest {
        ram_bytes: 8 << 20,
        ..request(&kernel, None)
    };
    let error = load(&ram(8 << 20), &small).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the kernel needs memory from 0x1000000, 8193 bytes, and the guest has 8388608 bytes of \
         RAM; give it more"
    );

    let long = "x".repeat(2048);
    let request = BootRequest {
        cmdline: &long,
        ..request(&kernel, None)
    };
    let error = load(&ram(RAM), &request).unwrap_err();
    assert!(matches!(error, BootError::CmdlineTooLong { .. }), "{error}");
}

#[test]
fn a_segment_on_the_loaders_own_pages_is_refused() {
    let mut kernel = elf(&[0xf4], true);
    put(&mut kernel, 64 + 24, &0x7000_u64.to_le_bytes());
    put(&mut kernel, 24, &0x7000_u64.to_le_bytes());
    let error = load(&ram(RAM), &request(&kernel, None)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the kernel's segment at 0x7000..0x9001 overlaps the zero page"
    );
}

#[test]
fn what_is_no_kernel_is_said_to_be_none() {
    let message = |kernel: &[u8]| {
        load(&ram(RAM), &request(kernel, None))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message(b"#!/bin/sh\n"),
        "the kernel file is neither a bzImage nor an ELF file (10 bytes, beginning with \
         23 21 2f 62 69 6e 2f 73); give the vmlinuz or vmlinux of an x86-64 kernel"
    );
    assert!(message(b"").contains("(0 bytes, empty)"));
    let kernel = bzimage(&elf(&[0xf4], true));
    assert!(message(&kernel[..2000]).contains("truncated"));
    let mut old = kernel.clone();
    put(&mut old, 0x206, &0x0207_u16.to_le_bytes());
    assert!(message(&old).contains("older than 2.08"));
    let mut narrow = kernel;
    put(&mut narrow, 0x236, &[0]);
    assert!(message(&narrow).contains("32-bit"));
}

#[test]
fn ram_sizes_are_checked() {
    let kernel = elf(&[0xf4], true);
    for ram_bytes in [0, 1 << 20, (1 << 30) + 1, 4 << 30] {
        let request = BootRequest {
            ram_bytes,
            ..request(&kernel, None)
        };
        let error = load(&ram(RAM), &request).unwrap_err();
        assert!(matches!(error, BootError::RamSize { .. }), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_kernels_never_panic(
        boxed in any::<bool>(),
        damage in proptest::collection::vec((0..0x1400_usize, any::<u8>()), 1..16),
        keep in any::<proptest::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let code = [0x0f, 0x31, 0xb9, 0xa0, 0, 0, 0, 0x0f, 0x22, 0xe1, 0xf4];
        let elf = elf(&code, true);
        let mut kernel = if boxed { bzimage(&elf) } else { elf };
        for (at, byte) in damage {
            // Headers are where damage matters.
            let at = at % kernel.len().min(0x900);
            kernel[at] = byte;
        }
        if cut {
            kernel.truncate(keep.index(kernel.len()));
        }
        let request = BootRequest { close_rdtsc: true, ..request(&kernel, None) };
        let _ = load(&ram(RAM), &request);
    }
}

/// Loads the kernels that `FTD_TEST_KERNELS` names (separated by colons).
#[test]
fn real_kernels_are_loaded_and_closed() {
    let paths = std::env::var("FTD_TEST_KERNELS").unwrap_or_default();
    for path in paths.split(':').filter(|path| !path.is_empty()) {
        let kernel = std::fs::read(path).unwrap();
        let mem = ram(1 << 30);
        let started = std::time::Instant::now();
        let request = BootRequest {
            ram_bytes: 1 << 30,
            close_rdtsc: true,
            ..request(&kernel, Some(&[0x55; 10_000]))
        };
        let state = load(&mem, &request).unwrap_or_else(|error| panic!("{path}: {error:?}"));
        println!("{path}: {:?} in {:?}", state.rewrite, started.elapsed());
        assert!(state.rewrite.is_closed(), "{path}: {:?}", state.rewrite);
        assert!(mem.check_address(GuestAddress(state.rip)).is_some());
    }
}
