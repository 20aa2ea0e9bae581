//! The vCPU thread: one loop for a live guest, one for a guest that replays a log.
//!
//! * [`gauges`]: what a live guest's thread shows of itself.
//! * [`inbox`]: inputs and orders on their way to the vCPU thread, and the kick that stops it.
//! * `late`: when a running guest must be stopped for what waits to land.
//! * [`live`]: the loop of a live guest (primary, alone, recording).
//! * `open_tsc`: what is told of the guest's ways to the host's time-stamp counter.
//! * `pausing`: letting a live guest stand still.
//! * `ram_check`: the share of RAM that an epoch's digest covers.
//! * [`replaying`]: the loop of a guest that follows a log (backup, `ftd replay`).
//! * [`snapshotting`]: stopping a live guest anywhere and putting its state into the log.

pub mod gauges;
pub mod inbox;
mod late;
pub mod live;
mod open_tsc;
mod pausing;
mod ram_check;
pub mod replaying;
pub mod snapshotting;

use thiserror::Error;
pub use vmm::kvm::kick;

/// Why a vCPU thread could not go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The host's KVM, or a snapshot or input that does not fit.
    #[error(transparent)]
    Vmm(#[from] vmm::VmmError),
    /// An entry that no epoch can hold.
    #[error("the log cannot hold what happened")]
    Codec(#[from] replay::CodecError),
    /// KVM refuses to run the guest.
    #[error("the guest crashed: {0}")]
    Crashed(String),
    /// The guest did not do what the log says.
    #[error("the guest diverged from the log")]
    Diverged(#[from] replay::Divergence),
    /// A host resource failed.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// This host's own disk failed, and the primary's did not.
    #[error(
        "{path} failed here but not on the primary: replace it, or make room on it, and start ftd again"
    )]
    OwnDisk {
        /// The disk.
        path: String,
    },
    /// A page of a clone can't be written to this host's own disk.
    #[error("cannot make this host's disk equal to the primary's")]
    DiskPage(#[source] std::io::Error),
    /// Whoever takes the log or the outputs is gone or refused them.
    #[error("{0}")]
    Sink(String),
}
