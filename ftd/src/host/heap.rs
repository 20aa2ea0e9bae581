//! The heap of this process, beside guest RAM.

/// Larger allocations are mappings of their own, which go back to the host when they are freed.
const MAPPED_BYTES: libc::c_int = 256 << 10;
/// Free memory at the heap's end that is kept.
const KEPT_BYTES: libc::c_int = 1 << 20;

/// Has freed memory go back to the host. By itself glibc raises both bounds to tens of MiB once a large
/// buffer was freed (mallopt(3)), and a snapshot's pages are such buffers.
#[allow(unsafe_code)]
pub fn give_freed_memory_back() {
    for (parameter, bytes) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
    ] {
        // SAFETY: takes plain numbers; no other thread runs yet. A refusal changes nothing.
        let _ = unsafe { libc::mallopt(parameter, bytes) };
    }
}
