//! Entries to bytes.

use devices::{Console, DiskError, DiskOutcome, Input};

use super::{
    CodecError, CodecFault, EncodedEpoch, FAR, MAX_EPOCH_BYTES, MAX_EPOCH_ENTRIES, USUAL_RFLAGS,
    is_share, kind,
};
use crate::digest::{Digest, Marks};
use crate::entry::{Epoch, Event, Point, Position, Snapshot};
use crate::registers::RegisterSum;
use crate::wire::{GFN_END, put_bytes, put_pages, put_varint, zigzag};

/// Room kept for the `Reached` that closes an epoch, and its point.
const REACHED_BYTES_MAX: usize = 1 + 10 + DIGEST_BYTES_MAX + POINT_BYTES_MAX;
const DIGEST_BYTES_MAX: usize = 2 * (4 + 10 + Marks::MAX) + 10 + 10 + 4 + 8;
const POINT_BYTES_MAX: usize = 1 + 10 + 3 * 10 + 5 + 4;

/// Encodes entries as they happen, epoch after epoch.
#[derive(Debug, Clone)]
pub struct EpochBuilder {
    epoch: Epoch,
    bytes: Vec<u8>,
    entries: u32,
    pages: u64,
    last: u64,
    point: Option<Point>,
    clock: u64,
}

impl EpochBuilder {
    /// A builder whose first epoch is `first_epoch`.
    pub fn new(first_epoch: Epoch) -> Self {
        EpochBuilder {
            epoch: first_epoch,
            bytes: Vec::new(),
            entries: 0,
            pages: 0,
            last: 0,
            point: None,
            clock: 0,
        }
    }

    /// The epoch being built.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether nothing was pushed since the last close.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes so far.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Entries so far.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Appends an entry.
    ///
    /// # Errors
    ///
    /// When `at` lies before the last entry, `event` is `Reached` (which [`EpochBuilder::close`]
    /// appends), a page is malformed, or the epoch would grow beyond [`MAX_EPOCH_BYTES`],
    /// [`MAX_EPOCH_ENTRIES`] or a guest's RAM in pages. The builder is then as it was before.
    pub fn push(&mut self, at: Position, event: &Event) -> Result<(), CodecError> {
        let before = (
            self.bytes.len(),
            self.last,
            self.point,
            self.clock,
            self.pages,
        );
        let pushed = self.encode(at, event);
        pushed.map_err(|fault| {
            self.bytes.truncate(before.0);
            (_, self.last, self.point, self.clock, self.pages) = before;
            self.error(fault)
        })
    }

    /// Ends the epoch at `at` with `digest` ([`Event::Reached`]) and starts the next one.
    ///
    /// # Errors
    ///
    /// When `at` lies before the last entry, or the digest's share of RAM is none.
    pub fn close(&mut self, at: Position, digest: Digest) -> Result<EncodedEpoch, CodecError> {
        if !is_share(digest.ram.first, digest.ram.pages) {
            return Err(self.error(CodecFault::Share));
        }
        self.put_tag(at, kind::REACHED)
            .map_err(|fault| self.error(fault))?;
        self.put_digest(&digest);
        let next = EpochBuilder {
            bytes: Vec::with_capacity(self.bytes.len().min(1 << 16)),
            ..EpochBuilder::new(self.epoch + 1)
        };
        let done = std::mem::replace(self, next);
        Ok(EncodedEpoch {
            epoch: done.epoch,
            bytes: done.bytes,
            entries: done.entries + 1,
            released: 0,
        })
    }

    fn put_digest(&mut self, digest: &Digest) {
        let Digest {
            registers,
            devices,
            ram,
        } = digest;
        for marks in [registers, devices] {
            self.bytes.extend_from_slice(&marks.crc.to_le_bytes());
            put_bytes(&mut self.bytes, marks.marks());
        }
        put_varint(&mut self.bytes, u64::from(ram.pages));
        if ram.pages > 0 {
            put_varint(&mut self.bytes, ram.first);
            self.bytes.extend_from_slice(&ram.sum.to_le_bytes());
            self.bytes.extend_from_slice(&ram.weighted.to_le_bytes());
        }
    }

    fn error(&self, fault: CodecFault) -> CodecError {
        CodecError {
            epoch: self.epoch,
            entry: self.entries,
            offset: self.bytes.len(),
            fault,
        }
    }

    fn put_tag(&mut self, at: Position, kind: u8) -> Result<(), CodecFault> {
        let whole = matches!(kind, kind::PAGES | kind::SNAPSHOT);
        match at {
            Position::Exit(exits) => {
                if exits == self.last && self.point.is_some() && !whole {
                    return Err(CodecFault::Position);
                }
                self.point = None;
            }
            Position::Counted { .. } if whole => return Err(CodecFault::Position),
            Position::Counted { exits, point } => self.put_point(exits, point)?,
        }
        self.put_distance(at.exits(), kind)
    }

