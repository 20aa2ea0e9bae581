//! A backup: replays what it is sent, and takes over when the primary is lost.

use super::ahead::Ahead;
use super::alone::Alone;
use super::ask::{Ask, Verdict};
use super::canvass::{Canvass, Quorum};
use super::core::{Shared, State, break_off};
use super::event::{Action, DisconnectReason, Event, HaltReason, LinkLoss, Note, ProtocolError};
use super::joining::{Cloning, Joining};
use super::link::{Link, lose, send, unwanted};
use super::message::{Ack, ByeReason, Commit, Generation, Message, NUMBER_MAX};
use super::role::Status;
use crate::codec::EncodedEpoch;
use crate::entry::Epoch;

/// Executed log that is acknowledged at once, in bytes; less of it waits for the next heartbeat
/// (when outputs don't).
const EXECUTED_UNSAID_MAX: u64 = 1 << 20;

/// A whole copy of the guest, up to `executed`.
#[derive(Debug, Clone)]
pub(super) struct Backup {
    /// The primary; `None` once it is lost.
    pub(super) link: Option<Link>,
    /// The question that decides which side goes on once the primary is lost.
    pub(super) ask: Option<Ask>,
    /// What must be known of the other backups before.
    pub(super) canvass: Option<Canvass>,
    /// The generation of the primary.
    generation: Generation,
    /// The primary, as the arbiter knows it.
    bidder: String,
    /// The last generation that the primary may have won without this side having lost.
    kept: Generation,
    quorum: Quorum,
    /// How many backups the primary has, this one included.
    backups: u32,
    won: bool,
    received: Epoch,
    /// The last epoch whose outputs are out, by the primary's word.
    released: Epoch,
    executed: Epoch,
    executed_at: u64,
    verified: Epoch,
    /// Epochs received and not executed.
    ahead: Ahead,
    /// Bytes executed since the last acknowledgement.
    unsaid_bytes: u64,
}

impl Backup {
    /// The clone is whole: `first` has been executed, at `virtual_now`.
    pub(super) fn begin(
        cloning: Cloning,
        first: Epoch,
        virtual_now: u64,
        shared: &mut Shared,
        out: &mut Vec<Action>,
    ) -> State {
        let Cloning {
            link,
            generation,
            bidder,
            kept,
            quorum,
            backups,
            received,
            mut ahead,
            first: _,
        } = cloning;
        ahead.pop();
        let host = link.host.clone();
        let mut backup = Backup {
            link: Some(link),
            ask: None,
            canvass: None,
            generation,
            bidder,
            kept,
            quorum,
            backups,
            won: false,
            received,
            released: 0,
            executed: first,
            executed_at: virtual_now,
            verified: first - 1,
            ahead,
            unsaid_bytes: 0,
        };
        backup.say(shared, out);
        out.push(Action::Note(Note::Protected { host }));
        State::Backup(backup)
    }

    pub(super) fn on(mut self, event: Event, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        match event {
            Event::Message { message, .. } => return self.on_message(message, shared, out),
            Event::PeerDisconnected { why, .. } => self.lost(why, shared, out),
            Event::Executed { epoch, virtual_now } => {
                return self.on_executed(epoch, virtual_now, shared, out);
            }
            Event::Verified { epoch } => {
                if epoch > self.verified && epoch <= self.executed {
                    self.verified = epoch;
                    if shared.config.commit == Commit::Verified {
                        self.say(shared, out);
                    }
                }
            }
            Event::Diverged { epoch, fatal } => return self.on_diverged(epoch, fatal, shared, out),
            Event::Arbiter { asked, answer } => {
                let Some(ask) = &mut self.ask else {
                    return State::Backup(self);
                };
                match ask.answered(asked, answer, shared, out) {
                    Verdict::Pending => {}
                    // Not against this side, but another backup: the next one decides.
                    Verdict::Lost { by, .. } if by == self.bidder && asked <= self.kept => {
                        shared.learn(asked);
                        self.generation = asked;
                        self.quorum.now = self.quorum.kept;
                        self.ask = None;
                        self.stand(shared.now, shared);
                    }
                    Verdict::Won => {
                        self.won = true;
                        self.ask = None;
                        return self.try_live(shared, out);
                    }
                    Verdict::Lost { generation, .. } => {
                        shared.learn(generation);
                        out.push(Action::DropGuest);
                        return Joining::again(shared);
                    }
                }
            }
            Event::Standing { asked, answer } => {
                if let Some(canvass) = &mut self.canvass
                    && canvass.answered(asked, answer, shared, out)
                {
                    self.ask = Some(Ask::new(canvass.generation, shared.now));
                    self.canvass = None;
                }
            }
            Event::PeerConnected { peer, .. } => out.push(unwanted(peer)),
            Event::Tick
            | Event::PeerHeard { .. }
            | Event::EpochClosed(_)
            | Event::CloneReady { .. }
            | Event::CloneFailed { .. }
            | Event::GuestEnded { .. }
            | Event::Superseded { .. }
            | Event::Lapsed
            | Event::HandOver
            | Event::Stop
            | Event::Failed { .. } => {}
        }
        State::Backup(self)
    }

