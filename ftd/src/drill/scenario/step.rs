//! The words of a script, a step a line:
//!
//! | words | what they do |
//! |---|---|
//! | `kill SIDE`, `power-cut SIDE` | SIGKILL to its daemon; the power of its host |
//! | `kill both` | SIGKILL to both daemons at once |
//! | `start SIDE` | its daemon again, by the command it had |
//! | `hand-over SIDE` | `ftd failover` there |
//! | `cut SIDE in\|out\|both`, `restore` | frames of the log network |
//! | `delay SIDE MS`, `loss SIDE PERCENT` | what it sends there |
//! | `arbiter SIDE away\|back` | its requests to the arbiter's storage |
//! | `disk failing\|full\|well` | the guest's disk, at both |
//! | `starve SIDE PERCENT`, `feed SIDE` | CPU of its daemon |
//! | `clock SIDE SECONDS` | its host's clock, `+3600` or `-3600` |
//! | `until live SIDE`, `until alone SIDE` | the guest goes on there |
//! | `until one-goes-on` | it does at exactly one side |
//! | `until protected` | it has a backup |
//! | `until answers`, `until refused` | the client gets an answer; a refusal |
//! | `silent SECONDS` | the client must get no answer |
//! | `steady SECONDS` | the guest must stay protected and answer |
//! | `write SECONDS` | the client goes on |

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::fault::{Direction, DiskState, Fault};
use crate::drill::plan::{Kill, Role};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Await {
    /// The backup goes live.
    Live(Role),
    /// The primary goes on without a backup.
    Alone(Role),
    /// Either, at exactly one side.
    OneGoesOn,
    /// The guest has a backup.
    Protected,
    /// The client gets an answer.
    Answers,
    /// The client is refused a write.
    Refused,
}

/// A step of a script.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub enum Step {
    /// A side is killed.
    Kill(Role, Kill),
    /// Both daemons are, at once.
    KillBoth,
    /// A daemon is started again.
    Start(Role),
    /// The guest is handed over.
    HandOver(Role),
    /// Something else happens.
    Fault(Fault),
    /// Wait for something that must come.
    Until(Await),
    /// No answer may come.
    Silent(Duration),
    /// Nothing may change.
    Steady(Duration),
    /// Time passes.
    Write(Duration),
}

/// A line that is no step.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is no step of a script")]
pub struct NoStep(String);

impl TryFrom<String> for Step {
    type Error = NoStep;

    fn try_from(line: String) -> Result<Step, NoStep> {
        let words: Vec<&str> = line.split_whitespace().collect();
        step(&words).ok_or_else(|| NoStep(line.clone()))
    }
}

fn step(words: &[&str]) -> Option<Step> {
    let fault = |fault| Some(Step::Fault(fault));
    match *words {
        ["kill", "both"] => Some(Step::KillBoth),
        ["kill", side] => Some(Step::Kill(role(side)?, Kill::Kill)),
        ["power-cut", side] => Some(Step::Kill(role(side)?, Kill::PowerCut)),
        ["start", side] => Some(Step::Start(role(side)?)),
        ["hand-over", side] => Some(Step::HandOver(role(side)?)),
        ["cut", side, direction] => fault(Fault::Cut {
            side: role(side)?,
            direction: match direction {
                "in" => Direction::In,
                "out" => Direction::Out,
                "both" => Direction::Both,
                _ => return None,
            },
        }),
        ["restore"] => fault(Fault::Restore),
        ["delay", side, ms] => fault(Fault::Delay {
            side: role(side)?,
            ms: ms.parse().ok()?,
        }),
        ["loss", side, percent] => fault(Fault::Loss {
            side: role(side)?,
            percent: percentage(percent)?,
        }),
        ["arbiter", side, how @ ("away" | "back")] => fault(Fault::Arbiter {
            side: role(side)?,
            away: how == "away",
        }),
        ["disk", state] => fault(Fault::Disk(match state {
            "failing" => DiskState::Failing,
            "full" => DiskState::Full,
            "well" => DiskState::Well,
            _ => return None,
        })),
        ["starve", side, percent] => fault(Fault::Starve {
            side: role(side)?,
            percent: percentage(percent)?,
        }),
        ["feed", side] => fault(Fault::Feed { side: role(side)? }),
        ["clock", side, seconds] => fault(Fault::StepClock {
            side: role(side)?,
            seconds: seconds.parse().ok()?,
        }),
        ["until", "live", side] => Some(Step::Until(Await::Live(role(side)?))),
        ["until", "alone", side] => Some(Step::Until(Await::Alone(role(side)?))),
        ["until", "one-goes-on"] => Some(Step::Until(Await::OneGoesOn)),
        ["until", "protected"] => Some(Step::Until(Await::Protected)),
        ["until", "answers"] => Some(Step::Until(Await::Answers)),
        ["until", "refused"] => Some(Step::Until(Await::Refused)),
        ["silent", time] => Some(Step::Silent(seconds(time)?)),
        ["steady", time] => Some(Step::Steady(seconds(time)?)),
        ["write", time] => Some(Step::Write(seconds(time)?)),
        _ => None,
    }
}

fn role(word: &str) -> Option<Role> {
    [Role::Primary, Role::Backup]
        .into_iter()
        .find(|role| role.name() == word)
}

fn percentage(word: &str) -> Option<u32> {
    word.parse().ok().filter(|percent| *percent < 100)
}

fn seconds(word: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(word.parse().ok()?).ok()
}

impl fmt::Display for Await {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Await::Live(role) => write!(f, "the {role} to go live"),
            Await::Alone(role) => write!(f, "the {role} to go on alone"),
            Await::OneGoesOn => write!(f, "one side to go on"),
            Await::Protected => write!(f, "the guest to be protected"),
            Await::Answers => write!(f, "an answer to the client"),
            Await::Refused => write!(f, "the guest to refuse a write"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Step> {
        Step::try_from(line.to_owned()).ok()
    }

    #[test]
    fn lines_are_steps() {
        assert_eq!(
            parsed("power-cut  primary"),
            Some(Step::Kill(Role::Primary, Kill::PowerCut))
        );
        assert_eq!(
            parsed("cut backup in"),
            Some(Step::Fault(Fault::Cut {
                side: Role::Backup,
                direction: Direction::In
            }))
        );
        assert_eq!(
            parsed("clock backup -3600"),
            Some(Step::Fault(Fault::StepClock {
                side: Role::Backup,
                seconds: -3600
            }))
        );
        assert_eq!(
            parsed("silent 2.5"),
            Some(Step::Silent(Duration::from_millis(2500)))
        );
        assert_eq!(
            parsed("until live backup"),
            Some(Step::Until(Await::Live(Role::Backup)))
        );
    }

    #[test]
    fn other_lines_are_not() {
        for line in [
            "",
            "kill",
            "kill everyone",
            "kill primary now",
            "cut primary sideways",
            "loss primary 100",
            "write -1",
            "until",
            "arbiter primary gone",
        ] {
            assert_eq!(parsed(line), None, "{line:?}");
        }
    }
}
