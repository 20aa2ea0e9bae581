//! The simulated world.

use std::collections::BTreeMap;

use super::daemon::{self, Guest, Node};
use super::net::{Item, Net};
use crate::entry::Epoch;
use crate::protocol::{
    Action, ArbiterAnswer, Commit, Core, Event, Generation, HaltReason, LinkLoss, Message, Note,
    PeerId, Role, Start,
};

const MS: u64 = 1_000_000;
/// Faults are injected until then.
const FAULTS_END: u64 = 4_000 * MS;
/// By then everything must have settled.
const END: u64 = 9_000 * MS;
/// Outputs must flow from here to the end.
const FLOW_FROM: u64 = END - 1_000 * MS;

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

/// What happened.
#[derive(Debug, Default, Clone)]
pub(super) struct Stats {
    pub(super) steps: u64,
    pub(super) ended_protected: u64,
    pub(super) ended_without_guest: u64,
    pub(super) takeovers: u64,
    pub(super) alone_again: u64,
    pub(super) released: u64,
    pub(super) power_cuts: u64,
    pub(super) process_deaths: u64,
    pub(super) pauses: u64,
    pub(super) partitions: u64,
    pub(super) broken_links: u64,
    pub(super) mangled_messages: u64,
    pub(super) arbiter_lost: u64,
    pub(super) arbiter_away: u64,
    pub(super) divergences: u64,
    pub(super) left_in_order: u64,
    pub(super) stopped_guests: u64,
}

impl Stats {
    pub(super) fn add(&mut self, other: &Stats) {
        let Stats {
            steps,
            ended_protected,
            ended_without_guest,
            takeovers,
            alone_again,
            released,
            power_cuts,
            process_deaths,
            pauses,
            partitions,
            broken_links,
            mangled_messages,
            arbiter_lost,
            arbiter_away,
            divergences,
            left_in_order,
            stopped_guests,
        } = other;
        self.steps += steps;
        self.ended_protected += ended_protected;
        self.ended_without_guest += ended_without_guest;
        self.takeovers += takeovers;
        self.alone_again += alone_again;
        self.released += released;
        self.power_cuts += power_cuts;
        self.process_deaths += process_deaths;
        self.pauses += pauses;
        self.partitions += partitions;
        self.broken_links += broken_links;
        self.mangled_messages += mangled_messages;
        self.arbiter_lost += arbiter_lost;
        self.arbiter_away += arbiter_away;
        self.divergences += divergences;
        self.left_in_order += left_in_order;
        self.stopped_guests += stopped_guests;
    }
}

/// What one epoch of one live copy did; its parent is what the copy did before.
#[derive(Debug)]
struct Content {
    epoch: Epoch,
    parent: Option<usize>,
    delivered: bool,
    executed: bool,
}

/// What happens at some time. A host's things are for one run of its daemon.
#[derive(Debug)]
enum Step {
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
    Dial(usize, u64),
    Fault,
    Restart(usize),
    Resume(usize, u64),
    Heal,
}

pub(super) struct World {
    faults: Faults,
    /// The one fault has happened.
    disturbed: bool,
    now: u64,
    queue: BTreeMap<(u64, u64), Step>,
    serial: u64,
    random: u64,
    nodes: Vec<Node>,
    net: Net,
    arbiter: (Generation, u64),
    arbiter_away_until: u64,
    contents: Vec<Content>,
    /// The newest output that is out.
    out: Option<usize>,
    /// The newest generation that went live, and which host's run did.
    live: Option<(Generation, usize, u64)>,
    commit: Commit,
    lossy: bool,
    small_buffers: bool,
    delay_max: u64,
    sabotage: Option<Sabotage>,
    flowed: bool,
    pub(super) stats: Stats,
}

