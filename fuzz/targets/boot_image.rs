//! See `fuzz::boot_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::run("boot_image", data));
