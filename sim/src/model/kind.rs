//! The kinds of faults.

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    // At moments that the plan names.
    /// A host's power is cut: nothing of it goes on, writes in flight land or don't.
    PowerCut,
    /// A daemon's process dies; the host's kernel closes its connections.
    ProcessDeath,
    /// A process stands still for a while, and then finds all that came meanwhile.
    Pause,
    /// Two hosts can't reach each other.
    Partition,
    /// One host can't reach another, but the other way works.
    OneWayCut,
    /// A connection ends, and each side learns of it soon or by silence.
    BrokenLink,
    /// The arbiter can't be reached.
    ArbiterAway,
    /// The arbiter takes long.
    ArbiterSlow,
    /// Who only looks at the arbiter sees what it held before.
    ArbiterStale,
    /// One host can't reach the arbiter, for up to four seconds.
    StorageCut,
    /// An operator stops a host.
    Stop,
    /// An operator has a protected guest handed over. (No fault, but what it meets may be one.)
    HandOver,
    /// A host's monotonic clock is off by up to 20 ms from one moment to the next.
    ClockStep,
    /// A host's writes to the disk take long.
    SlowDisk,
    /// The disk refuses writes.
    DiskErrors,
    /// A replica gets little CPU time.
    SlowReplay,
    // By chance, each time that one can happen.
    /// A message is lost.
    MessageLost,
    /// A message arrives twice.
    MessageDoubled,
    /// A message overtakes others, or is overtaken.
    MessageReordered,
    /// A message is late by half a second, and all behind it.
    DelaySpike,
    /// What the arbiter did is not heard of.
    AnswerLost,
    /// A live clone fails half-way.
    CloneFailure,
    /// A replica is no longer equal to its primary.
    Divergence,
    /// A host that comes back is started as a primary by mistake.
    WrongStart,
    // All the time.
    /// A host's clock is slow or fast by up to 3 percent.
    ClockRate,
}

impl Kind {
    pub(crate) const ALL: [Kind; 25] = [
        Kind::PowerCut,
        Kind::ProcessDeath,
        Kind::Pause,
        Kind::Partition,
        Kind::OneWayCut,
        Kind::BrokenLink,
        Kind::ArbiterAway,
        Kind::ArbiterSlow,
        Kind::ArbiterStale,
        Kind::StorageCut,
        Kind::Stop,
        Kind::HandOver,
        Kind::ClockStep,
        Kind::SlowDisk,
        Kind::DiskErrors,
        Kind::SlowReplay,
        Kind::MessageLost,
        Kind::MessageDoubled,
        Kind::MessageReordered,
        Kind::DelaySpike,
        Kind::AnswerLost,
        Kind::CloneFailure,
        Kind::Divergence,
        Kind::WrongStart,
        Kind::ClockRate,
    ];

    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::PowerCut => "power_cut",
            Kind::ProcessDeath => "process_death",
            Kind::Pause => "pause",
            Kind::Partition => "partition",
            Kind::OneWayCut => "one_way_cut",
            Kind::BrokenLink => "broken_link",
            Kind::ArbiterAway => "arbiter_away",
            Kind::ArbiterSlow => "arbiter_slow",
            Kind::ArbiterStale => "arbiter_stale",
            Kind::StorageCut => "storage_cut",
            Kind::Stop => "operator_stop",
            Kind::HandOver => "hand_over",
            Kind::ClockStep => "clock_step",
            Kind::SlowDisk => "slow_disk",
            Kind::DiskErrors => "disk_errors",
            Kind::SlowReplay => "slow_replay",
            Kind::MessageLost => "message_lost",
            Kind::MessageDoubled => "message_doubled",
            Kind::MessageReordered => "message_reordered",
            Kind::DelaySpike => "delay_spike",
            Kind::AnswerLost => "arbiter_answer_lost",
            Kind::CloneFailure => "clone_failure",
            Kind::Divergence => "divergence",
            Kind::WrongStart => "wrong_start",
            Kind::ClockRate => "clock_rate",
        }
    }

    /// Whether it destroys a copy of the guest.
    pub(crate) fn kills(self) -> bool {
        matches!(self, Kind::PowerCut | Kind::ProcessDeath | Kind::Stop)
    }
}
