//! The clock's three interrupts. Flags in register C are set as time passes, whether or not
//! register B lets them interrupt.

use super::{NS_PER_SECOND, Rtc, calendar::Moment};
use crate::VirtualNs;
use crate::time::{ns_of_tick, ticks};

/// Register B's and C's bit of the periodic interrupt.
const PERIODIC: u8 = 0x40;
/// Of the alarm.
const ALARM: u8 = 0x20;
/// Of the end of an update.
pub(super) const UPDATE: u8 = 0x10;
/// All three.
pub(super) const ALL: u8 = PERIODIC | ALARM | UPDATE;

/// The time base in Hz.
const BASE_HZ: u64 = 32_768;

/// A time longer than this in one step surely passed any alarm.
const ALARM_STEPS_MAX: u64 = 86_400;

impl Rtc {
    /// Level of IRQ 8.
    pub fn irq(&self) -> bool {
        self.flags & self.b & ALL != 0
    }

    /// Register C: reading it clears it.
    pub(super) fn take_flags(&mut self) -> u8 {
        let value = self.flags | u8::from(self.irq()) << 7;
        self.flags = 0;
        value
    }

    /// Period of the periodic interrupt in ticks of the time base; none when switched off.
    fn period_ticks(&self) -> Option<u64> {
        match self.a & 0xf {
            0 => None,
            // The two lowest rates are aliases of 8 and 9 (data sheet, table 5).
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// Moves from `from` to `now`, setting the flags of what happened on the way.
    pub fn advance(&mut self, from: VirtualNs, now: VirtualNs) {
        if let Some(period) = self.period_ticks() {
            let periods = |at: VirtualNs| ticks(at.saturating_sub(self.base_at), BASE_HZ) / period;
            if periods(from) != periods(now) {
                self.flags |= PERIODIC;
            }
        }
        let updates = self.elapsed(now).0 - self.elapsed(from).0;
        if self.held.is_none() && updates > 0 {
            self.flags |= UPDATE;
            let last = self.unix_seconds(now);
            let steps = updates.min(ALARM_STEPS_MAX) as i64;
            if self.flags & ALARM == 0 && (0..steps).any(|back| self.alarm_matches(last - back)) {
                self.flags |= ALARM;
            }
        }
    }

    fn alarm_matches(&self, unix_seconds: i64) -> bool {
        let moment = Moment::from_unix(unix_seconds);
        let fields = [moment.second, moment.minute, moment.hour];
        self.alarm
            .iter()
            .zip(fields)
            .enumerate()
            .all(|(i, (alarm, field))| {
                let shown = if i == 2 {
                    self.encode_hour(field)
                } else {
                    self.encode(field)
                };
                // The two top bits set mean any value.
                alarm & 0xc0 == 0xc0 || *alarm == shown
            })
    }

    /// When an interrupt that register B allows may next come. An alarm is looked for at each
    /// second.
    pub fn next_deadline(&self, now: VirtualNs) -> Option<VirtualNs> {
        let wanted = self.b & !self.flags;
        let since = now.saturating_sub(self.base_at);
        let periodic = self
            .period_ticks()
            .filter(|_| wanted & PERIODIC != 0)
            .and_then(|period| {
                let next = (ticks(since, BASE_HZ) / period + 1).checked_mul(period)?;
                self.base_at.checked_add(ns_of_tick(next, BASE_HZ)?)
            });
        let update = (self.held.is_none() && wanted & (UPDATE | ALARM) != 0)
            .then(|| now.checked_add(NS_PER_SECOND - self.elapsed(now).1))
            .flatten();
        [periodic, update].into_iter().flatten().min()
    }
}
