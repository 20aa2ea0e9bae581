//! Disks that each host has for itself: a backup writes to its own what its copy of the guest writes.
//!
//! The copy's requests go to the disk as it makes them. That they are complete it hears from the log, as the
//! primary's were; before it does, its own must be, with the same outcome: so it is never further than its disk.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use devices::layout::PAGE_BYTES;
use devices::{DiskError, DiskOp, DiskOutcome, DiskRequest};

use crate::host::disk::{Disk, DiskPages, DiskWorker};
use crate::run::RunError;

/// How often to look whether the copy was given up meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Once so many bytes were copied, they are put on the disk for good beside what follows.
const FLUSH_EVERY: u64 = 64 << 20;
/// The number of the request that does so; those of a guest count from 0.
const FLUSH: u64 = u64::MAX;

/// A request: the disk's number and the request's.
type Key = (u8, u64);

/// Requests of a copy that follows a log, and what came of those that are done.
#[derive(Debug, Default)]
pub struct Ledger {
    requests: Mutex<BTreeMap<Key, Option<DiskOutcome>>>,
    done: Condvar,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Option<DiskOutcome>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the outcome of a request that is in here; gives back that of any other, which a live guest waits for.
    pub fn take_in(&self, disk: u8, id: u64, outcome: DiskOutcome) -> Option<DiskOutcome> {
        match self.lock().get_mut(&(disk, id)) {
            Some(done) => {
                *done = Some(outcome);
                self.done.notify_all();
                None
            }
            None => Some(outcome),
        }
    }
}

/// This host's disks, for the thread of a copy that follows the log.
#[derive(Clone)]
pub struct OwnDisks {
    ledger: Arc<Ledger>,
    workers: Arc<Vec<DiskWorker>>,
    pages: DiskPages,
    /// Bytes that were copied since the last [`FLUSH`].
    copied: Arc<AtomicU64>,
}

impl OwnDisks {
    /// Of the disks of these workers, whose outcomes go through `ledger`.
    pub fn new(ledger: Arc<Ledger>, workers: Arc<Vec<DiskWorker>>) -> OwnDisks {
        let disks: Vec<Arc<Disk>> = workers.iter().map(|w| Arc::clone(w.disk())).collect();
        OwnDisks {
            ledger,
            workers,
            pages: DiskPages::new(&disks),
            copied: Arc::default(),
        }
    }

    /// The disks as pages.
    pub fn pages(&self) -> &DiskPages {
        &self.pages
    }

    /// Makes a page what the primary has there. What was copied goes to the disk for good by and by, so that
    /// little is left for [`OwnDisks::make_durable`], for which the primary's outputs wait.
    ///
    /// # Errors
    /// The disk can't be written there, or there is no such page, or `data` isn't one.
    pub fn copy_page(&self, page: u64, data: &[u8]) -> std::io::Result<()> {
        self.pages.write(page, data)?;
        if self.copied.fetch_add(PAGE_BYTES, Ordering::Relaxed) >= FLUSH_EVERY {
            self.copied.store(0, Ordering::Relaxed);
            self.begin_flush();
        }
        Ok(())
    }

    /// A failure stays in the ledger until [`OwnDisks::make_durable`]: the kernel tells each one once only.
    fn begin_flush(&self) {
        for (worker, disk) in self.workers.iter().zip(0..) {
            let key = (disk, FLUSH);
            let mut requests = self.ledger.lock();
            match requests.get(&key) {
                None | Some(Some(DiskOutcome::Done)) => requests.insert(key, None),
                Some(_) => continue,
            };
            drop(requests);
            worker.submit(DiskRequest {
                disk,
                id: FLUSH,
                op: DiskOp::Flush,
            });
        }
    }

    /// Has all that was written so far on the disks for good, unless `given_up` says so.
    ///
    /// # Errors
    /// A disk failed, or the copy was given up.
    pub fn make_durable(&self, given_up: impl Fn() -> bool) -> Result<(), RunError> {
        for (worker, disk) in self.workers.iter().zip(0..) {
            let begun = self.outcome((disk, FLUSH), &given_up)?;
            let rest = worker.disk().perform(&DiskOp::Flush);
            let all = [begun.as_ref(), Some(&rest)];
            if all.into_iter().flatten().any(is_failure) {
                return Err(self.failed(disk));
            }
        }
        // A flush may take long, and the disk belongs to the next copy then.
        match given_up() {
            true => Err(dropped()),
            false => Ok(()),
        }
    }

    /// This host's disk failed where the primary's did not.
    fn failed(&self, disk: u8) -> RunError {
        let worker = self.workers.get(usize::from(disk));
        let path = worker.map(|worker| worker.disk().path().display().to_string());
        RunError::OwnDisk {
            path: path.unwrap_or_else(|| format!("disk {disk}")),
        }
    }

    /// Waits for a request's outcome and forgets it; none if there was no such request.
    ///
    /// # Errors
    /// The copy was given up.
    fn outcome(
        &self,
        key: Key,
        given_up: impl Fn() -> bool,
    ) -> Result<Option<DiskOutcome>, RunError> {
        let mut requests = self.ledger.lock();
        while let Some(None) = requests.get(&key) {
            if given_up() {
                return Err(dropped());
            }
            requests = self
                .ledger
                .done
                .wait_timeout(requests, LOOK)
                .map_or_else(|error| error.into_inner().0, |(requests, _)| requests);
        }
        Ok(requests.remove(&key).flatten())
    }

    /// Issues a request, unless it is under way already.
    pub fn issue(&self, request: DiskRequest) {
        let key = (request.disk, request.id);
        let Some(worker) = self.workers.get(usize::from(request.disk)) else {
            return; // The machine has no such disk either.
        };
        if let Entry::Vacant(entry) = self.ledger.lock().entry(key) {
            entry.insert(None);
        } else {
            return;
        }
        worker.submit(request);
    }

