//! Counts the heap, so that a target can promise: so much memory for so much input, and no more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    // A thread that is ending has no counters any more.
    let _ = LIVE.try_with(|live| {
        let now = live.get().wrapping_add(bytes);
        live.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

// SAFETY: everything is handed to the system's allocator as it is; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        // Both may be there for a moment.
        count(len as isize);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(at, layout, len) };
        count(-(layout.size() as isize));
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Does `work`, which must not have more than `limit` bytes at once on this thread.
///
/// # Panics
/// It had more.
pub fn bounded<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    let before = LIVE.get();
    PEAK.set(before);
    let done = work();
    let used = PEAK.get() - before;
    assert!(
        used <= limit as isize,
        "{used} bytes were allocated, {limit} are allowed"
    );
    done
}

#[cfg(test)]
mod tests {
    use super::bounded;

    #[test]
    fn what_is_allocated_at_once_counts() {
        bounded(5000, || {
            for _ in 0..10 {
                drop(std::hint::black_box(vec![1u8; 4000]));
            }
        });
    }

    #[test]
    #[should_panic(expected = "5000 bytes were allocated")]
    fn too_much_is_found() {
        bounded(4999, || drop(std::hint::black_box(vec![1u8; 5000])));
    }
}
