//! Hosts: what a daemon does about its core's actions.

use replay::codec::EncodedEpoch;
use replay::protocol::{
    Action, Core, DisconnectReason, Event, HaltReason, Message, Note, PageHash, PageHashes, PeerId,
    Start,
};

use super::arbiter::LEASE;
use super::node;
use super::plan::MS;
use super::sabotage::Sabotage;
use super::violation::{Checked, Rule};
use super::world::{Step, World};

/// Pages of a guest's RAM.
const PAGES: u64 = 256;
/// How long a joiner may take to say what RAM it has.
const TELLING_MAX: u64 = 2000 * MS;

impl World {
    pub(super) fn start(&mut self, node: usize, start: Start) {
        self.serial += 1;
        let run = self.serial;
        let mut config = node::config(start, node);
        config.commit = self.plan.commit;
        config.release = self.plan.release;
        config.backups_max = self.plan.backups;
        config.bidder = run.to_string();
        // Less than a world has to settle: an epoch that is lost right before the guest stands still for a
        // hand-over is missed by nobody until then. (No connection of the daemon's loses one and lives.)
        config.give_up_ms = 2_000;
        config.lease_ms = (LEASE / MS) as u32;
        if self.plan.small_buffers {
            config.lag_bytes_max = 400;
            config.lag_ms_max = 50;
            config.give_up_ms = 400;
        }
        let host = &mut self.nodes[node];
        host.core = Core::new(config, host.clock.show(self.now));
        host.run = run;
        host.up = true;
        host.paused = None;
        host.leaving = false;
        host.left = false;
        host.handing = None;
        host.asked = (0, 0);
        host.lapsed = false;
        host.guest = None;
        host.leftover = 0;
        host.dialling = false;
        host.wake_at = self.now;
        self.at(self.now, Step::Wake(node, run));
        self.after(MS, 500 * MS, Step::Look(node, run));
    }

    /// A process ends: the kernel closes its connections when what the disk works on for it is done.
    pub(super) fn die(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        host.up = false;
        host.guest = None;
        let end = (node, host.run);
        let at = self.now.max(host.writes_until);
        for (conn, side) in self.net.of(end) {
            self.at(at, Step::Close(conn, side));
        }
        let at = at + self.random.between(100 * MS, 1500 * MS);
        self.at(at, Step::Restart(node));
    }

    pub(super) fn cut_power(&mut self, node: usize) -> Checked {
        let end = (node, self.nodes[node].run);
        for (conn, side) in self.net.of(end) {
            if let Some(conn) = self.net.conns.get_mut(&conn) {
                conn.open[side] = false;
            }
        }
        self.scatter(node)?;
        self.nodes[node].up = false;
        self.nodes[node].power_cuts += 1;
        self.after(100 * MS, 1500 * MS, Step::Restart(node));
        Ok(())
    }

    pub(super) fn feed(&mut self, node: usize, event: Event) -> Checked {
        let host = &mut self.nodes[node];
        if let Some(waiting) = &mut host.paused {
            waiting.push(event);
            return Ok(());
        }
        let mut actions = Vec::new();
        host.core
            .handle(host.clock.show(self.now), event, &mut actions);
        let run = host.run;
        for action in actions {
            if !self.is(node, run) {
                return Ok(());
            }
            self.act(node, action)?;
        }
        if !self.is(node, run) {
            return Ok(());
        }
        let host = &mut self.nodes[node];
        let tick = host.core.next_tick();
        if tick != u64::MAX {
            let at = host.clock.when(tick, self.now + 1);
            if host.wake_at != at {
                host.wake_at = at;
                self.at(at, Step::Wake(node, run));
            }
        }
        Ok(())
    }

    fn act(&mut self, node: usize, action: Action) -> Checked {
        let run = self.nodes[node].run;
        match action {
            Action::Send { peer, message } => self.send_from(node, peer, message),
            Action::SendEpoch { peer, epoch } => {
                self.check_released(node, &epoch)?;
                self.send_from(node, peer, Message::Epoch(epoch));
            }
            Action::Established { .. } => {}
            Action::Disconnect { peer, why } => {
                let slow = matches!(why, DisconnectReason::TooSlow { .. });
                self.stats.given_up += u64::from(slow);
                if let Some(side) = self.net.side(peer.0, (node, run)) {
                    self.close(peer.0, side);
                }
            }
            Action::Connect => {
                self.nodes[node].dialling = true;
                self.at(self.now, Step::Dial(node, run));
            }
            Action::StartClone { peer } => self.start_clone(node, peer)?,
            Action::TakeHashes { peer, hashes } => self.take_hashes(node, peer, &hashes)?,
            Action::TellHashes { peer } => {
                if self.nodes[node].guest.is_some() {
                    let what =
                        format!("host {node} has a copy, and is to tell what is left of one");
                    return Rule::DaemonCantObey.broken(what);
                }
                let gfn = 0;
                self.after(
                    0,
                    200 * MS,
                    Step::Tell {
                        node,
                        run,
                        peer,
                        gfn,
                    },
                );
            }
            Action::StopClone { peer } => {
                let guest = self.live_guest(node)?;
                if guest.cloning == Some(peer) {
                    guest.cloning = None;
                }
                guest.snapshot_next = false;
            }
            Action::HoldOutputs { from } => self.live_guest(node)?.hold_from = Some(from),
            Action::ReleaseOutputs { through } => self.release(node, through)?,
            Action::GoAlone { generation } => self.go_alone(node, generation)?,
            Action::Renew { generation, late } => self.renew(node, generation, late)?,
            Action::GoLive {
                generation,
                released,
            } => self.go_live(node, generation, released)?,
            Action::ApplyPages(_) => self.copy(node),
            Action::DeliverEpoch(epoch) => self.deliver_epoch(node, &epoch)?,
            Action::DropGuest => self.drop_guest(node)?,
            Action::AskArbiter { generation } => self.send_question(node, generation),
            Action::Stand {
                generation,
                through,
            } => self.send_candidacy(node, generation, through),
            Action::StopGuest => {
                self.stats.stopped_guests += 1;
                self.live_guest(node)?.stopped = true;
            }
            Action::ResumeGuest => self.live_guest(node)?.stopped = false,
            Action::Halt { why } => self.halt(node, why)?,
            Action::Note(note) => {
                self.stats.arbiter_lost += u64::from(matches!(note, Note::ArbiterLost { .. }));
                self.say(|| format!("host{node}: {note}"));
            }
        }
        Ok(())
    }

