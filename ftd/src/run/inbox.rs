//! What waits for the vCPU thread: inputs from the host's back ends and orders from the daemon.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use devices::Input;
use replay::Epoch;
use replay::protocol::PeerId;
use vmm::guest::Flip;
use vmm::kvm::{Kick, KickTimer};
use vmm::memory::PageSet;

use crate::host::clock::monotonic_ns;
use crate::host::disk::DiskPages;

/// Most frames that wait for the guest; more are left to the TAP's own queue.
pub const FRAMES_MAX: usize = 256;

/// An order to the vCPU thread of a live guest.
#[derive(Debug)]
pub enum Order {
    /// Put a snapshot into the log that also carries these pages, as the first entry of an epoch; a log that
    /// has not begun begins with it.
    BeginLog {
        /// Whose clone is complete with it.
        to: PeerId,
        /// First epoch of a log that begins.
        first: Epoch,
        /// Pages not yet sent, besides those the dirty log holds.
        pages: PageSet,
        /// The disks that are copied, too, whose pages come behind those of RAM.
        disks: Option<DiskPages>,
    },
    /// Forget at the next position which pages were written up to it: whoever follows the log gets there by
    /// itself, so that the next snapshot need not have them.
    Mark,
    /// Stop logging: nobody reads it any more.
    EndLog,
    /// Change a bit of the guest, between two epochs if a log is kept (a test hook).
    Flip(Flip),
    /// Let the guest stand still at the end of an epoch, behind the inputs that wait, until another order
    /// says how it goes on. The number comes back when it does.
    Pause(u64),
    /// Let a guest that stands still go on.
    GoOn,
    /// Stop the guest where it is, and hand it back.
    Stop,
}

#[derive(Debug, Default)]
struct Waiting {
    inputs: VecDeque<Input>,
    frames: usize,
    orders: VecDeque<Order>,
    since_ns: Option<u64>,
}

/// The queue between the host's threads and the vCPU thread.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// Mirrors whether anything waits, for the exit path to look at without the lock.
    any: AtomicBool,
    kick: OnceLock<Kick>,
    /// Stops the vCPU when an input has waited for an exit for too long.
    late: Mutex<Option<KickTimer>>,
    /// How long that is, in nanoseconds; 0 kicks at once (orders always do).
    patience_ns: AtomicU64,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how to stop the vCPU thread. Once, by that thread.
    pub fn attach(&self, kick: Kick, late: KickTimer) {
        let _ = self.kick.set(kick);
        *self.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(late);
    }

    /// How long an input waits for a running guest to exit by itself before the guest is stopped
    /// for it. Zero when no log needs a position.
    pub fn set_patience(&self, patience: Duration) {
        let ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        self.patience_ns.store(ns, Ordering::Release);
    }

    /// Adds an input. Frames beyond [`FRAMES_MAX`] are dropped, as a full ring drops them; the
    /// answer says whether this one was.
    pub fn push(&self, input: Input) -> bool {
        let mut waiting = self.lock();
        if matches!(input, Input::NetRx { .. }) {
            if waiting.frames >= FRAMES_MAX {
                return false;
            }
            waiting.frames += 1;
        }
        waiting.inputs.push_back(input);
        let first = waiting.since_ns.is_none();
        waiting.since_ns.get_or_insert_with(monotonic_ns);
        let patience = Duration::from_nanos(self.patience_ns.load(Ordering::Acquire));
        self.announce(waiting, patience.is_zero());
        if first && !patience.is_zero() {
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(timer) = late.as_mut() {
                timer.set(patience);
            }
        }
        true
    }

    /// Gives an order and stops the vCPU for it.
    pub fn order(&self, order: Order) {
        let mut waiting = self.lock();
        waiting.orders.push_back(order);
        self.announce(waiting, true);
    }

    fn announce(&self, waiting: MutexGuard<'_, Waiting>, kick: bool) {
        self.any.store(true, Ordering::Release);
        drop(waiting);
        self.arrived.notify_one();
        if kick && let Some(kick) = self.kick.get() {
            kick.now();
        }
    }

    /// Whether there may be something to take. No lock.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Whether more frames may be read from the TAP.
    pub fn has_room_for_frames(&self) -> bool {
        self.lock().frames < FRAMES_MAX
    }

    /// Takes the next order.
    pub fn take_order(&self) -> Option<Order> {
        self.lock().orders.pop_front()
    }

    /// Waits for the next order; inputs are left where they are.
    pub fn wait_for_order(&self) -> Order {
        let mut waiting = self.lock();
        loop {
            if let Some(order) = waiting.orders.pop_front() {
                return order;
            }
            let woken = self.arrived.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the inputs into `into`, in order of arrival.
    pub fn take_inputs(&self, into: &mut VecDeque<Input>) {
        let mut waiting = self.lock();
        into.append(&mut waiting.inputs);
        waiting.frames = 0;
        waiting.since_ns = None;
        self.any
            .store(!waiting.orders.is_empty(), Ordering::Release);
    }

    /// How long the oldest input has waited, in nanoseconds of host time.
    pub fn waiting_since_ns(&self) -> Option<u64> {
        self.lock().since_ns
    }

    /// Waits until something is there or `timeout` (for ever, if `None`) is over.
    pub fn wait(&self, timeout: Option<Duration>) {
        let waiting = self.lock();
        if !waiting.inputs.is_empty() || !waiting.orders.is_empty() {
            return;
        }
        match timeout {
            Some(timeout) => drop(self.arrived.wait_timeout(waiting, timeout)),
            None => drop(self.arrived.wait(waiting)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_out_in_order_and_frames_are_bounded() {
        let inbox = Inbox::default();
        for byte in 0..=u8::MAX {
            assert!(inbox.push(Input::NetRx { frame: vec![byte] }));
        }
        assert!(!inbox.push(Input::NetRx { frame: vec![] }));
        assert!(inbox.push(Input::PowerButton));
        assert!(!inbox.has_room_for_frames());
        let mut out = VecDeque::new();
        inbox.take_inputs(&mut out);
        assert_eq!(out.len(), 257);
        assert_eq!(out[3], Input::NetRx { frame: vec![3] });
        assert_eq!(out[256], Input::PowerButton);
        assert!(!inbox.any() && inbox.has_room_for_frames());
    }

    #[test]
    fn who_waits_for_an_order_leaves_the_inputs() {
        let inbox = std::sync::Arc::new(Inbox::default());
        inbox.push(Input::PowerButton);
        let other = std::sync::Arc::clone(&inbox);
        let waiter = std::thread::spawn(move || other.wait_for_order());
        inbox.push(Input::PowerButton);
        inbox.order(Order::GoOn);
        assert!(matches!(waiter.join(), Ok(Order::GoOn)));
        let mut out = VecDeque::new();
        inbox.take_inputs(&mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn an_order_wakes_a_waiter() {
        let inbox = std::sync::Arc::new(Inbox::default());
        let other = std::sync::Arc::clone(&inbox);
        let waiter = std::thread::spawn(move || {
            other.wait(Some(Duration::from_secs(20)));
            other.take_order()
        });
        inbox.order(Order::Stop);
        assert!(matches!(waiter.join(), Ok(Some(Order::Stop))));
    }
}
