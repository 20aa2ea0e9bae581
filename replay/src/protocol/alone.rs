//! The live side without a backup: starting, and alone.

use super::ask::{Ask, Verdict};
use super::core::{Shared, State};
use super::event::{Action, DisconnectReason, Event, HaltReason};
use super::joiner::Joiner;
use super::link::{lose, send, unwanted};
use super::message::Message;
use super::primary::Primary;
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

pub(super) fn go_alone(
    generation: u64,
    closed: Epoch,
    shared: &mut Shared,
    out: &mut Vec<Action>,
) -> State {
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
    pub(super) joiner: Option<Joiner>,
}

impl Alone {
    /// Live, and `closed` is the last epoch.
    pub(super) fn new(closed: Epoch) -> Alone {
        Alone {
            closed,
            joiner: None,
        }
    }

    pub(super) fn on(mut self, event: Event, shared: &mut Shared, out: &mut Vec<Action>) -> State {
        match event {
            Event::EpochClosed(epoch) => {
                self.closed = self.closed.max(epoch.epoch);
                let through = self.closed;
                out.push(Action::ReleaseOutputs { through });
            }
            Event::CloneReady { peer, first } => match self.joiner.take() {
                Some(joiner) if joiner.link.peer == peer && first > self.closed => {
                    return Primary::begin(joiner.link, first, shared, out);
                }
                joiner => {
                    self.joiner = joiner;
                    out.push(Action::StopClone { peer });
                }
            },
            Event::CloneFailed { peer, why } => {
                let why = DisconnectReason::CloneFailed(why);
                if let Some(joiner) = self.joiner.take_if(|joiner| joiner.link.peer == peer) {
                    lose(&joiner.link, why.to_string(), shared, out);
                    out.push(Action::Disconnect { peer, why });
                }
            }
            Event::PeerDisconnected { why, .. } => {
                if let Some(joiner) = self.joiner.take() {
                    lose(&joiner.link, why.to_string(), shared, out);
                    let peer = joiner.link.peer;
                    out.push(Action::StopClone { peer });
                }
            }
            Event::Message { message, .. } => {
                let pages = shared.config.facts.pages();
                if let Some(joiner) = &mut self.joiner
                    && let Err(why) = joiner.on_message(message, pages, out)
                {
                    self.dismiss(why, shared, out);
                }
            }
            Event::GuestEnded { reason } => {
                if let Some(joiner) = self.joiner {
                    let message = Message::GuestEnded { reason };
                    out.push(send(&joiner.link, message));
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
            | Event::Standing { .. }
            | Event::Superseded { .. }
            | Event::HandOver
            | Event::Stop
            | Event::Failed { .. } => {}
        }
        State::Alone(self)
    }

    fn dismiss(&mut self, why: DisconnectReason, shared: &Shared, out: &mut Vec<Action>) {
        if let Some(joiner) = self.joiner.take() {
            lose(&joiner.link, why.to_string(), shared, out);
            Joiner::dismiss(joiner.link.peer, why, out);
        }
    }

    /// Another host may start the guest, or has done so: the next generation is for one of the two.
    fn lapsed(mut self, shared: &Shared, out: &mut Vec<Action>) -> State {
        let why = DisconnectReason::CloneFailed("the arbiter was away too long".to_owned());
        self.dismiss(why, shared, out);
        let from = self.closed + 1;
        out.push(Action::HoldOutputs { from });
        let mut primary = Primary::new(from);
        primary.ask = Some(Ask::new(shared.generation + 1, shared.now));
        State::Primary(primary)
    }
}
