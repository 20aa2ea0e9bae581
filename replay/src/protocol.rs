//! The replication protocol as a state machine without I/O: [`Event`]s in, [`Action`]s out.
//!
//! Each side runs one [`Core`], driven by its daemon. Who is what:
//!
//! ```text
//!   ftd primary                                        ftd backup
//!       |                                                  |
//!  +----------+                                       +---------+
//!  | Starting |                              +------->| Joining |<-------+
//!  +----------+                              |        +---------+        |
//!       | 1                                  |             | 6           | 8, 9
//!       v             2                      |             v             |
//!  +---------+  ------------->  +---------+  |        +---------+        |
//!  |  Alone  |                  | Primary |  |        | Backup  |--------+
//!  +---------+  <-------------  +---------+  |        +---------+
//!    ^               3, 4            | 5     |             | 7
//!    |                               v       |             |
//!    |                          +---------+  |             |
//!    |                          | Halted  |  |             |
//!    |                          +---------+  |             |
//!    +---------------------------------------+-------------+
//! ```
//!
//! 1. A primary to be wins its generation at the arbiter and powers the guest on, unprotected.
//! 2. A joiner's clone is complete: outputs are held from the next epoch on, and go out as the
//!    joiner, once a backup, acknowledges the log before them.
//! 3. The backup is lost (silence, or the connection ended). Outputs stay held, and the primary asks
//!    the arbiter for the next generation; it wins, lets all outputs out, and goes on unprotected.
//!    An arbiter that can't be reached is asked again and again; meanwhile nothing goes out.
//!    So does a primary that has no backup, once it may have counted as gone
//!    ([`Event::Lapsed`]): whoever starts the guest elsewhere meanwhile asks for that generation, too.
//! 4. The backup leaves in order, which is its promise not to go live: no arbiter is needed.
//!    And one that has handed its guest over, should the backup not take it.
//! 5. The primary loses at the arbiter, or sees a later generation there: the backup is live (by a planned
//!    hand-over, say), so this side ends, and what it held is never let out. (Every role ends, too, when the operator stops it or the guest ends.)
//! 6. The clone is whole and its first epoch executed: this side can take over, and says so by its
//!    first acknowledgement. Before that it never goes live, whatever happens to the primary.
//! 7. The primary is lost, or hands its guest over ([`Message::HandOver`]), and this side wins the next generation: it executes all that it has
//!    received and goes live, unprotected.
//! 8. The primary is lost, and wins the next generation itself: this side drops its copy of the
//!    guest and joins again.
//! 9. This side's copy diverges: it leaves in order, drops the copy and is cloned again.
//!
//! In 8 and 9 the copy's RAM is kept: its pages' hashes tell the primary which need not be sent.
//!
//! A primary may have more than one backup (`Config::backups_max`). Then outputs wait for all of them; 3 and 4
//! lead back to `Primary` as long as one is left; and of those in 7 that ask for the same generation, one wins and
//! the others do 8. `excluding` says how one is ruled out and the others are not.
//!
//! **Never two live copies.** A takeover is a test-and-set from generation `g`, on which both sides
//! agreed in the handshake, to `g + 1`, which one side at most wins. A superseded primary may not
//! know of it yet, and have an acknowledgement in its hands from before. So it lets outputs out only
//! while it holds a lease: three quarters of `detect_ms` from the sending of the last thing that the
//! backup is known to have heard. A backup asks the arbiter only when it has heard nothing for all
//! of `detect_ms`, or when the primary's process closed the connection, which it does only when
//! it has given the backup up or is gone, or when the primary has said that it lets nothing more out.
//!
//! **Nothing acknowledged is lost.** Outputs of an epoch go out when the backup has acknowledged it;
//! a backup acknowledges only what it delivers to its replayer, and goes live only when all of
//! that is executed. Where a quorum of the backups is enough (`Config::release`), one that takes over first finds
//! out that it has as much of the log as one of that quorum: see `canvass`.

mod ahead;
mod alone;
mod ask;
mod backup;
mod canvass;
mod core;
mod event;
mod excluding;
mod facts;
mod handing;
mod joiner;
mod joining;
mod link;
mod member;
mod message;
mod pacing;
mod primary;
mod release;
mod role;
mod sent;
#[cfg(test)]
mod tests;
mod told;

pub use self::core::Core;
pub use event::{
    Action, ArbiterAnswer, DisconnectReason, Event, HaltReason, LinkLoss, Note, PeerId,
    ProtocolError, StandAnswer,
};
pub use facts::{DiskFacts, Facts, RejectReason};
pub use message::{
    Ack, ByeReason, Commit, EndReason, FEATURE_PAGE_HASHES, FEATURES, Generation, HashKey, Hello,
    Join, Message, PROTOCOL_VERSION, PageHash, PageHashes, Welcome,
};
pub use release::{Release, UnknownRelease};
pub use role::{BackupStatus, Config, Role, Start, Status};
