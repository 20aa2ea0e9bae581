//! The 82093AA I/O interrupt controller: 24 pins, each with a redirection entry.
//!
//! The chip decides *that* a pin has a message for the local APIC; the machine carries it there
//! ([`Ioapic::ready`], [`Ioapic::message`], [`Ioapic::sent`]).

use serde::{Deserialize, Serialize};

use crate::RestoreError;
use crate::layout::IOAPIC_PINS;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const DELIVERY_STATUS: u64 = 1 << 12;
const LOGICAL: u64 = 1 << 11;
/// Bits of a redirection entry that software can set.
const WRITABLE: u64 = 0xff00_0000_0001_afff & !DELIVERY_STATUS;
const PIN_MASK: u32 = (1 << IOAPIC_PINS) - 1;

/// How an entry wants its interrupt delivered (82093AA, 3.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Fixed or lowest priority: the entry's vector (the same with one CPU).
    Vector,
    /// The vector comes from the 8259A pair.
    ExtInt,
    /// SMI, NMI, INIT or a reserved mode: not modelled, dropped.
    Other,
}

/// What a pin sends to the local APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The interrupt vector.
    pub vector: u8,
    /// Level-triggered: the local APIC's EOI comes back to [`Ioapic::end_of_interrupt`].
    pub level: bool,
    /// Destination APIC or set of APICs.
    pub destination: u8,
    /// `destination` is a logical one.
    pub logical: bool,
    /// The delivery mode.
    pub delivery: Delivery,
}

/// The chip. Its state is all it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ioapic {
    /// Register that the data window shows (IOREGSEL).
    select: u8,
    /// The ID register's ID, 4 bits. It only sits there.
    id: u8,
    /// Levels of the input lines.
    lines: u32,
    /// Edges that arrived at unmasked edge-triggered pins and were not sent yet.
    edges: u32,
    /// Redirection entries.
    entries: [u64; IOAPIC_PINS],
}

impl Default for Ioapic {
    fn default() -> Self {
        Ioapic {
            select: 0,
            id: 0,
            lines: 0,
            edges: 0,
            entries: [MASKED; IOAPIC_PINS],
        }
    }
}

