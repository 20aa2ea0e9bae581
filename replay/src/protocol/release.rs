//! The output rule: whose acknowledgement of the log an output waits for.

use thiserror::Error;

use super::core::Shared;
use super::event::Action;
use super::member::Member;
use super::primary::Primary;
use crate::entry::Epoch;

/// Whose acknowledgement an output waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Release {
    /// Every backup's. Any one of them can take over when all others are lost.
    #[default]
    All,
    /// That of so many backups that, with the primary, they are more than half of all copies. One that takes
    /// over must know of as many others that none of them has more of the log.
    Quorum,
}

impl Release {
    /// How many of `backups` must have told their positions, the one included that wants to take over, so
    /// that one of them has all that was let out: as many as there are, less those whose acknowledgement
    /// does, and one.
    pub fn voices(self, backups: usize) -> u32 {
        match self {
            Release::All => 1,
            Release::Quorum => (backups / 2 + 1) as u32,
        }
    }
}

/// Not a [`Release`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is none of all, quorum")]
pub struct UnknownRelease(String);

impl std::str::FromStr for Release {
    type Err = UnknownRelease;

    fn from_str(text: &str) -> Result<Release, UnknownRelease> {
        match text {
            "all" => Ok(Release::All),
            "quorum" => Ok(Release::Quorum),
            other => Err(UnknownRelease(other.to_owned())),
        }
    }
}

impl Primary {
    /// The output rule. What all members have acknowledged goes out, or as many of them that whoever of the others
    /// takes over has heard from one of those ([`Member::voices`]). An acknowledgement may be so old
    /// that the member may have taken over since (an old write would then overtake a new one); a fresh
    /// heartbeat's answer settles that.
    pub(super) fn release(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        if self.offered.is_some() || self.lapsed {
            return;
        }
        let has = |member: &Member| {
            let leased = member
                .link
                .as_ref()
                .is_some_and(|link| shared.now < link.lease_until(shared.detect_ns()));
            member.committed(shared.config.commit).filter(|_| leased)
        };
        let is_safe = |through: Epoch| {
            let has_it = |member: &&Member| has(member) >= Some(through);
            let without = self.members.len() - self.members.iter().filter(has_it).count();
            let mut others = self.members.iter().filter(|member| !has_it(member));
            others.all(|member| member.voices() > without)
        };
        let acknowledged = self.members.iter().filter_map(has);
        let newer = acknowledged.filter(|through| *through > self.released);
        if let Some(through) = newer.filter(|through| is_safe(*through)).max() {
            self.released = through;
            out.push(Action::ReleaseOutputs { through });
        }
    }

    /// Tells the backups how many there are, and how many of them must have told their positions before one may bid. One that has not
    /// said a word yet is not counted on by the others: it may still be lost without having had a copy.
    pub(super) fn tell_quorum(&mut self, kept: bool, shared: &Shared, out: &mut Vec<Action>) {
        let copies = self.copies(|_| true);
        for member in &mut self.members {
            let of = copies + usize::from(member.acked.is_none());
            member.tell_backups(of as u32, out);
            member.tell_quorum(shared.config.release.voices(of), kept, out);
        }
    }

    /// How many members, of those that are wanted, are known to have a copy.
    pub(super) fn copies(&self, wanted: impl Fn(&Member) -> bool) -> usize {
        let copies = self.members.iter().filter(|member| member.acked.is_some());
        copies.filter(|member| wanted(member)).count()
    }
}
