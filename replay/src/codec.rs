//! The compact encoding of an epoch: a run of entries that ends in [`Event::Reached`](crate::Event::Reached).
//!
//! An entry starts with a tag byte: the kind of its event in the low four bits and, in the high
//! four, by how many exits its position lies after that of the entry before it (15: a varint with
//! the rest follows). The first entry of an epoch counts from power-on, so that an epoch can be
//! decoded without those before it. Entries between two exits follow their point, a tag of its own
//! kind with branch count, RIP, RFLAGS, and the registers' checksum and marks; it holds until the next exit
//! or snapshot. A clock is the difference from the last clock in the epoch, so
//! most entries of an idle or a busy guest are 3 to 5 bytes. Big data is a length and the bytes.
//!
//! Every sequence of entries has one encoding, and any other bytes are refused: numbers must be in
//! their shortest form, nothing may follow the end, and lengths are checked against what is there
//! before memory is allocated for them.

mod decode;
mod encode;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use decode::{EpochReader, decode_epoch};
pub use encode::EpochBuilder;

use crate::digest::{Marks, RamShare};
use crate::entry::{Entry, Epoch};
use crate::wire::{GFN_END, WireFault};

/// Most bytes of an encoded epoch. Close the epoch long before ([`EpochBuilder::len_bytes`]). A snapshot can't be
/// parted: the writes that wait for a disk are in it, up to 20 MiB of them, and [`PAGES_PER_EVENT`] pages.
pub const MAX_EPOCH_BYTES: usize = 32 << 20;
/// Most entries of an epoch, `Reached` included.
pub const MAX_EPOCH_ENTRIES: u32 = 1 << 20;
/// How many pages to put into one [`Event::Pages`](crate::Event::Pages), so that no epoch outgrows its bounds: 4 MiB.
pub const PAGES_PER_EVENT: usize = 1024;

/// High four bits of a tag that say that the rest of the distance follows.
const FAR: u64 = 15;
/// RFLAGS as it mostly is, but for the status flags: IF, and the bit that is always set. Less of it takes less room.
const USUAL_RFLAGS: u32 = 0x202;

mod kind {
    pub const CLOCK: u8 = 0;
    pub const CLOCK_BACK: u8 = 1;
    pub const NET_RX: u8 = 2;
    pub const DISK_DONE: u8 = 3;
    pub const CONSOLE_IN: u8 = 4;
    pub const ENTROPY: u8 = 5;
    pub const POWER_BUTTON: u8 = 6;
    pub const PAGES: u8 = 7;
    pub const SNAPSHOT: u8 = 8;
    pub const OUTPUT: u8 = 9;
    pub const REACHED: u8 = 10;
    /// No event: where those that follow lie.
    pub const POINT: u8 = 11;
}

/// Whether a digest may cover these pages.
fn is_share(first: u64, pages: u32) -> bool {
    let some = pages > 0 && pages <= RamShare::PAGES_MAX;
    let end = first.checked_add(u64::from(pages));
    (some && end.is_some_and(|end| end <= GFN_END)) || (pages == 0 && first == 0)
}

/// An epoch as it travels and rests: encoded entries, the last of them `Reached`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedEpoch {
    /// Its number.
    pub epoch: Epoch,
    /// Its entries, for [`decode_epoch`].
    pub bytes: Vec<u8>,
    /// How many entries `bytes` holds.
    pub entries: u32,
    /// The last epoch whose outputs were out when the primary sent this one; 0 in a log file. A
    /// backup that goes live makes good what was made after it.
    pub released: Epoch,
}

/// Why an epoch can't be encoded or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("epoch {epoch}: entry {entry} at byte {offset} {fault}")]
pub struct CodecError {
    /// The epoch.
    pub epoch: Epoch,
    /// Index of the entry in the epoch, from 0.
    pub entry: u32,
    /// Byte of the encoding where the entry starts.
    pub offset: usize,
    /// What is wrong with it.
    pub fault: CodecFault,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CodecFault {
    /// A number, length or page.
    #[error(transparent)]
    Wire(#[from] WireFault),
    /// Unknown kind of event.
    #[error("is of unknown kind {0}")]
    Kind(u8),
    /// Unknown variant of an event's field.
    #[error("has the unknown variant {0}")]
    Variant(u8),
    /// A position before that of the entry before it, or beyond 64 bits, or a point where none can be.
    #[error("lies before the entry before it")]
    Position,
    /// A clock difference that leaves 64 bits, or a step back by nothing.
    #[error("holds an impossible clock")]
    Clock,
    /// A share of RAM that is too large, or lies outside of all RAM.
    #[error("has an impossible share of RAM in its digest")]
    Share,
    /// A digest with more marks than there are.
    #[error("holds more than {} marks of a digest", Marks::MAX)]
    Marks,
    /// A `Reached` that is not the last entry.
    #[error("says `reached`, but is not the last")]
    ReachedEarly,
    /// The last entry is not `Reached`.
    #[error("is missing: the epoch does not end in `reached`")]
    NotReached,
    /// More than [`MAX_EPOCH_BYTES`], [`MAX_EPOCH_ENTRIES`] or a guest's RAM in pages.
    #[error("makes the epoch too large")]
    TooLarge,
    /// The number of entries is not the one the epoch's header gives.
    #[error("ends the epoch, whose header gives another number of entries")]
    Count,
}

impl EncodedEpoch {
    /// Decodes the entries, as [`decode_epoch`] does, and checks their number.
    ///
    /// # Errors
    ///
    /// Like [`decode_epoch`], and when their number is not `self.entries`.
    pub fn decode(&self) -> Result<Vec<Entry>, CodecError> {
        let entries = decode_epoch(self.epoch, &self.bytes)?;
        if entries.len() as u64 != u64::from(self.entries) {
            return Err(CodecError {
                epoch: self.epoch,
                entry: (entries.len() as u32).saturating_sub(1),
                offset: self.bytes.len(),
                fault: CodecFault::Count,
            });
        }
        Ok(entries)
    }

    /// Whether the first entry is of a guest's state, a [`Event::Snapshot`](crate::Event::Snapshot) or
    /// [`Event::Pages`](crate::Event::Pages) that go before it, as it must be in the first epoch behind a live clone.
    pub fn begins_with_state(&self) -> bool {
        let kind = self.bytes.first().map(|tag| tag & 0xf);
        matches!(kind, Some(kind::SNAPSHOT | kind::PAGES))
    }
}

#[cfg(test)]
mod tests;
