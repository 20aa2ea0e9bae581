//! What comes into the core and what goes out of it.

use thiserror::Error;

use super::facts::RejectReason;
use super::message::{ByeReason, EndReason, Generation, Message, PageHashes};
use super::role::Role;
use crate::codec::EncodedEpoch;
use crate::entry::{Epoch, Page};

/// A connection to another host, numbered by the daemon; a number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// Something that happened, told to the core by the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed; due at [`Core::next_tick`](super::Core::next_tick).
    Tick,
    /// A connection was made.
    PeerConnected {
        /// Its number.
        peer: PeerId,
        /// Whether it was dialled here, after [`Action::Connect`], and not accepted.
        dialled: bool,
    },
    /// Bytes arrived that are no whole message yet: the peer is there. Optional, and useful when a
    /// large message takes its time.
    PeerHeard {
        /// From whom.
        peer: PeerId,
    },
    /// A message arrived.
    Message {
        /// From whom.
        peer: PeerId,
        /// The message.
        message: Message,
    },
    /// A connection ended without [`Action::Disconnect`]. No message from it may follow, and none
    /// that arrived before may still be under way.
    PeerDisconnected {
        /// Which.
        peer: PeerId,
        /// How.
        why: LinkLoss,
    },
    /// The guest's recorder closed an epoch; its outputs wait. Epochs rise by one. What it says of
    /// outputs that are out is for the core to fill in.
    EpochClosed(EncodedEpoch),
    /// The guest's replayer executed all of an epoch; in order.
    Executed {
        /// Which epoch.
        epoch: Epoch,
        /// The guest's virtual time at its end, in nanoseconds.
        virtual_now: u64,
    },
    /// The digests of an executed epoch were compared and agree; in order.
    Verified {
        /// Which epoch.
        epoch: Epoch,
    },
    /// The replayed guest is no longer equal to the primary's.
    Diverged {
        /// In which epoch.
        epoch: Epoch,
        /// Whether the replay can't go on, so that this copy is of no use at all.
        fatal: bool,
    },
    /// The live clone asked for by [`Action::StartClone`] is complete: all pages were sent
    /// ([`Message::ClonePages`], by the daemon itself), and the guest is stopped at the end of an
    /// epoch. The next epoch is `first` and begins with a `Snapshot`; the other backups get it, too. The daemon lets the guest go
    /// on when it has carried out the actions that come back.
    CloneReady {
        /// To whom.
        peer: PeerId,
        /// The next epoch.
        first: Epoch,
    },
    /// The live clone failed; the guest goes on.
    CloneFailed {
        /// To whom.
        peer: PeerId,
        /// Why, for people.
        why: String,
    },
    /// The arbiter answered [`Action::AskArbiter`]. Every question must be answered, `Unreachable`
    /// if need be.
    Arbiter {
        /// The generation that was asked for.
        asked: Generation,
        /// The answer.
        answer: ArbiterAnswer,
    },
    /// What came of [`Action::Stand`]. Every one must be answered, `Unreachable` if need be.
    Standing {
        /// The generation that was asked about.
        asked: Generation,
        /// The answer.
        answer: StandAnswer,
    },
    /// The arbiter holds a later generation than this live copy's: found out without a bid. An
    /// answer to a bid that was given before must have been told before.
    Superseded {
        /// The generation that it holds.
        generation: Generation,
    },
    /// This live copy has no backup, or has lost one that is not ruled out yet, and for so long no sign of life of it has got through to the
    /// arbiter that another host may start the guest, at any time from now on: nothing more may go
    /// out, not even if the arbiter is back, until the next generation is won.
    Lapsed,
    /// The live guest ended by itself, and its last outputs (the power-off itself is one) are
    /// released.
    GuestEnded {
        /// How.
        reason: EndReason,
    },
    /// The guest is to go on at the backup, by a planned hand-over. It stands still at the end of the last
    /// epoch that was closed, and its requests to the disks are done. Told again until
    /// [`Status::offered`](super::Status::offered) says that the backup had all of it: before that it changes
    /// nothing. Then the guest stands until `Halt` (it is the backup's) or `GoAlone` (it isn't).
    HandOver,
    /// The operator stops this side. A protected guest goes on at the backup.
    Stop,
    /// This side can't go on (KVM failed, say). A protected guest goes on at the backup.
    Failed {
        /// Why, for people.
        why: String,
    },
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkLoss {
    /// The peer's host closed it: end of file, or a reset. Its process is gone, or gave the
    /// connection up on purpose and releases nothing more on its strength.
    #[error("the connection was closed by the other side")]
    Closed,
    /// Anything else: an unreachable network, a damaged frame. The other side may not know yet.
    #[error("the connection failed: {0}")]
    Broken(String),
}

