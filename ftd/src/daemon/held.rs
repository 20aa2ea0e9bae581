//! The output rule, kept: outputs wait here until the log before them is acknowledged.

use std::collections::VecDeque;

use devices::Effect;
use replay::Epoch;

/// Outputs in the order the guest made them, and how far they may go out.
#[derive(Debug, Default)]
pub struct Held {
    outputs: VecDeque<(Epoch, Effect)>,
    bytes: usize,
    holding_from: Option<Epoch>,
    released: Epoch,
    suspended: bool,
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
        self.bytes += size(&effect);
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
        self.bytes -= size(&effect);
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

fn size(effect: &Effect) -> usize {
    match effect {
        Effect::NetTx { frame } => frame.len(),
        Effect::ConsoleOut { bytes, .. } => bytes.len(),
        Effect::Disk(request) => match &request.op {
            devices::DiskOp::Write { data, .. } => data.len(),
            _ => 0,
        },
        _ => 0,
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
}
