//! A backup to be: finds a primary, greets it, and is fed a live clone.

use super::ahead::Ahead;
use super::backup::Backup;
use super::canvass::Quorum;
use super::core::{Shared, State};
use super::event::ProtocolError;
use super::event::{Action, ArbiterAnswer, DisconnectReason, Event, HaltReason, Note};
use super::link::{Link, lose, send, unwanted};
use super::message::{
    ByeReason, FEATURE_PAGE_HASHES, FEATURES, Generation, Hello, Join, Message, NUMBER_MAX,
    PROTOCOL_VERSION, Welcome,
};
use crate::codec::EncodedEpoch;
use crate::entry::Epoch;

/// How far a joiner is. It never goes live.
#[derive(Debug, Clone)]
pub(super) enum Joining {
    /// Looks for a primary from `at` on.
    Waiting { at: u64 },
    /// The daemon dials.
    Dialling,
    /// `Hello` is sent.
    Greeting(Link),
    /// Accepted; the clone comes in.
    Cloning(Cloning),
}

/// A clone on its way.
#[derive(Debug, Clone)]
pub(super) struct Cloning {
    pub(super) link: Link,
    pub(super) generation: Generation,
    /// The primary, as the arbiter knows it.
    pub(super) bidder: String,
    /// The last generation that the primary may have won without this side having lost.
    pub(super) kept: Generation,
    pub(super) quorum: Quorum,
    /// How many backups the primary has, this side included.
    pub(super) backups: u32,
    /// The epoch that completes the clone, once the primary has named it.
    pub(super) first: Option<Epoch>,
    /// The last epoch received; `first - 1` before any.
    pub(super) received: Epoch,
    /// Those of them that are not executed.
    pub(super) ahead: Ahead,
}

impl Joining {
    pub(super) fn link(&self) -> Option<&Link> {
        match self {
            Joining::Waiting { .. } | Joining::Dialling => None,
            Joining::Greeting(link) => Some(link),
            Joining::Cloning(cloning) => Some(&cloning.link),
        }
    }

    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        match self {
            Joining::Waiting { .. } | Joining::Dialling => None,
            Joining::Greeting(link) => Some(link),
            Joining::Cloning(cloning) => Some(&mut cloning.link),
        }
    }

    /// Looks for a primary again after a while.
    pub(super) fn again(shared: &Shared) -> State {
        State::Joining(Joining::Waiting {
            at: shared.rejoin_at(),
        })
    }

    pub(super) fn tick(self, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        match self {
            Joining::Waiting { at } if at <= shared.now => {
                out.push(Action::Connect);
                State::Joining(Joining::Dialling)
            }
            other => State::Joining(other),
        }
    }

    pub(super) fn on(self, event: Event, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        match (self, event) {
            (Joining::Dialling, Event::PeerConnected { peer, .. }) => {
                // Its name comes with its welcome.
                let link = Link::new(peer, "the primary".to_owned(), shared.now);
                out.push(send(&link, hello(shared)));
                State::Joining(Joining::Greeting(link))
            }
            (joining, Event::PeerConnected { peer, .. }) => {
                out.push(unwanted(peer));
                State::Joining(joining)
            }
            (joining, Event::PeerDisconnected { why, .. }) => {
                joining.leave(why.to_string(), shared, out)
            }
            (Joining::Greeting(link), Event::Message { message, .. }) => {
                greeted(link, message, shared, out)
            }
            (Joining::Cloning(cloning), event) => cloning.on(event, shared, out),
            (joining, Event::Arbiter { asked, answer }) => {
                late_answer(asked, answer, shared, out);
                State::Joining(joining)
            }
            (joining, _) => State::Joining(joining),
        }
    }

    /// The connection is over, or to be closed by the caller.
    fn leave(self, why: String, shared: &Shared, out: &mut Vec<Action>) -> State {
        if let Some(link) = self.link() {
            lose(link, why, shared, out);
        }
        if matches!(self, Joining::Cloning(_)) {
            out.push(Action::DropGuest);
        }
        Joining::again(shared)
    }
}

fn hello(shared: &Shared) -> Message {
    Message::Hello(Box::new(Hello {
        protocol_version: PROTOCOL_VERSION,
        features: FEATURES,
        host: shared.config.host.clone(),
        generation: shared.generation,
        wants: Join::Clone,
        facts: shared.config.facts.clone(),
    }))
}

/// An answer to a question from before this side lost its copy of the guest.
fn late_answer(
    asked: Generation,
    answer: ArbiterAnswer,
    shared: &mut Shared,
    out: &mut Vec<Action>,
) {
    match answer {
        ArbiterAnswer::Won => {
            shared.learn(asked);
            let generation = asked;
            out.push(Action::Note(Note::WonForNothing { generation }));
        }
        ArbiterAnswer::Lost { generation, .. } => shared.learn(generation),
        ArbiterAnswer::Unreachable { .. } => {}
    }
}

