//! The arbiter: a generation and who won it, and the winner's signs of life, behind a slow and unreliable
//! path. The daemon's part in it (`ftd/src/arbiter/vacancy.rs`) is here, too: a copy without a backup that has
//! given no sign for some time lets nothing out before another host may start the guest. The times are
//! shorter than the daemon's, so that worlds meet it more often.

use std::collections::BTreeMap;

use replay::entry::Epoch;
use replay::protocol::{ArbiterAnswer, Event, Generation, Release, Role, StandAnswer};

use super::kind::Kind;
use super::node::Node;
use super::plan::MS;
use super::sabotage::Sabotage;
use super::violation::Checked;
use super::world::{Step, World};

/// Without a sign for so long, a host without a backup lets nothing out.
pub(super) const LEASE: u64 = 1_000 * MS;
/// Without a sign for so long, another host may start the guest.
const SILENCE: u64 = 1_500 * MS;

/// What it holds, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Arbiter {
    pub(super) held: Generation,
    /// The run of the daemon that won it.
    pub(super) by: u64,
    /// How far those are that would take a generation, by the runs of their daemons.
    candidates: BTreeMap<(Generation, u64), Epoch>,
    /// What it held before.
    before: (Generation, u64),
    /// When who won it showed a sign of life.
    signed_at: u64,
    /// Who won it did so when its holder had been silent for too long.
    after_silence: bool,
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

    fn is_arbiter_away(&self, node: usize) -> bool {
        self.now
            < self
                .arbiter
                .away_until
                .max(self.nodes[node].storage_cut_until)
    }

    /// A daemon's question sets out.
    pub(super) fn send_question(&mut self, node: usize, asked: Generation) {
        let host = &mut self.nodes[node];
        let run = host.run;
        if host.asked.0 != asked {
            host.asked = (asked, self.now);
        }
        let at = self.now + self.arbiter_delay(20 * MS);
        self.say(|| format!("host{node} asks the arbiter for generation {asked}"));
        self.at(at, Step::Ask { node, run, asked });
    }

    /// A question arrives.
    pub(super) fn ask(&mut self, node: usize, run: u64, asked: Generation) {
        let away = self.is_arbiter_away(node);
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
                self.arbiter.after_silence = self.is_quiet();
            }
            self.arbiter.signed_at = self.now;
            self.say(|| format!("arbiter: generation {asked} is host{node}'s"));
            return ArbiterAnswer::Won;
        }
        self.say(|| format!("arbiter: generation {asked} is not host{node}'s, it holds {held}"));
        ArbiterAnswer::Lost {
            generation: held,
            by: by.to_string(),
        }
    }

    /// A daemon's candidacy sets out.
    pub(super) fn send_candidacy(&mut self, node: usize, asked: Generation, through: Epoch) {
        let run = self.nodes[node].run;
        let at = self.now + self.arbiter_delay(20 * MS);
        self.say(|| format!("host{node} would take generation {asked}, with epoch {through}"));
        self.at(
            at,
            Step::Stand {
                node,
                run,
                asked,
                through,
            },
        );
    }

    /// A candidacy arrives: it is written down, and what is there is read. Others that have just been written
    /// may be missed.
    pub(super) fn stand(&mut self, node: usize, run: u64, asked: Generation, through: Epoch) {
        let away = self.is_arbiter_away(node);
        let at = self.now + self.arbiter_delay(50 * MS);
        let answer = if away || self.chance(Kind::AnswerLost, 10) {
            if !away {
                self.arbiter.candidates.insert((asked, run), through);
            }
            let why = "it is away, or its answer was lost".to_owned();
            StandAnswer::Unreachable { why }
        } else {
            self.arbiter.candidates.insert((asked, run), through);
            let all = self
                .arbiter
                .candidates
                .range((asked, 0)..=(asked, u64::MAX));
            let all: Vec<_> = all.map(|(&(_, by), &epoch)| (by, epoch)).collect();
            let seen = all
                .into_iter()
                .filter(|(by, _)| *by == run || !self.one_in(4));
            let through = seen.map(|(_, epoch)| epoch).collect();
            let decided = self.arbiter.held >= asked;
            StandAnswer::Heard { decided, through }
        };
        self.at(
            at,
            Step::Stood {
                node,
                run,
                asked,
                answer,
            },
        );
    }

    /// A backup that has won a generation takes the guest over.
    pub(super) fn count_candidates(&mut self, generation: Generation) {
        let all = self
            .arbiter
            .candidates
            .range((generation, 0)..=(generation, u64::MAX));
        let epochs: Vec<Epoch> = all.map(|(_, &epoch)| epoch).collect();
        self.stats.by_quorum += u64::from(epochs.len() > 1);
        self.stats.by_quorum_unequal += u64::from(epochs.iter().any(|epoch| *epoch != epochs[0]));
    }

    /// A host looks for a later generation than its own, and hears of it in time or not. If there is
    /// none, and the guest is live here, it gives a sign of life.
    pub(super) fn look(&mut self, node: usize, run: u64) -> Checked {
        if !self.is(node, run) {
            return Ok(());
        }
        self.after(50 * MS, 250 * MS, Step::Look(node, run));
        self.look_once(node, run)
    }

    pub(super) fn look_once(&mut self, node: usize, run: u64) -> Checked {
        self.check_lease(node)?;
        let host = &self.nodes[node];
        if !self.is(node, run) || self.is_arbiter_away(node) || host.paused.is_some() {
            return Ok(());
        }
        let seen = match self.now < self.arbiter.stale_until {
            true => self.arbiter.before.0,
            false => self.arbiter.held,
        };
        let (own, live) = (host.core.generation(), host.guest.as_ref());
        if seen > own {
            let at = self.now + self.arbiter_delay(50 * MS);
            self.at(at, Step::Superseded(node, run, seen));
        } else if live.is_some_and(|guest| guest.live) && self.arbiter.held <= own {
            // What a sign rests on is never stale.
            self.nodes[node].signed_at = self.now;
            if self.arbiter.by == run {
                self.arbiter.signed_at = self.now;
            }
            if self.sabotage == Some(Sabotage::SignNotBid) {
                self.nodes[node].lapsed = false;
            }
        }
        Ok(())
    }

    /// Whether a host has given no sign for so long that, without a backup, it may let nothing out.
    pub(super) fn is_silent(&self, node: usize) -> bool {
        self.now - self.nodes[node].signed_at > LEASE
    }

    /// A host without a backup that has given no sign for so long lets nothing out, and bids.
    pub(super) fn check_lease(&mut self, node: usize) -> Checked {
        let silent = self.is_silent(node);
        let host = &self.nodes[node];
        let status = host.core.status();
        // Or with one lost that is not ruled out yet; or where a third host may start the guest.
        let alone = match status.role {
            Role::Alone => host.up,
            Role::Primary => {
                let unseen =
                    self.others_start() && self.sabotage != Some(Sabotage::ProtectedNotSuspended);
                host.up && (status.asking_arbiter || unseen)
            }
            _ => false,
        };
        if !silent || !alone || host.lapsed || host.paused.is_some() {
            return Ok(());
        }
        let host = &mut self.nodes[node];
        match self.sabotage {
            Some(Sabotage::SilentNotSuspended) => return Ok(()),
            Some(Sabotage::SignNotBid) => {
                host.lapsed = true;
                return Ok(());
            }
            _ => host.lapsed = true,
        }
        self.stats.lapsed += 1;
        self.say(|| format!("host{node} has given no sign of life for too long"));
        self.feed(node, Event::Lapsed)
    }

    /// Whether a host has a copy of the guest that it may never take over with, since it hears of too few others: it
    /// keeps nobody from starting the guest anew.
    pub(super) fn may_wait_in_vain(&self, node: &Node) -> bool {
        let status = node.core.status();
        let lost = status.role == Role::Backup && status.link.is_none();
        lost && self.plan.backups > 1 && self.plan.release == Release::Quorum
    }

    /// Whether there was no sign of life for so long that another host may start the guest.
    fn is_quiet(&self) -> bool {
        self.now > self.arbiter.signed_at + SILENCE
    }

    /// Whether nobody has the guest, or may come to have it: what a daemon waits for before it bids for
    /// the start of a guest. A live copy that is silent for too long counts as none.
    pub(super) fn is_vacant(&self) -> bool {
        let silent = self.is_quiet();
        let idle = |node: &Node| {
            let status = node.core.status();
            // A guest that is protected, and whoever protects it: nobody can see them at the arbiter.
            let linked =
                matches!(status.role, Role::Primary | Role::Backup) && status.link.is_some();
            let unseen = silent && self.others_start() && linked;
            let hopes = status.role == Role::Starting || status.link.is_some();
            let hopes = node.up && hopes && !unseen;
            let alone = status.role == Role::Alone
                || (status.role == Role::Primary && status.asking_arbiter);
            let silent = silent && (alone || self.may_wait_in_vain(node));
            let copy = node.guest.is_some() && !silent && !unseen;
            !copy && !hopes && node.writes_until < self.now
        };
        self.arbiter.held > 0 && self.nodes.iter().all(idle)
    }

    /// Whether there are hosts beside a pair, of which one may start the guest by itself when it sees no sign of it.
    pub(super) fn others_start(&self) -> bool {
        self.nodes.len() > 2
    }

    /// Whether a protected guest may count as gone, and those that protect it with it: nobody sees it at the arbiter,
    /// and it lets nothing out. It may have died since.
    pub(super) fn is_unseen(&self) -> bool {
        let silent = |node: &usize| self.nodes[*node].lapsed || self.is_silent(*node);
        let is_primary = |node: &usize| self.nodes[*node].core.role() == Role::Primary;
        let mut primaries = (0..self.nodes.len()).filter(is_primary);
        self.others_start() && (self.arbiter.after_silence || primaries.any(|node| silent(&node)))
    }
}
