//! The instructions of a kernel: RDTSC is closed in them, CR4.TSD kept.

use iced_x86::{Code, Decoder, DecoderOptions};
use vmm::boot::rewrite::close_rdtsc;

use crate::source::Source;

const HEADER: usize = 64 + 56;
const ADDRESS: u64 = 0xffff_ffff_8100_0000;

/// The first two bytes are the entry point, the rest is code, in one segment.
///
/// # Panics
/// Anything but what is counted was changed, an RDTSC at the entry point is left, or a second time finds
/// more to rewrite.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let entry = u64::from(source.u16());
    let code = source.rest();
    let before = elf(entry, code);
    let mut after = before.clone();
    let Ok(report) = close_rdtsc(&mut after) else {
        assert!(entry >= code.len() as u64, "a whole file is accepted");
        return;
    };
    assert_eq!(before.len(), after.len());
    assert_eq!(before[..HEADER], after[..HEADER], "only code is changed");
    let changed = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after);
    // IN is two bytes; an immediate operand of CR4's is at most eight, an instruction at most fifteen.
    let most = 2 * report.rdtsc_sites + 8 * report.cr4_patches + 15 * report.cr4_clears;
    assert!(changed.count() <= most, "{report:?}");
    // Not found by a sweep from the start that RDTSC stands where rewriting began.
    let first = Decoder::with_ip(64, &after[HEADER..], ADDRESS, DecoderOptions::NONE)
        .iter()
        .next();
    assert!(first.is_none_or(|first| first.code() != Code::Rdtsc || first.len() != 2));
    let mut again = after.clone();
    let second = close_rdtsc(&mut again).expect("it was accepted before");
    assert!(
        second.rdtsc_sites <= report.rdtsc_sites,
        "{report:?} then {second:?}"
    );
}

/// An executable with `code` in its one segment.
pub fn elf(entry: u64, code: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [ADDRESS + entry, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    for word in [1u32, 5] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    let len = code.len() as u64;
    for word in [HEADER as u64, ADDRESS, 0x10_0000, len, len, 0x1000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}
