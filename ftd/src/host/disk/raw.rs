//! Raw files and block devices, through the page cache or past it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::image::Image;
use super::options::OpenError;
use crate::host::aligned::AlignedBuf;

/// Units of direct I/O to try, smallest first, in bytes.
const DIRECT_UNITS: [u64; 3] = [512, 1024, 4096];
/// Bytes copied at a time on their way to or from an aligned buffer.
const BOUNCE_BYTES: u64 = 1 << 20;

/// Opens a file or block device; anything else is refused before a FIFO could block the open.
pub(super) fn open_file(path: &Path, read_only: bool, direct: bool) -> Result<File, OpenError> {
    let owned = || path.to_owned();
    let open = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => OpenError::Missing { path: owned() },
        io::ErrorKind::PermissionDenied => OpenError::Permission {
            path: owned(),
            read_only,
        },
        io::ErrorKind::InvalidInput if direct => OpenError::NoDirect {
            path: owned(),
            source,
        },
        _ => OpenError::Open {
            path: owned(),
            read_only,
            source,
        },
    };
    let kind = std::fs::metadata(path).map_err(open)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::NotAnImage { path: owned() });
    }
    OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(path)
        .map_err(open)
}

/// Drops what this host's page cache holds of a file that another host may have written to.
pub(super) fn forget_cached(file: &File) {
    let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    if let Err(errno) = posix_fadvise(file, 0, 0, advice) {
        tracing::debug!("the page cache may be old: {errno}");
    }
}

/// The file or device is the disk.
pub(super) struct RawImage {
    file: File,
    capacity: u64,
    /// Unit of direct I/O in bytes; 1 through the page cache.
    granule: u64,
}

impl RawImage {
    pub(super) fn new(path: &Path, mut file: File, direct: bool) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Read {
            path: path.to_owned(),
            source,
        };
        let capacity = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let granule = match direct && capacity >= DIRECT_UNITS[0] {
            true => direct_unit(&file, capacity).map_err(|source| {
                if source.kind() == io::ErrorKind::InvalidInput {
                    let path = path.to_owned();
                    return OpenError::NoDirect { path, source };
                }
                failed(source)
            })?,
            false => 1,
        };
        Ok(RawImage {
            file,
            capacity,
            granule,
        })
    }

    /// An image that behaves as on a disk with units of `granule` bytes.
    #[cfg(test)]
    pub(super) fn with_granule(file: File, capacity: u64, granule: u64) -> Self {
        RawImage {
            file,
            capacity,
            granule,
        }
    }

    /// The aligned range around `offset..offset + len`, cut off after [`BOUNCE_BYTES`]: its start
    /// and length, and how many bytes of the range from `offset` on lie in it.
    fn window(&self, offset: u64, len: u64) -> (u64, u64, u64) {
        let start = offset - offset % self.granule;
        let end = (offset + len)
            .next_multiple_of(self.granule)
            .min(start + BOUNCE_BYTES);
        (start, end - start, len.min(end - offset))
    }
}

/// Finds the unit of direct I/O by reading: the kernel answers EINVAL to what is too small.
fn direct_unit(file: &File, capacity: u64) -> io::Result<u64> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for unit in DIRECT_UNITS {
        let mut buf = AlignedBuf::new(unit as usize)?;
        // At an offset that is a multiple of no larger unit, where the disk is that large.
        let offset = if capacity >= 2 * unit { unit } else { 0 };
        match file.read_at(&mut buf, offset) {
            Ok(_) => return Ok(unit),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

impl Image for RawImage {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn granule(&self) -> u64 {
        self.granule
    }

    fn workers(&self) -> usize {
        4
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        if self.granule == 1 {
            return self.file.read_exact_at(buf, offset);
        }
        while !buf.is_empty() {
            let (start, len, count) = self.window(offset, buf.len() as u64);
            let mut bounce = AlignedBuf::new(len as usize)?;
            self.file.read_exact_at(&mut bounce, start)?;
            let from = (offset - start) as usize;
            let (now, later) = buf.split_at_mut(count as usize);
            now.copy_from_slice(&bounce[from..from + now.len()]);
            offset += count;
            buf = later;
        }
        Ok(())
    }

    fn write_at(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        if self.granule == 1 {
            return self.file.write_all_at(data, offset);
        }
        while !data.is_empty() {
            let (start, len, count) = self.window(offset, data.len() as u64);
            let mut bounce = AlignedBuf::new(len as usize)?;
            if count < len {
                // A part of a unit: the rest of it must be written back as it was.
                self.file.read_exact_at(&mut bounce, start)?;
            }
            let from = (offset - start) as usize;
            let (now, later) = data.split_at(count as usize);
            bounce[from..from + now.len()].copy_from_slice(now);
            self.file.write_all_at(&bounce, start)?;
            offset += count;
            data = later;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let offset = libc::off_t::try_from(offset).map_err(too_large)?;
        let len = libc::off_t::try_from(len).map_err(too_large)?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        loop {
            match fallocate(&self.file, flags, offset, len) {
                Err(nix::Error::EINTR) => continue,
                // EINVAL: a block device whose logical block is larger than the range's alignment.
                Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS | nix::Error::EINVAL) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                result => return result.map_err(io::Error::from),
            }
        }
    }
}
