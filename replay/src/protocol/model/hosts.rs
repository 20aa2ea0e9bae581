//! Hosts: what a daemon does about its core's actions.

use super::daemon;
use super::net::Item;
use super::world::{Checked, MS, Sabotage, Step, World};
use crate::protocol::{Action, Core, Event, HaltReason, Message, Note, Start};

impl World {
    pub(super) fn start(&mut self, node: usize, start: Start) {
        self.serial += 1;
        let run = self.serial;
        let mut config = daemon::config(start, node);
        config.commit = self.commit;
        if self.small_buffers {
            config.lag_bytes_max = 400;
        }
        let rate = self.nodes[node].rate;
        let host = &mut self.nodes[node];
        host.core = Core::new(config, self.now * rate / 1000);
        host.run = run;
        host.up = true;
        host.paused = None;
        host.guest = None;
        host.dialling = false;
        host.wake_at = self.now;
        self.at(self.now, Step::Wake(node, run));
        self.after(MS, 500 * MS, Step::Look(node, run));
    }

    pub(super) fn die(&mut self, node: usize, sends_fin: bool) {
        let end = (node, self.nodes[node].run);
        for (conn, side) in self.net.of(end) {
            if sends_fin {
                self.send(conn, side, Item::Fin);
            }
            if let Some(conn) = self.net.conns.get_mut(&conn) {
                conn.open[side] = false;
            }
        }
        self.nodes[node].up = false;
        self.nodes[node].guest = None;
        self.after(100 * MS, 1500 * MS, Step::Restart(node));
    }

    pub(super) fn feed(&mut self, node: usize, event: Event) -> Checked {
        let host = &mut self.nodes[node];
        if let Some(waiting) = &mut host.paused {
            waiting.push(event);
            return Ok(());
        }
        let mut actions = Vec::new();
        let local = self.now * host.rate / 1000;
        host.core.handle(local, event, &mut actions);
        let run = host.run;
        let mut delivered_late = Vec::new();
        for action in actions {
            if !self.is(node, run) {
                break;
            }
            let lie = self.sabotage == Some(Sabotage::AckedNotDelivered);
            if lie && matches!(action, Action::DeliverEpoch(_)) && self.one_in(10) {
                delivered_late.push(action);
                continue;
            }
            self.act(node, action)?;
        }
        if self.is(node, run) {
            let host = &self.nodes[node];
            let tick = host.core.next_tick();
            if tick != u64::MAX {
                let at = (tick * 1000).div_ceil(host.rate).max(self.now + 1);
                if host.wake_at != at {
                    self.nodes[node].wake_at = at;
                    self.at(at, Step::Wake(node, run));
                }
            }
        }
        Ok(())
    }

    pub(super) fn act(&mut self, node: usize, action: Action) -> Checked {
        let run = self.nodes[node].run;
        match action {
            Action::Send { peer, message } => self.send_from(node, peer, message),
            Action::SendEpoch { peer, epoch } => {
                self.send_from(node, peer, Message::Epoch(epoch));
            }
            Action::Established { .. } => {}
            Action::Disconnect { peer, .. } => {
                if let Some(side) = self.net.side(peer.0, (node, run)) {
                    self.send(peer.0, side, Item::Fin);
                    if let Some(conn) = self.net.conns.get_mut(&peer.0) {
                        conn.open[side] = false;
                    }
                }
            }
            Action::Connect => {
                self.nodes[node].dialling = true;
                self.at(self.now, Step::Dial(node, run));
            }
            Action::StartClone { peer } => {
                let guest = self.live_guest(node)?;
                guest.cloning = Some(peer);
                let serial = guest.serial;
                let left = self.below(5) as u32;
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
            Action::GoLive { generation } => self.go_live(node, generation)?,
            Action::ApplyPages(_) => self.copy(node),
            Action::DeliverEpoch(epoch) => {
                self.copy(node);
                let (content, snapshot) = daemon::content(&epoch);
                let parent = self.contents[content].parent;
                self.contents[content].delivered = true;
                let Some(guest) = &mut self.nodes[node].guest else {
                    return Err("no copy".to_owned());
                };
                if !snapshot && (guest.delivered != parent || guest.epoch + 1 != epoch.epoch) {
                    return Err(format!("epoch {} was delivered out of order", epoch.epoch));
                }
                guest.delivered = Some(content);
                guest.epoch = epoch.epoch;
                guest.ahead.push_back((epoch.epoch, content));
                let (idle, serial) = (guest.ahead.len() == 1, guest.serial);
                if idle {
                    self.after(0, 5 * MS, Step::Execute { node, serial });
                }
            }
            Action::DropGuest => {
                if self.nodes[node]
                    .guest
                    .take()
                    .is_some_and(|guest| guest.live)
                {
                    return Err("a live copy was dropped".to_owned());
                }
            }
            Action::AskArbiter { generation } => {
                let asked = generation;
                self.after(MS / 10, 20 * MS, Step::Ask { node, run, asked });
            }
            Action::StopGuest => {
                self.stats.stopped_guests += 1;
                self.live_guest(node)?.stopped = true;
            }
            Action::ResumeGuest => self.live_guest(node)?.stopped = false,
            Action::Halt { why } => {
                if let HaltReason::Failed(why) = why {
                    return Err(format!("host {node} failed: {why}"));
                }
                self.die(node, true);
            }
            Action::Note(Note::ArbiterLost { .. }) => self.stats.arbiter_lost += 1,
            Action::Note(_) => {}
        }
        Ok(())
    }
}
