//! Random access to the bytes of a disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A disk, or a part of one, that can be read anywhere.
pub trait ReadAt {
    /// Size in bytes.
    fn len(&self) -> u64;

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    ///
    /// The disk can't be read there, or ends before `buf` is full.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A disk that any thread may read.
pub type Disk = Arc<dyn ReadAt + Send + Sync>;

impl ReadAt for File {
    fn len(&self) -> u64 {
        use std::io::{Seek, SeekFrom};
        // Seeking tells the size of block devices too, for which metadata says 0.
        let mut file = self;
        file.seek(SeekFrom::End(0)).unwrap_or(0)
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// A part of a disk, such as a partition.
pub struct Window {
    disk: Disk,
    start: u64,
    bytes: u64,
}

impl Window {
    /// The part of `disk` from `start` on, at most `bytes` long, and no longer than the disk.
    #[must_use]
    pub fn new(disk: Disk, start: u64, bytes: u64) -> Self {
        let bytes = disk.len().saturating_sub(start).min(bytes);
        Self { disk, start, bytes }
    }
}

impl ReadAt for Window {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let inside = offset
            .checked_add(buf.len() as u64)
            .is_some_and(|end| end <= self.bytes);
        if !inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.disk.read_exact_at(self.start + offset, buf)
    }
}
