//! The file that `ftd record` writes and `ftd replay` reads.
//!
//! ```text
//! "FTDLOG" 1a 0a   8 bytes
//! version          u32, little-endian
//! length           u32, of the header in bytes
//! header CRC       u32, CRC32C of the header
//! CRC              u32, CRC32C of the 20 bytes before
//! header           postcard of LogHeader
//! frames           one for each epoch (see `frame`), rising by one from LogHeader::first_epoch
//! frame            the end: postcard of LogEnd
//! ```

mod reader;
mod writer;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use reader::LogReader;
pub use writer::LogWriter;

use crate::entry::{Epoch, Position};

/// Version of the format. It must be raised with any change to what a log holds: its header, an
/// entry, a frame, the machine's or the vCPU's encoded state.
pub const LOG_VERSION: u32 = 6;

const MAGIC: [u8; 8] = *b"FTDLOG\x1a\n";
/// Bytes before the header.
const PREAMBLE_BYTES: usize = 24;
/// Most bytes of an encoded header.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// What must be there to replay a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHeader {
    /// Name of the CPU model that the guest saw.
    pub cpu_model: String,
    /// Guest RAM in bytes.
    pub ram_bytes: u64,
    /// The machine's configuration, encoded by `devices`.
    pub machine_config: Vec<u8>,
    /// The kernel's command line.
    pub cmdline: String,
    /// BLAKE3 of the kernel image, in hexadecimal.
    pub kernel_blake3: String,
    /// BLAKE3 of the initial RAM disk, in hexadecimal; empty if there was none.
    pub initrd_blake3: String,
    /// Capacities of the disks in bytes, in order.
    pub disk_bytes: Vec<u64>,
    /// Name of the clock that made the positions.
    pub clock: String,
    /// Wall-clock time that the guest was told it was powered on at, in nanoseconds since 1970.
    pub boot_time_ns: u64,
    /// The first epoch in the log.
    pub first_epoch: Epoch,
}

/// What a replay must arrive at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEnd {
    /// Where the recording ended.
    pub position: Position,
    /// BLAKE3 over the registers, the machine's state and all of RAM there.
    pub state_hash: [u8; 32],
    /// Number of entries in the log.
    pub entries: u64,
    /// Number of epochs in the log.
    pub epochs: u64,
}

/// What is wrong with a log.
#[derive(Debug, Error)]
pub enum LogError {
    /// Not a log at all.
    #[error("this is not an ftd log")]
    NotALog,
    /// A log of another version.
    #[error(
        "this log has format version {found}, but this ftd reads version {LOG_VERSION}: use the ftd that wrote it"
    )]
    Version {
        /// The log's.
        found: u32,
    },
    /// The log stops before its end.
    #[error("the log is torn: it ends at byte {at}, before {within} is complete")]
    Torn {
        /// Length of what is there, in bytes.
        at: u64,
        /// Where in the log that is.
        within: Place,
    },
    /// Bytes were changed.
    #[error("the log is damaged: the bytes from {at} on, {within}, do not match their checksum")]
    Damaged {
        /// Byte at which the damaged part starts.
        at: u64,
        /// Where in the log that is.
        within: Place,
    },
    /// The bytes match their checksum and yet make no sense.
    #[error("the log is invalid: the bytes from {at} on, {within}, can't be understood")]
    Invalid {
        /// Byte at which the part starts.
        at: u64,
        /// Where in the log that is.
        within: Place,
    },
    /// Bytes follow the end record.
    #[error("the log ends at byte {at}, but something follows it")]
    TrailingGarbage {
        /// Byte at which the log ends.
        at: u64,
    },
    /// An epoch is missing, doubled or out of order.
    #[error(
        "the log is out of order: epoch {found} stands at byte {at}, where epoch {expected} belongs"
    )]
    OutOfOrder {
        /// Byte at which the epoch starts.
        at: u64,
        /// The epoch that is there.
        found: Epoch,
        /// The epoch that belongs there.
        expected: Epoch,
    },
    /// The end record counts other epochs or entries than the log holds.
    #[error(
        "the log is incomplete: it holds {epochs} epochs and {entries} entries, its end record says {said_epochs} and {said_entries}"
    )]
    Count {
        /// Epochs in the log.
        epochs: u64,
        /// Entries in the log, by its epochs' headers.
        entries: u64,
        /// Epochs by the end record.
        said_epochs: u64,
        /// Entries by the end record.
        said_entries: u64,
    },
    /// The header, an epoch or the end record is too large to be written.
    #[error("{0} is too large for a log")]
    TooLarge(Place),
    /// Reading or writing failed.
    #[error("the log could not be read or written")]
    Io(#[from] std::io::Error),
}

/// A part of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The header.
    Header,
    /// An epoch, or what stands where it belongs.
    Epoch(Epoch),
    /// The end record.
    End,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Header => f.write_str("its header"),
            Place::Epoch(epoch) => write!(f, "epoch {epoch}"),
            Place::End => f.write_str("its end record"),
        }
    }
}

#[cfg(test)]
mod tests;
