//! The arbiter: a generation and who won it, behind a slow and unreliable path.

use replay::protocol::{ArbiterAnswer, Generation};

use super::kind::Kind;
use super::plan::MS;
use super::sabotage::Sabotage;
use super::world::{Step, World};

/// What it holds, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Arbiter {
    pub(super) held: Generation,
    /// The run of the daemon that won it.
    pub(super) by: u64,
    /// What it held before.
    before: (Generation, u64),
    pub(super) away_until: u64,
    pub(super) slow_until: u64,
    pub(super) stale_until: u64,
}

impl World {
    /// How long something takes that goes through the arbiter's path.
    fn arbiter_delay(&mut self, most: u64) -> u64 {
        let slow = self.now < self.arbiter.slow_until;
        let most = if slow { 700 * MS } else { most };
        self.random.between(MS / 10, most)
    }

    /// A daemon's question sets out.
    pub(super) fn send_question(&mut self, node: usize, asked: Generation) {
        let run = self.nodes[node].run;
        let at = self.now + self.arbiter_delay(20 * MS);
        self.say(|| format!("host{node} asks the arbiter for generation {asked}"));
        self.at(at, Step::Ask { node, run, asked });
    }

    /// A question arrives.
    pub(super) fn ask(&mut self, node: usize, run: u64, asked: Generation) {
        let away = self.now < self.arbiter.away_until;
        let at = self.now + self.arbiter_delay(50 * MS);
        let answer = if away {
            let why = "it is away".to_owned();
            ArbiterAnswer::Unreachable { why }
        } else {
            let answer = self.test_and_set(node, run, asked);
            if self.chance(Kind::AnswerLost, 10) {
                let why = "its answer was lost".to_owned();
                ArbiterAnswer::Unreachable { why }
            } else {
                answer
            }
        };
        self.at(
            at,
            Step::Answer {
                node,
                run,
                asked,
                answer,
            },
        );
    }

    fn test_and_set(&mut self, node: usize, run: u64, asked: Generation) -> ArbiterAnswer {
        let arbiter = &self.arbiter;
        let (held, by) = match self.sabotage {
            Some(Sabotage::ArbiterDecidesOnOldState) => arbiter.before,
            _ => (arbiter.held, arbiter.by),
        };
        let yields = self.sabotage == Some(Sabotage::ArbiterAlwaysYields) && asked > 1;
        if held + 1 == asked || (held == asked && by == run) || yields {
            if self.arbiter.held != asked || self.arbiter.by != run {
                self.arbiter.before = (self.arbiter.held, self.arbiter.by);
                (self.arbiter.held, self.arbiter.by) = (asked, run);
            }
            self.say(|| format!("arbiter: generation {asked} is host{node}'s"));
            return ArbiterAnswer::Won;
        }
        self.say(|| format!("arbiter: generation {asked} is not host{node}'s, it holds {held}"));
        ArbiterAnswer::Lost {
            generation: held,
            by: by.to_string(),
        }
    }

    /// A host looks for a later generation than its own, and hears of it in time or not.
    pub(super) fn look(&mut self, node: usize, run: u64) {
        if !self.is(node, run) {
            return;
        }
        self.after(100 * MS, 500 * MS, Step::Look(node, run));
        let seen = match self.now < self.arbiter.stale_until {
            true => self.arbiter.before.0,
            false => self.arbiter.held,
        };
        let away = self.now < self.arbiter.away_until;
        if !away && seen > self.nodes[node].core.generation() {
            let at = self.now + self.arbiter_delay(50 * MS);
            self.at(at, Step::Superseded(node, run, seen));
        }
    }
}
