//! A planned hand-over: nothing is lost, nothing is said twice, and what can't be done is refused.

use tests::control::ask;
use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::pair::{Pair, Side, free_address};
use tests::program::{Ended, ftd, wait_for};

/// A protected pair whose guest prints so many lines.
fn protected(
    pair: &Pair,
    lines: u32,
    primary_options: &[&str],
    backup_options: &[&str],
) -> (Side, Side) {
    let count = format!("count={lines}");
    let options = [&["--cmdline", &count], primary_options].concat();
    let mut primary = pair.primary_saying("info", &tiny("ticker"), &options);
    primary.wait_for_event("guest_started");
    let mut backup = pair.backup("backup", backup_options);
    backup.wait_for_event("protected");
    primary.wait_for_event("protected");
    (primary, backup)
}

/// All that the guest prints, wherever it lives.
fn whole(lines: u32) -> String {
    let ticks: String = (1..=lines).map(|line| format!("tick {line}\n")).collect();
    format!("{ticks}ticker: lines={lines}\n")
}

/// Lets the guest run to its end on its new host, and looks at what came out on both.
#[track_caller]
fn nothing_is_missing_or_doubled(primary: &str, backup: Side, lines: u32) {
    let console = backup.console.clone();
    backup.running.wait().succeeded();
    let there = std::fs::read_to_string(console).expect("a console");
    assert!(!there.is_empty(), "it printed nothing there");
    assert_eq!(format!("{primary}{there}"), whole(lines));
}

fn wait_for_lines(side: &Side, least: usize) {
    wait_for("lines", || {
        (side.printed().lines().count() >= least).then_some(())
    });
}

#[test]
fn the_guest_goes_over_without_a_gap_in_what_it_says() {
    need_kvm!();
    let pair = Pair::new();
    let listen = free_address();
    let (primary, mut backup) = protected(&pair, 150, &[], &["--listen", &listen]);
    wait_for_lines(&primary, 20);
    let done = ftd(["failover", "--control", &text(&primary.control), "--json"]);
    let done = done.succeeded().json();
    assert_eq!(
        (&done["ok"], &done["generation"]),
        (&true.into(), &2.into())
    );
    assert_eq!(done["listen"], listen, "{done}");
    let (took, stood) = (done["took_ms"].as_f64(), done["stood_ms"].as_f64());
    assert!(stood > Some(0.0) && took >= stood, "{done}");
    assert!(
        done["host"].is_string() && done["frames_lost"] == 0,
        "{done}"
    );
    assert_eq!(backup.wait_for_event("live")["generation"], 2);
    let events = primary.events.clone();
    let console = primary.console.clone();
    let ended: Ended = primary.running.wait();
    assert_eq!(ended.status, Some(3), "{ended:?}");
    let words = "the guest was handed over to";
    assert!(ended.stderr.contains(words), "{ended:?}");
    let events = std::fs::read_to_string(events).unwrap();
    let order: Vec<usize> = ["handing_over", "handed_over", "halted"]
        .iter()
        .map(|name| events.find(&format!("\"event\":\"{name}\"")).unwrap())
        .collect();
    assert!(order.is_sorted(), "{events}");
    let here = std::fs::read_to_string(console).expect("a console");
    nothing_is_missing_or_doubled(&here, backup, 150);
}

#[test]
fn a_stop_signal_hands_over_as_well() {
    need_kvm!();
    let pair = Pair::new();
    let (primary, mut backup) = protected(&pair, 120, &[], &[]);
    wait_for_lines(&primary, 20);
    primary.running.terminate();
    let console = primary.console.clone();
    let ended = primary.running.wait();
    let said = &ended.succeeded().stderr;
    assert!(said.contains("the guest is live on "), "{said}");
    backup.wait_for_event("live");
    let here = std::fs::read_to_string(console).expect("a console");
    nothing_is_missing_or_doubled(&here, backup, 120);
}

#[test]
fn a_backup_that_does_not_answer_gets_no_guest() {
    need_kvm!();
    let pair = Pair::new();
    let (mut primary, backup) = protected(&pair, 100_000, &["--detect-ms", "1000"], &[]);
    backup.running.signal("STOP");
    let refused = ftd(["failover", "--control", &text(&primary.control)]);
    refused.failed_with(1, &["the backup was lost", "the guest goes on here"]);
    // It does, and the arbiter has said so.
    let alone = primary.wait_for_event("alone");
    assert_eq!(alone["generation"], 2);
    let seen = primary.printed().lines().count();
    wait_for_lines(&primary, seen + 10);
    assert!(primary.event("hand_over_failed").is_some());
    assert!(primary.event("handed_over").is_none());
    // What it said up to here is whole.
    let printed = primary.printed();
    let lines = printed.lines().count() as u32;
    assert!(whole(lines).starts_with(printed.trim_end()), "{printed}");
    backup.running.signal("CONT");
}

#[test]
fn who_has_nothing_to_hand_over_says_so() {
    need_kvm!();
    let pair = Pair::new();
    let mut primary = pair.primary(&tiny("ticker"), &["--cmdline", "count=100000"]);
    primary.wait_for_event("guest_started");
    let failover = |side: &Side| ftd(["failover", "--control", &text(&side.control)]);
    let words = ["nobody can take the guest over", "it has no backup"];
    failover(&primary).failed_with(1, &words);
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    failover(&backup).failed_with(1, &["this side is the backup", "ask the primary"]);
    let status = ask(&backup.control, "{\"ask\":\"status\"}").unwrap();
    assert_eq!(status["role"], "backup");
    let nowhere = text(&pair.directory().join("nobody"));
    ftd(["failover", "--control", &nowhere]).failed_with(1, &["no such socket"]);
    ftd(["failover"]).failed_with(2, &["--control"]);
}
