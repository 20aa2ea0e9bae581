//! Repeated string instructions (SDM vol. 2, REP): the guest can be stopped in the middle of one.

use devices::GuestMemory;
use kvm_bindings::kvm_sregs;

use crate::guest::paging;

/// Longest instruction in bytes.
const LONGEST: usize = 15;

/// Where the instruction ends that the guest is about to run at `rip`, if it is a repeated MOVS, CMPS, STOS, LODS or
/// SCAS.
pub fn end(memory: &GuestMemory, sregs: &kvm_sregs, rip: u64) -> Option<u64> {
    let mut code = [0; LONGEST];
    let length = paging::read_some(memory, sregs, rip, &mut code);
    let repeated = decode(&code[..length], sregs.cs.l == 1);
    repeated.map(|length| rip.wrapping_add(length))
}

/// How long the instruction at the start of `code` is, if it is a repeated string instruction.
fn decode(code: &[u8], long_mode: bool) -> Option<u64> {
    let mut repeats = false;
    for (at, byte) in code.iter().enumerate() {
        match byte {
            0xf2 | 0xf3 => repeats = true,
            0x66 | 0x67 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
            0x40..=0x4f if long_mode => {}
            0xa4..=0xa7 | 0xaa..=0xaf => return repeats.then_some(at as u64 + 1),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_string_instructions_are_told_from_others() {
        assert_eq!(decode(&[0xf3, 0x48, 0xab, 0x90], true), Some(3)); // rep stosq
        assert_eq!(decode(&[0xf3, 0xa4], true), Some(2)); // rep movsb
        assert_eq!(decode(&[0xf2, 0xae], false), Some(2)); // repne scasb
        assert_eq!(decode(&[0xf3, 0x48, 0xa7], true), Some(3)); // repe cmpsq
        assert_eq!(decode(&[0xab], true), None); // stosd, once
        assert_eq!(decode(&[0xf3, 0x90], true), None); // pause
        assert_eq!(decode(&[0xf3, 0x0f, 0x10, 0xc1], true), None); // movss
        assert_eq!(decode(&[0xf3], true), None);
        assert_eq!(decode(&[], true), None);
    }
}
