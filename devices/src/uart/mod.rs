//! The 16550A at COM1 (National PC16550D data sheet).
//!
//! Its transmitter takes no time, so a driver may always write 16 bytes for each look at the line
//! status. What is written leaves the guest in one piece when the FIFO is full, when the guest
//! looks at the chip again, or a moment later ([`TRANSMIT_DELAY_NS`]), so that a line of text is a
//! few outputs and not one for each character.
//!
//! vm-superio's model is not used: it has no FIFO control, raises no interrupt when the
//! transmitter's is enabled, and writes each byte through at once.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{Console, Effect, RestoreError, VirtualNs};

/// How long written bytes may wait for more: the time of 11 characters at 115200 baud.
pub const TRANSMIT_DELAY_NS: u64 = 1_000_000;
/// Bytes of input that may wait for the guest; what comes beyond is dropped.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Depth of both FIFOs.
const FIFO_BYTES: usize = 16;

// Registers by offset.
const DATA: u16 = 0;
const IER: u16 = 1;
const IIR_FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCRATCH: u16 = 7;

const IER_RECEIVE: u8 = 0x01;
const IER_TRANSMIT: u8 = 0x02;
const IIR_NONE: u8 = 0x01;
const IIR_TRANSMIT: u8 = 0x02;
const IIR_RECEIVE: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFOS: u8 = 0xc0;
const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RECEIVE: u8 = 0x02;
const FCR_CLEAR_TRANSMIT: u8 = 0x04;
const FCR_TRIGGER: u8 = 0xc0;
const LCR_DIVISOR: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;
const LSR_DATA: u8 = 0x01;
const LSR_EMPTY: u8 = 0x60;
/// Carrier, data set ready, clear to send: a cable is plugged in.
const MSR_CONNECTED: u8 = 0xb0;

/// The chip. Its state is all it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uart {
    ier: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    divisor: u16,
    /// FIFO control: enable and trigger level.
    fcr: u8,
    /// The "transmitter empty" interrupt waits to be seen.
    transmit_empty: bool,
    /// Input not read yet; the chip's FIFO is its head.
    received: VecDeque<u8>,
    /// Output not let go yet.
    transmitted: Vec<u8>,
    /// When `transmitted` goes at the latest; set while it isn't empty.
    transmit_at: Option<VirtualNs>,
}

impl Default for Uart {
    fn default() -> Self {
        Uart {
            ier: 0,
            lcr: 0x03,
            mcr: 0,
            scratch: 0,
            // 9600 baud.
            divisor: 12,
            fcr: 0,
            transmit_empty: false,
            received: VecDeque::new(),
            transmitted: Vec::new(),
            transmit_at: None,
        }
    }
}

impl Uart {
    /// Reads the register at `offset` (0 to 7).
    pub fn read(&mut self, offset: u16, effects: &mut Vec<Effect>) -> u8 {
        let divisor_shown = self.lcr & LCR_DIVISOR != 0;
        match offset {
            DATA if divisor_shown => self.divisor as u8,
            IER if divisor_shown => (self.divisor >> 8) as u8,
            DATA => self.received.pop_front().unwrap_or(0),
            IER => self.ier,
            IIR_FCR => {
                self.flush(effects);
                let cause = self.cause();
                if cause == IIR_TRANSMIT {
                    self.transmit_empty = false;
                }
                cause
                    | if self.fcr & FCR_ENABLE != 0 {
                        IIR_FIFOS
                    } else {
                        0
                    }
            }
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => {
                self.flush(effects);
                LSR_EMPTY
                    | if self.received.is_empty() {
                        0
                    } else {
                        LSR_DATA
                    }
            }
            MSR => self.modem_status(),
            _ => self.scratch,
        }
    }

    /// Writes the register at `offset` (0 to 7).
    pub fn write(&mut self, offset: u16, value: u8, now: VirtualNs, effects: &mut Vec<Effect>) {
        let divisor_shown = self.lcr & LCR_DIVISOR != 0;
        match offset {
            DATA if divisor_shown => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            IER if divisor_shown => {
                self.divisor = (self.divisor & 0x00ff) | u16::from(value) << 8;
            }
            DATA => self.transmit(value, now, effects),
            IER => {
                let enabled = value & !self.ier & IER_TRANSMIT != 0;
                self.ier = value & 0x0f;
                // Enabling the interrupt while the transmitter is empty raises it.
                self.transmit_empty |= enabled;
            }
            IIR_FCR => self.write_fcr(value),
            LCR => self.lcr = value,
            MCR => self.mcr = value & 0x1f,
            SCRATCH => self.scratch = value,
            // Line and modem status can't be written.
            _ => {}
        }
    }

