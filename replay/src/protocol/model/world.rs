//! The simulated world.

use std::collections::BTreeMap;

use super::daemon::{self, Node};
use super::net::{Item, Net};
use super::stats::Stats;
use crate::entry::Epoch;
use crate::protocol::{ArbiterAnswer, Commit, Core, Event, Generation, PeerId, Role, Start};

pub(super) const MS: u64 = 1_000_000;
/// Faults are injected until then.
pub(super) const FAULTS_END: u64 = 4_000 * MS;
/// By then everything must have settled.
const END: u64 = 9_000 * MS;
/// Outputs must flow from here to the end.
pub(super) const FLOW_FROM: u64 = END - 1_000 * MS;

/// A mistake built in on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    ArbiterAlwaysYields,
    OutputsNotHeld,
    AckedNotDelivered,
    /// A primary's host closes connections that the primary still goes by.
    CloseBeforeGivingUp,
}

/// Which faults a world has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Faults {
    /// All, often several at once: the guest may be lost, but nothing else may go wrong.
    Storm,
    /// All but those that destroy a copy of the guest: it may never be lost.
    NoDeaths,
    /// One, of any kind, while the guest is protected: it may never be lost.
    Single,
}

/// What one epoch of one live copy did; its parent is what the copy did before.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) epoch: Epoch,
    pub(super) parent: Option<usize>,
    pub(super) delivered: bool,
    pub(super) executed: bool,
}

/// What happens at some time. A host's things are for one run of its daemon.
#[derive(Debug)]
pub(super) enum Step {
    Wake(usize, u64),
    Deliver {
        conn: u64,
        side: usize,
        item: Item,
    },
    Break {
        conn: u64,
        side: usize,
    },
    Ask {
        node: usize,
        run: u64,
        asked: Generation,
    },
    Answer {
        node: usize,
        run: u64,
        asked: Generation,
        answer: ArbiterAnswer,
    },
    Execute {
        node: usize,
        serial: u64,
    },
    Close {
        node: usize,
        serial: u64,
    },
    Clone {
        node: usize,
        serial: u64,
        peer: PeerId,
        left: u32,
    },
    /// A host looks whether it is superseded.
    Look(usize, u64),
    Superseded(usize, u64, Generation),
    Dial(usize, u64),
    Fault,
    Restart(usize),
    Resume(usize, u64),
    Heal,
}

pub(super) struct World {
    pub(super) faults: Faults,
    /// The one fault has happened.
    pub(super) disturbed: bool,
    pub(super) now: u64,
    pub(super) queue: BTreeMap<(u64, u64), Step>,
    pub(super) serial: u64,
    pub(super) random: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) net: Net,
    pub(super) arbiter: (Generation, u64),
    pub(super) arbiter_away_until: u64,
    pub(super) contents: Vec<Content>,
    /// The newest output that is out.
    pub(super) out: Option<usize>,
    /// The newest generation that went live, and which host's run did.
    pub(super) live: Option<(Generation, usize, u64)>,
    pub(super) commit: Commit,
    pub(super) lossy: bool,
    pub(super) small_buffers: bool,
    pub(super) delay_max: u64,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) flowed: bool,
    pub(super) stats: Stats,
}

pub(super) type Checked = Result<(), String>;

impl World {
    pub(super) fn new(seed: u64, faults: Faults, sabotage: Option<Sabotage>) -> Self {
        let mut world = World {
            faults,
            disturbed: false,
            now: 0,
            queue: BTreeMap::new(),
            serial: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678,
            nodes: Vec::new(),
            net: Net::default(),
            arbiter: (0, 0),
            arbiter_away_until: 0,
            contents: Vec::new(),
            out: None,
            live: None,
            commit: Commit::Received,
            lossy: false,
            small_buffers: false,
            delay_max: 0,
            sabotage,
            flowed: false,
            stats: Stats::default(),
        };
        world.commit = match world.below(3) {
            0 => Commit::Executed,
            1 => Commit::Verified,
            _ => Commit::Received,
        };
        world.lossy = world.one_in(4) && faults != Faults::Single;
        world.small_buffers = world.one_in(4);
        world.delay_max = [MS / 5, 2 * MS, 30 * MS][world.below(3) as usize];
        let nodes = 2 + usize::from(world.one_in(3));
        for node in 0..nodes {
            let rate = 970 + world.below(61);
            let start = match node {
                0 => Start::Primary { generation: 0 },
                _ => Start::Backup,
            };
            world.nodes.push(Node {
                core: Core::new(daemon::config(start, node), 0),
                run: 0,
                up: false,
                paused: None,
                rate,
                guest: None,
                dialling: false,
                wake_at: u64::MAX,
            });
            world.start(node, start);
        }
        match faults {
            Faults::Single => world.after(1000 * MS, 3500 * MS, Step::Fault),
            _ => world.after(MS, 1000 * MS, Step::Fault),
        }
        world
    }

