//! Port I/O. Chips are byte-wide but for the PM timer's block and the TSC port; wider accesses to
//! the others are accesses to consecutive ports, as the ISA bus splits them. Ports nobody claims
//! read as all ones.

use super::Machine;
use crate::acpi_pm::AcpiPm;
use crate::layout::{COM1_PORT, TSC_PORT};
use crate::pic::Pic;
use crate::pit::Pit;
use crate::rtc::Rtc;
use crate::{Effect, layout::PIT_GSI};

/// Keyboard controller status and command port.
const I8042_PORT: u16 = 0x64;
/// Keyboard controller command: pulse the reset line.
const I8042_PULSE_RESET: u8 = 0xfe;
/// Keyboard controller commands F0h to FFh pulse lines; a clear bit 0 pulses the reset line.
const I8042_PULSE_MASK: u8 = 0xf1;
const COM1_LAST: u16 = COM1_PORT + 7;
const TSC: u16 = TSC_PORT as u16;

impl Machine {
    /// Whether an access to `port` needs a fresh [`Input::Clock`](crate::Input::Clock) first.
    pub fn pio_needs_clock(&self, port: u16, write: bool) -> bool {
        match port {
            0x40..=0x42 | 0x61 => true,
            0x43 => write,
            0x70 | 0x71 => self.rtc.needs_clock(port, write),
            TSC => !write,
            _ => AcpiPm::is_timer(port) && !write,
        }
    }

    /// IN from `port`: fills `data` (1, 2 or 4 bytes). A 4-byte IN from the TSC port gives the low
    /// half of [`Machine::tsc`].
    pub fn pio_read(&mut self, port: u16, data: &mut [u8]) {
        if port == TSC && data.len() == 4 {
            data.copy_from_slice(&(self.tsc() as u32).to_le_bytes());
        } else if AcpiPm::owns_port(port) {
            self.acpi_pm.read(port, data, self.now);
        } else {
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = self.read_port(port.wrapping_add(i as u16));
            }
        }
    }

    fn read_port(&mut self, port: u16) -> u8 {
        match port {
            COM1_PORT..=COM1_LAST => {
                let value = self.uart.read(port - COM1_PORT, &mut self.effects);
                self.update_uart();
                value
            }
            // No keyboard controller (the FADT says so). Its input buffer reads as empty, because
            // rebooting code waits for that before it pulses the reset line.
            I8042_PORT => 0,
            _ if Pic::owns_port(port) => {
                let value = self.interrupts.pic.read(port);
                self.interrupts.settle();
                value
            }
            _ if Pit::owns_port(port) => self.pit.read(port, self.now),
            _ if Rtc::owns_port(port) => {
                let value = self.rtc.read(port, self.now);
                self.update_rtc();
                value
            }
            _ => 0xff,
        }
    }

    /// OUT to `port` of `data` (1, 2 or 4 bytes).
    pub fn pio_write(&mut self, port: u16, data: &[u8]) {
        if AcpiPm::owns_port(port) {
            let before = self.effects.len();
            self.acpi_pm.write(port, data, &mut self.effects);
            if self.effects.len() != before {
                // The end of the machine: what waits in the UART is shown before it.
                let end = self.effects.split_off(before);
                self.uart.flush(&mut self.effects);
                self.effects.extend(end);
            }
            self.update_sci();
        } else {
            for (i, byte) in data.iter().enumerate() {
                self.write_port(port.wrapping_add(i as u16), *byte);
            }
        }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        match port {
            COM1_PORT..=COM1_LAST => {
                self.uart
                    .write(port - COM1_PORT, value, self.now, &mut self.effects);
                self.update_uart();
            }
            I8042_PORT if value & I8042_PULSE_MASK == I8042_PULSE_RESET & I8042_PULSE_MASK => {
                self.end(Effect::Reset);
            }
            _ if Pic::owns_port(port) => {
                self.interrupts.pic.write(port, value);
                self.interrupts.settle();
            }
            _ if Pit::owns_port(port) => {
                self.pit.write(port, value, self.now);
                self.interrupts.set_gsi(PIT_GSI, self.pit.irq(self.now));
            }
            _ if Rtc::owns_port(port) => {
                self.rtc.write(port, value, self.now);
                self.update_rtc();
            }
            _ => {}
        }
    }
}
