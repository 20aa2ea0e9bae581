//! See `fuzz::virtio_net`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::run("virtio_net", data));
