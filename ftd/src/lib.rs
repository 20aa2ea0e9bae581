//! The parts of the `ftd` daemon that touch the host, and the arbiter.
//!
//! * [`arbiter`]: the atomic test-and-set that decides who may go on alone.
//! * [`cli`]: the command line, one module a command.
//! * [`control`]: what a running ftd says of itself, over a Unix socket.
//! * [`daemon`]: one side of a pair: the protocol core driven by an event loop.
//! * [`doctor`]: what this host can do.
//! * [`drill`]: what a person runs before trusting ftd.
//! * [`host`]: back ends on this side of the deterministic boundary: disks, TAP, consoles, clock,
//!   entropy.
//! * [`keys`]: who may speak on the logging channel.
//! * [`outside`]: between the vCPU thread and the host's back ends.
//! * [`run`]: the vCPU thread: the loops of a live and of a replaying guest.
//! * [`sandbox`]: what is left to this process once everything is open.
//! * [`setup`]: from options to a guest that can be entered.
//! * [`signals`]: SIGINT and SIGTERM: stop in order, then at once.
//! * [`solo`]: a guest on this host alone, recorded or not.

pub mod arbiter;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod drill;
pub mod host;
pub mod keys;
pub mod outside;
pub mod run;
pub mod sandbox;
pub mod setup;
pub mod signals;
pub mod solo;
