//! A primary and a backup on this machine: one is killed, the guest goes on.

use tests::guests::tiny;
use tests::need_kvm;
use tests::pair::{Pair, Side};
use tests::program::wait_for;

/// The numbers of the whole lines `tick N`.
fn ticks(printed: &str) -> Vec<u64> {
    printed
        .split_inclusive('\n')
        .filter_map(|line| line.strip_prefix("tick ")?.strip_suffix('\n')?.parse().ok())
        .collect()
}

#[track_caller]
fn wait_for_ticks(side: &mut Side, least: usize) {
    wait_for("ticks", || {
        (ticks(&side.printed()).len() >= least).then_some(())
    });
}

/// What the primary had not let out its backup printed, to the end. It may have doubled a little of what
/// was out; the line that was being printed when the primary died may be in two parts.
#[track_caller]
fn no_tick_is_lost(before: &[u64], after: &[u64], count: u64) {
    let last = *before.last().expect("ticks");
    let first = after[0];
    assert!(
        (last.saturating_sub(10)..=last + 2).contains(&first),
        "{last} on the primary, then {first}"
    );
    assert!(after.iter().copied().eq(first..=count), "{after:?}");
}

#[test]
fn the_guest_survives_the_death_of_its_primary() {
    need_kvm!();
    survives(&[]);
}

#[test]
fn outputs_may_wait_for_more_than_the_log() {
    need_kvm!();
    for commit in ["executed", "verified"] {
        survives(&[
            "--commit",
            commit,
            "--epoch-ms",
            "1",
            "--epoch-entries",
            "3",
        ]);
    }
}

#[track_caller]
fn survives(more: &[&str]) {
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut options = vec!["--cmdline", "count=100", "--wait-backup"];
    options.extend(more);
    let mut primary = pair.primary(&kernel, &options);
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    wait_for_ticks(&mut primary, 20);
    primary.running.kill();
    let live = backup.wait_for_event("live");
    assert!(
        live["go_live_ms"].as_f64().is_some_and(|ms| ms < 5000.0),
        "{live}"
    );
    let console = backup.console.clone();
    backup.running.wait().succeeded();

    let before = ticks(&primary.printed());
    let printed = std::fs::read_to_string(console).expect("a console");
    let after = ticks(&printed);
    assert!(
        before.iter().copied().eq(1..=before.len() as u64),
        "{before:?}"
    );
    no_tick_is_lost(&before, &after, 100);
    assert!(printed.ends_with("ticker: lines=100\n"), "{printed}");
}

#[test]
fn the_guest_goes_on_alone_when_its_backup_dies_and_takes_another() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &["--cmdline", "count=200", "--wait-backup"]);
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    wait_for_ticks(&mut primary, 10);
    backup.running.kill();
    primary.wait_for_event("alone");
    let seen = ticks(&primary.printed()).len();
    wait_for_ticks(&mut primary, seen + 10);
    // Another one joins the running guest, and is there when the primary dies in turn.
    let mut second = pair.backup("second", &[]);
    second.wait_for_event("protected");
    let seen = ticks(&primary.printed()).len();
    wait_for_ticks(&mut primary, seen + 5);
    primary.running.kill();
    second.wait_for_event("live");
    let console = second.console.clone();
    second.running.wait().succeeded();
    let printed = std::fs::read_to_string(console).unwrap();
    assert!(printed.ends_with("ticker: lines=200\n"), "{printed}");
    let (before, after) = (ticks(&primary.printed()), ticks(&printed));
    assert!(
        before.iter().copied().eq(1..=before.len() as u64),
        "{before:?}"
    );
    no_tick_is_lost(&before, &after, 200);
}

#[test]
fn a_busy_guest_is_followed() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("counter");
    let cmdline = "ticks=300 period=10000000";
    let mut primary = pair.primary(&kernel, &["--cmdline", cmdline, "--wait-backup"]);
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(backup.event("diverged").is_none());
    primary.running.kill();
    backup.wait_for_event("live");
    let console = backup.console.clone();
    backup.running.wait().succeeded();
    let printed = std::fs::read_to_string(console).unwrap();
    assert!(
        printed.starts_with("counter: count=") && printed.contains(" ticks=300 "),
        "{printed}"
    );
}

#[test]
fn both_end_when_the_guest_powers_off() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &["--cmdline", "count=20", "--wait-backup"]);
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    wait_for_ticks(&mut primary, 20);
    let console = primary.console.clone();
    primary.running.wait().succeeded();
    let console_of_backup = backup.console.clone();
    backup.running.wait().succeeded();
    let printed = std::fs::read_to_string(console).unwrap();
    assert!(printed.ends_with("ticker: lines=20\n"), "{printed}");
    // Nothing is printed twice.
    assert_eq!(
        std::fs::read_to_string(console_of_backup).unwrap_or_default(),
        ""
    );
}
