use super::super::kernel::KernelImage;
use super::super::testing::{CODE_OFFSET, LINKED, add_symbols, elf};
use super::*;
use proptest::prelude::*;

/// Judges the RDTSC sites of the kernels that `FTD_TEST_KERNELS` names by a full linear sweep.
#[test]
fn a_linear_sweep_finds_the_same_sites() {
    let paths = std::env::var("FTD_TEST_KERNELS").unwrap_or_default();
    for path in paths.split(':').filter(|path| !path.is_empty()) {
        let kernel = std::fs::read(path).unwrap();
        let image = KernelImage::parse(&kernel).unwrap();
        let elf = Elf::parse(&image.elf).unwrap();
        for code in elf.code() {
            let before = &image.elf[range(code)];
            let mut after = before.to_vec();
            let started = std::time::Instant::now();
            let found = rdtsc::rewrite(&mut after, code.address);
            let took = started.elapsed();
            let expected = rdtsc::sweep_all(before, code.address);
            let changed: Vec<usize> = (0..before.len())
                .filter(|at| before[*at] == 0x0f && after[*at] != 0x0f)
                .collect();
            println!(
                "{path} {:#x}: {} sites, {found:?} in {took:?}",
                code.address,
                expected.len()
            );
            assert_eq!(changed, expected, "{path} {:#x}", code.address);
            assert_eq!(found.left, 0);
        }
    }
}

fn closed(code: &[u8]) -> (RewriteReport, Vec<u8>) {
    let mut file = elf(code, true);
    let report = close_rdtsc(&mut file).unwrap();
    (report, file[CODE_OFFSET..].to_vec())
}

/// Start-up code of kernels, by version and configuration: each must keep TSD afterwards.
#[test]
fn start_up_code_of_every_kind_keeps_tsd() {
    let cr4: [&[u8]; 5] = [
        // 6.1 without MCE: mov $0,%ecx; or $0xa0,%ecx; testl; je; or $0x1000,%ecx; mov %rcx,%cr4
        &[
            0xb9, 0, 0, 0, 0, 0x81, 0xc9, 0xa0, 0, 0, 0, 0xf7, 0x05, 0, 0, 0, 0, 1, 0, 0, 0, 0x74,
            0x06, 0x81, 0xc9, 0, 0x10, 0, 0, 0x0f, 0x22, 0xe1, 0xf4,
        ],
        // With MCE: mov %cr4,%rcx; and $0x40,%ecx; or $0xb0,%ecx; mov %rcx,%cr4
        &[
            0x0f, 0x20, 0xe1, 0x83, 0xe1, 0x40, 0x81, 0xc9, 0xb0, 0, 0, 0, 0x0f, 0x22, 0xe1, 0xf4,
        ],
        // Later: mov $0x1020,%edx; or $0x40,%edx; mov %cr4,%rcx; and %edx,%ecx; bts $4,%ecx;
        // mov %rcx,%cr4; bts $7,%ecx; mov %rcx,%cr4
        &[
            0xba, 0x20, 0x10, 0, 0, 0x83, 0xca, 0x40, 0x0f, 0x20, 0xe1, 0x21, 0xd1, 0x0f, 0xba,
            0xe9, 0x04, 0x0f, 0x22, 0xe1, 0x0f, 0xba, 0xe9, 0x07, 0x0f, 0x22, 0xe1, 0xf4,
        ],
        // A plain constant: mov $0xa0,%eax; mov %rax,%cr4
        &[0xb8, 0xa0, 0, 0, 0, 0x0f, 0x22, 0xe0, 0xf4],
        // Behind a far return: lea 4(%rip),%rax; push %rax; lretq; hlt; mov $0x20,%eax; ...
        &[
            0x48, 0x8d, 0x05, 4, 0, 0, 0, 0x50, 0x48, 0xcb, 0xf4, 0xb8, 0x20, 0, 0, 0, 0x0f, 0x22,
            0xe0, 0xf4,
        ],
    ];
    for code in cr4 {
        let (report, after) = closed(code);
        assert!(report.cr4_site && report.cr4_patches > 0, "{code:x?}");
        // Followed once more, nothing is left to change.
        let (again, same) = closed(&after);
        assert!(again.cr4_site, "{code:x?}");
        assert_eq!((again.cr4_patches, same), (0, after));
    }
}

