//! Guests: what they execute, and what they let out.

use super::daemon::{self, Guest};
use super::world::{Checked, Content, FLOW_FROM, Faults, MS, Sabotage, Step, World};
use crate::entry::Epoch;
use crate::protocol::{Commit, Event, Generation, Message, PeerId};

impl World {
    pub(super) fn live_guest(&mut self, node: usize) -> Result<&mut Guest, String> {
        let guest = self.nodes[node].guest.as_mut().filter(|guest| guest.live);
        guest.ok_or_else(|| format!("host {node} has no live guest"))
    }

    /// Makes room for a copy.
    pub(super) fn copy(&mut self, node: usize) {
        if self.nodes[node].guest.is_none() {
            self.serial += 1;
            self.nodes[node].guest = Some(Guest::new(self.serial));
        }
    }

    pub(super) fn close_epoch(&mut self, node: usize, serial: u64) -> Checked {
        let content = self.contents.len();
        let padding = self.below(60) as usize;
        let host = &mut self.nodes[node];
        let running = host.up && host.paused.is_none();
        let Some(guest) = host.guest.as_mut().filter(|guest| guest.serial == serial) else {
            return Ok(());
        };
        if running && !guest.stopped {
            guest.epoch += 1;
            let number = guest.epoch;
            self.contents.push(Content {
                epoch: number,
                parent: guest.tip,
                delivered: false,
                executed: false,
            });
            guest.tip = Some(content);
            guest.held.push_back((number, content));
            let snapshot = std::mem::take(&mut guest.snapshot_next);
            let epoch = daemon::epoch(number, content, snapshot, padding);
            if guest.hold_from.is_none() {
                self.release(node, number)?;
            }
            self.feed(node, Event::EpochClosed(epoch))?;
            if self.sabotage == Some(Sabotage::OutputsNotHeld) && self.one_in(50) {
                let run = self.nodes[node].run;
                if self.is(node, run) && self.nodes[node].guest.is_some() {
                    self.release(node, number)?;
                }
            }
        }
        self.after(5 * MS, 80 * MS, Step::Close { node, serial });
        Ok(())
    }

    pub(super) fn execute(&mut self, node: usize, serial: u64) -> Checked {
        let diverges = self.faults_on() && self.faults == Faults::Storm && self.one_in(400);
        let fatal = self.one_in(2);
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
        if diverges {
            self.stats.divergences += 1;
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
        let virtual_now = epoch;
        let run = self.nodes[node].run;
        self.feed(node, Event::Executed { epoch, virtual_now })?;
        if self.is(node, run) {
            self.feed(node, Event::Verified { epoch })?;
        }
        if more {
            let slow = if self.one_in(50) { 200 * MS } else { 5 * MS };
            self.after(0, slow, Step::Execute { node, serial });
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
        let fails = self.faults_on() && self.one_in(30);
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
        if fails {
            guest.cloning = None;
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
        guest.cloning = None;
        guest.snapshot_next = true;
        let first = guest.epoch + 1;
        self.feed(node, Event::CloneReady { peer, first })
    }

    pub(super) fn go_alone(&mut self, node: usize, generation: Generation) -> Checked {
        let run = self.nodes[node].run;
        if self.nodes[node].guest.is_none() {
            if let Some(out) = self.out {
                return Err(format!(
                    "host {node} powers a guest on that has made output {out}"
                ));
            }
            self.copy(node);
            let guest = self.nodes[node].guest.as_mut().ok_or("no guest")?;
            guest.live = true;
            let serial = guest.serial;
            self.after(5 * MS, 80 * MS, Step::Close { node, serial });
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
        let Some(guest) = &mut self.nodes[node].guest else {
            return Err(format!("host {node} goes live without a guest"));
        };
        if guest.live || !guest.ahead.is_empty() || guest.tip != guest.delivered {
            return Err(format!("host {node} goes live before it has executed all"));
        }
        guest.live = true;
        let (serial, tip) = (guest.serial, guest.tip);
        self.claim(node, run, generation)?;
        self.after(5 * MS, 80 * MS, Step::Close { node, serial });
        // It may re-issue what it replayed last.
        tip.map_or(Ok(()), |tip| self.let_out(node, tip))
    }

    pub(super) fn claim(&mut self, node: usize, run: u64, generation: Generation) -> Checked {
        if let Some((newest, other, other_run)) = self.live {
            let same = (other, other_run) == (node, run);
            if generation < newest || (generation == newest && !same) {
                return Err(format!(
                    "host {node} goes live with generation {generation}, host {other} did with {newest}"
                ));
            }
        }
        self.live = Some((generation, node, run));
        Ok(())
    }

    pub(super) fn release(&mut self, node: usize, through: Epoch) -> Checked {
        loop {
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
            let safe = match self.commit {
                Commit::Received => delivered,
                Commit::Executed | Commit::Verified => executed,
            };
            if hold_from.is_some_and(|from| from <= epoch) && !safe {
                return Err(format!(
                    "output of epoch {epoch} went out before its log was safe"
                ));
            }
            self.let_out(node, content)?;
        }
    }

    /// An output goes out: nobody else may be live, and nothing that is out may be undone by it.
    pub(super) fn let_out(&mut self, node: usize, content: usize) -> Checked {
        let run = self.nodes[node].run;
        match self.live {
            Some((_, live, live_run)) if (live, live_run) == (node, run) => {}
            live => return Err(format!("host {node} lets output out, but live is {live:?}")),
        }
        if let Some(out) = self.out {
            let oldest = self.contents[out].epoch;
            let mut at = content;
            while self.contents[at].epoch > oldest {
                at = self.contents[at].parent.ok_or("output of an orphan")?;
            }
            if at != out && self.contents[at].epoch == oldest {
                return Err(format!(
                    "output of epoch {oldest} that was out is missing at host {node}"
                ));
            }
            if self.contents[at].epoch < oldest {
                return Err(format!(
                    "host {node} is live but behind epoch {oldest}, whose output is out"
                ));
            }
        }
        self.out = Some(content);
        self.stats.released += 1;
        self.flowed |= self.now >= FLOW_FROM;
        Ok(())
    }
}
