//! The live side: starting, alone, and primary.

use std::collections::VecDeque;

use super::ask::{Ask, Verdict};
use super::core::{Shared, State, break_off};
use super::event::{Action, DisconnectReason, Event, HaltReason, Note, PeerId, ProtocolError};
use super::link::Link;
use super::message::{Ack, Commit, Message};
use super::role::Status;
use super::told::Told;
use crate::codec::EncodedEpoch;
use crate::entry::Epoch;

/// Before the first generation is won.
#[derive(Debug, Clone)]
pub(super) struct Starting {
    pub(super) ask: Ask,
}

impl Starting {
    pub(super) fn on(mut self, event: Event, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        let Event::Arbiter { asked, answer } = event else {
            return State::Starting(self);
        };
        match self.ask.answered(asked, answer, shared, out) {
            Verdict::Pending => State::Starting(self),
            Verdict::Won => go_alone(asked, 0, shared, out),
            Verdict::Lost { generation, by } => {
                shared.learn(generation);
                State::halt(HaltReason::Lost { generation, by }, out)
            }
        }
    }

    pub(super) fn tick(mut self, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        self.ask.poll(shared, out);
        State::Starting(self)
    }
}

fn go_alone(generation: u64, closed: Epoch, shared: &mut Shared, out: &mut Vec<Action>) -> State {
    shared.generation = generation;
    out.push(Action::GoAlone { generation });
    State::Alone(Alone::new(closed))
}

/// Live, with nobody to take over.
#[derive(Debug, Clone)]
pub(super) struct Alone {
    /// The last epoch that was closed or taken over.
    pub(super) closed: Epoch,
    /// Who is being sent a live clone.
    pub(super) cloning: Option<Link>,
    /// What that one has said of its RAM.
    pub(super) told: Told,
}

impl Alone {
    /// Live, and `closed` is the last epoch.
    pub(super) fn new(closed: Epoch) -> Alone {
        Alone {
            closed,
            cloning: None,
            told: Told::default(),
        }
    }

    pub(super) fn on(mut self, event: Event, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        match event {
            Event::EpochClosed(epoch) => {
                self.closed = self.closed.max(epoch.epoch);
                let through = self.closed;
                out.push(Action::ReleaseOutputs { through });
            }
            Event::CloneReady { peer, first } => match self.cloning.take() {
                Some(link) if link.peer == peer && first > self.closed => {
                    return Primary::begin(link, first, out);
                }
                link => {
                    self.cloning = link;
                    out.push(Action::StopClone { peer });
                }
            },
            Event::CloneFailed { peer, why } => {
                let why = DisconnectReason::CloneFailed(why);
                if let Some(link) = self.cloning.take_if(|link| link.peer == peer) {
                    lose(&link, why.to_string(), shared, out);
                    out.push(Action::Disconnect { peer, why });
                }
            }
            Event::PeerDisconnected { why, .. } => {
                if let Some(link) = self.cloning.take() {
                    lose(&link, why.to_string(), shared, out);
                    out.push(Action::StopClone { peer: link.peer });
                }
            }
            Event::Message { message, .. } => self.on_message(message, shared, out),
            Event::GuestEnded { reason } => {
                if let Some(link) = self.cloning {
                    let message = Message::GuestEnded { reason };
                    out.push(send(&link, message));
                }
                return State::halt(HaltReason::GuestEnded(reason), out);
            }
            Event::Lapsed => return self.lapsed(shared, out),
            Event::PeerConnected { peer, .. } => out.push(unwanted(peer)),
            Event::Tick
            | Event::PeerHeard { .. }
            | Event::Executed { .. }
            | Event::Verified { .. }
            | Event::Diverged { .. }
            | Event::Arbiter { .. }
            | Event::Superseded { .. }
            | Event::HandOver
            | Event::Stop
            | Event::Failed { .. } => {}
        }
        State::Alone(self)
    }

    /// Another host may start the guest, or has done so: the next generation is for one of the two.
    fn lapsed(self, shared: &Shared, out: &mut Vec<Action>) -> State {
        if let Some(link) = &self.cloning {
            let peer = link.peer;
            let why = DisconnectReason::CloneFailed("the arbiter was away too long".to_owned());
            lose(link, why.to_string(), shared, out);
            out.push(Action::StopClone { peer });
            out.push(Action::Disconnect { peer, why });
        }
        let from = self.closed + 1;
        out.push(Action::HoldOutputs { from });
        let mut primary = Primary::new(None, from);
        primary.ask = Some(Ask::new(shared.generation + 1, shared.now));
        State::Primary(primary)
    }

