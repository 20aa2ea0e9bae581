//! Live copies: how a copy becomes one, and what it lets out.

use replay::EncodedEpoch;
use replay::entry::Epoch;
use replay::protocol::{Commit, Generation, Role};

use super::guests::Content;
use super::plan::{FLOW, MS};
use super::sabotage::Sabotage;
use super::violation::{Checked, Rule};
use super::world::{Step, World};

impl World {
    pub(super) fn go_alone(&mut self, node: usize, generation: Generation) -> Checked {
        let run = self.nodes[node].run;
        if self.nodes[node].guest.is_none() {
            if let Some(out) = self.out.take() {
                let unseen = self.is_unseen();
                let whole = |other: &usize| match self.nodes[*other].core.role() {
                    Role::Backup | Role::Primary if unseen => false,
                    Role::Backup => !self.may_wait_in_vain(&self.nodes[*other]),
                    // One that waits for the arbiter lets nothing out, and will lose.
                    Role::Primary => !self.nodes[*other].core.status().asking_arbiter,
                    Role::Alone => !self.is_silent(*other),
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
        self.live_guest(node)?.hold_from = None;
        self.sign_by_bid(node, generation);
        if self.is_silent(node) && self.sabotage != Some(Sabotage::SilentNotSuspended) {
            // Word of it came so late that another host may have started the guest: `check_lease` goes on.
            self.nodes[node].lapsed = false;
            return self.check_lease(node);
        }
        self.claim(node, run, generation)?;
        let guest = self.live_guest(node)?;
        let through = guest.epoch;
        self.release(node, through)
    }

    /// A live copy has ruled a backup out, and keeps others.
    pub(super) fn renew(&mut self, node: usize, generation: Generation, late: bool) -> Checked {
        self.stats.ruled_out += 1;
        self.live_guest(node)?;
        self.sign_by_bid(node, generation);
        if late && self.sabotage != Some(Sabotage::RenewedWithoutLease) {
            // Another host may have started the guest.
            self.stats.lapsed += 1;
            self.nodes[node].lapsed = true;
            return Ok(());
        }
        match self.live {
            // One that was ruled in has won the next one since: it lets nothing out then.
            Some((newest, ..)) if newest > generation && !self.is_silent(node) => Ok(()),
            _ => self.claim(node, self.nodes[node].run, generation),
        }
    }

    pub(super) fn go_live(
        &mut self,
        node: usize,
        generation: Generation,
        released: Epoch,
    ) -> Checked {
        self.check_out(node, released)?;
        self.stats.takeovers += 1;
        self.count_candidates(generation);
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
        self.sign_by_bid(node, generation);
        self.nodes[node].lapsed = false;
        Ok(())
    }

    /// Winning a generation was as good as a sign; which of the bids has won is not known.
    fn sign_by_bid(&mut self, node: usize, generation: Generation) {
        let host = &mut self.nodes[node];
        if host.asked.0 == generation {
            host.signed_at = host.signed_at.max(host.asked.1);
        }
    }

    pub(super) fn release(&mut self, node: usize, through: Epoch) -> Checked {
        while !self.nodes[node].leaving && !self.nodes[node].lapsed {
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

    /// What a primary calls released is out: its backup will not make it good.
    pub(super) fn check_released(&self, node: usize, epoch: &EncodedEpoch) -> Checked {
        let silent = self.nodes[node].leaving || self.nodes[node].lapsed;
        match silent {
            true => Ok(()),
            false => self.check_out(node, epoch.released),
        }
    }

    fn check_out(&self, node: usize, released: Epoch) -> Checked {
        let out = self.out.map_or(0, |out| self.contents[out].epoch);
        if released > out {
            return Rule::OutputForgotten.broken(format!(
                "host {node} takes epoch {released} for released, but epoch {out} went out last"
            ));
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
