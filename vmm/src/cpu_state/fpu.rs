//! x87 and SSE state: what a guest without XSAVE has.
//!
//! It travels by KVM_GET_XSAVE and KVM_SET_XSAVE. The older KVM_GET_FPU leaves MXCSR out, and
//! KVM_SET_FPU writes registers without marking them as in use, so that a fresh vCPU on a host with
//! XSAVE goes on with zeros.

use kvm_bindings::kvm_xsave;
use serde::{Deserialize, Serialize};

use crate::error::VmmError;
use crate::kvm::Vcpu;

/// The FXSAVE image (SDM vol. 1, 10.5.1) that an XSAVE area begins with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Fpu {
    fcw: u16,
    fsw: u16,
    ftwx: u8,
    last_opcode: u16,
    last_ip: u64,
    last_dp: u64,
    mxcsr: u32,
    fpr: [[u8; 16]; 8],
    xmm: [[u8; 16]; 16],
}

const MXCSR: usize = 24;
const FPR: usize = 32;
const XMM: usize = 160;
/// Where the XSAVE header starts with the components that are in use (SDM vol. 1, 13.4.2).
const XSTATE_BV: usize = 512;
/// x87 and SSE. Both are always given, as whether one is still as at power-on is the host's affair.
const X87_AND_SSE: u8 = 3;

impl Fpu {
    pub(super) fn save(vcpu: &Vcpu) -> Result<Fpu, VmmError> {
        let area = vcpu
            .fd()
            .get_xsave()
            .map_err(VmmError::ioctl("KVM_GET_XSAVE"))?;
        Ok(Fpu::of(&area))
    }

    #[allow(unsafe_code)]
    pub(super) fn load(&self, vcpu: &Vcpu) -> Result<(), VmmError> {
        // SAFETY: the kernel reads a kvm_xsave. It would read more only for a vCPU with dynamically
        // enabled state (AMX), which needs a permission that ftd never asks for.
        unsafe { vcpu.fd().set_xsave(&self.area()) }.map_err(VmmError::ioctl("KVM_SET_XSAVE"))
    }

    fn of(area: &kvm_xsave) -> Fpu {
        let mut bytes = [0; XSTATE_BV];
        for (to, word) in bytes.chunks_exact_mut(4).zip(area.region) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let part = |at: usize, len: usize| bytes.get(at..at + len).unwrap_or_default();
        fn number<const N: usize>(part: &[u8]) -> [u8; N] {
            part.first_chunk().copied().unwrap_or([0; N])
        }
        Fpu {
            fcw: u16::from_le_bytes(number(part(0, 2))),
            fsw: u16::from_le_bytes(number(part(2, 2))),
            ftwx: bytes[4],
            last_opcode: u16::from_le_bytes(number(part(6, 2))),
            last_ip: u64::from_le_bytes(number(part(8, 8))),
            last_dp: u64::from_le_bytes(number(part(16, 8))),
            mxcsr: u32::from_le_bytes(number(part(MXCSR, 4))),
            fpr: std::array::from_fn(|i| number(part(FPR + 16 * i, 16))),
            xmm: std::array::from_fn(|i| number(part(XMM + 16 * i, 16))),
        }
    }

    fn area(&self) -> kvm_xsave {
        let Fpu {
            fcw,
            fsw,
            ftwx,
            last_opcode,
            last_ip,
            last_dp,
            mxcsr,
            fpr,
            xmm,
        } = self;
        let mut bytes = [0; XSTATE_BV + 4];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &fcw.to_le_bytes());
        put(2, &fsw.to_le_bytes());
        put(4, &[*ftwx]);
        put(6, &last_opcode.to_le_bytes());
        put(8, &last_ip.to_le_bytes());
        put(16, &last_dp.to_le_bytes());
        put(MXCSR, &mxcsr.to_le_bytes());
        put(FPR, fpr.as_flattened());
        put(XMM, xmm.as_flattened());
        put(XSTATE_BV, &[X87_AND_SSE]);
        let mut area = kvm_xsave::default();
        for (word, bytes) in area.region.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        area
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_registers_comes_back() {
        let mut area = kvm_xsave::default();
        for (index, word) in area.region[..104].iter_mut().enumerate() {
            *word = 0x0101_0101 * (index as u32 + 1);
        }
        area.region[1] &= 0xffff_00ff; // reserved, beside the tag word
        area.region[7] = 0; // which bits of MXCSR exist, a fact of the host
        area.region[128] = u32::from(X87_AND_SSE);
        let fpu = Fpu::of(&area);
        assert_eq!(fpu.mxcsr, area.region[6]);
        assert_eq!(fpu.area().region, area.region);
    }
}
