//! The parts of a machine by name, so that two copies that differ can say where.

use std::fmt;

use serde::Serialize;

use super::Machine;
use super::config::Slot;

/// A part of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachinePart {
    /// Virtual time and what the guest made of its time-stamp counter.
    Clock,
    /// The local APIC.
    LocalApic,
    /// The I/O APIC.
    IoApic,
    /// The 8259A pair.
    Pic,
    /// The interval timer.
    Pit,
    /// The real-time clock.
    Rtc,
    /// ACPI power management.
    AcpiPm,
    /// COM1.
    Uart,
    /// Effects that nobody has taken yet.
    Effects,
    /// The disk with this index.
    Disk(u8),
    /// The network card.
    Net,
    /// The entropy source.
    Rng,
    /// The console.
    Console,
}

impl fmt::Display for MachinePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MachinePart::Clock => f.write_str("the clock"),
            MachinePart::LocalApic => f.write_str("the local APIC"),
            MachinePart::IoApic => f.write_str("the I/O APIC"),
            MachinePart::Pic => f.write_str("the 8259A pair"),
            MachinePart::Pit => f.write_str("the interval timer"),
            MachinePart::Rtc => f.write_str("the real-time clock"),
            MachinePart::AcpiPm => f.write_str("ACPI power management"),
            MachinePart::Uart => f.write_str("the serial port"),
            MachinePart::Effects => f.write_str("effects that wait"),
            MachinePart::Disk(index) => write!(f, "disk {index}"),
            MachinePart::Net => f.write_str("the network card"),
            MachinePart::Rng => f.write_str("the entropy source"),
            MachinePart::Console => f.write_str("the virtio console"),
        }
    }
}

/// Whom [`Machine::visit_parts`] shows the state of each part.
pub trait PartVisitor {
    /// The next part's state; equal machines show equal states.
    fn part(&mut self, part: MachinePart, state: &impl Serialize);
}

impl Machine {
    /// Shows all parts, which together are the whole state, always in the same order.
    pub fn visit_parts(&self, visitor: &mut impl PartVisitor) {
        let Machine {
            now,
            tsc_offset,
            interrupts,
            pit,
            rtc,
            acpi_pm,
            uart,
            virtio,
            slots,
            effects,
        } = self;
        visitor.part(MachinePart::Clock, &(now, tsc_offset));
        visitor.part(MachinePart::LocalApic, &interrupts.lapic);
        visitor.part(MachinePart::IoApic, &interrupts.ioapic);
        visitor.part(MachinePart::Pic, &interrupts.pic);
        visitor.part(MachinePart::Pit, pit);
        visitor.part(MachinePart::Rtc, rtc);
        visitor.part(MachinePart::AcpiPm, acpi_pm);
        visitor.part(MachinePart::Uart, uart);
        visitor.part(MachinePart::Effects, effects);
        for (slot, device) in slots.iter().zip(virtio) {
            let part = match slot {
                Slot::Disk(index) => MachinePart::Disk(*index),
                Slot::Net => MachinePart::Net,
                Slot::Rng => MachinePart::Rng,
                Slot::Console => MachinePart::Console,
            };
            visitor.part(part, &device.save());
        }
    }

    /// The parts, in the order of [`Machine::visit_parts`].
    pub fn parts(&self) -> Vec<MachinePart> {
        struct Names(Vec<MachinePart>);
        impl PartVisitor for Names {
            fn part(&mut self, part: MachinePart, _: &impl Serialize) {
                self.0.push(part);
            }
        }
        let mut names = Names(Vec::new());
        self.visit_parts(&mut names);
        names.0
    }
}