/// The primary's answer to `Hello`.
fn greeted(mut link: Link, message: Message, shared: &mut Shared, out: &mut Vec<Action>) -> State {
    let peer = link.peer;
    let why = match message {
        Message::Welcome(welcome) => match accept(&welcome, shared) {
            Ok(()) => {
                let Welcome {
                    host,
                    generation,
                    bidder,
                    features,
                    ..
                } = welcome;
                out.push(Action::Established { peer });
                if features & FEATURE_PAGE_HASHES != 0 {
                    out.push(Action::TellHashes { peer });
                }
                out.push(Action::Note(Note::Joining { host: host.clone() }));
                link.host = host;
                return State::Joining(Joining::Cloning(Cloning {
                    link,
                    generation,
                    bidder,
                    kept: generation,
                    quorum: Quorum::of(1),
                    backups: 1,
                    first: None,
                    received: 0,
                    ahead: Ahead::default(),
                }));
            }
            Err(why) => why,
        },
        Message::Reject(reason) if reason.is_temporary() => DisconnectReason::RejectedUs(reason),
        Message::Reject(reason) => {
            return State::halt(HaltReason::Rejected(reason), out);
        }
        Message::GuestEnded { reason } => {
            return State::halt(HaltReason::GuestEnded(reason), out);
        }
        Message::Bye { reason } => DisconnectReason::Left(reason),
        other => DisconnectReason::Protocol(ProtocolError::Unexpected(other.name())),
    };
    let text = why.to_string();
    out.push(Action::Disconnect { peer, why });
    Joining::Greeting(link).leave(text, shared, out)
}

/// Takes over what the primary has settled.
fn accept(welcome: &Welcome, shared: &mut Shared) -> Result<(), DisconnectReason> {
    let theirs = welcome.protocol_version;
    if theirs != PROTOCOL_VERSION {
        return Err(DisconnectReason::Protocol(ProtocolError::Version(theirs)));
    }
    if welcome.generation > NUMBER_MAX {
        return Err(DisconnectReason::Protocol(ProtocolError::Number));
    }
    if welcome.generation < shared.generation || welcome.generation == 0 {
        return Err(DisconnectReason::Superseded {
            theirs: welcome.generation,
            known: shared.generation,
        });
    }
    shared.learn(welcome.generation);
    shared.config.commit = welcome.commit;
    shared.config.heartbeat_ms = welcome.heartbeat_ms.clamp(1, 60_000);
    shared.config.detect_ms = welcome.detect_ms.max(shared.config.heartbeat_ms * 4);
    Ok(())
}

impl Cloning {
    fn on(mut self, event: Event, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        match event {
            Event::Message { message, .. } => match self.on_message(message, shared, out) {
                Ok(None) => State::Joining(Joining::Cloning(self)),
                Ok(Some(halt)) => State::halt(halt, out),
                Err(why) => {
                    let text = why.to_string();
                    let peer = self.link.peer;
                    out.push(Action::Disconnect { peer, why });
                    Joining::Cloning(self).leave(text, shared, out)
                }
            },
            Event::Executed { epoch, virtual_now } if self.first == Some(epoch) => {
                Backup::begin(self, epoch, virtual_now, shared, out)
            }
            Event::Diverged { epoch, .. } => {
                out.push(Action::Note(Note::Diverged { epoch }));
                let reason = ByeReason::Diverged;
                out.push(send(&self.link, Message::Bye { reason }));
                let why = DisconnectReason::Diverged(epoch);
                let text = why.to_string();
                let peer = self.link.peer;
                out.push(Action::Disconnect { peer, why });
                Joining::Cloning(self).leave(text, shared, out)
            }
            Event::Arbiter { asked, answer } => {
                late_answer(asked, answer, shared, out);
                State::Joining(Joining::Cloning(self))
            }
            _ => State::Joining(Joining::Cloning(self)),
        }
    }

    fn on_message(
        &mut self,
        message: Message,
        shared: &Shared,
        out: &mut Vec<Action>,
    ) -> Result<Option<HaltReason>, DisconnectReason> {
        match (message, self.first) {
            (Message::Heartbeat { seq, heard }, _) => {
                self.link.on_beat(seq);
                self.link.on_echo(heard);
            }
            (Message::ClonePages { pages }, None) => out.push(Action::ApplyPages(pages)),
            (Message::CloneDone { first }, None) if (1..=NUMBER_MAX).contains(&first) => {
                self.first = Some(first);
                self.received = first - 1;
            }
            (Message::Epoch(epoch), Some(first)) => {
                self.on_epoch(epoch, first, shared, out)
                    .map_err(DisconnectReason::Protocol)?;
            }
            (Message::Keep { generation, voices }, Some(_)) if generation <= NUMBER_MAX => {
                self.kept = self.kept.max(generation);
                self.quorum.kept = voices;
                out.push(send(&self.link, Message::Kept { generation }));
            }
            (Message::Renewed { generation }, Some(_)) if generation <= self.kept => {
                self.generation = self.generation.max(generation);
                self.quorum.now = self.quorum.kept;
            }
            (Message::Quorum { number, voices }, Some(_)) => {
                self.quorum = Quorum::of(voices);
                out.push(send(&self.link, Message::QuorumKnown { number }));
            }
            (Message::Backups { count }, Some(_)) => self.backups = count,
            (Message::GuestEnded { reason }, _) => return Ok(Some(HaltReason::GuestEnded(reason))),
            (Message::Bye { reason }, _) => return Err(DisconnectReason::Left(reason)),
            (other, _) => {
                let error = ProtocolError::Unexpected(other.name());
                return Err(DisconnectReason::Protocol(error));
            }
        }
        Ok(None)
    }

    fn on_epoch(
        &mut self,
        epoch: EncodedEpoch,
        first: Epoch,
        shared: &Shared,
        out: &mut Vec<Action>,
    ) -> Result<(), ProtocolError> {
        let (found, expected) = (epoch.epoch, self.received + 1);
        if found != expected {
            return Err(ProtocolError::EpochOrder { found, expected });
        }
        if found == first && !epoch.begins_with_state() {
            return Err(ProtocolError::NoSnapshot(found));
        }
        self.ahead
            .push(found, epoch.bytes.len(), shared.now, shared.buffer_max())?;
        self.received = found;
        out.push(Action::DeliverEpoch(epoch));
        Ok(())
    }
}
