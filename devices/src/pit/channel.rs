//! One counter of an 8254 (Intel data sheet 231164). Its output and count are functions of the
//! ticks since it was loaded, so nothing runs between accesses.

use serde::{Deserialize, Serialize};

use super::PIT_HZ;
use crate::VirtualNs;
use crate::time::{ns_of_tick, ticks};

/// Which bytes of the count an access moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Bytes {
    Low,
    High,
    LowThenHigh,
}

/// What the counting element does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Waits for a count or, in modes 1 and 5, for a trigger.
    Idle,
    /// `ticks` had passed at `since`, and time goes on.
    Counting { since: VirtualNs, ticks: u64 },
    /// The gate is low; `ticks` had passed.
    Stopped { ticks: u64 },
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Channel {
    /// 0 to 5.
    mode: u8,
    /// Counts four decimal digits.
    bcd: bool,
    bytes: Bytes,
    /// The programmed count, 1 to 65536 (10000 in decimal).
    count: u32,
    phase: Phase,
    gate: bool,
    /// The low byte of a count whose high byte is still to be written.
    low_written: Option<u8>,
    /// The next read of a two-byte count gives the high byte.
    high_next: bool,
    /// Count that a latch command held for the next reads.
    latched_count: Option<u16>,
    /// Status byte that a read-back command held for the next read.
    latched_status: Option<u8>,
    /// No count was written since the control word ("null count" of the status).
    null_count: bool,
}

impl Channel {
    pub(super) fn new(gate: bool) -> Self {
        Channel {
            mode: 0,
            bcd: false,
            bytes: Bytes::LowThenHigh,
            count: 0x1_0000,
            phase: Phase::Idle,
            gate,
            low_written: None,
            high_next: false,
            latched_count: None,
            latched_status: None,
            null_count: true,
        }
    }

    /// A counter as firmware leaves one that nobody uses: a full count was loaded, and it neither
    /// counts nor interrupts.
    pub(super) fn loaded() -> Self {
        Channel {
            null_count: false,
            ..Channel::new(true)
        }
    }

    /// A control word for this counter: a mode, or a counter latch command.
    pub(super) fn control(&mut self, value: u8, now: VirtualNs) {
        self.bytes = match (value >> 4) & 3 {
            0 => return self.latch_count(now),
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::LowThenHigh,
        };
        // 6 and 7 are other names of modes 2 and 3.
        self.mode = match (value >> 1) & 7 {
            mode @ 6.. => mode - 4,
            mode => mode,
        };
        self.bcd = value & 1 != 0;
        self.phase = Phase::Idle;
        self.low_written = None;
        self.high_next = false;
        self.latched_count = None;
        self.latched_status = None;
        self.null_count = true;
    }

