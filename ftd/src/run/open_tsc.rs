//! What becomes known, while the guest runs, of its ways to the host's time-stamp counter.

use vmm::guest::{Guest, LaterRdtsc};

/// What was told so far; each is told once.
#[derive(Debug, Default)]
pub(super) struct OpenTsc {
    opened: bool,
    later: LaterRdtsc,
}

impl OpenTsc {
    /// Tells what is new.
    pub(super) fn look(&mut self, guest: &Guest) {
        if guest.tsc_is_open() && !self.opened {
            self.opened = true;
            tracing::warn!(
                "the guest cleared CR4.TSD: RDTSC in its user space reads this host's counter, \
                 and the backup may diverge (it is then repaired by a new copy)"
            );
        }
        let later = guest.later_rdtsc();
        if later.left > self.later.left {
            tracing::warn!(
                "the guest's kernel has loaded code with RDTSC in {} places that could not be rewritten: \
                 they read this host's counter, and the backup may diverge (it is then repaired by a new copy)",
                later.left - self.later.left
            );
        }
        if later.closed > self.later.closed {
            let closed = later.closed - self.later.closed;
            tracing::info!(
                "{closed} RDTSC sites closed in code that the guest's kernel has loaded"
            );
        }
        self.later = later;
    }
}
