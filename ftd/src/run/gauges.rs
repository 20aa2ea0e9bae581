//! What a live guest's thread shows of itself while it runs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::live::LiveCounters;
use crate::host::clock::VirtualClock;

#[derive(Debug, Default)]
struct Shown {
    clock: Option<VirtualClock>,
    counters: LiveCounters,
}

/// Read by the daemon's loop, set by the vCPU thread.
#[derive(Debug, Default)]
pub struct Gauges {
    shown: Mutex<Shown>,
}

impl Gauges {
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest runs by this clock from here on.
    pub(super) fn set_clock(&self, clock: &VirtualClock) {
        self.lock().clock = Some(clock.clone());
    }

    /// The counters are at this.
    pub(super) fn set_counters(&self, counters: LiveCounters) {
        self.lock().counters = counters;
    }

    /// The guest's virtual time at host time `host_ns`, in nanoseconds; none before it runs.
    pub fn virtual_now(&self, host_ns: u64) -> Option<u64> {
        self.lock().clock.as_mut().map(|clock| clock.now(host_ns))
    }

    /// The counters at the end of the last epoch; none before the guest runs.
    pub fn counters(&self) -> Option<LiveCounters> {
        let shown = self.lock();
        shown.clock.is_some().then_some(shown.counters)
    }
}
