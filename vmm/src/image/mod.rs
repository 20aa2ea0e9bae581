//! Finds what to boot inside a disk image: kernel, initrd and command line.
//!
//! A disk is partitions ([`partition`]) or one bare volume; a volume is a filesystem that can be
//! read ([`volume`]: ext4 and FAT); in the volumes, the Boot Loader Specification's entries
//! ([`bls`]), Debian's `/vmlinuz` links or the newest `/boot/vmlinuz-*` say what to boot
//! ([`finder`]).
//!
//! The image is not trusted: reads are bounded, sizes are checked before memory is taken, links
//! are followed here ([`path`]) and not by the filesystem crates, and a panic in one of those
//! crates ends as an error (`volume::guarded`).

pub mod bls;
mod error;
pub mod finder;
pub mod partition;
pub mod path;
pub mod read_at;
#[cfg(test)]
mod testing;
pub mod version;
pub mod volume;

pub use error::ImageError;
pub use finder::{BootFiles, find_boot_files};
pub use read_at::ReadAt;

/// Largest kernel file that is read, in bytes.
pub const KERNEL_BYTES_MAX: u64 = 256 << 20;
/// Most bytes of initrd, all its parts together.
pub const INITRD_BYTES_MAX: u64 = 1 << 30;
/// Largest configuration file that is read, in bytes.
pub const TEXT_BYTES_MAX: u64 = 64 << 10;
/// Most entries of a directory that are looked at.
pub const DIR_ENTRIES_MAX: usize = 16_384;
