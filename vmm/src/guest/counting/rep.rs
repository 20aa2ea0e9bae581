//! Repeated string instructions (SDM vol. 2, REP): the guest can be stopped in the middle of one.

use devices::GuestMemory;
use kvm_bindings::kvm_regs;

use crate::error::VmmError;
use crate::guest::paging;
use crate::kvm::Vcpu;

/// Longest instruction in bytes.
const LONGEST: usize = 15;

const RFLAGS_ZF: u64 = 1 << 6;

/// A repeated string instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated {
    /// Where it ends, and the next one begins.
    pub end: u64,
    /// It compares, and ends once ZF is this.
    until_zf: Option<bool>,
}

impl Repeated {
    /// Whether a comparison that left these flags has ended it.
    pub fn ends_with(&self, rflags: u64) -> bool {
        self.until_zf == Some(rflags & RFLAGS_ZF != 0)
    }
}

/// The instruction that the guest is about to run, if it is a repeated MOVS, CMPS, STOS, LODS or SCAS.
pub fn at(
    vcpu: &Vcpu,
    memory: &GuestMemory,
    regs: &kvm_regs,
) -> Result<Option<Repeated>, VmmError> {
    let sregs = vcpu.sregs()?;
    let mut code = [0; LONGEST];
    let length = paging::read_some(memory, &sregs, regs.rip, &mut code);
    let repeated = decode(&code[..length], sregs.cs.l == 1);
    Ok(repeated.map(|(length, until_zf)| Repeated {
        end: regs.rip.wrapping_add(length),
        until_zf,
    }))
}

/// How long the instruction at the start of `code` is, and the ZF that ends it, if it is a repeated
/// string instruction.
fn decode(code: &[u8], long_mode: bool) -> Option<(u64, Option<bool>)> {
    let mut repeats = None;
    for (at, byte) in code.iter().enumerate() {
        match byte {
            0xf2 => repeats = Some(true),
            0xf3 => repeats = Some(false),
            0x66 | 0x67 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
            0x40..=0x4f if long_mode => {}
            0xa6 | 0xa7 | 0xae | 0xaf => return repeats.map(|zf| (at as u64 + 1, Some(zf))),
            0xa4 | 0xa5 | 0xaa..=0xad => return repeats.map(|_| (at as u64 + 1, None)),
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
        assert_eq!(decode(&[0xf3, 0x48, 0xab, 0x90], true), Some((3, None))); // rep stosq
        assert_eq!(decode(&[0xf3, 0xa4], true), Some((2, None))); // rep movsb
        assert_eq!(decode(&[0xf2, 0xae], false), Some((2, Some(true)))); // repne scasb
        assert_eq!(decode(&[0xf3, 0x48, 0xa7], true), Some((3, Some(false)))); // repe cmpsq
        assert_eq!(decode(&[0xab], true), None); // stosd, once
        assert_eq!(decode(&[0xf3, 0x90], true), None); // pause
        assert_eq!(decode(&[0xf3, 0x0f, 0x10, 0xc1], true), None); // movss
        assert_eq!(decode(&[0xf3], true), None);
        assert_eq!(decode(&[], true), None);
    }
}
