//! Counting in single steps (the `step` clock): KVM stops the guest behind every instruction, on both sides
//! alike, as long as it is followed.
//!
//! A step is what KVM makes one. Mostly that is an instruction, or a repetition of one, but an instruction that
//! holds interrupts off for the next may be one with that. An exception or an
//! interrupt, where the processor delivers it, clears the trap flag: then its handler belongs to the step, up
//! to its return or the next exit. But a way into the kernel need not come back by such a return (a system
//! call's doesn't); so where user code calls its kernel, or meets a page fault, a breakpoint on the entry ends
//! the step. What counts is that both sides make the same steps. Trap flag and breakpoint are set
//! anew only behind a step or an exit, never behind a kick: a kick may have come within a step, where the
//! replica isn't stopped.
//!
//! KVM hides the trap flag from the VMM, but the processor shows it in the flags that the guest pushes. When
//! nobody follows the guest any more, a flag that it pops again is caught and cleared.

use replay::Point;

use super::{Count, Nearest, RFLAGS_TF, SeekCounters, Sought};
use crate::error::VmmError;
use crate::guest::{Guest, entries, hash, paging};
use crate::kvm::Exit;

const RFLAGS_IF: u64 = 1 << 9;
const STI: u8 = 0xfb;

/// The steps of a guest.
#[derive(Debug, Default)]
pub(in crate::guest) struct Steps {
    /// Since the last restart.
    taken: u64,
    /// The guest stands right behind a step.
    behind: bool,
    /// The trap flag is set for the step that comes, or that is under way.
    armed: bool,
    /// With it: where the kernel begins, if the step is one of user code.
    entry: Option<u64>,
    made: Made,
    /// The step was an STI, which holds interrupts off for one more. (A #DB can hide that from KVM.)
    shadow: bool,
    /// The guest is to stop behind the next step, as if kicked there.
    stop: bool,
    reached: u64,
}

/// Whether KVM makes steps.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// It never did.
    #[default]
    Never,
    Now,
    /// It did, so trap flags may lie in the guest's stacks.
    Before,
}

impl Steps {
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn counters(&self) -> SeekCounters {
        let reached = self.reached;
        SeekCounters {
            reached,
            ..Default::default()
        }
    }

    /// Counts from zero, where the guest stands.
    pub(super) fn restart(&mut self) {
        self.taken = 0;
        self.behind = false;
        self.armed = false;
        self.shadow = false;
        self.stop = false;
    }

    /// The guest was stopped by `exit`.
    fn note(&mut self, exit: Exit) {
        self.behind = exit.is_step();
        self.shadow = false;
        self.taken += u64::from(self.behind);
        if !matches!(exit, Exit::Interrupted) {
            self.armed = false;
            self.stop &= self.behind;
        }
    }

    /// The guest has come to a point.
    pub(super) fn note_reached(&mut self) {
        self.reached += 1;
    }
}

impl Guest {
    /// Whether each of the guest's instructions is a step now.
    pub(in crate::guest) fn is_stepped(&self) -> bool {
        self.followed && matches!(self.count, Count::Steps(_))
    }

    /// Whether the guest stands right behind a step, or need not. If it should but doesn't, it will be
    /// stopped behind the next.
    pub(super) fn is_behind_step(&mut self) -> bool {
        match &mut self.count {
            Count::Steps(steps) if self.followed => {
                let stands = steps.behind && !steps.shadow;
                steps.stop = !stands;
                stands
            }
            _ => true,
        }
    }

    /// Whether the last step was an STI, so that no interrupt may be injected.
    pub(in crate::guest) fn is_behind_sti(&self) -> bool {
        matches!(&self.count, Count::Steps(steps) if steps.shadow)
    }

    /// Runs the guest to its next exit that is more than the end of a step.
    pub(in crate::guest) fn run_on(&mut self) -> Result<Exit, VmmError> {
        if !self.is_stepped() {
            return self.run_unstepped();
        }
        loop {
            let exit = self.step()?;
            if !exit.is_step() {
                return Ok(exit);
            }
            if self.stands_in_window() {
                return Ok(Exit::InterruptWindow);
            }
            if let Count::Steps(steps) = &mut self.count
                && std::mem::take(&mut steps.stop)
            {
                return Ok(Exit::Interrupted);
            }
        }
    }

    /// Single-steps the guest to a point.
    pub(super) fn step_to(&mut self, point: &Point) -> Result<Sought, VmmError> {
        loop {
            // A point lies behind a step, so there is always one to be made.
            let left = self
                .count
                .now()?
                .and_then(|now| point.branches.checked_sub(now));
            let Some(left @ 1..) = left else {
                let how = "it has made all the steps and stands elsewhere".to_owned();
                return Ok(Sought::Missed(how));
            };
            match self.step()? {
                Exit::Interrupted => {
                    self.vcpu.clear_immediate_exit();
                    self.at_position = false;
                    return Ok(Sought::Kicked);
                }
                exit if !exit.is_step() => {
                    let how = format!("{left} steps before it there was another exit ({exit:?})");
                    return Ok(Sought::Missed(how));
                }
                _ if self.stands_in_window() => {
                    let how = format!("{left} steps before it the guest could take an interrupt");
                    return Ok(Sought::Missed(how));
                }
                _ if left > 1 => {}
                _ => {
                    let here = self.point_here()?;
                    if here.is_some_and(|here| here.is(point)) {
                        self.arrive(point);
                        return Ok(Sought::Reached);
                    }
                    let regs = self.vcpu.regs();
                    let visit = Nearest {
                        difference: hash::registers(&regs).difference(point.registers),
                        regs,
                        left: None,
                        between: here.is_some(),
                    };
                    return Ok(Sought::Missed(format!(
                        "behind as many steps the guest stands at {:#x} and {visit}",
                        regs.rip
                    )));
                }
            }
        }
    }

