//! The MC146818 real-time clock and its battery-backed memory (ports 70h and 71h).
//!
//! The time is the boot wall clock, which both hosts are configured with, plus virtual time; the
//! guest can set it. Alarm, periodic and update-ended interrupts (IRQ 8) work.

mod calendar;
mod interrupts;

use calendar::{Moment, SECONDS_END, SECONDS_FIRST};
use serde::{Deserialize, Serialize};

use crate::{RestoreError, VirtualNs};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// The update-in-progress flag is up this long before each update (MC146818 data sheet).
const UPDATE_AHEAD_NS: u64 = 244_000;

// Register numbers.
const SECONDS_ALARM: u8 = 0x01;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;
const D: u8 = 0x0d;
/// The century, where PC firmware and the FADT have it.
const CENTURY: u8 = 0x32;

// Bits of register B.
const B_SET: u8 = 0x80;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;

// Register A as firmware sets it: 32.768 kHz time base, 1.024 kHz rate.
const A_DEFAULT: u8 = 0x26;

/// Bytes of the memory behind the index port.
const BYTES: usize = 128;

/// The chip. Its state is all it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rtc {
    /// Register the data port shows, 0 to 127.
    index: u8,
    /// Unix seconds of the last second boundary that was set.
    base_seconds: i64,
    /// When that boundary was.
    base_at: VirtualNs,
    /// The time registers while the guest holds updates back (register B's SET).
    held: Option<Moment>,
    a: u8,
    b: u8,
    /// Flags of register C, without bit 7.
    flags: u8,
    /// Seconds, minutes and hours alarm, as written.
    alarm: [u8; 3],
    /// The other bytes, by register number; those with a meaning above stay 0.
    memory: Vec<u8>,
}

impl Rtc {
    /// A clock that shows `boot_unix_seconds` at power-on (clamped to the years up to 9999).
    pub fn new(boot_unix_seconds: u64) -> Self {
        Rtc {
            index: 0,
            base_seconds: i64::try_from(boot_unix_seconds)
                .unwrap_or(i64::MAX)
                .min(SECONDS_END - 1),
            base_at: 0,
            held: None,
            a: A_DEFAULT,
            b: B_24_HOURS,
            flags: 0,
            alarm: [0; 3],
            memory: vec![0; BYTES],
        }
    }

    /// Whether the chip decodes `port`.
    pub fn owns_port(port: u16) -> bool {
        matches!(port, 0x70 | 0x71)
    }

    /// Whether an access to `port` must be given a fresh `now`: all that shows or sets the time.
    pub fn needs_clock(&self, port: u16, write: bool) -> bool {
        let timed =
            is_time(self.index) || matches!(self.index, A | C) || (write && self.index == B);
        port == 0x71 && timed
    }

    /// Reads one byte of `port`, which is one that [`Rtc::owns_port`].
    pub fn read(&mut self, port: u16, now: VirtualNs) -> u8 {
        if port == 0x70 {
            return 0xff;
        }
        match self.index {
            SECONDS_ALARM | 0x03 | HOURS_ALARM => self.alarm[usize::from(self.index / 2)],
            index if is_time(index) => self.read_time(index, now),
            A => self.a | u8::from(self.update_is_near(now)) << 7,
            B => self.b,
            C => self.take_flags(),
            // Valid RAM and time.
            D => 0x80,
            index => self.memory[usize::from(index)],
        }
    }

    /// Writes one byte to `port`, which is one that [`Rtc::owns_port`].
    pub fn write(&mut self, port: u16, value: u8, now: VirtualNs) {
        if port == 0x70 {
            // Bit 7 masks NMI, of which there are none.
            self.index = value & 0x7f;
            return;
        }
        match self.index {
            SECONDS_ALARM | 0x03 | HOURS_ALARM => self.alarm[usize::from(self.index / 2)] = value,
            index if is_time(index) => self.write_time(index, value, now),
            A => self.a = value & 0x7f,
            B => self.write_b(value, now),
            C | D => {}
            index => self.memory[usize::from(index)] = value,
        }
    }

