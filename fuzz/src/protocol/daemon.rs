//! The daemon around a core: it does what it is told to, and judges it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use replay::EncodedEpoch;
use replay::protocol::{
    Action, ArbiterAnswer, Core, DisconnectReason, EndReason, Event, LinkLoss, Message, PeerId,
    Role, StandAnswer,
};

use super::{LAG_BYTES_MAX, RAM_BYTES, words};
use crate::source::Source;

const MS: u64 = 1_000_000;
/// More than any event can call for.
const ACTIONS_MAX: usize = 64;
/// More than a backup may buffer, with what its bookkeeping adds.
const BUFFERED_MAX: u64 = 2 * LAG_BYTES_MAX + RAM_BYTES;

pub(super) struct Daemon {
    core: Core,
    now: u64,
    halted: bool,
    peers_made: u64,
    /// Open connections.
    peers: BTreeSet<PeerId>,
    /// The core wants a connection.
    dialling: bool,
    /// Generations asked for and not answered, in order.
    asked: VecDeque<u64>,
    /// Generations stood for, and how far, in order.
    stood: VecDeque<(u64, u64)>,
    /// What the arbiter holds.
    held: u64,
    won: BTreeSet<u64>,
    /// To whom a clone is on its way.
    cloning: Option<PeerId>,
    live: bool,
    /// Whether outputs wait for backups.
    holding: bool,
    /// To whom the log goes, and the highest epoch that each has acknowledged.
    backups: BTreeMap<PeerId, u64>,
    closed: u64,
    released: u64,
    /// Epochs to be executed: number and size.
    delivered: VecDeque<(u64, u64)>,
    executed: u64,
    verified: u64,
}

impl Daemon {
    pub(super) fn new(core: Core) -> Daemon {
        Daemon {
            core,
            now: 0,
            halted: false,
            peers_made: 0,
            peers: BTreeSet::new(),
            dialling: false,
            asked: VecDeque::new(),
            stood: VecDeque::new(),
            held: 0,
            won: BTreeSet::new(),
            cloning: None,
            live: false,
            holding: false,
            backups: BTreeMap::new(),
            closed: 0,
            released: 0,
            delivered: VecDeque::new(),
            executed: 0,
            verified: 0,
        }
    }

    pub(super) fn has_halted(&self) -> bool {
        self.halted
    }

    /// Something happens.
    pub(super) fn step(&mut self, source: &mut Source<'_>) {
        match source.below(20) {
            0 | 1 => self.tick(u64::from(source.u8()) * MS),
            2 => self.tick(u64::from(source.u16()) * MS),
            3 => {
                let due = self.core.next_tick();
                self.tick(due.saturating_sub(self.now).min(60_000 * MS));
            }
            4 => self.connect(),
            5..=9 => {
                let (near, peer) = (self.closed.max(self.executed), self.peer(source));
                let message = words::message(source, near);
                if let Some(peer) = peer {
                    self.hear(peer, message);
                }
            }
            10 => {
                let why = match source.flag() {
                    true => LinkLoss::Closed,
                    false => LinkLoss::Broken("cut".to_owned()),
                };
                if let Some(peer) = self.peer(source) {
                    self.peers.remove(&peer);
                    self.handle(Event::PeerDisconnected { peer, why });
                }
            }
            11 | 12 => self.answer(source),
            13 | 14 if self.live => {
                let epoch = EncodedEpoch {
                    epoch: self.closed + 1,
                    bytes: source.filled(3000),
                    entries: 1,
                    released: 0,
                };
                self.closed += 1;
                self.handle(Event::EpochClosed(epoch));
            }
            13..=15 => self.replay(source),
            16 => {
                let first = self.closed + 1;
                if let Some(peer) = self.cloning.take() {
                    let why = "no room".to_owned();
                    match source.below(8) {
                        0 => self.handle(Event::CloneFailed { peer, why }),
                        _ => {
                            self.peers.insert(peer);
                            self.handle(Event::CloneReady { peer, first });
                        }
                    }
                }
            }
            17 if self.live => self.handle(Event::HandOver),
            18 => {
                if let Some(peer) = self.peer(source) {
                    self.handle(Event::PeerHeard { peer });
                }
            }
            _ => self.rare(source),
        }
    }

