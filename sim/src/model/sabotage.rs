//! Safety checks that a daemon, its disks or its arbiter owe the core, each left out on purpose.
//!
//! They are outside of the core, so leaving one out here is leaving it out. Checks inside the core are
//! removed from its source (`crate::mutations`).

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    OutputsNotHeld,
    AckedNotDelivered,
    DroppedNotStopped,
    LoserNotHalted,
    ArbiterAlwaysYields,
    ArbiterDecidesOnOldState,
    CloseBeforeGivingUp,
    NotReissued,
    ToldBeforeLanded,
    DisksNotRetired,
    ClockNotRebased,
    SilentNotSuspended,
    SignNotBid,
    RenewedWithoutLease,
    ProtectedNotSuspended,
}

impl Sabotage {
    pub(crate) const ALL: [(Sabotage, &str); 15] = [
        (
            Sabotage::OutputsNotHeld,
            "the daemon lets outputs out without waiting for the core's word",
        ),
        (
            Sabotage::AckedNotDelivered,
            "the daemon of a backup loses epochs that the core acknowledges",
        ),
        (
            Sabotage::DroppedNotStopped,
            "the daemon goes on replaying a copy that the core has dropped",
        ),
        (
            Sabotage::LoserNotHalted,
            "the daemon of a side that lost at the arbiter lets its guest go on",
        ),
        (
            Sabotage::ArbiterAlwaysYields,
            "the arbiter sets without testing",
        ),
        (
            Sabotage::ArbiterDecidesOnOldState,
            "the arbiter tests what it held before, as a cache would",
        ),
        (
            Sabotage::CloseBeforeGivingUp,
            "the daemon closes connections that its core still goes by",
        ),
        (
            Sabotage::NotReissued,
            "requests to the disk not logged complete are not issued again at go-live",
        ),
        (
            Sabotage::ToldBeforeLanded,
            "a guest is told of a write before the disk has it",
        ),
        (
            Sabotage::DisksNotRetired,
            "a primary leaves to its backup, or hands over to it, with writes in flight",
        ),
        (
            Sabotage::ClockNotRebased,
            "virtual time at go-live does not go on where the log left it",
        ),
        (
            Sabotage::SilentNotSuspended,
            "a host that is cut off from the arbiter goes on while another may start the guest",
        ),
        (
            Sabotage::SignNotBid,
            "such a host goes on when it can give a sign again, without winning the next generation",
        ),
        (
            Sabotage::RenewedWithoutLease,
            "such a host goes on when it hears, however late, that it has won a generation beside its backups",
        ),
        (
            Sabotage::ProtectedNotSuspended,
            "one of three hosts that is cut off from the arbiter goes on since it has a backup",
        ),
    ];
}
