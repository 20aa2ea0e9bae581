//! The payload formats of a bzImage: gzip, LZ4, zstd, xz and LZMA; or no compression at all.
//!
//! The kernel's build appends the size of the uncompressed image, 4 bytes, to every format. That
//! size is only a hint here: what bounds memory is [`KERNEL_BYTES_MAX`].

mod bcj;
mod lz4;
mod xz;

use std::borrow::Cow;
use std::io::{self, Read, Write};

use super::KERNEL_BYTES_MAX;
use super::elf;

/// Why a payload can't be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// A format that is known but not supported.
    #[error("it is compressed with {format}; ftd reads gzip, LZ4, zstd, xz and LZMA")]
    Unsupported {
        /// Name of the format.
        format: &'static str,
    },
    /// Nothing that is known.
    #[error("its format is not known (it begins with {begins:02x?})")]
    Unknown {
        /// First bytes.
        begins: Vec<u8>,
    },
    /// The compressed data is damaged.
    #[error("its {format} data is damaged: {reason}")]
    Damaged {
        /// Name of the format.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// More comes out than any kernel has.
    #[error("it expands to more than {} MiB", KERNEL_BYTES_MAX >> 20)]
    TooBig,
}

/// Decompresses a bzImage's payload. What follows the ELF image in it (relocations) stays.
///
/// # Errors
///
/// The format is unknown or unsupported, or the data is damaged, or too much comes out.
pub fn decompress(payload: &[u8]) -> Result<Cow<'_, [u8]>, DecompressError> {
    let unsupported = |format| Err(DecompressError::Unsupported { format });
    match payload {
        [0x1f, 0x8b, ..] => gzip(payload).map(Cow::Owned),
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            lz4::decompress(payload, size_hint(payload)).map(Cow::Owned)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd(payload).map(Cow::Owned),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => xz::decompress(payload).map(Cow::Owned),
        [0x5d, 0, 0, ..] => lzma(payload).map(Cow::Owned),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
        [0x89, b'L', b'Z', b'O', ..] => unsupported("LZO"),
        _ if elf::is_elf(payload) => Ok(Cow::Borrowed(payload)),
        _ => Err(DecompressError::Unknown {
            begins: payload[..payload.len().min(8)].to_vec(),
        }),
    }
}

/// The uncompressed size that the kernel's build appends, within reason.
fn size_hint(payload: &[u8]) -> usize {
    let hint = payload.last_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    // No format used for kernels does better than this; a wrong hint must not cost memory.
    (hint as usize)
        .min(payload.len().saturating_mul(16))
        .min(KERNEL_BYTES_MAX as usize)
}

fn gzip(payload: &[u8]) -> Result<Vec<u8>, DecompressError> {
    // bufread: it must not read on into the appended size, which is no gzip member.
    let decoder = flate2::bufread::GzDecoder::new(payload);
    read_all("gzip", decoder, size_hint(payload))
}

fn zstd(payload: &[u8]) -> Result<Vec<u8>, DecompressError> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(payload).map_err(|error| {
        DecompressError::Damaged {
            format: "zstd",
            reason: error.to_string(),
        }
    })?;
    read_all("zstd", decoder, size_hint(payload))
}

fn lzma(payload: &[u8]) -> Result<Vec<u8>, DecompressError> {
    let mut out = Bounded::with_hint(size_hint(payload));
    // lzma-rs takes bytes after the end marker for damage, so the appended size goes first.
    let stream = payload.split_last_chunk::<4>().map_or(payload, |(s, _)| s);
    let result = lzma_rs::lzma_decompress(&mut io::Cursor::new(stream), &mut out);
    out.finish("LZMA", result)
}

fn read_all(
    format: &'static str,
    decoder: impl Read,
    hint: usize,
) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::with_capacity(hint);
    decoder
        .take(KERNEL_BYTES_MAX + 1)
        .read_to_end(&mut out)
        .map_err(|error| DecompressError::Damaged {
            format,
            reason: error.to_string(),
        })?;
    if out.len() as u64 > KERNEL_BYTES_MAX {
        return Err(DecompressError::TooBig);
    }
    Ok(out)
}

/// A sink that refuses more than [`KERNEL_BYTES_MAX`].
struct Bounded {
    bytes: Vec<u8>,
    overflow: bool,
}

impl Bounded {
    fn with_hint(hint: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(hint),
            overflow: false,
        }
    }

    fn finish(
        self,
        format: &'static str,
        result: Result<(), lzma_rs::error::Error>,
    ) -> Result<Vec<u8>, DecompressError> {
        if self.overflow {
            return Err(DecompressError::TooBig);
        }
        result.map_err(|error| DecompressError::Damaged {
            format,
            reason: format!("{error:?}"),
        })?;
        Ok(self.bytes)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > KERNEL_BYTES_MAX {
            self.overflow = true;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
