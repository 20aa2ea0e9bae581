//! Stopping a live guest where it stands and putting its state into the log (`Position::Snapshot`
//! of the design: registers, devices, and the pages dirtied since the last one).

use std::ops::ControlFlow;

use replay::codec::PAGES_PER_EVENT;
use replay::{EncodedEpoch, Page, Position, Recorder, Snapshot};
use vmm::guest::Guest;

use super::RunError;
use super::live::{Live, Sink};

impl<S: Sink> Live<S> {
    /// Puts a snapshot at the guest's position into the log and ends the epoch.
    pub(super) fn snapshot(&mut self) -> Result<(), RunError> {
        let Some(recorder) = &mut self.recorder else {
            return Ok(());
        };
        let sink = &mut self.sink;
        let counters = &mut self.counters;
        snapshot(&mut self.guest, recorder, &mut |epoch| {
            counters.epochs += 1;
            sink.epoch(epoch)
        })
    }
}

/// Records a snapshot of `guest`, in as many epochs as its pages need.
fn snapshot(
    guest: &mut Guest,
    recorder: &mut Recorder,
    send: &mut dyn FnMut(EncodedEpoch) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let at = Position::Exit(guest.exits());
    // First the vCPU: settling it may still write to memory.
    let cpu = guest.save_cpu()?.encode()?;
    let machine = guest.save_machine()?;
    // Entries of the open epoch stay in it: an epoch that holds a part of a snapshot is the only
    // one whose digest the backup cannot compare, since the guest is at no exit here.
    let digest = guest.digest();
    let mut chunk: Vec<Page> = Vec::new();
    let mut failed = None;
    guest.drain_dirty(|gfn, data| {
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
    send(recorder.close(at, digest)?)
}
