//! Roles and settings.

use super::event::PeerId;
use super::facts::Facts;
use super::message::{Commit, Generation};
use super::release::Release;

/// What a side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A primary to be, that has not won its first generation yet.
    Starting,
    /// A backup to be, without a whole copy of the guest.
    Joining,
    /// Runs the guest, and holds outputs until the backup has acknowledged the log before them.
    Primary,
    /// Runs the guest without a backup; outputs go out at once.
    Alone,
    /// Replays the guest, and can take it over.
    Backup,
    /// Done.
    Halted,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Starting => "starting",
            Role::Joining => "joining",
            Role::Primary => "primary",
            Role::Alone => "alone",
            Role::Backup => "backup",
            Role::Halted => "halted",
        })
    }
}

/// How a side begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// As a primary that powers the guest on once it has won `generation + 1`.
    Primary {
        /// The generation that the arbiter is thought to hold, 0 for a guest that never ran.
        generation: Generation,
    },
    /// As a backup that looks for a primary.
    Backup,
}

/// What a core is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How to begin.
    pub start: Start,
    /// This host's name, for messages to people.
    pub host: String,
    /// This process, as the arbiter knows it.
    pub bidder: String,
    /// Most backups at a time; the primary's goes.
    pub backups_max: u32,
    /// What has to be the same on both sides.
    pub facts: Facts,
    /// What the primary waits for before it releases outputs; the primary's goes.
    pub commit: Commit,
    /// Whose acknowledgement the primary waits for; the primary's goes.
    pub release: Release,
    /// How often either side is heard at least, in milliseconds; the primary's goes.
    pub heartbeat_ms: u32,
    /// After how much silence a side counts as lost, in milliseconds; the primary's goes. At least
    /// four heartbeats.
    pub detect_ms: u32,
    /// How long a connection may last without its introduction, in milliseconds.
    pub handshake_ms: u32,
    /// How long a backup waits before it looks for a primary again, in milliseconds.
    pub rejoin_ms: u32,
    /// How long to wait before an arbiter that could not be reached is asked again, in milliseconds.
    pub arbiter_retry_ms: u32,
    /// How much log may be ahead of what the backup has executed, in bytes, before the guest waits.
    /// Should be the same on both sides: a backup refuses more than twice its own and the guest's RAM.
    pub lag_bytes_max: u64,
    /// For how long the backup may leave an epoch unexecuted before the guest waits, in milliseconds: a
    /// backup that takes over has that much to catch up with first.
    pub lag_ms_max: u32,
    /// For how long at a stretch the guest waits for its backup before the backup is given up, in
    /// milliseconds.
    pub give_up_ms: u32,
    /// A generation whose question was put so long before it was answered, in milliseconds, says nothing of now:
    /// whoever sees no sign of a guest for longer may have started it.
    pub lease_ms: u32,
}

impl Config {
    /// A configuration with the usual times.
    pub fn new(start: Start, host: &str, facts: Facts) -> Self {
        Config {
            start,
            host: host.to_owned(),
            bidder: host.to_owned(),
            backups_max: 1,
            facts,
            commit: Commit::Received,
            release: Release::All,
            heartbeat_ms: 50,
            detect_ms: 300,
            handshake_ms: 3000,
            rejoin_ms: 500,
            arbiter_retry_ms: 200,
            lag_bytes_max: 64 << 20,
            lag_ms_max: 200,
            give_up_ms: 10_000,
            lease_ms: 4_000,
        }
    }
}

/// Where a side stands, for `ftd status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// Its generation.
    pub generation: Generation,
    /// Whether the guest survives the loss of either host at this moment.
    pub protected: bool,
    /// The other side's host name, if there is one and it has said it; the first of several.
    pub peer: Option<String>,
    /// The connection to it.
    pub link: Option<PeerId>,
    /// Who has a copy of a live guest.
    pub backups: Vec<BackupStatus>,
    /// Name of the host that is being sent a clone.
    pub joining: Option<String>,
    /// The last epoch that was closed (live copies) or received (others).
    pub epoch: u64,
    /// The last epoch that all backups have received, as far as this side knows.
    pub received: u64,
    /// The last epoch that all backups have executed, as far as this side knows.
    pub executed: u64,
    /// The last epoch whose outputs are out (live copies).
    pub released: u64,
    /// Log that not all backups have executed yet, in bytes.
    pub lag_bytes: u64,
    /// When the oldest epoch that not all backups have executed was sent (live copies) or received (others),
    /// by the clock that the core is told; none if there is no such epoch.
    pub behind_since_ns: Option<u64>,
    /// Whether the guest waits for the backup (back-pressure).
    pub guest_stopped: bool,
    /// Whether an answer from the arbiter is waited for.
    pub asking_arbiter: bool,
    /// To whom the guest is offered, in a planned hand-over: the connection and the host's name.
    pub offered: Option<(PeerId, String)>,
}

/// Where a backup stands, as its primary knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStatus {
    /// Its host name.
    pub host: String,
    /// The connection to it.
    pub peer: PeerId,
    /// Whether it can take over.
    pub protects: bool,
    /// The last epoch that it has received.
    pub received: u64,
    /// The last epoch that it has executed.
    pub executed: u64,
    /// When the oldest epoch that it has not executed was sent; none if there is no such epoch.
    pub behind_since_ns: Option<u64>,
}
