//! Disk Paxos on a shared device: the I/O around [`super::paxos`].

mod device;

use std::path::Path;
use std::time::{Duration, Instant};

use super::candidate::{Candidate, Standing};
use super::layout::{AREA_BYTES, GENERATIONS, Header, ROW_BYTES, SECTOR_BYTES, copy_offset};
use super::layout::{ROWS_OFFSET, Reader, Writer, candidate_offset, row_offset, sign_offset};
use super::paxos::{Action, Bid, Block, Outcome};
use super::record::{Record, newest};
use super::sign::SIGN_BYTES_MAX;
use super::{Arbiter, ArbiterError, HostSlot, SLOTS, Sign, Verdict};
use crate::host::entropy;
use device::Device;

const SIGN_MAGIC: &[u8; 8] = b"ftdsign1";
/// How long other hosts may keep a bid from its end by outbidding it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time to wait before bidding again, in microseconds.
const WAIT_MAX_US: u64 = 64_000;
/// Bytes at the end of a device that [`format`] wants to see empty as well: some kinds of RAID and
/// GPT's second copy leave nothing but that.
const TAIL_BYTES: u64 = 1 << 20;

/// An arbiter on a device prepared by [`format`].
#[derive(Debug)]
pub struct RegionArbiter {
    device: Device,
    header: Header,
    host_id: String,
    slot: HostSlot,
    patience: Duration,
}

/// A row of sectors as read.
struct Row {
    records: [Option<Record>; SLOTS],
}

impl RegionArbiter {
    /// Opens the device or file at `path`. Identifiers are as in [`super::open`].
    ///
    /// # Errors
    /// [`ArbiterError`]: not prepared, another machine's, no direct I/O, or the slot is in use by
    /// another process of this host.
    pub fn open(
        path: &Path,
        vm_id: &str,
        host_id: &str,
        slot: HostSlot,
    ) -> Result<Self, ArbiterError> {
        let device = Device::open(path, false)?;
        let header = read_header(&device)?.ok_or_else(|| ArbiterError::NotFormatted {
            vm: vm_id.to_owned(),
            path: path.to_owned(),
        })?;
        if header.vm_id != vm_id {
            return Err(ArbiterError::OtherVm {
                path: path.to_owned(),
                found: header.vm_id,
                wanted: vm_id.to_owned(),
            });
        }
        device.lock(slot)?;
        Ok(RegionArbiter {
            device,
            header,
            host_id: host_id.to_owned(),
            slot,
            patience: PATIENCE,
        })
    }

    fn corrupt(&self, what: &str) -> ArbiterError {
        ArbiterError::Corrupt {
            path: self.device.path().to_owned(),
            what: what.to_owned(),
        }
    }

    /// Somebody may have formatted the device since it was opened.
    fn check_header(&self) -> Result<(), ArbiterError> {
        match read_header(&self.device)? {
            Some(header) if header == self.header => Ok(()),
            _ => Err(self.corrupt("it was formatted while it was in use")),
        }
    }

    fn read_row(&self, generation: u64) -> Result<Row, ArbiterError> {
        let bytes = self.device.read(row_offset(generation), ROW_BYTES)?;
        self.parse_row(&bytes)
    }

    fn parse_row(&self, bytes: &[u8]) -> Result<Row, ArbiterError> {
        let mut records = [const { None }; SLOTS];
        for (slot, record) in records.iter_mut().enumerate() {
            let copies = [0, 1].map(|copy| {
                let at = copy_offset(slot, copy);
                &bytes[at..at + SECTOR_BYTES]
            });
            *record = newest(&self.header.area_id, slot, copies)
                .map_err(|what| self.corrupt(&format!("{what} (slot {slot})")))?;
        }
        Ok(Row { records })
    }

    /// Two hosts of one name could not tell which of them won.
    fn check_names(&self, generation: u64, row: &Row) -> Result<(), ArbiterError> {
        for (slot, record) in row.records.iter().enumerate() {
            if let Some(record) = record
                && slot != self.slot.index()
                && record.block.generation == generation
                && record.writer == self.host_id
            {
                return Err(self.corrupt(&format!(
                    "host '{}' bids in slot {slot} and in slot {}: give each host a name and a \
                     slot of its own",
                    self.host_id, self.slot
                )));
            }
        }
        Ok(())
    }

