//! The core: takes events, keeps one state, gives actions.

use std::collections::BTreeMap;

use super::alone::{Alone, Starting};
use super::ask::Ask;
use super::backup::Backup;
use super::event::{Action, DisconnectReason, Event, HaltReason, LinkLoss, Note};
use super::event::{PeerId, ProtocolError};
use super::facts::RejectReason;
use super::joiner::Joiner;
use super::joining::Joining;
use super::link::{Link, MS};
use super::member::Member;
use super::message::{ByeReason, FEATURES, Generation, Hello, Message, PROTOCOL_VERSION, Welcome};
use super::primary::Primary;
use super::role::{Config, Role, Start, Status};

/// Most connections that may wait for their introduction.
const VISITORS_MAX: usize = 16;

/// One side's protocol state machine. The module's documentation draws it.
#[derive(Debug, Clone)]
pub struct Core {
    shared: Shared,
    state: State,
}

/// What all states need.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) config: Config,
    /// The time of the event at hand, in nanoseconds.
    pub(super) now: u64,
    /// The newest generation known here.
    pub(super) generation: Generation,
    /// Accepted connections that have said nothing yet, and when they must have.
    visitors: BTreeMap<PeerId, u64>,
}

impl Shared {
    pub(super) fn detect_ns(&self) -> u64 {
        u64::from(self.config.detect_ms) * MS
    }

    pub(super) fn lag_ns_max(&self) -> u64 {
        u64::from(self.config.lag_ms_max) * MS
    }

    pub(super) fn give_up_ns(&self) -> u64 {
        u64::from(self.config.give_up_ms) * MS
    }

    pub(super) fn heartbeat_ns(&self) -> u64 {
        u64::from(self.config.heartbeat_ms) * MS
    }

    /// How much log a backup takes that it has not executed, in bytes: twice what makes a primary
    /// wait, and all of the guest's pages, because one snapshot may be that large.
    pub(super) fn buffer_max(&self) -> u64 {
        let Config {
            lag_bytes_max,
            facts,
            ..
        } = &self.config;
        lag_bytes_max
            .saturating_mul(2)
            .saturating_add(facts.ram_bytes)
    }

    pub(super) fn rejoin_at(&self) -> u64 {
        self.now + u64::from(self.config.rejoin_ms) * MS
    }

    pub(super) fn learn(&mut self, generation: Generation) {
        self.generation = self.generation.max(generation);
    }
}

#[derive(Debug, Clone)]
pub(super) enum State {
    Starting(Starting),
    Joining(Joining),
    Backup(Backup),
    Alone(Alone),
    Primary(Primary),
    Halted,
}

impl State {
    pub(super) fn halt(why: HaltReason, out: &mut Vec<Action>) -> State {
        out.push(Action::Halt { why });
        State::Halted
    }

    /// All connections to peers that have introduced themselves, and whether this side relies on the peer: a
    /// joiner is not relied upon, and busy with the clone.
    fn links(&self) -> impl Iterator<Item = (&Link, bool)> {
        let members: &[Member] = match self {
            State::Primary(primary) => &primary.members,
            _ => &[],
        };
        let members = members.iter().filter_map(|member| member.link.as_ref());
        let other = match self {
            State::Starting(_) | State::Halted => None,
            State::Joining(joining) => joining.link(),
            State::Backup(backup) => backup.link.as_ref(),
            State::Alone(alone) => alone.joiner.as_ref().map(|joiner| &joiner.link),
            State::Primary(primary) => primary.joiner.as_ref().map(|joiner| &joiner.link),
        };
        let relied = matches!(self, State::Backup(_));
        let other = other.map(|link| (link, relied));
        members.map(|link| (link, true)).chain(other)
    }

    fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        let (members, other): (&mut [Member], _) = match self {
            State::Starting(_) | State::Halted => (&mut [], None),
            State::Joining(joining) => (&mut [], joining.link_mut()),
            State::Backup(backup) => (&mut [], backup.link.as_mut()),
            State::Alone(Alone { joiner, .. }) => (&mut [], link_of(joiner)),
            State::Primary(primary) => (&mut primary.members, link_of(&mut primary.joiner)),
        };
        let members = members.iter_mut().filter_map(|member| member.link.as_mut());
        members.chain(other)
    }

    fn link_to(&mut self, peer: PeerId) -> Option<&mut Link> {
        self.links_mut().find(|link| link.peer == peer)
    }
}

fn link_of(joiner: &mut Option<Joiner>) -> Option<&mut Link> {
    joiner.as_mut().map(|joiner| &mut joiner.link)
}

