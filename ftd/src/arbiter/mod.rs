//! The atomic test-and-set that decides who may go on alone (Scales et al. 2010, section 2.3).
//!
//! Each time the pair may have split, both hosts ask for the next *generation*. One of them wins it,
//! for ever; the other must halt. Three kinds of shared storage will do:
//!
//! * [`directory`]: a file system that both hosts mount. link(2) is the test-and-set.
//! * [`region`]: a block device (or a file) that both can read and write, with no atomic
//!   instruction at all: Disk Paxos over plain sectors. Its parts are [`paxos`], the protocol as a
//!   state machine without I/O, [`record`], what a sector holds, [`layout`], where the sectors are,
//!   and [`format_device`], which prepares the device.
//! * [`etcd`]: a cluster of etcd, which the hosts reach over the network. A transaction is the test-and-set.
//!
//! [`candidate`] has backups say how far they are before they bid, where that matters.
//! [`sign`] has the winner say that it is still there, and [`vacancy`] keeps a guest from being
//! started a second time.
//!
//! # Blocking
//!
//! Storage may hang, and then so does every call here, for as long as the kernel retries: NFS and
//! iSCSI do so for minutes or for ever (etcd for less than 4 s). The daemon therefore runs the arbiter in a thread of its
//! own and goes on waiting, holding its outputs, while there is no answer. Only
//! [`ArbiterError::TimedOut`] comes by itself, when other hosts kept this one from a decision.
//!
//! **No answer is not "lost"**: after an error this host's bid may still win, so the generation is
//! open until a later call for it returns a [`Verdict`].

pub mod candidate;
pub mod directory;
pub mod etcd;
pub mod layout;
mod open;
pub mod paxos;
pub mod record;
pub mod region;
pub mod sign;
pub mod vacancy;

use std::io;
use std::path::PathBuf;

pub use candidate::Standing;
pub use open::{format_device, is_etcd, open};
pub use sign::Sign;

/// What became of a bid for a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This host has the generation and may go on alone.
    Won,
    /// Another host has it; this one must halt.
    Lost {
        /// The winner's host identifier.
        winner: String,
    },
}

/// An atomic test-and-set, once for each generation.
pub trait Arbiter: Send {
    /// Bids for `generation`. Of all hosts that ever bid for it exactly one wins, for ever, and
    /// asking again gives the same answer. Blocks on storage (see the module's text).
    ///
    /// # Errors
    /// [`ArbiterError`]. The generation stays open: this host may turn out to have won it.
    fn test_and_set(&mut self, generation: u64) -> Result<Verdict, ArbiterError>;

    /// Writes that this host would take `generation`, having acknowledged the log up to the epoch `through`, and reads who else
    /// would. To be called again with the same epoch, until the generation is decided; those before it are.
    ///
    /// # Errors
    /// [`ArbiterError`] if the storage can't be written and read. What was to be written may be there.
    fn stand(&mut self, generation: u64, through: u64) -> Result<Standing, ArbiterError>;

    /// The highest generation that is known to be decided, 0 if none is. A generation that is being
    /// decided now may be missing, so this is where to start asking, not an answer.
    ///
    /// # Errors
    /// [`ArbiterError`] if the storage can't be read.
    fn current_generation(&mut self) -> Result<u64, ArbiterError>;

    /// Whether the generation after this one is known to be decided: this one's winner, if it is
    /// still there, has lost the guest. Cheap, so that it can be asked again and again.
    ///
    /// # Errors
    /// [`ArbiterError`] if the storage can't be read.
    fn is_superseded(&mut self, generation: u64) -> Result<bool, ArbiterError>;

    /// Writes a sign of life over this host's last one. To be called by the winner of its
    /// generation alone.
    ///
    /// # Errors
    /// [`ArbiterError`] if the storage can't be written.
    fn sign(&mut self, sign: &Sign) -> Result<(), ArbiterError>;

    /// The last sign of the generation's winner, if it can be read: one that is just being written
    /// may be missing.
    ///
    /// # Errors
    /// [`ArbiterError`] if the storage can't be read.
    fn sign_of(&mut self, generation: u64) -> Result<Option<Sign>, ArbiterError>;
}

/// Number of slots on a device: hosts that can ever bid at the same time.
pub const SLOTS: usize = 8;

/// A host's place on a shared device: the only one it writes to. Two hosts with one slot would
/// break the promise, so it comes from the configuration, not from chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostSlot(u8);

impl HostSlot {
    /// Slot `number`, from 0 to [`SLOTS`] - 1.
    pub fn new(number: u8) -> Option<HostSlot> {
        (usize::from(number) < SLOTS).then_some(HostSlot(number))
    }