#[test]
fn code_that_keeps_cr4_needs_no_change() {
    // mov %cr4,%rcx; or $0x80,%ecx; mov %rcx,%cr4; hlt
    let code = [
        0x0f, 0x20, 0xe1, 0x81, 0xc9, 0x80, 0, 0, 0, 0x0f, 0x22, 0xe1, 0xf4,
    ];
    let (report, after) = closed(&code);
    assert!(report.cr4_site);
    assert_eq!((report.cr4_patches, &after[..]), (0, &code[..]));
}

#[test]
fn code_that_never_loads_cr4_keeps_it() {
    let (report, after) = closed(&[0x90, 0xf4]);
    assert!(report.is_closed());
    assert_eq!((report.cr4_patches, &after[..]), (0, &[0x90, 0xf4][..]));
}

/// The four places of Linux, with the functions they call behind them.
#[test]
fn later_clears_and_toggles_of_tsd_are_taken_out() {
    let code = [
        0xf4, // hlt: the start-up path ends, having loaded nothing
        0xbf, 0x0f, 0, 0, 0, 0xe8, 0x1e, 0, 0, 0, // mov $0xf,%edi; call clear
        0x31, 0xff, 0xbe, 0x04, 0, 0, 0, 0xe8, 0x18, 0, 0, 0, // xor; mov $4,%esi; call update
        0x48, 0x83, 0xf7, 0x04, 0xe8, 0x15, 0, 0, 0, // xor $4,%rdi; call write
        0xbf, 0x04, 0, 0, 0, 0xff, 0xd0, 0xf4, 0x90, // mov $4,%edi; call *%rax
        0xe8, 0x01, 0, 0, 0,    // clear: call update
        0xc3, // ret
        0xe8, 0x01, 0, 0, 0,    // update: call write
        0xc3, // ret
        0x0f, 0x22, 0xe7, 0xc3, // write: mov %rdi,%cr4; ret
    ];
    let mut file = elf(&code, true);
    let address = Elf::parse(&file).unwrap().entry_address().unwrap();
    let segments = view::View::segments_of(&Elf::parse(&file).unwrap());
    let range = CODE_OFFSET..CODE_OFFSET + code.len();
    let changed = clears::leave_tsd(&mut view::View::new(&mut file, segments), range, address);
    let after = &file[CODE_OFFSET..];
    assert_eq!(changed, 3);
    assert_eq!((after[2], after[14], after[26]), (0x0b, 0, 0));
    // The one whose call can't be followed stays.
    assert_eq!(after[33], 0x04);
}

#[test]
fn what_can_not_be_kept_is_left_alone_and_reported() {
    let codes: [&[u8]; 3] = [
        // Not found: call *%rax, which does not come back; jmp *%rax; mov %rax,%cr4
        &[0xff, 0xd0, 0xff, 0xe0, 0x0f, 0x22, 0xe0],
        // From memory: mov (%rdi),%rcx; mov %rcx,%cr4; hlt
        &[0x48, 0x8b, 0x0f, 0x0f, 0x22, 0xe1, 0xf4],
        // mov $0x20,%eax; mov %rax,%cr4; xor %eax,%eax; mov %rax,%cr4; hlt
        &[
            0xb8, 0x20, 0, 0, 0, 0x0f, 0x22, 0xe0, 0x31, 0xc0, 0x0f, 0x22, 0xe0, 0xf4,
        ],
    ];
    for code in codes {
        let (report, after) = closed(code);
        assert!(!report.cr4_site && !report.is_closed(), "{code:x?}");
        assert_eq!(after, code);
    }
}

