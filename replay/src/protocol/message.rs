//! What primary and backup say to each other.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::EncodedEpoch;
use crate::entry::{Epoch, Page};
use crate::protocol::facts::{Facts, RejectReason};

/// Version of the protocol that this build speaks; raised with any change to a message, or to a state in one.
pub const PROTOCOL_VERSION: u32 = 11;

/// Feature: before its clone begins, a joiner says what RAM it has ([`Message::PageHashes`]).
pub const FEATURE_PAGE_HASHES: u64 = 1;
/// Features of this build.
pub const FEATURES: u64 = FEATURE_PAGE_HASHES;

/// Number of a term of office: it rises by one each time that a copy of the guest becomes the only
/// live one, by a test-and-set at the arbiter. 0 is before the guest's first start.
pub type Generation = u64;

/// Most that a peer may give as an epoch or a generation: no counting comes near it, and counting on
/// from it overflows nothing.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

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
    /// What RAM the joiner has already ([`FEATURE_PAGE_HASHES`]).
    PageHashes(PageHashes),
    /// The backup is to bid for the guest, of which it has all: a planned hand-over. The sender lets nothing
    /// more out, but may bid for the guest itself if it sees no bid of the backup's.
    HandOver,
    /// The primary will bid for this generation, to rule another backup out: the receiver stays a backup if it
    /// wins. Answered by `Kept`.
    Keep {
        /// The generation.
        generation: Generation,
        /// As in `Quorum`, from then on.
        voices: u32,
    },
    /// The backup has heard that it is kept in this generation.
    Kept {
        /// The generation.
        generation: Generation,
    },
    /// The primary has won this generation, in which the receiver is kept.
    Renewed {
        /// The generation.
        generation: Generation,
    },
    /// An Ethernet frame for the guest, from a primary whose guest the backup has won: it came to the wrong
    /// place. The daemons see to it; in the protocol it has no place.
    Frame {
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Of so many backups, the receiver among them, the position must be known before the receiver may bid
    /// for the guest, and be none beyond its own: outputs go out that it has not acknowledged. Answered by
    /// `QuorumKnown`.
    Quorum {
        /// Rises by one with each.
        number: u64,
        /// How many; 1 if every output waits for the receiver.
        voices: u32,
    },
    /// The backup goes by this `Quorum`.
    QuorumKnown {
        /// Its number.
        number: u64,
    },
    /// The sender has so many backups, the receiver among them; one if this is never said. With others beside it
    /// a backup gives a primary that it does not hear any more a head start.
    Backups {
        /// How many.
        count: u32,
    },
}

impl Message {
    /// Its name, for messages to people.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "a greeting",
            Message::Welcome(_) => "a welcome",
            Message::Reject(_) => "a rejection",
            Message::ClonePages { .. } => "pages of a clone",
            Message::CloneDone { .. } => "the end of a clone",
            Message::Epoch(_) => "an epoch",
            Message::Ack(_) => "an acknowledgement",
            Message::Heartbeat { .. } => "a heartbeat",
            Message::GuestEnded { .. } => "the end of the guest",
            Message::Bye { .. } => "a goodbye",
            Message::PageHashes(_) => "hashes of pages",
            Message::HandOver => "a hand-over",
            Message::Keep { .. } => "word that this backup is kept",
            Message::Kept { .. } => "word that it knows that it is kept",
            Message::Renewed { .. } => "a new generation",
            Message::Frame { .. } => "a frame for the guest",
            Message::Quorum { .. } => "the size of a quorum",
            Message::QuorumKnown { .. } => "word that it knows the size of the quorum",
            Message::Backups { .. } => "the number of backups",
        }
    }
}

/// Who wants to join, and what it would run the guest on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub protocol_version: u32,
    /// Features of the sender, a bit each ([`FEATURES`]). Both sides use what both have.
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

/// What a `Hello` wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Join {
    /// To become a backup by a live clone of the running guest.
    Clone,
}

/// Some pages of the RAM that a joiner kept of an earlier copy. They come in rising order, the last one
/// marked; pages that are in none of them are zeros there. A joiner without any RAM says that by a
/// single one without hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PageHashes {
    /// The key of the hashes: random, another one for each clone.
    pub key: HashKey,
    /// Frame number of the first page.
    pub first_gfn: u64,
    /// Of that page and those behind it, one each, at most [`PageHashes::MAX`].
    pub hashes: Vec<PageHash>,
    /// Nothing follows: all has been said.
    pub last: bool,
}

impl PageHashes {
    /// Most pages of one message: 64 KiB of hashes.
    pub const MAX: usize = 4096;

    /// The first page behind these.
    pub fn end(&self) -> u64 {
        self.first_gfn.saturating_add(self.hashes.len() as u64)
    }
}

/// Key of [`PageHash`]es.
pub type HashKey = [u8; 16];

/// A page's SipHash-2-4 of 128 bits; [`PageHash::ZEROS`] for a page of zeros.
///
/// Pages whose hashes are equal are taken for equal and not sent. A guest chooses what is in its RAM, so
/// it must not be able to make two pages of one hash, which rules out checksums and hashes without a key
/// that are merely fast. SipHash is a pseudo-random function of a key that no guest gets to know, and the
/// peer is trusted. By chance, any of the 2^20 pages of 4 GiB is mistaken with a probability of 2^-108.
/// (BLAKE3 is as fast only where the CPU has vector instructions of its own: emulated hosts take 25
/// times as long for it.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PageHash(pub [u8; 16]);

impl PageHash {
    /// Of a page of zeros.
    pub const ZEROS: PageHash = PageHash([0; 16]);
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
    /// The sender, as the arbiter knows it.
    pub bidder: String,
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

/// Not a [`Commit`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is none of received, executed, verified")]
pub struct UnknownCommit(String);

impl std::str::FromStr for Commit {
    type Err = UnknownCommit;

    fn from_str(text: &str) -> Result<Commit, UnknownCommit> {
        match text {
            "received" => Ok(Commit::Received),
            "executed" => Ok(Commit::Executed),
            "verified" => Ok(Commit::Verified),
            other => Err(UnknownCommit(other.to_owned())),
        }
    }
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
