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

    /// A guest that waits for ever is no better than one without a backup, and neither is one whose outputs do:
    /// whoever is waited for is let go, once he can no longer take over.
    pub(super) fn give_up(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        if self.give_up_at(shared) > shared.now {
            return;
        }
        let is_due = |since: u64| since + shared.give_up_ns() <= shared.now;
        let slowest = match self.stopped_at {
            Some(since) if is_due(since) => self.members.iter().map(Member::executed).min(),
            _ => None,
        };
        for member in &mut self.members {
            let late =
                Some(member.executed()) == slowest || member.mute_since().is_some_and(is_due);
            member.given_up |= late;
        }
        self.ask_from(shared.now, shared, out);
    }

    /// When a backup that the guest or its outputs wait for is to be given up.
    pub(super) fn give_up_at(&self, shared: &Shared) -> u64 {
        if self.ask.is_some() {
            return u64::MAX;
        }
        let linked = self.members.iter().any(|member| member.link.is_some());
        let stopped = self.stopped_at.filter(|_| linked);
        let mute = self.members.iter().filter_map(Member::mute_since);
        let since = mute.chain(stopped).min();
        since.map_or(u64::MAX, |since| since + shared.give_up_ns())
    }
}
