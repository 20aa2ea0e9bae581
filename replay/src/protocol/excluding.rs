//! A backup that is lost, or too slow, is ruled out by winning the next generation.
//!
//! The others must know beforehand that they are not meant: they would ask for the same generation if this
//! side died, lose, and take themselves for losers. So each of them is told that it is kept in the
//! generation that is bid for ([`Message::Keep`]), and the bid waits until each has said that it heard
//! ([`Message::Kept`]). One that asks the arbiter and finds its primary the winner of a generation that
//! it is kept in asks for the next one (`Backup`).
//!
//! A backup that is lost after it was told may take itself for kept. So it is ruled out by the generation
//! after that, and until then counts as a member.

use super::ask::Ask;
use super::core::{Shared, State, break_off};
use super::event::{Action, DisconnectReason, ProtocolError};
use super::link::{lose, send};
use super::member::Member;
use super::message::{Generation, Message};
use super::primary::Primary;

impl Primary {
    /// The next generation is wanted, not before `at`. (It may be asked for already.)
    pub(super) fn ask_from(&mut self, at: u64, shared: &Shared, out: &mut Vec<Action>) {
        self.stop_clone("a backup is lost", shared, out);
        if self.ask.is_none() {
            self.ask = Some(Ask::new(shared.generation + 1, at));
            self.told_at = shared.now;
        }
        self.prepare(shared, out);
    }

    /// Asks the arbiter if there is something to ask, and every member that stays knows that it does.
    pub(super) fn prepare(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        let copies = self.copies(Member::stays);
        let Some(ask) = &mut self.ask else { return };
        let generation = ask.generation;
        if ask.asked {
            return ask.poll(shared, out);
        }
        let mut all_know = true;
        for member in self.members.iter_mut().filter(|member| member.stays()) {
            let of = copies + usize::from(member.acked.is_none());
            let voices = shared.config.release.voices(of);
            member.keep(generation, voices, out);
            all_know &= member.knows >= generation;
        }
        if all_know {
            ask.poll(shared, out);
        } else if shared.now >= self.told_at + shared.detect_ns() {
            self.lose_the_deaf(generation, shared, out);
        }
    }

    /// Members that are there, but say nothing of what they were told, are there no more.
    fn lose_the_deaf(&mut self, generation: Generation, shared: &Shared, out: &mut Vec<Action>) {
        self.told_at = shared.now;
        for member in &mut self.members {
            if !member.stays() || member.knows >= generation {
                continue;
            }
            if let Some(link) = member.link.take() {
                let error = ProtocolError::NotKept;
                lose(&link, error.to_string(), shared, out);
                break_off(link.peer, error, out);
            }
        }
        self.prepare(shared, out);
    }

    /// When [`Primary::prepare`] has something to do.
    pub(super) fn ask_at(&self, shared: &Shared) -> u64 {
        let Some(ask) = &self.ask else {
            return u64::MAX;
        };
        let mut staying = self.members.iter().filter(|member| member.stays());
        let all_know = staying.all(|member| member.knows >= ask.generation);
        match ask.asked || all_know {
            true => ask.next_tick(),
            false => self.told_at + shared.detect_ns(),
        }
    }

    /// The next generation is this side's: whoever was not told that he is kept in it is out.
    pub(super) fn won(
        mut self,
        generation: Generation,
        shared: &mut Shared,
        out: &mut Vec<Action>,
    ) -> State {
        let late = self.ask.take().is_some_and(|ask| ask.is_old(shared));
        self.lapsed = late;
        shared.generation = generation;
        for member in self.members.iter_mut().filter(|member| member.given_up) {
            if let Some(link) = member.link.take() {
                let peer = link.peer;
                let ms = u64::from(shared.config.give_up_ms);
                let why = DisconnectReason::TooSlow { ms };
                lose(&link, why.to_string(), shared, out);
                out.push(Action::Disconnect { peer, why });
            }
        }
        self.members
            .retain(|member| member.link.is_some() || member.kept >= generation);
        if self.members.is_empty() {
            return self.alone(generation, shared, out);
        }
        out.push(Action::Renew { generation, late });
        self.take_back(out);
        for link in self
            .members
            .iter()
            .filter_map(|member| member.link.as_ref())
        {
            out.push(send(link, Message::Renewed { generation }));
        }
        self.tell_quorum(true, shared, out);
        if late || self.members.iter().any(|member| member.link.is_none()) {
            self.ask_from(shared.now, shared, out);
        }
        self.advance(shared, out);
        State::Primary(self)
    }
}
