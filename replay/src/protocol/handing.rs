//! A planned hand-over, at the primary.
//!
//! The offer is no promise to stop: the arbiter decides, as after any loss. What differs is that the backup
//! need not wait for the primary's lease to run out, since a primary that offers its guest lets nothing out
//! from then on; and that the primary gives it time before it bids for the guest itself. So whichever of the
//! two dies in the middle, and whatever is lost on the way, the other one has the guest.

use super::core::Shared;
use super::event::{Action, DisconnectReason, Note};
use super::link::send;
use super::member::Member;
use super::message::Message;
use super::primary::Primary;

/// How long the backup has for the offer, in units of `detect_ms`.
const PATIENCE: u64 = 2;

impl Primary {
    /// Offers the guest to a backup that has all of it: all of the log is executed and compared, and every
    /// output is out. If there is none, nothing happens.
    pub(super) fn hand_over(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        // One that is bidden for already, to let go of a slow backup, may be won any moment.
        if self.released < self.closed || self.ask.is_some() {
            return;
        }
        let whole = |member: &&mut Member| {
            let verified = member.acked.is_some_and(|ack| ack.verified == self.closed);
            verified && member.link.is_some()
        };
        // From here on no acknowledgement counts.
        let Some(link) = self
            .members
            .iter_mut()
            .find(whole)
            .and_then(|member| member.link.take())
        else {
            return;
        };
        out.push(send(&link, Message::HandOver));
        let at = shared.now + PATIENCE * shared.detect_ns();
        let host = link.host;
        self.offered = Some((link.peer, host.clone()));
        self.ask_from(at, shared, out);
        out.push(Action::Note(Note::Offered { host }));
    }

    /// The guest goes on here after all.
    pub(super) fn take_back(&mut self, out: &mut Vec<Action>) {
        if let Some((peer, _)) = self.offered.take() {
            let why = DisconnectReason::TakenBack;
            out.push(Action::Disconnect { peer, why });
        }
    }
}
