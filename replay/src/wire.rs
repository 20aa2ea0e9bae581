//! Primitive encodings shared by epochs and frames: canonical varints, byte strings, page lists.
//!
//! Everything is read from a slice that is already bounded, and no length read from it is trusted
//! with an allocation before the bytes behind it are seen to be there.

use devices::layout::{PAGE_BYTES, RAM_BYTES_MAX};
use thiserror::Error;

use crate::entry::Page;

/// Bytes of a page.
pub(crate) const PAGE_LEN: usize = PAGE_BYTES as usize;
/// One more than the highest guest frame number.
pub(crate) const GFN_END: u64 = RAM_BYTES_MAX / PAGE_BYTES;
/// One more than the highest page that a list can name: behind those of RAM are the disks', which end where a file's
/// offsets do. Whether there is such a page those know that write it.
pub(crate) const PAGE_END: u64 = 1 << 51;

/// What is wrong with a primitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireFault {
    /// The bytes end in the middle of something.
    #[error("ends too early")]
    Short,
    /// A number is longer than it needs to be, or than 64 bits.
    #[error("holds a number that is not in its shortest form")]
    Varint,
    /// A page's number is beyond all disks that there can be.
    #[error("names page {gfn:#x}, which no disk has")]
    Gfn {
        /// The number.
        gfn: u64,
    },
    /// A page is neither empty (all zero) nor 4096 bytes long.
    #[error("holds a page of {len} bytes (must be 4096, or 0 for a page of zeros)")]
    PageLen {
        /// Its length.
        len: usize,
    },
    /// More pages than a guest's RAM has.
    #[error("holds {count} pages, more than a guest's RAM")]
    PageCount {
        /// How many.
        count: u64,
    },
}

/// Appends `value` in LEB128: 7 bits a byte, least significant first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Maps small differences of either sign (modulo 2^64) to small numbers.
pub(crate) fn zigzag(difference: u64) -> u64 {
    let signed = difference as i64;
    ((signed << 1) ^ (signed >> 63)) as u64
}

/// Undoes [`zigzag`].
pub(crate) fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

/// Appends a page list: a count, then for each page its frame number as a difference from one past
/// the page before it, a bit that says whether data follows, and the data.
pub(crate) fn put_pages(out: &mut Vec<u8>, pages: &[Page]) -> Result<(), WireFault> {
    let bytes: usize = pages.iter().map(|page| page.data.len() + 2).sum();
    out.reserve(bytes + 10);
    put_varint(out, pages.len() as u64);
    let mut expected = 0u64;
    for page in pages {
        if page.gfn >= PAGE_END {
            return Err(WireFault::Gfn { gfn: page.gfn });
        }
        let present = match page.data.len() {
            0 => 0,
            PAGE_LEN => 1,
            len => return Err(WireFault::PageLen { len }),
        };
        let delta = zigzag(page.gfn.wrapping_sub(expected));
        put_varint(out, delta << 1 | present);
        out.extend_from_slice(&page.data);
        expected = page.gfn + 1;
    }
    Ok(())
}

/// Reads primitives off the front of a slice.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    /// Offset of the next byte.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireFault> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u16_le(&mut self) -> Result<u16, WireFault> {
        let mut value = [0; 2];
        value.copy_from_slice(self.take(2)?);
        Ok(u16::from_le_bytes(value))
    }

    pub(crate) fn u32_le(&mut self) -> Result<u32, WireFault> {
        let mut value = [0; 4];
        value.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(value))
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], WireFault> {
        if len > self.remaining() {
            return Err(WireFault::Short);
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, WireFault> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 {
                return Err(WireFault::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(WireFault::Varint);
                }
                return Ok(value);
            }
        }
        Err(WireFault::Varint)
    }

    /// A length and as many bytes.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireFault> {
        let len = self.varint()?;
        let len = usize::try_from(len).map_err(|_| WireFault::Short)?;
        self.take(len)
    }

    /// A page list of at most `limit` pages.
    pub(crate) fn pages(&mut self, limit: u64) -> Result<Vec<Page>, WireFault> {
        let count = self.varint()?;
        if count > limit {
            return Err(WireFault::PageCount { count });
        }
        if count > self.remaining() as u64 {
            return Err(WireFault::Short);
        }
        let mut pages = Vec::with_capacity(count as usize);
        let mut expected = 0u64;
        for _ in 0..count {
            let word = self.varint()?;
            let gfn = expected.wrapping_add(unzigzag(word >> 1));
            if gfn >= PAGE_END {
                return Err(WireFault::Gfn { gfn });
            }
            let data = if word & 1 == 0 {
                Vec::new()
            } else {
                self.take(PAGE_LEN)?.to_vec()
            };
            pages.push(Page { gfn, data });
            expected = gfn + 1;
        }
        Ok(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_that_is_not_in_its_shortest_form_is_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0xff; 11]] {
            assert_eq!(Reader::new(bytes).varint(), Err(WireFault::Varint));
        }
        assert_eq!(Reader::new(&[0x80]).varint(), Err(WireFault::Short));
    }

    #[test]
    fn a_count_of_pages_with_nothing_behind_it_allocates_nothing() {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, GFN_END);
        assert_eq!(Reader::new(&bytes).pages(GFN_END), Err(WireFault::Short));
        let count = GFN_END + 1;
        bytes.clear();
        put_varint(&mut bytes, count);
        let fault = WireFault::PageCount { count };
        assert_eq!(Reader::new(&bytes).pages(GFN_END), Err(fault));
    }

    proptest! {
        #[test]
        fn numbers_come_back(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.is_empty());
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }
}
