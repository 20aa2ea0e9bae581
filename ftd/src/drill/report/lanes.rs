//! What each side was when, from what its daemon told and what was done to it.

use serde::{Deserialize, Serialize};

use super::scenarios::Run;
use crate::drill::conduct::evidence::Evidence;
use crate::drill::plan::Role;

/// What a side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No guest is there yet.
    Starts,
    /// It runs the guest, and nobody protects it.
    Alone,
    /// It runs the guest, and has a backup.
    Protected,
    /// It runs the guest, and holds back what that says.
    Waits,
    /// It is given a copy of the guest.
    Joins,
    /// It follows.
    Follows,
    /// It takes the guest over.
    TakesOver,
    /// It was killed.
    Dead,
    /// It ended.
    Ended,
}

impl State {
    /// The word for it.
    pub fn words(self) -> &'static str {
        match self {
            State::Starts => "starts",
            State::Alone => "runs the guest, alone",
            State::Protected => "runs the guest",
            State::Waits => "outputs wait",
            State::Joins => "joins",
            State::Follows => "follows",
            State::TakesOver => "takes over",
            State::Dead => "dead",
            State::Ended => "ended",
        }
    }

    fn has_guest(self) -> bool {
        matches!(self, State::Alone | State::Protected | State::Waits)
    }

    /// What it is after an event of this name.
    fn after(self, event: &str) -> State {
        match (event, self) {
            ("started", _) => State::Starts,
            ("guest_started" | "live" | "alone" | "hand_over_failed", _) => State::Alone,
            ("protected", state) if state.has_guest() => State::Protected,
            ("protected", _) => State::Follows,
            ("joined", state) if !state.has_guest() => State::Joins,
            ("peer_lost", State::Protected) | ("storage_lost" | "handing_over", _) => State::Waits,
            ("peer_lost", State::Follows) => State::TakesOver,
            ("storage_back", _) => State::Alone,
            ("halted", _) => State::Ended,
            (_, state) => state,
        }
    }
}

/// A side is something for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// Which side.
    pub side: Role,
    /// What it is.
    pub state: State,
    /// From when on, in nanoseconds since 1970.
    pub from_unix_ns: u64,
    /// Until when.
    pub to_unix_ns: u64,
}

/// What both sides were, up to the end of the run.
pub fn lanes(evidence: &Evidence, run: &Run) -> Vec<Lane> {
    let end = run.timeline.last().map_or(0, |mark| mark.t_unix_ns);
    let mut lanes = Vec::new();
    for side in [Role::Primary, Role::Backup] {
        let events = evidence.timed(side);
        let mut told: Vec<(u64, &str)> = events.map(|(at, _, e)| (at, e.event.as_str())).collect();
        for mark in &evidence.marks {
            let of_both = mark.what.starts_with("both daemons killed");
            if of_both || mark.what.starts_with(&format!("{side} killed")) {
                told.push((mark.t_unix_ns, "killed"));
            }
        }
        told.sort_by_key(|(at, _)| *at);
        lanes.extend(states(side, &told, end));
    }
    lanes
}

fn states(side: Role, told: &[(u64, &str)], end: u64) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    for &(at, event) in told {
        let state = match (event, lanes.last()) {
            ("killed", _) => State::Dead,
            // What it had said before it died, and is read as later since clocks differ a little.
            (event, Some(last)) if last.state == State::Dead && event != "started" => continue,
            (event, last) => last.map_or(State::Starts, |last| last.state).after(event),
        };
        if let Some(last) = lanes.last_mut() {
            last.to_unix_ns = at;
            if last.state == state {
                continue;
            }
        }
        lanes.push(Lane {
            side,
            state,
            from_unix_ns: at,
            to_unix_ns: at,
        });
    }
    if let Some(last) = lanes.last_mut() {
        last.to_unix_ns = last.from_unix_ns.max(end);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(told: &[(u64, &str)]) -> Vec<(u64, u64, State)> {
        let lanes = states(Role::Backup, told, 100);
        let shown = lanes
            .iter()
            .map(|lane| (lane.from_unix_ns, lane.to_unix_ns, lane.state));
        shown.collect()
    }

    #[test]
    fn a_primary_that_loses_its_backup_holds_back_and_goes_on_alone() {
        let told = [
            (1, "started"),
            (5, "arbiter_won"),
            (6, "guest_started"),
            (10, "protected"),
            (20, "peer_lost"),
            (22, "arbiter_won"),
            (23, "alone"),
        ];
        let expected = [
            (1, 6, State::Starts),
            (6, 10, State::Alone),
            (10, 20, State::Protected),
            (20, 23, State::Waits),
            (23, 100, State::Alone),
        ];
        assert_eq!(shown(&told), expected);
    }

    #[test]
    fn a_backup_that_is_killed_is_dead_until_it_is_started() {
        let told = [
            (1, "started"),
            (3, "joined"),
            (9, "protected"),
            (12, "killed"),
            (13, "protected"),
            (30, "started"),
        ];
        let expected = [
            (1, 3, State::Starts),
            (3, 9, State::Joins),
            (9, 12, State::Follows),
            (12, 30, State::Dead),
            (30, 100, State::Starts),
        ];
        assert_eq!(shown(&told), expected);
    }
}
