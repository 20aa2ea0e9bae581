//! Which guest page below 1 MiB holds what when the guest starts.

/// Least RAM a guest can have, in bytes.
pub const RAM_BYTES_MIN: u64 = 2 << 20;

/// The GDT.
pub const GDT: u64 = 0x500;
/// Top of a small stack (it grows down to 0x1000) for guests that push before they have their own.
pub const STACK_TOP: u64 = 0x7000;
/// The zero page, `struct boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// The random seed for the kernel, as setup data of the boot protocol.
pub const RNG_SEED: u64 = 0x8000;
/// The page map level 4; the other tables follow it.
pub const PAGE_TABLES: u64 = 0x9000;
/// Pages of page tables: one level 4, one level 3, four level 2.
pub const PAGE_TABLE_PAGES: u64 = 6;
/// The kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Most bytes of command line, with its NUL.
pub const CMDLINE_BYTES_MAX: usize = 0x1_0000;
/// End of the conventional memory that the memory map calls RAM.
pub const CONVENTIONAL_END: u64 = 0x9_f000;
/// The FACS, on a page of its own.
pub const ACPI_FACS: u64 = 0xe_0000;
/// The RSDP, and after it the other ACPI tables.
pub const ACPI_TABLES: u64 = 0xe_1000;
/// End of the ACPI tables.
pub const ACPI_END: u64 = 0xf_0000;
/// Where RAM above the legacy hole begins.
pub const HIGH_RAM: u64 = 0x10_0000;

const TAKEN: [(u64, u64, &str); 6] = [
    (0, STACK_TOP, "the loader's GDT and stack"),
    (ZERO_PAGE, ZERO_PAGE + 0x1000, "the zero page"),
    (RNG_SEED, RNG_SEED + 0x1000, "the random seed"),
    (
        PAGE_TABLES,
        PAGE_TABLES + PAGE_TABLE_PAGES * 0x1000,
        "the initial page tables",
    ),
    (
        CMDLINE,
        CMDLINE + CMDLINE_BYTES_MAX as u64,
        "the kernel command line",
    ),
    (
        CONVENTIONAL_END,
        HIGH_RAM,
        "the ACPI tables and the legacy hole",
    ),
];

/// What of the loader's own lies in `start..end`, if anything.
#[must_use]
pub fn taken(start: u64, end: u64) -> Option<&'static str> {
    TAKEN
        .iter()
        .find(|(from, to, _)| start < *to && *from < end)
        .map(|(_, _, holds)| *holds)
}
