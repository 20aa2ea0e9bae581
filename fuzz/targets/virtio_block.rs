//! See `fuzz::virtio_block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::run("virtio_block", data));
