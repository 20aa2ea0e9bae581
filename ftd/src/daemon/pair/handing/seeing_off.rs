//! After this side has ended: waits until the guest is live where it went, and sends it the frames that still
//! come here.
//!
//! That it is live shows on the shared storage, by its new holder's sign. That the network knows shows on
//! the TAP, by a frame that comes *from* the guest's address: the announcement of its new place has then
//! passed all bridges on the way here.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::Events;
use replay::protocol::Message;

use super::super::{CONTROL, Pair};
use super::late::LateFrames;
use super::{Handing, times};
use crate::arbiter::Sign;
use crate::control::HandedOver;
use crate::host::clock::monotonic_ns;
use crate::outside::outbox::Outgoing;

/// How long the backup may take to be live once it has won the guest.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long the announcement may take once the guest is live; without a TAP none is waited for.
const ANNOUNCED: Duration = Duration::from_secs(1);
/// For so long frames may still come that were on their way when the network learned of it.
const LINGER: Duration = Duration::from_millis(20);
/// Bytes waiting to be sent at which frames wait here.
const BACKLOG_BYTES_MAX: usize = 1 << 20;

impl Pair {
    /// Waits until the guest is live elsewhere; `None` if that does not come about.
    pub(super) fn see_off(&mut self, mut handing: Handing) -> Result<Option<HandedOver>> {
        let has_tap = self.backends.tap_fd().is_some();
        let begun_at = monotonic_ns();
        let over = |since: u64, limit: Duration| {
            u128::from(monotonic_ns().saturating_sub(since)) >= limit.as_nanos()
        };
        let mut events = Events::with_capacity(64);
        let mut items = VecDeque::new();
        let mut passed_on = 0;
        loop {
            if handing.taken.is_none() && !std::mem::replace(&mut handing.looking, true) {
                self.asker.find(handing.next);
            }
            self.attend(&mut events)?;
            let (late, mac) = (&mut handing.late, self.guest_mac);
            self.backends
                .take_frames_to(|frame| late.take(frame, mac))?;
            passed_on += self.follow_with_frames(&mut handing);
            self.outbox.take(&mut items);
            for item in items.drain(..) {
                if let Outgoing::Holder { sign } = item {
                    handing.looking = false;
                    if let (None, Some(sign)) = (&handing.taken, sign) {
                        handing.taken = Some((sign, monotonic_ns(), times(&handing)));
                    }
                }
            }
            let done = match (&handing.taken, handing.late.announced_at) {
                (None, _) if over(begun_at, PATIENCE) => return Ok(None),
                (None, _) => false,
                (Some(_), Some(at)) => over(at, LINGER),
                (Some((_, at, _)), None) => !has_tap || over(*at, ANNOUNCED),
            };
            if done {
                let Handing { taken, late, .. } = handing;
                return Ok(taken.map(|(sign, _, times)| handed_over(sign, times, passed_on, &late)));
            }
        }
    }

    /// Waits for a little, sends what is to be sent, and answers who asks.
    fn attend(&mut self, events: &mut Events) -> Result<()> {
        if let Err(error) = self.poll.poll(events, Some(LOOK_EVERY))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error).context("cannot wait for events");
        }
        for event in &*events {
            if event.token() == CONTROL {
                self.control_ready = true;
            } else if let Some(peer) = self.links.peer_of(event.token()) {
                self.links.serve(self.poll.registry(), peer);
            }
        }
        if self.control_ready {
            self.take_asked();
        }
        self.tell_manager();
        Ok(())
    }

    /// Sends frames after a guest that is live elsewhere; gives how many.
    fn follow_with_frames(&mut self, handing: &mut Handing) -> u64 {
        let (Some(peer), Some(_)) = (handing.peer, &handing.taken) else {
            return 0;
        };
        let mut sent = 0;
        while self.links.address(peer).is_some()
            && self.links.backlog_bytes(peer) < BACKLOG_BYTES_MAX
            && let Some(bytes) = handing.late.pop()
        {
            self.links.send(peer, &Message::Frame { bytes });
            sent += 1;
        }
        sent
    }
}

fn handed_over(
    sign: Sign,
    (took_ms, stood_ms): (f64, f64),
    frames_passed_on: u64,
    late: &LateFrames,
) -> HandedOver {
    HandedOver {
        host: sign.host,
        generation: sign.generation,
        listen: sign.listen,
        took_ms,
        stood_ms,
        frames_passed_on,
        frames_lost: late.lost + late.len() as u64,
    }
}
