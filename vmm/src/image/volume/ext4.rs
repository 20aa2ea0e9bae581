//! ext4, through the ext4-view crate (which replays the journal in memory if it has to).

use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType};

use super::super::read_at::Disk;
use super::read_ahead::{Budget, ReadAhead};
use super::{Node, Volume, VolumeError, collect_names, guarded};

const NAME: &str = "ext4";
const SUPERBLOCK: u64 = 1024;
/// Largest block size that Linux has: 64 KiB. The field is log2 of the size, less 10.
const LOG_BLOCK_SIZE_MAX: u32 = 6;
/// Block groups of a filesystem of 128 TiB with the usual 4 KiB blocks.
const GROUPS_MAX: u64 = 1 << 20;
/// Largest directory that is read, in bytes.
const DIR_BYTES_MAX: u64 = 16 << 20;
/// Longest target of a link, in bytes, as Linux has it.
const LINK_BYTES_MAX: u64 = 4096;
/// Kernel and initrd at their largest, several times over.
const BUDGET: Budget = Budget {
    bytes: 16 << 30,
    reads: 64 << 20,
};

pub(super) struct Ext4Volume {
    filesystem: Ext4,
}

impl Ext4Volume {
    pub(super) fn open(disk: Disk) -> Result<Self, VolumeError> {
        check_superblock(&disk)?;
        let reader = Reader(ReadAhead::new(disk, BUDGET));
        let filesystem = guarded(NAME, || Ext4::load(Box::new(reader)).map_err(error))?;
        Ok(Self { filesystem })
    }
}

/// Checks what the crate takes memory by, before it does.
fn check_superblock(disk: &Disk) -> Result<(), VolumeError> {
    let damaged = |reason: &str| VolumeError::Filesystem {
        filesystem: NAME,
        reason: reason.into(),
    };
    let mut superblock = [0; 1024];
    disk.read_exact_at(SUPERBLOCK, &mut superblock)
        .map_err(|error| damaged(&error.to_string()))?;
    let u32_at = |at: usize| {
        u32::from_le_bytes([
            superblock[at],
            superblock[at + 1],
            superblock[at + 2],
            superblock[at + 3],
        ])
    };
    let log_block_size = u32_at(0x18);
    if log_block_size > LOG_BLOCK_SIZE_MAX {
        return Err(damaged("its block size is impossible"));
    }
    let block_bytes = 1024_u64 << log_block_size;
    let is_64bit = u32_at(0x60) & 0x80 != 0;
    let high = if is_64bit { u32_at(0x150) } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(u32_at(0x4));
    let needed_bytes = blocks.saturating_mul(block_bytes);
    if needed_bytes > disk.len() {
        return Err(VolumeError::Truncated {
            needed_bytes,
            have_bytes: disk.len(),
        });
    }
    let blocks_per_group = u64::from(u32_at(0x20)).max(1);
    if blocks / blocks_per_group > GROUPS_MAX {
        return Err(damaged("it has an impossible number of block groups"));
    }
    Ok(())
}

impl Volume for Ext4Volume {
    fn filesystem(&self) -> &'static str {
        NAME
    }

    fn uuid(&self) -> String {
        self.filesystem.uuid().to_string()
    }

    fn node(&self, path: &str) -> Result<Option<Node>, VolumeError> {
        guarded(NAME, || {
            let metadata = match self.filesystem.symlink_metadata(path) {
                Ok(metadata) => metadata,
                Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Ok(None),
                Err(other) => return Err(error(other)),
            };
            Ok(match metadata.file_type() {
                FileType::Regular => Some(Node::File),
                FileType::Directory => Some(Node::Dir),
                // A longer one can't be; the crate would take memory for it first.
                FileType::Symlink if metadata.len() > LINK_BYTES_MAX => None,
                FileType::Symlink => {
                    let target = self.filesystem.read_link(path).map_err(error)?;
                    target.to_str().ok().map(|target| Node::Link(target.into()))
                }
                _ => None,
            })
        })
    }

    fn names(&self, path: &str) -> Result<Vec<String>, VolumeError> {
        guarded(NAME, || {
            let bytes = self.filesystem.symlink_metadata(path).map_err(error)?.len();
            if bytes > DIR_BYTES_MAX {
                return Err(VolumeError::FileTooBig {
                    file_bytes: bytes,
                    max_bytes: DIR_BYTES_MAX,
                });
            }
            let entries = self.filesystem.read_dir(path).map_err(error)?;
            collect_names(entries.map(|entry| {
                // Names that are not UTF-8 are none that ftd looks for.
                entry.map(|entry| entry.file_name().as_str().ok().map(str::to_owned))
            }))
            .map_err(error)
        })
    }

    fn read(&self, path: &str, max_bytes: u64) -> Result<Vec<u8>, VolumeError> {
        guarded(NAME, || {
            let mut file = self.filesystem.open(path).map_err(error)?;
            let file_bytes = file.metadata().len();
            if file_bytes > max_bytes {
                return Err(VolumeError::FileTooBig {
                    file_bytes,
                    max_bytes,
                });
            }
            let mut bytes = vec![0; file_bytes as usize];
            let mut filled = 0;
            while filled < bytes.len() {
                match file.read_bytes(&mut bytes[filled..]).map_err(error)? {
                    0 => break,
                    count => filled += count,
                }
            }
            bytes.truncate(filled);
            Ok(bytes)
        })
    }
}

fn error(error: Ext4Error) -> VolumeError {
    VolumeError::Filesystem {
        filesystem: NAME,
        reason: error.to_string(),
    }
}

struct Reader(ReadAhead);

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        self.0.read(start_byte, dst)?;
        Ok(())
    }
}
