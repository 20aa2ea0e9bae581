//! virtio-rng (virtio 1.2, section 5.4): random bytes from a pool that one logged input fills.

use serde::{Deserialize, Serialize};

use super::chain::{Chain, scatter};
use super::device::Rings;
use super::error::{FaultReason, Stop, VirtioError};
use crate::{Effect, GuestMemory, Input, RestoreError};

/// How many bytes are asked of the host at once. Linux takes 64 at a time, so one log entry lasts
/// for sixteen requests.
const ENTROPY_BATCH_BYTES: u32 = 1024;
const NAME: &str = "virtio-rng";
const REQUESTS: usize = 0;
/// Largest size of each queue.
pub(super) const QUEUE_SIZES: &[u16] = &[64];

/// State of virtio-rng.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {
    /// Entropy that came and was not given to the guest yet; taken from the end.
    pub pool: Vec<u8>,
    /// Bytes asked for by an [`Effect::EntropyWanted`] that has not been answered; 0 for none.
    pub wanted: u32,
}

/// The device.
#[derive(Debug)]
pub(super) struct Rng {
    state: RngState,
}

impl Rng {
    pub fn new() -> Self {
        Rng {
            state: RngState::default(),
        }
    }

    pub fn wanted(&self) -> Option<u32> {
        (self.state.wanted != 0).then_some(self.state.wanted)
    }

    /// Answers requests while the pool lasts, then asks for more. A request may get fewer bytes
    /// than it has room for (section 5.4.6.1), so none waits for a second batch.
    pub fn serve(
        &mut self,
        rings: &mut Rings<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), FaultReason> {
        let queue = &mut rings.queues[REQUESTS];
        let used_before = queue.next_used();
        let mut waiting = queue.available(rings.mem)?;
        while waiting > 0 && !self.state.pool.is_empty() {
            waiting -= 1;
            queue.take(rings.mem, rings.chain)?;
            if rings.chain.writable_bytes == 0 {
                return Err(rings.chain.shape_fault());
            }
            let written = self.draw(rings.mem, rings.chain)?;
            queue.add_used(rings.mem, rings.chain.head, written)?;
        }
        queue.set_notify(rings.mem, true)?;
        if waiting > 0 && self.state.wanted == 0 {
            self.state.wanted = ENTROPY_BATCH_BYTES;
            effects.push(Effect::EntropyWanted {
                len: ENTROPY_BATCH_BYTES,
            });
        }
        rings.interrupt_for(REQUESTS, used_before)
    }

    fn draw(&mut self, mem: &GuestMemory, chain: &Chain) -> Result<u32, FaultReason> {
        let pool = &mut self.state.pool;
        let room = usize::try_from(chain.writable_bytes).unwrap_or(usize::MAX);
        let left = pool.len() - room.min(pool.len());
        scatter(mem, &chain.writable, 0, &pool[left..])?;
        // Bounded by the pool: a batch, which is 32 bits.
        let written = (pool.len() - left) as u32;
        pool.truncate(left);
        Ok(written)
    }

    pub fn input(
        &mut self,
        rings: Option<&mut Rings<'_>>,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let Input::Entropy { bytes } = input else {
            return Err(VirtioError::Misrouted { device: NAME }.into());
        };
        let wanted = self.state.wanted;
        if bytes.is_empty() || bytes.len() > wanted as usize {
            let found = bytes.len();
            return Err(VirtioError::EntropyLength { found, wanted }.into());
        }
        self.state.wanted = 0;
        // More is wanted only when the pool is empty.
        self.state.pool = bytes;
        match rings {
            Some(rings) => Ok(self.serve(rings, effects)?),
            None => Ok(()),
        }
    }

    pub fn save(&self) -> RngState {
        self.state.clone()
    }

    pub fn restore(&mut self, state: RngState) -> Result<(), RestoreError> {
        let RngState { pool, wanted } = &state;
        let batch = ENTROPY_BATCH_BYTES as usize;
        RestoreError::check(pool.len() <= batch, NAME, "pool")?;
        let possible = *wanted == 0 || (*wanted == ENTROPY_BATCH_BYTES && pool.is_empty());
        RestoreError::check(possible, NAME, "wanted")?;
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
