//! Several cores in a simulated world, checked at every step. A seed gives a world and all that
//! happens in it; the same seed gives the same again.
//!
//! The world is worse than TCP and real hosts: connections stall, break on one side only, and (in
//! some worlds) lose, double and reorder messages; hosts lose power, processes die and stop for
//! a while; clocks run at different rates; the arbiter is slow, away, or acts without its answer
//! getting through; guests diverge. What is checked:
//!
//! * a copy that lets an output out is the one that won the newest generation that went live;
//! * an output that is held goes out only when a backup has what `commit` says of it;
//! * a copy that goes live holds everything before any output that ever went out;
//! * epochs reach a replayer in order, each after the one that the primary made before it;
//! * when faults stop and a live copy is left, it is protected soon, and outputs flow;
//! * a live copy is left if no host died, or if only one fault happened to a protected guest.

mod daemon;
mod faults;
mod guests;
mod hosts;
mod links;
mod net;
mod stats;
mod world;

use stats::Stats;
use world::{Faults, Sabotage, World};

/// Runs `seeds` worlds; gives the sum of what happened in them.
fn run(seeds: std::ops::Range<u64>, faults: Faults) -> Stats {
    let mut sum = Stats::default();
    for seed in seeds {
        let mut world = World::new(seed, faults, None);
        if let Err(violation) = world.run() {
            panic!("seed {seed}, {faults:?}: {violation}");
        }
        sum.add(&world.stats);
    }
    println!("{faults:?}: {sum:?}");
    sum
}

/// Each fault and each way out must be met often enough for a run to mean something.
#[test]
fn in_a_storm_nothing_is_lost_and_never_two_are_live() {
    let seeds = 3000;
    let stats = run(0..seeds, Faults::Storm);
    assert!(stats.ended_protected >= seeds / 3, "{stats:?}");
    assert!(stats.takeovers >= seeds / 3, "{stats:?}");
    for count in [
        stats.alone_again,
        stats.power_cuts,
        stats.process_deaths,
        stats.pauses,
        stats.partitions,
        stats.broken_links,
        stats.arbiter_lost,
        stats.arbiter_away,
    ] {
        assert!(count >= seeds / 4, "{stats:?}");
    }
    for count in [
        stats.mangled_messages,
        stats.divergences,
        stats.left_in_order,
        stats.stopped_guests,
    ] {
        assert!(count >= seeds / 100, "{stats:?}");
    }
    assert!(stats.superseded >= seeds / 300, "{stats:?}");
}

#[test]
fn while_no_host_dies_the_guest_lives() {
    let seeds = 3000;
    let stats = run(0..seeds, Faults::NoDeaths);
    assert_eq!(stats.ended_protected, seeds);
    assert!(stats.takeovers >= seeds / 4, "{stats:?}");
    assert!(stats.alone_again >= seeds / 4, "{stats:?}");
}

#[test]
fn a_protected_guest_survives_any_one_fault() {
    let seeds = 3000;
    let stats = run(0..seeds, Faults::Single);
    assert_eq!(stats.ended_protected, seeds);
    assert!(stats.takeovers >= seeds / 8, "{stats:?}");
    assert!(stats.alone_again >= seeds / 8, "{stats:?}");
}

#[test]
fn a_seed_repeats() {
    let world = |seed| {
        let mut world = World::new(seed, Faults::Storm, None);
        world.run().unwrap();
        format!("{:?}", world.stats)
    };
    assert_eq!(world(7), world(7));
}

/// The checks have teeth: each of these mistakes is found.
#[test]
fn a_sabotaged_world_is_found_out() {
    for sabotage in [
        Sabotage::ArbiterAlwaysYields,
        Sabotage::OutputsNotHeld,
        Sabotage::AckedNotDelivered,
        Sabotage::CloseBeforeGivingUp,
    ] {
        let world = |seed| World::new(seed, Faults::Storm, Some(sabotage));
        let found = (0..3000).find(|&seed| world(seed).run().is_err());
        println!("{sabotage:?}: seed {found:?}");
        assert!(found.is_some(), "{sabotage:?} was not found");
    }
}