    /// Seconds since `base_at` began, and nanoseconds into the current one.
    fn elapsed(&self, now: VirtualNs) -> (u64, u64) {
        let ns = now.saturating_sub(self.base_at);
        (ns / NS_PER_SECOND, ns % NS_PER_SECOND)
    }

    fn unix_seconds(&self, now: VirtualNs) -> i64 {
        self.base_seconds
            .saturating_add_unsigned(self.elapsed(now).0)
    }

    fn moment(&self, now: VirtualNs) -> Moment {
        self.held
            .unwrap_or_else(|| Moment::from_unix(self.unix_seconds(now)))
    }

    fn update_is_near(&self, now: VirtualNs) -> bool {
        self.held.is_none() && self.elapsed(now).1 >= NS_PER_SECOND - UPDATE_AHEAD_NS
    }

    fn read_time(&self, index: u8, now: VirtualNs) -> u8 {
        let mut moment = self.moment(now);
        let value = *time_field(&mut moment, index);
        if index == HOURS {
            self.encode_hour(value)
        } else {
            self.encode(value)
        }
    }

    fn write_time(&mut self, index: u8, value: u8, now: VirtualNs) {
        let mut moment = self.moment(now);
        *time_field(&mut moment, index) = if index == HOURS {
            self.decode_hour(value)
        } else {
            self.decode(value)
        };
        if self.held.is_some() {
            self.held = Some(moment);
        } else {
            // Without SET the seconds go on in phase.
            let (seconds, _) = self.elapsed(now);
            self.base_at += seconds * NS_PER_SECOND;
            self.base_seconds = moment.to_unix();
        }
    }

    fn write_b(&mut self, value: u8, now: VirtualNs) {
        if value & B_SET != 0 && self.held.is_none() {
            self.held = Some(self.moment(now));
        } else if let (0, Some(held)) = (value & B_SET, self.held) {
            self.base_seconds = held.to_unix();
            self.base_at = now;
            self.held = None;
        }
        // SET clears UIE (data sheet, register B).
        self.b = if value & B_SET != 0 {
            value & !interrupts::UPDATE
        } else {
            value
        };
    }

    fn encode(&self, value: u8) -> u8 {
        if self.b & B_BINARY != 0 {
            value
        } else {
            ((value / 10 % 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.b & B_BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = match hour % 12 {
            0 => 12,
            other => other,
        };
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        self.decode(value & 0x7f) % 12 + if value & 0x80 != 0 { 12 } else { 0 }
    }

    /// Checks a state that came from outside; `now` is the machine's time in it.
    pub fn validate(&self, now: VirtualNs) -> Result<(), RestoreError> {
        let Rtc {
            index,
            base_seconds,
            base_at,
            held,
            a,
            b,
            flags,
            alarm: _,
            memory,
        } = self;
        let check = |valid, field| RestoreError::check(valid, "rtc", field);
        check(*index < 0x80, "index")?;
        check(
            (SECONDS_FIRST..SECONDS_END).contains(base_seconds),
            "base_seconds",
        )?;
        check(*base_at <= now, "base_at")?;
        check(held.is_some() == (b & B_SET != 0), "held")?;
        check(a & 0x80 == 0, "a")?;
        check(flags & !interrupts::ALL == 0, "flags")?;
        check(memory.len() == BYTES, "memory")
    }
}

/// Whether register `index` is one of the time and date.
fn is_time(index: u8) -> bool {
    matches!(index, 0x00 | 0x02 | HOURS | 0x06..=0x09 | CENTURY)
}

/// The field behind a register for which [`is_time`] holds.
fn time_field(moment: &mut Moment, index: u8) -> &mut u8 {
    match index {
        0x00 => &mut moment.second,
        0x02 => &mut moment.minute,
        HOURS => &mut moment.hour,
        0x06 => &mut moment.weekday,
        0x07 => &mut moment.day,
        0x08 => &mut moment.month,
        0x09 => &mut moment.year,
        _ => &mut moment.century,
    }
}

#[cfg(test)]
mod tests;
