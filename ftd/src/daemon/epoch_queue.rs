//! The log on its way from the logging channel to the backup's vCPU thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use devices::{DiskOp, DiskOutcome, DiskRequest, Effect};
use replay::{EncodedEpoch, Epoch};
use vmm::guest::Flip;

use super::unreleased::Unreleased;
use crate::host::announce::AddressLearner;
use crate::outside::outbox::{CopySerial, Outbox, Outgoing};
use crate::outside::own_disks::OwnDisks;
use crate::run::RunError;
use crate::run::kick::Kick;
use crate::run::replaying::Source;

/// How a backup's replay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All that was received is executed, and the guest goes live.
    GoLive,
    /// This copy is thrown away.
    Drop,
}

#[derive(Debug, Default)]
struct Queue {
    epochs: VecDeque<EncodedEpoch>,
    ending: Option<Ending>,
    /// A bit to be changed before the next epoch.
    flip: Option<Flip>,
    /// Stops the thread that replays, which must not outlive its order to end in a loop of the guest.
    kick: Option<Kick>,
}

/// The queue itself.
#[derive(Debug, Default)]
pub struct EpochQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl EpochQueue {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the next epoch.
    pub fn push(&self, epoch: EncodedEpoch) {
        self.lock().epochs.push_back(epoch);
        self.changed.notify_all();
    }

    /// No more epochs come.
    pub fn end(&self, ending: Ending) {
        let mut queue = self.lock();
        let first = queue.ending.is_none();
        let ending = *queue.ending.get_or_insert(ending);
        if first
            && ending == Ending::Drop
            && let Some(kick) = &queue.kick
        {
            kick.now();
        }
        drop(queue);
        self.changed.notify_all();
    }

    /// Has a bit of the copy changed once the epoch is over that it executes now or next: a test hook.
    pub fn flip(&self, flip: Flip) {
        self.lock().flip = Some(flip);
    }

    /// How it ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        self.lock().ending
    }
}

/// What the backup's vCPU thread replays from.
pub struct BackupSource {
    queue: Arc<EpochQueue>,
    outbox: Arc<Outbox>,
    copy: CopySerial,
    /// What the primary may not have let out.
    pub unreleased: Unreleased,
    /// The addresses it sent from.
    pub addresses: AddressLearner,
    /// This host's disks, if they are its own.
    own_disks: Option<OwnDisks>,
    /// This copy is whole: what the clone wrote to them is there for good.
    durable: bool,
}

impl BackupSource {
    /// A source for this copy of the guest with this MAC address.
    pub fn new(
        queue: Arc<EpochQueue>,
        outbox: Arc<Outbox>,
        copy: CopySerial,
        mac: [u8; 6],
        own_disks: Option<OwnDisks>,
    ) -> BackupSource {
        BackupSource {
            queue,
            outbox,
            copy,
            unreleased: Unreleased::default(),
            addresses: AddressLearner::new(mac),
            own_disks,
            durable: false,
        }
    }
}

impl Source for BackupSource {
    fn attach(&mut self, kick: Kick) {
        let mut queue = self.queue.lock();
        if queue.ending == Some(Ending::Drop) {
            kick.now();
        }
        queue.kick = Some(kick);
    }

