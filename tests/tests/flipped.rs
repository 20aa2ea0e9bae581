//! A bit of one copy changes by itself: the digests find it, say where, and a new copy repairs it, for which
//! only what differs is sent.

use tests::control::flip;
use tests::guests::tiny;
use tests::need_kvm;
use tests::pair::{Pair, Side};
use tests::program::wait_for;

/// More than differ: the flipped one, and those that the guest writes meanwhile. A whole clone takes 20.
const FEW_PAGES: u64 = 8;

/// Runs a pair, has a bit of the copy changed that `of` chooses from primary and backup, and expects a
/// divergence that names `part`, a repair, and a guest that goes on.
#[track_caller]
fn is_found_and_repaired(of: fn([&Side; 2]) -> &Side, what: &str, part: &str) {
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let cmdline = "count=800 period=10000000";
    let options = [
        "--debug-hooks",
        "--cmdline",
        cmdline,
        "--wait-backup",
        "--ram-check-seconds",
        "1",
    ];
    let mut primary = pair.primary(&kernel, &options);
    let mut backup = pair.backup("backup", &["--debug-hooks"]);
    let long_a_backup = |status: &serde_json::Value| {
        status["role"] == "backup" && status["epoch_executed"].as_u64() > Some(40)
    };
    let before = backup.wait_for_status("40 epochs", long_a_backup);
    assert_eq!(before["divergences"], 0, "{before}");
    let side = of([&primary, &backup]);
    assert_eq!(flip(&side.control, what)["ok"], true);
    let divergence = backup.wait_for_event("divergence");
    let found = divergence["what"].as_str().unwrap_or_default();
    assert!(found.contains(part), "{found}");
    // Twice protected: at first, and again by the new copy.
    wait_for("a second protection", || {
        let events = backup.all_events("protected");
        (events.len() >= 2).then_some(())
    });
    for side in [&mut primary, &mut backup] {
        side.wait_for_status("protection", |status| {
            status["protected"] == true && status["divergences"] == 1
        });
    }
    // The primary saw to it that the copies are equal by sending next to nothing.
    let clones = wait_for("a second clone", || {
        let clones = primary.all_events("cloned");
        (clones.len() >= 2).then_some(clones)
    });
    let pages = |event: &serde_json::Value, what: &str| event[what].as_u64().unwrap_or(u64::MAX);
    let first = &clones[0];
    assert_eq!(pages(first, "pages_equal"), 0, "{first}");
    for repair in &clones[1..] {
        println!("{repair}");
        assert!(pages(repair, "pages_sent") <= FEW_PAGES, "{repair}");
        let equal = pages(repair, "pages_equal");
        assert!(equal >= pages(first, "pages_sent"), "{repair}");
    }
    // Equal they are: digests of all RAM, which come within a second, agree, and so does what it prints.
    let executed = |status: &serde_json::Value| status["epoch_executed"].as_u64().unwrap_or(0);
    let repaired = backup.wait_for_status("the repair", |status| executed(status) > 0);
    let checked = backup.wait_for_status("all RAM checked", |status| {
        executed(status) > executed(&repaired) + 120
    });
    assert_eq!(checked["divergences"], 1, "{checked}");
    primary.running.kill();
    backup.wait_for_event("live");
    let console = backup.console.clone();
    backup.running.wait().succeeded();
    let printed = std::fs::read_to_string(console).expect("a console");
    assert!(printed.ends_with("ticker: lines=800\n"), "{printed}");
}

/// Far from anything that the guest reads.
const UNUSED_RAM: &str = "ram:0xa00000";
const PAGE: &str = "in the page of RAM at 0xa00000";

#[test]
fn a_bit_of_the_backups_ram() {
    need_kvm!();
    is_found_and_repaired(|[_, backup]| backup, UNUSED_RAM, PAGE);
}

#[test]
fn a_register_of_the_backup() {
    need_kvm!();
    is_found_and_repaired(|[_, backup]| backup, "register", "R10");
}

#[test]
fn a_device_of_the_backup() {
    need_kvm!();
    is_found_and_repaired(|[_, backup]| backup, "device", "in the serial port");
}

#[test]
fn a_bit_of_the_primarys_ram() {
    need_kvm!();
    is_found_and_repaired(|[primary, _]| primary, UNUSED_RAM, PAGE);
}

#[test]
fn a_register_of_the_primary() {
    need_kvm!();
    is_found_and_repaired(|[primary, _]| primary, "register", "R10");
}

#[test]
fn a_device_of_the_primary() {
    need_kvm!();
    is_found_and_repaired(|[primary, _]| primary, "device", "in the serial port");
}
