//! Points between two exits: naming the one where a live guest was stopped, and bringing a replica to
//! one that the log names (the `pmu` and `step` clocks).
//!
//! * `skid`: how late the counter's alarm comes, as far as is known.
//! * `seek`: the way to a point.
//! * `nearest`: what a replica that missed a point says of how near it came.
//! * `steps`: counting in single steps, where no counter is.
//! * `rep`: repeated string instructions, in whose middle a guest can be stopped.

mod nearest;
mod rep;
mod seek;
mod skid;
mod steps;

use kvm_bindings::kvm_sregs;
use replay::{Point, Position};

use super::hash::{self, RFLAGS_RF};
use super::{Guest, entries, stack};
use crate::clock::Clock;
use crate::error::VmmError;
use crate::kvm::{Counter, Exit};

use nearest::Nearest;
pub use skid::Skid;
use steps::Steps;

const RFLAGS_TF: u64 = 1 << 8;

/// How a host counts branches.
#[derive(Debug, Clone)]
pub struct Counting {
    /// The raw perf event.
    pub event: u64,
    /// By how many branches its alarm may come late.
    pub skid: Skid,
}

/// Where a search for a point stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// The guest stands at the point.
    Reached,
    /// A kick stopped the guest on its way; to be sought again.
    Kicked,
    /// The guest has run by it, or did something that the log's guest had not done there.
    Missed(String),
}

/// What searches have cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeekCounters {
    /// Points that were reached.
    pub reached: u64,
    /// Stops at breakpoints on the way.
    pub stops: u64,
    /// Branches that were left when the alarm had come.
    pub branches: u64,
    /// By tenths of a stop for each branch left (the last: 3.1 and more), how many searches.
    pub by_stops_per_branch: [u64; 32],
}

/// What tells one point between two exits from another.
#[derive(Debug)]
pub(super) enum Count {
    /// Nothing: exits are the only positions.
    Nothing,
    /// The host's counter.
    Branches(Box<Branches>),
    /// Single steps.
    Steps(Steps),
}

impl Count {
    /// Of a guest with this clock, before [`Guest::count_branches`].
    pub(super) fn of(clock: Clock) -> Count {
        match clock {
            Clock::Step => Count::Steps(Steps::default()),
            Clock::Pmu | Clock::Exit | Clock::PlainExit => Count::Nothing,
        }
    }

    fn branches(&mut self) -> Option<&mut Branches> {
        match self {
            Count::Branches(branches) => Some(branches),
            Count::Nothing | Count::Steps(_) => None,
        }
    }

    /// Branches since the last restart; 0 if none are counted.
    pub(super) fn branches_so_far(&self) -> Result<u64, VmmError> {
        match self {
            Count::Branches(branches) => branches.counter.branches(),
            Count::Nothing | Count::Steps(_) => Ok(0),
        }
    }

    /// What has been counted since the last restart.
    fn now(&self) -> Result<Option<u64>, VmmError> {
        match self {
            Count::Nothing => Ok(None),
            Count::Branches(branches) => branches.counter.branches().map(Some),
            Count::Steps(steps) => Ok(Some(steps.taken())),
        }
    }
}

/// The counter on the vCPU's thread, and the position that it names.
#[derive(Debug)]
pub(super) struct Branches {
    how: Counting,
    counter: Counter,
    /// What the search for the point has cost so far.
    stops: u64,
    left: Option<u64>,
    /// How many branches before the point the alarm was set.
    set_early: Option<u64>,
    /// The visit of the point's instruction that was most like the point.
    nearest: Option<Nearest>,
    /// A breakpoint besides the TSC trap's is armed.
    debugging: bool,
    counters: SeekCounters,
}

impl Guest {
    /// Opens the counter on this thread, which must be the one that runs the guest from now on.
    /// Does nothing when it is open, or when the guest's clock needs none.
    ///
    /// # Errors
    ///
    /// When the host has none to give.
    pub fn count_branches(&mut self) -> Result<(), VmmError> {
        let (Some(how), Count::Nothing) = (self.counting.clone(), &self.count) else {
            return Ok(());
        };
        let counter = Counter::open(how.event).map_err(|source| VmmError::Host {
            what: "cannot open the counter of the guest's branches",
            source,
        })?;
        self.count = Count::Branches(Box::new(Branches {
            how,
            counter,
            stops: 0,
            left: None,
            set_early: None,
            nearest: None,
            debugging: false,
            counters: SeekCounters::default(),
        }));
        Ok(())
    }

    /// Where the guest stands, if it stands at a position.
    pub fn position(&self) -> Position {
        let exits = self.exits;
        match self.point {
            Some(point) => Position::Counted { exits, point },
            None => Position::Exit(exits),
        }
    }

