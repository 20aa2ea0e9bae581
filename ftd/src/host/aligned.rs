//! Buffers that direct I/O accepts.

/// Alignment in memory that every file system and block device accepts for O_DIRECT, in bytes.
pub(crate) const MEMORY_ALIGN: usize = 4096;

/// A zeroed buffer whose first byte has an address that is a multiple of [`MEMORY_ALIGN`].
pub(crate) struct AlignedBuf {
    backing: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// A buffer of `len` bytes.
    ///
    /// # Errors
    /// There is not that much memory.
    pub(crate) fn new(len: usize) -> std::io::Result<Self> {
        let mut backing = Vec::new();
        backing.try_reserve_exact(len.saturating_add(MEMORY_ALIGN))?;
        backing.resize(len + MEMORY_ALIGN, 0);
        let start = backing.as_ptr().align_offset(MEMORY_ALIGN);
        // align_offset may decline by contract ("usize::MAX"), though not for bytes in practice.
        if start >= MEMORY_ALIGN {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        Ok(AlignedBuf {
            backing,
            start,
            len,
        })
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.backing[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.backing[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_as_long_as_asked() {
        for len in [0, 1, 511, 512, 4096, 70_000] {
            let buf = AlignedBuf::new(len).unwrap();
            assert_eq!(buf.len(), len);
            assert_eq!(buf.as_ptr() as usize % MEMORY_ALIGN, 0);
            assert!(buf.iter().all(|&byte| byte == 0));
        }
    }
}
