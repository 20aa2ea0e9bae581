//! The xz container with the filters a kernel has: x86 BCJ before LZMA2, or LZMA2 alone.
//!
//! lzma-rs decodes LZMA2 but knows no BCJ filter, so the container is read here. Layout: "The .xz
//! File Format", version 1.2.0.

use super::super::KERNEL_BYTES_MAX;
use super::{Bounded, DecompressError, bcj};

const STREAM_HEADER_BYTES: usize = 12;
const FILTER_BCJ_X86: u64 = 0x04;
const FILTER_LZMA2: u64 = 0x21;

pub(super) fn decompress(payload: &[u8]) -> Result<Vec<u8>, DecompressError> {
    let check = read_stream_header(payload)?;
    let mut rest = &payload[STREAM_HEADER_BYTES..];
    let mut out = Vec::new();
    // A zero where a block header's size would be is the index, which ends the blocks.
    while rest.first().is_some_and(|size| *size != 0) {
        let header_bytes = usize::from(rest[0]) * 4 + 4;
        let header = rest.get(..header_bytes).ok_or_else(cut_off)?;
        let bcj = read_block_header(header)?;
        rest = &rest[header_bytes..];

        let (packed_bytes, unpacked_bytes) = lzma2_extent(rest)?;
        if (out.len() + unpacked_bytes) as u64 > KERNEL_BYTES_MAX {
            return Err(DecompressError::TooBig);
        }
        let mut block = Bounded::with_hint(unpacked_bytes);
        let result = lzma_rs::lzma2_decompress(&mut &rest[..packed_bytes], &mut block);
        let mut block = block.finish("xz", result)?;
        if bcj {
            bcj::decode_x86(&mut block);
        }

        let padded = packed_bytes.next_multiple_of(4);
        let check_end = padded + check.bytes();
        let stored = rest.get(padded..check_end).ok_or_else(cut_off)?;
        check.verify(&block, stored)?;
        rest = &rest[check_end..];
        if out.is_empty() {
            out = block;
        } else {
            out.extend_from_slice(&block);
        }
    }
    if out.is_empty() {
        return Err(damaged("there is no block in it"));
    }
    Ok(out)
}

/// The integrity check stored after each block; only CRC32, which kernels use, is compared.
#[derive(Clone, Copy)]
struct Check(u8);

impl Check {
    fn bytes(self) -> usize {
        match self.0 {
            0 => 0,
            1..=3 => 4,
            4..=6 => 8,
            7..=9 => 16,
            10..=12 => 32,
            _ => 64,
        }
    }

    fn verify(self, block: &[u8], stored: &[u8]) -> Result<(), DecompressError> {
        if self.0 == 1 && crc32(block).to_le_bytes() != stored {
            return Err(damaged("a block's checksum is wrong"));
        }
        Ok(())
    }
}

fn read_stream_header(payload: &[u8]) -> Result<Check, DecompressError> {
    let header = payload.get(..STREAM_HEADER_BYTES).ok_or_else(cut_off)?;
    let flags = &header[6..8];
    if crc32(flags).to_le_bytes() != header[8..12] {
        return Err(damaged("the stream header's checksum is wrong"));
    }
    Ok(Check(flags[1] & 0xf))
}

/// Reads a block header; says whether a BCJ filter comes before LZMA2.
fn read_block_header(header: &[u8]) -> Result<bool, DecompressError> {
    let (fields, stored) = header.split_at(header.len() - 4);
    if crc32(fields).to_le_bytes() != stored {
        return Err(damaged("a block header's checksum is wrong"));
    }
    let flags = fields[1];
    let mut rest = &fields[2..];
    for present in [0x40, 0x80] {
        if flags & present != 0 {
            varint(&mut rest)?;
        }
    }
    let mut filters = Vec::new();
    for _ in 0..=flags & 3 {
        let id = varint(&mut rest)?;
        let props_bytes = varint(&mut rest)? as usize;
        let props = rest.get(..props_bytes).ok_or_else(cut_off)?;
        rest = &rest[props_bytes..];
        // A start offset other than zero is legal for BCJ, and no kernel has one.
        if id == FILTER_BCJ_X86 && props.iter().any(|byte| *byte != 0) {
            return Err(damaged("its BCJ filter has a start offset"));
        }
        filters.push(id);
    }
    match filters.as_slice() {
        [FILTER_LZMA2] => Ok(false),
        [FILTER_BCJ_X86, FILTER_LZMA2] => Ok(true),
        other => Err(damaged(format!("its filters {other:x?} are not supported"))),
    }
}

/// Adds up the chunks of LZMA2 data: compressed and uncompressed bytes. lzma-rs holds all of its
/// output in memory, so the amount must be known before it starts.
fn lzma2_extent(data: &[u8]) -> Result<(usize, usize), DecompressError> {
    let byte = |at: usize| data.get(at).copied().map(usize::from).ok_or_else(cut_off);
    let (mut at, mut unpacked) = (0_usize, 0_usize);
    loop {
        let control = byte(at)?;
        let size = |offset: usize| Ok(byte(at + offset)? << 8 | byte(at + offset + 1)?);
        match control {
            0 => return Ok((at + 1, unpacked)),
            1 | 2 => {
                let bytes = size(1)? + 1;
                unpacked += bytes;
                at += 3 + bytes;
            }
            0x80.. => {
                unpacked += ((control & 0x1f) << 16 | size(1)?) + 1;
                let header = if control >= 0xc0 { 6 } else { 5 };
                at += header + size(3)? + 1;
            }
            _ => return Err(damaged("an LZMA2 chunk is of no known kind")),
        }
    }
}

/// A number in groups of 7 bits, the lowest first (section 1.2 of the format).
fn varint(rest: &mut &[u8]) -> Result<u64, DecompressError> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, after) = rest.split_first().ok_or_else(cut_off)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged("a number in it is too long"))
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn cut_off() -> DecompressError {
    damaged("it is cut off")
}

fn damaged(reason: impl Into<String>) -> DecompressError {
    DecompressError::Damaged {
        format: "xz",
        reason: reason.into(),
    }
}
