//! Stop signals: the first one stops ftd in order and says so, the second one at once.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Ftd, has_kvm, spinning_kernel};

#[test]
fn a_backup_that_waits_for_its_primary_ends_in_order() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().to_str().unwrap();
    let mut ftd = Ftd::start(&[
        "backup",
        "--log-from",
        "127.0.0.1:9",
        "--shared",
        shared,
        "--memory",
        "16",
        "--console",
        "none",
        "--events",
        dir.path().join("events").to_str().unwrap(),
    ]);
    // Its first event is written behind the signals' being taken in hand.
    let start = Instant::now();
    while std::fs::read_to_string(dir.path().join("events")).is_ok_and(|text| text.is_empty())
        || !dir.path().join("events").exists()
    {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    ftd.signal();
    ftd.wait_for("SIGTERM: stopping, no guest is here yet");
    ftd.wait_for("this side ends: stopped by the operator");
    assert_eq!(ftd.end(), Some(0));
}

#[test]
fn a_primary_without_a_backup_says_what_becomes_of_its_guest() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = spinning_kernel(dir.path(), true);
    let mut ftd = Ftd::start(&[
        "primary",
        "--kernel",
        kernel.to_str().unwrap(),
        "--cmdline",
        "",
        "--shared",
        dir.path().to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--memory",
        "16",
        "--console",
        "none",
    ]);
    ftd.wait_for("role: starting -> alone");
    ftd.signal();
    ftd.wait_for("SIGTERM: stopping, the guest has no backup and ends where it is");
    assert_eq!(ftd.end(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait_for_the_first_one_s_work() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = spinning_kernel(dir.path(), true);
    let log = dir.path().join("log");
    let mut ftd = Ftd::start(&[
        "record",
        "--kernel",
        kernel.to_str().unwrap(),
        "--cmdline",
        "",
        // Its hash, taken at the end, takes seconds.
        "--memory",
        "3072",
        "--console",
        "none",
        "--log",
        log.to_str().unwrap(),
    ]);
    let start = Instant::now();
    // It is made behind the signals' being taken in hand.
    while !log.exists() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    ftd.signal();
    ftd.wait_for("SIGTERM: stopping the guest where it is; a second signal ends ftd at once");
    ftd.signal();
    ftd.wait_for("SIGTERM: ending at once");
    assert_eq!(ftd.end(), Some(128 + 15));
}
