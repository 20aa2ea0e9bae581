//! The pair of 8259A interrupt controllers at ports 20h, A0h and 4D0h.
//!
//! Linux probes it by writing a mask and reading it back, and drops IRQ 0 without it; after that
//! all lines are masked here and come through the IOAPIC. Tiny guests may use nothing else.

mod chip;

use chip::{CASCADE, Chip};
use serde::{Deserialize, Serialize};

use crate::RestoreError;

/// Inputs whose trigger mode can't be changed to level: timer, keyboard, cascade (82371 ELCR1).
const ELCR_PRIMARY_MASK: u8 = 0xf8;
/// The same of the secondary chip: RTC and coprocessor (82371 ELCR2).
const ELCR_SECONDARY_MASK: u8 = 0xde;

/// The pair. Its state is all it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic {
    primary: Chip,
    secondary: Chip,
}

impl Default for Pic {
    fn default() -> Self {
        // IRQ 9 is the SCI, which is level-triggered; the vectors are those of PC firmware.
        Pic {
            primary: Chip::new(0x08, 0),
            secondary: Chip::new(0x70, 0x02),
        }
    }
}

impl Pic {
    /// Whether the pair decodes `port`.
    pub fn owns_port(port: u16) -> bool {
        matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1)
    }

    /// Drives ISA line `irq` (0 to 15; line 2 is the cascade and can't be driven).
    pub fn set_line(&mut self, irq: u8, high: bool) {
        match irq {
            CASCADE | 16.. => return,
            0..8 => self.primary.set_line(irq, high),
            8.. => self.secondary.set_line(irq - 8, high),
        }
        self.settle();
    }

    /// Level of ISA line `irq` (0 to 15); the cascade's is low.
    pub fn line(&self, irq: u8) -> bool {
        let chip = if irq < 8 {
            &self.primary
        } else {
            &self.secondary
        };
        chip.lines & (1 << (irq & 7)) != 0
    }

    /// The INTR output: an interrupt waits for the CPU.
    pub fn output(&self) -> bool {
        self.primary.pending(true).is_some()
    }

    /// The CPU's interrupt acknowledge cycle: the vector. With nothing pending (the request went
    /// away) it is the spurious vector of input 7, which is not put in service.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.primary.pending(true) {
            None => self.primary.base + 7,
            Some(CASCADE) => {
                let vector = match self.secondary.pending(false) {
                    Some(irq) => {
                        self.secondary.acknowledge(irq);
                        self.secondary.base + irq
                    }
                    None => self.secondary.base + 7,
                };
                self.primary.acknowledge(CASCADE);
                vector
            }
            Some(irq) => {
                self.primary.acknowledge(irq);
                self.primary.base + irq
            }
        };
        self.settle();
        vector
    }

    /// Reads one byte; `port` is one that [`Pic::owns_port`].
    pub fn read(&mut self, port: u16) -> u8 {
        let primary = port < 0x80;
        let chip = if primary {
            &mut self.primary
        } else {
            &mut self.secondary
        };
        let value = match port {
            0x4d0 => return self.primary.elcr,
            0x4d1 => return self.secondary.elcr,
            _ if chip.poll => {
                chip.poll = false;
                match chip.pending(primary) {
                    Some(irq) => {
                        chip.acknowledge(irq);
                        0x80 | irq
                    }
                    None => 0,
                }
            }
            0x21 | 0xa1 => return chip.imr,
            _ if chip.read_isr => return chip.isr,
            _ => return chip.irr,
        };
        self.settle();
        value
    }

    /// Writes one byte; `port` is one that [`Pic::owns_port`].
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.primary.write_command(value),
            0x21 => self.primary.write_data(value),
            0xa0 => self.secondary.write_command(value),
            0xa1 => self.secondary.write_data(value),
            0x4d0 => self.primary.write_elcr(value & ELCR_PRIMARY_MASK),
            0x4d1 => self.secondary.write_elcr(value & ELCR_SECONDARY_MASK),
            _ => {}
        }
        self.settle();
    }

    /// The cascade input follows the secondary chip's output (which pulses at each acknowledge,
    /// so that the primary's edge logic never misses a second request).
    fn settle(&mut self) {
        let high = self.secondary.pending(false).is_some();
        self.primary.set_request(CASCADE, high);
    }

    /// Checks a state that came from outside.
    pub fn validate(&self) -> Result<(), RestoreError> {
        let Pic { primary, secondary } = self;
        for (chip, elcr_mask) in [
            (primary, ELCR_PRIMARY_MASK),
            (secondary, ELCR_SECONDARY_MASK),
        ] {
            if let Some(field) = chip.impossible_field() {
                return Err(RestoreError::field("pic", field));
            }
            RestoreError::check(chip.elcr & !elcr_mask == 0, "pic", "elcr")?;
        }
        let cascade = primary.irr & (1 << CASCADE) != 0;
        RestoreError::check(cascade == secondary.pending(false).is_some(), "pic", "irr")
    }
}

#[cfg(test)]
mod tests;
