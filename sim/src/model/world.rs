//! The simulated world: its state, and what happens next in it.

use std::collections::BTreeMap;

use replay::entry::Epoch;
use replay::protocol::{ArbiterAnswer, Core, Event, Generation, PeerId, StandAnswer, Start};

use super::arbiter::Arbiter;
use super::disk::{Disk, Write};
use super::guests::Content;
use super::kind::Kind;
use super::net::{Item, Net};
use super::node::{self, Node};
use super::plan::{MS, Plan};
use super::random::Random;
use super::sabotage::Sabotage;
use super::stats::Stats;
use super::trace::Trace;
use super::violation::{Checked, Rule, Violation};

/// No world takes so many steps, unless time stands still in it.
const STEPS_MAX: u64 = 500_000;

/// What happens at some time. A host's things are for one run of its daemon.
#[derive(Debug)]
pub(super) enum Step {
    Wake(usize, u64),
    Deliver {
        conn: u64,
        side: usize,
        item: Item,
    },
    /// A dead process' kernel closes a connection.
    Close(u64, usize),
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
    Stand {
        node: usize,
        run: u64,
        asked: Generation,
        through: Epoch,
    },
    Stood {
        node: usize,
        run: u64,
        asked: Generation,
        answer: StandAnswer,
    },
    Execute {
        node: usize,
        serial: u64,
    },
    CloseEpoch {
        node: usize,
        serial: u64,
    },
    Clone {
        node: usize,
        serial: u64,
        peer: PeerId,
        left: u32,
    },
    /// A joiner says what RAM it has, from this page on.
    Tell {
        node: usize,
        run: u64,
        peer: PeerId,
        gfn: u64,
    },
    /// A write reaches the disk.
    Land(Write),
    /// A host looks whether it is superseded.
    Look(usize, u64),
    Superseded(usize, u64, Generation),
    Dial(usize, u64),
    Fault(usize),
    Restart(usize),
    Resume(usize, u64),
    /// A host goes on with handing its guest over.
    HandOver(usize, u64),
    /// A host that was told to stop does, if its disks are done or this time has come.
    Leave(usize, u64, u64),
    Heal,
}

pub(crate) struct World {
    pub(super) plan: Plan,
    pub(super) now: u64,
    pub(super) queue: BTreeMap<(u64, u64), Step>,
    pub(super) serial: u64,
    pub(super) random: Random,
    pub(super) chances: Vec<Random>,
    pub(super) nodes: Vec<Node>,
    pub(super) net: Net,
    pub(super) arbiter: Arbiter,
    pub(super) disk: Disk,
    pub(super) contents: Vec<Content>,
    /// The newest output that is out.
    pub(super) out: Option<usize>,
    /// The newest generation that went live, and which host's run did.
    pub(super) live: Option<(Generation, usize, u64)>,
    pub(super) clock_steps: u64,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) flowed: bool,
    pub(crate) stats: Stats,
    pub(crate) trace: Option<Trace>,
}

impl World {
    pub(crate) fn new(plan: Plan, sabotage: Option<Sabotage>) -> Self {
        let stream = |number| Random::new(plan.seed, plan.salt << 8 | number);
        let mut world = World {
            now: 0,
            queue: BTreeMap::new(),
            serial: 0,
            random: stream(2),
            chances: Kind::ALL.map(|kind| stream(16 + kind as u64)).into(),
            nodes: Vec::new(),
            net: Net::default(),
            arbiter: Arbiter::default(),
            disk: Disk::default(),
            contents: Vec::new(),
            out: None,
            live: None,
            clock_steps: 0,
            sabotage,
            flowed: false,
            stats: Stats::default(),
            trace: None,
            plan,
        };
        for node in 0..world.plan.hosts {
            let start = match node {
                0 => Start::Primary { generation: 0 },
                _ => Start::Backup,
            };
            let (rate, offset) = world.plan.clocks[node];
            if rate != 1000 {
                world.stats.inject(Kind::ClockRate);
            }
            let core = Core::new(node::config(start, node), offset);
            world.nodes.push(Node::new(core, rate, offset));
            world.start(node, start);
        }
        for fault in 0..world.plan.faults.len() {
            world.at(world.plan.faults[fault].at, Step::Fault(fault));
        }
        world
    }