    fn write_block(
        &self,
        block: Block<String>,
        sequence: u64,
        generation: u64,
    ) -> Result<(), ArbiterError> {
        let record = Record {
            area_id: self.header.area_id,
            slot: self.slot.index() as u8,
            sequence,
            writer: self.host_id.clone(),
            block,
        };
        // Over the older copy: the newer one is what stands if this write is cut short.
        let copy = copy_offset(self.slot.index(), (sequence & 1) as usize);
        let offset = row_offset(generation) + copy as u64;
        self.device.write(offset, &record.encode())
    }

    /// Sleeps a random time that grows with each time this host was outbid.
    fn back_off(&self, round: u32) -> Result<(), ArbiterError> {
        let most = (500u64 << round.min(16)).min(WAIT_MAX_US);
        let random = entropy::random_u64()
            .map_err(ArbiterError::io("get random bytes for", self.device.path()))?;
        std::thread::sleep(Duration::from_micros(random % most));
        Ok(())
    }

    fn decide(&self, generation: u64) -> Result<Outcome<String>, ArbiterError> {
        let start = Instant::now();
        let me = self.slot.index();
        let mut bid = Bid::new(me, SLOTS, generation, self.host_id.clone());
        let mut row = self.read_row(generation)?;
        let mut sequence = row.records[me].as_ref().map_or(0, |own| own.sequence);
        let mut fresh = true;
        loop {
            match bid.action() {
                Action::Read { slot } => {
                    // One read serves all slots of a round, as it begins with the first of them.
                    if slot == 0 && !fresh {
                        row = self.read_row(generation)?;
                    }
                    fresh = false;
                    if slot == 0 {
                        self.check_names(generation, &row)?;
                    }
                    bid.read(row.records[slot].take().map(|record| record.block));
                }
                Action::Write(block) => {
                    sequence += 1;
                    match self.write_block(block, sequence, generation) {
                        Err(error) if bid.is_publishing() => {
                            tracing::warn!("the decision stands, but was not published: {error}");
                        }
                        result => result?,
                    }
                    bid.written();
                }
                Action::Wait { round } => {
                    if start.elapsed() >= self.patience {
                        return Err(ArbiterError::TimedOut {
                            generation,
                            ms: start.elapsed().as_millis() as u64,
                        });
                    }
                    self.back_off(round)?;
                    bid.waited();
                }
                Action::Done(outcome) => return Ok(outcome),
            }
        }
    }
}

impl Arbiter for RegionArbiter {
    fn test_and_set(&mut self, generation: u64) -> Result<Verdict, ArbiterError> {
        if generation == 0 {
            return Err(ArbiterError::GenerationZero);
        }
        self.check_header()?;
        match self.decide(generation)? {
            Outcome::Decided(winner) if winner == self.host_id => Ok(Verdict::Won),
            Outcome::Decided(winner) => Ok(Verdict::Lost { winner }),
            Outcome::Superseded { newest } => Err(ArbiterError::Superseded { generation, newest }),
            Outcome::Conflict => Err(ArbiterError::SlotTaken {
                path: self.device.path().to_owned(),
                slot: self.slot,
                by: "another host".to_owned(),
            }),
        }
    }

    fn stand(&mut self, generation: u64, through: u64) -> Result<Standing, ArbiterError> {
        self.check_header()?;
        let area_id = &self.header.area_id;
        let own = Candidate {
            generation,
            through,
        };
        let offset = candidate_offset(self.slot.index());
        self.device.write(offset, &own.encode(area_id))?;
        let bytes = self
            .device
            .read(candidate_offset(0), SLOTS * SECTOR_BYTES)?;
        let candidates = bytes
            .chunks_exact(SECTOR_BYTES)
            .filter_map(|sector| Candidate::decode(area_id, sector))
            .filter(|candidate| candidate.generation == generation);
        let through = candidates.map(|candidate| candidate.through).collect();
        // Nor is it open when a value was proposed whose bidder could not publish what became of it: whoever bids
        // after that bids for the same value.
        let row = self.read_row(generation)?;
        let settled = |record: &Record| {
            let block = &record.block;
            block.generation > generation || (block.generation == generation && block.inp.is_some())
        };
        Ok(Standing {
            decided: row.records.iter().flatten().any(settled),
            through,
        })
    }

