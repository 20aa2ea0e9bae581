//! virtio-blk (virtio 1.2, section 5.2): requests in flight and their completion.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chain::{Segment, scatter};
use super::device::Rings;
use super::error::{FaultReason, Stop, VirtioError};
use crate::{DiskError, DiskOp, DiskOutcome, DiskRequest, Effect, GuestMemory, Input};

mod request;
mod state;

pub use state::{BlockState, InFlight, Target};

use request::{Request, parse};

const NAME: &str = "virtio-blk";
const REQUESTS: usize = 0;
/// Largest size of each queue.
pub(super) const QUEUE_SIZES: &[u16] = &[256];
/// Bytes in a sector, the unit of the protocol whatever the block size.
const SECTOR_BYTES: u64 = 512;
/// VIRTIO_BLK_ID_BYTES.
const SERIAL_BYTES: usize = 20;

/// Longest segment the driver may use (size_max), in bytes.
const SEGMENT_BYTES_MAX: u32 = 16 << 10;
/// Most data segments in a request (seg_max): with header and status, a queue full.
const SEGMENTS_MAX: u32 = 254;
/// Most data in a request, in bytes; size_max * seg_max stays below it.
const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// While this much data is in flight, in bytes, further requests wait in the ring: it bounds the
/// memory a guest can make the host hold.
const IN_FLIGHT_BYTES_MAX: u64 = 16 << 20;
/// Most requests in flight; a driver that keeps the rules can't have more than the queue's size.
const IN_FLIGHT_MAX: usize = QUEUE_SIZES[REQUESTS] as usize;
/// Most sectors in one discard (max_discard_sectors).
const DISCARD_SECTORS_MAX: u32 = (1 << 30) / SECTOR_BYTES as u32;

/// VIRTIO_BLK_F_SIZE_MAX, SEG_MAX, RO, BLK_SIZE, FLUSH, DISCARD (section 5.2.3).
const FEATURE_SIZE_MAX: u64 = 1 << 1;
const FEATURE_SEG_MAX: u64 = 1 << 2;
const FEATURE_RO: u64 = 1 << 5;
const FEATURE_BLK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_DISCARD: u64 = 1 << 13;

/// The status byte of a request (section 5.2.6).
const STATUS_OK: u8 = 0;
const STATUS_IOERR: u8 = 1;
const STATUS_UNSUPP: u8 = 2;

/// What a disk is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// Size in bytes; a last partial sector of 512 bytes is out of the guest's sight.
    pub capacity_bytes: u64,
    /// Whether the guest may write.
    pub read_only: bool,
    /// Serial number; the guest sees the first 20 bytes.
    pub serial: String,
}

/// The device.
#[derive(Debug)]
pub(super) struct Block {
    state: BlockState,
    // Follows from `state.in_flight`.
    in_flight_bytes: u64,
}

impl Block {
    pub fn new(disk: u8, config: &DiskConfig) -> Self {
        Block {
            state: BlockState {
                disk,
                config: config.clone(),
                next_id: 0,
                in_flight: BTreeMap::new(),
            },
            in_flight_bytes: 0,
        }
    }

    pub fn features(&self) -> u64 {
        let writing = if self.state.config.read_only {
            FEATURE_RO
        } else {
            FEATURE_DISCARD
        };
        FEATURE_SIZE_MAX | FEATURE_SEG_MAX | FEATURE_BLK_SIZE | FEATURE_FLUSH | writing
    }

