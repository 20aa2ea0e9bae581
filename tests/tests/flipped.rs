//! A bit of the backup's copy changes by itself: the digests find it, say where, and a new copy repairs it.

use tests::guests::tiny;
use tests::need_kvm;
use tests::pair::Pair;
use tests::program::wait_for;

/// Changes a bit, and expects a divergence that names `part`, a repair, and a guest that goes on.
#[track_caller]
fn is_found_and_repaired(flip: &str, part: &str) {
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let cmdline = "count=600 period=10000000";
    let options = [
        "--cmdline",
        cmdline,
        "--wait-backup",
        "--ram-check-seconds",
        "1",
    ];
    let mut primary = pair.primary(&kernel, &options);
    let mut backup = pair.backup("backup", &["--flip-after", flip]);
    let divergence = backup.wait_for_event("divergence");
    let what = divergence["what"].as_str().unwrap_or_default();
    assert!(what.contains(part), "{what}");
    // Twice protected: at first, and again by the new copy.
    wait_for("a second protection", || {
        let events = backup.all_events("protected");
        (events.len() >= 2).then_some(())
    });
    assert!(primary.running.is_running(), "{}", primary.running.stderr());
    primary.running.kill();
    backup.wait_for_event("live");
    let console = backup.console.clone();
    backup.running.wait().succeeded();
    let printed = std::fs::read_to_string(console).expect("a console");
    assert!(printed.ends_with("ticker: lines=600\n"), "{printed}");
}

#[test]
fn a_bit_of_ram() {
    need_kvm!();
    // Far from anything that the guest reads.
    is_found_and_repaired("40:ram:0xa00000", "in the page of RAM at 0xa00000");
}

#[test]
fn a_register() {
    need_kvm!();
    is_found_and_repaired("40:register", "RBX");
}

#[test]
fn a_device() {
    need_kvm!();
    is_found_and_repaired("40:device", "in the serial port");
}
