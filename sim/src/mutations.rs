//! Each safety check left out in turn: worlds that don't notice would prove nothing.

use anyhow::Result;

use crate::model::sabotage::Sabotage;
use crate::run::first;

/// A check that was left out, and whether it was noticed.
pub(crate) struct Mutation {
    pub(crate) name: String,
    /// The first seed whose world broke a rule, and which rule.
    pub(crate) caught: Option<(u64, String)>,
}

/// Worlds until a mutation counts as missed.
const SEEDS_MAX: u64 = 20_000;

/// Runs all mutations, one after the other.
///
/// # Errors
///
/// One can't be built.
pub(crate) fn run() -> Result<Vec<Mutation>> {
    let mut all = Vec::new();
    for (sabotage, what) in Sabotage::ALL {
        let found = first(0..SEEDS_MAX, Some(sabotage));
        let caught = found.map(|(seed, violation)| (seed, format!("{:?}", violation.rule)));
        let name = format!("{sabotage:?}");
        eprintln!("{}: {what}: {name}", tell(caught.as_ref()));
        all.push(Mutation { name, caught });
    }
    Ok(all)
}

fn tell(caught: Option<&(u64, String)>) -> String {
    match caught {
        Some((seed, rule)) => format!("caught at seed {seed} by {rule}"),
        None => format!("NOT CAUGHT in {SEEDS_MAX} worlds"),
    }
}
