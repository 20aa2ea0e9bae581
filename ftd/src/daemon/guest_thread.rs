//! The vCPU threads of a pair.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use devices::Input;
use vmm::guest::Guest;

use super::epoch_queue::{BackupSource, Ending, EpochQueue};
use crate::host::clock::VirtualClock;
use crate::host::disk::DiskWorker;
use crate::host::entropy;
use crate::outside::outbox::{CopySerial, Outbox, Outgoing, WentLive};
use crate::outside::own_disks::OwnDisks;
use crate::outside::sink::VcpuSink;
use crate::run::RunError;
use crate::run::gauges::Gauges;
use crate::run::inbox::Inbox;
use crate::run::live::{Ended, Live, LiveOptions};
use crate::run::replaying::follow;

/// How a vCPU thread ended.
#[derive(Debug)]
pub enum ThreadEnd {
    /// A live guest ended.
    Ended(Ended),
    /// A copy of the guest was thrown away.
    Dropped,
}

/// What a vCPU thread works with.
#[derive(Clone)]
pub struct Surroundings {
    /// Which copy of the guest it runs.
    pub copy: CopySerial,
    /// Inputs and orders.
    pub inbox: Arc<Inbox>,
    /// Epochs and outputs.
    pub outbox: Arc<Outbox>,
    /// Disks, for requests nobody can see.
    pub disks: Arc<Vec<DiskWorker>>,
    /// Choices.
    pub options: LiveOptions,
    /// What the thread shows of itself.
    pub gauges: Arc<Gauges>,
}

/// A running vCPU thread.
pub type GuestThread = JoinHandle<Result<ThreadEnd, RunError>>;

/// Runs a guest that starts here.
pub fn start_live(guest: Guest, around: Surroundings) -> io::Result<GuestThread> {
    spawn(around.clone(), move || {
        let clock = VirtualClock::new(guest.machine().now());
        live(guest, &around, clock)
    })
}

/// Follows a log, and then, if it is told to go live, runs the guest on from its end.
pub fn start_following(
    guest: Guest,
    queue: Arc<EpochQueue>,
    mac: [u8; 6],
    own_disks: Option<OwnDisks>,
    around: Surroundings,
) -> io::Result<GuestThread> {
    spawn(around.clone(), move || {
        let outbox = Arc::clone(&around.outbox);
        let source = BackupSource::new(
            Arc::clone(&queue),
            outbox,
            around.copy,
            mac,
            own_disks.clone(),
        );
        let replayed = match follow(guest, source) {
            Ok(replayed) => replayed,
            Err(error) if queue.ending() == Some(Ending::Drop) => {
                tracing::debug!("a copy that was thrown away ended in: {error}");
                return Ok(ThreadEnd::Dropped);
            }
            Err(error) => return Err(error),
        };
        if queue.ending() != Some(Ending::GoLive) {
            return Ok(ThreadEnd::Dropped);
        }
        let guest = replayed.guest;
        if let Some(own) = own_disks {
            own.settle();
        }
        // Requests whose completion was never logged: whether they were carried out nobody knows.
        let outstanding = guest.machine().outstanding();
        let reissued = outstanding.len();
        for request in outstanding {
            if let Some(disk) = around.disks.get(usize::from(request.disk)) {
                disk.submit(request);
            }
        }
        if let Some(len) = guest.machine().entropy_wanted() {
            let bytes = entropy::bytes(len as usize).map_err(|source| RunError::Host {
                what: "the host has no random bytes",
                source,
            })?;
            around.inbox.push(Input::Entropy { bytes });
        }
        around.outbox.push(Outgoing::Live(Box::new(WentLive {
            unreleased: replayed.source.unreleased,
            addresses: replayed.source.addresses,
            reissued,
        })));
        if replayed.ended {
            return Ok(ThreadEnd::Ended(Ended::PoweredOff));
        }
        let clock = VirtualClock::new(guest.machine().now());
        let alone = LiveOptions {
            wait_for_log: false,
            ..around.options
        };
        live(
            guest,
            &Surroundings {
                options: alone,
                ..around
            },
            clock,
        )
    })
}

fn live(guest: Guest, around: &Surroundings, clock: VirtualClock) -> Result<ThreadEnd, RunError> {
    let sink = VcpuSink::new(
        Arc::clone(&around.inbox),
        Arc::clone(&around.outbox),
        Arc::clone(&around.disks),
    );
    let live = Live::new(
        guest,
        sink,
        Arc::clone(&around.inbox),
        Arc::clone(&around.gauges),
        clock,
        around.options,
    )?;
    let (ended, _guest, _sink, counters) = live.run()?;
    tracing::debug!("the guest ended: {ended:?}; {counters:?}");
    Ok(ThreadEnd::Ended(ended))
}

fn spawn(
    around: Surroundings,
    body: impl FnOnce() -> Result<ThreadEnd, RunError> + Send + 'static,
) -> io::Result<GuestThread> {
    std::thread::Builder::new()
        .name("vcpu".to_owned())
        .spawn(move || {
            let end = body();
            around.outbox.push(Outgoing::Ended { copy: around.copy });
            end
        })
}