    /// Whether a waiting interrupt can be injected here.
    fn stands_in_window(&mut self) -> bool {
        self.awaits_window && self.vcpu.ready_for_interrupt() && !self.is_behind_sti()
    }

    /// Enters the guest, to the end of a step at most.
    fn step(&mut self) -> Result<Exit, VmmError> {
        let [fault, undefined, later, _] = self.breakpoints(None);
        let Count::Steps(steps) = &mut self.count else {
            return self.vcpu.run();
        };
        if !steps.armed {
            let pc = self.vcpu.regs().rip;
            if self.vcpu.has_new_regs() && self.vcpu.finish_access()? {
                let exit = Exit::step(pc);
                steps.note(exit);
                return Ok(exit);
            }
            let rip = self.vcpu.regs().rip;
            steps.entry = entries::from_user(&self.vcpu, self.vm.memory(), &self.vcpu.sregs()?)
                .filter(|entry| ![fault, undefined].contains(&Some(*entry)) && *entry != rip);
            self.vcpu
                .single_step([fault, undefined, later, steps.entry])?;
            steps.armed = true;
            steps.made = Made::Now;
        }
        let before = self.vcpu.regs();
        let exit = match self.vcpu.run()? {
            Exit::Debug { pc, .. } if steps.entry == Some(pc) => Exit::step(pc),
            exit => exit,
        };
        steps.note(exit);
        let now = self.vcpu.regs();
        let opened = now.rflags & !before.rflags & RFLAGS_IF != 0;
        if exit.is_step() && opened && now.rip == before.rip.wrapping_add(1) {
            let mut code = [0];
            let sregs = self.vcpu.sregs()?;
            let read = paging::read(self.vm.memory(), &sregs, before.rip, &mut code);
            steps.shadow = read && code == [STI];
        }
        Ok(exit)
    }

    /// Runs a guest that isn't stepped, or not any more.
    fn run_unstepped(&mut self) -> Result<Exit, VmmError> {
        let Count::Steps(steps) = &mut self.count else {
            return self.vcpu.run();
        };
        if steps.made == Made::Now {
            steps.made = Made::Before;
            steps.armed = false;
            steps.shadow = false;
            self.arm()?;
        }
        loop {
            let exit = self.vcpu.run()?;
            if !self.has_met_old_flag(exit)? {
                return Ok(exit);
            }
        }
    }

    /// Arms the breakpoints that are armed all along. In a guest that was stepped, that every #DB becomes an exit,
    /// and that its own handler of #DB is a breakpoint: KVM gives the guest the step of an instruction that it
    /// emulates under a trap flag.
    pub(in crate::guest) fn arm(&self) -> Result<(), VmmError> {
        match &self.count {
            Count::Steps(steps) if steps.made == Made::Before => {
                let sregs = self.vcpu.sregs()?;
                let handler = entries::of_vector(self.vm.memory(), &sregs, entries::DEBUG);
                self.vcpu.debug_all(self.breakpoints(handler))
            }
            _ => self.vcpu.debug(self.breakpoints(None)),
        }
    }

    /// Whether `exit` comes of nothing but a trap flag that was left in the guest. It is cleared; the guest stands where
    /// it met it.
    fn has_met_old_flag(&mut self, exit: Exit) -> Result<bool, VmmError> {
        let mut regs = self.vcpu.regs();
        if !exit.is_step() {
            let Exit::Debug { pc, .. } = exit else {
                return Ok(false);
            };
            let sregs = self.vcpu.sregs()?;
            let memory = self.vm.memory();
            let mut frame = [[0; 8]; 5];
            if entries::of_vector(memory, &sregs, entries::DEBUG) != Some(pc)
                || !paging::read(memory, &sregs, regs.rsp, frame.as_flattened_mut())
            {
                return Ok(false);
            }
            // RIP, CS, RFLAGS, RSP, SS (APM vol. 2, 8.9.3).
            let [rip, cs, rflags, rsp, _] = frame.map(u64::from_le_bytes);
            // User code would need its segments again.
            if rflags & RFLAGS_TF == 0 || cs != u64::from(sregs.cs.selector) {
                return Ok(false);
            }
            (regs.rip, regs.rflags, regs.rsp) = (rip, rflags, rsp);
        }
        regs.rflags &= !RFLAGS_TF;
        self.vcpu.set_regs(regs);
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