impl Core {
    /// A core at its start, which happens at `now_ns`. `config.detect_ms` is raised to four
    /// heartbeats if it is less.
    pub fn new(mut config: Config, now_ns: u64) -> Self {
        config.heartbeat_ms = config.heartbeat_ms.max(1);
        config.detect_ms = config.detect_ms.max(config.heartbeat_ms.saturating_mul(4));
        let (state, generation) = match config.start {
            Start::Primary { generation } => {
                let ask = Ask::new(generation.saturating_add(1), now_ns);
                (State::Starting(Starting { ask }), generation)
            }
            Start::Backup => (State::Joining(Joining::Waiting { at: now_ns }), 0),
        };
        let shared = Shared {
            config,
            now: now_ns,
            generation,
            visitors: BTreeMap::new(),
        };
        Core { shared, state }
    }

    /// What this side is.
    pub fn role(&self) -> Role {
        match &self.state {
            State::Starting(_) => Role::Starting,
            State::Joining(_) => Role::Joining,
            State::Backup(_) => Role::Backup,
            State::Alone(_) => Role::Alone,
            State::Primary(_) => Role::Primary,
            State::Halted => Role::Halted,
        }
    }

    /// The newest generation known here; that of this side's copy if it is live.
    pub fn generation(&self) -> Generation {
        self.shared.generation
    }

    /// Where this side stands.
    pub fn status(&self) -> Status {
        let mut status = Status {
            role: self.role(),
            generation: self.shared.generation,
            protected: false,
            peer: match &self.state {
                // Its name comes with its welcome.
                State::Joining(Joining::Greeting(_)) => None,
                state => state.links().next().map(|(link, _)| link.host.clone()),
            },
            link: self.state.links().next().map(|(link, _)| link.peer),
            backups: Vec::new(),
            joining: match &self.state {
                State::Alone(Alone { joiner, .. }) | State::Primary(Primary { joiner, .. }) => {
                    joiner.as_ref().map(|joiner| joiner.link.host.clone())
                }
                _ => None,
            },
            epoch: 0,
            received: 0,
            executed: 0,
            released: 0,
            lag_bytes: 0,
            behind_since_ns: None,
            guest_stopped: false,
            asking_arbiter: false,
            offered: None,
        };
        match &self.state {
            State::Starting(_) => status.asking_arbiter = true,
            State::Joining(_) | State::Halted => {}
            State::Backup(backup) => backup.fill(&mut status),
            State::Alone(alone) => {
                status.epoch = alone.closed;
                status.released = alone.closed;
            }
            State::Primary(primary) => primary.fill(&mut status),
        }
        status
    }

    /// When to come back with [`Event::Tick`] if nothing else happens, in nanoseconds.
    pub fn next_tick(&self) -> u64 {
        let visitors = self.shared.visitors.values().copied().min();
        let links = self.state.links().map(|(link, relied)| {
            let silent = link.heard_at + self.patience_ns(relied);
            silent.min(link.beat_at())
        });
        let state = match &self.state {
            State::Starting(starting) => starting.ask.next_tick(),
            State::Joining(Joining::Waiting { at }) => *at,
            State::Backup(Backup { ask, canvass, .. }) => {
                let ask = ask.as_ref().map_or(u64::MAX, Ask::next_tick);
                canvass
                    .as_ref()
                    .map_or(ask, |canvass| canvass.next_tick().min(ask))
            }
            State::Primary(primary) => {
                let shared = &self.shared;
                primary.ask_at(shared).min(primary.give_up_at(shared))
            }
            _ => u64::MAX,
        };
        let least = visitors.unwrap_or(u64::MAX).min(state);
        links.fold(least, u64::min)
    }

