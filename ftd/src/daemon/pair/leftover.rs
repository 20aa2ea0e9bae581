//! The RAM of a copy that was dropped. It is nearly equal to the guest's, so the next copy starts with
//! it, and the primary is told what is in it and sends the rest. So it is with disks that are this host's own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use replay::protocol::{Message, PageHashes, PeerId};
use vmm::memory::Ram;

use super::Pair;
use super::copy::Copy;
use crate::daemon::clone::copied::Left;
use crate::daemon::clone::telling::Telling;
use crate::outside::outbox::CopySerial;

/// How long the thread of a copy that was dropped may take to end. The next copy does without its RAM
/// then; but not without the disks, to which that thread may still write.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is left of the copy before.
#[derive(Default)]
pub(super) struct Leftover {
    ram: Option<Ram>,
    /// Whose thread may still write to it.
    used_by: Option<CopySerial>,
    /// Who wants to know what is in it, and since when.
    asked: Option<(PeerId, Instant)>,
    /// It is being told, or has been.
    telling: Option<Telling>,
    /// What is told has the RAM in it.
    told_ram: bool,
}

impl Leftover {
    /// A primary wants to know.
    pub(super) fn ask(&mut self, peer: PeerId) {
        self.telling = None;
        self.told_ram = false;
        self.asked = Some((peer, Instant::now()));
    }

    /// The RAM that the next copy starts with, which is what was told; none for zeros.
    pub(super) fn take(&mut self) -> Option<Ram> {
        let ram = self.ram.take();
        // Nobody was told of it: the primary takes it for zeros.
        ram.filter(|_| self.told_ram)
    }
}

impl Pair {
    /// Throws this side's copy away, but for its RAM.
    pub(super) fn drop_guest(&mut self) {
        let filled = match &self.copies.current {
            Copy::Filling(guest) => Some(guest.dirty_ram()),
            _ => None,
        };
        let used_by = self.copies.drop_current();
        self.kept.replayed_to = None;
        // What a primary that left sent after its guest.
        self.left = None;
        self.inbox.take_inputs(&mut VecDeque::new());
        self.leftover.asked = None;
        self.leftover.telling = None;
        self.leftover.told_ram = false;
        // A joiner that had got nothing yet keeps what it has.
        if let Some(ram) = filled.or(self.ram.take()) {
            self.leftover.ram = Some(ram.into_ram());
            self.leftover.used_by = used_by;
        }
    }

    /// Tells the primary that asked what RAM is here, as soon as nobody writes to it any more.
    pub(super) fn tell_hashes(&mut self) -> Result<()> {
        let Some((peer, since)) = self.leftover.asked else {
            return Ok(());
        };
        let used = |copy| self.copies.is_leaving(copy);
        if self.leftover.used_by.is_some_and(used) {
            if self.own_disks.is_some() || since.elapsed() < PATIENCE {
                return Ok(());
            }
            tracing::warn!("the copy that was dropped does not end: its RAM is not used again");
            self.leftover.ram = None;
        }
        if self.own_disks.as_ref().is_some_and(|own| !own.is_idle()) {
            return Ok(()); // Writes of the copy that was dropped are still on their way.
        }
        self.leftover.asked = None;
        self.leftover.used_by = None;
        let left = Left {
            ram: self.leftover.ram.clone(),
            ram_bytes: self.shell.ram_bytes,
            disks: self.own_disks.as_ref().map(|own| own.pages().clone()),
        };
        if left.ram.is_none() && left.disks.is_none() {
            let nothing = PageHashes {
                last: true,
                ..PageHashes::default()
            };
            self.links.send(peer, &Message::PageHashes(nothing));
        } else if let Some(door) = self.links.side_door(peer) {
            // Without it, the connection's end is on its way to the core.
            self.leftover.told_ram = left.ram.is_some();
            let send = Box::new(move |frame: &[u8]| door.send(frame));
            self.leftover.telling = Some(Telling::start(left, send)?);
        }
        Ok(())
    }
}