    pub(super) fn tick(mut self, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        if let Some(canvass) = &mut self.canvass {
            canvass.poll(shared, out);
        }
        if let Some(ask) = &mut self.ask {
            ask.poll(shared, out);
        }
        State::Backup(self)
    }

    pub(super) fn fill(&self, status: &mut Status) {
        status.protected = self.link.is_some();
        status.epoch = self.received;
        status.received = self.received;
        status.executed = self.executed;
        status.lag_bytes = self.ahead.bytes();
        status.behind_since_ns = self.ahead.since_ns();
        status.asking_arbiter = self.ask.is_some() || self.canvass.is_some();
    }

    /// Says how far this side is. That is its heartbeat, too.
    pub(super) fn say(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        let Some(link) = &mut self.link else {
            return;
        };
        self.unsaid_bytes = 0;
        link.said(shared.now, shared.heartbeat_ns());
        let ack = Ack {
            received: self.received,
            executed: self.executed,
            verified: self.verified,
            executed_at: self.executed_at,
            heard: link.heard,
        };
        out.push(send(link, Message::Ack(ack)));
    }

    fn on_message(mut self, message: Message, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        let Some(link) = &mut self.link else {
            return State::Backup(self);
        };
        let peer = link.peer;
        let error = match message {
            Message::Epoch(epoch) => match self.on_epoch(epoch, shared, out) {
                Ok(()) => return State::Backup(self),
                Err(error) => error,
            },
            Message::Heartbeat { seq, heard } => {
                link.on_beat(seq);
                link.on_echo(heard);
                return State::Backup(self);
            }
            Message::Keep { generation, voices } if generation <= NUMBER_MAX => {
                self.kept = self.kept.max(generation);
                self.quorum.kept = voices;
                out.push(send(link, Message::Kept { generation }));
                return State::Backup(self);
            }
            Message::Renewed { generation } if generation <= self.kept => {
                self.generation = self.generation.max(generation);
                self.quorum.now = self.quorum.kept;
                shared.learn(generation);
                return State::Backup(self);
            }
            Message::Quorum { number, voices } => {
                self.quorum = Quorum::of(voices);
                out.push(send(link, Message::QuorumKnown { number }));
                return State::Backup(self);
            }
            Message::Backups { count } => {
                self.backups = count;
                return State::Backup(self);
            }
            Message::GuestEnded { reason } => {
                return State::halt(HaltReason::GuestEnded(reason), out);
            }
            Message::Bye { reason } => {
                let why = DisconnectReason::Left(reason);
                out.push(Action::Disconnect { peer, why });
                // It has stopped for good: as sure as an end of file.
                self.lost(LinkLoss::Closed, shared, out);
                return State::Backup(self);
            }
            Message::HandOver => {
                // All is out, and it lets nothing more out, so its lease need not run out; and all is here.
                self.released = self.received;
                self.quorum = Quorum::of(1);
                let why = DisconnectReason::HandedOver;
                self.part(why.to_string(), shared.now, shared, out);
                out.push(Action::Disconnect { peer, why });
                return State::Backup(self);
            }
            other => ProtocolError::Unexpected(other.name()),
        };
        let why = LinkLoss::Broken(error.to_string());
        break_off(peer, error, out);
        self.lost(why, shared, out);
        State::Backup(self)
    }

