//! The daemon of a pair: drives the protocol core and does what it says.
//!
//! * [`pair`]: the event loop, and what each of the core's actions does here.
//! * [`links`]: the TCP connections of the logging channel.
//! * [`held`]: outputs that wait for their acknowledgement.
//! * [`guest_thread`]: the vCPU threads: live, and following then live.
//! * [`epoch_queue`]: the log on its way to a backup's vCPU thread.
//! * [`unreleased`]: what a backup makes good when it goes live.
//! * [`clone`]: the pre-copy of a live clone.
//! * [`asker`]: the arbiter, in a thread of its own.
//! * [`journal`]: events for operators and drills.

pub mod asker;
pub mod clone;
pub mod epoch_queue;
pub mod guest_thread;
pub mod held;
pub mod journal;
pub mod links;
pub mod pair;
pub mod unreleased;
