//! How to open a disk, and why that can fail.

use std::io;
use std::path::PathBuf;

/// Format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskFormat {
    /// qcow2 if it begins with qcow2's magic number, raw otherwise. A guest on a raw disk can write
    /// that number itself, so a qcow2 found in this way must not refer to other files unless its
    /// name ends in `.qcow2`.
    #[default]
    Auto,
    /// The file or block device is the disk, byte for byte.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

impl std::str::FromStr for DiskFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(DiskFormat::Auto),
            "raw" => Ok(DiskFormat::Raw),
            "qcow2" => Ok(DiskFormat::Qcow2),
            _ => Err(format!(
                "'{text}' is not a disk format: give auto, raw or qcow2"
            )),
        }
    }
}

/// How to open a disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskOptions {
    /// The image's format.
    pub format: DiskFormat,
    /// Never write: guest writes fail, and the file is opened read-only.
    pub read_only: bool,
    /// Bypass the page cache (O_DIRECT) and keep nothing in memory; needed where another host opens
    /// the same disk.
    pub direct: bool,
    /// Another host writes to it until the first request comes: a qcow2 is opened for good only
    /// then. (What is raw has nothing that could grow old.)
    pub late: bool,
}

/// Why a disk can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("disk image {} does not exist", .path.display())]
    Missing {
        /// The image.
        path: PathBuf,
    },
    /// open(2) refused for lack of rights.
    #[error(
        "no permission to open disk image {} for {}: run as its owner, or check its mode and that \
         of the directories above it", .path.display(), access(*.read_only)
    )]
    Permission {
        /// The image.
        path: PathBuf,
        /// Whether it was to be opened read-only.
        read_only: bool,
    },
    /// open(2) failed in another way.
    #[error("can't open disk image {} for {}", .path.display(), access(*.read_only))]
    Open {
        /// The image.
        path: PathBuf,
        /// Whether it was to be opened read-only.
        read_only: bool,
        /// What open(2) said.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a socket, ...
    #[error("disk image {} is neither a file nor a block device", .path.display())]
    NotAnImage {
        /// The image.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("disk image {} is empty", .path.display())]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// Its size is no whole number of sectors.
    #[error(
        "disk image {} has {capacity} bytes, not a multiple of 512: it is truncated, or not a disk \
         image", .path.display()
    )]
    NotSectors {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        capacity: u64,
    },
    /// Its size is no whole number of what O_DIRECT needs.
    #[error(
        "disk image {} has {capacity} bytes, not a multiple of the {granule} that direct I/O needs \
         there: extend it with truncate(1)", .path.display()
    )]
    NotGranules {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        capacity: u64,
        /// What direct I/O needs, in bytes.
        granule: u64,
    },
    /// O_DIRECT isn't to be had.
    #[error(
        "the file system of disk image {} does not support direct I/O (O_DIRECT), which a disk \
         shared between hosts needs: use a block device, or a file system that does",
        .path.display()
    )]
    NoDirect {
        /// The image.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It has another size than it had when it was looked at.
    #[error("disk image {} has {now} bytes now and had {before}", .path.display())]
    Resized {
        /// The image.
        path: PathBuf,
        /// Its size before, in bytes.
        before: u64,
        /// Its size now, in bytes.
        now: u64,
    },
    /// Reading it to find out what it is failed.
    #[error("can't read disk image {}", .path.display())]
    Read {
        /// The image.
        path: PathBuf,
        /// What read(2) said.
        #[source]
        source: io::Error,
    },
    /// A qcow2 that ends before something it points to.
    #[error("qcow2 image {} is truncated: {what}", .path.display())]
    Truncated {
        /// The image.
        path: PathBuf,
        /// What lies beyond the end.
        what: String,
    },
    /// A qcow2 that can't be opened.
    #[error("can't open qcow2 image {}", .path.display())]
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// What the `imago` crate said.
        #[source]
        source: io::Error,
    },
    /// A probed qcow2 refers to another file.
    #[error(
        "disk image {} looks like a qcow2 that refers to another file; as a guest can write such a \
         header itself, say format=qcow2 if you trust it, or format=raw", .path.display()
    )]
    UntrustedReference {
        /// The image.
        path: PathBuf,
        /// What the `imago` crate said.
        #[source]
        source: io::Error,
    },
}

fn access(read_only: bool) -> &'static str {
    match read_only {
        true => "reading",
        false => "reading and writing",
    }
}
