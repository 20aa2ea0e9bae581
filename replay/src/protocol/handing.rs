//! A planned hand-over, at the primary.
//!
//! The offer is no promise to stop: the arbiter decides, as after any loss. What differs is that the backup
//! need not wait for the primary's lease to run out, since a primary that offers its guest lets nothing out
//! from then on; and that the primary gives it time before it bids for the guest itself. So whichever of the
//! two dies in the middle, and whatever is lost on the way, the other one has the guest.

use super::ask::Ask;
use super::core::Shared;
use super::event::{Action, DisconnectReason, Note};
use super::message::Message;
use super::primary::{Primary, send};

/// How long the backup has for the offer, in units of `detect_ms`.
const PATIENCE: u64 = 2;

impl Primary {
    /// Offers the guest to the backup, if that has all of it: all of the log is executed and compared, and
    /// every output is out. Else nothing happens.
    pub(super) fn hand_over(&mut self, shared: &Shared, out: &mut Vec<Action>) {
        let whole = self.acked.is_some_and(|ack| ack.verified == self.closed);
        // One that bids already, to let go of a slow backup, may win any moment.
        if !whole || self.released < self.closed || self.ask.is_some() {
            return;
        }
        // From here on no acknowledgement counts.
        let Some(link) = self.link.take() else {
            return;
        };
        out.push(send(&link, Message::HandOver));
        let at = shared.now + PATIENCE * shared.detect_ns();
        self.ask = Some(Ask::new(shared.generation + 1, at));
        self.offered = Some(link.peer);
        let host = link.host;
        out.push(Action::Note(Note::Offered { host }));
    }

    /// The guest goes on here after all.
    pub(super) fn take_back(&mut self, out: &mut Vec<Action>) {
        if let Some(peer) = self.offered.take() {
            let why = DisconnectReason::TakenBack;
            out.push(Action::Disconnect { peer, why });
        }
    }
}
