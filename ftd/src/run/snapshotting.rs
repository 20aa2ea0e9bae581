//! Stopping a live guest where it stands and putting its state into the log (`Position::Snapshot`
//! of the design: registers, devices, and the pages dirtied since the last one).

use std::ops::ControlFlow;
use std::time::Duration;

use devices::Input;
use devices::layout::PAGE_BYTES;
use replay::codec::PAGES_PER_EVENT;
use replay::protocol::PeerId;
use replay::{EncodedEpoch, Epoch, Page, Position, Recorder, Snapshot};
use vmm::guest::Guest;
use vmm::kvm::Reader;
use vmm::memory::{PageSet, ram_bytes};

use super::RunError;
use super::live::{Live, Sink};
use crate::host::clock::monotonic_ns;
use crate::host::disk::DiskPages;

/// The guest runs at least so many times as long as its snapshots take: an input that finds no exit
/// waits for longer where snapshots are dear. With the faults of the pages that are written again, which
/// cost as much again or twice, that keeps them below a tenth.
const RUN_PER_SNAPSHOT: u32 = 30;
/// However dear they are, an input waits no longer than this.
const PATIENCE_MAX: Duration = Duration::from_millis(250);

impl<S: Sink> Live<S> {
    /// Takes a snapshot because an input has waited too long, and sets by its cost how long the next
    /// one waits.
    pub(super) fn forced_snapshot(&mut self) -> Result<(), RunError> {
        let begun = monotonic_ns();
        let pages = self.counters.snapshot_pages;
        self.snapshot()?;
        let cost = Duration::from_nanos(monotonic_ns().saturating_sub(begun));
        self.counters.snapshots += 1;
        self.counters.snapshot_time += cost;
        self.gauges.set_counters(self.counters);
        tracing::trace!(
            pages = self.counters.snapshot_pages - pages,
            ?cost,
            "snapshot"
        );
        if self.guest.clock().counts() {
            return Ok(()); // What comes next may find a point again, at once.
        }
        self.patience = (cost * RUN_PER_SNAPSHOT)
            .min(PATIENCE_MAX)
            .max(self.options.patience);
        self.inbox.set_patience(self.patience / 2);
        Ok(())
    }

    /// Begins a log for `to`, with a snapshot that carries `pages`, too. A log that has begun already goes on:
    /// its epoch ends, and that snapshot is the first entry of the next one.
    pub(super) fn begin_log(
        &mut self,
        to: PeerId,
        first: Epoch,
        pages: PageSet,
        disks: Option<DiskPages>,
    ) -> Result<(), RunError> {
        if self.recorder.is_some() {
            // The guest may be at no position, so an epoch can't just end here.
            self.snapshot()?;
        }
        let recorder = self
            .recorder
            .get_or_insert_with(|| Recorder::new(first, self.options.policy));
        let first = recorder.epoch();
        self.guest.dirty_ram().log(Reader::Snapshots, true)?;
        self.sink.clone_ready(to, first)?;
        self.guest.set_followed(true);
        self.guest.mark_dirty(pages.iter());
        if let Some(disks) = disks {
            self.disk_pages(&disks, pages)?;
        }
        self.snapshot()?;
        // Where points can be named, nothing has to wait for an exit.
        self.patience = match self.guest.clock().counts() {
            true => Duration::ZERO,
            false => self.options.patience,
        };
        self.inbox.set_patience(self.patience / 2);
        Ok(())
    }

    /// Ends the epoch at this position, and forgets which pages were written before it.
    pub(super) fn mark(&mut self) -> Result<(), RunError> {
        self.marking = false;
        // An entry, so that the log leads here.
        let now = self.virtual_now();
        self.apply(Input::Clock { now })?;
        // What came of it belongs here; an output ends the epoch by itself.
        self.hand_on_effects()?;
        if self.recorder.as_ref().is_some_and(|log| !log.is_empty()) {
            self.close_epoch()?;
        }
        self.guest.forget_dirty()?;
        Ok(())
    }

    /// Puts those of `pages` into the log that are of the disks, and what was written there since they were
    /// found. What is written from here on the guest does not know of yet: its request is under way, and
    /// part of the snapshot.
    pub(super) fn disk_pages(
        &mut self,
        disks: &DiskPages,
        mut pages: PageSet,
    ) -> Result<(), RunError> {
        let Some(recorder) = &mut self.recorder else {
            return Ok(());
        };
        let at = Position::Exit(self.guest.exits());
        let ram = ram_bytes(self.guest.memory()) / PAGE_BYTES;
        disks.take_written(|page| pages.insert(ram + page));
        let mut chunk = Vec::new();
        let mut bytes = [0; PAGE_BYTES as usize];
        for (gfn, page) in pages
            .iter()
            .filter_map(|gfn| Some((gfn, gfn.checked_sub(ram)?)))
        {
            disks
                .read(page, &mut bytes)
                .map_err(|source| RunError::Host {
                    what: "cannot read the guest's disk, to copy it",
                    source,
                })?;
            chunk.push(Page::of(gfn, &bytes));
            if chunk.len() == PAGES_PER_EVENT {
                recorder.pages(at, std::mem::take(&mut chunk))?;
                let digest = self.guest.digest(0, 0)?;
                self.counters.epochs += 1;
                self.sink.epoch(recorder.close(at, digest)?)?;
            }
        }
        if !chunk.is_empty() {
            recorder.pages(at, chunk)?;
        }
        Ok(())
    }

    /// Puts a snapshot at the guest's position into the log and ends the epoch.
    pub(super) fn snapshot(&mut self) -> Result<(), RunError> {
        let Some(recorder) = &mut self.recorder else {
            return Ok(());
        };
        let sink = &mut self.sink;
        let counters = &mut self.counters;
        counters.snapshot_pages += snapshot(&mut self.guest, recorder, &mut |epoch| {
            counters.epochs += 1;
            sink.epoch(epoch)
        })?;
        Ok(())
    }
}

/// Records a snapshot of `guest`, in as many epochs as its pages need. How many pages it has.
fn snapshot(
    guest: &mut Guest,
    recorder: &mut Recorder,
    send: &mut dyn FnMut(EncodedEpoch) -> Result<(), RunError>,
) -> Result<u64, RunError> {
    let at = Position::Exit(guest.exits());
    // First the vCPU: settling it may still write to memory.
    let cpu = guest.save_cpu()?.encode()?;
    let machine = guest.save_machine()?;
    // Entries of the open epoch stay in it: an epoch that holds a part of a snapshot is the only
    // one whose digest the backup cannot compare, since the guest is at no exit here.
    let digest = guest.digest(0, 0)?;
    let mut chunk: Vec<Page> = Vec::new();
    let mut failed = None;
    let mut pages = 0;
    guest.drain_dirty(|gfn, data| {
        pages += 1;
        chunk.push(Page {
            gfn,
            data: data.to_vec(),
        });
        if chunk.len() < PAGES_PER_EVENT {
            return ControlFlow::Continue(());
        }
        let sent = recorder
            .pages(at, std::mem::take(&mut chunk))
            .and_then(|()| recorder.close(at, digest))
            .map_err(RunError::from)
            .and_then(&mut *send);
        match sent {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    recorder.snapshot(
        at,
        Snapshot {
            cpu,
            machine,
            pages: chunk,
        },
    )?;
    send(recorder.close(at, digest)?)?;
    Ok(pages)
}
