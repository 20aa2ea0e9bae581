//! The one local APIC (SDM vol. 3, chapter 11): request and service registers, priorities, the
//! local vector table and the timer.
//!
//! [`access`] is its two faces, the x2APIC MSRs and the xAPIC window. The machine starts as
//! firmware that enabled x2APIC would leave it. The window answers in x2APIC mode too, because
//! the mode lives in a register (IA32_APIC_BASE) that the VMM may keep in KVM.
//!
//! Not modelled: SMI, NMI and INIT deliveries (nothing in this machine sends them), the thermal and
//! performance counter interrupts beyond their registers, TSC-deadline mode.

mod access;
mod ipi;
mod timer;
mod vectors;

pub use access::InvalidAccess;
use serde::{Deserialize, Serialize};
pub use timer::PERIOD_NS_MIN;
use timer::Timer;
use vectors::Vectors;

use crate::ioapic::{Delivery, Message};
use crate::layout::LAPIC_BASE;
use crate::{RestoreError, VirtualNs};

const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
const LVT_LEVEL: u32 = 1 << 15;
const LVT_REMOTE_IRR: u32 = 1 << 14;
const SVR_ENABLE: u32 = 1 << 8;

/// IA32_APIC_BASE: bootstrap processor.
const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the local APIC is enabled.
const BASE_ENABLE: u64 = 1 << 11;

/// Error status: an interrupt with a vector below 16 was to be sent.
const ERROR_SEND_VECTOR: u32 = 1 << 5;
/// Error status: an interrupt with a vector below 16 was received.
const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;
/// Error status: access to a register that doesn't exist.
const ERROR_REGISTER: u32 = 1 << 7;

/// The entries of the local vector table, in the order of their registers (320h to 370h).
#[derive(Clone, Copy)]
enum Lvt {
    Timer = 0,
    Lint0 = 3,
    Error = 5,
}

/// Bits software can set in each local vector table entry.
const LVT_WRITABLE: [u32; 6] = [0x3_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/// The local APIC. Its state is all it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalApic {
    /// IA32_APIC_BASE.
    base: u64,
    /// Task priority.
    tpr: u8,
    /// Logical destination register of xAPIC mode.
    ldr: u32,
    /// Destination format register.
    dfr: u32,
    /// Spurious-interrupt vector register.
    svr: u32,
    /// Vectors in service.
    isr: Vectors,
    /// Of the vectors in service or requested, those that came level-triggered.
    tmr: Vectors,
    /// Vectors requested.
    irr: Vectors,
    /// Error status as the guest last latched it.
    esr: u32,
    /// Errors since then.
    errors: u32,
    /// Interrupt command register.
    icr: u64,
    /// Local vector table: timer, thermal, performance counters, LINT0, LINT1, error.
    lvt: [u32; 6],
    /// Level of the LINT0 pin, which is the 8259A pair's output.
    lint0: bool,
    timer: Timer,
}

impl Default for LocalApic {
    fn default() -> Self {
        let mut lvt = [LVT_MASKED; 6];
        // The virtual wire that firmware leaves: the 8259A pair's interrupts pass through LINT0.
        lvt[Lvt::Lint0 as usize] = 0x700;
        LocalApic {
            base: LAPIC_BASE | BASE_ENABLE | BASE_X2APIC | BASE_BSP,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt,
            lint0: false,
            timer: Timer::new(),
        }
    }
}

impl LocalApic {
    /// IA32_APIC_BASE's enable bit. Cleared, only the 8259A pair interrupts the CPU.
    fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    fn is_x2apic(&self) -> bool {
        self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE | BASE_X2APIC
    }

    /// Hardware- and software-enabled: takes new interrupts.
    fn is_accepting(&self) -> bool {
        self.is_enabled() && self.svr & SVR_ENABLE != 0
    }

    fn lvt(&self, entry: Lvt) -> u32 {
        self.lvt[entry as usize]
    }