    fn transmit(&mut self, byte: u8, now: VirtualNs, effects: &mut Vec<Effect>) {
        self.transmit_empty = true;
        if self.mcr & MCR_LOOP != 0 {
            self.receive(&[byte]);
            return;
        }
        self.transmitted.push(byte);
        if self.transmitted.len() >= FIFO_BYTES {
            self.flush(effects);
        } else if self.transmit_at.is_none() {
            self.transmit_at = Some(now.saturating_add(TRANSMIT_DELAY_NS));
        }
    }

    fn write_fcr(&mut self, value: u8) {
        let switched = (value ^ self.fcr) & FCR_ENABLE != 0;
        if switched || value & FCR_CLEAR_RECEIVE != 0 {
            // What is beyond the FIFO hasn't reached the chip yet.
            self.received.drain(..self.received.len().min(FIFO_BYTES));
        }
        if value & FCR_CLEAR_TRANSMIT != 0 {
            // The FIFO is always empty: what was written has left the chip already.
            self.transmit_empty = true;
        }
        self.fcr = if value & FCR_ENABLE != 0 {
            value & (FCR_ENABLE | FCR_TRIGGER)
        } else {
            0
        };
    }

    /// The most urgent interrupt, as IIR shows it.
    fn cause(&self) -> u8 {
        if self.ier & IER_RECEIVE != 0 && !self.received.is_empty() {
            let trigger = match (self.fcr & FCR_ENABLE, self.fcr >> 6) {
                (0, _) | (_, 0) => 1,
                (_, 1) => 4,
                (_, 2) => 8,
                _ => 14,
            };
            // Below the trigger level no more bytes are on their way: the timeout is immediate.
            return if self.received.len() >= trigger {
                IIR_RECEIVE
            } else {
                IIR_TIMEOUT
            };
        }
        if self.ier & IER_TRANSMIT != 0 && self.transmit_empty {
            return IIR_TRANSMIT;
        }
        IIR_NONE
    }

    fn modem_status(&self) -> u8 {
        if self.mcr & MCR_LOOP == 0 {
            return MSR_CONNECTED;
        }
        // DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD.
        (self.mcr & 0x02) << 3 | (self.mcr & 0x01) << 5 | (self.mcr & 0x0c) << 4
    }

    /// Level of the interrupt line. OUT2, which gates it on a PC, is not asked for.
    pub fn irq(&self) -> bool {
        self.cause() != IIR_NONE
    }

    /// Bytes arrive. Those that don't fit ([`Uart::input_room`]) are dropped.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.received
            .extend(&bytes[..bytes.len().min(self.input_room())]);
    }

    /// How many bytes of input would be taken.
    pub fn input_room(&self) -> usize {
        INPUT_BYTES_MAX - self.received.len()
    }

    /// Lets the written bytes go.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.transmit_at = None;
        if self.transmitted.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.transmitted);
        effects.push(Effect::ConsoleOut {
            console: Console::Serial,
            bytes,
        });
    }

    /// Moves to `now`: lets bytes go that waited long enough.
    pub fn advance(&mut self, now: VirtualNs, effects: &mut Vec<Effect>) {
        if self.transmit_at.is_some_and(|at| at <= now) {
            self.flush(effects);
        }
    }

    /// When written bytes go at the latest.
    pub fn next_deadline(&self) -> Option<VirtualNs> {
        self.transmit_at
    }

    /// Checks a state that came from outside; `now` is the machine's time in it.
    pub fn validate(&self, now: VirtualNs) -> Result<(), RestoreError> {
        let Uart {
            ier,
            lcr: _,
            mcr,
            scratch: _,
            divisor: _,
            fcr,
            transmit_empty: _,
            received,
            transmitted,
            transmit_at,
        } = self;
        let check = |valid, field| RestoreError::check(valid, "uart", field);
        check(ier & !0x0f == 0, "ier")?;
        check(mcr & !0x1f == 0, "mcr")?;
        check(*fcr == 0 || fcr & !FCR_TRIGGER == FCR_ENABLE, "fcr")?;
        check(received.len() <= INPUT_BYTES_MAX, "received")?;
        check(transmitted.len() < FIFO_BYTES, "transmitted")?;
        check(
            transmit_at.is_some() != transmitted.is_empty(),
            "transmit_at",
        )?;
        let soon = transmit_at.is_none_or(|at| at >= now && at - now <= TRANSMIT_DELAY_NS);
        check(soon, "transmit_at")
    }
}

#[cfg(test)]
mod tests;
