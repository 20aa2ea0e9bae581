//! What must always hold, and what is said when it doesn't.

/// A promise of the protocol, or of the daemon around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A copy that lets an output out is the one that won the newest generation that went live; and
    /// one such copy is left in the end.
    TwoLive,
    /// An output that is held goes out only when a backup has what `commit` says of it.
    OutputBeforeAck,
    /// A copy that goes live holds everything before any output that ever went out.
    AckedLost,
    /// A primary calls nothing released that is not out.
    OutputForgotten,
    /// A copy goes live only when it has executed all that it was given.
    HalfExecuted,
    /// Epochs reach a replayer in order, each after the one that the primary made before it.
    EpochOrder,
    /// The guest's virtual time never goes back or runs ahead, across takeovers too.
    VirtualTime,
    /// Every disk request of a live guest is held, in flight, or done and about to be told to it.
    RequestForgotten,
    /// A write never lands on the disk after one that the guest made later.
    WriteOrder,
    /// A write that the guest is told of has landed.
    ToldTooEarly,
    /// The guest lives on if no host died, or if only one fault happened while it was protected.
    GuestLost,
    /// When faults stop and a live copy is left, it is protected soon.
    NotRedundant,
    /// And outputs flow.
    NoFlow,
    /// The core never takes what its daemon tells it for impossible.
    CoreFailed,
    /// The core asks nothing impossible of its daemon.
    DaemonCantObey,
    /// No code of the core panics.
    Panic,
    /// Time goes on.
    Livelock,
}

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) at_ms: u64,
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} after {} ms: {}", self.rule, self.at_ms, self.what)
    }
}

pub(crate) type Checked = Result<(), Violation>;

impl Rule {
    /// This rule does not hold; the world says when.
    pub(crate) fn broken<T>(self, what: String) -> Result<T, Violation> {
        Err(Violation {
            at_ms: 0,
            rule: self,
            what,
        })
    }
}