    fn on_epoch(
        &mut self,
        epoch: EncodedEpoch,
        shared: &Shared,
        out: &mut Vec<Action>,
    ) -> Result<(), ProtocolError> {
        let (found, expected) = (epoch.epoch, self.received + 1);
        if found != expected {
            return Err(ProtocolError::EpochOrder { found, expected });
        }
        self.ahead
            .push(found, epoch.bytes.len(), shared.now, shared.buffer_max())?;
        self.received = found;
        self.released = epoch.released;
        out.push(Action::DeliverEpoch(epoch));
        if shared.config.commit == Commit::Received {
            self.say(shared, out);
        }
        Ok(())
    }

    fn on_executed(
        mut self,
        epoch: Epoch,
        virtual_now: u64,
        shared: &mut Shared,
        out: &mut Vec<Action>,
    ) -> State {
        if epoch != self.executed + 1 || epoch > self.received {
            let why = format!("epoch {epoch} was executed after epoch {}", self.executed);
            return State::halt(HaltReason::Failed(why), out);
        }
        self.executed = epoch;
        self.executed_at = virtual_now;
        self.unsaid_bytes += self.ahead.pop();
        let outputs_wait = shared.config.commit == Commit::Executed;
        if outputs_wait || self.unsaid_bytes >= EXECUTED_UNSAID_MAX {
            self.say(shared, out);
        }
        self.try_live(shared, out)
    }

    /// The primary is lost. If its process may still be there, it has until `detect_ms` after its last word, on
    /// which its lease rests, before the arbiter is asked. Where it has other backups it has a heartbeat more, by which
    /// it may have heard from this side later than this side from it: if it lives, it is to win, since the others follow
    /// it there, and this host may be cut off from all of them.
    fn lost(&mut self, why: LinkLoss, shared: &Shared, out: &mut Vec<Action>) {
        let Some(link) = &self.link else {
            return;
        };
        let at = match why {
            LinkLoss::Closed => shared.now,
            LinkLoss::Broken(_) if self.backups > 1 => {
                link.heard_at + shared.detect_ns() + shared.heartbeat_ns()
            }
            LinkLoss::Broken(_) => link.heard_at + shared.detect_ns(),
        };
        self.part(why.to_string(), at, shared, out);
    }

    /// Without a primary: the arbiter is asked, not before `at`.
    fn part(&mut self, why: String, at: u64, shared: &Shared, out: &mut Vec<Action>) {
        if let Some(link) = self.link.take() {
            lose(&link, why, shared, out);
            self.stand(at, shared);
        }
    }

    /// Goes for the next generation, not before `at`. From here on nothing more is received.
    fn stand(&mut self, at: u64, shared: &Shared) {
        let generation = self.generation + 1;
        // What counts as acknowledged is what counts among backups, too: they may differ in what is not verified.
        let through = match shared.config.commit {
            Commit::Received => self.received,
            Commit::Executed => self.executed,
            Commit::Verified => self.verified,
        };
        match self.quorum.now {
            0 | 1 => self.ask = Some(Ask::new(generation, at)),
            voices => self.canvass = Some(Canvass::new(generation, through, voices, at)),
        }
    }

    /// Goes live if that is won and all that was received is executed.
    fn try_live(self, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        if !self.won || self.executed < self.received {
            return State::Backup(self);
        }
        let generation = self.generation + 1;
        shared.generation = generation;
        let released = self.released;
        out.push(Action::GoLive {
            generation,
            released,
        });
        State::Alone(Alone::new(self.received))
    }

    /// While the primary is there, a fresh clone repairs it. When it isn't, a copy that differs is
    /// better than none, as long as it runs.
    fn on_diverged(
        self,
        epoch: Epoch,
        fatal: bool,
        shared: &mut Shared,
        out: &mut Vec<Action>,
    ) -> State {
        out.push(Action::Note(Note::Diverged { epoch }));
        if let Some(link) = &self.link {
            let peer = link.peer;
            let reason = ByeReason::Diverged;
            out.push(send(link, Message::Bye { reason }));
            let why = DisconnectReason::Diverged(epoch);
            out.push(Action::Disconnect { peer, why });
        } else if !fatal {
            return State::Backup(self);
        } else if self.won {
            return State::halt(HaltReason::ReplayFailed(epoch), out);
        }
        out.push(Action::DropGuest);
        Joining::again(shared)
    }
}
