//! How interrupt lines reach the CPU: each GSI below 16 drives both its ISA line of the 8259A pair
//! and its pin of the IOAPIC; the IOAPIC sends messages to the local APIC; the pair's output is
//! LINT0 there, and a virtual wire through pin 0 of the IOAPIC.

use serde::{Deserialize, Serialize};

use crate::ioapic::Ioapic;
use crate::lapic::LocalApic;
use crate::layout::PIT_GSI;
use crate::pic::Pic;
use crate::{RestoreError, VirtualNs};

/// Pin of the IOAPIC that may pass the 8259A pair's interrupts.
const EXTERNAL_PIN: usize = 0;

/// The three controllers and what connects them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interrupts {
    pub(super) pic: Pic,
    pub(super) ioapic: Ioapic,
    pub(super) lapic: LocalApic,
}

impl Interrupts {
    /// Drives a line. The PIT's is ISA IRQ 0 and GSI 2; the others have one number for both.
    pub(super) fn set_gsi(&mut self, gsi: u32, high: bool) {
        if self.line(gsi) == high {
            return;
        }
        if gsi < 16 {
            let irq = if gsi == PIT_GSI { 0 } else { gsi as u8 };
            self.pic.set_line(irq, high);
        }
        self.ioapic.set_line(gsi as usize, high);
        self.settle();
    }

    /// Level of a line.
    pub(super) fn line(&self, gsi: u32) -> bool {
        self.ioapic.line(gsi as usize)
    }

    /// A line goes up, or down and up again: an edge for those who look for one.
    pub(super) fn pulse_gsi(&mut self, gsi: u32) {
        self.set_gsi(gsi, false);
        self.set_gsi(gsi, true);
    }

    /// The local APIC ended level interrupt `vector`.
    pub(super) fn end_of_interrupt(&mut self, vector: Option<u8>) {
        if let Some(vector) = vector {
            self.ioapic.end_of_interrupt(vector);
        }
    }

    /// Carries pending signals on to the local APIC; due after anything that changed a controller.
    pub(super) fn settle(&mut self) {
        self.lapic.set_lint0(self.pic.output());
        let mut ready = self.ioapic.ready();
        while ready != 0 {
            let pin = ready.trailing_zeros() as usize;
            ready &= ready - 1;
            let accepted = self.lapic.receive(&self.ioapic.message(pin));
            self.ioapic.sent(pin, accepted);
        }
    }

    /// Whether the 8259A pair interrupts the CPU.
    fn external_pending(&self) -> bool {
        self.pic.output() && (self.lapic.passes_external() || self.ioapic.is_external(EXTERNAL_PIN))
    }

    /// Whether the CPU has an interrupt to take.
    pub(super) fn is_pending(&self) -> bool {
        self.lapic.pending_vector().is_some() || self.external_pending()
    }

    /// The CPU takes an interrupt, those of the 8259A pair first, as the local APIC gives ExtINT
    /// no priority of its own.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        if self.external_pending() {
            let vector = self.pic.acknowledge();
            self.settle();
            return Some(vector);
        }
        self.lapic.acknowledge()
    }

    pub(super) fn validate(&self, now: VirtualNs) -> Result<(), RestoreError> {
        let Interrupts { pic, ioapic, lapic } = self;
        pic.validate()?;
        ioapic.validate()?;
        lapic.validate(now)?;
        for gsi in 1..16 {
            let irq = if gsi == PIT_GSI { 0 } else { gsi as u8 };
            RestoreError::check(pic.line(irq) == self.line(gsi), "pic", "lines")?;
        }
        RestoreError::check(lapic.lint0() == pic.output(), "lapic", "lint0")
    }
}
