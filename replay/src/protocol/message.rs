//! What primary and backup say to each other.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::EncodedEpoch;
use crate::entry::{Epoch, Page};

/// Version of the protocol that this build speaks; raised with any change to a message.
pub const PROTOCOL_VERSION: u32 = 1;

/// Number of a term of office: it rises by one each time that a copy of the guest becomes the only
/// live one, by a test-and-set at the arbiter. 0 is before the guest's first start.
pub type Generation = u64;

/// A message on the logging channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// First on a connection, from the side that wants to join.
    Hello(Box<Hello>),
    /// The answer to a `Hello` that is accepted; a live clone follows.
    Welcome(Welcome),
    /// The answer to a `Hello` that is not; the connection ends.
    Reject(RejectReason),
    /// Pages of a running guest's RAM (pre-copy); later ones replace earlier ones.
    ClonePages {
        /// The pages.
        pages: Vec<Page>,
    },
    /// The guest was stopped, and the epochs from `first` on are for the backup. The first entry
    /// of that epoch is the `Snapshot` that completes the pages sent before.
    CloneDone {
        /// The epoch that begins with the snapshot.
        first: Epoch,
    },
    /// An epoch of log entries.
    Epoch(EncodedEpoch),
    /// How far the backup is.
    Ack(Ack),
    /// Nothing else was said for a while, but the sender is there.
    Heartbeat {
        /// Rises by one with every heartbeat of the sender.
        seq: u64,
        /// The highest `seq` that the sender had from the receiver, 0 for none. A primary knows by
        /// it how recently it was heard, and so until when no backup will try to take over.
        heard: u64,
    },
    /// The guest powered itself off, and its last outputs are out: the backup ends too.
    GuestEnded {
        /// Why.
        reason: EndReason,
    },
    /// The sender leaves in order. From a backup: it will not go live. From a primary: its copy of
    /// the guest has stopped.
    Bye {
        /// Why.
        reason: ByeReason,
    },
}

/// Who wants to join, and what it would run the guest on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub protocol_version: u32,
    /// Features of the sender, a bit each; none so far. Both sides use what both have.
    pub features: u64,
    /// The sender's host name, for messages to people.
    pub host: String,
    /// The newest generation that the sender knows of, 0 for none.
    pub generation: Generation,
    /// What the sender wants.
    pub wants: Join,
    /// What has to be the same on both sides.
    pub facts: Facts,
}

/// What both sides must agree on before one can take the guest over from the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Name of the pair or set of replicas.
    pub vm_id: String,
    /// Name of the CPU model that the guest sees.
    pub cpu_model: String,
    /// Guest RAM in bytes.
    pub ram_bytes: u64,
    /// A digest of the machine's configuration (devices, command line, kernel, initrd).
    pub machine_digest: [u8; 32],
    /// The disks, in order.
    pub disks: Vec<DiskFacts>,
    /// What keeps both on the same base: a digest of the image's identity (the shared disk's
    /// identifier, or that of the base image), empty when there is none.
    pub image_id: Vec<u8>,
}

/// What is told of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// Its capacity in bytes.
    pub capacity_bytes: u64,
    /// Whether both sides open the very same disk.
    pub shared: bool,
}

/// What a `Hello` wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Join {
    /// To become a backup by a live clone of the running guest.
    Clone,
}

/// What a `Welcome` settles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub protocol_version: u32,
    /// Features that are used from here on: those of both sides.
    pub features: u64,
    /// The sender's host name, for messages to people.
    pub host: String,
    /// The sender's generation; a takeover is a test-and-set from it to the next one.
    pub generation: Generation,
    /// What the primary waits for before it releases outputs.
    pub commit: Commit,
    /// How long the primary may be silent before the backup tries to take over, in milliseconds.
    pub detect_ms: u32,
    /// How often either side is heard at least, in milliseconds.
    pub heartbeat_ms: u32,
}

