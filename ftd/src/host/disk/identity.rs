//! Whether two hosts speak of the same disk image.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Bytes hashed at each end of the disk.
const END_BYTES: u64 = 1 << 20;
/// Bytes hashed for the partition table: the MBR and the GPT header after it.
const TABLE_BYTES: u64 = 1024;

/// What a disk is recognised by, computed over the disk as the guest sees it (for a qcow2 its
/// virtual contents, so that a raw copy on one host and a qcow2 copy on the other are the same).
///
/// It is no digest of the whole disk: two images that differ only in their middle look alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// BLAKE3 of the first and the last MiB (of the whole disk if it is smaller than 2 MiB).
    pub ends: [u8; 32],
    /// BLAKE3 of the first 1024 bytes: MBR, and GPT header with the disk's GUID. A running guest
    /// changes this only when it partitions its disk.
    pub table: [u8; 32],
}

impl DiskIdentity {
    /// Whether both can be the same disk although a guest has been writing to it since one of them
    /// was taken: same size and same partition table. Two disks that no guest has written to since
    /// should be equal (`==`) instead.
    pub fn matches_running(&self, other: &DiskIdentity) -> bool {
        self.capacity_bytes == other.capacity_bytes && self.table == other.table
    }
}

impl fmt::Display for DiskIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes, ", self.capacity_bytes)?;
        for (name, hash) in [("table", &self.table), (", ends", &self.ends)] {
            write!(formatter, "{name} ")?;
            for byte in &hash[..4] {
                write!(formatter, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Reads it with `read`, from an offset on, of a disk of `capacity` bytes.
pub(super) fn read(
    capacity: u64,
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<DiskIdentity> {
    let head_len = capacity.min(END_BYTES);
    let tail_len = (capacity - head_len).min(END_BYTES);
    let mut ends = vec![0; (head_len + tail_len) as usize];
    let (head, tail) = ends.split_at_mut(head_len as usize);
    read(0, head)?;
    read(capacity - tail_len, tail)?;
    let table_len = TABLE_BYTES.min(capacity) as usize;
    Ok(DiskIdentity {
        capacity_bytes: capacity,
        table: *blake3::hash(&ends[..table_len]).as_bytes(),
        ends: *blake3::hash(&ends).as_bytes(),
    })
}
