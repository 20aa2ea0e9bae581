//! Live, with outputs held for backups.

use super::alone::go_alone;
use super::ask::{Ask, Verdict};
use super::core::{Shared, State, break_off};
use super::event::{Action, DisconnectReason, Event, HaltReason, Note, PeerId, ProtocolError};
use super::joiner::Joiner;
use super::link::{Link, lose, send, unwanted};
use super::member::Member;
use super::message::Message;
use super::role::{BackupStatus, Status};
use super::sent::Sent;
use crate::codec::EncodedEpoch;
use crate::entry::Epoch;

/// Live, with outputs held for its backups; or for the arbiter, while one of them is lost.
#[derive(Debug, Clone)]
pub(super) struct Primary {
    /// Whoever may take over; none if this side may have counted as gone.
    pub(super) members: Vec<Member>,
    /// Who is being sent a live clone beside them.
    pub(super) joiner: Option<Joiner>,
    /// The question that decides which side goes on once a backup is lost.
    pub(super) ask: Option<Ask>,
    /// When its backups were told what is asked for.
    pub(super) told_at: u64,
    /// The backup that the guest is offered to: its connection and its host's name.
    pub(super) offered: Option<(PeerId, String)>,
    /// The last epoch that was closed.
    pub(super) closed: Epoch,
    /// The last epoch whose outputs are out.
    pub(super) released: Epoch,
    pub(super) sent: Sent,
    /// It may have counted as gone: nothing goes out before the next generation is won.
    pub(super) lapsed: bool,
    /// Since when the guest has waited for a backup.
    pub(super) stopped_at: Option<u64>,
}

impl Primary {
    /// The first clone is complete: from `first` on the joiner may become a backup at any time, and
    /// outputs are held until it says so.
    pub(super) fn begin(link: Link, first: Epoch, shared: &Shared, out: &mut Vec<Action>) -> State {
        out.push(Action::HoldOutputs { from: first });
        let mut primary = Primary::new(first);
        primary.admit(link, first, shared, out);
        State::Primary(primary)
    }

    /// Outputs are held from the epoch `first` on.
    pub(super) fn new(first: Epoch) -> Primary {
        Primary {
            members: Vec::new(),
            joiner: None,
            ask: None,
            told_at: 0,
            offered: None,
            closed: first - 1,
            released: first - 1,
            sent: Sent::default(),
            lapsed: false,
            stopped_at: None,
        }
    }

    fn admit(&mut self, link: Link, first: Epoch, shared: &Shared, out: &mut Vec<Action>) {
        out.push(send(&link, Message::CloneDone { first }));
        let member = Member::new(link, first, shared.generation, shared.now);
        self.members.push(member);
        self.tell_quorum(false, shared, out);
    }

