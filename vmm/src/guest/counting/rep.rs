//! Repeated string instructions (SDM vol. 2, REP): the guest can be stopped in the middle of one.

use devices::GuestMemory;
use kvm_bindings::kvm_regs;

use crate::error::VmmError;
use crate::guest::paging;
use crate::kvm::Vcpu;

/// Longest instruction in bytes.
const LONGEST: usize = 15;

/// Where the instruction ends that the guest is about to run, if it is a repeated MOVS, CMPS, STOS,
/// LODS or SCAS.
pub fn end(vcpu: &Vcpu, memory: &GuestMemory, regs: &kvm_regs) -> Result<Option<u64>, VmmError> {
    let sregs = vcpu.sregs()?;
    let mut code = [0; LONGEST];
    let mut length = LONGEST;
    // It may be the last of its page.
    while length > 0 && !paging::read(memory, &sregs, regs.rip, &mut code[..length]) {
        length = length.min((4096 - (regs.rip & 4095)) as usize) - 1;
    }
    let length = repeated(&code[..length], sregs.cs.l == 1);
    Ok(length.map(|length| regs.rip.wrapping_add(length)))
}

/// How long the instruction at the start of `code` is, if it is a repeated string instruction.
fn repeated(code: &[u8], long_mode: bool) -> Option<u64> {
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
        assert_eq!(repeated(&[0xf3, 0x48, 0xab, 0x90], true), Some(3)); // rep stosq
        assert_eq!(repeated(&[0xf3, 0xa4], true), Some(2)); // rep movsb
        assert_eq!(repeated(&[0xf2, 0xae], false), Some(2)); // repne scasb
        assert_eq!(repeated(&[0xab], true), None); // stosd, once
        assert_eq!(repeated(&[0xf3, 0x90], true), None); // pause
        assert_eq!(repeated(&[0xf3, 0x0f, 0x10, 0xc1], true), None); // movss
        assert_eq!(repeated(&[0xf3], true), None);
        assert_eq!(repeated(&[], true), None);
    }
}