    pub(super) fn run(&mut self) -> Checked {
        while let Some(((at, _), step)) = self.queue.pop_first() {
            if at > END {
                break;
            }
            self.now = at;
            self.stats.steps += 1;
            self.step(step)
                .map_err(|what| format!("{} ms: {what}", at / MS))?;
        }
        self.check_end()
    }

    /// Redundancy is back, if there is a guest left.
    pub(super) fn check_end(&mut self) -> Checked {
        let statuses: Vec<_> = self.nodes.iter().map(|node| node.core.status()).collect();
        let live = |role| matches!(role, Role::Primary | Role::Alone);
        if !statuses.iter().any(|status| live(status.role)) {
            self.stats.ended_without_guest += 1;
            return match self.faults {
                Faults::Storm => Ok(()),
                _ => Err(format!("the guest is lost: {statuses:#?}")),
            };
        }
        let is = |role, status: &crate::protocol::Status| status.role == role && status.protected;
        let primaries = statuses
            .iter()
            .filter(|status| is(Role::Primary, status))
            .count();
        let backups = statuses
            .iter()
            .filter(|status| is(Role::Backup, status))
            .count();
        if primaries != 1 || backups != 1 {
            return Err(format!("redundancy is not restored: {statuses:#?}"));
        }
        if !self.flowed {
            return Err(format!("outputs don't flow: {statuses:#?}"));
        }
        self.stats.ended_protected += 1;
        Ok(())
    }

    pub(super) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next_random() % end
    }

    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn any_node(&mut self) -> usize {
        self.below(self.nodes.len() as u64) as usize
    }

    pub(super) fn at(&mut self, at: u64, step: Step) {
        self.serial += 1;
        self.queue.insert((at, self.serial), step);
    }

    pub(super) fn after(&mut self, least: u64, most: u64, step: Step) {
        let at = self.now + least + self.below(most - least + 1);
        self.at(at, step);
    }

    pub(super) fn faults_on(&self) -> bool {
        self.now < FAULTS_END && self.faults != Faults::Single
    }

    pub(super) fn is(&self, node: usize, run: u64) -> bool {
        self.nodes[node].up && self.nodes[node].run == run
    }

    pub(super) fn step(&mut self, step: Step) -> Checked {
        match step {
            Step::Wake(node, run) => {
                if self.is(node, run) && self.nodes[node].wake_at <= self.now {
                    return self.feed(node, Event::Tick);
                }
            }
            Step::Deliver { conn, side, item } => return self.deliver(conn, side, item),
            Step::Break { conn, side } => return self.break_side(conn, side),
            Step::Ask { node, run, asked } => self.ask(node, run, asked),
            Step::Answer {
                node,
                run,
                asked,
                answer,
            } => {
                if self.is(node, run) {
                    return self.feed(node, Event::Arbiter { asked, answer });
                }
            }
            Step::Execute { node, serial } => return self.execute(node, serial),
            Step::Close { node, serial } => return self.close_epoch(node, serial),
            Step::Clone {
                node,
                serial,
                peer,
                left,
            } => {
                return self.clone_step(node, serial, peer, left);
            }
            Step::Look(node, run) => self.look(node, run),
            Step::Superseded(node, run, generation) => {
                if self.is(node, run) {
                    self.feed(node, Event::Superseded { generation })?;
                    self.stats.superseded += u64::from(!self.is(node, run));
                }
            }
            Step::Dial(node, run) => return self.dial(node, run),
            Step::Fault => return self.fault(),
            Step::Restart(node) => {
                if !self.nodes[node].up {
                    // Sometimes as what it no longer is.
                    let start = match self.one_in(10) {
                        true => Start::Primary { generation: 0 },
                        false => Start::Backup,
                    };
                    self.start(node, start);
                }
            }
            Step::Resume(node, run) => {
                if self.is(node, run) {
                    let waiting = self.nodes[node].paused.take().unwrap_or_default();
                    for event in waiting {
                        if self.is(node, run) {
                            self.feed(node, event)?;
                        }
                    }
                    if self.is(node, run) {
                        return self.feed(node, Event::Tick);
                    }
                }
            }
            Step::Heal => self.heal(),
        }
        Ok(())
    }
}