/// What came of a test-and-set at the arbiter.
///
/// The arbiter holds a generation and who won it. Asking for `g` wins if it holds `g - 1`, and then
/// it holds `g` and the asker; asking again for what one has won wins again. An asker is one run of
/// a daemon, not a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArbiterAnswer {
    /// It is ours.
    Won,
    /// It isn't, and won't be.
    Lost {
        /// The generation that the arbiter holds.
        generation: Generation,
        /// Who won that.
        by: String,
    },
    /// It can't be said.
    Unreachable {
        /// Why, for people.
        why: String,
    },
}

/// What is known at the arbiter of the candidates for a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandAnswer {
    /// What is written there.
    Heard {
        /// The generation is somebody's already.
        decided: bool,
        /// The last epoch that each candidate has acknowledged, this side's own among them.
        through: Vec<Epoch>,
    },
    /// It can't be said.
    Unreachable {
        /// Why, for people.
        why: String,
    },
}

/// What the daemon has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message.
    Send {
        /// To whom.
        peer: PeerId,
        /// The message.
        message: Message,
    },
    /// Send a [`Message::Epoch`]; apart from `Send` so that its bytes need not be copied
    /// ([`epoch_header`](crate::frame::epoch_header)).
    SendEpoch {
        /// To whom.
        peer: PeerId,
        /// The epoch.
        epoch: EncodedEpoch,
    },
    /// The peer has been accepted: let its frames be large
    /// ([`FrameDecoder::set_limit`](crate::frame::FrameDecoder::set_limit)) before the next one is
    /// decoded.
    Established {
        /// Which.
        peer: PeerId,
    },
    /// Close a connection when what was sent before has gone out. No event from it may follow. (Between
    /// two daemons that hand a guest over it may stay, for frames that the guest missed.)
    Disconnect {
        /// Which.
        peer: PeerId,
        /// Why.
        why: DisconnectReason,
    },
    /// Dial the primary (or each of several candidates in turn) until a connection is made.
    Connect,
    /// Begin a live clone to the peer: send it pages while the guest runs, then stop the guest at
    /// the end of an epoch, send the rest, and report [`Event::CloneReady`]. What the peer has already
    /// comes by `TakeHashes`.
    StartClone {
        /// To whom.
        peer: PeerId,
    },
    /// What of the guest's RAM the peer, to which a clone was started, has already; in rising order. No
    /// page is sent ([`Message::ClonePages`]) before it is covered by what was said.
    TakeHashes {
        /// Who.
        peer: PeerId,
        /// What it has.
        hashes: PageHashes,
    },
    /// Tell the peer (the primary) what RAM is left of the copy that was dropped last
    /// ([`Message::PageHashes`], by the daemon itself), once no thread writes to it any more; a single
    /// empty message if there is none. What is told is the RAM that the clone goes on with, unless it
    /// is dropped before.
    TellHashes {
        /// To whom.
        peer: PeerId,
    },
    /// Give a live clone up, and let the guest go on if it was stopped for it.
    StopClone {
        /// To whom.
        peer: PeerId,
    },
    /// From this epoch on, hold every output until `ReleaseOutputs` or `GoAlone`.
    HoldOutputs {
        /// The first epoch whose outputs are held.
        from: Epoch,
    },
    /// Let out what is held of all epochs up to this one.
    ReleaseOutputs {
        /// The last epoch whose outputs may go.
        through: Epoch,
    },
    /// This is the one live copy, unprotected: let out all that is held, and hold nothing more.
    /// Also what starts the guest at power-on.
    GoAlone {
        /// The generation that this side won.
        generation: Generation,
    },
    /// This live copy has won `generation`, and its other backups stay: outputs are held as before.
    Renew {
        /// The generation that this side won.
        generation: Generation,
        /// Word of it came so late that another host may have started the guest since: nothing goes out before
        /// the next one is won, which is asked for already.
        late: bool,
    },
    /// The replayed guest has executed all that was received: make it the live one, and make good what it
    /// let out after `released`.
    GoLive {
        /// The generation that this side won.
        generation: Generation,
        /// The last epoch whose outputs are out for sure.
        released: Epoch,
    },
    /// Write pages into the guest that is being joined. Its RAM starts with what was told after
    /// `TellHashes`, and with zeros if nothing was.
    ApplyPages(Vec<Page>),
    /// Give an epoch to the replayer, in order. `Executed` comes back.
    DeliverEpoch(EncodedEpoch),
    /// Throw the replayed copy of the guest away; no `Executed` of it may follow. Its RAM may be kept
    /// for `TellHashes`.
    DropGuest,
    /// Try the test-and-set; an [`Event::Arbiter`] comes back.
    AskArbiter {
        /// The generation that is asked for.
        generation: Generation,
    },
    /// Write to the arbiter that this run of the daemon would take the guest over in `generation`, and that it has
    /// acknowledged all epochs up to `through`, and will no more; and read who else would. An
    /// [`Event::Standing`] comes back.
    Stand {
        /// The generation.
        generation: Generation,
        /// The last epoch that this side has acknowledged.
        through: Epoch,
    },
    /// Let the guest's vCPU wait: too much log waits for the backup.
    StopGuest,
    /// Let it run again.
    ResumeGuest,
    /// End this side: stop the guest, let nothing out, close all connections (after what was
    /// sent), exit.
    Halt {
        /// Why.
        why: HaltReason,
    },
    /// Something for the operator's journal.
    Note(Note),
}

