//! Bytes to entries.

use devices::{Console, DiskError, DiskOutcome, Input};

use super::{
    CodecError, CodecFault, FAR, MAX_EPOCH_BYTES, MAX_EPOCH_ENTRIES, USUAL_RFLAGS, is_share, kind,
};
use crate::digest::{Digest, Marks, RamShare};
use crate::entry::{Entry, Epoch, Event, Page, Point, Position, Snapshot};
use crate::registers::RegisterSum;
use crate::wire::{GFN_END, Reader, unzigzag};

/// Decodes the entries of epoch `epoch`; the last of them is `Reached`.
///
/// # Errors
///
/// When the bytes are not an encoding that [`EpochBuilder`](super::EpochBuilder) makes; the error says where.
pub fn decode_epoch(epoch: Epoch, bytes: &[u8]) -> Result<Vec<Entry>, CodecError> {
    EpochReader::new(epoch, bytes).collect()
}

/// Decodes an epoch entry by entry, so that a large one need not be in memory twice. After an error
/// it ends.
#[derive(Debug, Clone)]
pub struct EpochReader<'a> {
    epoch: Epoch,
    reader: Reader<'a>,
    entries: u32,
    pages: u64,
    last: u64,
    point: Option<Point>,
    clock: u64,
    done: bool,
}

impl<'a> EpochReader<'a> {
    /// Reads the entries of epoch `epoch` from `bytes`.
    pub fn new(epoch: Epoch, bytes: &'a [u8]) -> Self {
        EpochReader {
            epoch,
            reader: Reader::new(bytes),
            entries: 0,
            pages: 0,
            last: 0,
            point: None,
            clock: 0,
            done: false,
        }
    }

    fn entry(&mut self) -> Result<Entry, CodecFault> {
        let too_long = self.reader.offset() == 0 && self.reader.remaining() > MAX_EPOCH_BYTES;
        if too_long || self.entries >= MAX_EPOCH_ENTRIES {
            return Err(CodecFault::TooLarge);
        }
        if self.reader.is_empty() {
            return Err(CodecFault::NotReached);
        }
        let mut kind = self.position()?;
        if kind == kind::POINT {
            let point = self.point()?;
            if self.point.replace(point) == Some(point) {
                return Err(CodecFault::Position);
            }
            let exits = self.last;
            kind = self.position()?;
            let stays = self.last == exits && self.point.is_some();
            if !stays || matches!(kind, kind::POINT | kind::PAGES | kind::SNAPSHOT) {
                return Err(CodecFault::Position);
            }
        } else if matches!(kind, kind::PAGES | kind::SNAPSHOT) {
            self.point = None;
        }
        let at = match self.point {
            Some(point) => Position::Counted {
                exits: self.last,
                point,
            },
            None => Position::Exit(self.last),
        };
        let event = self.event(kind)?;
        if matches!(event, Event::Reached { .. }) {
            if !self.reader.is_empty() {
                return Err(CodecFault::ReachedEarly);
            }
            self.done = true;
        }
        self.entries += 1;
        Ok(Entry { at, event })
    }

    /// Reads a tag, moves on by its distance, and answers its kind.
    fn position(&mut self) -> Result<u8, CodecFault> {
        let tag = self.reader.u8()?;
        let mut distance = u64::from(tag >> 4);
        if distance == FAR {
            let rest = self.reader.varint()?;
            distance = distance.checked_add(rest).ok_or(CodecFault::Position)?;
        }
        if distance > 0 {
            self.point = None;
        }
        let exits = self.last.checked_add(distance);
        self.last = exits.ok_or(CodecFault::Position)?;
        Ok(tag & 0xf)
    }

    fn point(&mut self) -> Result<Point, CodecFault> {
        let further = self.reader.varint()?;
        let from = self.point.map_or(0, |point| point.branches);
        let branches = from.checked_add(further);
        Ok(Point {
            branches: branches.ok_or(CodecFault::Position)?,
            rip: unzigzag(self.reader.varint()?),
            rflags: u32::try_from(self.reader.varint()?).map_err(|_| CodecFault::Position)?
                ^ USUAL_RFLAGS,
            registers: RegisterSum {
                crc: self.reader.u32_le()?,
                marks: self.reader.u16_le()?,
            },
            stack: self.reader.u16_le()?,
        })
    }

