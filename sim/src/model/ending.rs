//! What must have settled when a world ends.

use replay::protocol::{Role, Status};

use super::plan::Mode;
use super::violation::{Checked, Rule};
use super::world::World;

impl World {
    /// Redundancy is back, if there is a guest left.
    pub(super) fn check_end(&mut self) -> Checked {
        let up = self.nodes.iter().filter(|node| node.up);
        let statuses: Vec<Status> = up.map(|node| node.core.status()).collect();
        let live = |status: &&Status| matches!(status.role, Role::Primary | Role::Alone);
        let count = statuses.iter().filter(live).count();
        if count > 1 {
            return Rule::TwoLive.broken(format!("{count} live copies at the end: {statuses:#?}"));
        }
        if count == 0 {
            self.stats.ended_without_guest += 1;
            return match self.plan.mode {
                Mode::Storm => Ok(()),
                _ => Rule::GuestLost.broken(format!("no live copy is left: {statuses:#?}")),
            };
        }
        let count = |role| {
            let is = |status: &&Status| status.role == role && status.protected;
            statuses.iter().filter(is).count()
        };
        let backups = (self.nodes.len() - 1).min(self.plan.backups as usize);
        if count(Role::Primary) != 1 || count(Role::Backup) != backups {
            return Rule::NotRedundant.broken(format!("the guest is not protected: {statuses:#?}"));
        }
        if !self.flowed {
            return Rule::NoFlow.broken(format!("outputs don't flow: {statuses:#?}"));
        }
        self.stats.ended_protected += 1;
        self.stats.ended_with_more += u64::from(backups > 1);
        Ok(())
    }
}
