//! The GUID partition table, at the start of a disk or, if that is damaged, at its end.

use super::super::error::ImageError;
use super::super::read_at::Disk;
use super::{PARTITIONS_MAX, Partition, u32_at, u64_at};

const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Logical block sizes that are tried: disks of today, and those with 4 KiB blocks.
const BLOCK_BYTES: [u64; 2] = [512, 4096];
const HEADER_BYTES_MIN: usize = 92;
const ENTRY_BYTES_MIN: usize = 128;
const ENTRY_BYTES_MAX: usize = 4096;

/// Reads the table. None if there is no sign of one.
pub(super) fn read(disk: &Disk) -> Result<Option<Vec<Partition>>, ImageError> {
    let mut damage = None;
    for block_bytes in BLOCK_BYTES {
        let last = disk.len() / block_bytes;
        for block in [1, last.saturating_sub(1)] {
            match read_at(disk, block_bytes, block) {
                Ok(Some(partitions)) => return Ok(Some(partitions)),
                Ok(None) => {}
                // The primary table's damage is what a user wants to hear of.
                Err(reason) => {
                    damage.get_or_insert(reason);
                }
            }
        }
    }
    match damage {
        Some(reason) => Err(ImageError::Table {
            reason: format!("{reason}, and there is no good backup at its end"),
        }),
        None => Ok(None),
    }
}

/// Reads one copy of the table, whose header is in `block`. None if no header is there.
fn read_at(disk: &Disk, block_bytes: u64, block: u64) -> Result<Option<Vec<Partition>>, String> {
    let mut header = vec![0; 512];
    let offset = block * block_bytes;
    if disk.read_exact_at(offset, &mut header).is_err() || !header.starts_with(SIGNATURE) {
        return Ok(None);
    }
    let header_bytes = u32_at(&header, 12) as usize;
    if !(HEADER_BYTES_MIN..=header.len()).contains(&header_bytes) {
        return Err(format!("the GPT header says it has {header_bytes} bytes"));
    }
    let stored = u32_at(&header, 16);
    header[16..20].fill(0);
    if crc32(&header[..header_bytes]) != stored {
        return Err(format!(
            "the checksum of the GPT header in block {block} is wrong"
        ));
    }

    let first_block = u64_at(&header, 72);
    let count = u32_at(&header, 80) as usize;
    let entry_bytes = u32_at(&header, 84) as usize;
    if count > PARTITIONS_MAX || !(ENTRY_BYTES_MIN..=ENTRY_BYTES_MAX).contains(&entry_bytes) {
        return Err(format!(
            "the GPT says it has {count} entries of {entry_bytes} bytes"
        ));
    }
    let mut entries = vec![0; count * entry_bytes];
    first_block
        .checked_mul(block_bytes)
        .and_then(|offset| disk.read_exact_at(offset, &mut entries).ok())
        .ok_or("the GPT's entries lie outside the image")?;
    if crc32(&entries) != u32_at(&header, 88) {
        return Err("the checksum of the GPT's entries is wrong".into());
    }
    Ok(Some(parse_entries(&entries, entry_bytes, block_bytes)))
}

fn parse_entries(entries: &[u8], entry_bytes: usize, block_bytes: u64) -> Vec<Partition> {
    entries
        .chunks_exact(entry_bytes)
        .enumerate()
        .filter(|(_, entry)| entry[..16] != [0; 16])
        .map(|(index, entry)| {
            let first = u64_at(entry, 32);
            let last = u64_at(entry, 40);
            let blocks = last.saturating_sub(first).saturating_add(1);
            Partition {
                number: index as u32 + 1,
                start: first.saturating_mul(block_bytes),
                bytes: blocks.saturating_mul(block_bytes),
                partuuid: guid(&entry[16..32]),
            }
        })
        .collect()
}

/// A GUID as text: its first three fields are little-endian.
fn guid(bytes: &[u8]) -> String {
    let hex = |order: &[usize]| -> String {
        order
            .iter()
            .map(|at| format!("{:02x}", bytes[*at]))
            .collect()
    };
    format!(
        "{}-{}-{}-{}-{}",
        hex(&[3, 2, 1, 0]),
        hex(&[5, 4]),
        hex(&[7, 6]),
        hex(&[8, 9]),
        hex(&[10, 11, 12, 13, 14, 15])
    )
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
