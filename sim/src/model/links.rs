//! Connections: how messages travel and get lost.

use replay::protocol::{Event, LinkLoss, Message, PeerId};

use super::kind::Kind;
use super::net::Item;
use super::plan::MS;
use super::violation::Checked;
use super::world::{Step, World};

/// One in so many messages is lost, doubled or reordered, each, in worlds where such things happen.
const MANGLED: u64 = 450;

impl World {
    pub(super) fn dial(&mut self, node: usize, run: u64) -> Checked {
        if !self.is(node, run) || !self.nodes[node].dialling {
            return Ok(());
        }
        // Each in turn, as the daemon does.
        let other = (node + self.nodes[node].dials) % self.nodes.len();
        self.nodes[node].dials += 1;
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

    pub(super) fn send_from(&mut self, node: usize, peer: PeerId, message: Message) {
        let end = (node, self.nodes[node].run);
        if let Some(side) = self.net.side(peer.0, end) {
            self.send(peer.0, side, Item::Message(message));
        }
    }

    /// One side closes a connection, after what it has sent.
    pub(super) fn close(&mut self, number: u64, side: usize) {
        self.send(number, side, Item::Fin);
        if let Some(conn) = self.net.conns.get_mut(&number) {
            conn.open[side] = false;
        }
    }

    fn send(&mut self, number: u64, side: usize, item: Item) {
        let now = self.now;
        let Some(conn) = self.net.conns.get_mut(&number) else {
            return;
        };
        if conn.dead || !conn.open[side] {
            return;
        }
        let [from, to] = [conn.ends[side].0, conn.ends[1 - side].0];
        if let Item::Message(message) = &item {
            let name = message.name();
            self.mention(|| format!("host{from} sends host{to} {name}"));
        }
        if self.net.is_cut(from, to, now) {
            if let Some(conn) = self.net.conns.get_mut(&number) {
                conn.stalled[side].push_back(item);
            }
            return;
        }
        let spike = u64::from(self.chance(Kind::DelaySpike, 200)) * 500 * MS;
        let at = now + 1 + self.below(self.plan.delay_max) + spike;
        let is_message = matches!(item, Item::Message(_));
        let (conn, to) = (number, 1 - side);
        if is_message && self.chance(Kind::MessageLost, MANGLED) {
            return;
        }
        if is_message && self.chance(Kind::MessageReordered, MANGLED) {
            // Overtakes, or is overtaken.
            let late = self.below(3 * self.plan.delay_max);
            let side = to;
            return self.at(now + 1 + late, Step::Deliver { conn, side, item });
        }
        let mut at = at;
        if let Some(conn) = self.net.conns.get_mut(&number) {
            at = at.max(conn.arrives[side]);
            conn.arrives[side] = at;
        }
        let side = to;
        if is_message && self.chance(Kind::MessageDoubled, MANGLED) {
            let item = item.clone();
            self.at(at, Step::Deliver { conn, side, item });
        }
        self.at(at, Step::Deliver { conn, side, item });
    }

    pub(super) fn deliver(&mut self, number: u64, side: usize, item: Item) -> Checked {
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
    pub(super) fn break_side(&mut self, number: u64, side: usize) -> Checked {
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

    pub(super) fn heal(&mut self) {
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
}
