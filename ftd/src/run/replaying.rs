//! The loop of a guest that follows a log: a backup, or `ftd replay`.

use std::collections::BTreeMap;

use devices::layout::PAGE_BYTES;
use devices::{DiskOutcome, DiskRequest, Effect, Input};
use replay::{
    Divergence, EncodedEpoch, Epoch, Event, Page, Point, Position, Replayer, Snapshot, decode_epoch,
};
use vmm::guest::{Flip, Guest, Sought, Stop};
use vmm::kvm::{Kick, kick};
use vmm::memory::ram_bytes;

use super::RunError;

/// Where a replaying guest gets its log, and whom it tells how far it is.
pub trait Source {
    /// How to stop the vCPU, so that `abandoned` is looked at. Called once, on its thread, before
    /// anything else.
    fn attach(&mut self, _kick: Kick) {}
    /// The next epoch. Blocks while there is none; `None` when the log is over.
    fn next(&mut self) -> Result<Option<EncodedEpoch>, RunError>;
    /// `epoch` has been executed and agreed with the primary's digest; the guest's virtual time.
    fn executed(&mut self, epoch: Epoch, virtual_now: u64) -> Result<(), RunError>;
    /// The guest made an output in `epoch`; the primary's has gone out, or waits to.
    fn output(&mut self, epoch: Epoch, effect: Effect);
    /// A request that the guest made on a disk is complete, by the log.
    ///
    /// # Errors
    /// It is not to be completed here.
    fn disk_done(&mut self, _disk: u8, _id: u64, _outcome: &DiskOutcome) -> Result<(), RunError> {
        Ok(())
    }
    /// The guest has become another by a snapshot, with these requests under way.
    ///
    /// # Errors
    /// This host's own disks can't be made equal to the primary's.
    fn loaded(&mut self, _outstanding: Vec<DiskRequest>) -> Result<(), RunError> {
        Ok(())
    }
    /// A page of this host's own disks, counted from 0, as it must be before the guest goes on.
    ///
    /// # Errors
    /// It can't be written, or there are no such disks.
    fn disk_page(&mut self, page: u64, _data: &[u8]) -> Result<(), RunError> {
        let why = format!("page {page:#x} behind this RAM");
        Err(vmm::VmmError::BadSnapshot(why).into())
    }
    /// A bit to be changed before the next epoch (a test hook). Asked for after each epoch.
    fn flip(&mut self) -> Option<Flip> {
        None
    }
    /// Whether to give up a run that doesn't come to the next exit (polled after a kick).
    fn abandoned(&self) -> bool;
}

/// Where a replay ended.
pub struct Replayed<S> {
    /// The guest, at the end of the log.
    pub guest: Guest,
    /// What fed it.
    pub source: S,
    /// The last epoch that was executed.
    pub executed: Epoch,
    /// The guest powered itself off or reset itself.
    pub ended: bool,
}

/// Follows the log of `source` to its end. `guest` is fresh: the log starts with a snapshot.
pub fn follow<S: Source>(mut guest: Guest, mut source: S) -> Result<Replayed<S>, RunError> {
    source.attach(Kick::prepare(guest.vcpu_mut())?);
    guest.count_branches()?;
    let mut follower = Follower {
        guest,
        source,
        replayer: Replayer::default(),
        executed: 0,
        ended: false,
        loaded: false,
        half_loaded: false,
        set_aside: BTreeMap::new(),
        unsaid: Vec::new(),
    };
    while follower.step()? {}
    let Follower {
        guest,
        source,
        executed,
        ended,
        ..
    } = follower;
    Ok(Replayed {
        guest,
        source,
        executed,
        ended,
    })
}

struct Follower<S> {
    guest: Guest,
    source: S,
    replayer: Replayer,
    executed: Epoch,
    ended: bool,
    /// A snapshot has been loaded: before, the guest is nobody.
    loaded: bool,
    /// Pages of a snapshot have come whose registers are still to come: the guest's own registers stand
    /// at the exit before it and are not the primary's.
    half_loaded: bool,
    /// Those of a guest that is whole: should the rest never come, it goes on as it is.
    set_aside: BTreeMap<u64, Vec<u8>>,
    /// Epochs that were executed before the guest was anybody, and its virtual time then.
    unsaid: Vec<(Epoch, u64)>,
}

impl<S: Source> Follower<S> {
    /// Applies what the log has for this position, then runs to the next exit. `false` at the end.
    fn step(&mut self) -> Result<bool, RunError> {
        while self.replayer.is_empty() {
            let Some(epoch) = self.source.next()? else {
                return Ok(false);
            };
            self.replayer
                .push_epoch(epoch.epoch, decode_epoch(epoch.epoch, &epoch.bytes)?);
        }
        let mut applied = false;
        loop {
            let here = match self.replayer.next_position() {
                Some(start) if !self.loaded => start,
                _ => self.guest.position(),
            };
            let Some((epoch, event)) = self.replayer.next_at(here)? else {
                break;
            };
            self.apply(here, epoch, event)?;
            applied = true;
        }
        if applied || self.replayer.is_empty() || !self.loaded {
            return Ok(true);
        }
        if self.guest.is_idle() {
            return Err(Divergence::Idle {
                at: self.guest.position(),
            }
            .into());
        }
        match self.replayer.next_position() {
            Some(Position::Counted { exits, point }) if exits == self.guest.exits() => {
                self.run_to_point(exits, &point)?;
            }
            _ => self.run_to_exit()?,
        }
        Ok(true)
    }

