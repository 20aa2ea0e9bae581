//! Filesystems that boot files can be read from, behind one small interface.

mod ext4;
mod fat;
mod probe;
mod read_ahead;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::DIR_ENTRIES_MAX;
use super::read_at::Disk;

/// What a path leads to, links not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link and its target.
    Link(String),
}

/// Why a volume can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// The filesystem is damaged or uses something that is not supported.
    #[error("its {filesystem} filesystem can't be read: {reason}")]
    Filesystem {
        /// ext4 or FAT.
        filesystem: &'static str,
        /// What the reader says.
        reason: String,
    },
    /// The filesystem is larger than the partition or image that holds it.
    #[error("its filesystem should have {needed_bytes} bytes and {have_bytes} are there")]
    Truncated {
        /// Bytes the filesystem has by its own word.
        needed_bytes: u64,
        /// Bytes there are.
        have_bytes: u64,
    },
    /// A file is larger than is read.
    #[error("it has {file_bytes} bytes, more than the {max_bytes} that are read")]
    FileTooBig {
        /// Size of the file in bytes.
        file_bytes: u64,
        /// Most bytes that are read.
        max_bytes: u64,
    },
    /// Not a filesystem that is supported.
    #[error("it holds {holds}")]
    Other {
        /// What it holds.
        holds: &'static str,
    },
}

/// A filesystem, read without ever being written. Paths are absolute and have no links in their
/// directories: [`super::path`] sees to that.
pub trait Volume {
    /// `ext4` or `FAT`.
    fn filesystem(&self) -> &'static str;

    /// The UUID as `root=UUID=` takes it.
    fn uuid(&self) -> String;

    /// What is at `path`; None if nothing is.
    ///
    /// # Errors
    ///
    /// The filesystem is damaged.
    fn node(&self, path: &str) -> Result<Option<Node>, VolumeError>;

    /// Names in the directory at `path`, at most [`DIR_ENTRIES_MAX`].
    ///
    /// # Errors
    ///
    /// The filesystem is damaged.
    fn names(&self, path: &str) -> Result<Vec<String>, VolumeError>;

    /// The file at `path`.
    ///
    /// # Errors
    ///
    /// The file has more than `max_bytes` bytes, or the filesystem is damaged.
    fn read(&self, path: &str, max_bytes: u64) -> Result<Vec<u8>, VolumeError>;
}

/// Opens the filesystem in `disk`, which is a partition or a whole disk.
///
/// # Errors
///
/// It holds something else (named where it is known), or is damaged.
pub fn open(disk: &Disk) -> Result<Box<dyn Volume>, VolumeError> {
    match probe::probe(disk) {
        probe::Kind::Ext4 => {
            ext4::Ext4Volume::open(disk.clone()).map(|volume| Box::new(volume) as _)
        }
        probe::Kind::Fat => fat::FatVolume::open(disk.clone()).map(|volume| Box::new(volume) as _),
        probe::Kind::Other(holds) => Err(VolumeError::Other { holds }),
    }
}

/// The format of a disk image that is no raw disk, if that is what `disk` is.
#[must_use]
pub fn image_format(disk: &Disk) -> Option<&'static str> {
    probe::image_format(disk)
}

/// Calls into a filesystem crate. The crates are fed hostile bytes and have arithmetic and
/// `unwrap`s that such bytes can reach; a panic there must not end the daemon, so it becomes an
/// error here. Nothing of the crate's state is used after one: the volume is given up.
pub(super) fn guarded<T>(
    filesystem: &'static str,
    call: impl FnOnce() -> Result<T, VolumeError>,
) -> Result<T, VolumeError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(VolumeError::Filesystem {
            filesystem,
            reason: "it is damaged in a way that its reader did not expect".into(),
        })
    })
}

/// At most [`DIR_ENTRIES_MAX`] names, without `.` and `..`.
fn collect_names<E>(
    names: impl Iterator<Item = Result<Option<String>, E>>,
) -> Result<Vec<String>, E> {
    names
        .take(DIR_ENTRIES_MAX)
        .filter_map(Result::transpose)
        .filter(|name| !matches!(name.as_deref(), Ok("." | "..")))
        .collect()
}
