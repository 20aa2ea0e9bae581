//! A planned hand-over: the guest goes to the backup, in order.
//!
//! The guest stands still at the end of an epoch, behind every frame that came until then. Once the backup
//! has executed all of the log and found its copy equal, and all outputs and disk requests are done, the core
//! offers it the guest ([`Event::HandOver`]), and the arbiter decides as ever: the guest goes on there, or, if
//! the backup does not take it, here. Frames that come for it meanwhile are kept ([`late`]); once it is live
//! there, this side ends, and they follow over the logging channel ([`seeing_off`]).

mod late;
mod seeing_off;

use anyhow::Result;
use replay::protocol::{Event, HaltReason, PeerId, Role};
use serde_json::json;

use self::late::LateFrames;
use super::{Pair, since_ms};
use crate::arbiter::Sign;
use crate::control::HandedOver;
use crate::host::clock::monotonic_ns;
use crate::run::inbox::Order;

/// How long the guest may wait for the backup to have it all, in nanoseconds.
const PREPARE_NS: u64 = 5_000_000_000;
/// Without a sign on the shared storage for so long, in nanoseconds, nobody could take the guest.
const STORAGE_NS: u64 = 2_000_000_000;
/// How often to look whether the backup has taken it, in nanoseconds.
const LOOK_EVERY_NS: u64 = 2_000_000;

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
    /// The backup was offered the guest.
    offered: bool,
    /// The generation after this side's own.
    next: u64,
    /// The storage is being looked at; or when it is next.
    looking: bool,
    look_at: u64,
    /// Who has taken the guest, when that was seen, and the times until then.
    taken: Option<(Sign, u64, (f64, f64))>,
    late: LateFrames,
}

/// What came of a hand-over when this side ended.
pub(super) struct Ending {
    /// Where the guest is, or what went wrong, for people.
    pub(super) end: Result<HandedOver, String>,
    /// A signal asked for it: this side is not to be started again.
    pub(super) ending: bool,
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
        let silent_ns = self.holding.silent_ns();
        if silent_ns > STORAGE_NS {
            return Err(format!(
                "nobody can take the guest over: the shared storage has taken no sign of life for {:.1} s",
                silent_ns as f64 / 1e9
            ));
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
            offered: false,
            next: status.generation + 1,
            looking: false,
            look_at: 0,
            taken: None,
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
                let (late, mac) = (&mut handing.late, self.guest_mac);
                self.backends.take_frames_to(|frame| late.take(frame, mac))
            }
        }
    }

    /// Takes the hand-over a step on, if it is time.
    pub(super) fn turn_handing(&mut self) -> Result<()> {
        let Some(handing) = &self.handing else {
            return Ok(());
        };
        let status = self.core.status();
        if handing.offered {
            if status.role != Role::Halted && status.offered.is_none() {
                let to = handing.to.clone();
                return self.give_handing_up(&format!("{to} did not take it"));
            }
            self.look_who_took_it();
            return Ok(());
        }
        if status.role != Role::Primary || !status.protected {
            return self
                .give_handing_up("the backup was lost, or left, before it had all of the log");
        }
        if let Some((_, through)) = handing.paused
            && status.epoch == through
            && self.held.is_empty()
            && self.backends.disks_are_idle()
        {
            self.tell(Event::HandOver)?;
            let offered = self.core.status().offered;
            if let (Some(handing), Some((peer, host))) = (&mut self.handing, offered) {
                handing.offered = true;
                (handing.peer, handing.to) = (Some(peer), host);
                return Ok(());
            }
        }
        let Some(handing) = &self.handing else {
            return Ok(());
        };
        if monotonic_ns().saturating_sub(handing.asked_at) < PREPARE_NS {
            return Ok(());
        }
        let what = match handing.paused {
            None => "the guest could not be stopped".to_owned(),
            Some((_, through)) if status.executed < through => format!(
                "the backup was still {} epochs behind",
                through - status.executed
            ),
            Some(_) => "outputs, or requests to the disks, were not done".to_owned(),
        };
        let seconds = PREPARE_NS / 1_000_000_000;
        self.give_handing_up(&format!("after {seconds} s {what}"))
    }

    /// Looks at the storage, again and again, for the sign of whoever has the guest next.
    fn look_who_took_it(&mut self) {
        let now = monotonic_ns();
        if let Some(handing) = &mut self.handing
            && handing.taken.is_none()
            && !handing.looking
            && now >= handing.look_at
        {
            handing.looking = true;
            handing.look_at = now + LOOK_EVERY_NS;
            self.asker.find(handing.next);
        }
    }

    /// The storage was looked at.
    pub(super) fn found_holder(&mut self, sign: Option<Sign>) -> Result<()> {
        let Some(handing) = &mut self.handing else {
            return Ok(());
        };
        handing.looking = false;
        let Some(sign) = sign.filter(|_| handing.taken.is_none()) else {
            return Ok(());
        };
        if sign.process == *self.holding.process() {
            return Ok(()); // The next generation is this side's own.
        }
        let generation = sign.generation;
        handing.taken = Some((sign, monotonic_ns(), times(handing)));
        self.tell(Event::Superseded { generation })
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
    /// it, if there was one.
    pub(super) fn end_handing(&mut self, why: &HaltReason) -> Option<Ending> {
        let handing = self.handing.take()?;
        let (to, ending) = (handing.to.clone(), handing.ending);
        let lost = matches!(why, HaltReason::Lost { .. });
        let end = match handing.offered && lost {
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
        Some(Ending { end, ending })
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
