//! Log entries, their codec, and the replication protocol as a state machine without I/O.
//!
//! Architecture invariant: **`replay` opens no socket or file, starts no thread and reads no
//! clock.** Bytes, messages and ticks come in as values; bytes, messages and actions go out.
//!
//! * [`entry`]: log entries: a position in the guest's execution and what happened there.
//! * [`digest`]: what two copies of a guest compare, and the name of what differs.
//! * [`codec`]: the compact encoding of an epoch of entries.
//! * [`frame`]: checksummed frames, in which messages and epochs travel.
//! * [`log`]: the file that `ftd record` writes and `ftd replay` reads.
//! * [`recorder`]: what the primary says of its execution, and when an epoch ends.
//! * [`replayer`]: what the backup does next, and whether its guest agrees.
//! * [`protocol`]: messages and roles of primary and backup.

pub mod codec;
pub mod digest;
pub mod entry;
pub mod frame;
pub mod log;
pub mod protocol;
pub mod recorder;
pub mod registers;
pub mod replayer;
mod wire;

pub use codec::{CodecError, EncodedEpoch, EpochBuilder, decode_epoch};
pub use digest::{Difference, Digest, Marks, RamShare};
pub use entry::{Entry, Epoch, Event, Page, Point, Position, Snapshot};
pub use recorder::{EpochPolicy, Recorder, crc_of};
pub use registers::{RegisterDifference, RegisterSum};
pub use replayer::{Divergence, Replayer};
