//! A connection to the other side, and what is known of it by its heartbeats.

use std::collections::VecDeque;

use super::core::Shared;
use super::event::{Action, DisconnectReason, Note, PeerId};
use super::message::Message;

/// Nanoseconds of a millisecond.
pub(super) const MS: u64 = 1_000_000;

/// A peer that has introduced itself.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) peer: PeerId,
    pub(super) host: String,
    /// When it was last heard.
    pub(super) heard_at: u64,
    /// Until when this side's last heartbeat is good.
    beat_at: u64,
    /// Number of this side's last heartbeat.
    seq: u64,
    /// Highest heartbeat heard from the peer.
    pub(super) heard: u64,
    /// Heartbeats sent that the peer has not said it heard, and when they were sent.
    beats: VecDeque<(u64, u64)>,
    /// The peer is known to have heard something that was sent then.
    proven_at: u64,
}

/// Most heartbeats remembered; more than are ever in flight before a peer counts as lost.
const BEATS_MAX: usize = 256;

impl Link {
    pub(super) fn new(peer: PeerId, host: String, now: u64) -> Self {
        Link {
            peer,
            host,
            heard_at: now,
            beat_at: now,
            seq: 0,
            heard: 0,
            beats: VecDeque::new(),
            proven_at: 0,
        }
    }

    /// When the next heartbeat is due.
    pub(super) fn beat_at(&self) -> u64 {
        self.beat_at
    }

    /// The next heartbeat, sent at `now`.
    pub(super) fn beat(&mut self, now: u64, every_ns: u64) -> Message {
        self.seq += 1;
        self.beat_at = now + every_ns;
        self.beats.push_back((self.seq, now));
        if self.beats.len() > BEATS_MAX {
            self.beats.pop_front();
        }
        Message::Heartbeat {
            seq: self.seq,
            heard: self.heard,
        }
    }

    /// Something else was said at `now` that serves as a heartbeat.
    pub(super) fn said(&mut self, now: u64, every_ns: u64) {
        self.beat_at = now + every_ns;
    }

    /// A heartbeat came.
    pub(super) fn on_beat(&mut self, seq: u64) {
        self.heard = self.heard.max(seq);
    }

    /// The peer says that it heard heartbeat `seq`.
    pub(super) fn on_echo(&mut self, seq: u64) {
        while let Some(&(sent, at)) = self.beats.front() {
            if sent > seq {
                break;
            }
            self.beats.pop_front();
            self.prove(at);
        }
    }

    /// The peer is known to have heard something that was sent at `at`.
    pub(super) fn prove(&mut self, at: u64) {
        self.proven_at = self.proven_at.max(at);
    }

    /// Until when the peer surely does nothing on the grounds of this side's silence, given that it
    /// waits `detect_ns`. A quarter of that is left for clocks that don't run alike, and for the
    /// time between this answer and what is done on the strength of it.
    pub(super) fn lease_until(&self, detect_ns: u64) -> u64 {
        self.proven_at + detect_ns / 4 * 3
    }
}

pub(super) fn send(link: &Link, message: Message) -> Action {
    let peer = link.peer;
    Action::Send { peer, message }
}

/// Tells the operator that a peer is lost.
pub(super) fn lose(link: &Link, why: String, shared: &Shared, out: &mut Vec<Action>) {
    out.push(Action::Note(Note::PeerLost {
        host: link.host.clone(),
        why,
        silent_ns: shared.now - link.heard_at,
    }));
}

pub(super) fn unwanted(peer: PeerId) -> Action {
    let why = DisconnectReason::Unwanted;
    Action::Disconnect { peer, why }
}
