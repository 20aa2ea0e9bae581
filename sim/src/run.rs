//! Many seeds on all cores. The sum doesn't depend on how many cores there are.

use std::io::IsTerminal;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::check::check;
use crate::model::plan::Plan;
use crate::model::sabotage::Sabotage;
use crate::model::stats::Stats;
use crate::model::violation::Violation;

/// So many seeds are taken at once.
const CHUNK: u64 = 64;
/// Most violations that are kept.
const KEPT_MAX: usize = 100;

/// The sum of many worlds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) stats: Stats,
    pub(crate) violations: u64,
    /// The first seeds with one.
    pub(crate) found: Vec<(u64, Violation)>,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.stats.add(&other.stats);
        self.violations += other.violations;
        self.found.extend(other.found);
        self.found.sort_by_key(|(seed, _)| *seed);
        self.found.truncate(KEPT_MAX);
    }
}

/// Runs the worlds of these seeds on `threads` threads; `progress` shows how far it is.
pub(crate) fn run(seeds: Range<u64>, threads: usize, progress: bool) -> Sum {
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Sum::default());
    let worker = || {
        loop {
            let from = next.fetch_add(CHUNK, Ordering::Relaxed);
            if from >= seeds.end {
                return;
            }
            let part = run_some(from..seeds.end.min(from + CHUNK));
            if let Ok(mut sum) = sum.lock() {
                sum.add(part);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        if progress {
            let is_done = || workers.iter().all(|worker| worker.is_finished());
            show(&seeds, &next, &sum, is_done);
        }
    });
    sum.into_inner().unwrap_or_default()
}

fn run_some(seeds: Range<u64>) -> Sum {
    let mut sum = Sum::default();
    for seed in seeds {
        let outcome = check(&Plan::of(seed), None, false);
        sum.stats.add(&outcome.stats);
        if let Some(violation) = outcome.violation {
            let text = violation.to_string();
            let line = text.lines().next().unwrap_or_default();
            eprintln!("\nseed {seed}: {line}\n    scripts/sim --seed {seed}");
            sum.violations += 1;
            sum.found.push((seed, violation));
        }
    }
    sum
}

/// The first of these seeds whose world breaks a rule.
pub(crate) fn first(
    seeds: Range<u64>,
    sabotage: Option<Sabotage>,
    threads: usize,
) -> Option<(u64, Violation)> {
    let next = AtomicU64::new(seeds.start);
    let best = Mutex::new(None::<(u64, Violation)>);
    let worker = || {
        loop {
            let from = next.fetch_add(CHUNK, Ordering::Relaxed);
            let Ok(end) = best
                .lock()
                .map(|best| best.as_ref().map_or(seeds.end, |best| best.0))
            else {
                return;
            };
            if from >= end {
                return;
            }
            let found = (from..end.min(from + CHUNK)).find_map(|seed| {
                let violation = check(&Plan::of(seed), sabotage, false).violation?;
                Some((seed, violation))
            });
            if let (Some(found), Ok(mut best)) = (found, best.lock())
                && best.as_ref().is_none_or(|best| found.0 < best.0)
            {
                *best = Some(found);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(worker);
        }
    });
    best.into_inner().ok().flatten()
}

fn show(seeds: &Range<u64>, next: &AtomicU64, sum: &Mutex<Sum>, is_done: impl Fn() -> bool) {
    let begin = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let every = Duration::from_secs(if terminal { 1 } else { 15 });
    let mut shown = Instant::now();
    while !is_done() {
        thread::sleep(Duration::from_millis(20));
        if shown.elapsed() < every {
            continue;
        }
        shown = Instant::now();
        let Ok(sum) = sum.lock() else { return };
        let done = next.load(Ordering::Relaxed).min(seeds.end) - seeds.start;
        let all = seeds.end - seeds.start;
        let per_second = done as f64 / begin.elapsed().as_secs_f64();
        let left = (all - done) as f64 / per_second;
        let hours = hours(&sum.stats);
        let (start, end) = if terminal {
            ("\r\x1b[K", "")
        } else {
            ("", "\n")
        };
        eprint!(
            "{start}{done} of {all} seeds, {hours:.1} simulated hours, {} violations, \
             {per_second:.0} worlds/s, {left:.0} s left{end}",
            sum.violations
        );
    }
    if terminal {
        eprint!("\r\x1b[K");
    }
}

/// Virtual time of the worlds, in hours.
pub(crate) fn hours(stats: &Stats) -> f64 {
    stats.virtual_ns as f64 / 3.6e12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_repeat_on_any_number_of_threads() {
        let one = run(0..300, 1, false);
        assert_eq!(one, run(0..300, 3, false));
        assert_eq!(one.violations, 0);
        assert!(one.stats.steps > 100_000);
    }
}
