//! The parts of the `ftd` daemon that touch the host, and the arbiter.
//!
//! * [`arbiter`]: the atomic test-and-set that decides who may go on alone.
//! * [`drill`]: what a person runs before trusting ftd.
//! * [`host`]: back ends on this side of the deterministic boundary: disks, TAP, consoles, clock,
//!   entropy.

pub mod arbiter;
pub mod drill;
pub mod host;
