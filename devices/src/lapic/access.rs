//! The register file's two faces: x2APIC MSRs 800h to 8FFh (SDM vol. 3, 11.12.1) and the xAPIC
//! window, whose register at offset `16 * n` is MSR `800h + n`.

use super::ipi::{Face, ICR_RESERVED};
use super::{
    BASE_BSP, BASE_ENABLE, BASE_X2APIC, ERROR_REGISTER, LVT_LEVEL, LVT_MASKED, LVT_REMOTE_IRR,
    LVT_WRITABLE, LocalApic, Lvt, SVR_ENABLE,
};
use crate::VirtualNs;
use crate::layout::LAPIC_BASE;

/// An access that the CPU answers with #GP(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("access to a local APIC register that the processor answers with #GP")]
pub struct InvalidAccess;

/// Version 15h, six local vector table entries (highest index 5), no EOI-broadcast suppression.
const VERSION: u32 = 0x0005_0015;
pub(super) const SVR_WRITABLE: u32 = 0x3ff;
const DIVIDE_WRITABLE: u32 = 0xb;

// Numbers of the registers that need naming.
const ID: u8 = 0x02;
const TPR: u8 = 0x08;
const EOI: u8 = 0x0b;
const LDR: u8 = 0x0d;
const DFR: u8 = 0x0e;
const SVR: u8 = 0x0f;
const ESR: u8 = 0x28;
const ICR: u8 = 0x30;
const ICR_HIGH: u8 = 0x31;
const LVT_FIRST: u8 = 0x32;
const LVT_LAST: u8 = 0x37;
const TIMER_INITIAL: u8 = 0x38;
const TIMER_CURRENT: u8 = 0x39;
const TIMER_DIVIDE: u8 = 0x3e;
const SELF_IPI: u8 = 0x3f;

/// Whether `base` is a value of IA32_APIC_BASE that this APIC can have.
pub(super) fn is_apic_base(base: u64) -> bool {
    let modes = base & (BASE_ENABLE | BASE_X2APIC);
    base & !(BASE_ENABLE | BASE_X2APIC | BASE_BSP) == LAPIC_BASE && modes != BASE_X2APIC
}

/// Whether an access to register `number` reads or changes something that runs with time.
fn needs_clock(number: u8, write: bool) -> bool {
    match number {
        TIMER_INITIAL | TIMER_DIVIDE => write,
        TIMER_CURRENT => !write,
        _ => false,
    }
}

impl LocalApic {
    /// Whether MSR `index` must be given a fresh `now`.
    pub fn msr_needs_clock(index: u32, write: bool) -> bool {
        needs_clock(index as u8, write)
    }

    /// Whether the window's register at `offset` must be given a fresh `now`.
    pub fn mmio_needs_clock(offset: u64, write: bool) -> bool {
        needs_clock((offset >> 4) as u8, write)
    }

    /// IA32_APIC_BASE.
    pub fn apic_base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. Illegal transitions (SDM vol. 3, figure 11-27) and moving the window
    /// are refused; disabling the APIC resets it.
    pub fn set_apic_base(&mut self, value: u64) -> Result<(), InvalidAccess> {
        let (enable, x2apic) = (value & BASE_ENABLE != 0, value & BASE_X2APIC != 0);
        let leaves_x2apic = self.is_x2apic() && enable && !x2apic;
        let skips_xapic = !self.is_enabled() && x2apic;
        if !is_apic_base(value) || leaves_x2apic || skips_xapic {
            return Err(InvalidAccess);
        }
        if self.is_enabled() && !enable {
            *self = LocalApic {
                lint0: self.lint0,
                ..LocalApic::default()
            };
        }
        self.base = value;
        Ok(())
    }

    /// RDMSR of `index` in 800h..=8FFh.
    pub fn msr_read(&self, index: u32, now: VirtualNs) -> Result<u64, InvalidAccess> {
        if !self.is_x2apic() {
            return Err(InvalidAccess);
        }
        match index as u8 {
            ID => Ok(0),
            LDR => Ok(1),
            ICR => Ok(self.icr),
            EOI | DFR | ICR_HIGH | SELF_IPI => Err(InvalidAccess),
            number => self
                .register(number, now)
                .map(u64::from)
                .ok_or(InvalidAccess),
        }
    }

