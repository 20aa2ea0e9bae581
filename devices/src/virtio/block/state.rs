//! Saved state of virtio-blk: what is in flight, and whether a peer's word on it can be true.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Block, DiskConfig, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, NAME, REQUEST_BYTES_MAX, data_bytes,
    request,
};
use crate::virtio::chain::Segment;
use crate::virtio::queue::QueueState;
use crate::{DiskOp, RestoreError};

/// State of virtio-blk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// Index of the disk.
    pub disk: u8,
    /// The configuration; must be the same where the state is restored.
    pub config: DiskConfig,
    /// Identifier of the next request.
    pub next_id: u64,
    /// Requests emitted and not complete, by identifier.
    pub in_flight: BTreeMap<u64, InFlight>,
}

/// A request that was emitted and is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// What was asked, with the data of a write.
    pub op: DiskOp,
    /// Where the completion goes. `None` after a reset or a fault of the device: the completion
    /// is awaited, so that later requests come after it, and then forgotten.
    pub target: Option<Target>,
}

/// Where a request's completion goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Head of the descriptor chain.
    pub head: u16,
    /// Where a read's data goes; exactly as long as the read. Empty for other requests.
    pub data: Vec<Segment>,
    /// Guest-physical address of the status byte.
    pub status_address: u64,
    /// Whether the status byte is all of the chain's device-writable part, `data` aside.
    pub status_follows: bool,
}

impl Block {
    pub fn save(&self) -> BlockState {
        self.state.clone()
    }

    /// `live_queue` is the request queue if the restored device is live.
    pub fn restore(
        &mut self,
        state: BlockState,
        live_queue: Option<&QueueState>,
    ) -> Result<(), RestoreError> {
        let BlockState {
            disk,
            config,
            next_id,
            in_flight,
        } = &state;
        let check = |valid, field| RestoreError::check(valid, NAME, field);
        check(*disk == self.state.disk, "disk")?;
        check(*config == self.state.config, "config")?;
        check(in_flight.len() <= IN_FLIGHT_MAX, "in_flight")?;
        // No guest makes 2^63 requests; room to count on without overflow.
        let countable = *next_id <= u64::MAX / 2;
        check(
            countable && in_flight.keys().all(|id| id < next_id),
            "next_id",
        )?;
        let mut bytes = 0;
        let mut targets_begun = false;
        for InFlight { op, target } in in_flight.values() {
            check(request::is_possible(op, config), "in_flight.op")?;
            bytes += data_bytes(op);
            // Abandoned requests are all older than those of the present driver.
            check(target.is_some() || !targets_begun, "in_flight.target")?;
            targets_begun |= target.is_some();
            if let Some(target) = target {
                let possible = live_queue.is_some_and(|queue| target.is_possible(op, queue));
                check(possible, "in_flight.target")?;
            }
        }
        check(bytes < IN_FLIGHT_BYTES_MAX + REQUEST_BYTES_MAX, "in_flight")?;
        self.state = state;
        self.in_flight_bytes = bytes;
        Ok(())
    }
}

impl Target {
    fn is_possible(&self, op: &DiskOp, queue: &QueueState) -> bool {
        let Target {
            head,
            data,
            status_address: _,
            status_follows: _,
        } = self;
        let room: u64 = data.iter().map(|segment| u64::from(segment.len)).sum();
        let expected = match op {
            DiskOp::Read { len, .. } => u64::from(*len),
            _ => 0,
        };
        queue.ready && *head < queue.size && room == expected
    }
}