    /// The counter latch command: holds the count until it is read.
    pub(super) fn latch_count(&mut self, now: VirtualNs) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.current(now));
        }
    }

    /// The status half of a read-back command.
    pub(super) fn latch_status(&mut self, now: VirtualNs) {
        if self.latched_status.is_none() {
            let bytes = match self.bytes {
                Bytes::Low => 1,
                Bytes::High => 2,
                Bytes::LowThenHigh => 3,
            };
            self.latched_status = Some(
                u8::from(self.output(now)) << 7
                    | u8::from(self.null_count) << 6
                    | bytes << 4
                    | self.mode << 1
                    | u8::from(self.bcd),
            );
        }
    }

    /// Reads the data port.
    pub(super) fn read(&mut self, now: VirtualNs) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched_count
            .unwrap_or_else(|| self.current(now))
            .to_le_bytes();
        let (value, last) = match self.bytes {
            Bytes::Low => (low, true),
            Bytes::High => (high, true),
            Bytes::LowThenHigh if self.high_next => (high, true),
            Bytes::LowThenHigh => (low, false),
        };
        self.high_next = !last;
        if last {
            self.latched_count = None;
        }
        value
    }

    /// Writes the data port. A complete count is loaded at once, also in modes 2 and 3, where the
    /// chip would first end its running period.
    pub(super) fn write(&mut self, value: u8, now: VirtualNs) {
        let count = match (self.bytes, self.low_written.take()) {
            (Bytes::Low, _) => u16::from(value),
            (Bytes::High, _) => u16::from(value) << 8,
            (Bytes::LowThenHigh, Some(low)) => u16::from_le_bytes([low, value]),
            (Bytes::LowThenHigh, None) => {
                self.low_written = Some(value);
                return;
            }
        };
        self.count = match (count, self.bcd) {
            (0, false) => 0x1_0000,
            (0, true) => 10_000,
            (count, false) => u32::from(count),
            // Digits above 9 are no decimal numbers; they are clamped so that none reads as 0.
            (count, true) => from_bcd(count).max(1),
        };
        self.null_count = false;
        match (self.mode, self.gate) {
            // Modes 1 and 5 wait for the gate's rising edge; a running one-shot goes on.
            (1 | 5, _) => {}
            (_, true) => {
                self.phase = Phase::Counting {
                    since: now,
                    ticks: 0,
                }
            }
            (_, false) => self.phase = Phase::Stopped { ticks: 0 },
        }
    }

    /// Drives the gate input.
    pub(super) fn set_gate(&mut self, gate: bool, now: VirtualNs) {
        let rising = gate && !self.gate;
        let falling = !gate && self.gate;
        self.gate = gate;
        if rising && !self.null_count && matches!(self.mode, 1 | 2 | 3 | 5) {
            self.phase = Phase::Counting {
                since: now,
                ticks: 0,
            };
        } else if let (true, Phase::Stopped { ticks }) = (rising, self.phase) {
            self.phase = Phase::Counting { since: now, ticks };
        } else if falling && matches!(self.mode, 0 | 2 | 3 | 4) && self.phase != Phase::Idle {
            self.phase = Phase::Stopped {
                ticks: self.ticks(now),
            };
        }
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    /// Ticks since the count was loaded.
    fn ticks(&self, now: VirtualNs) -> u64 {
        match self.phase {
            Phase::Idle => 0,
            Phase::Counting {
                since,
                ticks: before,
            } => before.saturating_add(ticks(now.saturating_sub(since), PIT_HZ)),
            Phase::Stopped { ticks } => ticks,
        }
    }

    /// The OUT pin.
    pub(super) fn output(&self, now: VirtualNs) -> bool {
        let (ticks, count) = (self.ticks(now), u64::from(self.count));
        let stopped = matches!(self.phase, Phase::Stopped { .. });
        match (self.mode, self.phase) {
            (mode, Phase::Idle) => mode != 0,
            (0 | 1, _) => ticks >= count,
            (2 | 3, _) if stopped => true,
            (2, _) => ticks % count != count - 1,
            (3, _) => ticks % count < count.div_ceil(2),
            _ => ticks != count,
        }
    }

    /// The counting element as the data port shows it.
    fn current(&self, now: VirtualNs) -> u16 {
        let (ticks, count) = (self.ticks(now), u64::from(self.count));
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let left = match self.mode {
            2 => count - ticks % count,
            3 => count - (ticks % count) * 2 % count,
            _ => modulus + count - ticks % modulus,
        } % modulus;
        if self.bcd {
            to_bcd(left as u16)
        } else {
            left as u16
        }
    }

    /// Index in ticks of the first rising edge of OUT after tick `after`, if one comes.
    fn rising_edge_after(&self, after: u64) -> Option<u64> {
        let count = u64::from(self.count);
        let once = |edge: u64| (edge > after).then_some(edge);
        match self.mode {
            0 | 1 => once(count),
            2 | 3 => after.checked_add(count - after % count),
            _ => once(count + 1),
        }
    }

    /// Whether OUT rose after `from` and not later than `to`.
    pub(super) fn rose(&self, from: VirtualNs, to: VirtualNs) -> bool {
        matches!(self.phase, Phase::Counting { .. })
            && self
                .rising_edge_after(self.ticks(from))
                .is_some_and(|edge| edge <= self.ticks(to))
    }

    /// When OUT will next rise, as seen from `now`; `period_ns_min` limits how often.
    pub(super) fn next_rise(&self, now: VirtualNs, period_ns_min: u64) -> Option<VirtualNs> {
        let Phase::Counting {
            since,
            ticks: before,
        } = self.phase
        else {
            return None;
        };
        let edge = self.rising_edge_after(self.ticks(now))?;
        let at = since.checked_add(ns_of_tick(edge - before, PIT_HZ)?)?;
        let repeats_fast = matches!(self.mode, 2 | 3)
            && ns_of_tick(u64::from(self.count), PIT_HZ)? < period_ns_min;
        Some(if repeats_fast {
            at.max(now.saturating_add(period_ns_min))
        } else {
            at
        })
    }

    /// The name of a field that holds an impossible value; `now` is the machine's time.
    pub(super) fn impossible_field(&self, now: VirtualNs) -> Option<&'static str> {
        let Channel {
            mode,
            bcd,
            bytes,
            count,
            phase,
            gate,
            low_written,
            high_next,
            latched_count: _,
            latched_status: _,
            null_count,
        } = self;
        let most = if *bcd { 10_000 } else { 0x1_0000 };
        let phase_ok = match *phase {
            // Loaded and idle in mode 0 is how a counter starts ([`Channel::loaded`]).
            Phase::Idle => *null_count || matches!(mode, 1 | 5) || *mode == 0 && *gate,
            // A gate that fell stops all modes but 1 and 5.
            Phase::Counting { since, .. } => since <= now && (*gate || matches!(mode, 1 | 5)),
            Phase::Stopped { .. } => !gate && !matches!(mode, 1 | 5),
        };
        let two_bytes = *bytes == Bytes::LowThenHigh;
        [
            (*mode <= 5, "mode"),
            (
                (1..=most).contains(count) || *null_count && *count <= 0x1_0000 && *count != 0,
                "count",
            ),
            (phase_ok, "phase"),
            (two_bytes || low_written.is_none(), "low_written"),
            (two_bytes || !high_next, "high_next"),
        ]
        .into_iter()
        .find_map(|(valid, field)| (!valid).then_some(field))
    }
}

fn from_bcd(value: u16) -> u32 {
    (0..4).rev().fold(0, |sum, digit| {
        sum * 10 + u32::from((value >> (4 * digit)) & 0xf).min(9)
    })
}

fn to_bcd(value: u16) -> u16 {
    [1000, 100, 10, 1]
        .into_iter()
        .fold(0, |bcd, unit| (bcd << 4) | (value / unit % 10))
}
