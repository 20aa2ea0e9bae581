//! The answer to `status`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use vmm::guest::Flip;

use super::Answers;
use crate::daemon::pair::host_kvm;
use crate::setup::Shell;

/// What a running ftd knows of itself and its peer. What it does not know, or what does not apply to it, is
/// `None`: null in JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The command: primary, backup, pair, run, record.
    pub command: String,
    /// Its process.
    pub pid: u32,
    /// What this side is now: starting, joining, primary, backup, alone, halted.
    pub role: String,
    /// Whether the guest survives the loss of either host at this moment.
    pub protected: bool,
    /// If it does not, why.
    pub why_unprotected: Option<String>,
    /// Name of the virtual machine.
    pub vm: Option<String>,
    /// How often a copy of the guest has become the only live one.
    pub generation: Option<u64>,
    /// How positions are made.
    pub clock: String,
    /// The host's KVM module.
    pub host_kvm: String,
    /// The other side's host name; the first of several backups'.
    pub peer_host: Option<String>,
    /// The other side's end of the logging channel.
    pub peer_address: Option<SocketAddr>,
    /// Who has a copy of the guest that is live here, or is about to.
    pub backups: Option<Vec<BackupReport>>,
    /// The last epoch that this side made, or took over when it went live (live copies).
    pub epoch_made: Option<u64>,
    /// The last epoch that the backup has acknowledged.
    pub epoch_acknowledged: Option<u64>,
    /// The last epoch that the backup has executed, as far as this side knows: a backup's own word, which a
    /// primary hears a heartbeat later.
    pub epoch_executed: Option<u64>,
    /// For how long the oldest epoch that the backup has not executed (as far as this side knows) has been
    /// sent, or on a backup been there, in milliseconds; 0 when all is executed.
    pub lag_ms: Option<f64>,
    /// Epochs that are not executed.
    pub lag_epochs: Option<u64>,
    /// Log that is not executed, in bytes.
    pub lag_bytes: Option<u64>,
    /// Log in Mbit/s over the last five seconds.
    pub log_mbit_s: Option<f64>,
    /// Log that this side sent or received so far, in bytes.
    pub log_bytes: Option<u64>,
    /// Entries in it.
    pub log_entries: Option<u64>,
    /// Times that this side's copy, or the backup's, was found to differ.
    pub divergences: Option<u64>,
    /// Snapshots taken since the guest has been live here because an input had waited too long.
    pub snapshots: Option<u64>,
    /// Points between exits at which inputs landed, since the guest has been live here.
    pub landings: Option<u64>,
    /// The last time that the guest went live here because its primary was lost.
    pub last_failover: Option<Failover>,
    /// The last live clone that this side gave to a joiner.
    pub last_clone: Option<LastClone>,
    /// How long this process has run, in seconds.
    pub uptime_s: f64,
    /// The guest's virtual time, in seconds; on a backup, that of the last epoch executed.
    pub virtual_s: Option<f64>,
}

impl Report {
    /// Of a command that runs a guest like this: what never changes.
    pub fn of(command: &str, shell: &Shell) -> Report {
        Report {
            command: command.to_owned(),
            pid: std::process::id(),
            clock: shell.clock.to_string(),
            host_kvm: host_kvm(),
            ..Report::default()
        }
    }
}

/// A backup, as its primary knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupReport {
    /// Its host name.
    pub host: String,
    /// Its end of the logging channel.
    pub address: Option<SocketAddr>,
    /// Whether it can take over.
    pub protects: bool,
    /// The last epoch that it has acknowledged.
    pub epoch_acknowledged: Option<u64>,
    /// The last epoch that it has executed.
    pub epoch_executed: Option<u64>,
    /// For how long the oldest epoch that it has not executed has been sent, in milliseconds.
    pub lag_ms: f64,
}

/// Of a process that has no more to say than this.
impl Answers for Report {
    fn status(&mut self) -> Report {
        self.clone()
    }

    fn failover(&mut self) -> Result<(), String> {
        Err("no guest is here yet".to_owned())
    }

    fn flip(&mut self, _flip: Flip) -> Result<(), String> {
        Err("no copy of the guest runs here".to_owned())
    }
}

/// A live clone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LastClone {
    /// When it was complete, in milliseconds since 1970 by this host's clock.
    pub unix_ms: u64,
    /// How long pages were compared and sent while the guest ran, in milliseconds.
    pub precopy_ms: f64,
    /// How long the guest stood, in milliseconds.
    pub stop_ms: f64,
    /// Pages sent while the guest ran.
    pub pages_sent: u64,
    /// Pages that the joiner had already, and was not sent; without those of zeros.
    pub pages_equal: u64,
}

/// A fail-over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Failover {
    /// When the guest went live, in milliseconds since 1970 by this host's clock.
    pub unix_ms: u64,
    /// How long the primary had been silent when it was taken for lost, in milliseconds.
    pub detection_ms: f64,
    /// From there until the guest was live, in milliseconds.
    pub go_live_ms: f64,
}

/// A planned hand-over that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandedOver {
    /// The host where the guest is live now.
    pub host: String,
    /// The generation that was won there.
    pub generation: u64,
    /// Where it can be joined, if anywhere.
    pub listen: Option<String>,
    /// From the request until the guest was live there, in milliseconds.
    pub took_ms: f64,
    /// For how long of that the guest stood still, in milliseconds.
    pub stood_ms: f64,
    /// Frames for the guest that came here meanwhile and were passed on to it.
    pub frames_passed_on: u64,
    /// Those that could not be.
    pub frames_lost: u64,
}
