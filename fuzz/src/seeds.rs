//! Writes what a fuzzer would hardly find by itself into `fuzz/corpus`: `seeds FOLDER`.

fn main() {}
