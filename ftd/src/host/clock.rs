//! Host time, and the guest's virtual clock made from it.
//!
//! The live guest's virtual clock runs with the host's CLOCK_MONOTONIC from a base that is set when
//! the guest starts, goes live or is resumed. Each host has a monotonic clock of its own, so a base
//! is never sent to a peer: going live means a new base at the last virtual time the log named.

use devices::VirtualNs;
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the host's CLOCK_MONOTONIC. 0 if the kernel has no such clock (none is known).
pub fn monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970-01-01 UTC of the host's CLOCK_REALTIME, for the guest's RTC at power-on.
pub fn realtime_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME)
}

/// CPU time of the calling thread in nanoseconds, guest execution included.
pub fn thread_cpu_ns() -> u64 {
    read_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read_ns(clock: ClockId) -> u64 {
    let Ok(now) = clock_gettime(clock) else {
        return 0;
    };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// The guest's virtual clock: stands still while paused, runs with the host's monotonic clock
/// otherwise, and never goes back, whatever it is told.
///
/// It reads no clock itself: `host_ns` is [`monotonic_ns`] of *this* host at the time of the call.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    /// Virtual time at `since`.
    base: VirtualNs,
    /// Host time at which the clock showed `base` and ran; `None` while paused.
    since: Option<u64>,
    /// The latest time ever shown.
    shown: VirtualNs,
}

impl VirtualClock {
    /// A paused clock that shows `now` (0 at power-on).
    pub fn new(now: VirtualNs) -> Self {
        VirtualClock {
            base: now,
            since: None,
            shown: now,
        }
    }

    /// Virtual time at host time `host_ns`.
    pub fn now(&mut self, host_ns: u64) -> VirtualNs {
        let reading = match self.since {
            Some(since) => self.base.saturating_add(host_ns.saturating_sub(since)),
            None => self.base,
        };
        self.shown = self.shown.max(reading);
        self.shown
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.since.is_some()
    }

    /// Lets the clock run from where it stands. No effect on a running clock.
    pub fn resume(&mut self, host_ns: u64) {
        if self.since.is_none() {
            self.base = self.shown;
            self.since = Some(host_ns);
        }
    }

    /// Stops the clock at what it shows. No effect on a paused clock.
    pub fn pause(&mut self, host_ns: u64) {
        if self.since.is_some() {
            self.base = self.now(host_ns);
            self.since = None;
        }
    }

    /// Sets the clock to `now`, or to the latest time it ever showed if that is later; it runs on
    /// (or stays paused) from there. Used when going live: `now` is the virtual time of the last
    /// log entry, so the guest sees no jump back and only the fail-over gap is left out.
    pub fn rebase(&mut self, host_ns: u64, now: VirtualNs) {
        self.shown = self.shown.max(now);
        self.base = self.shown;
        if self.since.is_some() {
            self.since = Some(host_ns);
        }
    }

    /// Host monotonic time at which the clock will show `deadline`: now or earlier if it is due,
    /// `None` while paused.
    pub fn host_time_of(&self, deadline: VirtualNs) -> Option<u64> {
        let since = self.since?;
        Some(since.saturating_add(deadline.saturating_sub(self.base)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_pauses_and_resumes() {
        let mut clock = VirtualClock::new(0);
        assert_eq!(clock.now(500), 0);
        clock.resume(1000);
        assert_eq!(clock.now(1300), 300);
        clock.pause(1500);
        assert_eq!(clock.now(9000), 500);
        clock.resume(10_000);
        assert_eq!(clock.now(10_001), 501);
        assert_eq!(clock.host_time_of(600), Some(10_100));
    }

    #[test]
    fn going_live_continues_at_the_logs_time() {
        // The backup's own host has been up for another time altogether.
        let mut clock = VirtualClock::new(0);
        clock.rebase(77_000_000, 5_000);
        clock.resume(77_000_000);
        assert_eq!(clock.now(77_000_010), 5_010);
        // A rebase to the past is held at what was shown.
        clock.rebase(77_000_020, 100);
        assert_eq!(clock.now(77_000_020), 5_010);
        assert_eq!(clock.now(77_000_021), 5_011);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Read(u64),
        Resume(u64),
        Pause(u64),
        Rebase(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<u64>().prop_map(Step::Read),
            any::<u64>().prop_map(Step::Resume),
            any::<u64>().prop_map(Step::Pause),
            any::<(u64, u64)>().prop_map(|(host, now)| Step::Rebase(host, now)),
        ]
    }

    proptest! {
        /// Even with a host clock that jumps about, virtual time never goes back.
        #[test]
        fn never_goes_back(steps in prop::collection::vec(step(), 0..60)) {
            let mut clock = VirtualClock::new(3);
            let mut last = 3;
            for step in steps {
                let host = match step {
                    Step::Read(host) => host,
                    Step::Resume(host) => { clock.resume(host); host }
                    Step::Pause(host) => { clock.pause(host); host }
                    Step::Rebase(host, now) => { clock.rebase(host, now); host }
                };
                let now = clock.now(host);
                prop_assert!(now >= last);
                last = now;
            }
        }
    }

    #[test]
    fn host_clocks_advance() {
        let first = monotonic_ns();
        assert!(first > 0);
        assert!(monotonic_ns() >= first);
        assert!(realtime_ns() > 1_600_000_000_000_000_000);
    }
}
