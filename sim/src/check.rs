//! Runs one world, whatever happens in it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::model::plan::Plan;
use crate::model::sabotage::Sabotage;
use crate::model::stats::Stats;
use crate::model::trace::Trace;
use crate::model::violation::{Rule, Violation};
use crate::model::world::World;

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) stats: Stats,
    pub(crate) violation: Option<Violation>,
    pub(crate) trace: Option<Trace>,
}

/// Runs the world of a plan; a panic in it is a violation, too.
pub(crate) fn check(plan: &Plan, sabotage: Option<Sabotage>, traced: bool) -> Outcome {
    let mut world = World::new(plan.clone(), sabotage);
    world.trace = traced.then(Trace::default);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(Violation {
                at_ms: world.now_ms(),
                rule: Rule::Panic,
                what: text.unwrap_or_default(),
            })
        }
    };
    Outcome {
        stats: world.stats,
        violation,
        trace: world.trace,
    }
}
