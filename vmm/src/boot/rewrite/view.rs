//! An ELF file as the code in it sees it: by linked addresses.

use super::super::elf::{Elf, Segment};

/// The file and where its segments are linked.
#[derive(Debug)]
pub struct View<'a> {
    /// The whole file.
    pub file: &'a mut [u8],
    segments: Vec<Segment>,
}

impl<'a> View<'a> {
    /// A view of `file`, whose segments have been read by [`Elf::parse`].
    #[must_use]
    pub fn new(file: &'a mut [u8], segments: Vec<Segment>) -> Self {
        Self { file, segments }
    }

    /// The loadable segments of `elf`.
    #[must_use]
    pub fn segments_of(elf: &Elf) -> Vec<Segment> {
        elf.load_segments().collect()
    }

    /// Offset in the file of what is linked at `address`.
    #[must_use]
    pub fn offset(&self, address: u64) -> Option<usize> {
        self.segments.iter().find_map(|segment| {
            let into = address.checked_sub(segment.address)?;
            (into < segment.file_bytes).then_some((segment.offset + into) as usize)
        })
    }

    /// The bytes from `address` on, at most 15, which is the longest instruction.
    #[must_use]
    pub fn instruction_bytes(&self, address: u64) -> Option<(usize, &[u8])> {
        let at = self.offset(address)?;
        let end = self.file.len().min(at + 15);
        Some((at, &self.file[at..end]))
    }

    /// The 8 bytes at `address` as a number.
    #[must_use]
    pub fn u64_at(&self, address: u64) -> Option<u64> {
        let at = self.offset(address)?;
        let bytes = self.file.get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }
}
