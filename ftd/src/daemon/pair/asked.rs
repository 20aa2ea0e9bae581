//! What a side says of itself when it is asked over the control socket.

use replay::EncodedEpoch;
use replay::frame::EPOCH_HEADER_BYTES;
use replay::protocol::{BackupStatus, Role, Status};
use vmm::guest::Flip;

use super::Pair;
use super::copy::Copy;
use crate::control::meter::Meter;
use crate::control::request::check_flip;
use crate::control::{Answers, BackupReport, Failover, LastClone, Report};
use crate::daemon::clone::Precopied;
use crate::host::clock::{monotonic_ns, realtime_ns};
use crate::run::inbox::Order;
use crate::setup::Shell;

/// What is kept to be asked for.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// What never changes.
    fixed: Report,
    log: Meter,
    log_bytes: u64,
    log_entries: u64,
    divergences: u64,
    /// How long the peer that was lost last had been silent.
    detection_ms: f64,
    last_failover: Option<Failover>,
    last_clone: Option<LastClone>,
    /// The virtual time that the replayed copy has reached, in nanoseconds.
    pub(super) replayed_to: Option<u64>,
}

impl Kept {
    pub(super) fn new(primary: bool, vm: &str, shell: &Shell) -> Kept {
        let command = if primary { "primary" } else { "backup" };
        Kept {
            fixed: Report {
                vm: Some(vm.to_owned()),
                ..Report::of(command, shell)
            },
            ..Kept::default()
        }
    }

    /// An epoch was sent or received.
    pub(super) fn logged(&mut self, epoch: &EncodedEpoch) {
        let bytes = EPOCH_HEADER_BYTES + epoch.bytes.len();
        self.log.add(monotonic_ns(), bytes);
        self.log_bytes += bytes as u64;
        self.log_entries += u64::from(epoch.entries);
    }

    /// A copy was found to differ.
    pub(super) fn diverged(&mut self) {
        self.divergences += 1;
    }

    /// The peer was taken for lost after that much silence.
    pub(super) fn lost(&mut self, silent_ns: u64) {
        self.detection_ms = silent_ns as f64 / 1e6;
    }

    /// A joiner was given a clone, for which the guest stood so long.
    pub(super) fn cloned(&mut self, precopied: &Precopied, stop_ns: u64) {
        self.last_clone = Some(LastClone {
            unix_ms: realtime_ns() / 1_000_000,
            precopy_ms: precopied.took.as_secs_f64() * 1e3,
            stop_ms: stop_ns as f64 / 1e6,
            pages_sent: precopied.pages_sent,
            pages_equal: precopied.pages_equal,
        });
    }

    /// The guest went live here.
    pub(super) fn live(&mut self, go_live_ms: f64) {
        self.last_failover = Some(Failover {
            unix_ms: realtime_ns() / 1_000_000,
            detection_ms: self.detection_ms,
            go_live_ms,
        });
    }
}

impl Pair {
    /// Serves the control socket.
    pub(super) fn take_asked(&mut self) {
        if let Some(mut control) = self.control.take() {
            self.control_ready = control.turn(self);
            self.control = Some(control);
        }
    }

    /// Why the guest would not survive the loss of either host.
    pub(super) fn why_unprotected(&self) -> Option<String> {
        self.why(&self.core.status())
    }

    fn why(&self, status: &Status) -> Option<String> {
        why_unprotected(status, self.holding.is_suspended(), self.listener.is_some())
    }

    /// Whoever has a copy of the guest that is live here.
    fn backups(&self, status: &Status) -> Option<Vec<BackupReport>> {
        let now = monotonic_ns();
        let report = |backup: &BackupStatus| BackupReport {
            host: backup.host.clone(),
            address: self.links.address(backup.peer),
            protects: backup.protects,
            epoch_acknowledged: numbered(backup.received),
            epoch_executed: numbered(backup.executed),
            lag_ms: match backup.behind_since_ns {
                Some(since) => now.saturating_sub(since) as f64 / 1e6,
                None => 0.0,
            },
        };
        let live = matches!(status.role, Role::Primary | Role::Alone);
        live.then(|| status.backups.iter().map(report).collect())
    }

    fn virtual_now(&self) -> Option<u64> {
        let live = self.gauges.virtual_now(monotonic_ns());
        live.or(self.kept.replayed_to)
    }
}

impl Answers for Pair {
    fn status(&mut self) -> Report {
        let status = self.core.status();
        let now = monotonic_ns();
        let counters = self.gauges.counters();
        let paired = matches!(status.role, Role::Primary | Role::Backup);
        let has_replica = paired && status.executed > 0;
        let until = match status.role {
            Role::Primary => status.epoch,
            _ => status.received,
        };
        let behind_ns = |since| now.saturating_sub(since) as f64;
        Report {
            role: status.role.to_string(),
            protected: status.protected,
            why_unprotected: self.why(&status),
            generation: numbered(status.generation),
            backups: self.backups(&status),
            peer_address: status.link.and_then(|peer| self.links.address(peer)),
            epoch_made: match status.role {
                Role::Primary | Role::Alone => numbered(status.epoch),
                _ => None,
            },
            epoch_acknowledged: numbered(status.received).filter(|_| paired),
            epoch_executed: numbered(status.executed).filter(|_| paired),
            lag_ms: has_replica.then(|| status.behind_since_ns.map_or(0.0, behind_ns) / 1e6),
            lag_epochs: has_replica.then(|| until.saturating_sub(status.executed)),
            lag_bytes: has_replica.then_some(status.lag_bytes),
            log_mbit_s: self.kept.log.mbit_s(now).filter(|_| paired),
            log_bytes: Some(self.kept.log_bytes),
            log_entries: Some(self.kept.log_entries),
            divergences: Some(self.kept.divergences),
            snapshots: counters.map(|counters| counters.snapshots),
            landings: counters.map(|counters| counters.landings),
            last_failover: self.kept.last_failover,
            last_clone: self.kept.last_clone,
            virtual_s: self.virtual_now().map(|now| now as f64 / 1e9),
            peer_host: status.peer,
            ..self.kept.fixed.clone()
        }
    }

