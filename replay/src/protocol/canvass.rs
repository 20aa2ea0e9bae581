//! A backup that outputs did not wait for asks around before it bids.
//!
//! When outputs go out by a quorum, the backup that asks the arbiter first may lack the end of the log, of which
//! others have made outputs. So each that has lost its primary writes to the arbiter how far it got, which is
//! final: it takes no more of the log. One bids when it knows of as many, itself among them, as the primary said
//! ([`Message::Quorum`](super::message::Message::Quorum)), of which none has more than it has. Outputs went out
//! only when so many had acknowledged them that one of those must be among these.

use super::core::Shared;
use super::event::{Action, Note, StandAnswer};
use super::link::MS;
use super::message::Generation;
use crate::entry::Epoch;

/// How many candidates must be known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quorum {
    /// For the generation after the primary's.
    pub(super) now: u32,
    /// For the one after that which the primary may have won without this side having lost.
    pub(super) kept: u32,
}

impl Quorum {
    /// The primary's last word, whatever it wins.
    pub(super) fn of(voices: u32) -> Self {
        let (now, kept) = (voices, voices);
        Quorum { now, kept }
    }
}

/// A candidate for a generation.
#[derive(Debug, Clone)]
pub(super) struct Canvass {
    pub(super) generation: Generation,
    received: Epoch,
    voices: u32,
    at: u64,
    waiting: bool,
    told: bool,
}

impl Canvass {
    /// A candidate for `generation`, not before `at`, with the log up to `received`.
    pub(super) fn new(generation: Generation, received: Epoch, voices: u32, at: u64) -> Self {
        Canvass {
            generation,
            received,
            voices,
            at,
            waiting: false,
            told: false,
        }
    }

    /// Looks around when it is time to.
    pub(super) fn poll(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        if !self.waiting && shared.now >= self.at {
            self.waiting = true;
            out.push(Action::Stand {
                generation: self.generation,
                received: self.received,
            });
        }
    }

    /// When [`Canvass::poll`] has something to do.
    pub(super) fn next_tick(&self) -> u64 {
        if self.waiting { u64::MAX } else { self.at }
    }

    /// Takes an answer in; one to another question changes nothing. Whether it is time to bid.
    pub(super) fn answered(
        &mut self,
        asked: Generation,
        answer: StandAnswer,
        shared: &Shared,
        out: &mut Vec<Action>,
    ) -> bool {
        if asked != self.generation {
            return false;
        }
        self.waiting = false;
        let note = match answer {
            // Who has it, the bid will tell.
            StandAnswer::Heard { decided: true, .. } => return true,
            StandAnswer::Heard { received, .. } => {
                let behind = received.iter().filter(|&&other| other <= self.received);
                if behind.count() >= self.voices as usize {
                    return true;
                }
                self.at = shared.now + shared.heartbeat_ns();
                Note::FewVoices {
                    heard: received.len() as u32,
                    voices: self.voices,
                }
            }
            StandAnswer::Unreachable { why } => {
                self.at = shared.now + u64::from(shared.config.arbiter_retry_ms) * MS;
                Note::ArbiterUnreachable { why }
            }
        };
        if !self.told {
            self.told = true;
            out.push(Action::Note(note));
        }
        false
    }
}
