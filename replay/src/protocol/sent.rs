//! Epochs that were sent to the backups and are not executed by all of them.

use std::collections::VecDeque;

use crate::entry::Epoch;

/// Their numbers, sizes in bytes, and when they were sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    epochs: VecDeque<(Epoch, u64, u64)>,
    bytes: u64,
}

impl Sent {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn push(&mut self, epoch: Epoch, bytes: u64, now: u64) {
        self.epochs.push_back((epoch, bytes, now));
        self.bytes += bytes;
    }

    /// All backups have executed up to `executed`.
    pub(super) fn trim(&mut self, executed: Epoch) {
        while let Some(&(epoch, bytes, _)) = self.epochs.front() {
            if epoch > executed {
                break;
            }
            self.epochs.pop_front();
            self.bytes -= bytes;
        }
    }

    /// When the last of the epochs up to `through` was sent, if it is among them.
    pub(super) fn sent_at(&self, through: Epoch) -> Option<u64> {
        let behind = self.epochs.partition_point(|&(epoch, ..)| epoch <= through);
        let last = self.epochs.get(behind.checked_sub(1)?)?;
        Some(last.2)
    }

    /// When the first epoch after `executed` was sent.
    pub(super) fn since(&self, executed: Epoch) -> Option<u64> {
        let behind = self
            .epochs
            .partition_point(|&(epoch, ..)| epoch <= executed);
        self.epochs.get(behind).map(|&(_, _, at)| at)
    }
}
