//! LZ4's legacy frame, as the kernel's build makes it (`lz4 -l`).
//!
//! A magic number, then blocks: compressed size (4 bytes), data; each expands to at most 8 MiB.

use super::super::KERNEL_BYTES_MAX;
use super::DecompressError;

const MAGIC: u32 = 0x184c_2102;
const BLOCK_BYTES_MAX: usize = 8 << 20;

pub(super) fn decompress(payload: &[u8], hint: usize) -> Result<Vec<u8>, DecompressError> {
    let damaged = |reason: String| DecompressError::Damaged {
        format: "LZ4",
        reason,
    };
    // Zeroed memory comes from the host untouched. With room for a whole block beyond the hint,
    // nothing is ever moved if the hint is right.
    let mut out = vec![0; hint + BLOCK_BYTES_MAX];
    let mut filled = 0;
    let mut rest = payload;
    while let Some((head, after)) = rest.split_first_chunk() {
        let size = u32::from_le_bytes(*head);
        rest = after;
        if size == MAGIC {
            continue;
        }
        if rest.is_empty() {
            // The appended size of the uncompressed image, not a block.
            break;
        }
        let block = rest
            .get(..size as usize)
            .ok_or_else(|| damaged(format!("a block of {size} bytes is cut off")))?;
        rest = &rest[block.len()..];

        let end = filled + BLOCK_BYTES_MAX;
        if end as u64 > KERNEL_BYTES_MAX {
            return Err(DecompressError::TooBig);
        }
        if out.len() < end {
            out.resize(end, 0);
        }
        filled += lz4_flex::block::decompress_into(block, &mut out[filled..end])
            .map_err(|error| damaged(error.to_string()))?;
    }
    out.truncate(filled);
    Ok(out)
}
