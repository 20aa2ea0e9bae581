//! Stop signals: the first one stops ftd in order and says so, the second one at once.

use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::pair::Pair;
use tests::program::{Running, start_saying, wait_for};

#[track_caller]
fn wait_until_said(running: &Running, words: &str) {
    wait_for(words, || running.stderr().contains(words).then_some(()));
}

#[test]
fn a_backup_that_waits_for_its_primary_ends_in_order() {
    need_kvm!();
    let pair = Pair::new();
    let mut backup = pair.backup_saying("info", "backup", &[]);
    backup.wait_for_event("started");
    backup.running.terminate();
    let ended = backup.running.wait();
    let said = &ended.succeeded().stderr;
    assert!(
        said.contains("SIGTERM: stopping, no guest is here yet"),
        "{said}"
    );
    assert!(
        said.contains("this side ends: stopped by the operator"),
        "{said}"
    );
}

#[test]
fn a_primary_says_what_becomes_of_its_guest() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut primary = pair.primary_saying("info", &kernel, &["--cmdline", "count=100000"]);
    primary.wait_for_event("guest_started");
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    primary.wait_for_event("protected");
    primary.running.terminate();
    let ended = primary.running.wait();
    let said = &ended.succeeded().stderr;
    assert!(
        said.contains("SIGTERM: stopping, the guest goes on at "),
        "{said}"
    );
    // It does, without waiting for the primary's silence.
    let live = backup.wait_for_event("live");
    assert!(live["go_live_ms"].as_f64().is_some(), "{live}");
    backup.running.terminate();
    backup.running.wait().succeeded();
}

#[test]
fn a_primary_without_a_backup_says_that_its_guest_ends() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("counter");
    let mut primary = pair.primary_saying("info", &kernel, &["--cmdline", "spin"]);
    primary.wait_for_event("guest_started");
    primary.running.terminate();
    let ended = primary.running.wait();
    let said = &ended.succeeded().stderr;
    assert!(
        said.contains("SIGTERM: stopping, the guest has no backup and ends where it is"),
        "{said}"
    );
}

#[test]
fn a_second_signal_does_not_wait_for_the_first_one_s_work() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let (log, kernel) = (directory.path().join("log"), tiny("counter"));
    let log_option = text(&log);
    let running = start_saying(
        "info",
        [
            "record",
            "--kernel",
            &kernel,
            "--cmdline",
            "spin",
            "--console",
            "none",
            "--log",
            &log_option,
            // Its state's hash, taken at the end, takes a while.
            "--memory",
            "3072",
        ],
    );
    // It is made behind the signals' being taken in hand.
    wait_for("the log", || log.exists().then_some(()));
    running.terminate();
    wait_until_said(&running, "a second signal ends ftd at once");
    running.terminate();
    let ended = running.wait();
    assert_eq!(ended.status, Some(128 + 15), "{ended:?}");
    assert!(
        ended.stderr.contains("SIGTERM: ending at once"),
        "{ended:?}"
    );
}
