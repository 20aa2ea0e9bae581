//! What the service manager is told of this side.

use super::Pair;
use crate::control::Answers;
use crate::control::table::standing;
use crate::host::clock::monotonic_ns;
use crate::host::service::Service;

/// How often it is told how this side stands, if that has changed.
const STANDING_EVERY_NS: u64 = 1_000_000_000;

/// The manager, and when it is told next how this side stands.
#[derive(Debug)]
pub(super) struct Managed {
    service: Service,
    standing_at: u64,
}

impl Default for Managed {
    fn default() -> Managed {
        Managed {
            service: Service::from_environment(),
            standing_at: 0,
        }
    }
}

impl Managed {
    /// When it is to be told something, by the monotonic clock.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.service.due_ns()
    }

    /// Something has changed.
    pub(super) fn changed(&mut self) {
        self.standing_at = 0;
    }

    /// This side is about to end.
    pub(super) fn stopping(&mut self) {
        self.service.stopping();
    }
}

impl Pair {
    /// Tells the manager what is due: that this side runs, is well, and how it stands.
    pub(super) fn tell_manager(&mut self) {
        let now = monotonic_ns();
        self.managed.service.ready(now);
        self.managed.service.turn(now);
        if self.managed.service.is_there() && now >= self.managed.standing_at {
            self.managed.standing_at = now + STANDING_EVERY_NS;
            let standing = standing(&self.status());
            self.managed.service.status(standing);
        }
    }
}
