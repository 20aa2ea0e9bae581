//! Each safety check left out in turn: worlds that don't notice would prove nothing.
//!
//! What the core checks is removed from a copy of its source (`core`), which is built and run; no switch
//! for it is in the core that ships. What daemon, disks and arbiter owe the core is left out at the
//! simulator's side of the boundary ([`Sabotage`]).

mod build;
mod core;

use anyhow::Result;

use crate::model::sabotage::Sabotage;
use crate::run::first;

/// A check that was left out, and whether it was noticed.
pub(crate) struct Mutation {
    pub(crate) name: String,
    /// The first seed whose world broke a rule, and which rule.
    pub(crate) caught: Option<(u64, String)>,
}

/// So many worlds are tried until a mutation counts as missed.
const SEEDS_MAX: u64 = 400_000;

/// Runs all mutations, one after the other.
///
/// # Errors
///
/// One can't be built.
pub(crate) fn run(threads: usize) -> Result<Vec<Mutation>> {
    let mut all = Vec::new();
    for (sabotage, what) in Sabotage::ALL {
        let found = first(0..SEEDS_MAX, Some(sabotage), threads);
        let caught = found.map(|(seed, violation)| (seed, format!("{:?}", violation.rule)));
        all.push(told(format!("{sabotage:?}"), what, caught));
    }
    let workshop = build::Workshop::open()?;
    for removal in &core::REMOVALS {
        let caught = workshop.try_out(removal, SEEDS_MAX, threads)?;
        all.push(told(removal.name.to_owned(), removal.what, caught));
    }
    Ok(all)
}

fn told(name: String, what: &str, caught: Option<(u64, String)>) -> Mutation {
    match &caught {
        Some((seed, rule)) => eprintln!("caught at seed {seed} by {rule}: {what} ({name})"),
        None => eprintln!("NOT CAUGHT in {SEEDS_MAX} worlds: {what} ({name})"),
    }
    Mutation { name, caught }
}
