//! More than one backup of a guest.

use serde_json::Value;
use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::pair::{Pair, Side, free_address};
use tests::program::wait_for;

const LINES: usize = 100_000;

/// Hosts that find each other wherever the guest is.
struct Hosts {
    pair: Pair,
    /// Further options of all of them.
    more: &'static [&'static str],
    /// Where the backups listen, once they have the guest.
    listen: [String; 2],
}

impl Hosts {
    fn new() -> Hosts {
        Hosts::with(&[])
    }

    fn with(more: &'static [&'static str]) -> Hosts {
        let listen = [free_address(), free_address()];
        let pair = Pair::new();
        Hosts { pair, more, listen }
    }

    fn primary(&self) -> Side {
        let count = format!("count={LINES}");
        let options = [&["--cmdline", &count, "--backups", "2"], self.more].concat();
        let mut primary = self.pair.primary(&tiny("ticker"), &options);
        primary.wait_for_event("guest_started");
        primary
    }

    fn backup(&self, name: &str, listen: usize) -> Side {
        let elsewhere = &self.listen[1 - listen];
        let more: [&str; 6] = [
            "--log-from",
            elsewhere,
            "--listen",
            &self.listen[listen],
            "--backups",
            "2",
        ];
        let mut backup = self.pair.backup(name, &[&more, self.more].concat());
        backup.wait_for_event("protected");
        backup
    }
}

fn confirmed(status: &Value) -> usize {
    let backups = status["backups"].as_array();
    let protects = |backup: &&Value| backup["protects"] == true;
    backups.map_or(0, |backups| backups.iter().filter(protects).count())
}

/// Waits until the guest says more.
fn goes_on(side: &Side) {
    let seen = side.printed().lines().count();
    wait_for("more lines", || {
        (side.printed().lines().count() > seen + 10).then_some(())
    });
}

/// The one of the two that goes live, and the other one.
fn whoever_goes_live(east: Side, south: Side) -> (Side, Side) {
    let sides = [&east, &south];
    let live = wait_for("one of them", || {
        sides.iter().position(|side| side.event("live").is_some())
    });
    match live {
        0 => (east, south),
        _ => (south, east),
    }
}

/// Every line that the guest said is on one of the consoles, in order, with nothing missing in between: where it
/// changed hosts, the last one of a console may be cut, and some may be there twice.
fn nothing_is_missing(consoles: &[&Side]) {
    let mut last = 0;
    for side in consoles {
        let printed = side.printed();
        let end = printed.rfind('\n').unwrap_or_default();
        for (at, line) in printed[..end].lines().enumerate() {
            let number = line
                .strip_prefix("tick ")
                .and_then(|line| line.parse().ok());
            let number: usize = match number {
                Some(number) => number,
                None if at == 0 => continue,
                None => panic!("{line:?} in {:?}", side.console),
            };
            assert!(
                number <= last + 2,
                "{number} after {last} in {:?}",
                side.console
            );
            last = last.max(number);
        }
    }
    assert!(last > 10);
}

#[test]
fn of_two_backups_one_goes_live_and_the_other_follows_it() {
    need_kvm!();
    one_goes_live_and_the_other_follows(&Hosts::new());
}

#[test]
fn of_two_backups_that_make_a_quorum_one_goes_live_and_the_other_follows_it() {
    need_kvm!();
    one_goes_live_and_the_other_follows(&Hosts::with(&["--release", "quorum"]));
}

fn one_goes_live_and_the_other_follows(hosts: &Hosts) {
    let mut primary = hosts.primary();
    let east = hosts.backup("east", 0);
    goes_on(&primary);
    let south = hosts.backup("south", 1);
    let status = primary.wait_for_status("two backups", |status| confirmed(status) == 2);
    assert_eq!(
        (&status["protected"], &status["divergences"]),
        (&true.into(), &0.into())
    );
    goes_on(&primary);
    assert!(east.event("peer_diverged").is_none() && east.event("divergence").is_none());
    primary.running.signal("KILL");

    let (mut first, mut second) = whoever_goes_live(east, south);
    first.wait_for_status("a backup again", |status| confirmed(status) == 1);
    assert!(second.event("live").is_none());
    goes_on(&first);
    first.running.signal("KILL");
    let live = second.wait_for_event("live");
    assert_eq!(live["generation"], 3);
    goes_on(&second);
    nothing_is_missing(&[&primary, &first, &second]);
}