/// What an acknowledgement must say before outputs are released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Commit {
    /// The backup has received the log.
    #[default]
    Received,
    /// The backup has executed it.
    Executed,
    /// The backup has executed it, and its digests agree.
    Verified,
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ack {
    /// The last epoch received.
    pub received: Epoch,
    /// The last epoch executed.
    pub executed: Epoch,
    /// The last epoch whose digests were compared and agree.
    pub verified: Epoch,
    /// The guest's virtual time at the end of `executed`, in nanoseconds.
    pub executed_at: u64,
    /// The highest heartbeat `seq` that the backup had from the primary, 0 for none.
    pub heard: u64,
}

/// Why a `Hello` was turned down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum RejectReason {
    /// Another version of the protocol.
    #[error(
        "the primary speaks protocol version {primary}, this backup {backup}: install the same ftd on both hosts"
    )]
    Version {
        /// The primary's.
        primary: u32,
        /// The backup's.
        backup: u32,
    },
    /// Another virtual machine.
    #[error("the primary runs the virtual machine {primary:?}, this backup is for {backup:?}")]
    Vm {
        /// The primary's.
        primary: String,
        /// The backup's.
        backup: String,
    },
    /// Another CPU model.
    #[error("the guest's CPU model is {primary:?} on the primary and {backup:?} on this backup")]
    CpuModel {
        /// The primary's.
        primary: String,
        /// The backup's.
        backup: String,
    },
    /// Another amount of RAM.
    #[error("the guest has {primary} bytes of RAM on the primary and {backup} on this backup")]
    Ram {
        /// The primary's, in bytes.
        primary: u64,
        /// The backup's, in bytes.
        backup: u64,
    },
    /// Another machine configuration.
    #[error(
        "the guest's devices, kernel or command line differ between the primary and this backup"
    )]
    Machine,
    /// Another number of disks.
    #[error("the guest has {primary} disk(s) on the primary and {backup} on this backup")]
    DiskCount {
        /// The primary's.
        primary: u32,
        /// The backup's.
        backup: u32,
    },
    /// A disk of another size.
    #[error("disk {disk} has {primary} bytes on the primary and {backup} on this backup")]
    DiskSize {
        /// Which disk, from 0.
        disk: u32,
        /// The primary's capacity in bytes.
        primary: u64,
        /// The backup's capacity in bytes.
        backup: u64,
    },
    /// A disk that only one side thinks to be shared.
    #[error("disk {disk} is shared on one of primary and backup only")]
    DiskShared {
        /// Which disk, from 0.
        disk: u32,
    },
    /// Another image.
    #[error("primary and backup were given different disk images")]
    Image,
    /// The primary has as many backups as it takes.
    #[error("the primary already has a backup")]
    HasBackup,
    /// The primary can't take a backup at this moment; try again.
    #[error("the primary cannot take a backup at this moment: {why}")]
    Busy {
        /// Why.
        why: String,
    },
    /// The one that was asked isn't a primary.
    #[error("the host that was asked runs no live copy of the guest")]
    NotPrimary,
    /// The joiner knows of a newer generation than the primary, which has been superseded.
    #[error(
        "the host that was asked is at generation {primary}, but generation {backup} is known: it has been superseded"
    )]
    Superseded {
        /// The primary's.
        primary: Generation,
        /// The joiner's.
        backup: Generation,
    },
}

impl RejectReason {
    /// Whether trying again later can help without anybody changing a configuration.
    pub fn is_temporary(&self) -> bool {
        use RejectReason::{Busy, HasBackup, NotPrimary, Superseded};
        matches!(
            self,
            HasBackup | Busy { .. } | NotPrimary | Superseded { .. }
        )
    }
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum EndReason {
    /// It powered itself off (ACPI S5).
    #[error("the guest powered itself off")]
    PowerOff,
    /// It asked for a reset, which ends it.
    #[error("the guest asked for a reset")]
    Reset,
}

/// Why a side leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum ByeReason {
    /// It was told to stop.
    #[error("it was stopped by its operator")]
    Stopped,
    /// The backup's copy is no longer equal to the primary's, and it will join again.
    #[error("its copy of the guest diverged")]
    Diverged,
    /// It can't go on.
    #[error("it failed")]
    Failed,
}
