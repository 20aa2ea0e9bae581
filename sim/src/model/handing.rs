//! Planned hand-overs: what a daemon does for one.

use replay::protocol::{Event, Role};

use super::node::{Handing, Node};
use super::plan::MS;
use super::sabotage::Sabotage;
use super::violation::Checked;
use super::world::{Step, World};

impl World {
    /// An operator asks whoever has a protected guest for it; gives whether somebody has. The backup gets
    /// `patience` for the rest of the log.
    pub(super) fn begin_hand_over(&mut self, patience: u64) -> bool {
        let ready = |node: &Node| {
            let status = node.core.status();
            let free = node.up && node.paused.is_none() && !node.leaving && node.handing.is_none();
            free && status.role == Role::Primary && status.protected
        };
        let Some(node) = self.nodes.iter().position(ready) else {
            return false;
        };
        self.say(|| format!("host{node} is to hand its guest over"));
        let host = &mut self.nodes[node];
        host.handing = Some(Handing {
            by: self.now + patience,
            offered: false,
        });
        let run = host.run;
        self.at(self.now, Step::HandOver(node, run));
        true
    }

    pub(super) fn hand_over(&mut self, node: usize, run: u64) -> Checked {
        let host = &self.nodes[node];
        let Some(handing) = &host.handing else {
            return Ok(());
        };
        if !self.is(node, run) {
            return Ok(());
        }
        let (by, offered) = (handing.by, handing.offered);
        self.at(self.now + MS, Step::HandOver(node, run));
        let host = &self.nodes[node];
        if host.paused.is_some() {
            return Ok(());
        }
        let status = host.core.status();
        let over = match offered {
            true => status.offered.is_none(),
            false => status.role != Role::Primary || !status.protected || self.now >= by,
        };
        if over {
            self.say(|| format!("host{node} keeps its guest"));
            let stats = &mut self.stats;
            match offered {
                true => stats.taken_back += 1,
                false => stats.not_offered += 1,
            }
            self.nodes[node].handing = None;
            return Ok(());
        }
        if offered {
            // The daemon looks often who has the guest.
            return self.look_once(node, run);
        }
        let writes = host
            .guest
            .as_ref()
            .is_some_and(|guest| !guest.flying.is_empty());
        if writes && self.sabotage != Some(Sabotage::DisksNotRetired) {
            return Ok(());
        }
        self.feed(node, Event::HandOver)?;
        let offered = self.nodes[node].core.status().offered.is_some();
        if let Some(handing) = &mut self.nodes[node].handing {
            handing.offered = offered;
        }
        Ok(())
    }
}