impl Ioapic {
    /// Drives input `pin`. An edge at a masked pin is lost, as the data sheet says.
    pub fn set_line(&mut self, pin: usize, high: bool) {
        let Some(entry) = self.entries.get(pin) else {
            return;
        };
        let bit = 1 << pin;
        if high && self.lines & bit == 0 && entry & (MASKED | LEVEL) == 0 {
            self.edges |= bit;
        }
        if high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// Level of input `pin`; low for a pin that isn't there.
    pub fn line(&self, pin: usize) -> bool {
        pin < IOAPIC_PINS && self.lines & (1 << pin) != 0
    }

    /// The pins (as bits) that have a message to send now.
    pub fn ready(&self) -> u32 {
        if self.lines | self.edges == 0 {
            return 0;
        }
        let mut ready = self.edges;
        let mut high = self.lines & !self.edges;
        while high != 0 {
            let pin = high.trailing_zeros() as usize;
            high &= high - 1;
            if self.entries[pin] & (MASKED | LEVEL | REMOTE_IRR) == LEVEL {
                ready |= 1 << pin;
            }
        }
        ready
    }

    /// The message of a pin that is [`Ioapic::ready`].
    pub fn message(&self, pin: usize) -> Message {
        let entry = self.entries[pin];
        Message {
            vector: entry as u8,
            level: entry & LEVEL != 0,
            destination: (entry >> 56) as u8,
            logical: entry & LOGICAL != 0,
            delivery: match (entry >> 8) & 7 {
                0 | 1 => Delivery::Vector,
                7 => Delivery::ExtInt,
                _ => Delivery::Other,
            },
        }
    }

    /// The message of `pin` was offered to the local APIC. A level interrupt that it accepted is
    /// not sent again before its EOI; one that it refused is offered again later.
    pub fn sent(&mut self, pin: usize, accepted: bool) {
        self.edges &= !(1 << pin);
        if accepted && self.entries[pin] & LEVEL != 0 {
            self.entries[pin] |= REMOTE_IRR;
        }
    }

    /// The local APIC ended level interrupt `vector`: pins whose line is still high are ready again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.entries {
            if *entry as u8 == vector && *entry & LEVEL != 0 {
                *entry &= !REMOTE_IRR;
            }
        }
    }

    /// Whether pin `pin` is unmasked and in ExtINT mode (the virtual wire through the IOAPIC).
    pub fn is_external(&self, pin: usize) -> bool {
        self.entries[pin] & MASKED == 0 && (self.entries[pin] >> 8) & 7 == 7
    }

    /// Reads from the window; registers are 32 bits wide at offsets 0 and 10h.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset & !3 {
            0x00 => u32::from(self.select),
            0x10 => self.read_register(),
            _ => 0,
        };
        let bytes = value.to_le_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get((offset & 3) as usize + i).copied().unwrap_or(0);
        }
    }

    fn read_register(&self) -> u32 {
        match self.select {
            0 | 2 => u32::from(self.id) << 24,
            // Version 11h, highest pin 23.
            1 => ((IOAPIC_PINS as u32 - 1) << 16) | 0x11,
            _ => match self.selected_entry() {
                Some((pin, false)) => self.entries[pin] as u32,
                Some((pin, true)) => (self.entries[pin] >> 32) as u32,
                None => 0,
            },
        }
    }

    /// The pin whose entry is selected, and whether it is the upper half.
    fn selected_entry(&self) -> Option<(usize, bool)> {
        let index = usize::from(self.select.checked_sub(0x10)?);
        (index / 2 < IOAPIC_PINS).then_some((index / 2, index % 2 == 1))
    }

    /// Writes to the window. Partial writes are widened with zeros, as software must not do them.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        let len = data.len().min(4);
        bytes[..len].copy_from_slice(&data[..len]);
        let value = u32::from_le_bytes(bytes);
        match offset {
            0x00 => self.select = value as u8,
            0x10 => self.write_register(value),
            _ => {}
        }
    }

    fn write_register(&mut self, value: u32) {
        if self.select == 0 {
            self.id = (value >> 24) as u8 & 0xf;
        } else if let Some((pin, upper)) = self.selected_entry() {
            let old = self.entries[pin];
            let written = if upper {
                (old & 0xffff_ffff) | (u64::from(value) << 32)
            } else {
                (old & !0xffff_ffff) | u64::from(value)
            };
            let mut entry = (written & WRITABLE) | (old & REMOTE_IRR);
            if entry & LEVEL == 0 {
                // Linux clears a stuck remote IRR by switching the pin to edge and back.
                entry &= !REMOTE_IRR;
            }
            if entry & (MASKED | LEVEL) != 0 {
                self.edges &= !(1 << pin);
            }
            self.entries[pin] = entry;
        }
    }

    /// Checks a state that came from outside.
    pub fn validate(&self) -> Result<(), RestoreError> {
        let Ioapic {
            select: _,
            id,
            lines,
            edges,
            entries,
        } = self;
        RestoreError::check(*id < 16, "ioapic", "id")?;
        RestoreError::check(lines & !PIN_MASK == 0, "ioapic", "lines")?;
        RestoreError::check(edges & !PIN_MASK == 0, "ioapic", "edges")?;
        for (pin, entry) in entries.iter().enumerate() {
            let bits_ok = entry & !(WRITABLE | REMOTE_IRR) == 0;
            let irr_ok = entry & LEVEL != 0 || entry & REMOTE_IRR == 0;
            RestoreError::check(bits_ok && irr_ok, "ioapic", "entries")?;
            let may_hold_edge = entry & (MASKED | LEVEL) == 0;
            RestoreError::check(may_hold_edge || edges & (1 << pin) == 0, "ioapic", "edges")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ioapic: &mut Ioapic, register: u8, value: u32) {
        ioapic.write(0, &[register, 0, 0, 0]);
        ioapic.write(0x10, &value.to_le_bytes());
    }

    fn get(ioapic: &mut Ioapic, register: u8) -> u32 {
        ioapic.write(0, &[register, 0, 0, 0]);
        let mut data = [0; 4];
        ioapic.read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn identifies_itself_as_24_pins() {
        let mut ioapic = Ioapic::default();
        assert_eq!(get(&mut ioapic, 1), 0x0017_0011);
        set(&mut ioapic, 0, 0x0500_0000);
        assert_eq!(get(&mut ioapic, 0), 0x0500_0000);
        assert_eq!(get(&mut ioapic, 0x10), 0x0001_0000, "masked at reset");
        assert_eq!(get(&mut ioapic, 0x40), 0, "no such pin");
    }

    #[test]
    fn edge_is_sent_once() {
        let mut ioapic = Ioapic::default();
        set(&mut ioapic, 0x14, 0x30);
        ioapic.set_line(2, true);
        assert_eq!(ioapic.ready(), 4);
        assert_eq!(ioapic.message(2).vector, 0x30);
        assert!(!ioapic.message(2).level);
        ioapic.sent(2, true);
        assert_eq!(ioapic.ready(), 0);
        ioapic.set_line(2, false);
        ioapic.set_line(2, true);
        assert_eq!(ioapic.ready(), 4);
    }

    #[test]
    fn edge_at_a_masked_pin_is_lost() {
        let mut ioapic = Ioapic::default();
        ioapic.set_line(2, true);
        set(&mut ioapic, 0x14, 0x30);
        assert_eq!(ioapic.ready(), 0);
    }

    #[test]
    fn level_waits_for_the_end_of_interrupt_and_comes_again() {
        let mut ioapic = Ioapic::default();
        set(&mut ioapic, 0x10 + 18, 0x8041);
        ioapic.set_line(9, true);
        assert_eq!(ioapic.ready(), 1 << 9);
        ioapic.sent(9, true);
        assert_eq!(ioapic.ready(), 0);
        assert_eq!(get(&mut ioapic, 0x10 + 18), 0xc041, "remote IRR shows");
        ioapic.end_of_interrupt(0x40);
        assert_eq!(ioapic.ready(), 0, "another vector");
        ioapic.end_of_interrupt(0x41);
        assert_eq!(ioapic.ready(), 1 << 9);
        ioapic.sent(9, true);
        ioapic.set_line(9, false);
        ioapic.end_of_interrupt(0x41);
        assert_eq!(ioapic.ready(), 0);
    }

    #[test]
    fn level_at_a_masked_pin_waits_for_the_unmasking() {
        let mut ioapic = Ioapic::default();
        set(&mut ioapic, 0x10 + 18, 0x1_8041);
        ioapic.set_line(9, true);
        assert_eq!(ioapic.ready(), 0);
        set(&mut ioapic, 0x10 + 18, 0x8041);
        assert_eq!(ioapic.ready(), 1 << 9);
        ioapic.sent(9, false);
        assert_eq!(ioapic.ready(), 1 << 9, "refused: offered again");
    }

    #[test]
    fn linux_clears_remote_irr_through_edge_mode() {
        let mut ioapic = Ioapic::default();
        set(&mut ioapic, 0x10 + 18, 0x8041);
        ioapic.set_line(9, true);
        ioapic.sent(9, true);
        set(&mut ioapic, 0x10 + 18, 0x1_0041);
        set(&mut ioapic, 0x10 + 18, 0x8041);
        assert_eq!(ioapic.ready(), 1 << 9);
    }

    #[test]
    fn destination_and_mode_come_from_the_entry() {
        let mut ioapic = Ioapic::default();
        set(&mut ioapic, 0x10, 0x0000_0f00);
        set(&mut ioapic, 0x11, 0x0100_0000);
        let message = ioapic.message(0);
        assert_eq!(
            (message.destination, message.logical, message.delivery),
            (1, true, Delivery::ExtInt)
        );
        assert!(ioapic.is_external(0));
    }

    #[test]
    fn impossible_states_are_refused() {
        let mut ioapic = Ioapic::default();
        ioapic.entries[3] |= REMOTE_IRR;
        assert_eq!(
            ioapic.validate(),
            Err(RestoreError::field("ioapic", "entries"))
        );
        let ioapic = Ioapic {
            lines: 1 << 24,
            ..Ioapic::default()
        };
        assert_eq!(
            ioapic.validate(),
            Err(RestoreError::field("ioapic", "lines"))
        );
    }
}
