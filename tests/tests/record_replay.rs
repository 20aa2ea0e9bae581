//! A recording, replayed, ends in the same registers, device state and memory.

use tests::guests::{blank_disk, text, tiny};
use tests::need_kvm;
use tests::program::{doctor_finds, ftd};
use tests::replayed::same_again;

#[test]
fn interrupts_at_exits() {
    need_kvm!();
    same_again("counter", "count=10000", &[], "counter: count=10000");
}

#[test]
fn interrupts_faster_than_exits() {
    need_kvm!();
    same_again("counter", "ticks=300 period=400000", &[], "counter: count=");
}

#[test]
fn interrupts_in_a_loop_without_exits() {
    need_kvm!();
    same_again("counter", "count=5000 spin", &[], "counter: count=5000");
}

#[test]
fn interrupts_through_the_apics_window() {
    need_kvm!();
    same_again("counter", "count=5000 xapic", &[], "counter: count=5000");
}

/// Whether this host has a counter of branches; says so if not.
fn counts_branches() -> bool {
    let doctor = ftd(["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap_or_default();
    let counts = report["possible"]["clock"] == "pmu";
    if !counts {
        eprintln!("SKIPPED: this host counts no branches");
    }
    counts
}

/// Interrupts at random moments into branches, string instructions, page faults, user mode and code with
/// interrupts off: each lands at the same instruction again.
#[test]
fn a_storm_of_interrupts_at_points_between_exits() {
    need_kvm!();
    if counts_branches() {
        same_again("storm", "ticks=150", &["--clock", "pmu"], "storm: rounds=");
    }
}

/// Each lands in the same one of many calls of a function, with no branch in between and the same registers.
#[test]
fn a_storm_of_interrupts_into_calls() {
    need_kvm!();
    if counts_branches() {
        let cmdline = "kind=7 ticks=100";
        same_again("storm", cmdline, &["--clock", "pmu"], "storm: rounds=");
    }
}

#[test]
fn clocks() {
    need_kvm!();
    same_again("clock", "count=2000", &[], "clock: ok readings=2000");
}

/// Code that the guest gets while it runs: what RDTSC reads there is an entry of the log, too.
#[test]
fn rdtsc_in_a_module() {
    need_kvm!();
    if !doctor_finds("hardware-breakpoint") {
        let kernel = tiny("module");
        ftd(["run", "--kernel", &kernel, "--memory", "16"])
            .failed_with(1, &["can't run this guest", "ftd doctor"]);
        return;
    }
    // Replaced by IN 0xNN: E5. The second time it lies across the border of two pages.
    let (recorded, _) = same_again("module", "count=50", &[], "module: ok readings=50 code=");
    assert_eq!(recorded["later_rdtsc_closed"], 2);
}

#[test]
fn a_guest_that_sleeps() {
    need_kvm!();
    same_again("ticker", "count=20 period=5000000", &[], "ticker: lines=20");
}

#[test]
fn a_disk() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk.raw");
    blank_disk(&disk, 4 << 20);
    same_again(
        "disk",
        "count=16",
        &["--image", &text(&disk)],
        "disk: ok blocks=16",
    );
}

#[test]
fn a_recording_that_is_stopped_half_way() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let log = text(&directory.path().join("guest.log"));
    let kernel = tiny("ticker");
    let recorded = ftd([
        "record",
        "--kernel",
        &kernel,
        "--cmdline",
        "count=1000000",
        "--memory",
        "16",
        "--log",
        &log,
        "--console",
        "none",
        "--stop-after",
        "0.3",
        "--json",
    ])
    .succeeded()
    .json();
    let replayed = ftd(["replay", "--log", &log, "--json"]).succeeded().json();
    assert_eq!(replayed["state_hash"], recorded["state_hash"]);
}
