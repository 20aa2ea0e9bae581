//! Puts a kernel into guest RAM so that the vCPU can start at its 64-bit entry point.
//!
//! There is no firmware, no decompressor and no kernel address randomisation in the guest: the
//! loader takes the ELF out of a bzImage, closes the time-stamp counter in it ([`rewrite`]), puts
//! it at its physical addresses and builds what firmware would have left behind: the zero page
//! with its memory map, the ACPI tables, a GDT and identity page tables.
//!
//! * [`kernel`]: from the bytes of a kernel file (bzImage or ELF) to an ELF image.
//! * [`decompress`]: the payload formats of a bzImage.
//! * [`elf`]: a small ELF64 reader with checked arithmetic.
//! * [`low_memory`]: which guest page below 1 MiB holds what.
//! * [`params`]: the zero page (`struct boot_params`) and the memory map in it.
//! * [`registers`]: page tables, GDT, and the registers at entry.
//! * [`acpi`]: the tables that describe the machine.
//! * [`rewrite`]: RDTSC becomes IN, and CR4.TSD survives the kernel's start.
//! * [`symbols`]: where functions of the kernel are.

pub mod acpi;
pub mod decompress;
pub mod elf;
mod error;
pub mod kernel;
pub mod low_memory;
pub mod params;
pub mod registers;
pub mod rewrite;
pub mod symbols;

use devices::GuestMemory;
use devices::layout;
use vm_memory::{Bytes, GuestAddress};

pub use error::BootError;
pub use registers::BootState;
pub use rewrite::RewriteReport;

/// Largest decompressed kernel that is accepted, in bytes.
pub const KERNEL_BYTES_MAX: u64 = 512 << 20;

/// What to boot, and the machine it boots on.
#[derive(Clone, Copy, Debug)]
pub struct BootRequest<'a> {
    /// A bzImage, or an ELF64 executable for x86-64.
    pub kernel: &'a [u8],
    /// The initial RAM disk, as it is to be found by the kernel.
    pub initrd: Option<&'a [u8]>,
    /// The kernel command line.
    pub cmdline: &'a str,
    /// Random bytes for the kernel's pool, so that it needn't gather them from clocks, each reading of
    /// which exits.
    pub rng_seed: Option<[u8; 32]>,
    /// Guest RAM in bytes: one range from address 0.
    pub ram_bytes: u64,
    /// Guest-physical base and GSI of each virtio-mmio window in use.
    pub virtio_windows: &'a [(u64, u32)],
    /// Rewrite RDTSC in the kernel and keep CR4.TSD set from the start.
    pub close_rdtsc: bool,
}

/// Loads the kernel, its initrd and everything the kernel expects from a firmware into `mem`.
///
/// # Errors
///
/// The kernel is not one ftd can boot, or kernel, initrd or command line don't fit into the
/// guest's RAM: see [`BootError`].
pub fn load(mem: &GuestMemory, request: &BootRequest) -> Result<BootState, BootError> {
    check_ram(request.ram_bytes)?;
    let mut kernel = kernel::KernelImage::parse(request.kernel)?;

    let rewrite = if request.close_rdtsc {
        rewrite::close_rdtsc(kernel.elf.to_mut())?
    } else {
        RewriteReport::default()
    };

    let image = elf::Elf::parse(&kernel.elf)?;
    let kernel_end = load_segments(mem, &image, request.ram_bytes)?;
    let entry = image.entry_physical()?;

    let initrd = match request.initrd {
        Some(initrd) => Some(load_initrd(
            mem,
            initrd,
            kernel_end,
            kernel.setup.initrd_addr_max(),
            request.ram_bytes,
        )?),
        None => None,
    };

    let rsdp = acpi::write_tables(mem, request.virtio_windows)?;
    params::write(
        mem,
        &params::ZeroPage {
            setup: &kernel.setup,
            cmdline: request.cmdline,
            initrd,
            ram_bytes: request.ram_bytes,
            rsdp,
            rng_seed: request.rng_seed,
        },
    )?;
    registers::write_tables(mem)?;

    Ok(BootState::new(entry, kernel_end, rewrite))
}

fn check_ram(ram_bytes: u64) -> Result<(), BootError> {
    let valid = (low_memory::RAM_BYTES_MIN..=layout::RAM_BYTES_MAX).contains(&ram_bytes)
        && ram_bytes.is_multiple_of(layout::PAGE_BYTES);
    if valid {
        Ok(())
    } else {
        Err(BootError::RamSize { ram_bytes })
    }
}

/// Copies the loadable segments to their physical addresses; returns the end of the last one.
fn load_segments(mem: &GuestMemory, image: &elf::Elf, ram_bytes: u64) -> Result<u64, BootError> {
    let mut end_max = 0;
    for segment in image.load_segments() {
        let start = segment.physical;
        let end = start
            .checked_add(segment.memory_bytes)
            .filter(|end| *end <= ram_bytes)
            .ok_or(BootError::SegmentOutsideRam {
                start,
                memory_bytes: segment.memory_bytes,
                ram_bytes,
            })?;
        if let Some(holds) = low_memory::taken(start, end) {
            return Err(BootError::SegmentOverlap { start, end, holds });
        }
        let data = image.segment_data(&segment)?;
        mem.write_slice(data, GuestAddress(start))?;
        zero(mem, start + data.len() as u64, end)?;
        end_max = end_max.max(end);
    }
    if end_max == 0 {
        return Err(BootError::NoSegments);
    }
    Ok(end_max)
}

fn zero(mem: &GuestMemory, mut start: u64, end: u64) -> Result<(), BootError> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    while start < end {
        let len = (end - start).min(ZEROS.len() as u64);
        mem.write_slice(&ZEROS[..len as usize], GuestAddress(start))?;
        start += len;
    }
    Ok(())
}

/// Puts the initrd as high as the kernel allows; returns its address and size in bytes.
fn load_initrd(
    mem: &GuestMemory,
    initrd: &[u8],
    kernel_end: u64,
    addr_max: u64,
    ram_bytes: u64,
) -> Result<(u64, u64), BootError> {
    let len = initrd.len() as u64;
    let limit = ram_bytes.min(addr_max.saturating_add(1));
    let start = limit
        .checked_sub(len)
        .map(|start| start & !(layout::PAGE_BYTES - 1))
        .filter(|start| *start >= kernel_end)
        .ok_or(BootError::InitrdTooBig {
            initrd_bytes: len,
            room_bytes: limit.saturating_sub(kernel_end),
        })?;
    mem.write_slice(initrd, GuestAddress(start))?;
    Ok((start, len))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
