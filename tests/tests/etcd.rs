//! Pairs whose arbiter is a real etcd.

use tests::etcd::Etcd;
use tests::guests::tiny;
use tests::need_kvm;
use tests::pair::Pair;
use tests::program::{ftd, wait_for};

#[test]
fn a_pair_fails_over_by_the_word_of_an_etcd() {
    need_kvm!();
    let Some(etcd) = Etcd::start() else { return };
    let pair = Pair::sharing(etcd.shared());
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &["--cmdline", "count=100", "--wait-backup"]);
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    wait_for("output", || {
        (primary.printed().lines().count() > 10).then_some(())
    });
    primary.running.kill();
    let live = backup.wait_for_event("live");
    assert_eq!(live["generation"], 2, "{live}");
    let console = backup.console.clone();
    backup.running.wait().succeeded();
    let printed = std::fs::read_to_string(console).expect("a console");
    assert!(printed.ends_with("ticker: lines=100\n"), "{printed}");
}

#[test]
fn a_guest_is_not_started_beside_one_that_lives() {
    need_kvm!();
    let Some(etcd) = Etcd::start() else { return };
    let pair = Pair::sharing(etcd.shared());
    let kernel = tiny("ticker");
    let long = ["--cmdline", "count=100000"];
    let mut first = pair.primary(&kernel, &long);
    first.wait_for_event("guest_started");
    let second = pair.primary_named("second", "warn", &kernel, &long);
    second.running.wait().failed_with(1, &["the guest runs on"]);
    assert!(first.running.is_running());
}

#[test]
fn who_can_not_reach_its_etcd_waits_and_goes_on_when_it_is_back() {
    need_kvm!();
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let pair = Pair::sharing(etcd.shared());
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &["--cmdline", "count=300", "--wait-backup"]);
    let mut backup = pair.backup_saying("info", "backup", &[]);
    backup.wait_for_event("protected");
    etcd.kill();
    // A protected guest needs no arbiter.
    let seen = primary.printed().lines().count();
    wait_for("output without an arbiter", || {
        (primary.printed().lines().count() > seen + 10).then_some(())
    });
    primary.running.kill();
    wait_for("a word on the arbiter", || {
        let said = backup.running.stderr();
        said.contains("can't be reached").then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(backup.event("live").is_none() && backup.running.is_running());
    etcd.start_again();
    backup.wait_for_event("live");
    let console = backup.console.clone();
    backup.running.wait().succeeded();
    let printed = std::fs::read_to_string(console).expect("a console");
    assert!(printed.ends_with("ticker: lines=300\n"), "{printed}");
}

#[test]
fn an_etcd_that_is_not_there_is_named() {
    need_kvm!();
    let kernel = tiny("ticker");
    let shared = "etcd:http://127.0.0.1:9";
    let ended = ftd([
        "primary", "--kernel", &kernel, "--memory", "16", "--shared", shared,
    ]);
    ended.failed_with(1, &[shared, "does not answer"]);
    let ended = ftd([
        "primary", "--kernel", &kernel, "--memory", "16", "--shared", "etcd:x",
    ]);
    ended.failed_with(2, &["http://"]);
}
