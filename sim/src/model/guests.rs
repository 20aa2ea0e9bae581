//! Guests: what they execute, and what they let out.

use replay::entry::Epoch;
use replay::protocol::{Commit, Event, Generation, Message, PeerId, Role};

use super::disk::BLOCKS;
use super::kind::Kind;
use super::node::{self, Guest};
use super::plan::{FLOW, MS};
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

    pub(super) fn close_epoch(&mut self, node: usize, serial: u64) -> Checked {
        let host = &mut self.nodes[node];
        let running = host.up && host.paused.is_none() && !host.leaving;
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
        self.contents[content].executed = true;
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
        let host = &mut self.nodes[node];
        if host.paused.is_some() {
            self.after(
                MS,
                50 * MS,
                Step::Clone {
                    node,
                    serial,
                    peer,
                    left,
                },
            );
            return Ok(());
        }
        let Some(guest) = host.guest.as_mut().filter(|guest| guest.serial == serial) else {
            return Ok(());
        };
        if guest.cloning != Some(peer) {
            return Ok(());
        }
        if self.chance(Kind::CloneFailure, 30) {
            self.live_guest(node)?.cloning = None;
            let why = "chance".to_owned();
            return self.feed(node, Event::CloneFailed { peer, why });
        }
        if left > 0 {
            self.send_from(node, peer, Message::ClonePages { pages: Vec::new() });
            let left = left - 1;
            self.after(
                MS,
                50 * MS,
                Step::Clone {
                    node,
                    serial,
                    peer,
                    left,
                },
            );
            return Ok(());
        }
        let guest = self.live_guest(node)?;
        guest.cloning = None;
        guest.snapshot_next = true;
        let first = guest.epoch + 1;
        self.feed(node, Event::CloneReady { peer, first })
    }

    pub(super) fn go_alone(&mut self, node: usize, generation: Generation) -> Checked {
        let run = self.nodes[node].run;
        if self.nodes[node].guest.is_none() {
            if let Some(out) = self.out.take() {
                let whole = |other: &usize| match self.nodes[*other].core.role() {
                    Role::Backup | Role::Primary => true,
                    Role::Alone => !self.is_suspended(*other),
                    _ => false,
                };
                let mut others = (0..self.nodes.len()).filter(|other| *other != node);
                if others.any(|other| self.nodes[other].up && whole(&other)) {
                    return Rule::AckedLost.broken(format!(
                        "host {node} powers a guest on that has made output {out}"
                    ));
                }
                self.stats.cold_starts += 1;
            }
            self.copy(node);
            let guest = self.nodes[node].guest.as_mut();
            let serial = guest.map_or(0, |guest| {
                guest.live = true;
                guest.serial
            });
            self.after(5 * MS, 80 * MS, Step::CloseEpoch { node, serial });
        } else {
            self.stats.alone_again += 1;
            if self.live.is_some_and(|(g, ..)| g == generation) {
                self.stats.left_in_order += 1;
            }
        }
        self.claim(node, run, generation)?;
        let guest = self.live_guest(node)?;
        guest.hold_from = None;
        let through = guest.epoch;
        self.release(node, through)
    }

    pub(super) fn go_live(&mut self, node: usize, generation: Generation) -> Checked {
        self.stats.takeovers += 1;
        let run = self.nodes[node].run;
        let host_ns = self.nodes[node].clock.show(self.now);
        let Some(guest) = &mut self.nodes[node].guest else {
            return Rule::DaemonCantObey.broken(format!("host {node} goes live without a guest"));
        };
        if guest.live || !guest.ahead.is_empty() || guest.tip != guest.delivered {
            return Rule::HalfExecuted.broken(format!("host {node} goes live too early"));
        }
        guest.live = true;
        let (serial, tip) = (guest.serial, guest.tip);
        let tip = tip.map(|tip| (tip, &self.contents[tip]));
        if let Some((_, content)) = tip
            && self.sabotage != Some(Sabotage::ClockNotRebased)
        {
            guest.clock.rebase(host_ns, content.virtual_now);
        }
        let tip = tip.map(|(tip, content)| (tip, content.waiting.clone()));
        self.claim(node, run, generation)?;
        self.after(5 * MS, 80 * MS, Step::CloseEpoch { node, serial });
        let Some((tip, waiting)) = tip else {
            return Ok(());
        };
        // What it has executed may be out already, or may never have been: it is made good.
        self.let_out(node, tip)?;
        for request in waiting {
            if self.sabotage != Some(Sabotage::NotReissued) {
                self.stats.reissued += 1;
                self.submit(node, request)?;
            }
        }
        Ok(())
    }

    fn claim(&mut self, node: usize, run: u64, generation: Generation) -> Checked {
        if let Some((newest, other, other_run)) = self.live {
            let same = (other, other_run) == (node, run);
            if generation < newest || (generation == newest && !same) {
                return Rule::TwoLive.broken(format!(
                    "host {node} goes live with generation {generation}, host {other} did with {newest}"
                ));
            }
        }
        self.say(|| format!("host{node} is live with generation {generation}"));
        self.live = Some((generation, node, run));
        // Winning it was as good as a sign.
        self.nodes[node].signed_at = self.now;
        Ok(())
    }

    pub(super) fn release(&mut self, node: usize, through: Epoch) -> Checked {
        while !self.nodes[node].leaving && !self.is_suspended(node) {
            let guest = self.live_guest(node)?;
            let hold_from = guest.hold_from;
            let next = guest.held.pop_front_if(|(epoch, _)| *epoch <= through);
            let Some((epoch, content)) = next else {
                return Ok(());
            };
            let Content {
                delivered,
                executed,
                ..
            } = self.contents[content];
            let safe = match self.plan.commit {
                Commit::Received => delivered,
                Commit::Executed | Commit::Verified => executed,
            };
            if hold_from.is_some_and(|from| from <= epoch) && !safe {
                return Rule::OutputBeforeAck.broken(format!(
                    "output of epoch {epoch} went out before its log was safe"
                ));
            }
            self.let_out(node, content)?;
            if self.contents[content].writes.is_some() {
                self.submit(node, content)?;
            }
        }
        Ok(())
    }

    /// An output goes out: nobody else may be live, and nothing that is out may be undone by it.
    pub(super) fn let_out(&mut self, node: usize, content: usize) -> Checked {
        let run = self.nodes[node].run;
        match self.live {
            Some((_, live, live_run)) if (live, live_run) == (node, run) => {}
            live => {
                return Rule::TwoLive
                    .broken(format!("host {node} lets output out, but live is {live:?}"));
            }
        }
        if let Some(out) = self.out {
            let oldest = self.contents[out].epoch;
            let mut at = content;
            while self.contents[at].epoch > oldest {
                let Some(parent) = self.contents[at].parent else {
                    return Rule::AckedLost.broken("output of an orphan".to_owned());
                };
                at = parent;
            }
            if at != out {
                return Rule::AckedLost.broken(format!(
                    "host {node} is live without the output of epoch {oldest}, which is out"
                ));
            }
        }
        self.mention(|| format!("host{node} lets output {content} out"));
        self.out = Some(content);
        self.stats.released += 1;
        self.flowed |= self.now + FLOW >= self.plan.end();
        Ok(())
    }
}