    /// Processor priority (SDM vol. 3, 11.8.3.1).
    fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service {
            self.tpr
        } else {
            in_service
        }
    }

    /// The vector the CPU should take now, if its priority lets it.
    pub fn pending_vector(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (vector & 0xf0 > self.ppr() & 0xf0 && self.is_enabled()).then_some(vector)
    }

    /// The CPU takes the pending vector: it moves from requested to in service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending_vector()?;
        self.irr.set(vector, false);
        self.isr.set(vector, true);
        Some(vector)
    }

    /// Whether interrupts of the 8259A pair reach the CPU through LINT0 (or straight, when the
    /// local APIC is disabled).
    pub fn passes_external(&self) -> bool {
        let lint0 = self.lvt(Lvt::Lint0);
        !self.is_enabled() || (lint0 & LVT_MASKED == 0 && (lint0 >> 8) & 7 == 7)
    }

    /// Offers a message of the IOAPIC; says whether it was accepted.
    pub fn receive(&mut self, message: &Message) -> bool {
        let for_us = if message.logical {
            self.matches_logical(message.destination)
        } else {
            matches!(message.destination, 0 | 0xff)
        };
        for_us
            && message.delivery == Delivery::Vector
            && self.request(message.vector, message.level)
    }

    /// Puts a vector into the request register; says whether it was accepted.
    fn request(&mut self, vector: u8, level: bool) -> bool {
        if !self.is_accepting() {
            return false;
        }
        if vector < 16 {
            self.report_error(ERROR_RECEIVE_VECTOR);
        } else {
            self.irr.set(vector, true);
            self.tmr.set(vector, level);
        }
        true
    }

    /// Notes an error and requests the error interrupt.
    fn report_error(&mut self, error: u32) {
        self.errors |= error;
        let entry = self.lvt(Lvt::Error);
        if entry & LVT_MASKED == 0 && self.is_accepting() {
            match entry as u8 {
                0..16 => self.errors |= ERROR_RECEIVE_VECTOR,
                vector => {
                    self.irr.set(vector, true);
                    self.tmr.set(vector, false);
                }
            }
        }
    }

    /// Drives the LINT0 pin. In ExtINT mode the machine asks the 8259A pair itself.
    pub fn set_lint0(&mut self, high: bool) {
        let rising = high && !self.lint0;
        self.lint0 = high;
        self.sample_lint0(rising);
    }

    /// Level of the LINT0 pin.
    pub fn lint0(&self) -> bool {
        self.lint0
    }

    /// LINT0 in Fixed mode: an edge, or a level that isn't being serviced, is a request.
    fn sample_lint0(&mut self, rising: bool) {
        let entry = self.lvt(Lvt::Lint0);
        if entry & (LVT_MASKED | 0x700) != 0 {
            return;
        }
        if entry & LVT_LEVEL == 0 {
            if rising {
                self.request(entry as u8, false);
            }
        } else if self.lint0
            && entry & LVT_REMOTE_IRR == 0
            && entry as u8 >= 16
            && self.request(entry as u8, true)
        {
            self.lvt[Lvt::Lint0 as usize] |= LVT_REMOTE_IRR;
        }
    }

    /// The EOI register: the most urgent vector in service is done. Returns it when it was
    /// level-triggered, to be told to the IOAPIC.
    fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.set(vector, false);
        if !self.tmr.contains(vector) {
            return None;
        }
        let lint0 = &mut self.lvt[Lvt::Lint0 as usize];
        if *lint0 as u8 == vector && *lint0 & LVT_REMOTE_IRR != 0 {
            *lint0 &= !LVT_REMOTE_IRR;
            self.sample_lint0(false);
        }
        Some(vector)
    }

    fn timer_is_periodic(&self) -> bool {
        self.lvt(Lvt::Timer) & LVT_PERIODIC != 0
    }

    /// Moves the timer to `now`, requesting its interrupt when it expired.
    pub fn advance(&mut self, now: VirtualNs) {
        let entry = self.lvt(Lvt::Timer);
        if self.timer.advance(now, self.timer_is_periodic()) && entry & LVT_MASKED == 0 {
            self.request(entry as u8, false);
        }
    }

    /// When the timer will next raise an interrupt, as seen from `now`.
    pub fn next_deadline(&self, now: VirtualNs) -> Option<VirtualNs> {
        if self.lvt(Lvt::Timer) & LVT_MASKED != 0 || !self.is_accepting() {
            return None;
        }
        self.timer.next_deadline(now, self.timer_is_periodic())
    }

    /// CR8: bits 7 to 4 of the task priority.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// Writes CR8 (0 to 15).
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = value << 4;
    }

    /// Checks a state that came from outside; `now` is the machine's time in it.
    pub fn validate(&self, now: VirtualNs) -> Result<(), RestoreError> {
        let LocalApic {
            base,
            tpr: _,
            ldr,
            dfr,
            svr,
            isr,
            tmr,
            irr,
            esr,
            errors,
            icr,
            lvt,
            lint0: _,
            timer,
        } = self;
        let check = |valid, field| RestoreError::check(valid, "lapic", field);
        check(access::is_apic_base(*base), "base")?;
        check(ldr & 0xff_ffff == 0, "ldr")?;
        check(dfr & 0xfff_ffff == 0xfff_ffff, "dfr")?;
        check(svr & !access::SVR_WRITABLE == 0, "svr")?;
        check(isr.is_legal(), "isr")?;
        check(tmr.is_legal(), "tmr")?;
        check(irr.is_legal(), "irr")?;
        let known_errors = ERROR_SEND_VECTOR | ERROR_RECEIVE_VECTOR | ERROR_REGISTER;
        check(esr & !known_errors == 0, "esr")?;
        check(errors & !known_errors == 0, "errors")?;
        check(icr & ipi::ICR_RESERVED == 0, "icr")?;
        let software_enabled = svr & SVR_ENABLE != 0;
        for (index, (entry, writable)) in lvt.iter().zip(LVT_WRITABLE).enumerate() {
            let read_only = if index == Lvt::Lint0 as usize {
                LVT_REMOTE_IRR
            } else {
                0
            };
            check(entry & !(writable | read_only) == 0, "lvt")?;
            // Until software enables the APIC all are masked, but for LINT0 as power-on left it.
            let masked = entry & LVT_MASKED != 0 || *entry == 0x700;
            check(software_enabled || masked, "lvt")?;
        }
        timer.validate(now)
    }
}

#[cfg(test)]
mod tests;