    /// Takes in what happened at `now_ns` (a clock that never stops or jumps, such as
    /// CLOCK_MONOTONIC; an earlier time than the last counts as the last) and appends what is to
    /// be done about it, in this order.
    pub fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Action>) {
        let role = self.role();
        self.pass_time(now_ns);
        self.take(event, out);
        self.run_timers(out);
        if self.role() != role {
            if self.role() == Role::Halted {
                // The daemon closes them with all others.
                self.shared.visitors.clear();
            }
            out.push(Action::Note(Note::Role {
                from: role,
                to: self.role(),
                generation: self.shared.generation,
            }));
        }
    }

    /// When this process was itself stopped for long, what the peer said meanwhile waits unread:
    /// that time is no silence of the peer's.
    fn pass_time(&mut self, now_ns: u64) {
        let now = now_ns.max(self.shared.now);
        let gap = now - self.shared.now;
        if gap > self.shared.detect_ns() / 2 {
            for link in self.state.links_mut() {
                link.heard_at = now.min(link.heard_at + gap);
            }
        }
        self.shared.now = now;
    }

    fn take(&mut self, event: Event, out: &mut Vec<Action>) {
        let now = self.shared.now;
        match event {
            Event::PeerConnected {
                peer,
                dialled: false,
            } => return self.visit(peer, out),
            Event::Message { peer, message } if self.shared.visitors.remove(&peer).is_some() => {
                return self.introduce(peer, message, out);
            }
            Event::PeerDisconnected { peer, .. }
                if self.shared.visitors.remove(&peer).is_some() =>
            {
                return;
            }
            Event::PeerHeard { peer } | Event::Message { peer, .. } => {
                match self.state.link_to(peer) {
                    Some(link) => link.heard_at = now,
                    // Of a connection that was given up: what it says counts for nothing.
                    None => return,
                }
            }
            Event::PeerDisconnected { peer, .. } if self.state.link_to(peer).is_none() => {
                return;
            }
            _ => {}
        }
        self.give(event, out);
    }

    /// Gives the state an event of its own.
    fn give(&mut self, event: Event, out: &mut Vec<Action>) {
        self.change(|state, shared| match (state, event) {
            (State::Halted, _) => State::Halted,
            (state, Event::Stop) => {
                bye(&state, ByeReason::Stopped, out);
                State::halt(HaltReason::Stopped, out)
            }
            (state, Event::Failed { why }) => {
                bye(&state, ByeReason::Failed, out);
                State::halt(HaltReason::Failed(why), out)
            }
            (state, Event::Superseded { generation }) => superseded(state, generation, shared, out),
            (State::Starting(starting), event) => starting.on(event, shared, out),
            (State::Joining(joining), event) => joining.on(event, shared, out),
            (State::Backup(backup), event) => backup.on(event, shared, out),
            (State::Alone(alone), event) => alone.on(event, shared, out),
            (State::Primary(primary), event) => primary.on(event, shared, out),
        });
    }

    fn change(&mut self, to: impl FnOnce(State, &mut Shared) -> State) {
        let state = std::mem::replace(&mut self.state, State::Halted);
        self.state = to(state, &mut self.shared);
    }

    /// How long a peer may be silent.
    fn patience_ns(&self, relied: bool) -> u64 {
        let detect = self.shared.detect_ns();
        match relied {
            true => detect,
            false => detect.max(u64::from(self.shared.config.handshake_ms) * MS),
        }
    }

    fn run_timers(&mut self, out: &mut Vec<Action>) {
        self.dismiss_silent_visitors(out);
        let now = self.shared.now;
        let silent = |core: &Core| {
            let mut links = core.state.links();
            let (link, _) =
                links.find(|(link, relied)| now - link.heard_at >= core.patience_ns(*relied))?;
            Some((link.peer, now - link.heard_at))
        };
        while let Some((peer, silent_ns)) = silent(self) {
            let why = DisconnectReason::Silent { ms: silent_ns / MS };
            // The other side may be well and not know of this: it is not gone for sure.
            let loss = LinkLoss::Broken(why.to_string());
            out.push(Action::Disconnect { peer, why });
            self.give(Event::PeerDisconnected { peer, why: loss }, out);
        }
        self.beat(out);
        self.change(|state, shared| match state {
            State::Starting(starting) => starting.tick(shared, out),
            State::Joining(joining) => joining.tick(shared, out),
            State::Backup(backup) => backup.tick(shared, out),
            State::Primary(primary) => primary.tick(shared, out),
            state @ (State::Alone(_) | State::Halted) => state,
        });
    }

    /// A heartbeat, if one is due; a backup's is an acknowledgement.
    fn beat(&mut self, out: &mut Vec<Action>) {
        let (now, every_ns) = (self.shared.now, self.shared.heartbeat_ns());
        if let State::Backup(backup) = &mut self.state {
            if backup
                .link
                .as_ref()
                .is_some_and(|link| link.beat_at() <= now)
            {
                backup.say(&self.shared, out);
            }
            return;
        }
        for link in self.state.links_mut().filter(|link| link.beat_at() <= now) {
            let peer = link.peer;
            let message = link.beat(now, every_ns);
            out.push(Action::Send { peer, message });
        }
    }

    fn dismiss_silent_visitors(&mut self, out: &mut Vec<Action>) {
        let now = self.shared.now;
        self.shared.visitors.retain(|&peer, until| {
            let stays = *until > now;
            if !stays {
                break_off(peer, ProtocolError::NoHello, out);
            }
            stays
        });
    }

    fn visit(&mut self, peer: PeerId, out: &mut Vec<Action>) {
        if matches!(self.state, State::Halted) {
            let why = DisconnectReason::Unwanted;
            out.push(Action::Disconnect { peer, why });
        } else if self.shared.visitors.len() >= VISITORS_MAX {
            break_off(peer, ProtocolError::TooMany, out);
        } else {
            let patience = u64::from(self.shared.config.handshake_ms) * MS;
            self.shared
                .visitors
                .insert(peer, self.shared.now + patience);
        }
    }

    /// The first message of an accepted connection.
    fn introduce(&mut self, peer: PeerId, message: Message, out: &mut Vec<Action>) {
        let Message::Hello(hello) = message else {
            return break_off(peer, ProtocolError::Unexpected(message.name()), out);
        };
        if let Err(reason) = self.judge(&hello) {
            let host = hello.host;
            if matches!(reason, RejectReason::Superseded { .. }) {
                let theirs = hello.generation;
                let host = host.clone();
                out.push(Action::Note(Note::Superseded { host, theirs }));
            }
            let message = Message::Reject(reason.clone());
            out.push(Action::Send { peer, message });
            let why = DisconnectReason::Rejected(reason.clone());
            out.push(Action::Disconnect { peer, why });
            return out.push(Action::Note(Note::Rejected { host, reason }));
        }
        let joiner = match &mut self.state {
            State::Alone(alone) => &mut alone.joiner,
            State::Primary(primary) => &mut primary.joiner,
            _ => return, // judge() has turned it down.
        };
        let Shared {
            config,
            now,
            generation,
            ..
        } = &self.shared;
        let features = hello.features & FEATURES;
        let message = Message::Welcome(Welcome {
            protocol_version: PROTOCOL_VERSION,
            features,
            host: config.host.clone(),
            generation: *generation,
            bidder: config.bidder.clone(),
            commit: config.commit,
            detect_ms: config.detect_ms,
            heartbeat_ms: config.heartbeat_ms,
        });
        let host = hello.host;
        let link = Link::new(peer, host.clone(), *now);
        out.push(Action::Established { peer });
        out.push(Action::Send { peer, message });
        out.push(Action::StartClone { peer });
        *joiner = Some(Joiner::begin(link, features, out));
        out.push(Action::Note(Note::Joining { host }));
    }

    fn judge(&self, hello: &Hello) -> Result<(), RejectReason> {
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(RejectReason::Version {
                primary: PROTOCOL_VERSION,
                backup: hello.protocol_version,
            });
        }
        match &self.state {
            State::Alone(_) | State::Primary(_) => self.shared.config.facts.check(&hello.facts)?,
            _ => return Err(RejectReason::NotPrimary),
        }
        let primary = self.shared.generation;
        if hello.generation > primary {
            let backup = hello.generation;
            return Err(RejectReason::Superseded { primary, backup });
        }
        let (backups, joiner) = match &self.state {
            State::Primary(Primary { ask: Some(_), .. }) => {
                return Err(RejectReason::Busy {
                    why: "it has lost a backup and waits for the arbiter".to_owned(),
                });
            }
            State::Primary(primary) => (primary.members.len(), &primary.joiner),
            State::Alone(alone) => (0, &alone.joiner),
            _ => return Err(RejectReason::NotPrimary),
        };
        let most = self.shared.config.backups_max as usize;
        match joiner {
            _ if backups + usize::from(joiner.is_some()) >= most.max(1) => {
                Err(RejectReason::HasBackup)
            }
            Some(_) => Err(RejectReason::Busy {
                why: "another host joins it".to_owned(),
            }),
            None => Ok(()),
        }
    }
}

/// A later generation was seen at the arbiter. A live copy that has not bid for it is one too many;
/// one that has may have won it without having heard so, and asks on. Others have nothing to lose.
fn superseded(
    state: State,
    generation: Generation,
    shared: &Shared,
    out: &mut Vec<Action>,
) -> State {
    let lost = match &state {
        State::Alone(_) => true,
        State::Primary(primary) => primary.ask.as_ref().is_none_or(|ask| !ask.asked),
        _ => false,
    };
    if !lost || generation <= shared.generation {
        return state;
    }
    let by = "another host".to_owned();
    State::halt(HaltReason::Lost { generation, by }, out)
}

/// Ends a connection that broke the protocol.
pub(super) fn break_off(peer: PeerId, error: ProtocolError, out: &mut Vec<Action>) {
    let why = DisconnectReason::Protocol(error);
    out.push(Action::Disconnect { peer, why });
}

fn bye(state: &State, reason: ByeReason, out: &mut Vec<Action>) {
    for (link, _) in state.links() {
        let peer = link.peer;
        let message = Message::Bye { reason };
        out.push(Action::Send { peer, message });
    }
}
