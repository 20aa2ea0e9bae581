//! Clock `step`: inputs land between two exits, and do so again, on a host without a counter.

use tests::guests::tiny;
use tests::need_kvm;
use tests::pair::Pair;
use tests::program::doctor_finds;
use tests::replayed::same_again;

/// Records the guest and replays its log, which must come by as many points between exits; no snapshot may have
/// been needed.
#[track_caller]
fn stepped_again(kernel: &str, cmdline: &str, says: &str) {
    let (recorded, replayed) = same_again(kernel, cmdline, &["--clock", "step"], says);
    assert_eq!(recorded["clock"], "step");
    assert!(recorded["landings"].as_u64() > Some(0), "{recorded}");
    assert_eq!(recorded["snapshots"], 0, "{recorded}");
    assert_eq!(replayed["points"], recorded["landings"]);
}

#[test]
fn a_loop_without_exits() {
    need_kvm!();
    if doctor_finds("single-step") {
        let cmdline = "spin ticks=100 period=5000000";
        stepped_again("counter", cmdline, "counter: count=");
    }
}

/// Each interrupt folds where it landed into the last line and into RAM.
#[test]
fn a_storm_in_kernel_code() {
    need_kvm!();
    if !doctor_finds("single-step") {
        return;
    }
    // Tight branches, string instructions, page faults, interrupts held off, and calls without branches.
    for kind in [0, 1, 2, 4, 7] {
        let cmdline = format!("kind={kind} ticks=60 period=5000000");
        stepped_again("storm", &cmdline, "storm: rounds=");
    }
}

/// The processor makes no more steps where user code calls its kernel: they go on all the same, whether it comes
/// back from there or not.
#[test]
fn a_storm_in_user_code() {
    need_kvm!();
    if doctor_finds("single-step") && doctor_finds("single-step-user") {
        // By INT, and by SYSCALL.
        for kind in [3, 5] {
            let cmdline = format!("kind={kind} ticks=60 period=5000000");
            stepped_again("storm", &cmdline, "storm: rounds=");
        }
    }
}

#[test]
fn the_backup_goes_on_without_steps() {
    need_kvm!();
    if !doctor_finds("single-step") {
        return;
    }
    let pair = Pair::new();
    let kernel = tiny("storm");
    let clock = ["--clock", "step"];
    let cmdline = ["--cmdline", "kind=0 ticks=100 period=20000000"];
    let options = [&clock[..], &cmdline, &["--wait-backup"]].concat();
    let mut primary = pair.primary(&kernel, &options);
    let mut backup = pair.backup("backup", &clock);
    backup.wait_for_event("protected");
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(backup.event("diverged").is_none());
    primary.running.kill();
    backup.wait_for_event("live");
    let printed = backup.console.clone();
    backup.running.wait().succeeded();
    let printed = std::fs::read_to_string(printed).expect("a console");
    let ticks = printed
        .strip_prefix("storm: rounds=")
        .and_then(|rest| rest.split_once(" ticks=")?.1.split_once(' '))
        .and_then(|(ticks, _)| ticks.parse::<u64>().ok());
    assert!(ticks >= Some(100), "{printed}");
}
