//! The vCPU thread's end of the daemon.

use std::sync::Arc;

use devices::{Effect, Input};
use replay::protocol::PeerId;
use replay::{EncodedEpoch, Epoch};

use super::outbox::{Outbox, Outgoing};
use crate::host::disk::DiskWorker;
use crate::host::entropy;
use crate::run::RunError;
use crate::run::inbox::Inbox;
use crate::run::live::Sink;

/// Carries out requests that nobody can see, and passes the rest to the daemon's loop.
pub struct VcpuSink {
    inbox: Arc<Inbox>,
    outbox: Arc<Outbox>,
    disks: Arc<Vec<DiskWorker>>,
}

impl VcpuSink {
    /// The end for one vCPU thread.
    pub fn new(inbox: Arc<Inbox>, outbox: Arc<Outbox>, disks: Arc<Vec<DiskWorker>>) -> VcpuSink {
        VcpuSink {
            inbox,
            outbox,
            disks,
        }
    }

    fn pass_on(&self, taken: bool) -> Result<(), RunError> {
        if taken {
            Ok(())
        } else {
            Err(RunError::Sink("the daemon's loop has ended".to_owned()))
        }
    }
}

impl Sink for VcpuSink {
    fn request(&mut self, effect: Effect) -> Result<(), RunError> {
        match effect {
            Effect::Disk(request) => {
                if let Some(disk) = self.disks.get(usize::from(request.disk)) {
                    disk.submit(request);
                }
            }
            Effect::EntropyWanted { len } => {
                let bytes = entropy::bytes(len as usize).map_err(|source| RunError::Host {
                    what: "the host has no random bytes",
                    source,
                })?;
                self.inbox.push(Input::Entropy { bytes });
            }
            // Outputs come through `output`.
            _ => {}
        }
        Ok(())
    }

    fn epoch(&mut self, epoch: EncodedEpoch) -> Result<(), RunError> {
        self.pass_on(self.outbox.push_when_released(Outgoing::Epoch(epoch)))
    }

    fn quiet(&mut self, quiet: bool) {
        self.outbox.quiet(quiet);
    }

    fn clone_ready(&mut self, to: PeerId, first: Epoch) -> Result<(), RunError> {
        self.pass_on(self.outbox.push(Outgoing::CloneReady { to, first }))
    }

    fn clone_stopped(&mut self, stop_ns: u64) -> Result<(), RunError> {
        self.pass_on(self.outbox.push(Outgoing::CloneStopped { stop_ns }))
    }

    fn paused(&mut self, number: u64, frames: Vec<Vec<u8>>) -> Result<(), RunError> {
        self.pass_on(self.outbox.push(Outgoing::Paused { number, frames }))
    }

    fn output(&mut self, after: Epoch, effect: Effect) -> Result<(), RunError> {
        self.pass_on(self.outbox.push_output(after, effect))
    }
}
