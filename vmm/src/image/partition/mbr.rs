//! The master boot record: four primary partitions, one of which may hold logical ones.

use super::super::error::ImageError;
use super::super::read_at::Disk;
use super::{PARTITIONS_MAX, Partition, io_error, read_array, u32_at};

/// The type that announces a GPT.
pub(super) const KIND_GPT: u8 = 0xee;
const KINDS_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
const SECTOR_BYTES: u64 = 512;
const ENTRIES: usize = 446;
const DISK_SIGNATURE: usize = 440;

/// An entry of the record, as it stands there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    slot: u32,
    pub(super) kind: u8,
    first_sector: u64,
    sectors: u64,
}

/// The used entries of a boot record. None if this is no boot record with a partition table; a
/// FAT boot sector has the same signature, and code where the table would be.
pub(super) fn parse(sector: &[u8; 512]) -> Option<Vec<Entry>> {
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let mut entries = Vec::new();
    for slot in 0..4 {
        let bytes = &sector[ENTRIES + slot * 16..][..16];
        // The status byte is 0x80 or 0: anything else is no table.
        if bytes[0] & 0x7f != 0 {
            return None;
        }
        let entry = Entry {
            slot: slot as u32,
            kind: bytes[4],
            first_sector: u64::from(u32_at(bytes, 8)),
            sectors: u64::from(u32_at(bytes, 12)),
        };
        if entry.kind != 0 && entry.sectors != 0 {
            entries.push(entry);
        }
    }
    Some(entries)
}

pub(super) fn partitions(
    disk: &Disk,
    sector: &[u8; 512],
    entries: &[Entry],
) -> Result<Vec<Partition>, ImageError> {
    let signature = u32_at(sector, DISK_SIGNATURE);
    let partition = |number: u32, first_sector: u64, sectors: u64| Partition {
        number,
        start: first_sector * SECTOR_BYTES,
        bytes: sectors * SECTOR_BYTES,
        partuuid: format!("{signature:08x}-{number:02x}"),
    };
    let mut found = Vec::new();
    let mut next_logical = 5;
    for entry in entries {
        if !KINDS_EXTENDED.contains(&entry.kind) {
            found.push(partition(entry.slot + 1, entry.first_sector, entry.sectors));
            continue;
        }
        for (first_sector, sectors) in logical(disk, entry)? {
            found.push(partition(next_logical, first_sector, sectors));
            next_logical += 1;
        }
    }
    Ok(found)
}

/// Follows the chain of boot records in an extended partition. Each names one logical partition,
/// relative to itself, and the next record, relative to the first.
fn logical(disk: &Disk, extended: &Entry) -> Result<Vec<(u64, u64)>, ImageError> {
    let mut found = Vec::new();
    let mut record = extended.first_sector;
    // A chain that comes back to itself ends here as well.
    while found.len() < PARTITIONS_MAX {
        let offset = record * SECTOR_BYTES;
        if offset >= disk.len() {
            return Err(ImageError::Truncated {
                what: "an extended partition's record".into(),
                needed_bytes: offset + SECTOR_BYTES,
                have_bytes: disk.len(),
            });
        }
        let sector = read_array::<512>(disk, offset).map_err(io_error)?;
        let entries = parse(&sector).ok_or_else(|| ImageError::Table {
            reason: format!("there is no boot record at sector {record} of its extended partition"),
        })?;
        let mut next = None;
        for entry in &entries {
            if KINDS_EXTENDED.contains(&entry.kind) {
                next = Some(extended.first_sector + entry.first_sector);
            } else {
                found.push((record + entry.first_sector, entry.sectors));
            }
        }
        match next {
            Some(next) if next > record => record = next,
            Some(_) => {
                return Err(ImageError::Table {
                    reason: "the chain of its logical partitions runs in a circle".into(),
                });
            }
            None => break,
        }
    }
    Ok(found)
}
