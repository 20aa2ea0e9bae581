//! Finds out whether a qcow2 file was cut short.
//!
//! Drivers read what lies beyond the end of the file as zeros, so a truncated download would boot,
//! and fail somewhere inside the guest. This follows the image's own tables (QEMU's
//! docs/interop/qcow2.txt) and compares every offset in them with the file's length.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::options::OpenError;

/// The first four bytes of a qcow2 file.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of the version 2 header.
const HEADER_BYTES: usize = 72;
/// Incompatible feature bit 2: data clusters are in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// Bits 9 to 55 of an L1 entry or of a standard cluster's L2 entry: the host offset.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 62 of an L2 entry: the cluster is compressed, and its offset has another form.
const COMPRESSED: u64 = 1 << 62;
/// L1 entries of the largest disk QEMU makes (an L1 table of 32 MiB).
const L1_ENTRIES_MAX: u64 = (32 << 20) / 8;
/// L2 tables are followed up to this many bytes of them, so that huge images still open at once.
const L2_BYTES_MAX: u64 = 64 << 20;

/// Checks that everything the image at `path` points to lies within the file.
///
/// # Errors
/// [`OpenError::Truncated`] if not, [`OpenError::Read`] if reading fails. What else may be wrong is
/// left to the driver.
pub(super) fn check(path: &Path, file: &File) -> Result<(), OpenError> {
    match find_beyond_end(file) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(OpenError::Truncated {
            path: path.to_owned(),
            what,
        }),
        Err(source) => Err(OpenError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn find_beyond_end(file: &File) -> io::Result<Option<String>> {
    use std::io::{Seek, SeekFrom};
    // A block device's metadata has no length; seeking finds it, and positional reads ignore it.
    let file_len = { file }.seek(SeekFrom::End(0))?;
    if file_len < HEADER_BYTES as u64 {
        return Ok(Some(format!("its header ends at byte {file_len}")));
    }
    let mut header = [0; HEADER_BYTES + 8];
    let header_len = header.len().min(file_len as usize);
    file.read_exact_at(&mut header[..header_len], 0)?;
    let version = be32(&header, 4);
    let cluster_bits = be32(&header, 20);
    let l1_entries = u64::from(be32(&header, 36));
    let l1_offset = be64(&header, 40);
    let external = version >= 3 && be64(&header, 72) & EXTERNAL_DATA != 0;
    if !(9..=21).contains(&cluster_bits) || l1_entries > L1_ENTRIES_MAX {
        return Ok(None);
    }
    let cluster = 1u64 << cluster_bits;
    if l1_offset.saturating_add(l1_entries * 8) > file_len {
        return Ok(Some(beyond("its L1 table", l1_offset, file_len)));
    }
    let l1 = read_table(file, l1_offset, l1_entries * 8)?;
    let mut l2_budget = L2_BYTES_MAX;
    for l2_offset in l1.into_iter().map(|entry| entry & OFFSET_MASK) {
        if l2_offset == 0 {
            continue;
        }
        if l2_offset.saturating_add(cluster) > file_len {
            return Ok(Some(beyond("an L2 table", l2_offset, file_len)));
        }
        let Some(budget) = l2_budget.checked_sub(cluster) else {
            continue;
        };
        l2_budget = budget;
        if external {
            continue;
        }
        for entry in read_table(file, l2_offset, cluster)? {
            // A compressed cluster's offset and length are packed; the tables say enough.
            let data = entry & OFFSET_MASK;
            // The last cluster of a file may be cut where its zeros begin.
            if entry & COMPRESSED == 0 && data >= file_len {
                return Ok(Some(beyond("a data cluster", data, file_len)));
            }
        }
    }
    Ok(None)
}

fn beyond(what: &str, offset: u64, file_len: u64) -> String {
    format!("{what} at byte {offset} lies beyond its end at byte {file_len}")
}

/// The big-endian 64-bit entries in `len` bytes at `offset`, which were found to lie in the file.
fn read_table(file: &File, offset: u64, len: u64) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect())
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}
