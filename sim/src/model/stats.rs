//! Counts of what happened, so that a run can show that it met it.

use super::kind::Kind;

/// What happened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Virtual time of the worlds, in nanoseconds: each counts once, whatever its number of hosts.
    pub(crate) virtual_ns: u64,
    pub(crate) steps: u64,
    pub(crate) ended_protected: u64,
    pub(crate) ended_without_guest: u64,
    pub(crate) takeovers: u64,
    pub(crate) alone_again: u64,
    pub(crate) cold_starts: u64,
    pub(crate) restarts: u64,
    pub(crate) released: u64,
    pub(crate) requests: u64,
    pub(crate) reissued: u64,
    /// Writes of a slow disk that landed when another copy was live already and had written anew.
    pub(crate) late_writes: u64,
    pub(crate) arbiter_lost: u64,
    pub(crate) left_in_order: u64,
    pub(crate) handed_over: u64,
    pub(crate) taken_back: u64,
    pub(crate) not_offered: u64,
    pub(crate) stopped_guests: u64,
    /// Backups that were given up since they were too slow.
    pub(crate) given_up: u64,
    /// Generations won beside backups that stay.
    pub(crate) ruled_out: u64,
    /// Worlds that ended with more than one backup.
    pub(crate) ended_with_more: u64,
    /// Takeovers by a backup that had asked around.
    pub(crate) by_quorum: u64,
    /// Of these, those in which the candidates were not equally far.
    pub(crate) by_quorum_unequal: u64,
    /// Joiners that said what was left of an earlier copy.
    pub(crate) told: u64,
    pub(crate) superseded: u64,
    pub(crate) lapsed: u64,
    injected: [u64; Kind::ALL.len()],
}

impl Stats {
    pub(crate) fn inject(&mut self, kind: Kind) {
        self.injected[kind as usize] += 1;
    }

    pub(crate) fn injected(&self, kind: Kind) -> u64 {
        self.injected[kind as usize]
    }

    /// Everything but the faults, by name.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 25] {
        [
            ("steps", self.steps),
            ("ended_protected", self.ended_protected),
            ("ended_without_guest", self.ended_without_guest),
            ("takeovers", self.takeovers),
            ("alone_again", self.alone_again),
            ("cold_starts", self.cold_starts),
            ("restarts", self.restarts),
            ("outputs_released", self.released),
            ("disk_requests", self.requests),
            ("disk_requests_reissued", self.reissued),
            ("disk_writes_late", self.late_writes),
            ("lost_at_arbiter", self.arbiter_lost),
            ("left_in_order", self.left_in_order),
            ("handed_over", self.handed_over),
            ("hand_overs_taken_back", self.taken_back),
            ("hand_overs_given_up", self.not_offered),
            ("guest_stopped_by_lag", self.stopped_guests),
            ("slow_backup_given_up", self.given_up),
            ("ruled_out_beside_others", self.ruled_out),
            ("ended_with_more_backups", self.ended_with_more),
            ("takeovers_by_quorum", self.by_quorum),
            ("takeovers_by_quorum_unequal", self.by_quorum_unequal),
            ("joined_with_ram", self.told),
            ("superseded", self.superseded),
            ("silent_for_too_long", self.lapsed),
        ]
    }

    pub(crate) fn add(&mut self, other: &Stats) {
        let Stats {
            virtual_ns,
            steps,
            ended_protected,
            ended_without_guest,
            takeovers,
            alone_again,
            cold_starts,
            restarts,
            released,
            requests,
            reissued,
            late_writes,
            arbiter_lost,
            left_in_order,
            handed_over,
            taken_back,
            not_offered,
            stopped_guests,
            given_up,
            ruled_out,
            ended_with_more,
            by_quorum,
            by_quorum_unequal,
            told,
            superseded,
            lapsed,
            injected,
        } = other;
        self.virtual_ns += virtual_ns;
        self.steps += steps;
        self.ended_protected += ended_protected;
        self.ended_without_guest += ended_without_guest;
        self.takeovers += takeovers;
        self.alone_again += alone_again;
        self.cold_starts += cold_starts;
        self.restarts += restarts;
        self.released += released;
        self.requests += requests;
        self.reissued += reissued;
        self.late_writes += late_writes;
        self.arbiter_lost += arbiter_lost;
        self.left_in_order += left_in_order;
        self.handed_over += handed_over;
        self.taken_back += taken_back;
        self.not_offered += not_offered;
        self.stopped_guests += stopped_guests;
        self.given_up += given_up;
        self.ruled_out += ruled_out;
        self.ended_with_more += ended_with_more;
        self.by_quorum += by_quorum;
        self.by_quorum_unequal += by_quorum_unequal;
        self.told += told;
        self.superseded += superseded;
        self.lapsed += lapsed;
        for (sum, more) in self.injected.iter_mut().zip(injected) {
            *sum += more;
        }
    }
}
