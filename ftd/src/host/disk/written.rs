//! Which parts of a disk were written while it is being copied.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Size of what a disk is copied by, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// One bit a page, set once a write to it is done. Kept only from the first [`Written::start`] on.
#[derive(Debug)]
pub(super) struct Written {
    pages: u64,
    words: OnceLock<Box<[AtomicU64]>>,
}

impl Written {
    pub(super) fn new(capacity: u64) -> Written {
        Written {
            pages: capacity.div_ceil(PAGE_BYTES as u64),
            words: OnceLock::new(),
        }
    }

    /// Forgets what was written, and remembers from here on.
    pub(super) fn start(&self) {
        let count = self.pages.div_ceil(64) as usize;
        let words = self
            .words
            .get_or_init(|| (0..count).map(|_| AtomicU64::new(0)).collect());
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// `len` bytes at `offset` were written, or may have been.
    pub(super) fn mark(&self, offset: u64, len: u64) {
        let Some(words) = self.words.get() else {
            return;
        };
        if len == 0 {
            return;
        }
        let last = (offset.saturating_add(len) - 1) / PAGE_BYTES as u64;
        for page in offset / PAGE_BYTES as u64..=last.min(self.pages.saturating_sub(1)) {
            // Release: whoever takes the bit sees the write, which the kernel has done by now.
            words[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::Release);
        }
    }

    /// Takes the pages that were marked, in rising order.
    pub(super) fn take(&self, mut page: impl FnMut(u64)) {
        for (index, word) in self.words.get().into_iter().flatten().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut rest = word.swap(0, Ordering::Acquire);
            while rest != 0 {
                page(index as u64 * 64 + u64::from(rest.trailing_zeros()));
                rest &= rest - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(written: &Written) -> Vec<u64> {
        let mut pages = Vec::new();
        written.take(|page| pages.push(page));
        pages
    }

    #[test]
    fn nothing_is_kept_before_the_start() {
        let written = Written::new(1 << 20);
        written.mark(0, 4096);
        assert!(taken(&written).is_empty());
        written.start();
        assert!(taken(&written).is_empty());
    }

    #[test]
    fn every_page_that_a_write_touches_is_taken_once() {
        let written = Written::new((300 << 12) + 512);
        written.start();
        written.mark(4095, 2);
        written.mark(63 << 12, 4096 * 2);
        written.mark(300 << 12, 512);
        written.mark(8192, 0);
        // Beyond the end: refused by the disk, and no reason to panic.
        written.mark(u64::MAX - 1, 4096);
        assert_eq!(taken(&written), [0, 1, 63, 64, 300]);
        assert!(taken(&written).is_empty());
        written.mark(0, 1);
        written.start();
        assert!(taken(&written).is_empty(), "a new copy begins");
    }
}
