//! What a drill finds out.

use crate::drill::events::{Event, Events};
use crate::drill::ledger::ClientReport;
use crate::drill::plan::Role;
use crate::drill::report::Mark;
use crate::drill::site::ClockOffset;

/// A host's clock against ours; it may have been set on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clocks(Vec<(usize, ClockOffset)>);

impl Clocks {
    /// The clock was compared, and had not been set since the last time.
    pub fn compared(&mut self, offset: ClockOffset) {
        match self.0.last_mut() {
            Some((_, last)) => *last = offset,
            None => self.0.push((0, offset)),
        }
    }

    /// The clock was set, after so many events of that host's daemon.
    pub fn set(&mut self, events: usize, offset: ClockOffset) {
        self.0.push((events, offset));
    }

    /// As it was at the daemon's event of this number, counted from 0.
    pub fn at(&self, event: usize) -> ClockOffset {
        let known = self.0.iter().rev().find(|(from, _)| *from <= event);
        known.map_or(ClockOffset::default(), |(_, offset)| *offset)
    }
}

/// All that a drill finds out; what is missing was not reached.
#[derive(Default)]
pub struct Evidence {
    /// When the drill began, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// What the drill itself did, and when.
    pub marks: Vec<Mark>,
    /// Before and after the kill (or what else was done first), in nanoseconds since 1970.
    pub killed_unix_ns: Option<(u64, u64)>,
    /// How many events each side had told before the kill (or what else was done last).
    pub events_before_kill: [usize; 2],
    /// What the client reported.
    pub client: Option<ClientReport>,
    /// Event logs of primary and backup.
    pub events: [Events; 2],
    /// Their hosts' clocks.
    pub clocks: [Clocks; 2],
    /// Packets that the captures lack.
    pub capture_dropped: u64,
    /// Why the drill stopped before its end.
    pub failure: Option<String>,
}

impl Evidence {
    /// Something was done between those two times; the first thing that was counts as the kill.
    pub fn done(&mut self, from_unix_ns: u64, to_unix_ns: u64) {
        self.killed_unix_ns
            .get_or_insert((from_unix_ns, to_unix_ns));
    }

    /// What a side told after the kill.
    pub fn after_kill(&self, role: Role) -> Events {
        let before = self.events_before_kill[role as usize];
        let none = self.killed_unix_ns.is_none();
        self.events[role as usize].from(if none { usize::MAX } else { before })
    }

    /// A side's events, each with the time it was here, in nanoseconds since 1970, and by how much that may
    /// be wrong.
    pub fn timed(&self, role: Role) -> impl Iterator<Item = (u64, u64, &Event)> {
        let clocks = &self.clocks[role as usize];
        let numbered = self.events[role as usize].0.iter().enumerate();
        numbered.map(|(number, event)| {
            let offset = clocks.at(number);
            (offset.here(event.t_unix_ns), offset.uncertain_ns, event)
        })
    }

    /// Whether the primary had a backup to the last: up to its own end, or that of the backup.
    pub fn protected_at_kill(&self, killed: Role) -> bool {
        let events = &self.events[Role::Primary as usize];
        match killed {
            Role::Primary => events.is_protected(),
            Role::Backup => {
                let before = self.events_before_kill[Role::Primary as usize];
                Events(events.0.get(..before).unwrap_or_default().to_vec()).is_protected()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_told_apart_by_the_events_before_and_after() {
        let ahead = |seconds: i64| ClockOffset {
            ahead_ns: seconds * 1_000_000_000,
            uncertain_ns: 5,
        };
        let mut clocks = Clocks::default();
        assert_eq!(clocks.at(3), ClockOffset::default());
        clocks.compared(ahead(1));
        clocks.set(4, ahead(3601));
        clocks.compared(ahead(3602));
        assert_eq!((clocks.at(0), clocks.at(3)), (ahead(1), ahead(1)));
        assert_eq!((clocks.at(4), clocks.at(99)), (ahead(3602), ahead(3602)));
    }
}
