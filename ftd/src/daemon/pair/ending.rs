//! How a side ends.

use std::time::Duration;

use anyhow::{Result, bail};
use mio::Events;
use replay::protocol::{EndReason, Event, HaltReason, Role};
use serde_json::json;

use super::Pair;
use super::handing::Ending;
use crate::cli::StartAgain;
use crate::control::HandedOver;
use crate::host::clock::monotonic_ns;

/// How long disk requests that run may keep a primary from leaving to its backup. The backup waits
/// meanwhile, and so do the guest's clients.
const RETIRE: Duration = Duration::from_millis(500);
/// How long what was said to peers last may take to be sent.
const FLUSH: Duration = Duration::from_millis(500);
/// How long the vCPU's thread may take to end.
const JOIN: Duration = Duration::from_secs(2);

impl Pair {
    /// The operator wants this side to end, by `how`.
    pub(super) fn stop(&mut self, how: &str) -> Result<()> {
        let status = self.core.status();
        let hands_over =
            self.handing.is_some() || (status.role == Role::Primary && status.protected);
        let peer = status.peer.as_deref().unwrap_or("its backup");
        let then = match status.role {
            Role::Primary if hands_over => format!("the guest goes on at {peer}"),
            Role::Primary | Role::Alone => {
                "the guest has no backup and ends where it is, as by a power cut".to_owned()
            }
            Role::Backup => "the guest goes on without this backup".to_owned(),
            Role::Starting | Role::Joining | Role::Halted => "no guest is here yet".to_owned(),
        };
        tracing::info!("{how}: stopping, {then}; a second signal ends ftd at once");
        if hands_over && self.begin_handing(how, true).is_ok() {
            return Ok(());
        }
        self.leave(Event::Stop)
    }

    /// Ends this side by its own decision: [`Event::Stop`] or [`Event::Failed`]. A backup takes the
    /// guest over as soon as it is told, so until then this side's hands must be off the disks.
    pub(super) fn leave(&mut self, event: Event) -> Result<()> {
        if self.core.role() == Role::Primary && !self.backends.retire_disks(RETIRE) {
            tracing::warn!(
                "requests to the disks still run after {} ms; the backup issues them again",
                RETIRE.as_millis()
            );
        }
        self.tell(event)
    }

    /// Ends this side: nothing more is let out; what was said to the peer still goes.
    pub(super) fn close(mut self) -> Result<()> {
        let why = self.halt.take().unwrap_or(HaltReason::Stopped);
        self.managed.stopping();
        self.signals.end_at_next();
        let handed_over = self.end_handing(&why);
        self.journal
            .event("halted", json!({"why": why.to_string()}));
        self.outbox.close();
        self.copies.stop(&self.inbox);
        self.flush_links()?;
        if !self.copies.join(JOIN) {
            tracing::warn!("the guest's vCPU did not stop within {} s", JOIN.as_secs());
        }
        self.backends.finish();
        self.sign_off(&why);
        tracing::info!("this side ends: {why}");
        match handed_over {
            Some(Ending {
                end: Ok(_),
                ending: true,
            }) => return Ok(()),
            Some(Ending {
                end: Ok(HandedOver { host, listen, .. }),
                ..
            }) => {
                let at = listen.map_or(String::new(), |at| format!(" ({at})"));
                return Err(StartAgain(format!(
                    "the guest was handed over to {host}{at}; started again as its backup, this host \
                     protects it"
                ))
                .into());
            }
            // Should nobody have the guest, another start finds that out.
            Some(Ending {
                end: Err(failed), ..
            }) if !matches!(why, HaltReason::GuestEnded(_)) => {
                bail!("{failed}")
            }
            _ => {}
        }
        if let Some(why) = self.looking.start_again() {
            return Err(StartAgain(why).into());
        }
        match why {
            HaltReason::GuestEnded(EndReason::Reset) => {
                Err(StartAgain(format!("{why}: started again, ftd boots it")).into())
            }
            HaltReason::Stopped | HaltReason::GuestEnded(_) => Ok(()),
            why => bail!("{why}"),
        }
    }

    fn flush_links(&mut self) -> Result<()> {
        let until = monotonic_ns() + FLUSH.as_nanos() as u64;
        let mut events = Events::with_capacity(16);
        while self.links.backlog_bytes_max() > 0 && monotonic_ns() < until {
            self.poll
                .poll(&mut events, Some(Duration::from_millis(20)))?;
            for event in &events {
                if let Some(peer) = self.links.peer_of(event.token()) {
                    self.links.serve(self.poll.registry(), peer);
                }
            }
        }
        Ok(())
    }
}
