//! A planned hand-over: the guest goes to the backup, in order.
//!
//! The guest stands still at the end of an epoch, behind every frame that came until then. Once the backup
//! has executed all of the log and found its copy equal, and all outputs are out, this side leaves
//! ([`Event::Stop`]), which is what has the backup bid for the guest: the arbiter decides as ever. Until this
//! side has left it can still let the guest go on here. Frames that come for the guest meanwhile are kept
//! ([`late`]), and follow it over the logging channel once this side has left ([`seeing_off`]).

mod late;
mod seeing_off;

use anyhow::Result;
use replay::protocol::{Event, HaltReason, PeerId, Role};
use serde_json::json;

use self::late::LateFrames;
use super::{Pair, since_ms};
use crate::control::HandedOver;
use crate::host::clock::monotonic_ns;
use crate::run::inbox::Order;

/// How long the guest may wait for the backup to have it all, in nanoseconds.
const PREPARE_NS: u64 = 5_000_000_000;

/// A hand-over under way.
#[derive(Debug)]
pub(super) struct Handing {
    /// To whom.
    to: String,
    peer: Option<PeerId>,
    /// A signal asked for it: this side ends whatever comes of it.
    ending: bool,
    asked_at: u64,
    /// The guest stands still since then; the last epoch is this.
    paused: Option<(u64, u64)>,
    /// This side has left.
    left: bool,
    late: LateFrames,
}

impl Pair {
    /// Begins to hand the guest over.
    ///
    /// # Errors
    /// Why that can't be done, for people.
    pub(super) fn begin_handing(&mut self, how: &str, ending: bool) -> Result<(), String> {
        if let Some(handing) = &mut self.handing {
            handing.ending |= ending;
            return Ok(());
        }
        let status = self.core.status();
        let to = status
            .peer
            .clone()
            .unwrap_or_else(|| "its backup".to_owned());
        match status.role {
            Role::Primary if status.protected => {}
            Role::Backup => {
                return Err(format!(
                    "this side is the backup and has nothing to hand over: ask the primary, on {to}"
                ));
            }
            _ => {
                let why = self.why_unprotected().unwrap_or_default();
                return Err(format!("nobody can take the guest over: {why}"));
            }
        }
        tracing::info!("{how}: the guest is handed over to {to}");
        self.journal
            .event("handing_over", json!({"to": to, "by": how}));
        let asked_at = monotonic_ns();
        self.handing = Some(Handing {
            to,
            peer: status.link,
            ending,
            asked_at,
            paused: None,
            left: false,
            late: LateFrames::default(),
        });
        self.inbox.order(Order::Pause(asked_at));
        Ok(())
    }

    /// The guest stands still, by the order of this number (the time at which it was given); these frames
    /// found no room in its ring.
    pub(super) fn guest_paused(&mut self, number: u64, frames: Vec<Vec<u8>>) {
        let through = self.core.status().epoch;
        // One that was given up had the guest go on already.
        let this = |handing: &&mut Handing| handing.asked_at == number;
        let Some(handing) = self.handing.as_mut().filter(this) else {
            return;
        };
        handing.paused = Some((monotonic_ns(), through));
        // What came since waits behind them.
        handing.late.put_before(frames);
    }

    /// Takes frames for the guest: to it, or if it is on its way to another host, aside.
    pub(super) fn take_frames(&mut self) -> Result<bool> {
        match &mut self.handing {
            None => self.backends.take_frames(),
            Some(handing) => {
                let late = &mut handing.late;
                self.backends.take_frames_to(|frame| late.push(frame))
            }
        }
    }

    /// Takes the hand-over a step on, if it is time.
    pub(super) fn turn_handing(&mut self) -> Result<()> {
        let Some(handing) = &self.handing else {
            return Ok(());
        };
        let status = self.core.status();
        if status.role != Role::Primary || !status.protected {
            return self
                .give_handing_up("the backup was lost, or left, before it had all of the log");
        }
        if let Some((_, through)) = handing.paused
            && status.executed >= through
            && status.released >= through
            && self.held.is_empty()
            && self.backends.disks_are_idle()
        {
            if let Some(handing) = &mut self.handing {
                handing.left = true;
            }
            return self.leave(Event::Stop);
        }
        if monotonic_ns().saturating_sub(handing.asked_at) < PREPARE_NS {
            return Ok(());
        }
        let what = match handing.paused {
            None => "the guest could not be stopped".to_owned(),
            Some((_, through)) if status.executed < through => format!(
                "the backup was still {} epochs behind",
                through - status.executed
            ),
            Some(_) => "the disks had not completed its requests".to_owned(),
        };
        let seconds = PREPARE_NS / 1_000_000_000;
        self.give_handing_up(&format!("after {seconds} s {what}"))
    }

    /// The guest goes on here.
    fn give_handing_up(&mut self, why: &str) -> Result<()> {
        let Some(handing) = self.handing.take() else {
            return Ok(());
        };
        self.journal
            .event("hand_over_failed", json!({"to": handing.to, "why": why}));
        if handing.ending {
            tracing::warn!("no hand-over in order: {why}");
            self.answer_handing(&Err(format!("{why}, and a signal ends this side")));
            return self.leave(Event::Stop);
        }
        let mut late = handing.late;
        while let Some(frame) = late.pop() {
            self.inbox.push(devices::Input::NetRx { frame });
        }
        self.inbox.order(Order::GoOn);
        tracing::warn!("the guest goes on here: {why}");
        self.answer_handing(&Err(format!("{why}; the guest goes on here")));
        Ok(())
    }

    /// This side ends: sees the guest off if it was handed over, and answers who asked for that. What came of
    /// it, if it was asked for by a client.
    pub(super) fn end_handing(&mut self, why: &HaltReason) -> Option<Result<HandedOver, String>> {
        let handing = self.handing.take()?;
        let (to, asked) = (handing.to.clone(), !handing.ending);
        let end = match handing.left {
            false => Err(format!("this side has ended: {why}")),
            true => match self.see_off(handing) {
                Ok(Some(done)) => Ok(done),
                Ok(None) => Err(format!(
                    "{to} was handed the guest and did not go live within {} s: look there ('ftd status')",
                    seeing_off::PATIENCE.as_secs()
                )),
                Err(error) => Err(format!("{to} was handed the guest: {error:#}")),
            },
        };
        match &end {
            Ok(done) => {
                tracing::info!(
                    "the guest is live on {}: it took {:.1} ms, of which it stood for {:.1}; {} frames \
                     that came meanwhile were passed on",
                    done.host,
                    done.took_ms,
                    done.stood_ms,
                    done.frames_passed_on
                );
                let facts = serde_json::to_value(done).unwrap_or_default();
                self.journal.event("handed_over", facts);
            }
            Err(why) => {
                tracing::error!("{why}");
                self.journal
                    .event("hand_over_failed", json!({"to": to, "why": why}));
            }
        }
        self.answer_handing(&end);
        asked.then_some(end)
    }

    fn answer_handing(&mut self, end: &Result<HandedOver, String>) {
        if let Some(control) = &mut self.control {
            control.tell(end);
        }
    }
}

/// How long it took, and how long the guest stood of that, in milliseconds.
fn times(handing: &Handing) -> (f64, f64) {
    let stood = handing.paused.map_or(0.0, |(at, _)| since_ms(at));
    (since_ms(handing.asked_at), stood)
}
