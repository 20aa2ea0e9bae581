//! Where the processor enters the guest's kernel: the handlers in its IDT, and what its user code calls.

use devices::GuestMemory;
use kvm_bindings::{kvm_regs, kvm_sregs};

use super::paging;
use crate::kvm::Vcpu;

/// Vector of #DB.
pub const DEBUG: u8 = 1;
/// Vector of #UD.
pub const UNDEFINED: u8 = 6;
/// Vector of #GP.
pub const GENERAL_PROTECTION: u8 = 13;
/// Vector of #PF.
pub const PAGE_FAULT: u8 = 14;

const BREAKPOINT: u8 = 3;
/// MSRs that hold where SYSENTER, SYSCALL and a 32-bit SYSCALL lead (SDM vol. 4; APM vol. 2, 6.1).
const SYSENTER_EIP: u32 = 0x176;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
/// Longest instruction in bytes.
const LONGEST: usize = 15;

/// What an instruction calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Vector(u8),
    Syscall,
    Sysenter,
}

/// The handler of `vector` in the IDT that is loaded, if it is a present 64-bit gate.
pub fn of_vector(memory: &GuestMemory, sregs: &kvm_sregs, vector: u8) -> Option<u64> {
    let at = u64::from(vector) * 16;
    if u64::from(sregs.idt.limit) < at + 15 {
        return None;
    }
    let mut gate = [0u8; 16];
    if !paging::read(memory, sregs, sregs.idt.base.wrapping_add(at), &mut gate) {
        return None;
    }
    let present_interrupt_or_trap_gate = gate[5] & 0x8e == 0x8e;
    let half = |a: usize| u64::from(u16::from_le_bytes([gate[a], gate[a + 1]]));
    let offset = half(0) | half(6) << 16 | half(8) << 32 | half(10) << 48;
    present_interrupt_or_trap_gate.then_some(offset)
}

/// Where the kernel goes on if the instruction that the guest's user code is about to run leads there: what
/// it calls, or else the handler of page faults, which any instruction can meet. `None` in the kernel.
pub fn from_user(vcpu: &Vcpu, memory: &GuestMemory, sregs: &kvm_sregs) -> Option<u64> {
    // KVM keeps the privilege level there.
    if sregs.ss.dpl != 3 {
        return None;
    }
    let kvm_regs { rip, .. } = vcpu.regs();
    let linear = sregs.cs.base.wrapping_add(rip);
    let mut code = [0; LONGEST];
    let length = paging::read_some(memory, sregs, linear, &mut code);
    let long_mode = sregs.cs.l == 1;
    match called(&code[..length], long_mode) {
        None => of_vector(memory, sregs, PAGE_FAULT),
        Some(Call::Vector(vector)) => of_vector(memory, sregs, vector),
        Some(Call::Syscall) => vcpu.msr(if long_mode { LSTAR } else { CSTAR }),
        Some(Call::Sysenter) => vcpu.msr(SYSENTER_EIP),
    }
}

/// What the instruction at the start of `code` calls, if it is a call of the kernel.
fn called(code: &[u8], long_mode: bool) -> Option<Call> {
    let prefixes = code.iter().position(|byte| match byte {
        0x66 | 0x67 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf2 | 0xf3 => false,
        0x40..=0x4f => !long_mode,
        _ => true,
    })?;
    match code[prefixes..] {
        [0xcc, ..] => Some(Call::Vector(BREAKPOINT)),
        [0xcd, vector, ..] => Some(Call::Vector(vector)),
        [0x0f, 0x05, ..] => Some(Call::Syscall),
        [0x0f, 0x34, ..] => Some(Call::Sysenter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::Ram;

    #[test]
    fn a_handler_is_where_its_gate_leads() {
        let memory = Ram::allocate(1 << 20).unwrap();
        let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        // The first 2 MiB are mapped to themselves.
        put(0x1000, 0x2000 | 7);
        put(0x2000, 0x3000 | 7);
        put(0x3000, 1 << 7 | 7);
        let (idt, limit) = (0x8000, 4 * 16 - 1);
        let mut sregs = kvm_sregs {
            cr0: 1 << 31,
            cr3: 0x1000,
            efer: 1 << 10,
            ..Default::default()
        };
        (sregs.idt.base, sregs.idt.limit) = (idt, limit);
        let gate = |kind: u64| 0x5678 | 0x10 << 16 | kind << 40 | 0x1234 << 48;
        for (vector, kind) in [(1, 0x8e), (2, 0xef), (3, 0x0e), (4, 0x8e)] {
            put(idt + vector * 16, gate(kind));
            put(idt + vector * 16 + 8, 0xffff_ffff);
        }
        let entry = Some(0xffff_ffff_1234_5678);
        assert_eq!(of_vector(&memory, &sregs, 1), entry);
        assert_eq!(of_vector(&memory, &sregs, 2), entry);
        assert_eq!(of_vector(&memory, &sregs, 3), None, "not present");
        assert_eq!(of_vector(&memory, &sregs, 4), None, "beyond the limit");
        sregs.idt.base = 0x20_0000;
        assert_eq!(of_vector(&memory, &sregs, 1), None, "not mapped");
    }

    #[test]
    fn calls_of_the_kernel_are_told_from_others() {
        assert_eq!(called(&[0xcd, 0x80, 0x90], true), Some(Call::Vector(0x80)));
        assert_eq!(called(&[0xcc], true), Some(Call::Vector(3)));
        assert_eq!(called(&[0x0f, 0x05], true), Some(Call::Syscall));
        assert_eq!(called(&[0x48, 0x0f, 0x05], true), Some(Call::Syscall));
        assert_eq!(called(&[0x48, 0x0f, 0x05], false), None, "dec %eax");
        assert_eq!(called(&[0x66, 0x0f, 0x34], false), Some(Call::Sysenter));
        assert_eq!(called(&[0x0f, 0x31], true), None, "rdtsc");
        assert_eq!(called(&[0xcd], true), None, "its vector is not there");
        assert_eq!(called(&[], true), None);
    }
}
