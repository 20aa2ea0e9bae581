//! See `fuzz::disk_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::run("disk_image", data));
