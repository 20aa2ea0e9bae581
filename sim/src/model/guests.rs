//! Guests: what they execute, and how they are cloned.

use replay::entry::Epoch;
use replay::protocol::{Event, Message, PeerId};

use super::disk::BLOCKS;
use super::kind::Kind;
use super::node::{self, Guest};
use super::plan::MS;
use super::sabotage::Sabotage;
use super::violation::{Checked, Rule, Violation};
use super::world::{Step, World};

/// Most requests to the disk that a guest waits for at once.
const WAITING_MAX: usize = 2;

/// What one epoch of one live copy did; its parent is what the copy did before.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) epoch: Epoch,
    pub(super) parent: Option<usize>,
    pub(super) delivered: bool,
    pub(super) executed: bool,
    /// The guest's virtual time at its end.
    pub(super) virtual_now: u64,
    /// True time at its end.
    at: u64,
    /// The block of the disk that it writes to.
    pub(super) writes: Option<usize>,
    /// Requests that the guest waits for at its end.
    pub(super) waiting: Vec<usize>,
}

impl World {
    pub(super) fn live_guest(&mut self, node: usize) -> Result<&mut Guest, Violation> {
        let guest = self.nodes[node].guest.as_mut().filter(|guest| guest.live);
        match guest {
            Some(guest) => Ok(guest),
            None => Rule::DaemonCantObey.broken(format!("host {node} has no live guest")),
        }
    }

    /// Makes room for a copy.
    pub(super) fn copy(&mut self, node: usize) {
        if self.nodes[node].guest.is_none() {
            self.serial += 1;
            let host_ns = self.nodes[node].clock.show(self.now);
            self.nodes[node].guest = Some(Guest::new(self.serial, host_ns));
        }
    }

    /// Notes something of an epoch. It holds of all before it as well: a copy that begins with a snapshot has
    /// what they did, too.
    pub(super) fn mark(&mut self, content: usize, of: fn(&mut Content) -> &mut bool) {
        let mut next = Some(content);
        while let Some(content) = next.map(|next| &mut self.contents[next]) {
            if std::mem::replace(of(content), true) {
                return;
            }
            next = content.parent;
        }
    }

    pub(super) fn close_epoch(&mut self, node: usize, serial: u64) -> Checked {
        self.check_lease(node)?;
        let host = &mut self.nodes[node];
        let stands = host.leaving || host.handing.is_some();
        let running = host.up && host.paused.is_none() && !stands;
        let Some(guest) = host.guest.as_mut().filter(|guest| guest.serial == serial) else {
            return Ok(());
        };
        if running && !guest.stopped {
            guest.epoch += 1;
            let number = guest.epoch;
            let content = self.contents.len();
            let snapshot = std::mem::take(&mut guest.snapshot_next);
            self.make_content(node, number)?;
            let padding = self.below(60) as usize;
            let epoch = node::epoch(number, content, snapshot, padding);
            let holds = self.live_guest(node)?.hold_from.is_some();
            if !holds || self.sabotage == Some(Sabotage::OutputsNotHeld) {
                self.release(node, number)?;
            }
            self.feed(node, Event::EpochClosed(epoch))?;
        }
        self.after(5 * MS, 80 * MS, Step::CloseEpoch { node, serial });
        Ok(())
    }