    /// The log says that a request is complete: waits until it is here, too, or `given_up` says so.
    ///
    /// # Errors
    /// This host's disk failed where the primary's did not: this copy is no longer worth anything.
    pub fn complete(
        &self,
        disk: u8,
        id: u64,
        theirs: &DiskOutcome,
        given_up: impl Fn() -> bool,
    ) -> Result<(), RunError> {
        // None of a read, whose data are in the log.
        let ours = self.outcome((disk, id), given_up)?;
        match ours {
            Some(ours) if is_failure(&ours) && !matches!(theirs, DiskOutcome::Failed(_)) => {
                Err(self.failed(disk))
            }
            _ => Ok(()),
        }
    }

    /// Waits for all requests, for the guest to go live: those whose completion was not in the log are issued
    /// again by whoever takes the guest over, which does no harm.
    pub fn settle(&self) {
        for worker in self.workers.iter() {
            worker.drain();
        }
        self.ledger.lock().clear();
    }

    /// Whether nothing is under way; forgets what was, if so.
    pub fn is_idle(&self) -> bool {
        let idle = self.workers.iter().all(|worker| worker.in_flight() == 0);
        if idle {
            self.ledger.lock().clear();
        }
        idle
    }
}

/// Whether the disk lacks what the guest was told is on it. One that can't discard keeps what was there, which is as
/// good as anything.
fn is_failure(outcome: &DiskOutcome) -> bool {
    matches!(outcome, DiskOutcome::Failed(DiskError::Io))
}

fn dropped() -> RunError {
    RunError::Sink("the copy was given up".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::host::disk::DiskOptions;

    fn own(folder: &std::path::Path) -> (OwnDisks, std::sync::mpsc::Receiver<u64>) {
        let path = folder.join("disk");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(8192).unwrap();
        let disk = Arc::new(Disk::open(&path, &DiskOptions::default()).unwrap());
        let ledger = Arc::new(Ledger::default());
        let (to_guest, guest) = channel();
        let taking = Arc::clone(&ledger);
        let completion = move |id, outcome| {
            if taking.take_in(0, id, outcome).is_some() {
                to_guest.send(id).unwrap();
            }
        };
        let worker = DiskWorker::start(0, disk, Box::new(completion)).unwrap();
        (OwnDisks::new(ledger, Arc::new(vec![worker])), guest)
    }

    fn write(id: u64, offset: u64) -> DiskRequest {
        let data = vec![id as u8; 512];
        let op = DiskOp::Write { offset, data };
        DiskRequest { disk: 0, id, op }
    }

    #[test]
    fn a_copy_is_never_further_than_its_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (own, guest) = own(folder.path());
        own.issue(write(7, 0));
        own.issue(write(7, 0));
        own.complete(0, 7, &DiskOutcome::Done, || false).unwrap();
        let mut page = [0; 4096];
        own.pages().read(0, &mut page).unwrap();
        assert_eq!(page[..513], [&[7; 512][..], &[0]].concat());
        // A read was never issued here.
        own.complete(0, 8, &DiskOutcome::Read(vec![]), || false)
            .unwrap();
        own.settle();
        assert!(guest.try_recv().is_err(), "the guest hears it from the log");
        // Live: nobody is in the way of its completions.
        own.workers[0].submit(write(9, 512));
        assert_eq!(guest.recv().unwrap(), 9);
        assert!(own.is_idle() || own.workers[0].in_flight() > 0);
    }

    #[test]
    fn a_disk_that_fails_alone_ends_the_copy_and_one_that_fails_as_the_other_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (own, _guest) = own(folder.path());
        let io = DiskOutcome::Failed(DiskError::Io);
        own.issue(write(1, 1 << 30));
        own.complete(0, 1, &io, || false).unwrap();
        own.issue(write(2, 1 << 30));
        let error = own
            .complete(0, 2, &DiskOutcome::Done, || false)
            .unwrap_err();
        assert!(matches!(error, RunError::OwnDisk { .. }), "{error}");
        assert!(error.to_string().contains("disk"), "{error}");
    }

    #[test]
    fn what_is_copied_is_put_on_the_disk_beside_it_and_a_failure_is_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (own, _guest) = own(folder.path());
        for _ in 0..=FLUSH_EVERY / PAGE_BYTES {
            own.copy_page(1, &[3; 4096]).unwrap();
        }
        assert!(own.ledger.lock().contains_key(&(0, FLUSH)), "it was begun");
        own.make_durable(|| false).unwrap();
        assert!(own.ledger.lock().is_empty());
        let io = DiskOutcome::Failed(DiskError::Io);
        own.ledger.lock().insert((0, FLUSH), Some(io));
        own.begin_flush();
        let error = own.make_durable(|| false).unwrap_err();
        assert!(matches!(error, RunError::OwnDisk { .. }), "{error}");
        // Given up meanwhile: nothing more may be written.
        assert!(own.make_durable(|| true).is_err());
    }

    #[test]
    fn a_disk_that_cannot_discard_is_no_worse_than_one_that_can() {
        let folder = tempfile::tempdir().unwrap();
        let (own, _guest) = own(folder.path());
        let cannot = DiskOutcome::Failed(DiskError::Unsupported);
        own.ledger.lock().insert((0, 4), Some(cannot));
        own.complete(0, 4, &DiskOutcome::Done, || false).unwrap();
    }

    #[test]
    fn whoever_gives_a_copy_up_does_not_wait_for_its_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (own, _guest) = own(folder.path());
        own.ledger.lock().insert((0, 3), None);
        assert!(own.complete(0, 3, &DiskOutcome::Done, || true).is_err());
    }
}
