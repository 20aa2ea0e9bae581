//! The local APIC's timer: one-shot and periodic, counting down in virtual time.

use serde::{Deserialize, Serialize};

use crate::layout::LAPIC_TIMER_HZ;
use crate::{RestoreError, VirtualNs};

/// A periodic timer with a shorter period than this is reported no more often: a guest that asks
/// for an interrupt each nanosecond would otherwise never execute an instruction of its own.
pub const PERIOD_NS_MIN: u64 = 100_000;

// Deadlines are exact only because one undivided tick is one nanosecond.
const _: () = assert!(LAPIC_TIMER_HZ == 1_000_000_000);

/// Initial count, divider and the moment of the next expiry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timer {
    /// Initial count register; 0 stops the timer.
    initial: u32,
    /// Divide configuration register, bits 0, 1 and 3.
    divide: u32,
    /// When the count reaches 0; none when it stands still.
    deadline: Option<VirtualNs>,
}

impl Timer {
    pub(super) fn new() -> Self {
        Timer {
            initial: 0,
            divide: 0,
            deadline: None,
        }
    }

    /// Nanoseconds of one count (SDM vol. 3, figure 11-10).
    fn tick_ns(&self) -> u64 {
        let code = (self.divide & 3) | ((self.divide >> 1) & 4);
        1 << ((code + 1) & 7)
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// Current count register. 0 once a one-shot is over.
    pub(super) fn current(&self, now: VirtualNs) -> u32 {
        let left_ns = self
            .deadline
            .map_or(0, |deadline| deadline.saturating_sub(now));
        u32::try_from(left_ns.div_ceil(self.tick_ns()))
            .unwrap_or(u32::MAX)
            .min(self.initial)
    }

    /// Writes the initial count: the timer starts anew, or stops.
    pub(super) fn start(&mut self, initial: u32, now: VirtualNs) {
        self.initial = initial;
        self.deadline = match initial {
            0 => None,
            _ => now.checked_add(self.period_ns()),
        };
    }

    /// Writes the divider; a running count goes on from where it is at the new rate.
    pub(super) fn set_divide(&mut self, divide: u32, now: VirtualNs) {
        let left = self.deadline.map(|_| u64::from(self.current(now)));
        self.divide = divide;
        self.deadline = left.and_then(|left| now.checked_add(left * self.tick_ns()));
    }

    fn period_ns(&self) -> u64 {
        u64::from(self.initial) * self.tick_ns()
    }

    /// Moves to `now`; says whether the count reached 0 on the way. Several periods at once count
    /// as one, as they would in the request register.
    pub(super) fn advance(&mut self, now: VirtualNs, periodic: bool) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else {
            return false;
        };
        self.deadline = if periodic && self.initial != 0 {
            let period = self.period_ns();
            now.checked_add(period - (now - deadline) % period)
        } else {
            None
        };
        true
    }

    /// When to come back, as seen from `now`.
    pub(super) fn next_deadline(&self, now: VirtualNs, periodic: bool) -> Option<VirtualNs> {
        let deadline = self.deadline?;
        if periodic && self.period_ns() < PERIOD_NS_MIN {
            return Some(deadline.max(now.saturating_add(PERIOD_NS_MIN)));
        }
        Some(deadline)
    }

    pub(super) fn validate(&self, now: VirtualNs) -> Result<(), RestoreError> {
        let Timer {
            initial,
            divide,
            deadline,
        } = self;
        RestoreError::check(divide & !0xb == 0, "lapic", "divide")?;
        let within = deadline.is_none_or(|deadline| {
            *initial != 0 && deadline > now && deadline - now <= self.period_ns()
        });
        RestoreError::check(within, "lapic", "deadline")
    }
}