    fn on_message(&mut self, message: Message, shared: &Shared, out: &mut Vec<Action>) {
        let Some(link) = &mut self.cloning else {
            return;
        };
        let peer = link.peer;
        let why = match message {
            Message::Heartbeat { seq, heard } => {
                link.on_beat(seq);
                return link.on_echo(heard);
            }
            Message::Bye { reason } => DisconnectReason::Left(reason),
            Message::PageHashes(hashes) => {
                match self.told.take(&hashes, shared.config.facts.pages()) {
                    Ok(()) => return out.push(Action::TakeHashes { peer, hashes }),
                    Err(error) => DisconnectReason::Protocol(error),
                }
            }
            other => DisconnectReason::Protocol(ProtocolError::Unexpected(other.name())),
        };
        lose(link, why.to_string(), shared, out);
        out.push(Action::StopClone { peer });
        out.push(Action::Disconnect { peer, why });
        self.cloning = None;
    }
}

/// Live, with outputs held for a backup; or for the arbiter, once the backup is lost.
#[derive(Debug, Clone)]
pub(super) struct Primary {
    /// The backup; `None` once it is lost.
    pub(super) link: Option<Link>,
    /// The question that decides which side goes on once the backup is lost.
    pub(super) ask: Option<Ask>,
    /// The connection of the backup that the guest is offered to.
    pub(super) offered: Option<PeerId>,
    /// The last epoch that was closed.
    pub(super) closed: Epoch,
    /// The last epoch whose outputs are out.
    pub(super) released: Epoch,
    /// What the backup said last; `None` before its first word, which says that it can take over.
    pub(super) acked: Option<Ack>,
    /// Epochs that the backup has not executed yet: number, bytes, when they were sent.
    ahead: VecDeque<(Epoch, u64, u64)>,
    ahead_bytes: u64,
    /// Since when the guest has waited for the backup.
    stopped_at: Option<u64>,
}

impl Primary {
    /// The clone is complete: from `first` on the joiner may become a backup at any time, and
    /// outputs are held until it says so.
    fn begin(link: Link, first: Epoch, out: &mut Vec<Action>) -> State {
        out.push(Action::HoldOutputs { from: first });
        out.push(send(&link, Message::CloneDone { first }));
        State::Primary(Primary::new(Some(link), first))
    }

    /// Outputs are held from the epoch `first` on.
    fn new(link: Option<Link>, first: Epoch) -> Primary {
        Primary {
            link,
            ask: None,
            offered: None,
            closed: first - 1,
            released: first - 1,
            acked: None,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            stopped_at: None,
        }
    }

    pub(super) fn on(mut self, event: Event, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        match event {
            Event::EpochClosed(epoch) => return self.on_epoch(epoch, shared, out),
            Event::Message { message, .. } => return self.on_message(message, shared, out),
            Event::PeerDisconnected { why, .. } => self.lost(why.to_string(), shared, out),
            Event::Arbiter { asked, answer } => {
                let Some(ask) = &mut self.ask else {
                    return State::Primary(self);
                };
                match ask.answered(asked, answer, shared, out) {
                    Verdict::Pending => {}
                    Verdict::Won => return self.alone(asked, shared, out),
                    Verdict::Lost { generation, by } => {
                        shared.learn(generation);
                        return State::halt(HaltReason::Lost { generation, by }, out);
                    }
                }
            }
            Event::GuestEnded { reason } => {
                if let Some(link) = &self.link {
                    out.push(send(link, Message::GuestEnded { reason }));
                }
                return State::halt(HaltReason::GuestEnded(reason), out);
            }
            Event::HandOver => self.hand_over(shared, out),
            // Of a clone that is over.
            Event::CloneReady { peer, .. } => out.push(Action::StopClone { peer }),
            Event::PeerConnected { peer, .. } => out.push(unwanted(peer)),
            Event::Tick
            | Event::PeerHeard { .. }
            | Event::Executed { .. }
            | Event::Verified { .. }
            | Event::Diverged { .. }
            | Event::CloneFailed { .. }
            | Event::Superseded { .. }
            | Event::Lapsed
            | Event::Stop
            | Event::Failed { .. } => {}
        }
        State::Primary(self)
    }

    pub(super) fn tick(mut self, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        self.give_up(shared);
        if let Some(ask) = &mut self.ask {
            ask.poll(shared, out);
        }
        State::Primary(self)
    }

    /// When there is something to do next, but for what the link or the arbiter want.
    pub(super) fn next_tick(&self, shared: &Shared) -> u64 {
        match self.stopped_at {
            Some(since) if self.link.is_some() && self.ask.is_none() => since + shared.give_up_ns(),
            _ => u64::MAX,
        }
    }

    pub(super) fn fill(&self, status: &mut Status) {
        let acked = self.acked.unwrap_or_default();
        status.protected = self.link.is_some() && self.acked.is_some();
        status.epoch = self.closed;
        status.received = acked.received;
        status.executed = acked.executed;
        status.released = self.released;
        status.lag_bytes = self.ahead_bytes;
        status.behind_since_ns = self.ahead.front().map(|&(_, _, sent_at)| sent_at);
        status.guest_stopped = self.stopped_at.is_some();
        status.asking_arbiter = self.ask.is_some();
        status.offered = self.offered.is_some();
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
        let bytes = epoch.bytes.len() as u64;
        self.ahead.push_back((expected, bytes, shared.now));
        self.ahead_bytes += bytes;
        if let Some(link) = &self.link {
            let peer = link.peer;
            epoch.released = self.released;
            out.push(Action::SendEpoch { peer, epoch });
        }
        self.press(shared, out);
        State::Primary(self)
    }

