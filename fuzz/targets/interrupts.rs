//! See `fuzz::interrupts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::run("interrupts", data));
