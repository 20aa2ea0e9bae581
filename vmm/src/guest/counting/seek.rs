//! Bringing a replica to a point that the log names.
//!
//! With a counter it runs until an alarm that is set so many branches early as the counter may be late (its
//! *skid*), then from visit to visit of the point's instruction by a breakpoint, until branches, registers and stack
//! agree. It never single-steps: the trap flag would show in what the guest pushes.

use replay::Point;

use super::{Branches, Count, Nearest, Sought};
use crate::error::VmmError;
use crate::guest::hash::{self, RFLAGS_RF, RFLAGS_STATUS};
use crate::guest::{Guest, stack};
use crate::kvm::Exit;

/// How far beyond a point the counter's alarm stops a replica that never came by it, in branches.
const RUNAWAY: u64 = 1000;

impl Guest {
    /// Runs the guest, from the exit behind which `point` lies or from a point before, towards it.
    pub fn seek(&mut self, point: &Point) -> Result<Sought, VmmError> {
        self.inject_pending()?;
        if self.is_stepped() {
            return self.step_to(point);
        }
        self.vcpu.settle()?;
        let sought = self.approach(point);
        let Some(branches) = self.count.branches() else {
            return Err(VmmError::BadSnapshot(
                "the log has points between exits, but this guest counts no branches".to_owned(),
            ));
        };
        if !matches!(sought, Ok(Sought::Kicked)) {
            branches.counter.disarm()?;
            branches.note_cost();
        }
        if std::mem::take(&mut branches.debugging) {
            self.vcpu.debug(self.breakpoints(None))?;
        }
        sought
    }

    fn approach(&mut self, point: &Point) -> Result<Sought, VmmError> {
        loop {
            if let Some(exit) = self.pass_by(point)? {
                if let Exit::Debug { pc, .. } = exit
                    && pc == point.rip
                {
                    continue;
                }
                return self.stopped_by(&exit, point);
            }
            let here = self.point_here()?;
            if here.is_some_and(|here| here.is(point)) {
                self.arrive(point);
                return Ok(Sought::Reached);
            }
            let regs = self.vcpu.regs();
            let Some(branches) = self.count.branches() else {
                return Ok(Sought::Missed("nothing counts branches".to_owned()));
            };
            let now = branches.counter.branches()?;
            let Some(left) = point.branches.checked_sub(now) else {
                return Ok(Sought::Missed(branches.too_far(now - point.branches)));
            };
            if regs.rip == point.rip {
                let difference = hash::registers(&regs).difference(point.registers);
                branches.note_visit(Nearest {
                    difference,
                    regs,
                    left: Some(left),
                    between: here.is_some(),
                });
            }
            let skid = branches.how.skid.branches();
            let near = left <= skid;
            if near {
                if branches.left.is_none() {
                    branches.left = Some(left);
                }
                if !branches.debugging {
                    branches.counter.alarm_after(left.saturating_add(RUNAWAY))?;
                }
            } else {
                branches.set_early = Some(skid);
                branches.counter.alarm_after(left - skid)?;
            }
            let stopped = if near {
                self.run_to_visit(point)?
            } else {
                self.vcpu.run()?
            };
            match stopped {
                Exit::Debug { pc, .. } if near && pc == point.rip => {}
                exit => return self.stopped_by(&exit, point),
            }
        }
    }

    /// While the guest stands at the point's instruction with other registers, which cost no system call to
    /// look at, or with another stack: runs it on, and says what stopped it next. Should it run by the point that
    /// way, the alarm stops it.
    fn pass_by(&mut self, point: &Point) -> Result<Option<Exit>, VmmError> {
        if !matches!(&self.count, Count::Branches(branches) if branches.debugging) {
            return Ok(None);
        }
        let regs = self.vcpu.regs();
        if regs.rip != point.rip {
            return Ok(None);
        }
        let difference = hash::registers(&regs).difference(point.registers);
        if difference.is_none() {
            let sregs = self.vcpu.sregs()?;
            if stack::mark(self.vm.memory(), &sregs, regs.rsp) == point.stack {
                return Ok(None);
            }
        }
        let Some(branches) = self.count.branches() else {
            return Ok(None);
        };
        branches.note_visit(Nearest {
            difference,
            regs,
            left: None,
            between: true,
        });
        branches.stops += 1;
        self.vcpu.step_over();
        self.vcpu.run().map(Some)
    }

    /// Something else than a visit of the point's instruction stopped the guest.
    fn stopped_by(&mut self, exit: &Exit, point: &Point) -> Result<Sought, VmmError> {
        if matches!(exit, Exit::Interrupted) {
            self.vcpu.clear_immediate_exit();
            self.at_position = false;
            return Ok(Sought::Kicked);
        }
        let Some(branches) = self.count.branches() else {
            return Ok(Sought::Missed("nothing counts branches".to_owned()));
        };
        let now = branches.counter.branches()?;
        Ok(Sought::Missed(match now.checked_sub(point.branches) {
            Some(beyond) if beyond > 0 => branches.too_far(beyond),
            _ => format!(
                "{} branches before it there was another exit ({exit:?}){}",
                point.branches - now,
                branches.how_near()
            ),
        }))
    }

    /// Runs to the next time that the point's instruction is about to run. It is no repeated one, see [`Guest::land`].
    fn run_to_visit(&mut self, point: &Point) -> Result<Exit, VmmError> {
        if self.vcpu.regs().rip == point.rip {
            self.vcpu.step_over();
        }
        self.run_to(point.rip)
    }

    fn run_to(&mut self, address: u64) -> Result<Exit, VmmError> {
        self.vcpu.debug(self.breakpoints(Some(address)))?;
        if let Some(branches) = self.count.branches() {
            branches.debugging = true;
            branches.stops += 1;
        }
        self.vcpu.run()
    }

    pub(super) fn arrive(&mut self, point: &Point) {
        let mut regs = self.vcpu.regs();
        let status = u64::from(point.rflags) & RFLAGS_STATUS;
        let rflags = regs.rflags & !(RFLAGS_RF | RFLAGS_STATUS) | status;
        if regs.rflags != rflags {
            regs.rflags = rflags;
            self.vcpu.set_regs(regs);
        }
        self.point = Some(*point);
        self.at_position = true;
        match &mut self.count {
            Count::Nothing => {}
            Count::Branches(branches) => branches.counters.reached += 1,
            Count::Steps(steps) => steps.note_reached(),
        }
    }
}

impl Branches {
    fn note_visit(&mut self, visit: Nearest) {
        if !matches!(&self.nearest, Some(kept) if kept.is_nearer_than(&visit)) {
            self.nearest = Some(visit);
        }
    }

    fn how_near(&self) -> String {
        let told = self.nearest.as_ref().map(|visit| format!(", and {visit}"));
        told.unwrap_or_default()
    }

    /// Says how far the guest has run by the point, and learns from it if it was the alarm that came late.
    fn too_far(&mut self, beyond: u64) -> String {
        let nearest = self.how_near();
        // Once breakpoints have taken over, the alarm was in time.
        let late = self.set_early.filter(|_| self.left.is_none());
        let learned = late.map_or_else(String::new, |set_early| {
            let skid = self.how.skid.exceeded(set_early, beyond);
            format!("; the counter was later than {set_early}, {skid} is expected from here on")
        });
        format!("it is {beyond} branches too far{nearest}{learned}")
    }
}
