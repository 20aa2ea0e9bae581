//! The protocol core in simulated worlds: many seeds, each a world of hosts that fail in all ways they can.
//!
//! * [`model`]: one world: hosts, links, disk, arbiter, faults, and what must always hold.
//! * [`run`]: many worlds on all cores.
//! * [`shrink`]: a failing world made small.
//! * [`mutations`]: each safety check left out in turn, to see that its absence is found.

mod check;
mod model;
mod mutations;
mod report;
mod run;
mod shrink;

use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Result;
use clap::Parser;

/// Runs the replication protocol in simulated worlds, one a seed, and checks it at every step.
/// Then leaves each safety check out in turn, to see that the worlds find it out.
/// Exits with 1 if a rule is broken, or a missing check is not found out.
#[derive(Debug, Parser)]
#[command(name = "scripts/sim")]
struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// One seed only: what happens in its world, thinned out if it breaks a rule
    #[arg(long, conflicts_with_all = ["seeds", "first", "mutations"])]
    seed: Option<u64>,
    /// Only the mutations: leave each safety check out in turn
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    mutations: bool,
    /// No mutations
    #[arg(long, conflicts_with = "mutations")]
    no_mutations: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Threads; the result is the same with any number
    #[arg(long)]
    threads: Option<usize>,
    /// Print the first of `--seeds` that breaks a rule, and which, and stop there
    #[arg(long, hide = true)]
    until_violation: bool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if let Some(seed) = options.seed {
        return Ok(report::one(seed));
    }
    let seeds = options.first..options.first.saturating_add(options.seeds);
    let threads = options
        .threads
        .or_else(|| Some(available_parallelism().ok()?.get()));
    let threads = threads.unwrap_or(1);
    if options.until_violation {
        println!("{}", report::found(run::first(seeds, None, threads)));
        return Ok(ExitCode::SUCCESS);
    }
    let worlds = match options.mutations {
        true => None,
        false => Some(report::Worlds {
            count: options.seeds,
            sum: run::run(seeds, threads, true),
        }),
    };
    if let Some(worlds) = &worlds {
        report::violations(&worlds.sum);
    }
    let mutations = match options.no_mutations {
        true => None,
        false => Some(mutations::run(threads)?),
    };
    report::print(worlds.as_ref(), mutations.as_deref(), options.json);
    let sound = worlds.is_none_or(|worlds| worlds.sum.violations == 0);
    let caught = mutations.is_none_or(|all| all.iter().all(|one| one.caught.is_some()));
    Ok(ExitCode::from(u8::from(!sound || !caught)))
}
