//! Why a guest could not be loaded.

use super::decompress::DecompressError;
use super::elf::ElfError;
use devices::layout;

/// Why a kernel could not be put into guest RAM. No part of the guest has run.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Neither a bzImage nor an ELF file.
    #[error(
        "the kernel file is neither a bzImage nor an ELF file ({kernel_bytes} bytes, {}); \
         give the vmlinuz or vmlinux of an x86-64 kernel",
        describe_begin(begins)
    )]
    NotAKernel {
        /// Size of the file in bytes.
        kernel_bytes: usize,
        /// Its first bytes.
        begins: Vec<u8>,
    },
    /// The bzImage's setup header is not one that can be loaded.
    #[error("the bzImage can't be loaded: {reason}")]
    SetupHeader {
        /// What is wrong, or not supported.
        reason: &'static str,
    },
    /// The bzImage ends before what its header promises.
    #[error("the bzImage is truncated: it should have {needed_bytes} bytes and has {have_bytes}")]
    Truncated {
        /// Bytes the header asks for.
        needed_bytes: u64,
        /// Bytes there are.
        have_bytes: u64,
    },
    /// The payload could not be decompressed.
    #[error("the kernel in the bzImage can't be decompressed")]
    Decompress(#[from] DecompressError),
    /// The ELF image is not one that can be loaded.
    #[error("the kernel's ELF image can't be loaded")]
    Elf(#[from] ElfError),
    /// The ELF file has nothing to load.
    #[error("the kernel's ELF image has no loadable segment")]
    NoSegments,
    /// A segment lies outside RAM.
    #[error(
        "the kernel needs memory from {start:#x}, {memory_bytes} bytes, and the guest has \
         {ram_bytes} bytes of RAM; give it more"
    )]
    SegmentOutsideRam {
        /// Physical address of the segment.
        start: u64,
        /// Its size in memory, in bytes.
        memory_bytes: u64,
        /// RAM of the guest in bytes.
        ram_bytes: u64,
    },
    /// A segment lies on a page that the loader itself needs.
    #[error("the kernel's segment at {start:#x}..{end:#x} overlaps {holds}")]
    SegmentOverlap {
        /// First address of the segment.
        start: u64,
        /// Address after the segment.
        end: u64,
        /// What is there.
        holds: &'static str,
    },
    /// The initrd does not fit between the kernel and the highest address it may have.
    #[error(
        "the initrd has {initrd_bytes} bytes and there is room for {room_bytes}; \
         give the guest more RAM"
    )]
    InitrdTooBig {
        /// Size of the initrd in bytes.
        initrd_bytes: u64,
        /// Room for it in bytes.
        room_bytes: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {cmdline_bytes} bytes; this kernel takes {max_bytes}")]
    CmdlineTooLong {
        /// Size of the command line in bytes.
        cmdline_bytes: usize,
        /// Most bytes the kernel takes.
        max_bytes: usize,
    },
    /// The command line has a NUL in it.
    #[error("the kernel command line has a NUL character at byte {at}")]
    CmdlineNul {
        /// Where, in bytes.
        at: usize,
    },
    /// The RAM size is not one a guest can have.
    #[error(
        "a guest can't have {ram_bytes} bytes of RAM: it must be a multiple of {} bytes, from {} \
         to {} MiB",
        layout::PAGE_BYTES,
        super::low_memory::RAM_BYTES_MIN >> 20,
        layout::RAM_BYTES_MAX >> 20
    )]
    RamSize {
        /// What was asked for, in bytes.
        ram_bytes: u64,
    },
    /// A virtio window can't be described to the guest.
    #[error("a virtio window at {base:#x} is not below 4 GiB")]
    VirtioWindow {
        /// Its guest-physical base.
        base: u64,
    },
    /// Guest RAM does not cover what was asked for.
    #[error("guest memory can't be written")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

fn describe_begin(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "empty".into();
    }
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("beginning with {}", hex.join(" "))
}
