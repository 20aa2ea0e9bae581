//! The guest runs as fast as its slowest backup replays, within limits.

use super::core::Shared;
use super::event::{Action, Note};
use super::member::Member;
use super::primary::Primary;

impl Primary {
    /// Back-pressure: the guest waits while a backup is too far behind, in bytes or in time. Time counts
    /// once the backup has its copy.
    pub(super) fn press(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        let bytes = self.sent.bytes();
        let behind = self.behind_ns(shared);
        let (bytes_max, lag_max) = (shared.config.lag_bytes_max, shared.lag_ns_max());
        if self.stopped_at.is_none() && (bytes > bytes_max || behind > lag_max) {
            self.stopped_at = Some(shared.now);
            out.push(Action::StopGuest);
            if bytes > bytes_max {
                out.push(Action::Note(Note::GuestStopped { bytes }));
            }
        } else if bytes <= bytes_max / 2 && behind <= lag_max / 2 {
            self.resume(out);
        }
    }

    /// For how long the last of the backups that have their copies has left an epoch unexecuted.
    fn behind_ns(&self, shared: &Shared) -> u64 {
        let copies = self
            .members
            .iter()
            .filter(|member| member.link.is_some() && member.acked.is_some());
        copies
            .map(Member::executed)
            .min()
            .and_then(|executed| self.sent.since(executed))
            .map_or(0, |sent_at| shared.now - sent_at)
    }

    pub(super) fn resume(&mut self, out: &mut Vec<Action>) {
        if self.stopped_at.take().is_some() {
            out.push(Action::ResumeGuest);
        }
    }

    /// A guest that waits for ever is no better than one without a backup: whoever it waits for is let go,
    /// once he can no longer take over.
    pub(super) fn give_up(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        if self.give_up_at(shared) > shared.now {
            return;
        }
        let slowest = self.members.iter().map(Member::executed).min();
        for member in &mut self.members {
            member.given_up |= Some(member.executed()) == slowest;
        }
        self.ask_from(shared.now, shared, out);
    }

    /// When the backup that the guest waits for is to be given up.
    pub(super) fn give_up_at(&self, shared: &Shared) -> u64 {
        let linked = self.members.iter().any(|member| member.link.is_some());
        match self.stopped_at {
            Some(since) if linked && self.ask.is_none() => since + shared.give_up_ns(),
            _ => u64::MAX,
        }
    }
}