    fn apply(&mut self, here: Position, epoch: Epoch, event: Event) -> Result<(), RunError> {
        match event {
            Event::Input(input) => {
                if let Input::DiskDone { disk, id, outcome } = &input {
                    self.source.disk_done(*disk, *id, outcome)?;
                }
                self.guest.apply(input)?;
                self.note_effects();
            }
            Event::Pages(pages) => self.take_pages(pages)?,
            Event::Snapshot(snapshot) => {
                let Snapshot {
                    cpu,
                    machine,
                    pages,
                } = *snapshot;
                self.take_pages(pages)?;
                self.write_set_aside()?;
                self.guest.load(here.exits(), &cpu, &machine)?;
                self.source.loaded(self.guest.machine().outstanding())?;
                self.replayer.forget_outputs();
                self.loaded = true;
                self.half_loaded = false;
            }
            Event::Output { crc } => self.replayer.check_output(here, crc)?,
            Event::Reached { digest } => {
                if self.loaded && !self.half_loaded {
                    let found = self.guest.digest(digest.ram.first, digest.ram.pages)?;
                    let parts = || self.guest.machine().parts();
                    self.replayer.check_reached(here, &digest, &found, parts)?;
                }
                self.executed = epoch;
                self.unsaid.push((epoch, self.guest.machine().now()));
                if self.loaded {
                    for (epoch, now) in self.unsaid.drain(..) {
                        self.source.executed(epoch, now)?;
                    }
                }
                if let Some(flip) = self.source.flip() {
                    self.guest.flip(flip)?;
                }
            }
        }
        Ok(())
    }

    /// Takes pages of a snapshot. Those behind RAM are of this host's own disks.
    fn take_pages(&mut self, pages: Vec<Page>) -> Result<(), RunError> {
        let first = !std::mem::replace(&mut self.half_loaded, true);
        if first && !self.loaded {
            self.guest.settle()?;
        }
        let ram = ram_bytes(self.guest.memory()) / PAGE_BYTES;
        for Page { gfn, data } in pages {
            match gfn.checked_sub(ram) {
                Some(page_of_disk) => self.source.disk_page(page_of_disk, &data)?,
                None if self.loaded => drop(self.set_aside.insert(gfn, data)),
                None => self.guest.write_page(gfn, &data)?,
            }
        }
        Ok(())
    }

    /// The snapshot is whole. The last access must be over before its pages are written: its completion may
    /// still write to RAM.
    fn write_set_aside(&mut self) -> Result<(), RunError> {
        if self.loaded {
            self.guest.settle()?;
        }
        for (gfn, data) in std::mem::take(&mut self.set_aside) {
            self.guest.write_page(gfn, &data)?;
        }
        Ok(())
    }

    fn run_to_exit(&mut self) -> Result<(), RunError> {
        loop {
            match self.guest.enter()? {
                Stop::Exit(access) => {
                    if access.needs_clock() {
                        let now = self.replayer.clock(Position::Exit(self.guest.exits()))?;
                        self.guest.apply(Input::Clock { now })?;
                    }
                    self.guest.carry_out(access)?;
                    self.note_effects();
                    return Ok(());
                }
                Stop::Kicked => self.acknowledge_kick()?,
                Stop::Crashed(why) => return Err(RunError::Crashed(why)),
            }
        }
    }

    fn run_to_point(&mut self, exits: u64, point: &Point) -> Result<(), RunError> {
        loop {
            match self.guest.seek(point)? {
                Sought::Reached => return Ok(()),
                Sought::Kicked => self.acknowledge_kick()?,
                Sought::Missed(how) => {
                    let point = Position::Counted {
                        exits,
                        point: *point,
                    };
                    return Err(Divergence::Missed { point, how }.into());
                }
            }
        }
    }

    fn acknowledge_kick(&self) -> Result<(), RunError> {
        kick::acknowledge();
        if self.source.abandoned() {
            return Err(RunError::Crashed(format!(
                "no exit came after exit {}, where the log has one",
                self.guest.exits()
            )));
        }
        Ok(())
    }

    /// Outputs of a replaying guest go nowhere: the primary's have gone out, or wait to.
    fn note_effects(&mut self) {
        for effect in self.guest.effects() {
            if !effect.is_output() {
                continue;
            }
            self.replayer.made_output(&effect);
            self.ended |= matches!(effect, Effect::PowerOff | Effect::Reset);
            self.source.output(self.executed + 1, effect);
        }
    }
}
