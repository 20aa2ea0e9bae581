//! What remains possible on a host, by the checks that failed.

use serde::Serialize;
use vmm::clock::Clock;

use super::checks::{Check, Loss, Status};

/// Which guests something is possible with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Guests {
    /// Any that ftd can boot.
    #[serde(rename = "all")]
    All,
    /// Bare-metal programs that use few instructions, such as those of guest-images/tiny.
    #[serde(rename = "tiny")]
    Tiny,
    /// None.
    #[serde(rename = "none")]
    None,
}

/// What is possible, and with which guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Possible {
    /// `ftd run`.
    pub run: Guests,
    /// `ftd record`.
    pub record: Guests,
    /// `ftd replay`.
    pub replay: Guests,
    /// `ftd primary` and `ftd backup`.
    pub pair: Guests,
    /// The clock that is taken by itself.
    #[serde(serialize_with = "clock_name")]
    pub clock: Option<Clock>,
    /// The clock `step`, which is never taken by itself.
    pub step_clock: Guests,
}

fn clock_name<S: serde::Serializer>(clock: &Option<Clock>, to: S) -> Result<S::Ok, S::Error> {
    clock.map(Clock::name).serialize(to)
}

impl Possible {
    /// What the failed ones among `checks` leave.
    pub fn with(checks: &[Check]) -> Possible {
        let lost = |loss| {
            checks
                .iter()
                .any(|check| check.loss == loss && check.status != Status::Ok)
        };
        let is_missing = |name| {
            let mut named = checks.iter().filter(|check| check.name == name);
            named.any(|check| check.status != Status::Ok)
        };
        let run = if lost(Loss::Everything) {
            Guests::None
        } else if lost(Loss::FullGuests) {
            Guests::Tiny
        } else {
            Guests::All
        };
        let logged = if lost(Loss::Logs) { Guests::None } else { run };
        let clock = if logged == Guests::None {
            None
        } else if lost(Loss::ExitClock) {
            Some(Clock::PlainExit)
        } else if lost(Loss::PmuClock) || is_missing("hardware-breakpoint") {
            Some(Clock::Exit)
        } else {
            Some(Clock::Pmu)
        };
        let step_clock = if lost(Loss::StepClock) {
            Guests::None
        } else if lost(Loss::UserSteps) && logged == Guests::All {
            Guests::Tiny
        } else {
            logged
        };
        Possible {
            run,
            record: logged,
            replay: logged,
            pair: logged,
            clock,
            step_clock,
        }
    }

    /// Whether this host can be one of a pair.
    pub fn pair_possible(&self) -> bool {
        self.pair != Guests::None
    }
}

impl std::fmt::Display for Guests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Guests::All => "yes",
            Guests::Tiny => "with tiny guests only (guest-images/tiny), not with Linux",
            Guests::None => "no",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(losses: &[Loss]) -> Possible {
        let checks: Vec<_> = [
            Loss::Everything,
            Loss::Logs,
            Loss::FullGuests,
            Loss::ExitClock,
            Loss::PmuClock,
            Loss::StepClock,
            Loss::UserSteps,
            Loss::Little,
        ]
        .into_iter()
        .map(|loss| Check {
            name: "test",
            status: if losses.contains(&loss) {
                Status::Degraded
            } else {
                Status::Ok
            },
            found: String::new(),
            needed_for: "",
            advice: "",
            loss,
        })
        .collect();
        Possible::with(&checks)
    }

    #[test]
    fn each_loss_takes_its_part() {
        let all = failed(&[Loss::Little]);
        assert_eq!(
            (all.run, all.pair, all.clock),
            (Guests::All, Guests::All, Some(Clock::Pmu))
        );
        assert_eq!(failed(&[Loss::PmuClock]).clock, Some(Clock::Exit));
        assert_eq!(all.step_clock, Guests::All);
        assert_eq!(failed(&[Loss::UserSteps]).step_clock, Guests::Tiny);
        let stepless = failed(&[Loss::StepClock]);
        assert_eq!(
            (stepless.step_clock, stepless.clock),
            (Guests::None, Some(Clock::Pmu))
        );
        let late = failed(&[Loss::ExitClock, Loss::FullGuests]);
        assert_eq!(
            (late.pair, late.clock),
            (Guests::Tiny, Some(Clock::PlainExit))
        );
        let logless = failed(&[Loss::Logs]);
        assert_eq!(
            (logless.run, logless.replay, logless.clock),
            (Guests::All, Guests::None, None)
        );
        assert!(!logless.pair_possible());
        assert_eq!(failed(&[Loss::Everything]).run, Guests::None);
    }
}
