//! The hash of a guest's whole state: what a record and its replay must agree on at the end.

use std::fmt;

use devices::layout::PAGE_BYTES;
use devices::{MachinePart, PartVisitor};
use kvm_bindings::kvm_regs;
use replay::{Digest, Marks, RamShare, RegisterSum};
use serde::{Deserialize, Serialize};

use super::{Guest, paging};
use crate::error::VmmError;
use crate::memory::{ram_bytes, read_page};

/// BLAKE3 over registers, machine and RAM, apart and together, so that a difference has a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// Of the encoded [`crate::cpu_state::CpuState`].
    pub cpu: [u8; 32],
    /// Of the encoded machine state.
    pub machine: [u8; 32],
    /// Of all RAM in rising order.
    pub memory: [u8; 32],
}

impl StateHash {
    /// One hash of all three.
    pub fn combined(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&self.cpu)
            .update(&self.machine)
            .update(&self.memory);
        *hasher.finalize().as_bytes()
    }

    /// The names of the parts in which two hashes differ.
    pub fn differences(&self, other: &StateHash) -> Vec<&'static str> {
        let StateHash {
            cpu,
            machine,
            memory,
        } = self;
        [
            ("registers", *cpu == other.cpu),
            ("device state", *machine == other.machine),
            ("memory", *memory == other.memory),
        ]
        .into_iter()
        .filter_map(|(name, equal)| (!equal).then_some(name))
        .collect()
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", blake3::Hash::from(self.combined()).to_hex())
    }
}

/// RFLAGS.RF: a debugger leaves it behind, and it masks breakpoints for an instruction that shows nothing of
/// it.
pub(super) const RFLAGS_RF: u64 = 1 << 16;
/// CF, PF, AF, ZF, SF and OF, of which some instructions leave some undefined (SDM vol. 1, appendix A).
pub(super) const RFLAGS_STATUS: u64 = 0x8d5;

/// The general registers, RIP and RFLAGS without RF and the status flags: the first of [`replay::digest::REGISTERS`].
pub(super) fn words(r: &kvm_regs) -> [u64; 18] {
    let rflags = r.rflags & !(RFLAGS_RF | RFLAGS_STATUS);
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15, r.rip, rflags,
    ]
}

/// What a point is known by, besides RIP and the number of branches.
pub(super) fn registers(r: &kvm_regs) -> RegisterSum {
    RegisterSum::of(&words(r))
}

/// A mark for each part of the machine.
#[derive(Default)]
struct DeviceMarks(Marks);

impl PartVisitor for DeviceMarks {
    fn part(&mut self, _: MachinePart, state: &impl Serialize) {
        self.0.push(u64::from(replay::crc_of(state)));
    }
}

impl Guest {
    /// What the guest is where it stands, with the checksum of `pages` pages of RAM from `first` on but for the
    /// accessed bits of page tables ([`paging::forget_accessed`]).
    ///
    /// # Errors
    ///
    /// When this RAM has no such pages.
    pub fn digest(&self, first: u64, pages: u32) -> Result<Digest, VmmError> {
        let end = first.checked_add(u64::from(pages));
        let ram_end = ram_bytes(self.memory());
        if end.is_none_or(|end| end > ram_end / PAGE_BYTES) {
            return Err(VmmError::BadInput(format!(
                "a digest covers {pages} pages from {first:#x} on, beyond RAM"
            )));
        }
        let mut registers = Marks::default();
        for word in words(&self.vcpu.regs()) {
            registers.push(word);
        }
        registers.push(self.machine.now());
        registers.push(self.exits);
        registers.push(self.count.branches_so_far()?);
        let mut devices = DeviceMarks::default();
        self.machine.visit_parts(&mut devices);
        let mut ram = RamShare::new(first);
        let mut page = [0u8; PAGE_BYTES as usize];
        for gfn in first..first + u64::from(pages) {
            read_page(self.memory(), gfn, &mut page);
            paging::forget_accessed(&mut page, ram_end);
            ram.push(&page);
        }
        Ok(Digest {
            registers,
            devices: devices.0,
            ram,
        })
    }

    /// Hashes the guest where it stands; settles the vCPU first.
    pub fn state_hash(&mut self) -> Result<StateHash, VmmError> {
        let cpu = self.save_cpu()?.encode()?;
        let machine = self.save_machine()?;
        let mut memory = blake3::Hasher::new();
        let mut page = [0u8; PAGE_BYTES as usize];
        for gfn in 0..ram_bytes(self.memory()) / PAGE_BYTES {
            read_page(self.memory(), gfn, &mut page);
            memory.update(&page);
        }
        Ok(StateHash {
            cpu: blake3::hash(&cpu).into(),
            machine: blake3::hash(&machine).into(),
            memory: memory.finalize().into(),
        })
    }
}
