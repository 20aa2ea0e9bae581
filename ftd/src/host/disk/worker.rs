//! The threads that carry out a disk's requests.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use devices::{DiskError, DiskOp, DiskOutcome, DiskRequest};

use super::Disk;
use super::schedule::Schedule;

/// Called on a worker thread with each finished request's id and outcome. It should hand them over
/// and return: no other completion is delivered meanwhile.
pub type Completion = Box<dyn Fn(u64, DiskOutcome) + Send>;

/// Carries out requests beside the vCPU, several at a time where the image allows it, in the order
/// that a disk owes its guest (flushes after earlier writes, overlapping requests in turn).
///
/// Dropping it waits until everything submitted is done. A host that must stop at once (it lost
/// the arbitration) calls [`DiskWorker::abandon`] and ends the process.
pub struct DiskWorker {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    disk: Arc<Disk>,
    state: Mutex<State>,
    /// Signalled when a request may have become ready, and on stopping.
    work: Condvar,
    /// Signalled when a request is finished.
    done: Condvar,
    completion: Mutex<Completion>,
}

struct State {
    schedule: Schedule,
    stopping: Stopping,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    /// End when everything is done.
    Drained,
    /// Start nothing more.
    Now,
}

impl DiskWorker {
    /// Starts the threads. `index` is the disk's number, for the threads' names.
    ///
    /// # Errors
    /// The host has no threads left.
    pub fn start(index: u8, disk: Arc<Disk>, completion: Completion) -> io::Result<DiskWorker> {
        let count = disk.image.workers();
        let mut worker = DiskWorker {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    schedule: Schedule::new(disk.image.granule()),
                    stopping: Stopping::No,
                }),
                disk,
                work: Condvar::new(),
                done: Condvar::new(),
                completion: Mutex::new(completion),
            }),
            threads: Vec::new(),
        };
        for number in 0..count {
            let shared = Arc::clone(&worker.shared);
            let thread = std::thread::Builder::new()
                .name(format!("disk{index}-{number}"))
                .spawn(move || run(&shared))?;
            worker.threads.push(thread);
        }
        Ok(worker)
    }

    /// The disk it works on.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.shared.disk
    }

    /// Queues a request; its completion comes on another thread, perhaps before this returns.
    /// [`DiskRequest::disk`] is not looked at.
    pub fn submit(&self, request: DiskRequest) {
        let mut state = self.shared.lock();
        state.schedule.push(request);
        drop(state);
        self.shared.work.notify_one();
    }

    /// Number of requests that were submitted and whose completion has not been delivered.
    pub fn in_flight(&self) -> usize {
        self.shared.lock().schedule.len()
    }

    /// Waits until every request submitted so far and until then is complete and delivered; no
    /// longer than until the worker is retired or abandoned.
    pub fn drain(&self) {
        let mut state = self.shared.lock();
        while state.schedule.len() > 0 && state.stopping != Stopping::Now {
            state = self
                .shared
                .done
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// [Drains](DiskWorker::drain), and makes the image whole on the host's disk, unless the worker
    /// was retired or abandoned.
    pub fn finish(&self) {
        self.drain();
        if self.shared.lock().stopping != Stopping::Now && !self.shared.disk.is_read_only() {
            // A failure was reported there, and there is no guest left to tell.
            self.shared.disk.perform(&DiskOp::Flush);
        }
    }

    /// Starts none of the requests that wait, and waits for those that run, for `timeout` at most:
    /// the host hands its guest over, and the other one issues again what was not complete. `false`
    /// if some still run then; they can't be called back.
    pub fn retire(&self, timeout: Duration) -> bool {
        let mut state = self.shared.lock();
        state.stopping = Stopping::Now;
        self.shared.work.notify_all();
        self.shared.done.notify_all();
        let busy = |state: &mut State| state.schedule.running() > 0;
        let waited = self.shared.done.wait_timeout_while(state, timeout, busy);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.schedule.running() == 0
    }

    /// Abandons the disk (see [`Disk::abandon`]), starts none of the requests that wait and delivers
    /// nothing for them, and doesn't wait for those that run, now or when dropped: the disk may
    /// hang.
    pub fn abandon(&self) {
        self.shared.lock().stopping = Stopping::Now;
        self.shared.work.notify_all();
        self.shared.done.notify_all();
        self.shared.disk.abandon();
    }
}

impl Drop for DiskWorker {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.stopping == Stopping::Now {
            return;
        }
        if std::thread::panicking() {
            // The peer is about to be told, by the end of the connection, and to take the disk over.
            drop(state);
            return self.abandon();
        }
        state.stopping = Stopping::Drained;
        drop(state);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A worker catches panics; if one got through, its thread is gone, and so is its work.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn deliver(&self, id: u64, outcome: DiskOutcome) {
        let completion = self
            .completion
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        completion(id, outcome);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if state.stopping == Stopping::Now {
            return;
        }
        let Some((ticket, request)) = state.schedule.start() else {
            if state.stopping == Stopping::Drained && state.schedule.len() == 0 {
                return;
            }
            state = shared
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        let outcome = catch_unwind(AssertUnwindSafe(|| shared.disk.perform(&request.op)))
            .unwrap_or(DiskOutcome::Failed(DiskError::Io));
        // A panic in the callback is reported by the panic hook, and must not lose the ticket.
        let _ = catch_unwind(AssertUnwindSafe(|| shared.deliver(request.id, outcome)));
        state = shared.lock();
        state.schedule.finish(ticket);
        shared.work.notify_all();
        shared.done.notify_all();
    }
}
