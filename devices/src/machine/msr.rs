//! The MSRs that are the machine's: the x2APIC's, IA32_APIC_BASE and IA32_TSC.

use super::Machine;
use crate::lapic::LocalApic;
use crate::layout::X2APIC_MSRS;

const IA32_TSC: u32 = 0x10;
const IA32_APIC_BASE: u32 = 0x1b;

impl Machine {
    /// Whether an access to MSR `index` needs a fresh [`Input::Clock`](crate::Input::Clock) first.
    pub fn msr_needs_clock(&self, index: u32, write: bool) -> bool {
        index == IA32_TSC
            || (X2APIC_MSRS.contains(&index) && LocalApic::msr_needs_clock(index, write))
    }

    /// RDMSR. None: raise #GP(0).
    pub fn msr_read(&mut self, index: u32) -> Option<u64> {
        match index {
            IA32_TSC => Some(self.tsc()),
            IA32_APIC_BASE => Some(self.interrupts.lapic.apic_base()),
            _ if X2APIC_MSRS.contains(&index) => {
                self.interrupts.lapic.msr_read(index, self.now).ok()
            }
            _ => None,
        }
    }

    /// WRMSR. None: raise #GP(0). A write of IA32_TSC moves the virtual TSC and nothing else.
    pub fn msr_write(&mut self, index: u32, value: u64) -> Option<()> {
        match index {
            IA32_TSC => self.tsc_offset = value.wrapping_sub(self.now),
            IA32_APIC_BASE => {
                self.interrupts.lapic.set_apic_base(value).ok()?;
                self.interrupts.settle();
            }
            _ if X2APIC_MSRS.contains(&index) => {
                let ended = self
                    .interrupts
                    .lapic
                    .msr_write(index, value, self.now)
                    .ok()?;
                self.interrupts.end_of_interrupt(ended);
                self.interrupts.settle();
            }
            _ => return None,
        }
        Some(())
    }
}