    fn is_superseded(&mut self, generation: u64) -> Result<bool, ArbiterError> {
        let row = self.read_row(generation.saturating_add(1))?;
        let newer = |record: &Record| record.block.decided && record.block.generation > generation;
        Ok(row.records.iter().flatten().any(newer))
    }

    fn sign(&mut self, sign: &Sign) -> Result<(), ArbiterError> {
        let bytes = postcard::to_allocvec(sign).unwrap_or_default();
        if bytes.len() > SIGN_BYTES_MAX {
            return Err(self.corrupt("a sign of life is too long for a sector"));
        }
        let mut writer = Writer::new(SIGN_MAGIC);
        writer.put(&self.header.area_id);
        writer.put_bytes(&bytes);
        let offset = sign_offset(self.slot.index());
        self.device.write(offset, &writer.finish())
    }

    fn sign_of(&mut self, generation: u64) -> Result<Option<Sign>, ArbiterError> {
        let bytes = self.device.read(sign_offset(0), SLOTS * SECTOR_BYTES)?;
        let signs = bytes.chunks_exact(SECTOR_BYTES).filter_map(|sector| {
            let mut reader = Reader::new(SIGN_MAGIC, sector)?;
            let ours = reader.take::<16>()? == self.header.area_id;
            let sign: Sign = postcard::from_bytes(reader.take_bytes()?).ok()?;
            (ours && sign.generation == generation).then_some(sign)
        });
        // A host may have been given another slot and left an old one behind.
        Ok(signs.max_by_key(|sign| sign.beat))
    }

    fn current_generation(&mut self) -> Result<u64, ArbiterError> {
        self.check_header()?;
        let len = ROW_BYTES * GENERATIONS as usize;
        let bytes = self.device.read(ROWS_OFFSET, len)?;
        let mut highest = 0;
        for row in bytes.chunks_exact(ROW_BYTES) {
            for record in self.parse_row(row)?.records.into_iter().flatten() {
                if record.block.decided {
                    highest = highest.max(record.block.generation);
                }
            }
        }
        Ok(highest)
    }
}

/// The header, if there is one.
fn read_header(device: &Device) -> Result<Option<Header>, ArbiterError> {
    if device.len() < AREA_BYTES {
        return Ok(None);
    }
    Ok(Header::decode(&device.read(0, SECTOR_BYTES)?))
}

/// See [`super::format_device`].
pub(super) fn format(path: &Path, vm_id: &str, force: bool) -> Result<(), ArbiterError> {
    let device = Device::open(path, true)?;
    if device.len() < AREA_BYTES {
        return Err(ArbiterError::TooSmall {
            path: path.to_owned(),
            len: device.len(),
            needed: AREA_BYTES,
        });
    }
    if !force {
        check_empty(&device, 0, AREA_BYTES)?;
        let unit = SECTOR_BYTES as u64;
        let end = device.len() - device.len() % unit;
        let tail = end.saturating_sub(TAIL_BYTES).max(AREA_BYTES);
        check_empty(&device, tail, end.saturating_sub(tail))?;
    }
    let mut area_id = [0; 16];
    entropy::fill(&mut area_id).map_err(ArbiterError::io("get random bytes for", path))?;
    let vm_id = vm_id.to_owned();
    // The header goes first and comes last: in between nobody takes the device for a prepared one.
    let zeros = vec![0; SECTOR_BYTES.max(ROWS_OFFSET as usize)];
    let mut offset = 0;
    while offset < AREA_BYTES {
        device.write(offset, &zeros)?;
        offset += zeros.len() as u64;
    }
    device.write(0, &Header { vm_id, area_id }.encode())
}

fn check_empty(device: &Device, offset: u64, len: u64) -> Result<(), ArbiterError> {
    if len == 0 {
        return Ok(());
    }
    let bytes = device.read(offset, len as usize)?;
    match bytes.iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(at) => Err(ArbiterError::NotEmpty {
            path: device.path().to_owned(),
            offset: offset + at as u64,
        }),
    }
}

const _: () = assert!(AREA_BYTES.is_multiple_of(ROWS_OFFSET));

#[cfg(test)]
pub(crate) mod tests;
