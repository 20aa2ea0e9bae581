//! A log entry is a position in the guest's execution and what happened there.

use devices::Input;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::registers::RegisterSum;

/// Number of an epoch: the batch in which entries are framed, sent and acknowledged. Rises by one
/// from 1; 0 stands for "nothing yet".
pub type Epoch = u64;

/// A point in the execution of the guest's vCPU that the backup can reach exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    /// At the n-th synchronous exit to user space since power-on, counted from 1; 0 is power-on.
    /// Inputs land when the exit's access has been carried out and before the guest is entered
    /// again, in log order (a clock that the access itself reads lands first).
    Exit(u64),
    /// Behind the n-th exit and before the next one, between two instructions (the `pmu`
    /// and `step` clocks).
    Counted {
        /// The exit behind which it lies.
        exits: u64,
        /// Where, behind it.
        point: Point,
    },
}

/// Where a vCPU stands between two exits: as many conditional branches as it has made (or single steps,
/// with the `step` clock), the instruction it is about to run, and, since a loop's body can lie between
/// two such branches, what its registers hold, and what lies on its stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Conditional branches retired since the last snapshot that both sides have; with the `step` clock,
    /// single steps.
    pub branches: u64,
    /// RIP.
    pub rip: u64,
    /// RFLAGS, without RF and without the trap flag of a single step. Behind instructions that leave some of the
    /// status flags undefined an emulated CPU may set them by how it was stopped: so they are not what a point is
    /// known by, but a replica takes them over there.
    pub rflags: u32,
    /// Of the general registers, RIP, and RFLAGS without RF and the status flags.
    pub registers: RegisterSum,
    /// A mark of the top of the stack, since a function can be called twice without a branch in between and find the
    /// same registers.
    pub stack: u16,
}

impl Point {
    /// Whether both are the same but for status flags.
    pub fn is(&self, other: &Point) -> bool {
        self.branches == other.branches && self.alike(other)
    }

    /// Whether both are the same but for status flags and the number of branches before them.
    pub fn alike(&self, other: &Point) -> bool {
        (self.rip, self.registers, self.stack) == (other.rip, other.registers, other.stack)
    }
}

impl Position {
    /// Synchronous exits before it.
    pub const fn exits(self) -> u64 {
        match self {
            Position::Exit(exits) | Position::Counted { exits, .. } => exits,
        }
    }

    /// Whether a guest that stands here can no longer come to `other`. (Two points with as many
    /// branches may be in either order; they are told apart by getting there.)
    pub const fn is_past(self, other: Position) -> bool {
        if self.exits() != other.exits() {
            return self.exits() > other.exits();
        }
        match (self, other) {
            (Position::Counted { .. }, Position::Exit(_)) => true,
            (Position::Counted { point: here, .. }, Position::Counted { point: there, .. }) => {
                here.branches > there.branches
            }
            (Position::Exit(_), _) => false,
        }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Position::Exit(exits) => write!(f, "exit {exits}"),
            Position::Counted { exits, point } => write!(
                f,
                "count {} behind exit {exits} (RIP {:#x})",
                point.branches, point.rip
            ),
        }
    }
}

/// One log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it happened. Never less than the entry before it.
    pub at: Position,
    /// What happened.
    pub event: Event,
}

/// What a log entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// An input crossed the boundary.
    Input(Input),
    /// Pages of guest RAM to be written once the position is reached; always followed, in this
    /// epoch or a later one and at the same position, by a `Snapshot`. (A large snapshot's pages
    /// travel in several of these, so that no epoch outgrows a frame.)
    Pages(Vec<Page>),
    /// After the exit named by the position, and before the next one, the primary was stopped
    /// where it stood. The backup runs to the position, then loads this. Its position is always a
    /// `Position::Exit`, even behind a `Counted` one of the same exit; branches count from it anew.
    Snapshot(Box<Snapshot>),
    /// The machine made an output here, with this CRC32C over its canonical (postcard) form. The
    /// backup's own machine makes the same one, or has diverged.
    Output {
        /// CRC32C of the postcard encoding of the `Effect`.
        crc: u32,
    },
    /// The primary reached this position and no further by the end of the epoch; the last entry of
    /// every epoch. The backup may run up to it and not beyond.
    Reached {
        /// What the primary's guest was there.
        digest: Digest,
    },
}

/// The state of a guest that was stopped at no exit: everything but the pages sent before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The vCPU's state, encoded and versioned by `vmm`.
    pub cpu: Vec<u8>,
    /// The machine's state, encoded by `devices`.
    pub machine: Vec<u8>,
    /// Pages dirtied since the last snapshot, less those sent as `Event::Pages`.
    pub pages: Vec<Page>,
}

/// One 4 KiB page of guest RAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Guest frame number: guest-physical address / 4096.
    pub gfn: u64,
    /// Its 4096 bytes, or nothing when all of them are zero.
    pub data: Vec<u8>,
}

/// A page of zeros: comparing with it is faster than looking at each byte.
static ZEROS: [u8; devices::layout::PAGE_BYTES as usize] =
    [0; devices::layout::PAGE_BYTES as usize];

impl Page {
    /// The page `gfn` with `bytes` (4096 of them), whose data is left out if they are all zero.
    pub fn of(gfn: u64, bytes: &[u8]) -> Page {
        let zero = bytes == ZEROS;
        let data = if zero { Vec::new() } else { bytes.to_vec() };
        Page { gfn, data }
    }
}

impl Event {
    /// What kind of event this is, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Input(Input::Clock { .. }) => "a clock",
            Event::Input(Input::NetRx { .. }) => "a frame for the network device",
            Event::Input(Input::DiskDone { .. }) => "a disk completion",
            Event::Input(Input::ConsoleIn { .. }) => "console input",
            Event::Input(Input::Entropy { .. }) => "entropy",
            Event::Input(Input::PowerButton) => "the power button",
            Event::Pages(_) => "pages of a snapshot",
            Event::Snapshot(_) => "a snapshot",
            Event::Output { .. } => "an output",
            Event::Reached { .. } => "the end of an epoch",
        }
    }
}
