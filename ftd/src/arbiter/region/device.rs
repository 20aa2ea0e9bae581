//! A device whose reads and writes reach the disk, not this host's page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::super::layout::{ROWS_OFFSET, SECTOR_BYTES};
use super::super::{ArbiterError, HostSlot, SLOTS};
use crate::host::aligned::AlignedBuf;

/// Where the bytes are whose locks stand for the slots: at the end of the reserved part, where
/// nothing is stored. (Locks need no content.)
const LOCKS_OFFSET: u64 = ROWS_OFFSET - SLOTS as u64;

/// An open device or file.
#[derive(Debug)]
pub(super) struct Device {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Device {
    /// Opens it for direct, synchronous I/O; `exclusive`ly, so that a block device that is mounted
    /// or otherwise in use is refused.
    pub(super) fn open(path: &Path, exclusive: bool) -> Result<Device, ArbiterError> {
        let owned = || path.to_owned();
        let kind = match std::fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ArbiterError::Missing { path: owned() });
            }
            Err(error) => return Err(ArbiterError::io("look at", path)(error)),
        };
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ArbiterError::WrongKind {
                path: owned(),
                wanted: "block device or file",
            });
        }
        let exclusive = match exclusive && kind.is_block_device() {
            true => libc::O_EXCL,
            false => 0,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT | libc::O_DSYNC | exclusive)
            .open(path)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EINVAL) => ArbiterError::NoDirect {
                    path: owned(),
                    source,
                },
                _ => ArbiterError::io("open", path)(source),
            })?;
        let len = file
            .seek(SeekFrom::End(0))
            .map_err(ArbiterError::io("find the size of", path))?;
        Ok(Device {
            path: owned(),
            file,
            len,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads `len` bytes at `offset`, both multiples of [`SECTOR_BYTES`].
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<AlignedBuf, ArbiterError> {
        debug_assert!(len.is_multiple_of(SECTOR_BYTES));
        let failed = || ArbiterError::io("read", &self.path);
        let mut buf = AlignedBuf::new(len).map_err(failed())?;
        self.file
            .read_exact_at(&mut buf, offset)
            .map_err(failed())?;
        Ok(buf)
    }

    /// Writes `data` at `offset`, both multiples of [`SECTOR_BYTES`]; durable when it returns.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), ArbiterError> {
        debug_assert!(data.len().is_multiple_of(SECTOR_BYTES));
        let failed = || ArbiterError::io("write", &self.path);
        let mut buf = AlignedBuf::new(data.len()).map_err(failed())?;
        buf.copy_from_slice(data);
        self.file.write_all_at(&buf, offset).map_err(failed())
    }

    /// Keeps other processes of this host (and, on a file system with locks, of other hosts) from
    /// using the slot until this is dropped. It is a help against mistakes; the promise rests on
    /// the configuration giving each host a slot of its own.
    pub(super) fn lock(&self, slot: HostSlot) -> Result<(), ArbiterError> {
        let lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: LOCKS_OFFSET as libc::off_t + slot.index() as libc::off_t,
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(()),
            Err(Errno::EAGAIN | Errno::EACCES) => Err(ArbiterError::SlotTaken {
                path: self.path.clone(),
                slot,
                by: "another process".to_owned(),
            }),
            Err(errno) => {
                tracing::warn!(
                    "{}: no lock on slot {slot} ({errno}); make sure that no other host uses it",
                    self.path.display()
                );
                Ok(())
            }
        }
    }
}