/// Why a connection is closed from this side.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DisconnectReason {
    /// Nothing was heard from it.
    #[error("nothing was heard from it for {ms} ms")]
    Silent {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// It broke the protocol.
    #[error("it broke the protocol: {0}")]
    Protocol(ProtocolError),
    /// It was turned down.
    #[error("it was turned down: {0}")]
    Rejected(RejectReason),
    /// It turned this side down.
    #[error("it turned this host down: {0}")]
    RejectedUs(RejectReason),
    /// It can't keep up.
    #[error("it is too slow: the guest has waited for it for {ms} ms")]
    TooSlow {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// It left in order.
    #[error("it left: {0}")]
    Left(ByeReason),
    /// It offered its guest.
    #[error("it hands its guest over")]
    HandedOver,
    /// It did not take the guest that it was offered.
    #[error("the guest that it was offered goes on here")]
    TakenBack,
    /// The live clone failed.
    #[error("the live clone failed: {0}")]
    CloneFailed(String),
    /// It is a superseded primary.
    #[error("it is at generation {theirs}, which generation {known} has superseded")]
    Superseded {
        /// Its generation.
        theirs: Generation,
        /// The newest that is known here.
        known: Generation,
    },
    /// This side's copy of the guest diverged.
    #[error("this copy of the guest diverged in epoch {0}")]
    Diverged(Epoch),
    /// Nobody needs the connection.
    #[error("no connection is wanted now")]
    Unwanted,
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// A message that has no place here.
    #[error("it sent {0} where none belongs")]
    Unexpected(&'static str),
    /// A missing, doubled or reordered epoch.
    #[error("it sent epoch {found} where {expected} belongs")]
    EpochOrder {
        /// The epoch that came.
        found: Epoch,
        /// The one that belongs there.
        expected: Epoch,
    },
    /// The first epoch of a clone doesn't begin with a snapshot.
    #[error("epoch {0} completes a live clone but does not begin with a snapshot")]
    NoSnapshot(Epoch),
    /// An acknowledgement of what wasn't sent, or one that takes an earlier one back.
    #[error("it acknowledged what was not sent, or took an acknowledgement back")]
    BadAck,
    /// A backup that was told that it is kept does not say that it heard so.
    #[error("it did not say in time that it knows that it stays a backup")]
    NotKept,
    /// An epoch or a generation that no counting arrives at.
    #[error("it gave a number that is out of all bounds")]
    Number,
    /// It sent more log than the backup's buffer holds, though it should have waited.
    #[error("it sent more log than is buffered here")]
    TooFarAhead,
    /// Hashes that overlap, go backwards, lie beyond RAM, or are too many.
    #[error("it sent hashes of pages from {first_gfn:#x} on that belong nowhere")]
    BadHashes {
        /// The first page that they are of.
        first_gfn: u64,
    },
    /// It speaks another version after all.
    #[error("it speaks protocol version {0}")]
    Version(u32),
    /// Not a word for too long.
    #[error("it did not introduce itself in time")]
    NoHello,
    /// Too many connections without an introduction.
    #[error("too many connections wait for their introduction")]
    TooMany,
}

/// Why this side ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HaltReason {
    /// The other side has taken the guest over, or had it all the time.
    #[error("the guest belongs to {by}, which won generation {generation}")]
    Lost {
        /// The generation that the arbiter holds.
        generation: Generation,
        /// Who won it.
        by: String,
    },
    /// The guest ended by itself.
    #[error(transparent)]
    GuestEnded(EndReason),
    /// The operator said so.
    #[error("stopped by the operator")]
    Stopped,
    /// This side can't go on.
    #[error("this host can't go on: {0}")]
    Failed(String),
    /// The primary will never take this backup.
    #[error("the primary turned this host down: {0}")]
    Rejected(RejectReason),
    /// It should have gone live but its copy of the guest is of no use.
    #[error("the guest's replay failed in epoch {0} when it was to go live")]
    ReplayFailed(Epoch),
}

/// Something that the operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Note {
    /// The role changed.
    #[error("role: {from} -> {to} (generation {generation})")]
    Role {
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// The generation now.
        generation: Generation,
    },
    /// A backup is joining, or this one at a primary.
    #[error("{host} was accepted; a live clone begins")]
    Joining {
        /// The other side's host name.
        host: String,
    },
    /// The first acknowledgement came, or was sent: the guest is fault tolerant.
    #[error("the guest is protected (with {host})")]
    Protected {
        /// The other side's host name.
        host: String,
    },
    /// A joiner was turned down.
    #[error("{host} asked to join and was turned down: {reason}")]
    Rejected {
        /// Who.
        host: String,
        /// Why.
        reason: RejectReason,
    },
    /// The peer is lost.
    #[error("lost {host}: {why}")]
    PeerLost {
        /// Who.
        host: String,
        /// How.
        why: String,
        /// Since it was last heard, in nanoseconds.
        silent_ns: u64,
    },
    /// The guest is the backup's to take.
    #[error("the guest is offered to {host}")]
    Offered {
        /// Its host name.
        host: String,
    },
    /// Told once until it answers again.
    #[error("the arbiter can't be reached, and what depends on its word waits until it can: {why}")]
    ArbiterUnreachable {
        /// Why.
        why: String,
    },
    /// Told once.
    #[error(
        "waiting for the word of other backups: outputs went out by a quorum, so this one may lack some of the log ({heard} of {voices} have told how far they are)"
    )]
    FewVoices {
        /// How many have.
        heard: u32,
        /// How many are needed.
        voices: u32,
    },
    /// The test-and-set was won.
    #[error("won generation {generation} at the arbiter")]
    ArbiterWon {
        /// The generation.
        generation: Generation,
    },
    /// The test-and-set was lost.
    #[error("lost at the arbiter: {by} won generation {generation}")]
    ArbiterLost {
        /// The generation that the arbiter holds.
        generation: Generation,
        /// Who won it.
        by: String,
    },
    /// The test-and-set was won by a side that no longer has a guest to go live with.
    #[error("won generation {generation}, but this host has no copy of the guest any more")]
    WonForNothing {
        /// The generation.
        generation: Generation,
    },
    /// An alarm: the copies differ.
    #[error("divergence in epoch {epoch}")]
    Diverged {
        /// Where.
        epoch: Epoch,
    },
    /// Back-pressure.
    #[error("the guest waits: {bytes} bytes of log are ahead of the backup")]
    GuestStopped {
        /// How many.
        bytes: u64,
    },
    /// A peer claims a newer generation than this live copy has won.
    #[error("{host} knows of generation {theirs}: check the arbiter")]
    Superseded {
        /// Who.
        host: String,
        /// The generation it knows of.
        theirs: Generation,
    },
}
