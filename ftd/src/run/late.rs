//! When a running guest is stopped for what waits to land: at once where the clock (`pmu`, `step`) names the
//! point, and by the lateness rules of the `exit` clock elsewhere.

use super::RunError;
use super::live::{Live, Sink};
use crate::host::clock::{monotonic_ns, thread_cpu_ns};
use std::time::Duration;
use vmm::clock::Clock;

/// How long the guest runs on from a point that can't be a position, to the next that is tried.
const LAND_AGAIN: Duration = Duration::from_micros(20);
/// How many such points are tried before the guest is stopped behind a snapshot. With the `step` clock, a handler
/// that neither returns nor exits can be a single step without end (if it is not one whose entry ends the step): 14
/// tries give it 40 milliseconds. With `pmu`, a repeated instruction ends by itself, and a snapshot may be all of
/// RAM: 200 tries give it a second.
const TRIES_STEP: u32 = 14;
const TRIES_COUNTED: u32 = 200;

/// Something is late, and the guest was seen running towards its next exit.
#[derive(Debug, Clone, Copy)]
pub struct Stuck {
    /// The exit behind which it runs.
    exits: u64,
    /// The vCPU thread's CPU time when it was seen, in nanoseconds.
    cpu_ns: u64,
}

impl<S: Sink> Live<S> {
    /// The guest was stopped where it was. Answers whether inputs may land here.
    pub(super) fn kicked(&mut self) -> Result<bool, RunError> {
        if self.recorder.is_none() {
            return Ok(true);
        }
        if self.guest.clock().counts() {
            return self.land_for_what_waits();
        }
        let patience = self.patience_ns();
        let input_late = self
            .inbox
            .waiting_since_ns()
            .is_some_and(|since| monotonic_ns().saturating_sub(since) >= patience);
        let timer_late = self.timer_overdue_ns().is_some_and(|by| by >= patience);
        let interrupt_late = self.interrupt_late(patience);
        let late = input_late || timer_late || interrupt_late;
        if late && self.runs_without_exit(patience) {
            self.forced_snapshot()?;
            return Ok(true);
        }
        if self.inbox.any() && !input_late {
            while let Some(order) = self.inbox.take_order() {
                self.carry_out_order(order)?;
            }
            if self.pausing.is_some() {
                return Ok(true); // There is a snapshot here.
            }
        }
        self.counters.idle_kicks += 1;
        // Nothing landed here, so the log need not know that the guest was stopped.
        Ok(false)
    }

    /// Makes the guest's point a position if anything waits to land.
    fn land_for_what_waits(&mut self) -> Result<bool, RunError> {
        if !self.inbox.any() && self.timer_overdue_ns().is_none() {
            self.counters.idle_kicks += 1;
            return Ok(false);
        }
        let tries_max = match self.guest.clock() {
            Clock::Step => TRIES_STEP,
            Clock::Pmu | Clock::Exit | Clock::PlainExit => TRIES_COUNTED,
        };
        let landed = self.guest.land()?;
        if landed {
            self.landing_tries = 0;
            self.counters.landings += 1;
        } else if self.landing_tries >= tries_max {
            self.landing_tries = 0;
            self.forced_snapshot()?;
            return Ok(true);
        } else {
            // Where entering the guest takes that long, a kick may come before it has moved at all.
            let after = LAND_AGAIN * (1 << self.landing_tries.min(8));
            self.landing_tries += 1;
            self.counters.landings_put_off += 1;
            self.deadline_timer.set(after);
        }
        Ok(landed)
    }

    /// Whether the guest has really run for `patience` without an exit. Time passes as well while the
    /// host runs something else; were that held against the guest, a busy host would have snapshots
    /// to take on top of it. So the first time it is seen late, it gets that much CPU time more.
    fn runs_without_exit(&mut self, patience: u64) -> bool {
        let exits = self.guest.exits();
        let now = thread_cpu_ns();
        let ran = match self.stuck {
            Some(stuck) if stuck.exits == exits => now.saturating_sub(stuck.cpu_ns),
            _ => {
                self.stuck = Some(Stuck { exits, cpu_ns: now });
                0
            }
        };
        if ran >= patience {
            self.stuck = None;
            return true;
        }
        self.deadline_timer
            .set(Duration::from_nanos(patience - ran));
        false
    }

    /// Whether a kick is on its way that decides about the run from the last exit, or about a landing
    /// that was put off.
    pub(super) fn is_stuck(&self) -> bool {
        self.landing_tries > 0
            || self
                .stuck
                .is_some_and(|stuck| stuck.exits == self.guest.exits())
    }

    /// Half of the patience: it is waited for twice, see [`Live::runs_without_exit`].
    pub(super) fn patience_ns(&self) -> u64 {
        u64::try_from(self.patience.as_nanos() / 2).unwrap_or(u64::MAX)
    }

    /// Whether an interrupt that has no window to land in has waited for too long, and could be taken
    /// here. If it could not, it begins to wait anew.
    fn interrupt_late(&mut self, patience: u64) -> bool {
        let Some(since) = self.stranded_since else {
            return false;
        };
        let now = self.virtual_now();
        if now.saturating_sub(since) < patience {
            return false;
        }
        self.stranded_since = None;
        self.guest.interruptible()
    }
}
