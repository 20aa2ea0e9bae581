//! A host whose KVM isn't there, isn't KVM, or lacks what a guest needs.

use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::program::ftd;

/// Every command that needs KVM must end like this, and leave nothing behind.
#[track_caller]
fn every_command_fails(device: &str, words: &[&str]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| text(&directory.path().join(name));
    let (shared, log, events) = (at("shared"), at("log"), at("events"));
    std::fs::create_dir(&shared).expect("a directory");
    let kernel = tiny("clock");
    let guest = ["--kernel", &kernel, "--console", "none", "--kvm", device];
    let pair = ["--shared", &shared, "--events", &events];
    for command in [
        &["run"][..],
        &["record", "--log", &log],
        &[&["primary"][..], &pair].concat(),
        &[&["backup", "--log-from", "127.0.0.1:1"][..], &pair].concat(),
    ] {
        let ended = ftd(command.iter().chain(&guest));
        ended.failed_with(1, words);
        ended.failed_with(1, &["ftd doctor"]);
        assert_eq!(ended.stdout, "");
    }
    for left in [&log, &events] {
        assert!(!std::path::Path::new(left).exists(), "{left} was begun");
    }
    assert_eq!(std::fs::read_dir(&shared).expect("a directory").count(), 0);
}

#[test]
fn no_device() {
    every_command_fails("/dev/no-kvm", &["cannot open /dev/no-kvm", "group kvm"]);
}

#[test]
fn a_device_of_another_kind() {
    every_command_fails("/dev/null", &["/dev/null is not a KVM device"]);
}

#[test]
fn a_log_cannot_be_replayed_without_kvm() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let log = text(&directory.path().join("log"));
    let kernel = tiny("clock");
    ftd([
        "record",
        "--kernel",
        &kernel,
        "--cmdline",
        "count=10",
        "--memory",
        "16",
        "--console",
        "none",
        "--log",
        &log,
    ])
    .succeeded();
    ftd(["replay", "--log", &log, "--kvm", "/dev/no-kvm"])
        .failed_with(1, &["cannot open /dev/no-kvm", "ftd doctor"]);
}

#[test]
fn a_clock_that_the_host_lacks() {
    need_kvm!();
    let lacking = match possible()["clock"].as_str() {
        Some("pmu") => {
            eprintln!("SKIPPED: this host has every clock");
            return;
        }
        Some("exit") => "pmu",
        _ => "exit",
    };
    let kernel = tiny("clock");
    ftd([
        "run",
        "--kernel",
        &kernel,
        "--memory",
        "16",
        "--console",
        "none",
        "--clock",
        lacking,
    ])
    .failed_with(1, &["can't keep clock", lacking, "ftd doctor"]);
}

#[test]
fn a_cpu_model_that_the_host_lacks() {
    need_kvm!();
    let kernel = tiny("clock");
    let mut refused = 0;
    for model in ["ftd-v1-amd", "ftd-v1-intel", "ftd-v2-amd", "ftd-v2-intel"] {
        let ended = ftd([
            "run",
            "--kernel",
            &kernel,
            "--cmdline",
            "count=10",
            "--memory",
            "16",
            "--console",
            "none",
            "--cpu",
            model,
        ]);
        if ended.status != Some(0) {
            let words = [model, "does not offer", "ftd doctor"];
            ended.failed_with(1, &words);
            refused += 1;
            // A backup says so before it has a primary.
            let shared = tempfile::tempdir().unwrap();
            ftd([
                "backup",
                "--log-from",
                "127.0.0.1:1",
                "--console",
                "none",
                "--cpu",
                model,
                "--shared",
                &text(shared.path()),
            ])
            .failed_with(1, &words);
        }
    }
    assert!(refused < 4, "no model fits, and yet there is a default");
}

fn possible() -> serde_json::Value {
    ftd(["doctor", "--json"]).json()["possible"].clone()
}

#[test]
fn doctor_says_that_nothing_is_possible_without_kvm() {
    let ended = ftd(["doctor", "--json", "--kvm", "/dev/no-kvm"]);
    assert_eq!(ended.status, Some(1));
    let report = ended.json();
    assert_eq!(report["ok"], false);
    assert_eq!(report["possible"]["run"], "none");
    assert_eq!(report["possible"]["clock"], serde_json::Value::Null);
    let device = &report["checks"][0];
    assert_eq!(device["name"], "kvm-device");
    assert_eq!(device["status"], "missing");
    assert!(
        device["advice"]
            .as_str()
            .is_some_and(|advice| !advice.is_empty())
    );
}

#[test]
fn doctor_describes_each_check() {
    let ended = ftd(["doctor", "--json"]);
    let report = ended.json();
    assert_eq!(
        ended.status == Some(0),
        report["possible"]["pair"] != "none"
    );
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        let text = |key: &str| check[key].as_str().unwrap_or_default();
        assert!(
            ["ok", "degraded", "missing"].contains(&text("status")),
            "{check}"
        );
        assert!(
            !text("found").is_empty() && !text("needed_for").is_empty(),
            "{check}"
        );
        assert_eq!(text("advice").is_empty(), text("status") == "ok", "{check}");
    }
    assert!(report["host"]["kernel"].is_string());
    let people = ftd(["doctor"]);
    for check in checks {
        let name = check["name"].as_str().unwrap();
        assert!(people.stdout.contains(name), "{name}");
    }
    assert!(people.stdout.contains("possible on this host"));
}

#[test]
fn doctor_agrees_with_what_happens() {
    need_kvm!();
    let possible = possible();
    let kernel = tiny("counter");
    let directory = tempfile::tempdir().unwrap();
    let log = text(&directory.path().join("log"));
    let recorded = ftd([
        "record",
        "--kernel",
        &kernel,
        "--cmdline",
        "count=3000",
        "--memory",
        "16",
        "--console",
        "none",
        "--log",
        &log,
    ]);
    assert_eq!(recorded.status == Some(0), possible["record"] != "none");
    let replayed = ftd(["replay", "--log", &log]);
    assert_eq!(replayed.status == Some(0), possible["replay"] != "none");
}