    fn put_point(&mut self, exits: u64, point: Point) -> Result<(), CodecFault> {
        let same_exit = exits == self.last;
        if same_exit && self.point == Some(point) {
            return Ok(());
        }
        let from = match self.point {
            Some(before) if same_exit => before.branches,
            _ => 0,
        };
        let further = point.branches.checked_sub(from);
        let further = further.ok_or(CodecFault::Position)?;
        self.put_distance(exits, kind::POINT)?;
        put_varint(&mut self.bytes, further);
        put_varint(&mut self.bytes, zigzag(point.rip));
        put_varint(&mut self.bytes, u64::from(point.rflags ^ USUAL_RFLAGS));
        let RegisterSum { crc, marks } = point.registers;
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        self.bytes.extend_from_slice(&marks.to_le_bytes());
        self.bytes.extend_from_slice(&point.stack.to_le_bytes());
        self.point = Some(point);
        Ok(())
    }

    fn put_distance(&mut self, exits: u64, kind: u8) -> Result<(), CodecFault> {
        let distance = exits.checked_sub(self.last).ok_or(CodecFault::Position)?;
        self.last = exits;
        if distance < FAR {
            self.bytes.push((distance as u8) << 4 | kind);
        } else {
            self.bytes.push((FAR as u8) << 4 | kind);
            put_varint(&mut self.bytes, distance - FAR);
        }
        Ok(())
    }

    fn encode(&mut self, at: Position, event: &Event) -> Result<(), CodecFault> {
        if self.entries + 1 >= MAX_EPOCH_ENTRIES {
            return Err(CodecFault::TooLarge);
        }
        match event {
            Event::Input(input) => self.encode_input(at, input)?,
            Event::Pages(pages) => {
                self.put_tag(at, kind::PAGES)?;
                self.pages += pages.len() as u64;
                put_pages(&mut self.bytes, pages)?;
            }
            Event::Snapshot(snapshot) => {
                let Snapshot {
                    cpu,
                    machine,
                    pages,
                } = &**snapshot;
                self.put_tag(at, kind::SNAPSHOT)?;
                put_bytes(&mut self.bytes, cpu);
                put_bytes(&mut self.bytes, machine);
                self.pages += pages.len() as u64;
                put_pages(&mut self.bytes, pages)?;
            }
            Event::Output { crc } => {
                self.put_tag(at, kind::OUTPUT)?;
                self.bytes.extend_from_slice(&crc.to_le_bytes());
            }
            Event::Reached { .. } => return Err(CodecFault::ReachedEarly),
        }
        if self.bytes.len() + REACHED_BYTES_MAX > MAX_EPOCH_BYTES || self.pages > GFN_END {
            return Err(CodecFault::TooLarge);
        }
        self.entries += 1;
        Ok(())
    }

    fn encode_input(&mut self, at: Position, input: &Input) -> Result<(), CodecFault> {
        match input {
            Input::Clock { now } => {
                let forward = *now >= self.clock;
                let kind = if forward {
                    kind::CLOCK
                } else {
                    kind::CLOCK_BACK
                };
                self.put_tag(at, kind)?;
                put_varint(&mut self.bytes, now.abs_diff(self.clock));
                self.clock = *now;
            }
            Input::NetRx { frame } => {
                self.put_tag(at, kind::NET_RX)?;
                put_bytes(&mut self.bytes, frame);
            }
            Input::DiskDone { disk, id, outcome } => {
                self.put_tag(at, kind::DISK_DONE)?;
                self.bytes.push(*disk);
                put_varint(&mut self.bytes, *id);
                match outcome {
                    DiskOutcome::Done => self.bytes.push(0),
                    DiskOutcome::Failed(DiskError::Io) => self.bytes.push(1),
                    DiskOutcome::Failed(DiskError::Unsupported) => self.bytes.push(2),
                    DiskOutcome::Read(data) => {
                        self.bytes.push(3);
                        put_bytes(&mut self.bytes, data);
                    }
                }
            }
            Input::ConsoleIn { console, bytes } => {
                self.put_tag(at, kind::CONSOLE_IN)?;
                self.bytes.push(match console {
                    Console::Serial => 0,
                    Console::Virtio => 1,
                });
                put_bytes(&mut self.bytes, bytes);
            }
            Input::Entropy { bytes } => {
                self.put_tag(at, kind::ENTROPY)?;
                put_bytes(&mut self.bytes, bytes);
            }
            Input::PowerButton => self.put_tag(at, kind::POWER_BUTTON)?,
        }
        Ok(())
    }
}