    /// Runs the world to its end, or to the first violation.
    pub(crate) fn run(&mut self) -> Checked {
        let end = self.plan.end();
        while let Some(((at, _), step)) = self.queue.pop_first() {
            if at > end {
                break;
            }
            self.now = at;
            self.stats.steps += 1;
            self.step(step).map_err(|broken| self.dated(broken))?;
            if self.stats.steps > STEPS_MAX {
                let what = format!("{STEPS_MAX} steps");
                return Rule::Livelock
                    .broken(what)
                    .map_err(|broken| self.dated(broken));
            }
        }
        self.now = end;
        self.stats.virtual_ns = end;
        self.check_end().map_err(|broken| self.dated(broken))
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now / MS
    }

    fn dated(&mut self, broken: Violation) -> Violation {
        let at_ms = self.now / MS;
        let violation = Violation { at_ms, ..broken };
        self.say(|| format!("VIOLATION: {violation}"));
        violation
    }

    /// For the trace.
    pub(super) fn say(&mut self, text: impl FnOnce() -> String) {
        let at = self.now as f64 / MS as f64;
        if let Some(trace) = &mut self.trace {
            trace.add(at, false, text());
        }
    }

    /// A detail for the trace.
    pub(super) fn mention(&mut self, text: impl FnOnce() -> String) {
        let at = self.now as f64 / MS as f64;
        if let Some(trace) = &mut self.trace {
            trace.add(at, true, text());
        }
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.random.one_in(times)
    }

    /// Whether something goes wrong by chance now.
    pub(super) fn chance(&mut self, kind: Kind, times: u64) -> bool {
        let on = self.now < self.plan.faults_end && self.plan.chances.contains(&kind);
        let happens = on && self.chances[kind as usize].one_in(times);
        if happens {
            self.stats.inject(kind);
            self.say(|| format!("FAULT {}", kind.name()));
        }
        happens
    }

    pub(super) fn at(&mut self, at: u64, step: Step) {
        self.serial += 1;
        self.queue.insert((at, self.serial), step);
    }

    pub(super) fn after(&mut self, least: u64, most: u64, step: Step) {
        let at = self.now + self.random.between(least, most);
        self.at(at, step);
    }

    pub(super) fn is(&self, node: usize, run: u64) -> bool {
        self.nodes[node].up && self.nodes[node].run == run
    }

    fn step(&mut self, step: Step) -> Checked {
        match step {
            Step::Wake(node, run) => {
                if self.is(node, run) && self.nodes[node].wake_at <= self.now {
                    return self.feed(node, Event::Tick);
                }
            }
            Step::Deliver { conn, side, item } => return self.deliver(conn, side, item),
            Step::Close(conn, side) => self.close(conn, side),
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
            Step::Stand {
                node,
                run,
                asked,
                through,
            } => self.stand(node, run, asked, through),
            Step::Stood {
                node,
                run,
                asked,
                answer,
            } => {
                if self.is(node, run) {
                    return self.feed(node, Event::Standing { asked, answer });
                }
            }
            Step::Execute { node, serial } => return self.execute(node, serial),
            Step::CloseEpoch { node, serial } => return self.close_epoch(node, serial),
            Step::Clone {
                node,
                serial,
                peer,
                left,
            } => return self.clone_step(node, serial, peer, left),
            Step::Tell {
                node,
                run,
                peer,
                gfn,
            } => self.tell_hashes(node, run, peer, gfn),
            Step::Land(write) => return self.land(write),
            Step::Look(node, run) => return self.look(node, run),
            Step::Superseded(node, run, generation) => {
                if self.is(node, run) {
                    self.feed(node, Event::Superseded { generation })?;
                    self.stats.superseded += u64::from(!self.is(node, run));
                }
            }
            Step::Dial(node, run) => return self.dial(node, run),
            Step::Fault(fault) => return self.fault(fault),
            Step::Restart(node) => self.restart(node),
            Step::Resume(node, run) => return self.resume(node, run),
            Step::HandOver(node, run) => return self.hand_over(node, run),
            Step::Leave(node, run, by) => return self.leave(node, run, by),
            Step::Heal => self.heal(),
        }
        Ok(())
    }
}
