//! Why nothing to boot was found in a disk image.

use std::io;

/// What a user can do about most of these.
const GIVE_FILES: &str = "give --kernel and --initrd to boot files from outside the image";

/// Why nothing to boot was found in a disk image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The image has no bytes.
    #[error("the disk image is empty (0 bytes); give a raw disk image with a bootable system")]
    Empty,
    /// The image is of a format that was to be opened otherwise.
    #[error("the disk image is in {format} format and was read as a raw disk; name its format")]
    Format {
        /// Name of the format.
        format: &'static str,
    },
    /// The image ends before what its tables promise.
    #[error(
        "the disk image is truncated: {what} ends at byte {needed_bytes} and the image has \
         {have_bytes}; copy it again"
    )]
    Truncated {
        /// Partition or filesystem.
        what: String,
        /// Bytes the image should have at least.
        needed_bytes: u64,
        /// Bytes it has.
        have_bytes: u64,
    },
    /// The partition table can't be read.
    #[error("the partition table is damaged: {reason}; repair it (sgdisk, sfdisk) or {GIVE_FILES}")]
    Table {
        /// What is wrong with it.
        reason: String,
    },
    /// There is no filesystem that can be read.
    #[error("no ext4 or FAT filesystem in the disk image ({}); {GIVE_FILES}", list(.looked))]
    NoFilesystem {
        /// What was looked at, and what it holds.
        looked: Vec<String>,
    },
    /// The filesystems hold no kernel.
    #[error(
        "no kernel in the disk image: no Boot Loader Specification entry, no /vmlinuz link and no \
         /boot/vmlinuz-* ({}); {GIVE_FILES}",
        list(.looked)
    )]
    NoKernel {
        /// What was looked at.
        looked: Vec<String>,
    },
    /// A boot file that is named in the image can't be used.
    #[error("{path} in {place}, named by {named_by}, {problem}; {GIVE_FILES}")]
    BootFile {
        /// Path in its filesystem.
        path: String,
        /// Which partition.
        place: String,
        /// What says that it is to be booted.
        named_by: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The disk can't be read.
    #[error("{what} can't be read")]
    Io {
        /// What was being read.
        what: String,
        /// What the host says.
        #[source]
        source: io::Error,
    },
}

fn list(looked: &[String]) -> String {
    if looked.is_empty() {
        return "nothing was found to look at".into();
    }
    format!("looked at {}", looked.join("; "))
}
