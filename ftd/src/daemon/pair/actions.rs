//! What each of the core's actions does here.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, bail};
use devices::layout::PAGE_BYTES;
use replay::protocol::{Action, ByeReason, DisconnectReason, Note, PageHashes, PeerId, Role};
use serde_json::json;
use vmm::guest::Guest;
use vmm::kvm::Reader;

use super::copy::Copy;
use super::{Pair, since_ms};
use crate::daemon::clone::Cloning;
use crate::daemon::clone::copied::Copied;
use crate::daemon::epoch_queue::{Ending, EpochQueue};
use crate::daemon::guest_thread::{Surroundings, start_following, start_live};
use crate::daemon::held::Held;
use crate::host::clock::monotonic_ns;
use crate::run::inbox::Order;

impl Pair {
    pub(super) fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Send { peer, message } => self.links.send(peer, &message),
            Action::SendEpoch { peer, epoch } => {
                self.kept.logged(&epoch);
                self.links.send_epoch(peer, &epoch);
            }
            Action::Established { peer } => self.links.establish(peer),
            Action::Disconnect { peer, why } => {
                tracing::info!("closing a connection: {why}");
                if why == DisconnectReason::Left(ByeReason::Diverged) {
                    self.kept.diverged();
                }
                if why == DisconnectReason::HandedOver {
                    // Frames for the guest that still come there follow; it ends with that side.
                    self.left = Some(peer);
                } else {
                    self.links.close(self.poll.registry(), peer);
                }
            }
            Action::Connect => self.dial_at = Some(monotonic_ns()),
            Action::StartClone { peer } => self.start_clone(peer),
            Action::TakeHashes { hashes, .. } => {
                if let Some(joiner_has) = &self.joiner_has {
                    // Whoever no longer listens has given the clone up.
                    drop(joiner_has.send(hashes));
                }
            }
            Action::TellHashes { peer } => {
                self.leftover.ask(peer);
                self.tell_hashes()?;
            }
            Action::StopClone { peer } => self.stop_clone(peer)?,
            Action::HoldOutputs { from } => {
                self.held_since = Some(monotonic_ns());
                self.held.hold_from(from);
            }
            Action::ReleaseOutputs { through } => self.held.release(through),
            Action::GoAlone { generation } => self.go_alone(generation)?,
            Action::Renew { generation, late } => self.renew(generation, late),
            Action::GoLive {
                generation,
                released,
            } => {
                self.released_before = released;
                self.hold_guest(generation, false);
                if let Copy::Following { queue, thread } = self.copies.take() {
                    self.held = Held::default();
                    queue.end(Ending::GoLive);
                    self.copies.current = Copy::Live { thread };
                }
            }
            Action::ApplyPages(pages) => self.apply_pages(&pages)?,
            Action::DeliverEpoch(epoch) => self.deliver(epoch)?,
            Action::DropGuest => self.drop_guest(),
            Action::AskArbiter { generation } => {
                self.holding.asks(generation);
                self.asker.ask(generation);
            }
            Action::Stand {
                generation,
                through,
            } => self.asker.stand(generation, through),
            Action::StopGuest => self.outbox.hold(true),
            Action::ResumeGuest => self.outbox.hold(false),
            Action::Halt { why } => {
                self.held.discard();
                self.halt = Some(why);
            }
            Action::Note(note) => {
                if matches!(note, Note::Protected { .. }) && self.core.role() == Role::Backup {
                    self.disk_is_mine()?;
                }
                self.note(&note);
            }
        }
        Ok(())
    }

    /// Notes that the disk is this process' guest's, before it may win with it, or once it has.
    fn disk_is_mine(&self) -> Result<()> {
        match &self.label {
            Some(label) => label.is_mine().context("cannot write the disk's label"),
            None => Ok(()),
        }
    }

    /// What the thread of the next copy works with.
    fn surroundings(&mut self) -> Surroundings {
        Surroundings {
            copy: self.copies.next_serial(),
            inbox: Arc::clone(&self.inbox),
            outbox: Arc::clone(&self.outbox),
            disks: self.backends.disks(),
            options: self.live,
            gauges: Arc::clone(&self.gauges),
        }
    }

    fn go_alone(&mut self, generation: u64) -> Result<()> {
        self.held.release_all();
        self.hold_guest(generation, false);
        match self.copies.take() {
            Copy::Booted(guest) => {
                self.disk_is_mine()?;
                self.copies.current = Copy::Live {
                    thread: start_live(*guest, self.surroundings())?,
                };
                self.journal
                    .event("guest_started", json!({"generation": generation}));
            }
            other => {
                self.copies.current = other;
                self.inbox.order(Order::EndLog);
                let after_ms = self.peer_lost_at.take().map(since_ms);
                self.journal.event(
                    "alone",
                    json!({"generation": generation, "after_ms": after_ms}),
                );
            }
        }
        // Word of it may have come so late that another host has started the guest since.
        self.check_lease()
    }

    /// Once the joiner can take over, whoever starts a primary must know that somebody may: so the
    /// shared storage is told first.
    fn start_clone(&mut self, peer: PeerId) {
        let (joiner_has, theirs) = channel();
        self.joiner_has = Some(joiner_has);
        self.clone_waiting = Some((peer, theirs));
        self.may_pass(true);
    }

    /// Gives a clone up.
    fn stop_clone(&mut self, peer: PeerId) -> Result<()> {
        self.clone_waiting.take_if(|(to, _)| *to == peer);
        self.joiner_has = None;
        if let Some((_, cloning)) = self.cloning.take_if(|(to, _)| *to == peer) {
            cloning.give_up();
            self.ending_clone = Some(cloning);
            self.watch_no_more()?;
        }
        if !self.held.is_holding() {
            // If it had got so far as to begin the log, nobody reads that now.
            self.inbox.order(Order::EndLog);
        }
        Ok(())
    }

    /// Nobody is being cloned to.
    pub(super) fn watch_no_more(&self) -> Result<()> {
        if let Some(ram) = &self.ram {
            ram.log(Reader::Clone, false)?;
        }
        Ok(())
    }

    pub(super) fn begin_clone(&mut self, peer: PeerId, theirs: Receiver<PageHashes>) -> Result<()> {
        let status = self.core.status();
        let first = status.epoch + 1;
        self.join_started_at = Some(monotonic_ns());
        self.journal
            .event("clone_started", json!({"with": status.joining}));
        let Some(ram) = self.ram.clone() else {
            bail!("there is no guest to clone")
        };
        if let Some(mut last) = self.ending_clone.take() {
            // It was given up a while ago: two at once would take each other's pages.
            last.join();
        }
        let copied = Copied {
            ram,
            disks: self.own_disks.as_ref().map(|own| own.pages().clone()),
        };
        let Some(door) = self.links.side_door(peer) else {
            return Ok(()); // Its end is on its way to the core.
        };
        let send = Box::new(move |frame: &[u8]| door.send(frame));
        let (inbox, outbox) = (Arc::clone(&self.inbox), Arc::clone(&self.outbox));
        if self.held.is_holding() {
            self.inbox.order(Order::Mark);
        }
        let cloning = Cloning::start(copied, peer, first, theirs, send, inbox, outbox)?;
        self.cloning = Some((peer, cloning));
        Ok(())
    }

    fn filling(&mut self) -> Result<&mut Guest> {
        if !matches!(self.copies.current, Copy::Filling(_)) {
            if let Some(label) = &self.label {
                label
                    .is_nobodys()
                    .context("cannot remove the disk's label")?;
            }
            let guest = match self.leftover.take() {
                Some(ram) => self.shell.guest_with(ram)?,
                None => self.shell.empty_guest()?,
            };
            self.copies.current = Copy::Filling(Box::new(guest));
        }
        match &mut self.copies.current {
            Copy::Filling(guest) => Ok(guest),
            _ => bail!("no guest is being filled"),
        }
    }

    fn apply_pages(&mut self, pages: &[replay::Page]) -> Result<()> {
        let ram = self.shell.ram_bytes / PAGE_BYTES;
        self.filling()?;
        for page in pages {
            match (&self.own_disks, page.gfn.checked_sub(ram)) {
                (Some(own), Some(of_disk)) => own
                    .copy_page(of_disk, &page.data)
                    .context("cannot make this host's disk equal to the primary's")?,
                _ => self.filling()?.write_page(page.gfn, &page.data)?,
            }
        }
        Ok(())
    }

    fn deliver(&mut self, epoch: replay::EncodedEpoch) -> Result<()> {
        self.kept.logged(&epoch);
        if !matches!(self.copies.current, Copy::Following { .. }) {
            self.filling()?;
            if let Copy::Filling(guest) = self.copies.take() {
                self.ram = Some(guest.dirty_ram());
                let queue = Arc::new(EpochQueue::default());
                let thread = start_following(
                    *guest,
                    Arc::clone(&queue),
                    self.guest_mac,
                    self.own_disks.clone(),
                    self.surroundings(),
                )?;
                self.copies.current = Copy::Following { queue, thread };
            }
        }
        if let Copy::Following { queue, .. } = &self.copies.current {
            queue.push(epoch);
        }
        Ok(())
    }
}
