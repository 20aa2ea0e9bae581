//! The shared storage, as the live side sees it: away, or with a later generation.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use tests::guests::tiny;
use tests::need_kvm;
use tests::pair::Pair;
use tests::program::wait_for;

const LONG: [&str; 2] = ["--cmdline", "count=100000"];

#[test]
fn without_a_backup_and_the_storage_nothing_goes_out() {
    need_kvm!();
    let pair = Pair::new();
    let (kernel, shared) = (tiny("ticker"), pair.directory().join("shared"));
    let away = pair.directory().join("away");
    let mut primary = pair.primary(&kernel, &LONG);
    primary.wait_for_event("guest_started");
    wait_for("a tick", || {
        primary.printed().contains("tick 5").then_some(())
    });
    fs::rename(&shared, &away).unwrap();
    let lost = primary.wait_for_event("storage_lost");
    assert!(lost["silent_ms"].as_f64() >= Some(4000.0), "{lost}");
    sleep(Duration::from_millis(100));
    let printed = primary.printed();
    sleep(Duration::from_millis(500));
    assert_eq!(primary.printed(), printed, "the guest's output must wait");
    fs::rename(&away, &shared).unwrap();
    primary.wait_for_event("storage_back");
    // Nothing was lost of what waited.
    let next = printed.len();
    let more = wait_for("more ticks", || {
        let all = primary.printed();
        (all.len() > next + 200).then_some(all)
    });
    let ticks = more.lines().filter_map(|line| line.strip_prefix("tick "));
    let mut numbers: Vec<u64> = ticks.filter_map(|tick| tick.parse().ok()).collect();
    numbers.pop();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64));
}

#[test]
fn a_live_side_that_is_superseded_ends() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &LONG);
    primary.wait_for_event("guest_started");
    // What another host leaves that has started the guest, though it should not have.
    let decision = pair.directory().join("shared/vm.generation-2");
    fs::write(decision, "ftd generation 1\nother-00000000\n").unwrap();
    let words = ["the guest belongs to another host, which won generation 2"];
    primary.running.wait().failed_with(1, &words);
}