    /// struct virtio_blk_config (section 5.2.4).
    pub fn config_space(&self) -> [u8; 60] {
        let mut space = [0; 60];
        let capacity = self.state.config.capacity_bytes / SECTOR_BYTES;
        space[..8].copy_from_slice(&capacity.to_le_bytes());
        let mut put = |at: usize, value: u32| {
            space[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(8, SEGMENT_BYTES_MAX);
        put(12, SEGMENTS_MAX);
        put(20, SECTOR_BYTES as u32);
        if !self.state.config.read_only {
            put(36, DISCARD_SECTORS_MAX);
            // max_discard_seg, discard_sector_alignment.
            put(40, 1);
            put(44, 1);
        }
        space
    }

    /// Takes requests from the ring as far as the bounds allow. After a reset none is taken until
    /// the requests from before it are complete, as a real disk would drain them: a late write
    /// could overtake a new one otherwise.
    pub fn process(
        &mut self,
        rings: &mut Rings<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), FaultReason> {
        let used_before = rings.queues[REQUESTS].next_used();
        self.take_requests(rings, effects)?;
        rings.interrupt_for(REQUESTS, used_before)
    }

    fn take_requests(
        &mut self,
        rings: &mut Rings<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), FaultReason> {
        let mem = rings.mem;
        let queue = &mut rings.queues[REQUESTS];
        for _ in 0..queue.available(mem)? {
            if !self.has_room() {
                // A completion takes up where this stops, no notification is needed.
                return queue.set_notify(mem, false);
            }
            queue.take(mem, rings.chain)?;
            let parsed = parse(mem, rings.chain, &self.state.config)?;
            match parsed {
                Request::Emit { op, target } => effects.push(self.emit(op, target)),
                Request::Answer {
                    status,
                    status_address,
                    written,
                } => {
                    write_status(mem, status_address, status)?;
                    queue.add_used(mem, rings.chain.head, written)?;
                }
            }
        }
        queue.set_notify(mem, true)
    }

    fn has_room(&self) -> bool {
        let draining = self
            .state
            .in_flight
            .first_key_value()
            .is_some_and(|(_, oldest)| oldest.target.is_none());
        !draining
            && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX
            && self.state.in_flight.len() < IN_FLIGHT_MAX
    }

    fn emit(&mut self, op: DiskOp, target: Target) -> Effect {
        let id = self.state.next_id;
        self.state.next_id += 1;
        self.in_flight_bytes += data_bytes(&op);
        // The one copy beyond the bounce buffer: whoever goes live issues the write again from it.
        let request = DiskRequest {
            disk: self.state.disk,
            id,
            op: op.clone(),
        };
        let target = Some(target);
        self.state.in_flight.insert(id, InFlight { op, target });
        Effect::Disk(request)
    }

    pub fn input(
        &mut self,
        rings: Option<&mut Rings<'_>>,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let Input::DiskDone { disk, id, outcome } = input else {
            return Err(VirtioError::Misrouted { device: NAME }.into());
        };
        if disk != self.state.disk {
            let expected = self.state.disk;
            return Err(VirtioError::WrongDisk {
                found: disk,
                expected,
            }
            .into());
        }
        let Some(request) = self.state.in_flight.get(&id) else {
            return Err(VirtioError::UnknownRequest { disk, id }.into());
        };
        check_outcome(disk, id, &request.op, &outcome)?;
        let Some(InFlight { op, target }) = self.state.in_flight.remove(&id) else {
            return Ok(());
        };
        self.in_flight_bytes -= data_bytes(&op);
        let Some(rings) = rings else {
            return Ok(());
        };
        let used_before = rings.queues[REQUESTS].next_used();
        if let Some(target) = target {
            if is_write_through(rings, &op) && outcome == DiskOutcome::Done {
                let flush = self.emit(DiskOp::Flush, target);
                effects.push(flush);
                return Ok(());
            }
            let written = complete(rings.mem, &target, &outcome)?;
            rings.queues[REQUESTS].add_used(rings.mem, target.head, written)?;
        }
        self.take_requests(rings, effects)?;
        Ok(rings.interrupt_for(REQUESTS, used_before)?)
    }

    pub fn abandon(&mut self) {
        for request in self.state.in_flight.values_mut() {
            request.target = None;
        }
    }

    pub fn outstanding(&self) -> Vec<DiskRequest> {
        let disk = self.state.disk;
        let request = |(&id, request): (&u64, &InFlight)| DiskRequest {
            disk,
            id,
            op: request.op.clone(),
        };
        self.state.in_flight.iter().map(request).collect()
    }
}

/// A driver that does not take VIRTIO_BLK_F_FLUSH can't ask for what it wrote to be stable: it is so once it is
/// complete (section 5.2.6.2).
fn is_write_through(rings: &Rings<'_>, op: &DiskOp) -> bool {
    matches!(op, DiskOp::Write { .. }) && rings.features & FEATURE_FLUSH == 0
}

/// Data that a request makes the host hold, in bytes.
fn data_bytes(op: &DiskOp) -> u64 {
    match op {
        DiskOp::Read { len, .. } => u64::from(*len),
        DiskOp::Write { data, .. } => data.len() as u64,
        DiskOp::Flush | DiskOp::Discard { .. } => 0,
    }
}

fn check_outcome(disk: u8, id: u64, op: &DiskOp, outcome: &DiskOutcome) -> Result<(), VirtioError> {
    match (op, outcome) {
        (_, DiskOutcome::Failed(_)) => Ok(()),
        (DiskOp::Read { len, .. }, DiskOutcome::Read(data)) => {
            if data.len() == *len as usize {
                return Ok(());
            }
            let found = data.len();
            Err(VirtioError::ReadLength {
                disk,
                id,
                found,
                expected: *len,
            })
        }
        (DiskOp::Read { .. }, DiskOutcome::Done) | (_, DiskOutcome::Read(_)) => {
            Err(VirtioError::WrongOutcome { disk, id })
        }
        (_, DiskOutcome::Done) => Ok(()),
    }
}

/// Writes data and status; says how many bytes of the writable part are filled from its start on.
fn complete(mem: &GuestMemory, target: &Target, outcome: &DiskOutcome) -> Result<u32, FaultReason> {
    let (status, data_written) = match outcome {
        DiskOutcome::Read(data) => {
            scatter(mem, &target.data, 0, data)?;
            // As long as the read, which is 32 bits.
            (STATUS_OK, data.len() as u32)
        }
        DiskOutcome::Done => (STATUS_OK, 0),
        DiskOutcome::Failed(DiskError::Io) => (STATUS_IOERR, 0),
        DiskOutcome::Failed(DiskError::Unsupported) => (STATUS_UNSUPP, 0),
    };
    write_status(mem, target.status_address, status)?;
    let hole = !target.status_follows || (data_written == 0 && !target.data.is_empty());
    Ok(if hole { 0 } else { data_written + 1 })
}

fn write_status(mem: &GuestMemory, address: u64, status: u8) -> Result<(), FaultReason> {
    scatter(mem, &[Segment { address, len: 1 }], 0, &[status])
}

#[cfg(test)]
mod tests;
