//! The output rule, kept: outputs wait here until the log before them is acknowledged.

use std::collections::VecDeque;

use devices::Effect;
use replay::Epoch;

/// Most bytes that wait. Beyond, what is for the network or the console is lost, as it is on a line that is full; the
/// guest bounds its writes to disks by itself.
const BYTES_MAX: usize = 64 << 20;

/// Outputs in the order the guest made them, and how far they may go out.
#[derive(Debug, Default)]
pub struct Held {
    outputs: VecDeque<(Epoch, Effect)>,
    bytes: usize,
    holding_from: Option<Epoch>,
    released: Epoch,
    suspended: bool,
    /// Outputs that were lost since fewer than [`BYTES_MAX`] waited.
    lost: u64,
}

impl Held {
    /// From `epoch` on, outputs wait for [`Held::release`].
    pub fn hold_from(&mut self, epoch: Epoch) {
        self.holding_from = Some(epoch);
        self.released = epoch.saturating_sub(1);
    }

    /// Outputs of epochs up to `through` may go.
    pub fn release(&mut self, through: Epoch) {
        self.released = self.released.max(through);
    }

    /// Whether outputs wait for anybody.
    pub fn is_holding(&self) -> bool {
        self.holding_from.is_some()
    }

    /// All outputs may go, now and later: this is the only live copy.
    pub fn release_all(&mut self) {
        self.holding_from = None;
    }

    /// Nothing goes out at all while it is suspended.
    pub fn suspend(&mut self, suspended: bool) {
        self.suspended = suspended;
    }

    /// Adds an output that belongs to epoch `after` (0: made while nobody logged).
    pub fn push(&mut self, after: Epoch, effect: Effect) {
        let bytes = self.bytes + effect.data_bytes();
        if bytes > BYTES_MAX && matches!(effect, Effect::NetTx { .. } | Effect::ConsoleOut { .. }) {
            if self.lost == 0 {
                tracing::warn!(
                    "{} MiB of the guest's output wait: frames and console text beyond are lost",
                    BYTES_MAX >> 20
                );
            }
            self.lost += 1;
            return;
        }
        self.bytes = bytes;
        self.outputs.push_back((after, effect));
    }

    /// The next output that may go out, in order.
    pub fn next_free(&mut self) -> Option<Effect> {
        let (after, _) = self.outputs.front()?;
        if self.suspended {
            return None;
        }
        if self
            .holding_from
            .is_some_and(|from| *after >= from && *after > self.released)
        {
            return None;
        }
        let (_, effect) = self.outputs.pop_front()?;
        self.bytes -= effect.data_bytes();
        if self.lost > 0 && self.bytes < BYTES_MAX / 2 {
            tracing::warn!("{} frames and pieces of console text were lost", self.lost);
            self.lost = 0;
        }
        Some(effect)
    }

    /// Number of outputs that wait.
    pub fn len(&self) -> usize {
        self.outputs.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// Bytes of data that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets what waits: this host has lost the guest.
    pub fn discard(&mut self) {
        self.outputs.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(byte: u8) -> Effect {
        Effect::NetTx { frame: vec![byte] }
    }

    #[test]
    fn outputs_wait_for_their_epoch_and_keep_their_order() {
        let mut held = Held::default();
        held.push(0, frame(0));
        assert_eq!(held.next_free(), Some(frame(0)), "nobody logs yet");
        held.hold_from(5);
        held.push(0, frame(1));
        held.push(5, frame(2));
        held.push(6, frame(3));
        assert_eq!(held.next_free(), Some(frame(1)));
        assert_eq!(held.next_free(), None);
        held.release(5);
        assert_eq!(held.next_free(), Some(frame(2)));
        assert_eq!(held.next_free(), None);
        assert_eq!((held.len(), held.bytes()), (1, 1));
        held.suspend(true);
        held.release_all();
        assert_eq!(held.next_free(), None);
        held.suspend(false);
        assert_eq!(held.next_free(), Some(frame(3)));
        assert!(held.is_empty());
    }

    #[test]
    fn what_a_guest_makes_the_host_keep_is_bounded() {
        let mut held = Held::default();
        held.suspend(true);
        let frame = || Effect::NetTx {
            frame: vec![1; 1 << 20],
        };
        for _ in 0..100 {
            held.push(0, frame());
        }
        assert_eq!((held.len(), held.bytes(), held.lost), (64, BYTES_MAX, 36));
        held.push(0, Effect::PowerOff);
        assert_eq!(held.len(), 65, "what ends the guest is never lost");
        held.suspend(false);
        while held.next_free().is_some() {}
        assert_eq!((held.bytes(), held.lost), (0, 0));
        held.push(0, frame());
        assert_eq!(held.len(), 1);
    }
}