/// Under its clone, snapshots for the first backup need pages that the clone's thread has had KVM tell.
#[test]
fn a_guest_that_is_always_busy_takes_a_second_backup() {
    need_kvm!();
    let hosts = Hosts::new();
    let busy = ["--cmdline", "ticks=2000 period=10000000", "--backups", "2"];
    let all = [&busy[..], &["--ram-check-seconds", "1"]].concat();
    let mut primary = hosts.pair.primary(&tiny("counter"), &all);
    primary.wait_for_event("guest_started");
    let mut east = hosts.backup("east", 0);
    for round in 0..3 {
        let south = hosts.backup(&format!("south{round}"), 1);
        primary.wait_for_status("two backups", |status| confirmed(status) == 2);
        // Long enough for a digest of each page.
        let checked = primary.wait_for_status("epochs", |_| true)["epoch_made"].as_u64();
        std::thread::sleep(std::time::Duration::from_millis(1500));
        primary.wait_for_status("more epochs", |status| {
            status["epoch_made"].as_u64() > checked
        });
        assert!(south.event("divergence").is_none() && east.event("divergence").is_none());
        south.running.signal("KILL");
        primary.wait_for_status("one backup", |status| confirmed(status) == 1);
    }
    let status = east.wait_for_status("its word", |status| status["role"] == "backup");
    assert_eq!(status["divergences"], 0);
    assert_eq!(primary.all_events("protected").len(), 4);
}

#[test]
fn a_lost_backup_is_ruled_out_and_the_other_takes_over_all_the_same() {
    need_kvm!();
    let hosts = Hosts::new();
    let mut primary = hosts.primary();
    let east = hosts.backup("east", 0);
    let mut south = hosts.backup("south", 1);
    primary.wait_for_status("two backups", |status| confirmed(status) == 2);
    east.running.signal("KILL");
    let renewed = primary.wait_for_event("renewed");
    assert_eq!(renewed["generation"], 2);
    let status = primary.wait_for_status("one backup", |status| confirmed(status) == 1);
    assert_eq!(
        (&status["protected"], &status["role"]),
        (&true.into(), &"primary".into())
    );
    goes_on(&primary);
    primary.running.signal("KILL");
    let live = south.wait_for_event("live");
    assert_eq!(live["generation"], 3);
    goes_on(&south);
    nothing_is_missing(&[&primary, &south]);
}

#[test]
fn a_backup_joins_again_beside_another_one() {
    need_kvm!();
    let hosts = Hosts::new();
    let mut primary = hosts.primary();
    let mut east = hosts.backup("east", 0);
    for round in 0..3 {
        let south = hosts.backup(&format!("south{round}"), 1);
        primary.wait_for_status("two backups", |status| confirmed(status) == 2);
        goes_on(&primary);
        // It leaves in order: nobody need be ruled out.
        south.running.terminate();
        south.running.wait().succeeded();
        primary.wait_for_status("one backup", |status| confirmed(status) == 1);
    }
    assert!(primary.event("renewed").is_none() && primary.event("alone").is_none());
    let status = east.wait_for_status("its word", |status| status["role"] == "backup");
    assert_eq!(
        (&status["divergences"], &status["generation"]),
        (&0.into(), &1.into())
    );
    let asked = tests::program::ftd(["failover", "--control", &text(&primary.control)]);
    asked.succeeded();
    goes_on(&east);
    nothing_is_missing(&[&primary, &east]);
}

/// A copy that stands still for less than what counts as lost.
const PATIENT: [&str; 6] = [
    "--release",
    "quorum",
    "--detect-ms",
    "20000",
    "--lag-ms",
    "60000",
];

#[test]
fn outputs_wait_for_no_backup_that_stands_still_while_the_other_makes_a_quorum() {
    need_kvm!();
    let hosts = Hosts::with(&PATIENT);
    let mut primary = hosts.primary();
    let (_east, south) = (hosts.backup("east", 0), hosts.backup("south", 1));
    primary.wait_for_status("two backups", |status| confirmed(status) == 2);
    goes_on(&primary);
    south.running.signal("STOP");
    for _ in 0..20 {
        goes_on(&primary);
    }
    let status = primary.wait_for_status("its word", |_| true);
    assert_eq!(confirmed(&status), 2, "it was not taken for lost");
    south.running.signal("CONT");
    goes_on(&primary);
    nothing_is_missing(&[&primary]);
}

#[test]
fn who_may_lack_what_was_let_out_does_not_take_over() {
    need_kvm!();
    let hosts = Hosts::with(&PATIENT);
    let mut primary = hosts.primary();
    let (mut east, south) = (hosts.backup("east", 0), hosts.backup("south", 1));
    primary.wait_for_status("two backups", |status| confirmed(status) == 2);
    goes_on(&primary);
    south.running.signal("STOP");
    goes_on(&primary);
    goes_on(&primary);
    primary.running.signal("KILL");
    // It has all of it, and can't know.
    let few = east.wait_for_event("few_voices");
    assert_eq!((&few["heard"], &few["voices"]), (&1.into(), &2.into()));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(east.event("live").is_none());
    south.running.signal("CONT");
    // What the other host's kernel had taken for it is its own, too.
    let (mut live, other) = whoever_goes_live(east, south);
    assert_eq!(live.wait_for_event("live")["generation"], 2);
    live.wait_for_status("a backup again", |status| confirmed(status) == 1);
    assert!(other.event("live").is_none());
    goes_on(&live);
    nothing_is_missing(&[&primary, &live]);
}