#[test]
fn an_operand_that_looks_like_rdtsc_stays() {
    // mov $0x310f,%eax; rdtsc; rdtscp; hlt
    let code = [0xb8, 0x0f, 0x31, 0, 0, 0x0f, 0x31, 0x0f, 0x01, 0xf9, 0xf4];
    let (report, after) = closed(&code);
    assert_eq!(
        (report.rdtsc_sites, report.rdtsc_left, report.rdtscp_sites),
        (1, 0, 1)
    );
    assert_eq!(
        after,
        [0xb8, 0x0f, 0x31, 0, 0, 0xe5, 0xe8, 0x0f, 0x01, 0xf9, 0xf4]
    );
}

#[test]
fn a_prefixed_rdtsc_is_reported() {
    let (report, after) = closed(&[0x66, 0x0f, 0x31, 0xf4]);
    assert_eq!((report.rdtsc_sites, report.rdtsc_left), (0, 1));
    assert_eq!(after, [0x66, 0x0f, 0x31, 0xf4]);
}

#[test]
fn code_without_section_headers_is_found_by_segments() {
    let mut file = elf(&[0x0f, 0x31, 0xf4], false);
    let report = close_rdtsc(&mut file).unwrap();
    assert!(!report.by_sections);
    assert_eq!(report.rdtsc_sites, 1);
}

proptest! {
    /// Among instructions with random operands, the vote finds what a sweep from the start finds.
    #[test]
    fn the_vote_agrees_with_a_sweep(
        kinds in proptest::collection::vec((0..6_u8, any::<u32>()), 50..400),
    ) {
        let mut code = Vec::new();
        for (kind, operand) in kinds {
            let bytes = operand.to_le_bytes();
            match kind {
                0 => code.extend_from_slice(&[0x0f, 0x31]),
                1 => { code.push(0xb8); code.extend_from_slice(&bytes); }
                2 => code.extend_from_slice(&[0xb9, 0x0f, 0x31, bytes[0], bytes[1]]),
                3 => code.extend_from_slice(&[0x48, 0x89, 0xc8]),
                4 => { code.push(0xe8); code.extend_from_slice(&bytes); }
                _ => code.extend_from_slice(&[0x83, 0xc0, bytes[0]]),
            }
        }
        let expected = rdtsc::sweep_all(&code, LINKED);
        let mut after = code.clone();
        let found = rdtsc::rewrite(&mut after, LINKED);
        let changed: Vec<usize> = (0..code.len())
            .filter(|at| code[*at] == 0x0f && after[*at] != 0x0f)
            .collect();
        prop_assert_eq!(changed, expected);
        prop_assert_eq!(found.left, 0);
    }

    #[test]
    fn random_code_never_panics(code in proptest::collection::vec(any::<u8>(), 1..600)) {
        let mut file = elf(&code, true);
        let _ = close_rdtsc(&mut file);
    }
}

/// By the names of versions of Linux: to 6.1, 6.2 to 6.8, 6.9 to 6.12, later.
#[test]
fn modules_go_by_another_function_in_other_versions() {
    const X: (&str, u64) = ("set_memory_x", 1);
    const ROX: (&str, u64) = ("set_memory_rox", 2);
    const BY_ROX: (&str, u64) = ("module_enable_text_rox", 3);
    const COPIED: (&str, u64) = ("execmem_update_copy", 4);
    let cases = [
        (&[X][..], Some(1), true),
        (&[X, ROX], Some(1), true),
        (&[X, ROX, BY_ROX], Some(2), true),
        (&[X, ROX, BY_ROX, COPIED], Some(2), false),
        (&[("main", 5)], None, false),
    ];
    for (symbols, function, is_closed) in cases {
        let mut file = elf(&[0x90, 0xf4], true);
        add_symbols(&mut file, symbols);
        let report = close_rdtsc(&mut file).unwrap();
        let expected = LaterCode {
            function,
            is_closed,
        };
        assert_eq!(report.later_code, expected, "{symbols:?}");
    }
}