    fn rare(&mut self, source: &mut Source<'_>) {
        match source.below(16) {
            0 => self.handle(Event::Stop),
            1 => self.handle(Event::Failed {
                why: "KVM".to_owned(),
            }),
            2 if self.live => self.handle(Event::GuestEnded {
                reason: EndReason::Reset,
            }),
            3..=6 if self.live => self.handle(Event::Lapsed),
            7 => {
                let generation = self.held;
                if generation > self.core.generation() {
                    self.handle(Event::Superseded { generation });
                }
            }
            8 => self.held += 1,
            _ => self.tick(0),
        }
    }

    fn tick(&mut self, passed: u64) {
        self.now += passed;
        self.handle(Event::Tick);
        let due = self.core.next_tick();
        assert!(
            self.halted || due > self.now,
            "due at {due}, and it is {}",
            self.now
        );
    }

    fn connect(&mut self) {
        if self.peers.len() > 20 {
            return;
        }
        self.peers_made += 1;
        let peer = PeerId(self.peers_made);
        let dialled = std::mem::take(&mut self.dialling);
        self.peers.insert(peer);
        self.handle(Event::PeerConnected { peer, dialled });
    }

    /// Some connection, mostly one that counts.
    fn peer(&self, source: &mut Source<'_>) -> Option<PeerId> {
        let choice = usize::from(source.u8());
        let status = self.core.status();
        let some = status.backups.get(choice % status.backups.len().max(1));
        let linked = some.map(|backup| backup.peer).or(status.link);
        let linked = linked.filter(|_| choice < 0xe0);
        let linked = linked.filter(|peer| self.peers.contains(peer));
        linked.or_else(|| {
            self.peers
                .iter()
                .copied()
                .nth(choice % self.peers.len().max(1))
        })
    }

    fn hear(&mut self, peer: PeerId, message: Message) {
        if let (Message::Ack(ack), Some(acked)) = (&message, self.backups.get_mut(&peer)) {
            *acked = (*acked).max(ack.received);
        }
        self.handle(Event::Message { peer, message });
    }

    /// The arbiter answers the oldest question.
    fn answer(&mut self, source: &mut Source<'_>) {
        if let Some((asked, own)) = self.stood.pop_front() {
            let other = source.any();
            let answer = match source.below(4) {
                0 => StandAnswer::Unreachable {
                    why: "away".to_owned(),
                },
                1 => StandAnswer::Heard {
                    decided: self.held >= asked,
                    through: vec![own],
                },
                _ => StandAnswer::Heard {
                    decided: self.held >= asked,
                    through: vec![own, other],
                },
            };
            return self.handle(Event::Standing { asked, answer });
        }
        let Some(asked) = self.asked.pop_front() else {
            return;
        };
        let choice = source.below(8);
        let lost = |held| ArbiterAnswer::Lost {
            generation: held,
            by: "there".to_owned(),
        };
        let answer = match choice {
            0 => ArbiterAnswer::Unreachable {
                why: "away".to_owned(),
            },
            _ if self.won.contains(&asked) => ArbiterAnswer::Won,
            _ if self.held >= asked => lost(self.held),
            1 => {
                self.held = asked;
                lost(asked)
            }
            _ => {
                self.held = asked;
                self.won.insert(asked);
                ArbiterAnswer::Won
            }
        };
        self.handle(Event::Arbiter { asked, answer });
    }

