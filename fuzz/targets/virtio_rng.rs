//! See `fuzz::virtio_rng`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::run("virtio_rng", data));