    /// What searches for points have cost.
    pub fn seek_counters(&self) -> SeekCounters {
        match &self.count {
            Count::Nothing => SeekCounters::default(),
            Count::Branches(branches) => branches.counters,
            Count::Steps(steps) => steps.counters(),
        }
    }

    /// Makes the point where a kick has stopped the guest its position. `false` if a replica could
    /// not be stopped there: in the middle of an exception, in an interrupt shadow, or behind one that
    /// masks breakpoints, or within a single step; a few instructions later it can.
    ///
    /// Nor can it be stopped in the middle of a repeated string instruction: where a page fault has come in
    /// between, the guest is back in it without any mark that a breakpoint could be set to. So the guest first runs
    /// to its end, or to the next page fault's handler ([`Stop::Kicked`](super::Stop::Kicked) there).
    pub fn land(&mut self) -> Result<bool, VmmError> {
        if !self.is_behind_step() {
            return Ok(false);
        }
        let regs = self.vcpu.regs();
        let sregs = self.vcpu.sregs()?;
        if matches!(self.count, Count::Branches(_))
            && let Some(end) = rep::end(self.vm.memory(), &sregs, regs.rip)
        {
            self.leave(end, &sregs)?;
            return Ok(false);
        }
        if regs.rflags & (RFLAGS_RF | RFLAGS_TF) != 0 {
            return Ok(false);
        }
        let Some(point) = self.point_by(&sregs)? else {
            return Ok(false);
        };
        self.point = Some(point);
        self.at_position = true;
        Ok(true)
    }

    /// Has the guest stop where it leaves the repeated instruction that ends at `end`. Of the other breakpoints only
    /// those of exceptions can lie on the way.
    fn leave(&mut self, end: u64, sregs: &kvm_sregs) -> Result<(), VmmError> {
        let fault = entries::of_vector(self.vm.memory(), sregs, entries::PAGE_FAULT);
        let [gp, ud] = self.tsc_trap.addresses();
        self.vcpu.debug([gp, ud, Some(end), fault])?;
        self.leaving = Some([Some(end), fault]);
        Ok(())
    }

    /// Whether `exit` is where the guest has left the repeated instruction that it was to leave.
    pub(super) fn has_left(&mut self, exit: &Exit) -> Result<bool, VmmError> {
        let Some(ways) = self.leaving.take() else {
            return Ok(false);
        };
        self.vcpu.debug(self.breakpoints(None))?;
        Ok(matches!(exit, Exit::Debug { pc, .. } if ways.contains(&Some(*pc))))
    }

    /// Branches, or steps, count from here on.
    pub(super) fn restart_counting(&mut self) -> Result<(), VmmError> {
        self.point = None;
        match &mut self.count {
            Count::Nothing => Ok(()),
            Count::Branches(branches) => branches.counter.restart(),
            Count::Steps(steps) => {
                steps.restart();
                Ok(())
            }
        }
    }

    /// The point between two instructions where the guest stands.
    fn point_here(&mut self) -> Result<Option<Point>, VmmError> {
        let sregs = self.vcpu.sregs()?;
        self.point_by(&sregs)
    }

    /// The same, with the special registers as they are.
    fn point_by(&mut self, sregs: &kvm_sregs) -> Result<Option<Point>, VmmError> {
        let Some(count) = self.count.now()? else {
            return Ok(None);
        };
        if !self.vcpu.is_between_instructions()? {
            return Ok(None);
        }
        let regs = self.vcpu.regs();
        Ok(Some(Point {
            branches: count,
            rip: regs.rip,
            rflags: (regs.rflags & !(RFLAGS_RF | RFLAGS_TF)) as u32,
            registers: hash::registers(&regs),
            stack: stack::mark(self.vm.memory(), sregs, regs.rsp),
        }))
    }
}

impl Branches {
    fn note_cost(&mut self) {
        let stops = std::mem::take(&mut self.stops);
        self.nearest = None;
        self.set_early = None;
        let Some(left) = self.left.take() else { return };
        self.counters.stops += stops;
        self.counters.branches += left;
        let tenths = (stops * 10).div_ceil(left.max(1));
        let slots = self.counters.by_stops_per_branch.len();
        let slot = usize::try_from(tenths).unwrap_or(slots).min(slots - 1);
        self.counters.by_stops_per_branch[slot] += 1;
    }
}

impl SeekCounters {
    /// Stops for each branch that was left, in the median over all searches that came near by alarm.
    pub fn stops_per_branch_median(&self) -> Option<f64> {
        let all: u64 = self.by_stops_per_branch.iter().sum();
        let mut seen = 0;
        for (tenths, count) in self.by_stops_per_branch.iter().enumerate() {
            seen += count;
            if seen * 2 >= all && all > 0 {
                return Some(tenths as f64 / 10.0);
            }
        }
        None
    }
}
