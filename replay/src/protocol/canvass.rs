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
    /// The last epoch that it has acknowledged in the sense of the primary's [`Commit`](super::message::Commit).
    through: Epoch,
    voices: u32,
    at: u64,
    waiting: bool,
    /// How often it has looked around.
    looks: u32,
    told: [bool; 2],
}

/// So often it looks around soon again, in milliseconds: all that lost the same primary come at about the same time.
const SOON: (u32, u64) = (10, 50);
/// And then so often: each time writes to the arbiter.
const LATER_MS: u64 = 500;

impl Canvass {
    /// A candidate for `generation`, not before `at`, that has acknowledged the log up to `through`.
    pub(super) fn new(generation: Generation, through: Epoch, voices: u32, at: u64) -> Self {
        Canvass {
            generation,
            through,
            voices,
            at,
            waiting: false,
            looks: 0,
            told: [false; 2],
        }
    }

    /// Looks around when it is time to.
    pub(super) fn poll(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        if !self.waiting && shared.now >= self.at {
            self.waiting = true;
            self.looks += 1;
            out.push(Action::Stand {
                generation: self.generation,
                through: self.through,
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
        let (wait_ms, note) = match answer {
            // Who has it, the bid will tell.
            StandAnswer::Heard { decided: true, .. } => return true,
            StandAnswer::Heard { through, .. } => {
                let behind = through.iter().filter(|&&other| other <= self.through);
                if behind.count() >= self.voices as usize {
                    return true;
                }
                let (often, soon_ms) = SOON;
                let wait_ms = if self.looks < often {
                    soon_ms
                } else {
                    LATER_MS
                };
                let (heard, voices) = (through.len() as u32, self.voices);
                (wait_ms, Note::FewVoices { heard, voices })
            }
            StandAnswer::Unreachable { why } => {
                let wait_ms = u64::from(shared.config.arbiter_retry_ms);
                (wait_ms, Note::ArbiterUnreachable { why })
            }
        };
        self.at = shared.now + wait_ms * MS;
        // That the others come a little later is nothing to tell of.
        let few = matches!(note, Note::FewVoices { .. });
        let is_early = few && self.looks < 2;
        let told = &mut self.told[usize::from(few)];
        if !is_early && !*told {
            *told = true;
            out.push(Action::Note(note));
        }
        false
    }
}