    fn start_clone(&mut self, node: usize, peer: PeerId) -> Checked {
        let told_until = self.now + TELLING_MAX;
        let guest = self.live_guest(node)?;
        guest.cloning = Some(peer);
        guest.told_until = Some(told_until);
        let serial = guest.serial;
        let left = self.below(5) as u32;
        let step = Step::Clone {
            node,
            serial,
            peer,
            left,
        };
        self.after(MS, 50 * MS, step);
        Ok(())
    }

    fn take_hashes(&mut self, node: usize, peer: PeerId, hashes: &PageHashes) -> Checked {
        let guest = self.live_guest(node)?;
        if guest.cloning == Some(peer) && hashes.last {
            guest.told_until = None;
            self.stats.told += u64::from(hashes.end() > 0);
        }
        Ok(())
    }

    /// What is left is told in some messages; an empty last one, if nothing is.
    pub(super) fn tell_hashes(&mut self, node: usize, run: u64, peer: PeerId, gfn: u64) {
        if !self.is(node, run) {
            return;
        }
        let step = |gfn| Step::Tell {
            node,
            run,
            peer,
            gfn,
        };
        if self.nodes[node].paused.is_some() {
            return self.after(MS, 50 * MS, step(gfn));
        }
        let left = self.nodes[node].leftover.saturating_sub(gfn);
        let count = left.min(1 + self.below(PAGES / 2));
        let said = PageHashes {
            key: [0; 16],
            first_gfn: gfn,
            hashes: vec![PageHash([1; 16]); count as usize],
            last: count == left,
        };
        let (last, end) = (said.last, said.end());
        self.send_from(node, peer, Message::PageHashes(said));
        if !last {
            self.after(0, 50 * MS, step(end));
        }
    }

    fn deliver_epoch(&mut self, node: usize, epoch: &EncodedEpoch) -> Checked {
        if self.sabotage == Some(Sabotage::AckedNotDelivered) && self.one_in(10) {
            return Ok(());
        }
        self.copy(node);
        let (content, snapshot) = node::content(epoch);
        let parent = self.contents[content].parent;
        self.mark(content, |content| &mut content.delivered);
        let Some(guest) = &mut self.nodes[node].guest else {
            return Ok(());
        };
        if !snapshot && (guest.delivered != parent || guest.epoch + 1 != epoch.epoch) {
            let what = format!("epoch {} reaches host {node} out of order", epoch.epoch);
            return Rule::EpochOrder.broken(what);
        }
        guest.delivered = Some(content);
        guest.epoch = epoch.epoch;
        guest.ahead.push_back((epoch.epoch, content));
        let (idle, serial) = (guest.ahead.len() == 1, guest.serial);
        if idle {
            self.after(0, 5 * MS, Step::Execute { node, serial });
        }
        Ok(())
    }

    fn drop_guest(&mut self, node: usize) -> Checked {
        let guest = &mut self.nodes[node].guest;
        if guest.as_ref().is_some_and(|guest| guest.live) {
            return Rule::DaemonCantObey.broken(format!("host {node} drops its live copy"));
        }
        if self.sabotage != Some(Sabotage::DroppedNotStopped) {
            *guest = None;
        }
        // Its RAM may be kept, or not.
        let pages = self.below(2) * self.below(PAGES);
        self.nodes[node].leftover = pages;
        Ok(())
    }

    fn halt(&mut self, node: usize, why: HaltReason) -> Checked {
        if let HaltReason::Failed(why) = why {
            return Rule::CoreFailed.broken(format!("host {node}: {why}"));
        }
        self.say(|| format!("host{node} halts: {why}"));
        let lost = matches!(why, HaltReason::Lost { .. });
        self.stats.handed_over += u64::from(lost && self.nodes[node].handing.is_some());
        if lost
            && self.sabotage == Some(Sabotage::LoserNotHalted)
            && let Ok(guest) = self.live_guest(node)
        {
            guest.hold_from = None;
            return Ok(());
        }
        self.die(node);
        Ok(())
    }
}
