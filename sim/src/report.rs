//! What is printed: results on standard output, failing worlds on standard error.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::check::check;
use crate::model::kind::Kind;
use crate::model::plan::{MS, Plan};
use crate::model::violation::Violation;
use crate::mutations::Mutation;
use crate::run::{Sum, hours};
use crate::shrink::shrink;

/// So many violations are thinned out and shown.
const SHOWN_MAX: usize = 3;

/// Many worlds and their sum.
pub(crate) struct Worlds {
    pub(crate) count: u64,
    pub(crate) sum: Sum,
}

/// The last line: all in numbers.
pub(crate) fn print(worlds: Option<&Worlds>, mutations: Option<&[Mutation]>, as_json: bool) {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
    if let Some(Worlds { count, sum }) = worlds {
        put("seeds", json!(count));
        put(
            "sim_hours",
            json!((hours(&sum.stats) * 100.0).round() / 100.0),
        );
        put("violations", json!(sum.violations));
        let seeds: Vec<u64> = sum.found.iter().map(|(seed, _)| *seed).collect();
        put("violating_seeds", json!(seeds));
        let faults =
            Kind::ALL.map(|kind| (kind.name().to_owned(), json!(sum.stats.injected(kind))));
        put("faults", Value::Object(faults.into_iter().collect()));
        let counts = sum
            .stats
            .counts()
            .map(|(name, count)| (name.to_owned(), json!(count)));
        put("counts", Value::Object(counts.into_iter().collect()));
    }
    if let Some(mutations) = mutations {
        let caught = |one: &&Mutation| one.caught.is_some();
        put("mutations", json!(mutations.len()));
        put(
            "mutations_caught",
            json!(mutations.iter().filter(caught).count()),
        );
        let missed: Vec<&str> = mutations
            .iter()
            .filter(|one| !caught(one))
            .map(|one| one.name.as_str())
            .collect();
        put("mutations_missed", json!(missed));
    }
    let out = Value::Object(out);
    match as_json {
        true => println!("{out}"),
        false => println!("{out:#}"),
    }
}

/// The first seeds that broke a rule, thinned out.
pub(crate) fn violations(sum: &Sum) {
    for (seed, _) in sum.found.iter().take(SHOWN_MAX) {
        let plan = Plan::of(*seed);
        eprintln!();
        tell_shrunk(&plan);
    }
}

/// One seed: its violation thinned out, or its world.
pub(crate) fn one(seed: u64) -> ExitCode {
    let plan = Plan::of(seed);
    let outcome = check(&plan, None, true);
    if let Some(violation) = outcome.violation {
        eprintln!("seed {seed}: {violation}");
        tell_shrunk(&plan);
        return ExitCode::FAILURE;
    }
    tell_plan(&plan);
    for line in outcome.trace.unwrap_or_default().lines() {
        eprintln!("{line}");
    }
    println!("seed {seed}: no violation");
    ExitCode::SUCCESS
}

fn tell_shrunk(plan: &Plan) {
    let Some((small, violation)) = shrink(plan, None) else {
        return;
    };
    eprintln!(
        "seed {}, thinned out from {} planned faults to {}:",
        plan.seed,
        plan.faults.len(),
        small.faults.len()
    );
    tell_plan(&small);
    for line in check(&small, None, true).trace.unwrap_or_default().lines() {
        eprintln!("{line}");
    }
    eprintln!("{violation}");
}

fn tell_plan(plan: &Plan) {
    let Plan {
        seed,
        mode,
        hosts,
        backups,
        commit,
        release,
        small_buffers,
        delay_max,
        clocks,
        chances,
        faults,
        faults_end,
        salt,
    } = plan;
    let rates: Vec<u64> = clocks.iter().take(*hosts).map(|(rate, _)| *rate).collect();
    let chances: Vec<&str> = chances.iter().map(|kind| kind.name()).collect();
    eprintln!(
        "seed {seed} (variant {salt}), {mode:?}: {hosts} hosts, {backups} backups at most, commit {commit:?}, release {release:?}, {} buffers, delays up \
         to {:.1} ms, clock rates {rates:?}, {} planned faults within {} ms, by chance: {}",
        if *small_buffers { "small" } else { "large" },
        *delay_max as f64 / MS as f64,
        faults.len(),
        faults_end / MS,
        if chances.is_empty() {
            "nothing".to_owned()
        } else {
            chances.join(", ")
        },
    );
}

/// What `--until-violation` prints: nothing found is null.
pub(crate) fn found(found: Option<(u64, Violation)>) -> Value {
    match found {
        Some((seed, violation)) => {
            let rule = format!("{:?}", violation.rule);
            json!({"seed": seed, "rule": rule})
        }
        None => Value::Null,
    }
}
