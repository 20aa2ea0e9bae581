//! Between the vCPU thread and this host: what the guest's effects act on, and what brings inputs.
//!
//! * [`outbox`]: epochs and outputs on their way from the vCPU thread to the daemon's loop.
//! * [`sink`]: the vCPU thread's end of it; requests nobody can see are carried out there at once.
//! * [`backends`]: disks, TAP and console of this host, and the release of outputs to them.

pub mod backends;
pub mod outbox;
pub mod own_disks;
pub mod sink;
