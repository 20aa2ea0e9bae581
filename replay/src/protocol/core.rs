//! The core: takes events, keeps one state, gives actions.

use std::collections::BTreeMap;

use super::ask::Ask;
use super::backup::Backup;
use super::event::{Action, DisconnectReason, Event, HaltReason, LinkLoss, Note};
use super::event::{PeerId, ProtocolError};
use super::facts::RejectReason;
use super::joining::Joining;
use super::link::{Link, MS};
use super::message::{ByeReason, FEATURES, Generation, Hello, Message, PROTOCOL_VERSION, Welcome};
use super::primary::{Alone, Primary, Starting};
use super::role::{Config, Role, Start, Status};
use super::told::Told;

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

    fn link(&self) -> Option<&Link> {
        match self {
            State::Starting(_) | State::Halted => None,
            State::Joining(joining) => joining.link(),
            State::Backup(backup) => backup.link.as_ref(),
            State::Alone(alone) => alone.cloning.as_ref(),
            State::Primary(primary) => primary.link.as_ref(),
        }
    }

    fn link_mut(&mut self) -> Option<&mut Link> {
        match self {
            State::Starting(_) | State::Halted => None,
            State::Joining(joining) => joining.link_mut(),
            State::Backup(backup) => backup.link.as_mut(),
            State::Alone(alone) => alone.cloning.as_mut(),
            State::Primary(primary) => primary.link.as_mut(),
        }
    }
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
                state => state.link().map(|link| link.host.clone()),
            },
            link: self.state.link().map(|link| link.peer),
            epoch: 0,
            received: 0,
            executed: 0,
            released: 0,
            lag_bytes: 0,
            behind_since_ns: None,
            guest_stopped: false,
            asking_arbiter: false,
            offered: false,
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
        let link = self.state.link().map(|link| {
            let silent = link.heard_at + self.patience_ns();
            silent.min(link.beat_at())
        });
        let state = match &self.state {
            State::Starting(starting) => starting.ask.next_tick(),
            State::Joining(Joining::Waiting { at }) => *at,
            State::Backup(Backup { ask: Some(ask), .. }) => ask.next_tick(),
            State::Primary(Primary { ask: Some(ask), .. }) => ask.next_tick(),
            State::Primary(primary) => primary.next_tick(&self.shared),
            _ => u64::MAX,
        };
        let least = visitors.unwrap_or(u64::MAX).min(link.unwrap_or(u64::MAX));
        least.min(state)
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
        if gap > self.shared.detect_ns() / 2
            && let Some(link) = self.state.link_mut()
        {
            link.heard_at = now.min(link.heard_at + gap);
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
                match self.state.link_mut().filter(|link| link.peer == peer) {
                    Some(link) => link.heard_at = now,
                    // Of a connection that was given up: what it says counts for nothing.
                    None => return,
                }
            }
            Event::PeerDisconnected { peer, .. }
                if self.state.link().is_none_or(|link| link.peer != peer) =>
            {
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
                bye(state.link(), ByeReason::Stopped, out);
                State::halt(HaltReason::Stopped, out)
            }
            (state, Event::Failed { why }) => {
                bye(state.link(), ByeReason::Failed, out);
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

    /// How long the peer may be silent. A joiner is not relied upon, and busy with the clone.
    fn patience_ns(&self) -> u64 {
        let detect = self.shared.detect_ns();
        match &self.state {
            State::Alone(_) | State::Joining(_) => {
                detect.max(u64::from(self.shared.config.handshake_ms) * MS)
            }
            _ => detect,
        }
    }

    fn run_timers(&mut self, out: &mut Vec<Action>) {
        self.dismiss_silent_visitors(out);
        let now = self.shared.now;
        let patience = self.patience_ns();
        if let Some(link) = self.state.link() {
            let silent = now - link.heard_at;
            if silent >= patience {
                let peer = link.peer;
                let why = DisconnectReason::Silent { ms: silent / MS };
                // The other side may be well and not know of this: it is not gone for sure.
                let loss = LinkLoss::Broken(why.to_string());
                out.push(Action::Disconnect { peer, why });
                self.give(Event::PeerDisconnected { peer, why: loss }, out);
            }
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
        let now = self.shared.now;
        if self.state.link().is_none_or(|link| link.beat_at() > now) {
            return;
        }
        if let State::Backup(backup) = &mut self.state {
            backup.say(&self.shared, out);
        } else if let Some(link) = self.state.link_mut() {
            let peer = link.peer;
            let message = link.beat(now, self.shared.heartbeat_ns());
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
        let State::Alone(alone) = &mut self.state else {
            return; // judge() has turned it down.
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
            commit: config.commit,
            detect_ms: config.detect_ms,
            heartbeat_ms: config.heartbeat_ms,
        });
        let host = hello.host;
        alone.cloning = Some(Link::new(peer, host.clone(), *now));
        out.push(Action::Established { peer });
        out.push(Action::Send { peer, message });
        out.push(Action::StartClone { peer });
        alone.told = Told::begin(features, peer, out);
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
        match &self.state {
            State::Primary(Primary { ask: Some(_), .. }) => Err(RejectReason::Busy {
                why: "it has lost its backup and waits for the arbiter".to_owned(),
            }),
            State::Alone(Alone { cloning: None, .. }) => Ok(()),
            _ => Err(RejectReason::HasBackup),
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

fn bye(link: Option<&Link>, reason: ByeReason, out: &mut Vec<Action>) {
    if let Some(link) = link {
        let peer = link.peer;
        let message = Message::Bye { reason };
        out.push(Action::Send { peer, message });
    }
}
