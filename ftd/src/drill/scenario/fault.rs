//! What a site can do to hosts, links and disks.

use std::fmt;

use crate::drill::plan::Role;

/// Which frames of a host are dropped, as the host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those it should get.
    In,
    /// Those it sends.
    Out,
    /// All.
    Both,
}

impl Direction {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
            Direction::Both => "both",
        }
    }
}

/// How the guest's disk is, for both hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    /// It works.
    Well,
    /// Every request fails.
    Failing,
    /// There is no room for a block that was never written.
    Full,
}

/// Something that happens to a host, its link or its disks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Frames of the log network are dropped.
    Cut {
        /// Whose.
        side: Role,
        /// Which.
        direction: Direction,
    },
    /// Frames are delivered again.
    Restore,
    /// What a side sends on the log network takes so much longer, in milliseconds.
    Delay {
        /// Which side.
        side: Role,
        /// How long.
        ms: u32,
    },
    /// So many percent of what it sends there are lost.
    Loss {
        /// Which side.
        side: Role,
        /// How many, in percent.
        percent: u32,
    },
    /// A side's requests to the arbiter's storage hang, or go on.
    Arbiter {
        /// Which side.
        side: Role,
        /// Whether they hang.
        away: bool,
    },
    /// The guest's disk changes.
    Disk(DiskState),
    /// A side's daemon is stopped for so many percent of the time.
    Starve {
        /// Which side.
        side: Role,
        /// How much of the time, in percent.
        percent: u32,
    },
    /// It is no longer.
    Feed {
        /// Which side.
        side: Role,
    },
    /// A host's clock is set, by so many seconds.
    StepClock {
        /// Which side.
        side: Role,
        /// Forwards, or back if negative.
        seconds: i64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Cut { side, direction } => {
                let what = match direction {
                    Direction::In => "gets nothing more",
                    Direction::Out => "sends nothing more",
                    Direction::Both => "is cut off",
                };
                write!(f, "{side} {what} on the log network")
            }
            Fault::Restore => write!(f, "links restored"),
            Fault::Delay { side, ms } => write!(f, "what the {side} sends takes {ms} ms longer"),
            Fault::Loss { side, percent } => {
                write!(f, "{percent} % of what the {side} sends is lost")
            }
            Fault::Arbiter { side, away: true } => {
                write!(f, "arbiter's storage hangs at the {side}")
            }
            Fault::Arbiter { side, .. } => {
                write!(f, "arbiter's storage is back at the {side}")
            }
            Fault::Disk(DiskState::Well) => write!(f, "guest's disk is well again"),
            Fault::Disk(DiskState::Failing) => write!(f, "guest's disk fails every request"),
            Fault::Disk(DiskState::Full) => write!(f, "no room is left behind the guest's disk"),
            Fault::Starve { side, percent } => {
                write!(f, "{side} gets no CPU for {percent} % of the time")
            }
            Fault::Feed { side } => write!(f, "{side} gets its CPU again"),
            Fault::StepClock { side, seconds } => {
                write!(f, "clock of the {side}'s host set by {seconds:+} s")
            }
        }
    }
}