    fn event(&mut self, kind: u8) -> Result<Event, CodecFault> {
        Ok(match kind {
            kind::PAGES => Event::Pages(self.pages()?),
            kind::SNAPSHOT => Event::Snapshot(Box::new(Snapshot {
                cpu: self.reader.bytes()?.to_vec(),
                machine: self.reader.bytes()?.to_vec(),
                pages: self.pages()?,
            })),
            kind::OUTPUT => Event::Output {
                crc: self.reader.u32_le()?,
            },
            kind::REACHED => Event::Reached {
                digest: self.digest()?,
            },
            kind => Event::Input(self.input(kind)?),
        })
    }

    fn digest(&mut self) -> Result<Digest, CodecFault> {
        let (registers, devices) = (self.marks()?, self.marks()?);
        let pages = u32::try_from(self.reader.varint()?).map_err(|_| CodecFault::Share)?;
        let mut ram = RamShare::default();
        if pages > 0 {
            ram = RamShare {
                first: self.reader.varint()?,
                pages,
                sum: self.reader.u32_le()?,
                weighted: self.reader.u32_le()?,
            };
        }
        if !is_share(ram.first, ram.pages) {
            return Err(CodecFault::Share);
        }
        Ok(Digest {
            registers,
            devices,
            ram,
        })
    }

    fn marks(&mut self) -> Result<Marks, CodecFault> {
        let crc = self.reader.u32_le()?;
        Marks::from_parts(crc, self.reader.bytes()?).ok_or(CodecFault::Marks)
    }

    fn pages(&mut self) -> Result<Vec<Page>, CodecFault> {
        let pages = self.reader.pages(GFN_END - self.pages)?;
        self.pages += pages.len() as u64;
        Ok(pages)
    }

    fn input(&mut self, kind: u8) -> Result<Input, CodecFault> {
        Ok(match kind {
            kind::CLOCK => {
                let delta = self.reader.varint()?;
                let now = self.clock.checked_add(delta).ok_or(CodecFault::Clock)?;
                self.clock = now;
                Input::Clock { now }
            }
            kind::CLOCK_BACK => {
                let delta = self.reader.varint()?;
                let now = self.clock.checked_sub(delta).filter(|_| delta > 0);
                let now = now.ok_or(CodecFault::Clock)?;
                self.clock = now;
                Input::Clock { now }
            }
            kind::NET_RX => Input::NetRx {
                frame: self.reader.bytes()?.to_vec(),
            },
            kind::DISK_DONE => Input::DiskDone {
                disk: self.reader.u8()?,
                id: self.reader.varint()?,
                outcome: match self.reader.u8()? {
                    0 => DiskOutcome::Done,
                    1 => DiskOutcome::Failed(DiskError::Io),
                    2 => DiskOutcome::Failed(DiskError::Unsupported),
                    3 => DiskOutcome::Read(self.reader.bytes()?.to_vec()),
                    other => return Err(CodecFault::Variant(other)),
                },
            },
            kind::CONSOLE_IN => Input::ConsoleIn {
                console: match self.reader.u8()? {
                    0 => Console::Serial,
                    1 => Console::Virtio,
                    other => return Err(CodecFault::Variant(other)),
                },
                bytes: self.reader.bytes()?.to_vec(),
            },
            kind::ENTROPY => Input::Entropy {
                bytes: self.reader.bytes()?.to_vec(),
            },
            kind::POWER_BUTTON => Input::PowerButton,
            other => return Err(CodecFault::Kind(other)),
        })
    }
}

impl Iterator for EpochReader<'_> {
    type Item = Result<Entry, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let offset = self.reader.offset();
        let entry = self.entries;
        let read = self.entry().map_err(|fault| CodecError {
            epoch: self.epoch,
            entry,
            offset,
            fault,
        });
        self.done |= read.is_err();
        Some(read)
    }
}
