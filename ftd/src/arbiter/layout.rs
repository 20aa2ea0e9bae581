//! Where things are on a shared device, and its header.
//!
//! ```text
//! byte 0        header, one sector
//!      4096     signs of life, one sector a slot; the rest of the first 64 KiB is reserved
//! byte 65536    generation 0, 16, 32, ...   slot 0: copy A, copy B; slot 1: copy A, ...
//!      131072   generation 1, 17, 33, ...   the same
//!      ...      (16 such rows, of 8 slots, of 2 copies, of 4096 bytes)
//!     1114112   candidates, one sector a slot; the rest of 64 KiB is reserved
//! ```

use super::{ID_BYTES_MAX, SLOTS};

/// Unit in which the device is read and written, in bytes.
pub const SECTOR_BYTES: usize = 4096;
/// Generations that are remembered: one this much older has lost its sectors to a later one.
pub const GENERATIONS: u64 = 16;
/// Where the signs of life begin, in bytes.
const SIGNS_OFFSET: u64 = SECTOR_BYTES as u64;
/// Where the rows of sectors begin, in bytes.
pub const ROWS_OFFSET: u64 = 65_536;
/// Size of one generation's row, in bytes.
pub const ROW_BYTES: usize = SLOTS * 2 * SECTOR_BYTES;
/// Where the candidates begin, in bytes.
const CANDIDATES_OFFSET: u64 = ROWS_OFFSET + GENERATIONS * ROW_BYTES as u64;
/// What the whole takes, in bytes.
pub const AREA_BYTES: u64 = CANDIDATES_OFFSET + 65_536;

const MAGIC: &[u8; 8] = b"ftdarea2";
/// Bytes of a header or record that mean something: one sector of any disk there is, which most of
/// them write whole or not at all.
pub(super) const USED_BYTES: usize = 512;
/// Where the checksum is: 16 bytes of BLAKE3 over everything before it.
const CHECKSUM_OFFSET: usize = USED_BYTES - 16;

/// Where a slot's sign of life is, in bytes.
pub fn sign_offset(slot: usize) -> u64 {
    SIGNS_OFFSET + (slot * SECTOR_BYTES) as u64
}

/// Where a slot's candidacy is, in bytes.
pub fn candidate_offset(slot: usize) -> u64 {
    CANDIDATES_OFFSET + (slot * SECTOR_BYTES) as u64
}

/// Where the row of `generation` begins, in bytes.
pub fn row_offset(generation: u64) -> u64 {
    ROWS_OFFSET + generation % GENERATIONS * ROW_BYTES as u64
}

/// Where in a row the copy number `copy` (0 or 1) of a slot begins, in bytes.
pub fn copy_offset(slot: usize, copy: usize) -> usize {
    (slot * 2 + copy) * SECTOR_BYTES
}

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The virtual machine that the area belongs to.
    pub vm_id: String,
    /// Chosen at random when formatting; every record repeats it.
    pub area_id: [u8; 16],
}

impl Header {
    /// As a sector.
    pub fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut writer = Writer::new(MAGIC);
        writer.put(&self.area_id);
        writer.put_text(&self.vm_id);
        writer.finish()
    }

    /// From a sector; `None` if it holds no header, or a damaged one.
    pub fn decode(sector: &[u8]) -> Option<Header> {
        let mut reader = Reader::new(MAGIC, sector)?;
        Some(Header {
            area_id: reader.take()?,
            vm_id: reader.take_text()?,
        })
    }
}

/// Fills a sector from its beginning.
pub(super) struct Writer {
    sector: [u8; SECTOR_BYTES],
    at: usize,
}

impl Writer {
    pub(super) fn new(magic: &[u8; 8]) -> Self {
        let mut writer = Writer {
            sector: [0; SECTOR_BYTES],
            at: 0,
        };
        writer.put(magic);
        writer
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        // Two identifiers of their greatest length fit; the test below fails first if not.
        debug_assert!(end <= CHECKSUM_OFFSET);
        self.sector[self.at..end].copy_from_slice(bytes);
        self.at = end;
    }