    /// What the live guest here does in its next epoch: it makes an output, perhaps a write to the disk.
    fn make_content(&mut self, node: usize, epoch: Epoch) -> Checked {
        let content = self.contents.len();
        let (now, writes) = (self.now, self.one_in(3));
        let block = self.below(BLOCKS) as usize;
        let host_ns = self.nodes[node].clock.show(now);
        let guest = self.live_guest(node)?;
        let (parent, virtual_now) = (guest.tip, guest.clock.now(host_ns));
        let told = std::mem::take(&mut guest.done);
        if let Some(guest) = &self.nodes[node].guest {
            self.check_requests(node, guest, &told)?;
        }
        let before = parent.map(|parent| &self.contents[parent]);
        if let Some(before) = before {
            let elapsed = (now - before.at) / 100 * 104 + 21 * MS * (1 + self.clock_steps);
            let (least, most) = (before.virtual_now, before.virtual_now + elapsed);
            if !(least..=most).contains(&virtual_now) {
                return Rule::VirtualTime.broken(format!(
                    "virtual time at host {node} is {virtual_now} ns, not in {least}..={most}"
                ));
            }
        }
        let mut waiting = before.map_or(Vec::new(), |before| before.waiting.clone());
        waiting.retain(|request| told.iter().all(|(done, _)| done != request));
        let taken = |request: &usize| self.contents[*request].writes == Some(block);
        let writes = writes && waiting.len() < WAITING_MAX && !waiting.iter().any(taken);
        if writes {
            waiting.push(content);
        }
        self.contents.push(Content {
            epoch,
            parent,
            delivered: false,
            executed: false,
            virtual_now,
            at: now,
            writes: writes.then_some(block),
            waiting,
        });
        let guest = self.live_guest(node)?;
        guest.tip = Some(content);
        guest.held.push_back((epoch, content));
        Ok(())
    }

    pub(super) fn execute(&mut self, node: usize, serial: u64) -> Checked {
        let host = &mut self.nodes[node];
        if host.paused.is_some() {
            self.after(MS, 5 * MS, Step::Execute { node, serial });
            return Ok(());
        }
        let Some(guest) = host.guest.as_mut().filter(|guest| guest.serial == serial) else {
            return Ok(());
        };
        let Some((epoch, content)) = guest.ahead.pop_front() else {
            return Ok(());
        };
        if self.chance(Kind::Divergence, 400) {
            let fatal = self.one_in(2);
            self.feed(node, Event::Diverged { epoch, fatal })?;
            if fatal {
                return Ok(());
            }
        }
        let Some(guest) = &mut self.nodes[node].guest else {
            return Ok(());
        };
        if guest.serial != serial {
            return Ok(());
        }
        guest.tip = Some(content);
        let more = !guest.ahead.is_empty();
        self.mark(content, |content| &mut content.executed);
        let virtual_now = self.contents[content].virtual_now;
        let run = self.nodes[node].run;
        self.feed(node, Event::Executed { epoch, virtual_now })?;
        if self.is(node, run) {
            self.feed(node, Event::Verified { epoch })?;
        }
        if more {
            let starved = self.now < self.nodes[node].slow_replay_until;
            let slow = starved || self.one_in(50);
            let most = if slow { 200 * MS } else { 5 * MS };
            self.after(0, most, Step::Execute { node, serial });
        }
        Ok(())
    }

    pub(super) fn clone_step(
        &mut self,
        node: usize,
        serial: u64,
        peer: PeerId,
        left: u32,
    ) -> Checked {
        let again = |left| Step::Clone {
            node,
            serial,
            peer,
            left,
        };
        let host = &mut self.nodes[node];
        if host.paused.is_some() {
            self.after(MS, 50 * MS, again(left));
            return Ok(());
        }
        let Some(guest) = host.guest.as_mut().filter(|guest| guest.serial == serial) else {
            return Ok(());
        };
        if guest.cloning != Some(peer) {
            return Ok(());
        }
        if let Some(until) = guest.told_until {
            if until <= self.now {
                guest.cloning = None;
                let why = "it said nothing of its RAM".to_owned();
                return self.feed(node, Event::CloneFailed { peer, why });
            }
            self.after(MS, 20 * MS, again(left));
            return Ok(());
        }
        if self.chance(Kind::CloneFailure, 30) {
            self.live_guest(node)?.cloning = None;
            let why = "chance".to_owned();
            return self.feed(node, Event::CloneFailed { peer, why });
        }
        if left > 0 {
            self.send_from(node, peer, Message::ClonePages { pages: Vec::new() });
            self.after(MS, 50 * MS, again(left - 1));
            return Ok(());
        }
        let guest = self.live_guest(node)?;
        guest.cloning = None;
        guest.snapshot_next = true;
        let first = guest.epoch + 1;
        self.feed(node, Event::CloneReady { peer, first })
    }
}