    /// WRMSR of `index` in 800h..=8FFh. Returns a level-triggered vector that ended.
    pub fn msr_write(
        &mut self,
        index: u32,
        value: u64,
        now: VirtualNs,
    ) -> Result<Option<u8>, InvalidAccess> {
        if !self.is_x2apic() {
            return Err(InvalidAccess);
        }
        let number = index as u8;
        if number == ICR {
            if value & ICR_RESERVED != 0 {
                return Err(InvalidAccess);
            }
            self.icr = value;
            self.send_ipi(Face::Msr);
            return Ok(None);
        }
        let value = u32::try_from(value).map_err(|_| InvalidAccess)?;
        let legal = match number {
            TPR | SELF_IPI => value <= 0xff,
            EOI | ESR => value == 0,
            SVR => value & !SVR_WRITABLE == 0,
            LVT_FIRST..=LVT_LAST => {
                let read_only = LVT_REMOTE_IRR | 1 << 12;
                value & !(LVT_WRITABLE[usize::from(number - LVT_FIRST)] | read_only) == 0
            }
            TIMER_INITIAL => true,
            TIMER_DIVIDE => value & !DIVIDE_WRITABLE == 0,
            _ => false,
        };
        if !legal {
            return Err(InvalidAccess);
        }
        if number == SELF_IPI {
            self.send_vector(value as u8, true);
            return Ok(None);
        }
        Ok(self.set_register(number, value, now))
    }

    /// Reads from the window at `offset` (less than 1000h).
    pub fn mmio_read(&mut self, offset: u64, data: &mut [u8], now: VirtualNs) {
        if !self.is_enabled() {
            data.fill(0xff);
            return;
        }
        let number = (offset >> 4) as u8;
        let value = match number {
            ID => 0,
            LDR => self.ldr,
            DFR => self.dfr,
            ICR => self.icr as u32,
            ICR_HIGH => (self.icr >> 32) as u32,
            EOI => 0,
            _ => self.register(number, now).unwrap_or_else(|| {
                self.report_error(ERROR_REGISTER);
                0
            }),
        };
        let bytes = value.to_le_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get((offset & 0xf) as usize + i).copied().unwrap_or(0);
        }
    }

    /// Writes to the window at `offset` (less than 1000h); anything but the aligned 32-bit writes
    /// that the manual asks for is dropped. Returns a level-triggered vector that ended.
    pub fn mmio_write(&mut self, offset: u64, data: &[u8], now: VirtualNs) -> Option<u8> {
        let value = u32::from_le_bytes(data.get(..4)?.try_into().ok()?);
        if !self.is_enabled() || offset & 0xf != 0 {
            return None;
        }
        match (offset >> 4) as u8 {
            ICR => {
                let command = u64::from(value) & !ICR_RESERVED;
                self.icr = (self.icr & !0xffff_ffff) | command;
                self.send_ipi(Face::Window);
            }
            ICR_HIGH => self.icr = (self.icr & 0xffff_ffff) | (u64::from(value) << 32),
            LDR => self.ldr = value & 0xff00_0000,
            DFR => self.dfr = value | 0x0fff_ffff,
            // Read-only: writes are ignored.
            ID | 0x03 | 0x0a | 0x10..=0x27 | TIMER_CURRENT => {}
            number @ (TPR | EOI | SVR | ESR | LVT_FIRST..=TIMER_INITIAL | TIMER_DIVIDE) => {
                return self.set_register(number, value, now);
            }
            _ => self.report_error(ERROR_REGISTER),
        }
        None
    }

    /// The registers that read the same through both faces.
    fn register(&self, number: u8, now: VirtualNs) -> Option<u32> {
        Some(match number {
            0x03 => VERSION,
            TPR => u32::from(self.tpr),
            0x0a => u32::from(self.ppr()),
            SVR => self.svr,
            0x10..=0x17 => self.isr.word(number),
            0x18..=0x1f => self.tmr.word(number),
            0x20..=0x27 => self.irr.word(number),
            ESR => self.esr,
            LVT_FIRST..=LVT_LAST => self.lvt[usize::from(number - LVT_FIRST)],
            TIMER_INITIAL => self.timer.initial(),
            TIMER_CURRENT => self.timer.current(now),
            TIMER_DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// The registers that are written the same through both faces; reserved bits are dropped.
    fn set_register(&mut self, number: u8, value: u32, now: VirtualNs) -> Option<u8> {
        match number {
            TPR => self.tpr = value as u8,
            EOI => return self.end_of_interrupt(),
            SVR => {
                self.svr = value & SVR_WRITABLE;
                if self.svr & SVR_ENABLE == 0 {
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ESR => self.esr = std::mem::take(&mut self.errors),
            LVT_FIRST..=LVT_LAST => self.set_lvt(usize::from(number - LVT_FIRST), value),
            TIMER_INITIAL => self.timer.start(value, now),
            TIMER_DIVIDE => self.timer.set_divide(value & DIVIDE_WRITABLE, now),
            _ => {}
        }
        None
    }

    fn set_lvt(&mut self, index: usize, value: u32) {
        let mut entry = value & LVT_WRITABLE[index];
        if self.svr & SVR_ENABLE == 0 {
            entry |= LVT_MASKED;
        }
        if index == Lvt::Lint0 as usize {
            if entry & LVT_LEVEL != 0 {
                entry |= self.lvt[index] & LVT_REMOTE_IRR;
            }
            self.lvt[index] = entry;
            self.sample_lint0(false);
        } else {
            self.lvt[index] = entry;
        }
    }
}