    fn next(&mut self) -> Result<Option<EncodedEpoch>, RunError> {
        let mut queue = self.queue.lock();
        loop {
            if queue.ending == Some(Ending::Drop) {
                return Ok(None);
            }
            if let Some(epoch) = queue.epochs.pop_front() {
                self.unreleased.out_through(epoch.released);
                return Ok(Some(epoch));
            }
            if queue.ending.is_some() {
                return Ok(None);
            }
            queue = self
                .queue
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn executed(&mut self, epoch: Epoch, virtual_now: u64) -> Result<(), RunError> {
        self.outbox.push(Outgoing::Executed {
            copy: self.copy,
            epoch,
            virtual_now,
        });
        Ok(())
    }

    fn flip(&mut self) -> Option<Flip> {
        self.queue.lock().flip.take()
    }

    fn output(&mut self, epoch: Epoch, effect: Effect) {
        if let Effect::NetTx { frame } = &effect {
            self.addresses.observe(frame);
        }
        match (&self.own_disks, effect) {
            (Some(own), Effect::Disk(request)) => own.issue(request),
            (_, effect) => self.unreleased.made(epoch, effect),
        }
    }

    fn disk_done(&mut self, disk: u8, id: u64, outcome: &DiskOutcome) -> Result<(), RunError> {
        let given_up = || self.queue.ending() == Some(Ending::Drop);
        match &self.own_disks {
            Some(own) => own.complete(disk, id, outcome, given_up),
            None => Ok(()),
        }
    }

    fn loaded(&mut self, outstanding: Vec<DiskRequest>) -> Result<(), RunError> {
        let Some(own) = &self.own_disks else {
            return Ok(());
        };
        // Once, what the clone wrote: the guest may have been told that some of it is safe.
        if !self.durable {
            own.make_durable(|| self.abandoned())?;
            self.durable = true;
        }
        for request in outstanding {
            // What was read is in the log.
            if !matches!(request.op, DiskOp::Read { .. }) {
                own.issue(request);
            }
        }
        Ok(())
    }

    /// A copy that is whole has executed all that these pages are of, and may have written more since: they are
    /// for another backup, which joins.
    fn disk_page(&mut self, page: u64, data: &[u8]) -> Result<(), RunError> {
        match &self.own_disks {
            Some(_) if self.durable => Ok(()),
            Some(_) if self.abandoned() => Err(RunError::Sink("the copy was given up".to_owned())),
            Some(own) => own.copy_page(page, data).map_err(RunError::DiskPage),
            None => {
                let why = format!("page {page:#x} behind this RAM");
                Err(vmm::VmmError::BadSnapshot(why).into())
            }
        }
    }

    fn abandoned(&self) -> bool {
        self.queue.ending() == Some(Ending::Drop)
    }
}

#[cfg(test)]
mod tests {
    use devices::layout::PAGE_BYTES;
    use mio::{Poll, Token, Waker};

    use super::*;
    use crate::host::disk::{Disk, DiskOptions, DiskWorker};
    use crate::outside::own_disks::Ledger;

    /// A copy that follows `queue`, with an own disk of two pages in `folder`.
    fn copy_of(folder: &std::path::Path, queue: &Arc<EpochQueue>) -> (BackupSource, OwnDisks) {
        let path = folder.join("disk");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(2 * PAGE_BYTES).unwrap();
        let disk = Arc::new(Disk::open(&path, &DiskOptions::default()).unwrap());
        let worker = DiskWorker::start(0, disk, Box::new(|_, _| {})).unwrap();
        let own = OwnDisks::new(Arc::new(Ledger::default()), Arc::new(vec![worker]));
        let poll = Poll::new().unwrap();
        let outbox = Arc::new(Outbox::new(Waker::new(poll.registry(), Token(0)).unwrap()));
        let (queue, copy) = (Arc::clone(queue), CopySerial::default());
        let source = BackupSource::new(queue, outbox, copy, [2; 6], Some(own.clone()));
        (source, own)
    }

    #[test]
    fn what_another_backup_is_sent_is_nothing_to_a_copy_that_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (mut source, own) = copy_of(folder.path(), &Arc::default());
        let page = |byte| [byte; PAGE_BYTES as usize];
        source.disk_page(0, &page(1)).unwrap();
        source.loaded(Vec::new()).unwrap();
        own.pages().write(0, &page(2)).unwrap();
        source.disk_page(0, &page(1)).unwrap();
        source.loaded(Vec::new()).unwrap();
        let mut found = page(0);
        own.pages().read(0, &mut found).unwrap();
        assert_eq!(found, page(2));
    }

    #[test]
    fn a_copy_that_was_dropped_writes_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Arc::default();
        let (mut source, _own) = copy_of(folder.path(), &queue);
        queue.end(Ending::Drop);
        assert!(source.disk_page(0, &[]).is_err());
        let op = DiskOp::Flush;
        let request = DiskRequest { disk: 0, id: 1, op };
        assert!(source.loaded(vec![request]).is_err());
    }
}
