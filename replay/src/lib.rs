//! Log entries, their codec, and the replication protocol as a state machine without I/O.
//!
//! Architecture invariant: **`replay` opens no socket or file, starts no thread and reads no
//! clock.** Bytes, messages and ticks come in as values; bytes, messages and actions go out.

pub mod entry;

pub use entry::{Entry, Epoch, Event, Page, Position, Snapshot};
