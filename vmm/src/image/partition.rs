//! Partition tables: GPT (UEFI 2.10, section 5.3), with its backup, and MBR with logical
//! partitions.

mod gpt;
mod mbr;

use super::error::ImageError;
use super::read_at::Disk;

/// Most partitions that are looked at.
const PARTITIONS_MAX: usize = 256;

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as Linux counts.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// What Linux calls it in `root=PARTUUID=`.
    pub partuuid: String,
}

/// Reads the partition table of `disk`. None if it has none, so that it may be a bare filesystem.
///
/// # Errors
///
/// The table is damaged, or promises more than the disk has, or the disk can't be read.
pub fn read_table(disk: &Disk) -> Result<Option<Vec<Partition>>, ImageError> {
    let sector = match read_array::<512>(disk, 0) {
        Ok(sector) => sector,
        Err(_) if disk.len() < 512 => return Ok(None),
        Err(source) => return Err(io_error(source)),
    };
    let partitions = match mbr::parse(&sector) {
        // Without an MBR, only a GPT whose protective MBR was lost can be there.
        None => match gpt::read(disk)? {
            Some(partitions) => partitions,
            None => return Ok(None),
        },
        Some(entries) if entries.iter().any(|entry| entry.kind == mbr::KIND_GPT) => {
            gpt::read(disk)?.ok_or_else(|| ImageError::Table {
                reason: "its MBR announces a GPT, and neither the GPT at its start nor the backup \
                         at its end is there"
                    .into(),
            })?
        }
        Some(entries) => match mbr::partitions(disk, &sector, &entries)? {
            partitions if partitions.is_empty() => return Ok(None),
            partitions => partitions,
        },
    };
    check_ends(disk, &partitions)?;
    Ok(Some(partitions))
}

fn check_ends(disk: &Disk, partitions: &[Partition]) -> Result<(), ImageError> {
    for partition in partitions {
        let end = partition.start.saturating_add(partition.bytes);
        if end > disk.len() {
            return Err(ImageError::Truncated {
                what: format!("partition {}", partition.number),
                needed_bytes: end,
                have_bytes: disk.len(),
            });
        }
    }
    Ok(())
}

fn read_array<const N: usize>(disk: &Disk, offset: u64) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    disk.read_exact_at(offset, &mut bytes)?;
    Ok(bytes)
}

fn io_error(source: std::io::Error) -> ImageError {
    ImageError::Io {
        what: "the partition table".into(),
        source,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u64::from_le_bytes(*field))
}

#[cfg(test)]
mod tests;
