//! A question to the arbiter, repeated until it is answered.

use super::core::Shared;
use super::event::{Action, ArbiterAnswer, Note};
use super::link::MS;
use super::message::Generation;

/// A test-and-set that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) generation: Generation,
    at: u64,
    waiting: bool,
    /// It was put to the arbiter, and may have been won without word of it.
    pub(super) asked: bool,
    /// When it was first.
    asked_at: Option<u64>,
    told: bool,
}

/// What came of it so far.
pub(super) enum Verdict {
    Pending,
    Won,
    Lost { generation: Generation, by: String },
}

impl Ask {
    /// Asks for `generation`, not before `at`.
    pub(super) fn new(generation: Generation, at: u64) -> Self {
        Ask {
            generation,
            at,
            waiting: false,
            asked: false,
            asked_at: None,
            told: false,
        }
    }

    /// Asks when it is time to.
    pub(super) fn poll(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        if !self.waiting && shared.now >= self.at {
            self.waiting = true;
            self.asked = true;
            self.asked_at.get_or_insert(shared.now);
            let generation = self.generation;
            out.push(Action::AskArbiter { generation });
        }
    }

    /// Whether it was put so long ago that another host may have started the guest since.
    pub(super) fn is_old(&self, shared: &Shared) -> bool {
        let lease = u64::from(shared.config.lease_ms) * MS;
        self.asked_at.is_some_and(|at| shared.now - at > lease)
    }

    /// When [`Ask::poll`] has something to do.
    pub(super) fn next_tick(&self) -> u64 {
        if self.waiting { u64::MAX } else { self.at }
    }

    /// Takes an answer in; one to another question changes nothing.
    pub(super) fn answered(
        &mut self,
        asked: Generation,
        answer: ArbiterAnswer,
        shared: &Shared,
        out: &mut Vec<Action>,
    ) -> Verdict {
        if asked != self.generation {
            return Verdict::Pending;
        }
        self.waiting = false;
        match answer {
            ArbiterAnswer::Won => {
                let generation = self.generation;
                out.push(Action::Note(Note::ArbiterWon { generation }));
                Verdict::Won
            }
            ArbiterAnswer::Lost { generation, by } => {
                let note = Note::ArbiterLost {
                    generation,
                    by: by.clone(),
                };
                out.push(Action::Note(note));
                Verdict::Lost { generation, by }
            }
            ArbiterAnswer::Unreachable { why } => {
                self.at = shared.now + u64::from(shared.config.arbiter_retry_ms) * MS;
                if !self.told {
                    self.told = true;
                    out.push(Action::Note(Note::ArbiterUnreachable { why }));
                }
                Verdict::Pending
            }
        }
    }
}
