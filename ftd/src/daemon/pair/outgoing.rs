//! What the other threads hand to the loop: epochs and outputs, pages, answers, ends.

use std::collections::VecDeque;

use anyhow::Result;
use devices::Effect;
use replay::protocol::{EndReason, Event, PeerId};
use serde_json::json;

use super::copy::ThreadEnded;
use super::{Pair, since_ms};
use crate::daemon::clone::Precopied;
use crate::daemon::guest_thread::ThreadEnd;
use crate::daemon::journal::chain;
use crate::host::clock::monotonic_ns;
use crate::outside::outbox::{CopySerial, Outgoing, WentLive};
use crate::run::RunError;
use crate::run::inbox::Order;
use crate::run::live::Ended;

impl Pair {
    pub(super) fn take_outgoing(&mut self) -> Result<()> {
        let mut items = VecDeque::new();
        self.outbox.take(&mut items);
        for item in items {
            match item {
                Outgoing::Epoch(epoch) => self.tell(Event::EpochClosed(epoch))?,
                Outgoing::Output { after, effect } => {
                    self.held.push(after, effect);
                    self.let_out()?;
                }
                Outgoing::CloneStopped { stop_ns } => self.clone_stopped(stop_ns),
                Outgoing::CloneReady { to, first } => self.clone_ready(to, first)?,
                Outgoing::CloneFailed { to, why } => {
                    if let Some((peer, _)) = self.cloning.take_if(|(peer, _)| *peer == to) {
                        self.joiner_has = None;
                        self.watch_no_more()?;
                        self.tell(Event::CloneFailed { peer, why })?;
                    }
                }
                Outgoing::Executed {
                    copy,
                    epoch,
                    virtual_now,
                } => {
                    // Looked at twice: the first event may lead to the copy's being dropped.
                    if self.copies.is_current(copy) {
                        self.kept.replayed_to = Some(virtual_now);
                        self.tell(Event::Executed { epoch, virtual_now })?;
                    }
                    if self.copies.is_current(copy) {
                        self.tell(Event::Verified { epoch })?;
                    }
                }
                Outgoing::Arbiter { asked, answer } => {
                    self.tell(Event::Arbiter { asked, answer })?;
                }
                Outgoing::Standing { asked, answer } => {
                    self.tell(Event::Standing { asked, answer })?;
                }
                Outgoing::Signed { begun_ns, may_pass } => self.signed(begun_ns, may_pass)?,
                Outgoing::Superseded { generation } => {
                    self.tell(Event::Superseded { generation })?;
                }
                Outgoing::Paused { number, frames } => self.guest_paused(number, frames),
                Outgoing::Looked { vacant } => self.looked(vacant)?,
                Outgoing::Holder { sign } => self.found_holder(sign)?,
                Outgoing::Live(went) => self.went_live(*went)?,
                Outgoing::Ended { copy } => self.guest_thread_ended(copy)?,
            }
        }
        Ok(())
    }

    /// The guest runs here from now on.
    fn went_live(&mut self, mut went: WentLive) -> Result<()> {
        went.unreleased.out_through(self.released_before);
        self.backends.drop_frames();
        self.backends.announce(went.addresses)?;
        for effect in went.unreleased.into_outputs() {
            self.held.push(0, effect);
        }
        self.let_out()?;
        let go_live_ms = self.peer_lost_at.take().map(since_ms);
        self.kept.live(go_live_ms.unwrap_or(0.0));
        self.journal.event(
            "live",
            json!({"go_live_ms": go_live_ms, "reissued": went.reissued,
                   "generation": self.core.generation()}),
        );
        tracing::info!(
            "the guest is live here, {:.1} ms after the primary was lost",
            go_live_ms.unwrap_or(0.0)
        );
        Ok(())
    }

    /// Lets out what the output rule lets go.
    pub(super) fn let_out(&mut self) -> Result<()> {
        while let Some(effect) = self.held.next_free() {
            let ended = match effect {
                Effect::PowerOff => Some(EndReason::PowerOff),
                Effect::Reset => Some(EndReason::Reset),
                _ => None,
            };
            self.backends.release(effect)?;
            if let Some(reason) = ended {
                self.journal
                    .event("guest_ended", json!({"why": reason.to_string()}));
                self.core.handle(
                    monotonic_ns(),
                    Event::GuestEnded { reason },
                    &mut self.actions,
                );
                let actions = std::mem::take(&mut self.actions);
                for action in actions {
                    self.act(action)?;
                }
            }
        }
        Ok(())
    }

    fn clone_ready(&mut self, to: PeerId, first: u64) -> Result<()> {
        let Some((peer, mut cloning)) = self.cloning.take_if(|(peer, _)| *peer == to) else {
            if !self.held.is_holding() {
                // Given up in the meantime: nobody reads the log that has just begun.
                self.inbox.order(Order::EndLog);
            }
            return Ok(());
        };
        self.precopied = cloning.join();
        self.joiner_has = None;
        self.watch_no_more()?;
        self.tell(Event::CloneReady { peer, first })
    }

    fn clone_stopped(&mut self, stop_ns: u64) {
        let precopied = self.precopied.take().unwrap_or_default();
        self.kept.cloned(&precopied, stop_ns);
        let Precopied {
            rounds,
            pages_sent,
            pages_equal,
            left,
            took,
        } = precopied;
        self.journal.event(
            "cloned",
            json!({"clone_stop_ms": stop_ns as f64 / 1e6, "rounds": rounds,
                   "pages_sent": pages_sent, "pages_equal": pages_equal, "pages_left": left,
                    "precopy_ms": took.as_secs_f64() * 1e3}),
        );
        tracing::info!(
            "the guest stood for {:.1} ms to be cloned, after {rounds} rounds with {pages_sent} pages; \
             {pages_equal} more were there already",
            stop_ns as f64 / 1e6
        );
    }

    pub(super) fn diverged(&mut self, epoch: u64, what: &str) -> Result<()> {
        tracing::error!("DIVERGENCE in epoch {epoch}: {what}");
        self.journal
            .event("divergence", json!({"epoch": epoch, "what": what}));
        self.tell(Event::Diverged { epoch, fatal: true })
    }

    fn guest_thread_ended(&mut self, copy: CopySerial) -> Result<()> {
        let Some(ThreadEnded { end, following }) = self.copies.ended(copy) else {
            return Ok(());
        };
        match end {
            Ok(ThreadEnd::Dropped) => Ok(()),
            // PoweredOff and Reset end the guest when their output is let out.
            Ok(ThreadEnd::Ended(Ended::Stopped | Ended::PoweredOff | Ended::Reset)) => Ok(()),
            Err(error @ (RunError::OwnDisk { .. } | RunError::DiskPage(_))) => {
                self.leave(Event::Failed { why: chain(&error) })
            }
            Err(error) if following => {
                let epoch = self.core.status().executed + 1;
                self.diverged(epoch, &chain(&error))
            }
            Err(error) => self.leave(Event::Failed { why: chain(&error) }),
        }
    }
}