    /// Its number.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl std::fmt::Display for HostSlot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::str::FromStr for HostSlot {
    type Err = String;

    fn from_str(text: &str) -> Result<HostSlot, String> {
        let number = text.parse().ok().and_then(HostSlot::new);
        number.ok_or_else(|| format!("'{text}' is not a host slot: give a number from 0 to 7"))
    }
}

/// Longest virtual machine or host identifier, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Why the arbiter has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ArbiterError {
    /// The path names nothing.
    #[error("shared storage {} does not exist", .path.display())]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// The path names something else.
    #[error("shared storage {} is no {wanted}", .path.display())]
    WrongKind {
        /// The path given.
        path: PathBuf,
        /// What would do.
        wanted: &'static str,
    },
    /// An identifier that can't be stored.
    #[error("'{id}' can't be the identifier of a {what}: give 1 to {ID_BYTES_MAX} bytes of text")]
    BadId {
        /// "host" or "virtual machine".
        what: &'static str,
        /// What was given.
        id: String,
    },
    /// Generation 0 means "none yet" and can't be bid for.
    #[error("generation 0 can't be bid for")]
    GenerationZero,
    /// Reading or writing failed.
    #[error("can't {what} {}", .path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The directory's file system has no hard links.
    #[error(
        "the file system of {} has no hard links, which the arbiter needs: use another file \
         system, or a block device", .path.display()
    )]
    NoLinks {
        /// The directory.
        path: PathBuf,
        /// What link(2) said.
        #[source]
        source: io::Error,
    },
    /// An address of an etcd that is none.
    #[error(
        "'{address}' is no address of an etcd: {why}; give etcd:http://HOST:2379,http://HOST2:2379/PREFIX"
    )]
    BadEtcd {
        /// What was given.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// etcd has no answer.
    #[error("shared storage {name} can't be asked")]
    Etcd {
        /// The address given.
        name: String,
        /// Why.
        #[source]
        source: etcd::GatewayError,
    },
    /// A file, sector or key that ftd can't have written as it is.
    #[error("{} is corrupt: {what}", .path.display())]
    Corrupt {
        /// The file or device.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A device that was never prepared.
    #[error(
        "{} was not prepared as shared storage: run 'ftd format-shared --vm {vm} {}', once",
        .path.display(), .path.display()
    )]
    NotFormatted {
        /// The device.
        path: PathBuf,
        /// For whom it would have to be.
        vm: String,
    },
    /// A device that serves another virtual machine.
    #[error(
        "shared storage {} belongs to virtual machine '{found}', not '{wanted}': give that one's, or --vm {found}; \
         if '{found}' is not needed any more, and runs nowhere, 'ftd format-shared --force --vm {wanted} {}'",
        .path.display(), .path.display()
    )]
    OtherVm {
        /// The device.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it was expected to be.
        wanted: String,
    },
    /// Formatting would destroy something.
    #[error(
        "{} is not empty (byte {offset} is not zero): refusing to overwrite it; if nothing on it \
         is needed, use --force", .path.display()
    )]
    NotEmpty {
        /// The device.
        path: PathBuf,
        /// Where the first byte that isn't zero is.
        offset: u64,
    },
    /// The device has no room for the sectors.
    #[error("{} has {len} bytes; shared storage needs {needed}", .path.display())]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Its size in bytes.
        len: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// The page cache can't be bypassed.
    #[error(
        "{} can't be opened for direct I/O (O_DIRECT), without which one host does not see what \
         another wrote: use a block device, or a directory", .path.display()
    )]
    NoDirect {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another process or host uses this host's slot.
    #[error("slot {slot} of {} is in use by {by}: give each host a slot of its own", .path.display())]
    SlotTaken {
        /// The device.
        path: PathBuf,
        /// The slot.
        slot: HostSlot,
        /// By whom.
        by: String,
    },
    /// The generation's records have been reused for a later one: it is long decided, and nobody
    /// remembers for whom. Whoever asks now has missed much and must not go on.
    #[error("generation {generation} is forgotten: {newest} has been bid for since")]
    Superseded {
        /// The generation asked for.
        generation: u64,
        /// The later one.
        newest: u64,
    },
    /// Other hosts kept bidding higher for too long.
    #[error("no decision on generation {generation} within {ms} ms")]
    TimedOut {
        /// The generation asked for.
        generation: u64,
        /// The time spent, in milliseconds.
        ms: u64,
    },
}

impl ArbiterError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| ArbiterError::Io { what, path, source }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod stress;