    fn failover(&mut self) -> Result<(), String> {
        self.begin_handing("ftd failover", false)
    }

    fn flip(&mut self, flip: Flip) -> Result<(), String> {
        check_flip(flip, self.shell.ram_bytes)?;
        match &self.copies.current {
            Copy::Following { queue, .. } => queue.flip(flip),
            Copy::Live { .. } => self.inbox.order(Order::Flip(flip)),
            Copy::None | Copy::Booted(_) | Copy::Filling(_) => {
                return Err("no copy of the guest runs here".to_owned());
            }
        }
        tracing::warn!("a bit of this copy is changed, as was asked for: {flip:?}");
        Ok(())
    }
}

/// Epochs and generations are counted from 1; 0 says that there is none, or that it is not known.
fn numbered(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

/// Why the guest would not survive the loss of either host.
fn why_unprotected(status: &Status, storage_lost: bool, joinable: bool) -> Option<String> {
    if status.protected {
        return None;
    }
    let peer = status.peer.as_deref();
    Some(match (status.role, peer) {
        (Role::Starting, _) => "the shared storage has not given it the guest yet".to_owned(),
        (Role::Joining, None) => "it looks for a primary".to_owned(),
        (Role::Joining, Some(peer)) => format!("it waits for its copy of the guest from {peer}"),
        (Role::Alone | Role::Primary, None) if storage_lost => {
            "the shared storage takes no sign of life, and nothing goes out".to_owned()
        }
        (Role::Alone, None) if !joinable => {
            "it has no backup, and none can join: this ftd was started without --listen".to_owned()
        }
        (Role::Alone, None) => "it has no backup".to_owned(),
        (Role::Alone, Some(peer)) => format!("{peer} is being sent its copy of the guest"),
        (Role::Primary, Some(peer)) => {
            format!("{peer} has not confirmed its copy of the guest yet")
        }
        (Role::Primary, None) if status.offered.is_some() => {
            "it is being handed over: its backup was offered the guest".to_owned()
        }
        (Role::Primary, None) => {
            "its backup is lost, and the shared storage is asked who goes on".to_owned()
        }
        (Role::Backup, _) if status.asking_arbiter => {
            "its primary is lost, and the shared storage is asked who goes on".to_owned()
        }
        (Role::Backup, _) => "its primary is lost, and it executes the rest of the log".to_owned(),
        (Role::Halted, _) => "it has ended".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use replay::protocol::PeerId;

    use super::*;

    fn side(role: Role, peer: Option<&str>) -> Status {
        Status {
            role,
            generation: 1,
            protected: false,
            peer: peer.map(str::to_owned),
            link: None,
            epoch: 0,
            received: 0,
            executed: 0,
            released: 0,
            lag_bytes: 0,
            behind_since_ns: None,
            guest_stopped: false,
            asking_arbiter: false,
            offered: None,
            backups: Vec::new(),
            joining: None,
        }
    }

    #[test]
    fn a_side_says_what_keeps_the_guest_from_being_protected() {
        let mut protected = side(Role::Primary, Some("west"));
        protected.protected = true;
        assert_eq!(why_unprotected(&protected, true, true), None);
        let mut offered = side(Role::Primary, None);
        offered.offered = Some((PeerId(1), "west".to_owned()));
        let mut asking = side(Role::Backup, None);
        asking.asking_arbiter = true;
        for (status, storage_lost, words) in [
            (
                side(Role::Primary, Some("west")),
                false,
                "west has not confirmed",
            ),
            (side(Role::Primary, None), false, "its backup is lost"),
            (side(Role::Alone, None), false, "it has no backup"),
            (side(Role::Alone, None), true, "nothing goes out"),
            (side(Role::Primary, None), true, "nothing goes out"),
            (side(Role::Alone, Some("west")), false, "west is being sent"),
            (side(Role::Joining, None), false, "looks for a primary"),
            (offered, false, "handed over"),
            (asking, false, "the shared storage is asked"),
            (side(Role::Backup, None), false, "executes the rest"),
            (side(Role::Halted, None), false, "has ended"),
        ] {
            let why = why_unprotected(&status, storage_lost, true).unwrap_or_default();
            assert!(why.contains(words), "{status:?}: {why}");
        }
        let why = why_unprotected(&side(Role::Alone, None), false, false).unwrap_or_default();
        assert!(why.contains("--listen"), "{why}");
    }
}
