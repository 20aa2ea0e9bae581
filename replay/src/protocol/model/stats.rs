//! Counts of what happened, so that a run can show that it met it.

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
    pub(super) superseded: u64,
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
            superseded,
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
        self.superseded += superseded;
    }
}
