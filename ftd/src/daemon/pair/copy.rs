//! The copy of the guest on this side.

use std::sync::Arc;

use vmm::guest::Guest;

use crate::daemon::epoch_queue::EpochQueue;
use crate::daemon::guest_thread::GuestThread;

/// The guest on this side.
pub(super) enum Copy {
    /// There is none.
    None,
    /// It stands before its first instruction.
    Booted(Box<Guest>),
    /// Its RAM is being filled.
    Filling(Box<Guest>),
    /// It follows the log.
    Following {
        queue: Arc<EpochQueue>,
        thread: GuestThread,
    },
    /// It is the live one (or about to become it).
    Live { thread: GuestThread },
}
