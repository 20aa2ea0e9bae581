//! Epochs and outputs on their way from the vCPU thread to the daemon's loop, in order.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use devices::Effect;
use mio::Waker;
use replay::protocol::{ArbiterAnswer, PeerId, StandAnswer};
use replay::{EncodedEpoch, Epoch};

use crate::arbiter::Sign;
use crate::daemon::unreleased::Unreleased;
use crate::host::announce::AddressLearner;

/// What the vCPU thread (or the one that clones its guest) hands to the daemon's loop.
#[derive(Debug)]
pub enum Outgoing {
    /// The next epoch of the log.
    Epoch(EncodedEpoch),
    /// An output that may go out once epoch `after` is acknowledged.
    Output {
        /// The epoch; 0 when nobody logs.
        after: Epoch,
        /// The output.
        effect: Effect,
    },
    /// The guest goes on after the stop that ended a live clone.
    CloneStopped {
        /// How long it stood, in nanoseconds.
        stop_ns: u64,
    },
    /// The guest stands still at the end of the last epoch handed over.
    Paused {
        /// Of the order to do so.
        number: u64,
        /// Frames that wait for room in its ring.
        frames: Vec<Vec<u8>>,
    },
    /// Who has the guest by now was looked up.
    Holder {
        /// The last sign of the generation's winner, if there is one.
        sign: Option<Sign>,
    },
    /// It was found out whether anybody has the guest.
    Looked {
        /// Nobody has.
        vacant: bool,
    },
    /// All pages of a live clone were sent; the epochs from `first` on follow.
    CloneReady {
        /// Whose clone it is.
        to: PeerId,
        /// First epoch of the log for it.
        first: Epoch,
    },
    /// The live clone can't be completed.
    CloneFailed {
        /// Whose clone it was.
        to: PeerId,
        /// Why.
        why: String,
    },
    /// The arbiter answered.
    Arbiter {
        /// The generation that was asked for.
        asked: u64,
        /// Its answer.
        answer: ArbiterAnswer,
    },
    /// The arbiter told of the candidates for a generation.
    Standing {
        /// The generation.
        asked: u64,
        /// What it told.
        answer: StandAnswer,
    },
    /// This host's sign of life is on the shared storage.
    Signed {
        /// When writing it began, by this host's monotonic clock.
        begun_ns: u64,
        /// Whether it said that another host has a copy of the guest, or is being given one.
        may_pass: bool,
    },
    /// Another host has won a generation after this one's.
    Superseded {
        /// Which.
        generation: u64,
    },
    /// A replaying guest has become the live one and makes effects of its own from here on.
    Live(Box<WentLive>),
    /// An epoch was executed by a replaying guest.
    Executed {
        /// Of which copy.
        copy: CopySerial,
        /// The epoch.
        epoch: Epoch,
        /// The guest's virtual time at its end, in nanoseconds.
        virtual_now: u64,
    },
    /// The vCPU thread ended; its handle has the result. Its last word.
    Ended {
        /// Of which copy.
        copy: CopySerial,
    },
}

/// Which copy of the guest a thread runs, counted on this host from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopySerial(u64);

impl CopySerial {
    /// The one after this.
    pub fn next(self) -> CopySerial {
        CopySerial(self.0 + 1)
    }
}

/// What a backup's guest knew when it went live.
#[derive(Debug)]
pub struct WentLive {
    /// What the primary may not have let out.
    pub unreleased: Unreleased,
    /// The addresses it sends from.
    pub addresses: AddressLearner,
    /// Disk requests that were issued again.
    pub reissued: usize,
}

/// Bytes of outputs at which a guest waits until the loop has taken them.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Outgoing>,
    /// Data of the outputs among them.
    output_bytes: usize,
    /// The protocol asked the guest to wait: too much log is ahead of the backup.
    held: bool,
    /// Too much waits to be sent.
    clogged: bool,
    /// What comes need not be seen at once.
    quiet: bool,
    /// The loop is gone; nothing waits for it any more.
    closed: bool,
}

/// The queue from the vCPU thread to the daemon's loop.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    released: Condvar,
    waker: Waker,
}