    fn on_message(mut self, message: Message, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        let Some(link) = &mut self.link else {
            return State::Primary(self);
        };
        let peer = link.peer;
        let error = match message {
            Message::Heartbeat { seq, heard } => {
                link.on_beat(seq);
                link.on_echo(heard);
                None
            }
            Message::Ack(ack) => self.on_ack(ack, out).err(),
            Message::Bye { reason } => {
                // It has promised not to go live, so no test-and-set is needed.
                let why = DisconnectReason::Left(reason);
                lose(link, why.to_string(), shared, out);
                out.push(Action::Disconnect { peer, why });
                self.link = None;
                if self.ask.is_some() {
                    return State::Primary(self);
                }
                let generation = shared.generation;
                return self.alone(generation, shared, out);
            }
            other => Some(ProtocolError::Unexpected(other.name())),
        };
        if let Some(error) = error {
            let why = error.to_string();
            break_off(peer, error, out);
            self.lost(why, shared, out);
        } else {
            self.release(shared, out);
            self.press(shared, out);
        }
        State::Primary(self)
    }

    fn on_ack(&mut self, ack: Ack, out: &mut Vec<Action>) -> Result<(), ProtocolError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
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
        let possible = received <= self.closed && executed <= received && verified <= executed;
        if !forward || !possible {
            return Err(ProtocolError::BadAck);
        }
        if self.acked.is_none() {
            let host = link.host.clone();
            out.push(Action::Note(Note::Protected { host }));
        }
        self.acked = Some(ack);
        link.on_echo(heard);
        for &(epoch, _, sent_at) in &self.ahead {
            if epoch > received {
                break;
            }
            link.prove(sent_at);
        }
        while let Some(&(epoch, bytes, _)) = self.ahead.front() {
            if epoch > executed {
                break;
            }
            self.ahead.pop_front();
            self.ahead_bytes -= bytes;
        }
        Ok(())
    }

    /// The output rule. What is acknowledged goes out, unless the acknowledgement is so old that
    /// the backup may have taken over since (an old write would then overtake a new one); a fresh
    /// heartbeat's answer settles that.
    fn release(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        let (Some(link), Some(ack)) = (&self.link, &self.acked) else {
            return;
        };
        let through = match shared.config.commit {
            Commit::Received => ack.received,
            Commit::Executed => ack.executed,
            Commit::Verified => ack.verified,
        };
        if through > self.released && shared.now < link.lease_until(shared.detect_ns()) {
            self.released = through;
            out.push(Action::ReleaseOutputs { through });
        }
    }

    /// Back-pressure: the guest waits while the backup is too far behind, in bytes or in time, and so runs
    /// as fast as the backup replays. Time counts once the backup has its copy.
    fn press(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        let bytes = self.ahead_bytes;
        let behind = match (&self.acked, self.ahead.front()) {
            (Some(_), Some(&(_, _, sent_at))) => shared.now - sent_at,
            _ => 0,
        };
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

    fn resume(&mut self, out: &mut Vec<Action>) {
        if self.stopped_at.take().is_some() {
            out.push(Action::ResumeGuest);
        }
    }

    /// A guest that waits for ever is no better than one without a backup.
    fn give_up(&mut self, shared: &Shared) {
        if self.next_tick(shared) > shared.now {
            return;
        }
        // It is let go only once it can no longer take over.
        self.ask = Some(Ask::new(shared.generation + 1, shared.now));
    }

    /// The backup is lost. It may go live, or be live already: nothing goes out until the arbiter
    /// has spoken.
    fn lost(&mut self, why: String, shared: &Shared, out: &mut Vec<Action>) {
        if let Some(link) = self.link.take() {
            lose(&link, why, shared, out);
            // It may be asked already, for a backup that was too slow.
            self.ask
                .get_or_insert_with(|| Ask::new(shared.generation + 1, shared.now));
        }
    }

    fn alone(mut self, generation: u64, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        if let Some(link) = &self.link {
            let peer = link.peer;
            let ms = u64::from(shared.config.give_up_ms);
            let why = DisconnectReason::TooSlow { ms };
            lose(link, why.to_string(), shared, out);
            out.push(Action::Disconnect { peer, why });
        }
        let alone = go_alone(generation, self.closed, shared, out);
        self.take_back(out);
        self.resume(out);
        alone
    }
}

pub(super) fn send(link: &Link, message: Message) -> Action {
    let peer = link.peer;
    Action::Send { peer, message }
}

/// Tells the operator that a peer is lost.
pub(super) fn lose(link: &Link, why: String, shared: &Shared, out: &mut Vec<Action>) {
    out.push(Action::Note(Note::PeerLost {
        host: link.host.clone(),
        why,
        silent_ns: shared.now - link.heard_at,
    }));
}

pub(super) fn unwanted(peer: PeerId) -> Action {
    let why = DisconnectReason::Unwanted;
    Action::Disconnect { peer, why }
}