    /// The replayed guest gets on, or does not.
    fn replay(&mut self, source: &mut Source<'_>) {
        match source.below(8) {
            0 if self.executed > self.verified => {
                self.verified += 1;
                let epoch = self.verified;
                self.handle(Event::Verified { epoch });
            }
            1 if !self.delivered.is_empty() => {
                let epoch = self.delivered.front().map_or(0, |(epoch, _)| *epoch);
                let fatal = source.flag();
                self.handle(Event::Diverged { epoch, fatal });
            }
            _ => {
                if let Some((epoch, _)) = self.delivered.pop_front() {
                    self.executed = epoch;
                    let virtual_now = self.now;
                    self.handle(Event::Executed { epoch, virtual_now });
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        if self.halted {
            return;
        }
        let mut actions = Vec::new();
        let told = format!("{event:?}");
        self.core.handle(self.now, event, &mut actions);
        let most = ACTIONS_MAX + self.peers.len();
        assert!(
            actions.len() <= most,
            "{} actions about {told}",
            actions.len()
        );
        for action in actions {
            self.carry_out(action);
        }
        let status = self.core.status();
        assert_eq!(
            self.live,
            matches!(status.role, Role::Alone | Role::Primary),
            "{told}"
        );
        assert!(status.generation < 1 << 63);
    }

    fn carry_out(&mut self, action: Action) {
        assert!(
            !self.halted || matches!(action, Action::Note(_)),
            "{action:?} after the end"
        );
        match action {
            Action::Send { peer, message } => {
                assert!(self.peers.contains(&peer));
                if matches!(message, Message::CloneDone { .. }) {
                    self.backups.insert(peer, 0);
                }
            }
            Action::SendEpoch { peer, epoch } => {
                assert!(self.live && self.peers.contains(&peer));
                assert_eq!(epoch.epoch, self.closed);
            }
            Action::Disconnect { peer, why } => {
                self.peers.remove(&peer);
                if matches!(why, DisconnectReason::Left(_)) {
                    self.backups.remove(&peer);
                }
            }
            Action::Connect => self.dialling = true,
            Action::StartClone { peer } => {
                assert!(self.live && self.cloning.is_none());
                self.cloning = Some(peer);
            }
            Action::StopClone { .. } => self.cloning = None,
            Action::HoldOutputs { from } => {
                assert!(self.live && from == self.closed + 1 && !self.holding);
                self.holding = true;
            }
            Action::ReleaseOutputs { through } => {
                assert!(self.live && through >= self.released && through <= self.closed);
                if self.holding {
                    let acked = self.backups.values().copied().min().unwrap_or(0);
                    assert!(
                        through <= acked,
                        "epoch {through} is out, {acked} is acknowledged by all"
                    );
                }
                self.released = through;
            }
            Action::GoAlone { generation } => {
                assert!(self.won.contains(&generation), "{generation} was not won");
                self.live = true;
                self.holding = false;
                self.backups.clear();
                self.released = self.closed;
            }
            Action::Renew { generation, .. } => {
                assert!(self.live && self.won.contains(&generation));
                self.backups.retain(|peer, _| self.peers.contains(peer));
            }
            Action::GoLive { generation, .. } => {
                assert!(
                    !self.live && self.won.contains(&generation),
                    "{generation} was not won"
                );
                assert!(self.delivered.is_empty(), "not all that came is executed");
                self.live = true;
                self.closed = self.executed;
                self.released = self.closed;
            }
            Action::DeliverEpoch(epoch) => {
                assert!(!self.live);
                let before = self.delivered.back().map(|(epoch, _)| *epoch);
                let before = before.or((self.executed > 0).then_some(self.executed));
                assert!(before.is_none_or(|before| before + 1 == epoch.epoch));
                self.delivered
                    .push_back((epoch.epoch, epoch.bytes.len() as u64));
                let buffered: u64 = self.delivered.iter().map(|(_, bytes)| bytes).sum();
                assert!(buffered <= BUFFERED_MAX, "{buffered} bytes are buffered");
            }
            Action::DropGuest => {
                assert!(!self.live);
                self.delivered.clear();
                (self.executed, self.verified) = (0, 0);
            }
            Action::AskArbiter { generation } => {
                assert!(generation > 0);
                self.asked.push_back(generation);
            }
            Action::Stand {
                generation,
                through,
            } => {
                assert!(!self.live && generation > 0);
                self.stood.push_back((generation, through));
            }
            Action::Halt { .. } => {
                self.halted = true;
                self.live = false;
            }
            Action::ApplyPages(_) | Action::TellHashes { .. } => assert!(!self.live),
            Action::TakeHashes { hashes, .. } => {
                assert!(self.live && hashes.end() <= RAM_BYTES / 4096);
            }
            Action::StopGuest | Action::ResumeGuest => assert!(self.live),
            Action::Established { .. } | Action::Note(_) => {}
        }
    }
}
