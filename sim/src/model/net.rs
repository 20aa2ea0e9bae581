//! Connections between the simulated hosts.

use std::collections::{BTreeMap, VecDeque};

use replay::protocol::Message;

/// What travels on a connection.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Message(Message),
    /// The sender's process closed it.
    Fin,
}

/// One connection: side 0 dialled side 1.
#[derive(Debug)]
pub(super) struct Conn {
    /// Host and its run.
    pub(super) ends: [(usize, u64); 2],
    pub(super) open: [bool; 2],
    /// Nothing gets through any more.
    pub(super) dead: bool,
    /// By direction (index of the sending side): when the last item arrives.
    pub(super) arrives: [u64; 2],
    /// By direction: what waits for a partition to end.
    pub(super) stalled: [VecDeque<Item>; 2],
}

/// All connections, and which hosts can't reach which.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) conns: BTreeMap<u64, Conn>,
    /// From and to: until when nothing passes.
    pub(super) cuts: BTreeMap<(usize, usize), u64>,
    next: u64,
}

impl Net {
    pub(super) fn connect(&mut self, from: (usize, u64), to: (usize, u64)) -> u64 {
        self.next += 1;
        self.conns.insert(
            self.next,
            Conn {
                ends: [from, to],
                open: [true; 2],
                dead: false,
                arrives: [0; 2],
                stalled: Default::default(),
            },
        );
        self.next
    }

    pub(super) fn is_cut(&self, from: usize, to: usize, now: u64) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|until| *until > now)
    }

    /// Which side of a connection a host's run is.
    pub(super) fn side(&self, conn: u64, end: (usize, u64)) -> Option<usize> {
        let conn = self.conns.get(&conn)?;
        conn.ends.iter().position(|other| *other == end)
    }

    /// The open connections of a host's run.
    pub(super) fn of(&self, end: (usize, u64)) -> Vec<(u64, usize)> {
        let open = |(number, conn): (&u64, &Conn)| {
            let side = conn.ends.iter().position(|other| *other == end)?;
            conn.open[side].then_some((*number, side))
        };
        self.conns.iter().filter_map(open).collect()
    }
}