    pub(super) fn on(mut self, event: Event, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        match event {
            Event::EpochClosed(epoch) => return self.on_epoch(epoch, shared, out),
            Event::Message { peer, message } => {
                return self.on_message(peer, message, shared, out);
            }
            Event::PeerDisconnected { peer, why } => {
                if self.joiner_is(peer) {
                    out.push(Action::StopClone { peer });
                    self.drop_joiner(why.to_string(), shared, out);
                } else {
                    self.lost(peer, why.to_string(), shared, out);
                }
            }
            Event::Arbiter { asked, answer } => {
                let Some(ask) = &mut self.ask else {
                    return State::Primary(self);
                };
                match ask.answered(asked, answer, shared, out) {
                    Verdict::Pending => {}
                    Verdict::Won => return self.won(asked, shared, out),
                    Verdict::Lost { generation, by } => {
                        shared.learn(generation);
                        return State::halt(HaltReason::Lost { generation, by }, out);
                    }
                }
            }
            Event::GuestEnded { reason } => {
                let joiner = self.joiner.as_ref().map(|joiner| &joiner.link);
                let members = self
                    .members
                    .iter()
                    .filter_map(|member| member.link.as_ref());
                for link in members.chain(joiner) {
                    out.push(send(link, Message::GuestEnded { reason }));
                }
                return State::halt(HaltReason::GuestEnded(reason), out);
            }
            Event::HandOver => self.hand_over(shared, out),
            Event::Lapsed => {
                self.lapsed = true;
                self.ask_from(shared.now, shared, out);
            }
            Event::CloneReady { peer, first } => match self.joiner.take() {
                Some(joiner) if joiner.link.peer == peer && first == self.closed + 1 => {
                    self.admit(joiner.link, first, shared, out);
                }
                joiner => {
                    self.joiner = joiner;
                    out.push(Action::StopClone { peer });
                }
            },
            Event::CloneFailed { peer, why } if self.joiner_is(peer) => {
                let why = DisconnectReason::CloneFailed(why);
                self.drop_joiner(why.to_string(), shared, out);
                out.push(Action::Disconnect { peer, why });
            }
            Event::PeerConnected { peer, .. } => out.push(unwanted(peer)),
            Event::Tick
            | Event::PeerHeard { .. }
            | Event::Executed { .. }
            | Event::Verified { .. }
            | Event::Diverged { .. }
            | Event::CloneFailed { .. }
            | Event::Standing { .. }
            | Event::Superseded { .. }
            | Event::Stop
            | Event::Failed { .. } => {}
        }
        State::Primary(self)
    }

    pub(super) fn tick(mut self, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        self.give_up(shared, out);
        self.prepare(shared, out);
        State::Primary(self)
    }

    pub(super) fn fill(&self, status: &mut Status) {
        let backups = self.members.iter();
        let voices = self.copies(|member| member.link.is_some());
        status.backups = backups
            .filter_map(|member| member.status(voices, &self.sent))
            .collect();
        status.protected = status.backups.iter().any(|backup| backup.protects);
        let least = |of: fn(&BackupStatus) -> Epoch| status.backups.iter().map(of).min();
        status.epoch = self.closed;
        status.received = least(|backup| backup.received).unwrap_or_default();
        status.executed = least(|backup| backup.executed).unwrap_or_default();
        status.released = self.released;
        status.lag_bytes = self.sent.bytes();
        status.behind_since_ns = self.sent.since(0);
        status.guest_stopped = self.stopped_at.is_some();
        status.asking_arbiter = self.ask.is_some();
        status.offered.clone_from(&self.offered);
    }

    fn on_epoch(
        mut self,
        mut epoch: EncodedEpoch,
        shared: &mut Shared,
        out: &mut Vec<Action>,
    ) -> State {
        let expected = self.closed + 1;
        if epoch.epoch != expected {
            let why = format!(
                "epoch {} was closed after epoch {}",
                epoch.epoch, self.closed
            );
            return State::halt(HaltReason::Failed(why), out);
        }
        self.closed = expected;
        self.sent
            .push(expected, epoch.bytes.len() as u64, shared.now);
        epoch.released = self.released;
        let mut peers = self
            .members
            .iter()
            .filter_map(|member| member.link.as_ref());
        if let Some(last) = peers.next_back() {
            for link in peers {
                let (peer, epoch) = (link.peer, epoch.clone());
                out.push(Action::SendEpoch { peer, epoch });
            }
            let peer = last.peer;
            out.push(Action::SendEpoch { peer, epoch });
        }
        self.press(shared, out);
        State::Primary(self)
    }

