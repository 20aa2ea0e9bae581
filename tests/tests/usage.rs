//! A command line that makes no sense: status 2, and a message that says what would.

use tests::guests::tiny;
use tests::need_kvm;
use tests::program::ftd;

#[track_caller]
fn usage(arguments: &[&str], words: &[&str]) {
    ftd(arguments).failed_with(2, words);
}

#[test]
fn no_command_and_unknown_ones() {
    usage(&[], &["Usage: ftd"]);
    usage(&["fly"], &["fly"]);
    usage(&["run", "--wings", "2"], &["--wings"]);
}

#[test]
fn values_out_of_range() {
    let kernel = tiny("clock");
    let run = ["run", "--kernel", &kernel];
    for (option, value, words) in [
        ("--memory", "1", "4..=3072"),
        ("--memory", "4000", "4..=3072"),
        ("--memory", "much", "much"),
        ("--cpu", "486", "ftd-v1-amd"),
        ("--clock", "sundial", "plain-exit"),
        ("--mac", "52:54:00", "52:54:00:66:74:64"),
        ("--mac", "01:00:5e:00:00:01", "multicast"),
        ("--console", "printer", "file:PATH"),
        ("--image-format", "vhd", "qcow2"),
        ("--patience-ms", "0", "1..=1000"),
    ] {
        let mut arguments = run.to_vec();
        arguments.extend([option, value]);
        usage(&arguments, &[option, words]);
    }
    usage(
        &["backup", "--shared", ".", "--log-from", "nowhere"],
        &["--log-from", "nowhere"],
    );
    usage(
        &[
            "backup",
            "--shared",
            ".",
            "--log-from",
            "127.0.0.1:1",
            "--slot",
            "8",
        ],
        &["--slot", "0..=7"],
    );
}

#[test]
fn options_that_are_missing() {
    usage(&["record", "--kernel", "k"], &["--log"]);
    usage(&["replay"], &["--log"]);
    usage(&["primary", "--kernel", "k"], &["--shared"]);
    usage(&["backup", "--shared", "."], &["--log-from"]);
    usage(&["run", "--initrd", "i"], &["--kernel"]);
}

#[test]
fn nothing_to_boot() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let shared = directory.path().to_str().unwrap();
    let words = ["nothing to boot", "--image", "--kernel"];
    usage(&["run", "--console", "none"], &words);
    let log = directory.path().join("log");
    usage(
        &[
            "record",
            "--console",
            "none",
            "--log",
            log.to_str().unwrap(),
        ],
        &words,
    );
    assert!(!log.exists());
    usage(
        &["primary", "--console", "none", "--shared", shared],
        &words,
    );
    assert_eq!(std::fs::read_dir(shared).unwrap().count(), 0);
}

#[test]
fn a_program_that_waits_for_json_gets_it_when_something_fails_too() {
    for arguments in [
        &["status", "--control", "/no/such/socket", "--json"][..],
        &["failover", "--control", "/no/such/socket", "--json"],
        &["replay", "--log", "/no/such/log", "--json"],
        &["format-shared", "/no/such/device", "--json"],
    ] {
        let ended = ftd(arguments);
        ended.failed_with(1, &["/no/such"]);
        let answer: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!(answer["ok"], false, "{answer}");
        let why = answer["error"].as_str().expect("a reason");
        assert!(why.contains("/no/such"), "{why}");
    }
    let both = ["run", "--kernel", "k", "--json", "--console", "stdio"];
    usage(&both, &["--json", "--console"]);
}

#[test]
fn times_that_are_none() {
    for seconds in ["inf", "-1", "soon"] {
        let stop = format!("--stop-after={seconds}");
        usage(&["record", "--kernel", "k", "--log", "l", &stop], &["2.5"]);
    }
}
