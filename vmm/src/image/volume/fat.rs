//! FAT, through the fatfs crate.

use std::cell::RefCell;
use std::io::{self, Read, Seek, SeekFrom, Write};

use fatfs::{Dir, DirEntry, FileSystem, FsOptions};

use super::super::DIR_ENTRIES_MAX;
use super::super::read_at::Disk;
use super::read_ahead::{Budget, ReadAhead};
use super::{Node, Volume, VolumeError, collect_names, guarded};

const NAME: &str = "FAT";
/// Kernel and initrd at their largest, several times over; fatfs asks for a few bytes at a time.
const BUDGET: Budget = Budget {
    bytes: 16 << 30,
    reads: 64 << 20,
};

pub(super) struct FatVolume {
    // fatfs takes its disk mutably inside; a RefCell keeps two calls from meeting.
    filesystem: RefCell<FileSystem<Stream>>,
}

impl FatVolume {
    pub(super) fn open(disk: Disk) -> Result<Self, VolumeError> {
        check_boot_sector(&disk)?;
        let stream = Stream {
            disk: ReadAhead::new(disk, BUDGET),
            position: 0,
        };
        let options = FsOptions::new().update_accessed_date(false);
        let filesystem = guarded(NAME, || FileSystem::new(stream, options).map_err(error))?;
        Ok(Self {
            filesystem: RefCell::new(filesystem),
        })
    }
}

/// Checks the numbers that fatfs multiplies and subtracts without checks.
fn check_boot_sector(disk: &Disk) -> Result<(), VolumeError> {
    let damaged = |reason: &str| VolumeError::Filesystem {
        filesystem: NAME,
        reason: reason.into(),
    };
    let mut sector = [0; 512];
    disk.read_exact_at(0, &mut sector)
        .map_err(|error| damaged(&error.to_string()))?;
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
    let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
    let or = |small: u64, large: u64| if small != 0 { small } else { large };

    let sector_bytes = u16_at(11);
    let cluster_sectors = u64::from(sector[13]);
    let reserved = u16_at(14);
    let fats = u64::from(sector[16]);
    let root_entries = u16_at(17);
    let sectors = or(u16_at(19), u32_at(32));
    let fat_sectors = or(u16_at(22), u32_at(36));

    let sane = [512, 1024, 2048, 4096].contains(&sector_bytes)
        && cluster_sectors.is_power_of_two()
        && reserved != 0
        && (1..=2).contains(&fats)
        && fat_sectors != 0;
    if !sane {
        return Err(damaged("its boot sector is damaged"));
    }
    let root_sectors = (root_entries * 32).div_ceil(sector_bytes);
    if reserved + fats * fat_sectors + root_sectors >= sectors {
        return Err(damaged("its boot sector leaves no room for files"));
    }
    let needed_bytes = sectors * sector_bytes;
    if needed_bytes > disk.len() {
        return Err(VolumeError::Truncated {
            needed_bytes,
            have_bytes: disk.len(),
        });
    }
    Ok(())
}

impl FatVolume {
    /// The directory entry of `path`, which is not the root; None if there is none.
    fn entry<'fs>(
        filesystem: &'fs FileSystem<Stream>,
        path: &str,
    ) -> Result<Option<DirEntry<'fs, Stream>>, VolumeError> {
        let path = path.trim_matches('/');
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = match Self::open_dir(filesystem, dir) {
            Ok(dir) => dir,
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(error(other)),
        };
        for entry in dir.iter().take(DIR_ENTRIES_MAX) {
            let entry = entry.map_err(error)?;
            if entry.file_name().eq_ignore_ascii_case(name) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn open_dir<'fs>(
        filesystem: &'fs FileSystem<Stream>,
        path: &str,
    ) -> io::Result<Dir<'fs, Stream>> {
        let path = path.trim_matches('/');
        let root = filesystem.root_dir();
        if path.is_empty() {
            Ok(root)
        } else {
            root.open_dir(path)
        }
    }
}

impl Volume for FatVolume {
    fn filesystem(&self) -> &'static str {
        NAME
    }

    fn uuid(&self) -> String {
        let id = self.filesystem.borrow().volume_id();
        format!("{:04X}-{:04X}", id >> 16, id & 0xffff)
    }

    fn node(&self, path: &str) -> Result<Option<Node>, VolumeError> {
        if path.trim_matches('/').is_empty() {
            return Ok(Some(Node::Dir));
        }
        guarded(NAME, || {
            let filesystem = self.filesystem.borrow();
            let entry = Self::entry(&filesystem, path)?;
            Ok(entry.map(|entry| {
                if entry.is_dir() {
                    Node::Dir
                } else {
                    Node::File
                }
            }))
        })
    }

    fn names(&self, path: &str) -> Result<Vec<String>, VolumeError> {
        guarded(NAME, || {
            let filesystem = self.filesystem.borrow();
            let dir = Self::open_dir(&filesystem, path).map_err(error)?;
            collect_names(
                dir.iter()
                    .map(|entry| entry.map(|entry| Some(entry.file_name()))),
            )
            .map_err(error)
        })
    }

    fn read(&self, path: &str, max_bytes: u64) -> Result<Vec<u8>, VolumeError> {
        guarded(NAME, || {
            let filesystem = self.filesystem.borrow();
            let entry = Self::entry(&filesystem, path)?
                .ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
            let file_bytes = entry.len();
            if file_bytes > max_bytes {
                return Err(VolumeError::FileTooBig {
                    file_bytes,
                    max_bytes,
                });
            }
            let mut bytes = Vec::new();
            entry
                .to_file()
                .take(file_bytes)
                .read_to_end(&mut bytes)
                .map_err(error)?;
            if bytes.len() as u64 != file_bytes {
                return Err(VolumeError::Filesystem {
                    filesystem: NAME,
                    reason: format!("{path} is shorter than its directory says"),
                });
            }
            Ok(bytes)
        })
    }
}

fn error(error: io::Error) -> VolumeError {
    VolumeError::Filesystem {
        filesystem: NAME,
        reason: error.to_string(),
    }
}

/// The disk as a stream that can't be written.
struct Stream {
    disk: ReadAhead,
    position: u64,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.disk.len().saturating_sub(self.position);
        let count = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.disk.read(self.position, &mut buf[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.disk.len().checked_add_signed(by),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl Write for Stream {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