impl Outbox {
    /// An empty queue whose filling wakes `waker`.
    pub fn new(waker: Waker) -> Outbox {
        Outbox {
            queue: Mutex::default(),
            released: Condvar::new(),
            waker,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item. `false` when nobody will take it.
    pub fn push(&self, item: Outgoing) -> bool {
        self.add(self.lock(), item)
    }

    fn add(&self, mut queue: MutexGuard<'_, Queue>, item: Outgoing) -> bool {
        if queue.closed {
            return false;
        }
        let wakes = queue.items.is_empty() && !queue.quiet;
        queue.items.push_back(item);
        drop(queue);
        if wakes {
            self.wake();
        }
        true
    }

    fn wake(&self) {
        // eventfd writes fail only when its counter is full, and then the loop wakes anyway.
        let _ = self.waker.wake();
    }

    /// Lets the loop sleep, whatever is added, until this is taken back: a guest that stands for what it adds
    /// would wait for the loop as well on a host with one CPU.
    pub fn quiet(&self, quiet: bool) {
        let mut queue = self.lock();
        queue.quiet = quiet;
        let wakes = !quiet && !queue.items.is_empty();
        drop(queue);
        if wakes {
            self.wake();
        }
    }

    /// Adds an item once the loop isn't holding the guest back.
    pub fn push_when_released(&self, item: Outgoing) -> bool {
        let mut queue = self.lock();
        while (queue.held || queue.clogged) && !queue.closed {
            queue = self
                .released
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.add(queue, item)
    }

    /// Adds an output that may go out once epoch `after` is acknowledged; waits first where the guest makes more of
    /// them than the loop takes.
    pub fn push_output(&self, after: Epoch, effect: Effect) -> bool {
        let mut queue = self.lock();
        while queue.output_bytes >= OUTPUT_BYTES_MAX && !queue.closed {
            queue = self
                .released
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue.output_bytes += effect.data_bytes();
        self.add(queue, Outgoing::Output { after, effect })
    }

    /// Takes everything, in order.
    pub fn take(&self, into: &mut VecDeque<Outgoing>) {
        let mut queue = self.lock();
        into.append(&mut queue.items);
        if std::mem::take(&mut queue.output_bytes) >= OUTPUT_BYTES_MAX {
            self.released.notify_all();
        }
    }

    /// Holds the guest back at its next epoch, or lets it go on.
    pub fn hold(&self, held: bool) {
        self.lock().held = held;
        self.released.notify_all();
    }

    /// Holds back whoever fills the log while too much waits to be sent.
    pub fn clog(&self, clogged: bool) {
        let mut queue = self.lock();
        if queue.clogged != clogged {
            queue.clogged = clogged;
            drop(queue);
            self.released.notify_all();
        }
    }

    /// Whether the guest is being held back.
    pub fn is_held(&self) -> bool {
        self.lock().held
    }

    /// Lets go of everybody who waits: the loop ends.
    pub fn close(&self) {
        self.lock().closed = true;
        self.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn ended() -> Outgoing {
        let copy = CopySerial::default();
        Outgoing::Ended { copy }
    }

    #[test]
    fn a_held_guest_waits_until_it_is_released() {
        let poll = mio::Poll::new().unwrap();
        let outbox = Arc::new(Outbox::new(
            Waker::new(poll.registry(), mio::Token(0)).unwrap(),
        ));
        outbox.hold(true);
        let other = Arc::clone(&outbox);
        let guest = std::thread::spawn(move || other.push_when_released(ended()));
        let mut items = VecDeque::new();
        outbox.take(&mut items);
        assert!(items.is_empty());
        outbox.hold(false);
        assert!(guest.join().unwrap());
        outbox.take(&mut items);
        assert_eq!(items.len(), 1);
        outbox.close();
        assert!(!outbox.push(ended()));
    }

    #[test]
    fn a_guest_that_makes_too_much_waits_for_the_loop() {
        let poll = mio::Poll::new().unwrap();
        let outbox = Arc::new(Outbox::new(
            Waker::new(poll.registry(), mio::Token(0)).unwrap(),
        ));
        let other = Arc::clone(&outbox);
        let guest = std::thread::spawn(move || {
            let frame = |_| Effect::NetTx {
                frame: vec![0; 1 << 20],
            };
            (0..100).map(frame).all(|frame| other.push_output(0, frame))
        });
        let mut items = VecDeque::new();
        let mut taken = 0;
        while taken < 100 {
            outbox.take(&mut items);
            assert!(items.len() <= OUTPUT_BYTES_MAX >> 20);
            taken += items.drain(..).count();
        }
        assert!(guest.join().unwrap());
    }

    #[test]
    fn what_comes_quietly_wakes_the_loop_in_the_end() {
        let mut poll = mio::Poll::new().unwrap();
        let outbox = Outbox::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let mut events = mio::Events::with_capacity(1);
        let mut woken = || {
            let none = Some(std::time::Duration::ZERO);
            poll.poll(&mut events, none).unwrap();
            !events.is_empty()
        };
        outbox.quiet(true);
        assert!(outbox.push(ended()));
        assert!(!woken());
        outbox.quiet(false);
        assert!(woken());
        outbox.take(&mut VecDeque::new());
        outbox.quiet(true);
        outbox.quiet(false);
        assert!(!woken(), "nothing came");
        assert!(outbox.push(ended()));
        assert!(woken());
    }
}
