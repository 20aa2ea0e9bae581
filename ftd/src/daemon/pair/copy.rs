//! The copy of the guest on this side, and the threads of those that were thrown away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm::guest::Guest;

use crate::daemon::epoch_queue::{Ending, EpochQueue};
use crate::daemon::guest_thread::{GuestThread, ThreadEnd};
use crate::outside::outbox::CopySerial;
use crate::run::RunError;
use crate::run::inbox::{Inbox, Order};

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
        /// The log on its way to the thread.
        queue: Arc<EpochQueue>,
        /// The thread.
        thread: GuestThread,
    },
    /// It is the live one (or about to become it).
    Live {
        /// The thread.
        thread: GuestThread,
    },
}

/// How the current copy's thread ended.
pub(super) struct ThreadEnded {
    /// What it says.
    pub(super) end: Result<ThreadEnd, RunError>,
    /// Whether it followed the log, and was not to become the live one.
    pub(super) following: bool,
}

/// The one copy that counts, and those that are on their way out. A thread that was told to end
/// may still say something after the next copy has begun: so each names its copy.
pub(super) struct Copies {
    pub(super) current: Copy,
    serial: CopySerial,
    leaving: Vec<(CopySerial, GuestThread)>,
}

impl Copies {
    /// With this copy, or none.
    pub(super) fn new(current: Copy) -> Copies {
        Copies {
            current,
            serial: CopySerial::default(),
            leaving: Vec::new(),
        }
    }

    /// Takes the current copy away, for another to be put in its place.
    pub(super) fn take(&mut self) -> Copy {
        std::mem::replace(&mut self.current, Copy::None)
    }

    /// A name for the copy whose thread starts next.
    pub(super) fn next_serial(&mut self) -> CopySerial {
        self.serial = self.serial.next();
        self.serial
    }

    /// Whether what this copy's thread says still counts.
    pub(super) fn is_current(&self, copy: CopySerial) -> bool {
        copy == self.serial && matches!(self.current, Copy::Following { .. } | Copy::Live { .. })
    }

    /// Throws the current copy away. Its thread, if it had one, ends by itself, soon.
    pub(super) fn drop_current(&mut self) -> Option<CopySerial> {
        let Copy::Following { queue, thread } = self.take() else {
            return None;
        };
        queue.end(Ending::Drop);
        self.leaving.push((self.serial, thread));
        Some(self.serial)
    }

    /// Whether the thread of a copy that was thrown away still runs.
    pub(super) fn is_leaving(&self, copy: CopySerial) -> bool {
        let mut leaving = self.leaving.iter();
        leaving.any(|(old, thread)| *old == copy && !thread.is_finished())
    }

    /// The thread of `copy` has said its last word. `None` if that copy had been thrown away.
    pub(super) fn ended(&mut self, copy: CopySerial) -> Option<ThreadEnded> {
        if let Some(index) = self.leaving.iter().position(|(old, _)| *old == copy) {
            let _ = self.leaving.swap_remove(index).1.join();
            return None;
        }
        if !self.is_current(copy) {
            return None;
        }
        let (thread, following) = match self.take() {
            Copy::Following { thread, .. } => (thread, true),
            Copy::Live { thread } => (thread, false),
            other => {
                self.current = other;
                return None;
            }
        };
        let end = thread.join().unwrap_or_else(|_| {
            Err(RunError::Sink(
                "the vCPU thread panicked; this is a defect of ftd".to_owned(),
            ))
        });
        Some(ThreadEnded { end, following })
    }
}

impl Copies {
    /// Tells the current copy's thread to end.
    pub(super) fn stop(&self, inbox: &Inbox) {
        match &self.current {
            Copy::Following { queue, .. } => queue.end(Ending::Drop),
            Copy::Live { .. } => inbox.order(Order::Stop),
            Copy::None | Copy::Booted(_) | Copy::Filling(_) => {}
        }
    }

    /// Waits until the current copy's thread has ended, for `timeout` at most.
    pub(super) fn join(&mut self, timeout: Duration) -> bool {
        let (Copy::Following { thread, .. } | Copy::Live { thread }) = &self.current else {
            return true;
        };
        let start = Instant::now();
        while !thread.is_finished() {
            if start.elapsed() >= timeout {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.current = Copy::None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(copies: &mut Copies) -> CopySerial {
        let serial = copies.next_serial();
        copies.current = Copy::Following {
            queue: Arc::new(EpochQueue::default()),
            thread: std::thread::spawn(|| Ok(ThreadEnd::Dropped)),
        };
        serial
    }

    #[test]
    fn what_an_old_copy_says_does_not_count_for_the_next() {
        let mut copies = Copies::new(Copy::None);
        let first = follow(&mut copies);
        assert!(copies.is_current(first));
        copies.drop_current();
        assert!(!copies.is_current(first), "it was thrown away");
        let second = follow(&mut copies);
        assert!(!copies.is_current(first) && copies.is_current(second));
        assert!(copies.ended(first).is_none(), "its end is nobody's loss");
        assert!(copies.leaving.is_empty());
        assert!(copies.is_current(second));
        let ended = copies.ended(second).unwrap();
        assert!(ended.following && matches!(ended.end, Ok(ThreadEnd::Dropped)));
        assert!(!copies.is_current(second) && copies.ended(second).is_none());
    }

    #[test]
    fn dropping_tells_the_thread() {
        let mut copies = Copies::new(Copy::None);
        follow(&mut copies);
        let Copy::Following { queue, .. } = &copies.current else {
            panic!("not following");
        };
        let queue = Arc::clone(queue);
        copies.drop_current();
        assert_eq!(queue.ending(), Some(Ending::Drop));
    }
}