type Checked = Result<(), String>;

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
    fn check_end(&mut self) -> Checked {
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

    // Chance.

    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next_random() % end
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn any_node(&mut self) -> usize {
        self.below(self.nodes.len() as u64) as usize
    }

    // Time.

    fn at(&mut self, at: u64, step: Step) {
        self.serial += 1;
        self.queue.insert((at, self.serial), step);
    }

    fn after(&mut self, least: u64, most: u64, step: Step) {
        let at = self.now + least + self.below(most - least + 1);
        self.at(at, step);
    }

    fn faults_on(&self) -> bool {
        self.now < FAULTS_END && self.faults != Faults::Single
    }

    fn is(&self, node: usize, run: u64) -> bool {
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

    // Hosts.

    fn start(&mut self, node: usize, start: Start) {
        self.serial += 1;
        let run = self.serial;
        let mut config = daemon::config(start, node);
        config.commit = self.commit;
        if self.small_buffers {
            config.lag_bytes_max = 400;
        }
        let rate = self.nodes[node].rate;
        let host = &mut self.nodes[node];
        host.core = Core::new(config, self.now * rate / 1000);
        host.run = run;
        host.up = true;
        host.paused = None;
        host.guest = None;
        host.dialling = false;
        host.wake_at = self.now;
        self.at(self.now, Step::Wake(node, run));
    }

    fn die(&mut self, node: usize, sends_fin: bool) {
        let end = (node, self.nodes[node].run);
        for (conn, side) in self.net.of(end) {
            if sends_fin {
                self.send(conn, side, Item::Fin);
            }
            if let Some(conn) = self.net.conns.get_mut(&conn) {
                conn.open[side] = false;
            }
        }
        self.nodes[node].up = false;
        self.nodes[node].guest = None;
        self.after(100 * MS, 1500 * MS, Step::Restart(node));
    }

    fn feed(&mut self, node: usize, event: Event) -> Checked {
        let host = &mut self.nodes[node];
        if let Some(waiting) = &mut host.paused {
            waiting.push(event);
            return Ok(());
        }
        let mut actions = Vec::new();
        let local = self.now * host.rate / 1000;
        host.core.handle(local, event, &mut actions);
        let run = host.run;
        let mut delivered_late = Vec::new();
        for action in actions {
            if !self.is(node, run) {
                break;
            }
            let lie = self.sabotage == Some(Sabotage::AckedNotDelivered);
            if lie && matches!(action, Action::DeliverEpoch(_)) && self.one_in(10) {
                delivered_late.push(action);
                continue;
            }
            self.act(node, action)?;
        }
        if self.is(node, run) {
            let host = &self.nodes[node];
            let tick = host.core.next_tick();
            if tick != u64::MAX {
                let at = (tick * 1000).div_ceil(host.rate).max(self.now + 1);
                if host.wake_at != at {
                    self.nodes[node].wake_at = at;
                    self.at(at, Step::Wake(node, run));
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, node: usize, action: Action) -> Checked {
        let run = self.nodes[node].run;
        match action {
            Action::Send { peer, message } => self.send_from(node, peer, message),
            Action::SendEpoch { peer, epoch } => {
                self.send_from(node, peer, Message::Epoch(epoch));
            }
            Action::Established { .. } => {}
            Action::Disconnect { peer, .. } => {
                if let Some(side) = self.net.side(peer.0, (node, run)) {
                    self.send(peer.0, side, Item::Fin);
                    if let Some(conn) = self.net.conns.get_mut(&peer.0) {
                        conn.open[side] = false;
                    }
                }
            }
            Action::Connect => {
                self.nodes[node].dialling = true;
                self.at(self.now, Step::Dial(node, run));
            }
            Action::StartClone { peer } => {
                let guest = self.live_guest(node)?;
                guest.cloning = Some(peer);
                let serial = guest.serial;
                let left = self.below(5) as u32;
                self.after(
                    MS,
                    50 * MS,
                    Step::Clone {
                        node,
                        serial,
                        peer,
                        left,
                    },
                );
            }
            Action::StopClone { peer } => {
                let guest = self.live_guest(node)?;
                if guest.cloning == Some(peer) {
                    guest.cloning = None;
                }
                guest.snapshot_next = false;
            }
            Action::HoldOutputs { from } => self.live_guest(node)?.hold_from = Some(from),
            Action::ReleaseOutputs { through } => self.release(node, through)?,
            Action::GoAlone { generation } => self.go_alone(node, generation)?,
            Action::GoLive { generation } => self.go_live(node, generation)?,
            Action::ApplyPages(_) => self.copy(node),
            Action::DeliverEpoch(epoch) => {
                self.copy(node);
                let (content, snapshot) = daemon::content(&epoch);
                let parent = self.contents[content].parent;
                self.contents[content].delivered = true;
                let Some(guest) = &mut self.nodes[node].guest else {
                    return Err("no copy".to_owned());
                };
                if !snapshot && (guest.delivered != parent || guest.epoch + 1 != epoch.epoch) {
                    return Err(format!("epoch {} was delivered out of order", epoch.epoch));
                }
                guest.delivered = Some(content);
                guest.epoch = epoch.epoch;
                guest.ahead.push_back((epoch.epoch, content));
                let (idle, serial) = (guest.ahead.len() == 1, guest.serial);
                if idle {
                    self.after(0, 5 * MS, Step::Execute { node, serial });
                }
            }
            Action::DropGuest => {
                if self.nodes[node]
                    .guest
                    .take()
                    .is_some_and(|guest| guest.live)
                {
                    return Err("a live copy was dropped".to_owned());
                }
            }
            Action::AskArbiter { generation } => {
                let asked = generation;
                self.after(MS / 10, 20 * MS, Step::Ask { node, run, asked });
            }
            Action::StopGuest => {
                self.stats.stopped_guests += 1;
                self.live_guest(node)?.stopped = true;
            }
            Action::ResumeGuest => self.live_guest(node)?.stopped = false,
            Action::Halt { why } => {
                if let HaltReason::Failed(why) = why {
                    return Err(format!("host {node} failed: {why}"));
                }
                self.die(node, true);
            }
            Action::Note(Note::ArbiterLost { .. }) => self.stats.arbiter_lost += 1,
            Action::Note(_) => {}
        }
        Ok(())
    }

    // Guests.

    fn live_guest(&mut self, node: usize) -> Result<&mut Guest, String> {
        let guest = self.nodes[node].guest.as_mut().filter(|guest| guest.live);
        guest.ok_or_else(|| format!("host {node} has no live guest"))
    }

    /// Makes room for a copy.
    fn copy(&mut self, node: usize) {
        if self.nodes[node].guest.is_none() {
            self.serial += 1;
            self.nodes[node].guest = Some(Guest::new(self.serial));
        }
    }

    fn close_epoch(&mut self, node: usize, serial: u64) -> Checked {
        let content = self.contents.len();
        let padding = self.below(60) as usize;
        let host = &mut self.nodes[node];
        let running = host.up && host.paused.is_none();
        let Some(guest) = host.guest.as_mut().filter(|guest| guest.serial == serial) else {
            return Ok(());
        };
        if running && !guest.stopped {
            guest.epoch += 1;
            let number = guest.epoch;
            self.contents.push(Content {
                epoch: number,
                parent: guest.tip,
                delivered: false,
                executed: false,
            });
            guest.tip = Some(content);
            guest.held.push_back((number, content));
            let snapshot = std::mem::take(&mut guest.snapshot_next);
            let epoch = daemon::epoch(number, content, snapshot, padding);
            if guest.hold_from.is_none() {
                self.release(node, number)?;
            }
            self.feed(node, Event::EpochClosed(epoch))?;
            if self.sabotage == Some(Sabotage::OutputsNotHeld) && self.one_in(50) {
                let run = self.nodes[node].run;
                if self.is(node, run) && self.nodes[node].guest.is_some() {
                    self.release(node, number)?;
                }
            }
        }
        self.after(5 * MS, 80 * MS, Step::Close { node, serial });
        Ok(())
    }

    fn execute(&mut self, node: usize, serial: u64) -> Checked {
        let diverges = self.faults_on() && self.faults == Faults::Storm && self.one_in(400);
        let fatal = self.one_in(2);
        let host = &mut self.nodes[node];
        if host.paused.is_some() {
            self.after(MS, 5 * MS, Step::Execute { node, serial });
            return Ok(());
        }
        let Some(guest) = host.guest.as_mut().filter(|guest| guest.serial == serial) else {
            return Ok(());
        };
        let Some((epoch, content)) = guest.ahead.pop_front() else {
            return Ok(());
        };
        if diverges {
            self.stats.divergences += 1;
            self.feed(node, Event::Diverged { epoch, fatal })?;
            if fatal {
                return Ok(());
            }
        }
        let Some(guest) = &mut self.nodes[node].guest else {
            return Ok(());
        };
        if guest.serial != serial {
            return Ok(());
        }
        guest.tip = Some(content);
        let more = !guest.ahead.is_empty();
        self.contents[content].executed = true;
        let virtual_now = epoch;
        let run = self.nodes[node].run;
        self.feed(node, Event::Executed { epoch, virtual_now })?;
        if self.is(node, run) {
            self.feed(node, Event::Verified { epoch })?;
        }
        if more {
            let slow = if self.one_in(50) { 200 * MS } else { 5 * MS };
            self.after(0, slow, Step::Execute { node, serial });
        }
        Ok(())
    }

    fn clone_step(&mut self, node: usize, serial: u64, peer: PeerId, left: u32) -> Checked {
        let fails = self.faults_on() && self.one_in(30);
        let host = &mut self.nodes[node];
        if host.paused.is_some() {
            self.after(
                MS,
                50 * MS,
                Step::Clone {
                    node,
                    serial,
                    peer,
                    left,
                },
            );
            return Ok(());
        }
        let Some(guest) = host.guest.as_mut().filter(|guest| guest.serial == serial) else {
            return Ok(());
        };
        if guest.cloning != Some(peer) {
            return Ok(());
        }
        if fails {
            guest.cloning = None;
            let why = "chance".to_owned();
            return self.feed(node, Event::CloneFailed { peer, why });
        }
        if left > 0 {
            self.send_from(node, peer, Message::ClonePages { pages: Vec::new() });
            let left = left - 1;
            self.after(
                MS,
                50 * MS,
                Step::Clone {
                    node,
                    serial,
                    peer,
                    left,
                },
            );
            return Ok(());
        }
        guest.cloning = None;
        guest.snapshot_next = true;
        let first = guest.epoch + 1;
        self.feed(node, Event::CloneReady { peer, first })
    }

    // Outputs.

    fn go_alone(&mut self, node: usize, generation: Generation) -> Checked {
        let run = self.nodes[node].run;
        if self.nodes[node].guest.is_none() {
            if let Some(out) = self.out {
                return Err(format!(
                    "host {node} powers a guest on that has made output {out}"
                ));
            }
            self.copy(node);
            let guest = self.nodes[node].guest.as_mut().ok_or("no guest")?;
            guest.live = true;
            let serial = guest.serial;
            self.after(5 * MS, 80 * MS, Step::Close { node, serial });
        } else {
            self.stats.alone_again += 1;
            if self.live.is_some_and(|(g, ..)| g == generation) {
                self.stats.left_in_order += 1;
            }
        }
        self.claim(node, run, generation)?;
        let guest = self.live_guest(node)?;
        guest.hold_from = None;
        let through = guest.epoch;
        self.release(node, through)
    }

    fn go_live(&mut self, node: usize, generation: Generation) -> Checked {
        self.stats.takeovers += 1;
        let run = self.nodes[node].run;
        let Some(guest) = &mut self.nodes[node].guest else {
            return Err(format!("host {node} goes live without a guest"));
        };
        if guest.live || !guest.ahead.is_empty() || guest.tip != guest.delivered {
            return Err(format!("host {node} goes live before it has executed all"));
        }
        guest.live = true;
        let (serial, tip) = (guest.serial, guest.tip);
        self.claim(node, run, generation)?;
        self.after(5 * MS, 80 * MS, Step::Close { node, serial });
        // It may re-issue what it replayed last.
        tip.map_or(Ok(()), |tip| self.let_out(node, tip))
    }

    fn claim(&mut self, node: usize, run: u64, generation: Generation) -> Checked {
        if let Some((newest, other, other_run)) = self.live {
            let same = (other, other_run) == (node, run);
            if generation < newest || (generation == newest && !same) {
                return Err(format!(
                    "host {node} goes live with generation {generation}, host {other} did with {newest}"
                ));
            }
        }
        self.live = Some((generation, node, run));
        Ok(())
    }

    fn release(&mut self, node: usize, through: Epoch) -> Checked {
        loop {
            let guest = self.live_guest(node)?;
            let hold_from = guest.hold_from;
            let next = guest.held.pop_front_if(|(epoch, _)| *epoch <= through);
            let Some((epoch, content)) = next else {
                return Ok(());
            };
            let Content {
                delivered,
                executed,
                ..
            } = self.contents[content];
            let safe = match self.commit {
                Commit::Received => delivered,
                Commit::Executed | Commit::Verified => executed,
            };
            if hold_from.is_some_and(|from| from <= epoch) && !safe {
                return Err(format!(
                    "output of epoch {epoch} went out before its log was safe"
                ));
            }
            self.let_out(node, content)?;
        }
    }

    /// An output goes out: nobody else may be live, and nothing that is out may be undone by it.
    fn let_out(&mut self, node: usize, content: usize) -> Checked {
        let run = self.nodes[node].run;
        match self.live {
            Some((_, live, live_run)) if (live, live_run) == (node, run) => {}
            live => return Err(format!("host {node} lets output out, but live is {live:?}")),
        }
        if let Some(out) = self.out {
            let oldest = self.contents[out].epoch;
            let mut at = content;
            while self.contents[at].epoch > oldest {
                at = self.contents[at].parent.ok_or("output of an orphan")?;
            }
            if at != out && self.contents[at].epoch == oldest {
                return Err(format!(
                    "output of epoch {oldest} that was out is missing at host {node}"
                ));
            }
            if self.contents[at].epoch < oldest {
                return Err(format!(
                    "host {node} is live but behind epoch {oldest}, whose output is out"
                ));
            }
        }
        self.out = Some(content);
        self.stats.released += 1;
        self.flowed |= self.now >= FLOW_FROM;
        Ok(())
    }

    // The network.

    fn dial(&mut self, node: usize, run: u64) -> Checked {
        if !self.is(node, run) || !self.nodes[node].dialling {
            return Ok(());
        }
        let other = self.any_node();
        let host = &self.nodes[other];
        let reachable = host.up
            && host.paused.is_none()
            && !self.net.is_cut(node, other, self.now)
            && !self.net.is_cut(other, node, self.now);
        if other == node || !reachable || self.nodes[node].paused.is_some() {
            self.after(10 * MS, 100 * MS, Step::Dial(node, run));
            return Ok(());
        }
        self.nodes[node].dialling = false;
        let conn = self
            .net
            .connect((node, run), (other, self.nodes[other].run));
        let peer = PeerId(conn);
        self.feed(
            other,
            Event::PeerConnected {
                peer,
                dialled: false,
            },
        )?;
        self.feed(
            node,
            Event::PeerConnected {
                peer,
                dialled: true,
            },
        )
    }

    fn send_from(&mut self, node: usize, peer: PeerId, message: Message) {
        let end = (node, self.nodes[node].run);
        if let Some(side) = self.net.side(peer.0, end) {
            self.send(peer.0, side, Item::Message(message));
        }
    }

    fn send(&mut self, number: u64, side: usize, item: Item) {
        let now = self.now;
        let spike = if self.faults_on() && self.one_in(200) {
            500 * MS
        } else {
            0
        };
        let delay = 1 + self.below(self.delay_max) + spike;
        let mangle = self.lossy && self.faults_on() && self.one_in(150);
        let how = self.below(3);
        let Some(conn) = self.net.conns.get(&number) else {
            return;
        };
        if conn.dead || !conn.open[side] {
            return;
        }
        let cut = self
            .net
            .is_cut(conn.ends[side].0, conn.ends[1 - side].0, now);
        let Some(conn) = self.net.conns.get_mut(&number) else {
            return;
        };
        if cut {
            return conn.stalled[side].push_back(item);
        }
        let in_order = conn.arrives[side].max(now + delay);
        let to = 1 - side;
        let mangle = mangle && matches!(&item, Item::Message(_));
        if !mangle {
            conn.arrives[side] = in_order;
            return self.at(
                in_order,
                Step::Deliver {
                    conn: number,
                    side: to,
                    item,
                },
            );
        }
        self.stats.mangled_messages += 1;
        match how {
            0 => {} // Lost.
            1 => {
                conn.arrives[side] = in_order;
                let (conn, side) = (number, to);
                let twin = item.clone();
                self.at(in_order, Step::Deliver { conn, side, item });
                self.at(
                    in_order,
                    Step::Deliver {
                        conn,
                        side,
                        item: twin,
                    },
                );
            }
            _ => {
                // Overtakes, or is overtaken.
                let late = self.below(3 * self.delay_max);
                let (conn, side) = (number, to);
                self.at(now + 1 + late, Step::Deliver { conn, side, item });
            }
        }
    }

    fn deliver(&mut self, number: u64, side: usize, item: Item) -> Checked {
        let Some(conn) = self.net.conns.get_mut(&number) else {
            return Ok(());
        };
        if conn.dead || !conn.open[side] {
            return Ok(());
        }
        let (node, run) = conn.ends[side];
        let fin = matches!(item, Item::Fin);
        conn.open[side] &= !fin;
        if !self.is(node, run) {
            return Ok(());
        }
        let peer = PeerId(number);
        let event = match item {
            Item::Message(message) => Event::Message { peer, message },
            Item::Fin => Event::PeerDisconnected {
                peer,
                why: LinkLoss::Closed,
            },
        };
        self.feed(node, event)
    }

    /// One side learns that the connection is broken.
    fn break_side(&mut self, number: u64, side: usize) -> Checked {
        let Some(conn) = self.net.conns.get_mut(&number) else {
            return Ok(());
        };
        let (node, run) = conn.ends[side];
        if !std::mem::take(&mut conn.open[side]) || !self.is(node, run) {
            return Ok(());
        }
        let peer = PeerId(number);
        let why = LinkLoss::Broken("chance".to_owned());
        self.feed(node, Event::PeerDisconnected { peer, why })
    }

    fn heal(&mut self) {
        let now = self.now;
        self.net.cuts.retain(|_, until| *until > now);
        let numbers: Vec<u64> = self.net.conns.keys().copied().collect();
        for number in numbers {
            for side in 0..2 {
                let Some(conn) = self.net.conns.get(&number) else {
                    continue;
                };
                if self
                    .net
                    .is_cut(conn.ends[side].0, conn.ends[1 - side].0, now)
                {
                    continue;
                }
                let Some(conn) = self.net.conns.get_mut(&number) else {
                    continue;
                };
                let waiting = std::mem::take(&mut conn.stalled[side]);
                let mut at = conn.arrives[side].max(now);
                let dead = conn.dead;
                for item in waiting.into_iter().filter(|_| !dead) {
                    at += 1;
                    let (conn, side) = (number, 1 - side);
                    self.at(at, Step::Deliver { conn, side, item });
                }
                if let Some(conn) = self.net.conns.get_mut(&number) {
                    conn.arrives[side] = at;
                }
            }
        }
    }

    // The arbiter.

    fn ask(&mut self, node: usize, run: u64, asked: Generation) {
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

    // Faults.

    fn fault(&mut self) -> Checked {
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
