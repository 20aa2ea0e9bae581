//! How positions in a guest's execution are made, and with them where interrupts may land.
//!
//! A log, and a pair, have one clock: who follows must count and inject as the one followed did. So
//! its name stands in the log's header and among the facts that the peers compare.

use std::fmt;
use std::str::FromStr;

/// A way to make positions that a replica reaches exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Clock {
    /// Every synchronous exit counts, the interrupt window among them: a pending interrupt lands as
    /// soon as the guest can take it. Needs a KVM whose window opens at the same instruction every time.
    Exit,
    /// As `exit`, and the host's counter of conditional branches names the points between exits: what
    /// comes from outside lands where the guest happens to be.
    Pmu,
    /// As `pmu`, but the points between exits are counted in single steps, as long as somebody follows the
    /// guest. Needs no counter and no window of KVM's; slow: for tests and tiny guests.
    Step,
    /// No window is asked for, so an interrupt lands only at an exit that the guest makes by itself. For
    /// a KVM that notices late that the guest can take an interrupt, as one that emulates guest
    /// kernels does.
    PlainExit,
}

/// No clock has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no clock {name:?}; ftd has pmu, exit, plain-exit and step")]
pub struct UnknownClock {
    /// What was asked for.
    pub name: String,
}

impl Clock {
    /// All of them.
    pub const ALL: [Clock; 4] = [Clock::Pmu, Clock::Exit, Clock::PlainExit, Clock::Step];

    /// The name under which users, logs and handshakes know it.
    pub const fn name(self) -> &'static str {
        match self {
            Clock::Pmu => "pmu",
            Clock::Step => "step",
            Clock::Exit => "exit",
            Clock::PlainExit => "plain-exit",
        }
    }

    /// Whether the guest may be stopped at the interrupt window.
    pub const fn has_window(self) -> bool {
        matches!(self, Clock::Exit | Clock::Pmu | Clock::Step)
    }

    /// Whether points between two exits are positions.
    pub const fn counts(self) -> bool {
        matches!(self, Clock::Pmu | Clock::Step)
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Clock {
    type Err = UnknownClock;

    fn from_str(name: &str) -> Result<Clock, UnknownClock> {
        Clock::ALL
            .into_iter()
            .find(|clock| clock.name() == name)
            .ok_or_else(|| UnknownClock {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for clock in Clock::ALL {
            assert_eq!(clock.name().parse(), Ok(clock));
        }
        assert!("".parse::<Clock>().is_err());
        assert!("Exit".parse::<Clock>().is_err());
    }
}
