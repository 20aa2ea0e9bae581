//! A backup, as its primary knows it.

use super::event::{Action, PeerId, ProtocolError};
use super::link::{Link, send};
use super::message::{Ack, Commit, Generation, Message};
use super::role::BackupStatus;
use super::sent::Sent;
use crate::entry::Epoch;

/// Whoever was sent a whole clone and has not been ruled out since.
///
/// A member may bid for the generation after [`kept`](Member::kept), and will when it misses its primary. So
/// nothing goes out that it has not acknowledged, unless it has to hear of one that has first
/// ([`voices`](Member::voices)); and one that is lost stays a member until this side has won a generation after
/// that.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// `None` once it is lost, or offered the guest.
    pub(super) link: Option<Link>,
    /// What it said last; `None` before its first word, which says that it can take over.
    pub(super) acked: Option<Ack>,
    /// The first epoch that it was sent, and when it was made a member.
    first: Epoch,
    admitted_at: u64,
    /// The last generation that it may have heard it is kept in, should its primary win it.
    pub(super) kept: Generation,
    /// The last one that it has said it heard so of.
    pub(super) knows: Generation,
    /// It is let go with the next generation, though it is there.
    pub(super) given_up: bool,
    /// How many voices it may take for enough: what it surely knows first, and what it was told since.
    quorums: Vec<Quorum>,
    /// And in the generation that it is kept in, if it has heard no later word since; with the last number
    /// before.
    kept_quorum: Option<Quorum>,
    /// How many backups it was told that there are.
    told_backups: u32,
}

/// How many voices a member was told are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quorum {
    /// Number of the [`Message::Quorum`].
    number: u64,
    voices: u32,
}

impl Member {
    /// It gets the log from `first` on, and was welcomed in this generation.
    pub(super) fn new(link: Link, first: Epoch, generation: Generation, now: u64) -> Member {
        Member {
            link: Some(link),
            acked: None,
            first,
            admitted_at: now,
            kept: generation,
            knows: generation,
            given_up: false,
            quorums: vec![Quorum {
                number: 0,
                voices: 1,
            }],
            kept_quorum: None,
            told_backups: 1,
        }
    }

    /// The least number of voices that it may take for enough, its own included.
    pub(super) fn voices(&self) -> usize {
        let quorums = self.quorums.iter().chain(&self.kept_quorum);
        let least = quorums.map(|quorum| quorum.voices).min();
        least.unwrap_or(1) as usize
    }

    /// The greatest number of voices that it may still wait for.
    fn voices_at_most(&self) -> usize {
        let most = self.quorums.iter().map(|quorum| quorum.voices).max();
        most.unwrap_or(1) as usize
    }

    /// Tells it how many voices are enough from now on, if that was not this side's last word. When it has
    /// just been kept in a generation (`kept`), it may go by what it was told for then.
    pub(super) fn tell_quorum(&mut self, voices: u32, kept: bool, out: &mut Vec<Action>) {
        let (Some(link), Some(last)) = (&self.link, self.quorums.last()) else {
            return;
        };
        if last.voices == voices && !(kept && self.kept_quorum.is_some()) {
            return;
        }
        let number = last.number + 1;
        out.push(send(link, Message::Quorum { number, voices }));
        self.quorums.push(Quorum { number, voices });
    }

    /// Tells it how many backups there are, if that was not this side's last word.
    pub(super) fn tell_backups(&mut self, count: u32, out: &mut Vec<Action>) {
        if let Some(link) = &self.link
            && std::mem::replace(&mut self.told_backups, count) != count
        {
            out.push(send(link, Message::Backups { count }));
        }
    }

    /// It goes by this one.
    ///
    /// # Errors
    /// It was never told it.
    pub(super) fn on_quorum_known(&mut self, number: u64) -> Result<(), ProtocolError> {
        let told = |quorum: &Quorum| quorum.number == number;
        let Some(at) = self.quorums.iter().position(told) else {
            let name = Message::QuorumKnown { number }.name();
            return Err(ProtocolError::Unexpected(name));
        };
        self.quorums.drain(..at);
        self.kept_quorum.take_if(|kept| kept.number < number);
        Ok(())
    }

    /// Since when it is there without a word, for which outputs wait.
    pub(super) fn mute_since(&self) -> Option<u64> {
        let mute = self.stays() && self.acked.is_none();
        mute.then_some(self.admitted_at)
    }

    pub(super) fn is(&self, peer: PeerId) -> bool {
        self.link.as_ref().is_some_and(|link| link.peer == peer)
    }

    /// Whether this side wants it to stay a member.
    pub(super) fn stays(&self) -> bool {
        self.link.is_some() && !self.given_up
    }

    /// The last epoch that it is known to have executed.
    pub(super) fn executed(&self) -> Epoch {
        self.acked.map_or(self.first - 1, |ack| ack.executed)
    }

    /// The last epoch that counts as acknowledged; `None` if none does.
    pub(super) fn committed(&self, commit: Commit) -> Option<Epoch> {
        let ack = self.acked?;
        Some(match commit {
            Commit::Received => ack.received,
            Commit::Executed => ack.executed,
            Commit::Verified => ack.verified,
        })
    }

    /// Takes an acknowledgement in. Whether it was the first.
    ///
    /// # Errors
    /// It acknowledges what was not sent (epochs up to `closed` were), or takes an earlier one back.
    pub(super) fn on_ack(
        &mut self,
        ack: Ack,
        closed: Epoch,
        sent: &Sent,
    ) -> Result<bool, ProtocolError> {
        let Ack {
            received,
            executed,
            verified,
            executed_at: _,
            heard,
        } = ack;
        let before = self.acked.unwrap_or_default();
        let forward = received >= before.received
            && executed >= before.executed
            && verified >= before.verified;
        let possible = received <= closed && executed <= received && verified <= executed;
        if !forward || !possible {
            return Err(ProtocolError::BadAck);
        }
        if let Some(link) = &mut self.link {
            link.on_echo(heard);
            if let Some(at) = sent.sent_at(received) {
                link.prove(at);
            }
        }
        Ok(self.acked.replace(ack).is_none())
    }

    /// Tells it that it stays a member when `generation` is won, and how many voices are enough then.
    pub(super) fn keep(&mut self, generation: Generation, voices: u32, out: &mut Vec<Action>) {
        if let Some(link) = &self.link
            && self.kept < generation
        {
            out.push(send(link, Message::Keep { generation, voices }));
            self.kept = generation;
            if let Some(&Quorum { number, .. }) = self.quorums.last()
                && self.quorums.iter().any(|quorum| quorum.voices != voices)
            {
                // What it was told for an earlier generation it may go by still.
                let before = self.kept_quorum.map_or(voices, |kept| kept.voices);
                let voices = voices.min(before);
                self.kept_quorum = Some(Quorum { number, voices });
            }
        }
    }

    /// Where it stands, if it is there; with so many copies that have a voice.
    pub(super) fn status(&self, voices: usize, sent: &Sent) -> Option<BackupStatus> {
        let link = self.link.as_ref()?;
        let ack = self.acked.unwrap_or_default();
        Some(BackupStatus {
            host: link.host.clone(),
            peer: link.peer,
            protects: self.acked.is_some() && voices >= self.voices_at_most(),
            received: ack.received,
            executed: ack.executed,
            behind_since_ns: sent.since(self.executed()),
        })
    }
}
