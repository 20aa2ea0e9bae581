//! What goes wrong, and the arbiter.

use super::daemon::Node;
use super::net::Item;
use super::world::{Checked, FAULTS_END, Faults, MS, Sabotage, Step, World};
use crate::protocol::{ArbiterAnswer, Event, Generation, Role};

impl World {
    pub(super) fn ask(&mut self, node: usize, run: u64, asked: Generation) {
        let away = self.now < self.arbiter_away_until;
        let unheard = self.faults_on() && self.one_in(10);
        let why = "chance".to_owned();
        if away {
            let answer = ArbiterAnswer::Unreachable { why };
            return self.after(
                MS,
                50 * MS,
                Step::Answer {
                    node,
                    run,
                    asked,
                    answer,
                },
            );
        }
        let (held, by) = self.arbiter;
        let yields = self.sabotage == Some(Sabotage::ArbiterAlwaysYields);
        let won = held + 1 == asked || (held == asked && by == run) || (yields && asked > 1);
        if won {
            self.arbiter = (asked, run);
        }
        let answer = match (unheard, won) {
            (true, _) => ArbiterAnswer::Unreachable { why },
            (_, true) => ArbiterAnswer::Won,
            (_, false) => ArbiterAnswer::Lost {
                generation: held,
                by: by.to_string(),
            },
        };
        self.after(
            MS / 10,
            50 * MS,
            Step::Answer {
                node,
                run,
                asked,
                answer,
            },
        );
    }

    /// A host looks for a later generation than its own, and hears of it in time or not.
    pub(super) fn look(&mut self, node: usize, run: u64) {
        if !self.is(node, run) {
            return;
        }
        self.after(100 * MS, 500 * MS, Step::Look(node, run));
        let (held, _) = self.arbiter;
        let away = self.now < self.arbiter_away_until;
        if !away && held > self.nodes[node].core.generation() {
            self.after(0, 50 * MS, Step::Superseded(node, run, held));
        }
    }

    pub(super) fn fault(&mut self) -> Checked {
        let protected =
            |node: &Node| node.core.role() == Role::Primary && node.core.status().protected;
        if self.faults == Faults::Single {
            let calm = self.nodes.iter().any(protected);
            if self.disturbed || self.now > FAULTS_END || !calm {
                return Ok(());
            }
            self.disturbed = true;
        } else if !self.faults_on() {
            return Ok(());
        }
        self.after(MS, 1000 * MS, Step::Fault);
        let node = self.any_node();
        let (up, run) = (self.nodes[node].up, self.nodes[node].run);
        let kind = match self.faults {
            Faults::NoDeaths => 2 + self.below(6),
            _ => self.below(9),
        };
        match kind {
            0 if up => {
                self.stats.power_cuts += 1;
                self.die(node, false);
            }
            1 if up => {
                self.stats.process_deaths += 1;
                self.die(node, true);
            }
            2 if up => {
                self.stats.pauses += 1;
                self.nodes[node].paused.get_or_insert_default();
                self.after(10 * MS, 800 * MS, Step::Resume(node, run));
            }
            3 | 4 => {
                self.stats.partitions += 1;
                let other = self.any_node();
                let until = self.now + 1 + self.below(900 * MS);
                self.net.cuts.insert((node, other), until);
                if self.one_in(2) {
                    self.net.cuts.insert((other, node), until);
                }
                self.at(until, Step::Heal);
            }
            5 | 6 => {
                let Some(&(conn, side)) = self.net.of((node, run)).first() else {
                    return Ok(());
                };
                self.stats.broken_links += 1;
                if self.sabotage == Some(Sabotage::CloseBeforeGivingUp) {
                    // The other side is told "closed", and this one goes on by what it has.
                    let item = Item::Fin;
                    self.at(
                        self.now,
                        Step::Deliver {
                            conn,
                            side: 1 - side,
                            item,
                        },
                    );
                    return Ok(());
                }
                if let Some(conn) = self.net.conns.get_mut(&conn) {
                    conn.dead = true;
                }
                if self.one_in(2) {
                    self.after(0, 300 * MS, Step::Break { conn, side });
                }
                if self.one_in(2) {
                    self.after(
                        0,
                        300 * MS,
                        Step::Break {
                            conn,
                            side: 1 - side,
                        },
                    );
                }
            }
            7 => {
                self.stats.arbiter_away += 1;
                self.arbiter_away_until = self.now + self.below(1000 * MS);
            }
            8 if up && (self.faults == Faults::Single || self.one_in(4)) => {
                return self.feed(node, Event::Stop);
            }
            _ => {}
        }
        Ok(())
    }
}