    /// Two length bytes and the bytes.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) {
        self.put(&(bytes.len() as u16).to_le_bytes());
        self.put(bytes);
    }

    /// A length byte and the text, cut at [`ID_BYTES_MAX`] (which `open` has checked).
    pub(super) fn put_text(&mut self, text: &str) {
        let text = &text.as_bytes()[..text.len().min(ID_BYTES_MAX)];
        self.put(&[text.len() as u8]);
        self.put(text);
    }

    pub(super) fn finish(mut self) -> [u8; SECTOR_BYTES] {
        let sum = checksum(&self.sector);
        self.sector[CHECKSUM_OFFSET..USED_BYTES].copy_from_slice(&sum);
        self.sector
    }
}

/// Takes a sector apart that a [`Writer`] made.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `None` if magic or checksum are wrong.
    pub(super) fn new(magic: &[u8; 8], sector: &'a [u8]) -> Option<Self> {
        let used = sector.get(..USED_BYTES)?;
        let body = used.strip_prefix(magic)?;
        (used[CHECKSUM_OFFSET..] == checksum(used))
            .then(|| Reader(&body[..CHECKSUM_OFFSET - magic.len()]))
    }

    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn take_bytes(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_le_bytes(self.take()?);
        let (bytes, rest) = self.0.split_at_checked(usize::from(len))?;
        self.0 = rest;
        Some(bytes)
    }

    /// None that a [`Writer`] would cut: passed on, it would be another.
    pub(super) fn take_text(&mut self) -> Option<String> {
        let [len] = self.take()?;
        if usize::from(len) > ID_BYTES_MAX {
            return None;
        }
        let (text, rest) = self.0.split_at_checked(usize::from(len))?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

fn checksum(sector: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    let hash = blake3::hash(&sector[..CHECKSUM_OFFSET]);
    sum.copy_from_slice(&hash.as_bytes()[..16]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps_and_everything_fits() {
        let mut offsets: Vec<u64> = (0..GENERATIONS)
            .flat_map(|generation| {
                (0..SLOTS).flat_map(move |slot| {
                    (0..2).map(move |copy| row_offset(generation) + copy_offset(slot, copy) as u64)
                })
            })
            .collect();
        offsets.sort_unstable();
        for pair in offsets.windows(2) {
            assert!(pair[1] >= pair[0] + SECTOR_BYTES as u64);
        }
        assert!(sign_offset(0) >= SECTOR_BYTES as u64);
        // The slots' locks lie at the end of the reserved part.
        assert!(sign_offset(SLOTS) <= offsets[0] - SECTOR_BYTES as u64);
        let last = offsets[offsets.len() - 1];
        assert!(candidate_offset(0) >= last + SECTOR_BYTES as u64);
        assert!(candidate_offset(SLOTS) <= AREA_BYTES);
        assert_eq!(row_offset(3), row_offset(3 + GENERATIONS));
    }

    #[test]
    fn a_header_is_read_back_and_a_changed_one_is_not() {
        let header = Header {
            vm_id: "ä".repeat(ID_BYTES_MAX / 2),
            area_id: [7; 16],
        };
        let sector = header.encode();
        assert_eq!(Header::decode(&sector), Some(header));
        for at in 0..USED_BYTES {
            let mut damaged = sector;
            damaged[at] ^= 1;
            assert_eq!(Header::decode(&damaged), None);
        }
        assert_eq!(Header::decode(&[0; SECTOR_BYTES]), None);
        assert_eq!(Header::decode(&[]), None);
    }

    /// Found by fuzzing: such a name was read, and written again it was another.
    #[test]
    fn a_name_that_is_too_long_is_not_read() {
        let sector = |len: usize| {
            let mut writer = Writer::new(MAGIC);
            writer.put(&[7; 16]);
            writer.put(&[len as u8]);
            writer.put(&vec![b'x'; len]);
            writer.finish()
        };
        let longest = Header::decode(&sector(ID_BYTES_MAX)).map(|header| header.vm_id.len());
        assert_eq!(longest, Some(ID_BYTES_MAX));
        assert_eq!(Header::decode(&sector(ID_BYTES_MAX + 1)), None);
    }
}
