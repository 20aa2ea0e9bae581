//! What a guest without a peer says of itself when it is asked over the control socket.

use std::sync::Arc;

use replay::EncodedEpoch;
use vmm::guest::Flip;

use crate::control::meter::Meter;
use crate::control::request::check_flip;
use crate::control::{Answers, Report};
use crate::host::clock::monotonic_ns;
use crate::run::gauges::Gauges;
use crate::run::inbox::{Inbox, Order};
use crate::setup::Shell;

/// What is known of the guest.
pub(super) struct Asked {
    fixed: Report,
    ram_bytes: u64,
    inbox: Arc<Inbox>,
    /// What its thread shows.
    pub(super) gauges: Arc<Gauges>,
    log: Meter,
    made: Option<u64>,
}

impl Asked {
    pub(super) fn new(logged: bool, shell: &Shell, inbox: &Arc<Inbox>) -> Asked {
        let command = if logged { "record" } else { "run" };
        Asked {
            fixed: Report {
                role: "alone".to_owned(),
                why_unprotected: Some(format!("ftd {command} keeps no backup")),
                ..Report::of(command, shell)
            },
            ram_bytes: shell.ram_bytes,
            inbox: Arc::clone(inbox),
            gauges: Arc::default(),
            log: Meter::default(),
            made: None,
        }
    }

    /// An epoch was made.
    pub(super) fn logged(&mut self, epoch: &EncodedEpoch) {
        self.made = Some(epoch.epoch);
        self.log.add(monotonic_ns(), epoch.bytes.len());
    }
}

impl Answers for Asked {
    fn status(&mut self) -> Report {
        let now = monotonic_ns();
        let counters = self.gauges.counters();
        Report {
            epoch_made: self.made,
            log_mbit_s: self.log.mbit_s(now),
            snapshots: counters.map(|counters| counters.snapshots),
            landings: counters.map(|counters| counters.landings),
            virtual_s: self.gauges.virtual_now(now).map(|now| now as f64 / 1e9),
            ..self.fixed.clone()
        }
    }

    fn failover(&mut self) -> Result<(), String> {
        let command = &self.fixed.command;
        Err(format!(
            "ftd {command} keeps no backup to hand the guest to"
        ))
    }

    fn flip(&mut self, flip: Flip) -> Result<(), String> {
        check_flip(flip, self.ram_bytes)?;
        self.inbox.order(Order::Flip(flip));
        Ok(())
    }
}