    fn on_message(
        mut self,
        peer: PeerId,
        message: Message,
        shared: &mut Shared,
        out: &mut Vec<Action>,
    ) -> State {
        if let Some(joiner) = self
            .joiner
            .as_mut()
            .filter(|joiner| joiner.link.peer == peer)
        {
            let pages = shared.config.facts.pages();
            if let Err(why) = joiner.on_message(message, pages, out) {
                self.drop_joiner(why.to_string(), shared, out);
                Joiner::dismiss(peer, why, out);
            }
            return State::Primary(self);
        }
        let Some(at) = self.members.iter().position(|member| member.is(peer)) else {
            return State::Primary(self);
        };
        let member = &mut self.members[at];
        let error = match (message, &mut member.link) {
            (Message::Heartbeat { seq, heard }, Some(link)) => {
                link.on_beat(seq);
                link.on_echo(heard);
                None
            }
            (Message::Ack(ack), link) => {
                let host = link.as_ref().map(|link| link.host.clone());
                match member.on_ack(ack, self.closed, &self.sent) {
                    Ok(first) => {
                        if let Some(host) = host.filter(|_| first) {
                            out.push(Action::Note(Note::Protected { host }));
                        }
                        None
                    }
                    Err(error) => Some(error),
                }
            }
            (Message::Kept { generation }, _) if generation <= member.kept => {
                member.knows = member.knows.max(generation);
                None
            }
            (Message::QuorumKnown { number }, _) => member.on_quorum_known(number).err(),
            (Message::Bye { reason }, _) => {
                // It has promised not to go live, so no test-and-set is needed.
                let why = DisconnectReason::Left(reason);
                let member = self.members.swap_remove(at);
                if let Some(link) = &member.link {
                    lose(link, why.to_string(), shared, out);
                }
                out.push(Action::Disconnect { peer, why });
                return self.left(shared, out);
            }
            (other, _) => Some(ProtocolError::Unexpected(other.name())),
        };
        if let Some(error) = error {
            let why = error.to_string();
            break_off(peer, error, out);
            self.lost(peer, why, shared, out);
        } else {
            self.advance(shared, out);
        }
        State::Primary(self)
    }

    /// A backup is no member any more.
    fn left(mut self, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        if self.ask.is_none() && self.members.is_empty() {
            let generation = shared.generation;
            return self.alone(generation, shared, out);
        }
        self.advance(shared, out);
        State::Primary(self)
    }

    /// Lets out and lets run what may.
    pub(super) fn advance(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        let linked = self.members.iter().filter(|member| member.link.is_some());
        if let Some(executed) = linked.map(Member::executed).min() {
            self.sent.trim(executed);
        }
        self.tell_quorum(false, shared, out);
        self.release(shared, out);
        self.press(shared, out);
    }

    /// A backup is lost. It may go live, or be live already: nothing goes out that it may have to do with until the
    /// arbiter has spoken.
    fn lost(&mut self, peer: PeerId, why: String, shared: &Shared, out: &mut Vec<Action>) {
        let Some(member) = self.members.iter_mut().find(|member| member.is(peer)) else {
            return;
        };
        if let Some(link) = member.link.take() {
            lose(&link, why, shared, out);
            self.ask_from(shared.now, shared, out);
        }
    }

    pub(super) fn alone(
        mut self,
        generation: u64,
        shared: &mut Shared,
        out: &mut Vec<Action>,
    ) -> State {
        // The log ends here, and with it that of the pages that were written.
        self.stop_clone("the log has ended", shared, out);
        let alone = go_alone(generation, self.closed, shared, out);
        self.take_back(out);
        self.resume(out);
        alone
    }

    fn joiner_is(&self, peer: PeerId) -> bool {
        self.joiner
            .as_ref()
            .is_some_and(|joiner| joiner.link.peer == peer)
    }

    /// Gives a clone under way up; the joiner comes again.
    pub(super) fn stop_clone(&mut self, why: &str, shared: &Shared, out: &mut Vec<Action>) {
        if let Some(peer) = self.joiner.as_ref().map(|joiner| joiner.link.peer) {
            let why = DisconnectReason::CloneFailed(why.to_owned());
            self.drop_joiner(why.to_string(), shared, out);
            Joiner::dismiss(peer, why, out);
        }
    }

    fn drop_joiner(&mut self, why: String, shared: &Shared, out: &mut Vec<Action>) {
        if let Some(joiner) = self.joiner.take() {
            lose(&joiner.link, why, shared, out);
        }
    }
}
