//! virtio-console (virtio 1.2, section 5.3): one port, no control queues.

use serde::{Deserialize, Serialize};

use super::chain::{gather, scatter};
use super::device::Rings;
use super::error::{FaultReason, Stop, VirtioError};
use crate::{Effect, Input, RestoreError};

const NAME: &str = "virtio-console";
/// receiveq(port0), section 5.3.2.
const RECEIVE: usize = 0;
/// transmitq(port0).
const TRANSMIT: usize = 1;
/// Largest size of each queue.
pub(super) const QUEUE_SIZES: &[u16] = &[64, 64];
/// Most bytes of one chain of output. Linux writes at most 32 KiB at a time.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;
/// Most bytes of input that wait for the guest; more than that is typed by no person.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// State of virtio-console.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    /// Input that found no receive buffer yet, at most 64 KiB.
    pub input: Vec<u8>,
    /// Bytes of input lost because too many were waiting.
    pub input_bytes_dropped: u64,
}

/// The device.
#[derive(Debug)]
pub(super) struct Console {
    state: ConsoleState,
}

impl Console {
    pub fn new() -> Self {
        Console {
            state: ConsoleState::default(),
        }
    }

    pub fn notify(
        &mut self,
        rings: &mut Rings<'_>,
        queue: usize,
        effects: &mut Vec<Effect>,
    ) -> Result<(), FaultReason> {
        match queue {
            RECEIVE => self.deliver(rings),
            _ => transmit(rings, effects),
        }
    }

    /// Moves waiting input into receive buffers.
    fn deliver(&mut self, rings: &mut Rings<'_>) -> Result<(), FaultReason> {
        let queue = &mut rings.queues[RECEIVE];
        let used_before = queue.next_used();
        let buffers = queue.available(rings.mem)?;
        let mut done = 0;
        for _ in 0..buffers {
            let rest = &self.state.input[done..];
            if rest.is_empty() {
                break;
            }
            queue.take(rings.mem, rings.chain)?;
            if rings.chain.writable_bytes == 0 {
                return Err(rings.chain.shape_fault());
            }
            let room = usize::try_from(rings.chain.writable_bytes).unwrap_or(usize::MAX);
            let len = room.min(rest.len());
            scatter(rings.mem, &rings.chain.writable, 0, &rest[..len])?;
            // Bounded by INPUT_BYTES_MAX.
            queue.add_used(rings.mem, rings.chain.head, len as u32)?;
            done += len;
        }
        self.state.input.drain(..done);
        // A new buffer is news only while input waits for one.
        queue.set_notify(rings.mem, !self.state.input.is_empty())?;
        rings.interrupt_for(RECEIVE, used_before)
    }

    pub fn input(&mut self, rings: Option<&mut Rings<'_>>, input: Input) -> Result<(), Stop> {
        let Input::ConsoleIn {
            console: crate::Console::Virtio,
            bytes,
        } = input
        else {
            return Err(VirtioError::Misrouted { device: NAME }.into());
        };
        let room = INPUT_BYTES_MAX - self.state.input.len();
        let kept = bytes.len().min(room);
        self.state.input.extend_from_slice(&bytes[..kept]);
        let dropped = (bytes.len() - kept) as u64;
        self.state.input_bytes_dropped = self.state.input_bytes_dropped.saturating_add(dropped);
        match rings {
            Some(rings) => Ok(self.deliver(rings)?),
            None => Ok(()),
        }
    }

    /// Input typed for a driver that is gone is not for its successor.
    pub fn abandon(&mut self) {
        self.state.input.clear();
    }

    pub fn save(&self) -> ConsoleState {
        self.state.clone()
    }

    pub fn restore(&mut self, state: ConsoleState) -> Result<(), RestoreError> {
        let ConsoleState {
            input,
            input_bytes_dropped: _,
        } = &state;
        RestoreError::check(input.len() <= INPUT_BYTES_MAX, NAME, "input")?;
        self.state = state;
        Ok(())
    }
}

/// Takes all output at once; the guest does not wait for the output rule.
fn transmit(rings: &mut Rings<'_>, effects: &mut Vec<Effect>) -> Result<(), FaultReason> {
    let queue = &mut rings.queues[TRANSMIT];
    let used_before = queue.next_used();
    for _ in 0..queue.available(rings.mem)? {
        queue.take(rings.mem, rings.chain)?;
        let chain = &*rings.chain;
        if chain.readable_bytes > OUTPUT_BYTES_MAX {
            return Err(chain.shape_fault());
        }
        let mut bytes = vec![0; chain.readable_bytes as usize];
        gather(rings.mem, &chain.readable, 0, &mut bytes)?;
        queue.add_used(rings.mem, chain.head, 0)?;
        if !bytes.is_empty() {
            effects.push(Effect::ConsoleOut {
                console: crate::Console::Virtio,
                bytes,
            });
        }
    }
    queue.set_notify(rings.mem, true)?;
    rings.interrupt_for(TRANSMIT, used_before)
}

#[cfg(test)]
mod tests;
