//! What is left to a running ftd: its own system calls, and no others.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tests::control::ask;
use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::pair::Pair;
use tests::program::{Running, ftd, start, wait_for};

/// A field of /proc/PID/status, of each thread but those of KVM, which never leave the kernel.
fn fields(running: &Running, name: &str) -> Vec<String> {
    let tasks = format!("/proc/{}/task", running.pid());
    let tasks = std::fs::read_dir(tasks).into_iter().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .filter(|status| !status.starts_with("Name:\tkvm-"))
        .filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .collect()
}

#[track_caller]
fn all_are(mode: &str, running: &Running) {
    let modes = wait_for("threads", || {
        // 0 for none, 2 for a filter.
        let modes = fields(running, "Seccomp:");
        (modes.len() > 1 && modes.iter().all(|other| other == mode)).then_some(modes)
    });
    assert!(modes.len() > 1, "{modes:?}");
}

#[test]
fn every_thread_of_a_pair_is_limited() {
    need_kvm!();
    let pair = Pair::with_keys();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &["--cmdline", "count=100000"]);
    primary.wait_for_event("guest_started");
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    primary.wait_for_event("protected");
    all_are("2", &primary.running);
    all_are("2", &backup.running);
}

#[test]
fn a_call_that_ftd_never_makes_ends_it_with_a_word() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control");
    let kernel = tiny("ticker");
    for open in [false, true] {
        let path = text(&control);
        let mut arguments = vec![
            "run",
            "--kernel",
            &kernel,
            "--cmdline",
            "count=100000",
            "--memory",
            "16",
            "--console",
            "none",
            "--control",
            &path,
            "--debug-hooks",
        ];
        if open {
            arguments.push("--no-seccomp");
        }
        let running = start(arguments);
        wait_for("a socket", || ask(&control, r#"{"ask":"status"}"#));
        all_are(if open { "0" } else { "2" }, &running);
        let answer = ask(&control, r#"{"ask":"break-out"}"#);
        if open {
            assert_eq!(answer.unwrap()["ok"], true);
            running.terminate();
            running.wait().succeeded();
            continue;
        }
        assert_eq!(answer, None);
        let ended = running.wait();
        assert_eq!(ended.status, None, "a signal ended it: {ended:?}");
        // personality(2)
        let words = "event=forbidden_syscall number=135";
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
}

#[test]
fn the_hook_needs_to_be_asked_for() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control");
    let kernel = tiny("ticker");
    let path = text(&control);
    let running = start([
        "run",
        "--kernel",
        &kernel,
        "--cmdline",
        "count=100000",
        "--memory",
        "16",
        "--console",
        "none",
        "--control",
        &path,
    ]);
    wait_for("a socket", || ask(&control, r#"{"ask":"status"}"#));
    let answer = ask(&control, r#"{"ask":"break-out"}"#).unwrap();
    assert_eq!(answer["ok"], false, "{answer}");
    running.terminate();
    running.wait().succeeded();
}

#[test]
fn a_recording_and_its_replay_are_limited_too() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let log = text(&directory.path().join("log"));
    let kernel = tiny("counter");
    let recording = start([
        "record",
        "--kernel",
        &kernel,
        "--cmdline",
        "ticks=50 period=10000000",
        "--memory",
        "16",
        "--console",
        "none",
        "--log",
        &log,
        "--hold",
    ]);
    all_are("2", &recording);
    wait_for("its end", || recording.is_stopped().then_some(()));
    recording.signal("CONT");
    recording.wait().succeeded();
    let replay = ftd(["replay", "--log", &log]);
    replay.succeeded();
}

/// Capabilities that may be left: to pass over files' permissions, for the TAP, for priorities, for counters.
const LEFT: u64 = 1 << 1 | 1 << 12 | 1 << 23 | 1 << 38;

#[test]
fn roots_powers_are_given_up() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control");
    let (path, kernel) = (text(&control), tiny("ticker"));
    let arguments = [
        "run",
        "--kernel",
        &kernel,
        "--cmdline",
        "count=100000",
        "--memory",
        "16",
        "--console",
        "none",
        "--control",
        &path,
    ];
    for (user, left) in [(None, LEFT), (Some("nobody"), LEFT & !2)] {
        if user.is_some() && !is_root() {
            eprintln!("SKIPPED: only root can become another user");
            continue;
        }
        let mut arguments = arguments.to_vec();
        arguments.extend(user.iter().flat_map(|user| ["--user", user]));
        let running = start(arguments);
        wait_for("a socket", || ask(&control, r#"{"ask":"status"}"#));
        all_are("2", &running);
        for name in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
            for set in fields(&running, name) {
                let set = u64::from_str_radix(&set, 16).unwrap();
                assert_eq!(set & !left, 0, "{name} {set:x}");
            }
        }
        assert!(fields(&running, "NoNewPrivs:").iter().all(|set| set == "1"));
        if user.is_some() {
            for uids in fields(&running, "Uid:") {
                assert!(uids.split_whitespace().all(|uid| uid != "0"), "{uids}");
            }
        }
        running.terminate();
        running.wait().succeeded();
        let _ = std::fs::remove_file(&control);
    }
}

#[test]
fn a_user_without_a_right_that_is_needed_later_is_told_so_at_once() {
    need_kvm!();
    if !is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    ftd(["run", "--kernel", "k", "--user", "no-such-user"])
        .failed_with(2, &["no user 'no-such-user'"]);
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let options = ["--cmdline", "count=100000", "--user", "nobody"];
    let refused = pair.primary(&kernel, &options);
    let shared = text(&pair.directory().join("shared"));
    refused
        .running
        .wait()
        .failed_with(1, &["nobody", &shared, "--user"]);
    // With it, the pair lives as ever.
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(pair.directory(), 0o755);
    open(&pair.directory().join("shared"), 0o777);
    let mut options = options.to_vec();
    options[1] = "count=100";
    options.push("--wait-backup");
    let mut primary = pair.primary_named("again", "warn", &kernel, &options);
    let mut backup = pair.backup("backup", &["--user", "nobody"]);
    backup.wait_for_event("protected");
    wait_for("ticks", || {
        (primary.printed().lines().count() >= 20).then_some(())
    });
    primary.running.kill();
    backup.wait_for_event("live");
    let console = backup.console.clone();
    backup.running.wait().succeeded();
    let printed = std::fs::read_to_string(console).unwrap();
    assert!(printed.ends_with("ticker: lines=100\n"), "{printed}");
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}
