//! RDTSC and RDTSCP in the guest's user space.
//!
//! CR4.TSD makes them raise #GP at CPL3 (SDM vol. 2, RDTSC). Where CPUID hides RDTSCP, KVM has it raise #UD, at any
//! level; a program that didn't ask is answered all the same. Hardware breakpoints on the guest's entries of both give
//! the VMM each exception before the guest's handler runs an instruction: if one of the two caused it, the VMM undoes
//! it and answers with virtual time; if not, the handler runs on.

use devices::GuestMemory;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use super::entries::{self, GENERAL_PROTECTION, UNDEFINED};
use super::paging;
use crate::error::VmmError;
use crate::kvm::Vcpu;

const CR4_TSD: u64 = 1 << 2;
const RFLAGS_RF: u64 = 1 << 16;
/// Exits between looks at the guest's IDT while the breakpoint may still move (boot), and after.
const LOOK_EVERY_EARLY: u64 = 32;
const LOOK_EVERY: u64 = 1024;
const EARLY_EXITS: u64 = 200_000;

/// The exceptions that may be theirs.
const VECTORS: [u8; 2] = [GENERAL_PROTECTION, UNDEFINED];

/// The breakpoints on the guest's entries.
#[derive(Debug, Default)]
pub struct TscTrap {
    /// Of [`VECTORS`].
    addresses: [Option<u64>; 2],
    lost: bool,
}

impl TscTrap {
    /// Where they are armed.
    pub fn addresses(&self) -> [Option<u64>; 2] {
        self.addresses
    }

    /// Whether the guest was seen to have cleared CR4.TSD: its user space may read the host's
    /// counter, and replicas may differ.
    pub fn lost(&self) -> bool {
        self.lost
    }

    /// Has them where a snapshot had them, to be armed there.
    pub fn restore(&mut self, addresses: [Option<u64>; 2]) {
        self.addresses = addresses;
    }

    /// Looks now and then, at exits that every replica has alike, where the guest's entries are: whether the
    /// breakpoints are to be armed anew.
    pub fn watch(
        &mut self,
        exits: u64,
        vcpu: &Vcpu,
        memory: &GuestMemory,
    ) -> Result<bool, VmmError> {
        let every = if exits < EARLY_EXITS {
            LOOK_EVERY_EARLY
        } else {
            LOOK_EVERY
        };
        if !exits.is_multiple_of(every) {
            return Ok(false);
        }
        let sregs = vcpu.sregs()?;
        if sregs.cr4 & CR4_TSD == 0 {
            self.lost |= self.addresses[0].is_some();
            return Ok(false);
        }
        let before = self.addresses;
        for (address, vector) in self.addresses.iter_mut().zip(VECTORS) {
            *address = entries::of_vector(memory, &sregs, vector).or(*address);
        }
        Ok(self.addresses != before)
    }

    /// At a debug exit: the RDTSC or RDTSCP that caused the exception, if that is what it was.
    pub fn inspect(
        &self,
        vcpu: &Vcpu,
        memory: &GuestMemory,
        pc: u64,
    ) -> Result<Option<TrappedRdtsc>, VmmError> {
        let [gp, ud] = self.addresses.map(|address| address == Some(pc));
        if !gp && !ud {
            return Ok(None);
        }
        let (regs, sregs) = (vcpu.regs(), vcpu.sregs()?);
        let mut frame = [0u8; 48];
        let bytes = if gp { 48 } else { 40 };
        if !paging::read(memory, &sregs, regs.rsp, &mut frame[..bytes]) {
            return Ok(None);
        }
        let word = |i: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&frame[i * 8..i * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        // #GP has an error code besides; #UD has none.
        let error = if gp { word(0) } else { 0 };
        let [rip, cs, rflags, rsp, ss] = [0, 1, 2, 3, 4].map(|i| word(i + usize::from(gp)));
        if error != 0 || cs & 3 != 3 {
            return Ok(None);
        }
        let mut code = [0u8; 3];
        if !paging::read(memory, &sregs, rip, &mut code[..2]) || code[0] != 0x0f {
            return Ok(None);
        }
        if code[1] == 0x01 {
            paging::read(memory, &sregs, rip.wrapping_add(2), &mut code[2..]);
        }
        let aux = match code {
            [_, 0x31, _] if gp => false,
            [_, 0x01, 0xf9] => true,
            _ => return Ok(None),
        };
        let (Some(cs), Some(ss)) = (segment(memory, &sregs, cs), segment(memory, &sregs, ss))
        else {
            return Ok(None);
        };
        Ok(Some(TrappedRdtsc {
            regs,
            sregs,
            cs,
            ss,
            rip,
            rflags,
            rsp,
            aux,
        }))
    }
}

/// An exception that RDTSC or RDTSCP caused, ready to be undone.
#[derive(Debug)]
pub struct TrappedRdtsc {
    regs: kvm_regs,
    sregs: kvm_sregs,
    cs: kvm_segment,
    ss: kvm_segment,
    rip: u64,
    rflags: u64,
    rsp: u64,
    aux: bool,
}

impl TrappedRdtsc {
    /// Puts the vCPU behind the instruction, with `tsc` in EDX:EAX (and 0 in ECX for RDTSCP:
    /// IA32_TSC_AUX is hidden and zero).
    pub fn emulate(self, vcpu: &mut Vcpu, tsc: u64) -> Result<(), VmmError> {
        let TrappedRdtsc {
            mut regs,
            mut sregs,
            cs,
            ss,
            rip,
            rflags,
            rsp,
            aux,
        } = self;
        regs.rax = tsc & 0xffff_ffff;
        regs.rdx = tsc >> 32;
        if aux {
            regs.rcx = 0;
        }
        regs.rip = rip.wrapping_add(if aux { 3 } else { 2 });
        regs.rflags = rflags & !RFLAGS_RF;
        regs.rsp = rsp;
        sregs.cs = cs;
        sregs.ss = ss;
        vcpu.set_sregs(&sregs)?;
        vcpu.set_regs(regs);
        Ok(())
    }
}

/// A code or data segment as the GDT describes it (SDM vol. 3, 3.4.5).
fn segment(memory: &GuestMemory, sregs: &kvm_sregs, selector: u64) -> Option<kvm_segment> {
    let index = selector & 0xfff8;
    if selector & 4 != 0 || index + 7 > u64::from(sregs.gdt.limit) {
        return None;
    }
    let mut bytes = [0u8; 8];
    if !paging::read(
        memory,
        sregs,
        sregs.gdt.base.wrapping_add(index),
        &mut bytes,
    ) {
        return None;
    }
    let descriptor = u64::from_le_bytes(bytes);
    let bits = |at: u32, mask: u64| (descriptor >> at & mask) as u8;
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    let g = bits(55, 1);
    Some(kvm_segment {
        base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
        limit: if g == 1 { limit << 12 | 0xfff } else { limit },
        selector: selector as u16,
        type_: bits(40, 0xf) | 1,
        present: bits(47, 1),
        dpl: bits(45, 3),
        db: bits(54, 1),
        s: bits(44, 1),
        l: bits(53, 1),
        g,
        avl: bits(52, 1),
        unusable: 0,
        padding: 0,
    })
}
