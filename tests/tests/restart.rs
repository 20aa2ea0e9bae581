//! A primary that is started again: never beside a copy of the guest that lives.

use tests::guests::{blank_disk, text, tiny};
use tests::need_kvm;
use tests::pair::{Pair, Side};
use tests::program::ftd;

const LONG: [&str; 2] = ["--cmdline", "count=100000"];

fn protected(pair: &Pair, kernel: &str, backup_options: &[&str]) -> (Side, Side) {
    let mut primary = pair.primary(kernel, &LONG);
    primary.wait_for_event("guest_started");
    let mut backup = pair.backup("backup", backup_options);
    backup.wait_for_event("protected");
    primary.wait_for_event("protected");
    (primary, backup)
}

#[test]
fn it_is_refused_where_the_backup_has_taken_over() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let listen = ["--listen", "127.0.0.1:17321"];
    let (mut primary, mut backup) = protected(&pair, &kernel, &listen);
    primary.running.kill();
    backup.wait_for_event("live");
    let again = pair.primary_named("again", "warn", &kernel, &LONG);
    let words = [
        "the guest runs on",
        "(generation 2)",
        "'ftd backup --log-from 127.0.0.1:17321'",
    ];
    again.running.wait().failed_with(1, &words);
    assert!(backup.running.is_running());
}

#[test]
fn it_gives_the_backup_the_time_to_take_over() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    // It needs a second to notice.
    let slow = ["--detect-ms", "1000"];
    let mut primary = pair.primary(&kernel, &[&LONG[..], &slow].concat());
    primary.wait_for_event("guest_started");
    let mut backup = pair.backup("backup", &slow);
    backup.wait_for_event("protected");
    primary.running.kill();
    let again = pair.primary_named("again", "warn", &kernel, &LONG);
    let words = ["ftd backup --log-from"];
    again.running.wait().failed_with(1, &words);
    backup.wait_for_event("live");
}

#[test]
fn it_starts_the_guest_anew_after_both_have_died() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let (mut primary, mut backup) = protected(&pair, &kernel, &[]);
    // So that it does not notice the backup's end, and wins generation 2 alone.
    primary.running.signal("STOP");
    backup.running.kill();
    primary.running.kill();
    let mut again = pair.primary_named("again", "info", &kernel, &LONG);
    let started = again.wait_for_event("guest_started");
    assert_eq!(started["generation"], 2);
    let said = again.running.stderr();
    assert!(said.contains("the guest ran before; looking at"), "{said}");
    // The pair is what it was.
    let mut second = pair.backup("second", &[]);
    second.wait_for_event("protected");
}

#[test]
fn it_is_refused_beside_a_running_primary() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &LONG);
    primary.wait_for_event("guest_started");
    let again = pair.primary_named("again", "warn", &kernel, &LONG);
    again
        .running
        .wait()
        .failed_with(1, &["the guest runs on", "(generation 1)"]);
    assert!(primary.running.is_running());
}

#[test]
fn it_starts_at_once_after_an_end_in_order() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    for (name, generation) in [("first", 1), ("second", 2), ("third", 3)] {
        let mut primary = pair.primary_named(name, "info", &kernel, &LONG);
        let started = primary.wait_for_event("guest_started");
        assert_eq!(started["generation"], generation);
        primary.running.terminate();
        let ended = primary.running.wait();
        assert!(
            !ended.succeeded().stderr.contains("ran before"),
            "{ended:#?}"
        );
    }
}

#[test]
fn on_a_device_each_host_must_be_given_a_slot() {
    need_kvm!();
    let pair = Pair::new();
    let device = pair.directory().join("device");
    blank_disk(&device, 4 << 20);
    let (device, kernel) = (text(&device), tiny("ticker"));
    let primary = ["primary", "--kernel", &kernel, "--shared", &device];
    ftd(primary).failed_with(2, &[&device, "give --slot"]);
}
