//! Saving a guest that was stopped anywhere, and making another one be it.

use std::ops::ControlFlow;

use devices::layout::PAGE_BYTES;
use devices::machine::{Machine, MachineState};
use vm_memory::{Bytes, GuestAddress};

use super::Guest;
use crate::cpu_state::CpuState;
use crate::error::VmmError;
use crate::kvm::{DirtyRam, Reader};
use crate::memory::{PageSet, read_page};

impl Guest {
    /// The vCPU's state. Settles the vCPU: the result of its last access reaches its register.
    pub fn save_cpu(&mut self) -> Result<CpuState, VmmError> {
        self.vcpu.settle()?;
        // A fault that was due is now in the vCPU's state, and keeps interrupts away by itself.
        self.fault_due = false;
        self.at_position = true;
        self.restart_counting()?;
        CpuState::save(&self.vcpu, self.run_state())
    }

    /// The machine's state, encoded.
    pub fn save_machine(&self) -> Result<Vec<u8>, VmmError> {
        postcard::to_allocvec(&self.machine.save())
            .map_err(|error| VmmError::BadSnapshot(format!("machine state: {error}")))
    }

    /// Becomes the guest whose vCPU and machine state these are, at exit `exits`. Pages are written
    /// by [`Guest::write_page`] before.
    pub fn load(&mut self, exits: u64, cpu: &[u8], machine: &[u8]) -> Result<(), VmmError> {
        let cpu = CpuState::decode(cpu)?;
        let (state, rest) = postcard::take_from_bytes::<MachineState>(machine)
            .map_err(|error| VmmError::BadSnapshot(format!("machine state: {error}")))?;
        if !rest.is_empty() {
            return Err(VmmError::BadSnapshot(
                "machine state has trailing bytes".to_owned(),
            ));
        }
        let machine = Machine::restore(&self.config, state)
            .map_err(|error| VmmError::BadSnapshot(error.to_string()))?;
        self.vcpu.settle()?;
        cpu.load(&mut self.vcpu)?;
        self.tsc_trap.restore(cpu.run_state().tsc_breakpoints);
        self.later_code = cpu.run_state().later_code;
        self.arm()?;
        self.halted = cpu.run_state().halted;
        // Whether an interrupt can be injected is known only once KVM has looked at the new state.
        self.vcpu.settle()?;
        self.fault_due = false;
        self.at_position = true;
        self.machine = machine;
        self.exits = exits;
        self.restart_counting()?;
        Ok(())
    }

    /// Finishes the last access, so that nothing of it reaches RAM or registers later. To be called
    /// before the pages of a snapshot are written.
    pub fn settle(&mut self) -> Result<(), VmmError> {
        self.vcpu.settle()
    }

    /// Writes one page that came with a snapshot; empty `data` stands for zeros.
    pub fn write_page(&mut self, gfn: u64, data: &[u8]) -> Result<(), VmmError> {
        const ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
        let data = if data.is_empty() { &ZEROS[..] } else { data };
        if data.len() != ZEROS.len() {
            return Err(VmmError::BadSnapshot(format!(
                "page {gfn:#x} has {} bytes",
                data.len()
            )));
        }
        gfn.checked_mul(PAGE_BYTES)
            .and_then(|address| self.memory().write_slice(data, GuestAddress(address)).ok())
            .ok_or_else(|| VmmError::BadSnapshot(format!("page {gfn:#x} is not in this RAM")))
    }

    /// Forgets which pages were written: whoever follows this guest has them by executing what it did.
    pub fn forget_dirty(&mut self) -> Result<(), VmmError> {
        self.vm
            .dirty_ram()
            .take_dirty(Reader::Snapshots, &mut self.dirty)?;
        self.dirty.clear();
        Ok(())
    }

    /// RAM and dirty log, for the thread that clones this guest while it runs.
    pub fn dirty_ram(&self) -> DirtyRam {
        self.vm.dirty_ram()
    }

    /// Takes the pages dirtied since the last snapshot and hands each to `visit` in rising order,
    /// as (gfn, 4096 bytes); all-zero pages come as an empty slice.
    pub fn drain_dirty(
        &mut self,
        mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), VmmError> {
        let mut dirty = std::mem::replace(&mut self.dirty, PageSet::empty(0));
        self.vm
            .dirty_ram()
            .take_dirty(Reader::Snapshots, &mut dirty)?;
        let mut page = [0u8; PAGE_BYTES as usize];
        for gfn in dirty.iter() {
            read_page(self.memory(), gfn, &mut page);
            let data: &[u8] = if page.iter().all(|b| *b == 0) {
                &[]
            } else {
                &page
            };
            if visit(gfn, data).is_break() {
                break;
            }
        }
        dirty.clear();
        self.dirty = dirty;
        Ok(())
    }

    /// Counts all of these pages as dirty for the next snapshot.
    pub fn mark_dirty(&mut self, pages: impl IntoIterator<Item = u64>) {
        for gfn in pages {
            self.dirty.insert(gfn);
        }
    }
}
