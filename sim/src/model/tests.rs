//! A few worlds of each kind, as part of every test run; `scripts/sim` runs many.

use super::kind::Kind;
use super::plan::{Mode, Plan};
use super::stats::Stats;
use super::world::World;

/// Runs worlds; gives the sum of what happened in them.
fn run(seeds: u64, mode: Mode) -> Stats {
    let mut sum = Stats::default();
    for seed in 0..seeds {
        let mut world = World::new(Plan::new(seed, mode), None);
        if let Err(violation) = world.run() {
            panic!("seed {seed}, {mode:?}: {violation}");
        }
        sum.add(&world.stats);
    }
    println!("{mode:?}: {sum:?}");
    sum
}

/// Each fault and each way out must be met often enough for a run to mean something.
#[test]
fn in_a_storm_nothing_is_lost_and_never_two_are_live() {
    let seeds = 1000;
    let stats = run(seeds, Mode::Storm);
    assert!(stats.ended_protected >= seeds / 3, "{stats:?}");
    assert!(stats.takeovers >= seeds / 3, "{stats:?}");
    assert!(stats.alone_again >= seeds / 3, "{stats:?}");
    assert!(stats.reissued >= seeds / 3, "{stats:?}");
    assert!(stats.cold_starts >= seeds / 10, "{stats:?}");
    assert!(stats.left_in_order >= seeds / 100, "{stats:?}");
    assert!(stats.handed_over >= seeds / 10, "{stats:?}");
    assert!(stats.taken_back >= seeds / 100, "{stats:?}");
    assert!(stats.not_offered >= seeds / 100, "{stats:?}");
    assert!(stats.stopped_guests >= seeds / 100, "{stats:?}");
    assert!(stats.superseded >= seeds / 300, "{stats:?}");
    for kind in Kind::ALL {
        assert!(stats.injected(kind) >= seeds / 50, "{kind:?}: {stats:?}");
    }
}

#[test]
fn while_no_host_dies_the_guest_lives() {
    let seeds = 1000;
    let stats = run(seeds, Mode::NoDeaths);
    assert_eq!(stats.ended_protected, seeds);
    assert!(stats.takeovers >= seeds / 4, "{stats:?}");
    assert!(stats.alone_again >= seeds / 4, "{stats:?}");
}

#[test]
fn a_protected_guest_survives_any_one_fault() {
    let seeds = 1000;
    let stats = run(seeds, Mode::Single);
    assert_eq!(stats.ended_protected, seeds);
    assert!(stats.takeovers >= seeds / 8, "{stats:?}");
    assert!(stats.alone_again >= seeds / 8, "{stats:?}");
}
