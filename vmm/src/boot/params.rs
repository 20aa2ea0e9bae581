//! The zero page: `struct boot_params`, which RSI points to when the kernel starts.
//!
//! Offsets are those of Documentation/arch/x86/zero-page.rst.

use devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::error::BootError;
use super::kernel::{SETUP_HEADER, SetupHeader};
use super::low_memory as low;

const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const VID_MODE: usize = 0x1fa;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const SETUP_DATA: usize = 0x250;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY_BYTES: usize = 20;
/// Type of setup data that holds a random seed (since Linux 6.0).
const SETUP_RNG_SEED: u32 = 9;

/// A loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
const VID_MODE_NORMAL: u16 = 0xffff;

/// Types of the memory map (ACPI 6.5, table 15.4).
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const ACPI_RECLAIMABLE: u32 = 3;
const ACPI_NVS: u32 = 4;

/// What the zero page is made of.
#[derive(Debug)]
pub struct ZeroPage<'a> {
    /// The kernel's setup header.
    pub setup: &'a SetupHeader,
    /// The command line.
    pub cmdline: &'a str,
    /// Address and size in bytes of the initrd.
    pub initrd: Option<(u64, u64)>,
    /// RAM in bytes.
    pub ram_bytes: u64,
    /// Address of the RSDP.
    pub rsdp: u64,
    /// Random bytes for the kernel's pool.
    pub rng_seed: Option<[u8; 32]>,
}

/// One range of the memory map: first address, bytes, type.
pub type MapEntry = (u64, u64, u32);

/// The memory map of a guest with `ram_bytes` of RAM.
#[must_use]
pub fn memory_map(ram_bytes: u64) -> Vec<MapEntry> {
    let range = |start: u64, end: u64, kind| (start, end - start, kind);
    vec![
        range(0, low::CONVENTIONAL_END, RAM),
        range(low::CONVENTIONAL_END, 0xa_0000, RESERVED),
        range(low::ACPI_FACS, low::ACPI_TABLES, ACPI_NVS),
        range(low::ACPI_TABLES, low::ACPI_END, ACPI_RECLAIMABLE),
        range(low::ACPI_END, low::HIGH_RAM, RESERVED),
        range(low::HIGH_RAM, ram_bytes, RAM),
    ]
}

/// Writes the zero page and the command line.
///
/// # Errors
///
/// The command line is too long or has a NUL, or `mem` is too small.
pub fn write(mem: &GuestMemory, page: &ZeroPage) -> Result<(), BootError> {
    write_cmdline(mem, page)?;
    let bytes = build(page);
    mem.write_slice(&bytes, GuestAddress(low::ZERO_PAGE))?;
    if let Some(seed) = &page.rng_seed {
        mem.write_slice(
            &setup_data(SETUP_RNG_SEED, seed),
            GuestAddress(low::RNG_SEED),
        )?;
    }
    Ok(())
}

fn write_cmdline(mem: &GuestMemory, page: &ZeroPage) -> Result<(), BootError> {
    let cmdline = page.cmdline.as_bytes();
    let max_bytes = page
        .setup
        .cmdline_bytes_max()
        .min(low::CMDLINE_BYTES_MAX - 1);
    if cmdline.len() > max_bytes {
        return Err(BootError::CmdlineTooLong {
            cmdline_bytes: cmdline.len(),
            max_bytes,
        });
    }
    if let Some(at) = cmdline.iter().position(|byte| *byte == 0) {
        return Err(BootError::CmdlineNul { at });
    }
    mem.write_slice(cmdline, GuestAddress(low::CMDLINE))?;
    mem.write_slice(&[0], GuestAddress(low::CMDLINE + cmdline.len() as u64))?;
    Ok(())
}

/// One `struct setup_data`, the last of its list.
fn setup_data(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn build(page: &ZeroPage) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);

    // The header comes first, because the fields below are part of it. Its loadflags are not
    // taken over: KASLR_FLAG would tell the kernel that a decompressor randomised its address.
    put(SETUP_HEADER, page.setup.bytes());
    put(VID_MODE, &VID_MODE_NORMAL.to_le_bytes());
    put(TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    put(LOADFLAGS, &[LOADED_HIGH]);
    let setup_data = page.rng_seed.map_or(0, |_| low::RNG_SEED);
    put(SETUP_DATA, &setup_data.to_le_bytes());
    put(CMD_LINE_PTR, &(low::CMDLINE as u32).to_le_bytes());
    // The initrd lies below 4 GiB, since all RAM does.
    let (initrd, initrd_bytes) = page.initrd.unwrap_or((0, 0));
    put(RAMDISK_IMAGE, &(initrd as u32).to_le_bytes());
    put(RAMDISK_SIZE, &(initrd_bytes as u32).to_le_bytes());
    put(ACPI_RSDP_ADDR, &page.rsdp.to_le_bytes());

    let map = memory_map(page.ram_bytes);
    put(E820_ENTRIES, &[map.len() as u8]);
    for (index, (start, size, kind)) in map.iter().enumerate() {
        let at = E820_TABLE + index * E820_ENTRY_BYTES;
        put(at, &start.to_le_bytes());
        put(at + 8, &size.to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_map_is_sorted_and_ends_with_ram() {
        let map = memory_map(1 << 30);
        for pair in map.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        assert_eq!(map.last(), Some(&(1 << 20, (1 << 30) - (1 << 20), RAM)));
    }
}
