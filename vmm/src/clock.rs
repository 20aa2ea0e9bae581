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
    /// No window is asked for, so an interrupt lands only at an exit that the guest makes by itself. For
    /// a KVM that notices late that the guest can take an interrupt, as one that emulates guest
    /// kernels does.
    PlainExit,
}

/// No clock has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no clock {name:?}; ftd has exit and plain-exit")]
pub struct UnknownClock {
    /// What was asked for.
    pub name: String,
}

impl Clock {
    /// The name under which users, logs and handshakes know it.
    pub const fn name(self) -> &'static str {
        match self {
            Clock::Exit => "exit",
            Clock::PlainExit => "plain-exit",
        }
    }

    /// Whether the guest may be stopped at the interrupt window.
    pub const fn has_window(self) -> bool {
        matches!(self, Clock::Exit)
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
        [Clock::Exit, Clock::PlainExit]
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
        for clock in [Clock::Exit, Clock::PlainExit] {
            assert_eq!(clock.name().parse(), Ok(clock));
        }
        assert!("".parse::<Clock>().is_err());
        assert!("Exit".parse::<Clock>().is_err());
    }
}
