//! Epochs that a joiner or backup has received and not executed.

use std::collections::VecDeque;

use super::event::ProtocolError;
use crate::entry::Epoch;

/// What an epoch costs beside its bytes, so that many small ones are bounded, too.
const EPOCH_OVERHEAD: u64 = 64;

/// Their numbers, what they hold of memory in bytes, and when they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Ahead {
    epochs: VecDeque<(Epoch, u64, u64)>,
    bytes: u64,
}

impl Ahead {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the oldest came.
    pub(super) fn since_ns(&self) -> Option<u64> {
        self.epochs.front().map(|&(_, _, at)| at)
    }

    /// Adds an epoch of `len` bytes that came at `now`, if that stays within `max` bytes in all.
    pub(super) fn push(
        &mut self,
        epoch: Epoch,
        len: usize,
        now: u64,
        max: u64,
    ) -> Result<(), ProtocolError> {
        let bytes = len as u64 + EPOCH_OVERHEAD;
        if self.bytes + bytes > max {
            return Err(ProtocolError::TooFarAhead);
        }
        self.bytes += bytes;
        self.epochs.push_back((epoch, bytes, now));
        Ok(())
    }

    /// Takes the oldest away; gives its bytes.
    pub(super) fn pop(&mut self) -> u64 {
        let bytes = self.epochs.pop_front().map_or(0, |(_, bytes, _)| bytes);
        self.bytes -= bytes;
        bytes
    }
}
