//! What a running ftd says of itself, and `ftd status`, which asks.

use std::os::unix::net::UnixListener;

use serde_json::Value;
use tests::control::{ask, flip, status};
use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::pair::Pair;
use tests::program::{ftd, start, wait_for};

const LONG: [&str; 2] = ["--cmdline", "count=100000"];

fn number(status: &Value, field: &str) -> f64 {
    let found = status[field].as_f64();
    found.unwrap_or_else(|| panic!("no {field} in {status}"))
}

#[test]
fn a_pair_says_how_it_stands_at_each_stage() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &LONG);
    let alone = primary.wait_for_status("a primary alone", |status| status["role"] == "alone");
    assert_eq!(alone["protected"], false, "{alone}");
    assert_eq!(alone["why_unprotected"], "it has no backup", "{alone}");
    for unknown in ["peer_host", "epoch_acknowledged", "lag_ms", "last_failover"] {
        assert!(alone[unknown].is_null(), "{alone}");
    }

    let mut backup = pair.backup("backup", &[]);
    let is_whole = |status: &Value| {
        status["protected"] == true
            && status["epoch_executed"].as_u64() > Some(0)
            && status["log_mbit_s"].is_number()
    };
    let first = primary.wait_for_status("a protected primary", is_whole);
    let second = backup.wait_for_status("a backup", is_whole);
    for (status, role) in [(&first, "primary"), (&second, "backup")] {
        assert_eq!(status["role"], role, "{status}");
        assert!(status["why_unprotected"].is_null(), "{status}");
        assert_eq!(status["vm"], "vm", "{status}");
        assert_eq!(status["generation"], 1, "{status}");
        assert_eq!(status["divergences"], 0, "{status}");
        let peer = status["peer_address"].as_str().unwrap_or_default();
        assert!(peer.starts_with("127."), "{status}");
        let [acknowledged, executed] =
            ["epoch_acknowledged", "epoch_executed"].map(|field| number(status, field));
        assert!(acknowledged >= executed, "{status}");
        for field in ["lag_ms", "lag_epochs", "lag_bytes", "virtual_s", "uptime_s"] {
            assert!(number(status, field) >= 0.0, "{status}");
        }
        assert!(number(status, "log_mbit_s") > 0.0, "{status}");
        assert!(status["clock"].is_string() && status["host_kvm"].is_string());
    }
    assert!(number(&first, "epoch_made") >= number(&first, "epoch_acknowledged"));
    assert!(number(&first, "snapshots") >= 0.0, "{first}");
    // Only who makes them knows.
    assert!(second["epoch_made"].is_null() && second["snapshots"].is_null());

    primary.running.kill();
    let live = backup.wait_for_status("a survivor", |status| !status["last_failover"].is_null());
    assert_eq!(
        (&live["role"], &live["generation"]),
        (&"alone".into(), &2.into())
    );
    let last = &live["last_failover"];
    assert!(number(last, "detection_ms") >= 0.0 && number(last, "go_live_ms") > 0.0);
    assert!(
        number(&live, "virtual_s") >= number(&second, "virtual_s"),
        "{live}"
    );
    assert!(
        live["log_mbit_s"].is_null() && live["lag_ms"].is_null(),
        "{live}"
    );
}

#[test]
fn people_and_programs_can_read_it() {
    need_kvm!();
    let pair = Pair::new();
    let mut primary = pair.primary(&tiny("ticker"), &LONG);
    primary.wait_for_status("a primary alone", |status| status["role"] == "alone");
    let path = text(&primary.control);
    let table = ftd(["status", "--control", &path]);
    let words = "role            alone, not protected: it has no backup\n";
    assert!(table.succeeded().stdout.contains(words), "{table:#?}");
    let json = ftd(["status", "--control", &path, "--json"]);
    assert_eq!(json.succeeded().json()["role"], "alone");
    let metrics = ftd(["status", "--control", &path, "--prometheus"]);
    let metrics = &metrics.succeeded().stdout;
    for sample in [
        "ftd_role{vm=\"vm\",role=\"alone\"} 1",
        "ftd_protected{vm=\"vm\"} 0",
        "ftd_generation{vm=\"vm\"} 1",
        "ftd_divergences_total{vm=\"vm\"} 0",
    ] {
        assert!(metrics.lines().any(|line| line == sample), "{metrics}");
    }
    assert!(!metrics.contains("ftd_lag_seconds"), "{metrics}");
    ftd(["status", "--control", &path, "--prometheus", "--json"]).failed_with(2, &["--json"]);
    // It looks again until there is nobody any more.
    let watching = start(["status", "--control", &path, "--json", "--watch"]);
    wait_for("a second look", || {
        (watching.stdout().lines().count() >= 2).then_some(())
    });
    primary.running.terminate();
    primary.running.wait().succeeded();
    watching
        .wait()
        .failed_with(1, &["nobody listens on", &path]);
    assert!(!primary.control.exists());
}

#[test]
fn a_recording_says_how_it_stands_and_cleans_up() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let [control, log] = ["control", "log"].map(|name| directory.path().join(name));
    let (kernel, log) = (tiny("ticker"), text(&log));
    let [guest, record] = [
        vec!["--kernel", &kernel, "--cmdline", "count=300"],
        vec!["--log", &log],
    ];
    for (command, more, makes_epochs) in [("run", vec![], false), ("record", record, true)] {
        let at = text(&control);
        let mut arguments = vec![command, "--console", "none", "--memory", "16"];
        arguments.extend(["--control", &at]);
        arguments.extend(guest.iter().chain(&more));
        let running = start(arguments);
        let status = wait_for("a guest that runs", || {
            status(&control).filter(|status| status["virtual_s"].as_f64() > Some(0.5))
        });
        assert_eq!(status["command"], command, "{status}");
        assert_eq!(status["role"], "alone", "{status}");
        assert_eq!(status["epoch_made"].is_u64(), makes_epochs, "{status}");
        assert!(status["divergences"].is_null(), "{status}");
        running.wait().succeeded();
        assert!(!control.exists());
    }
}

#[test]
fn nobody_who_answers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let at = text(&path);
    let asked = || ftd(["status", "--control", &at]);
    asked().failed_with(1, &["nobody listens on", &at, "no such socket"]);
    let listener = UnixListener::bind(&path).unwrap();
    let other = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 100]);
        stream.write_all(b"220 mail.example\n").unwrap();
    });
    asked().failed_with(1, &[&at, "no ftd"]);
    other.join().unwrap();
    asked().failed_with(1, &["nobody listens on", &at, "is gone"]);
    ftd(["status"]).failed_with(2, &["--control"]);
}

#[test]
fn a_socket_that_lives_is_left_alone_and_a_dead_one_is_replaced() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &LONG);
    primary.wait_for_status("a primary alone", |status| status["role"] == "alone");
    let at = text(&primary.control);
    let run = ["run", "--kernel", &kernel, "--cmdline", "count=5"];
    let tail = ["--console", "none", "--memory", "16", "--control", &at];
    let again = || ftd(run.iter().chain(&tail));
    again().failed_with(1, &["another process listens on", &at]);
    assert_eq!(status(&primary.control).unwrap()["command"], "primary");
    primary.running.kill();
    assert!(primary.control.exists(), "a killed process leaves it");
    again().succeeded();
    assert!(!primary.control.exists());
}

#[test]
fn hooks_and_nonsense_are_refused() {
    need_kvm!();
    let pair = Pair::new();
    let mut primary = pair.primary(&tiny("ticker"), &LONG);
    primary.wait_for_status("a primary alone", |status| status["role"] == "alone");
    let says = |answer: &Value, words: &str| {
        assert_eq!(answer["ok"], false, "{answer}");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains(words), "{answer}");
    };
    says(&flip(&primary.control, "ram:0xa00000"), "--debug-hooks");
    says(
        &ask(&primary.control, "what now").unwrap(),
        "not understood",
    );
    says(&ask(&primary.control, r#"{"ask":"fly"}"#).unwrap(), "`fly`");
    assert_eq!(status(&primary.control).unwrap()["ok"], true);

    // One that finds no primary.
    let pair = Pair::new();
    let idle = pair.backup("idle", &["--debug-hooks"]);
    wait_for("a backup", || status(&idle.control));
    says(&flip(&idle.control, "register"), "no copy of the guest");
    says(&flip(&idle.control, "ram:0x1000000"), "no RAM at 0x1000000");
    ftd(["run", "--debug-hooks"]).failed_with(2, &["--control"]);
}

#[test]
fn a_primary_that_looks_for_a_living_copy_says_so() {
    need_kvm!();
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &LONG);
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    backup.running.kill();
    primary.running.kill();
    let mut again = pair.primary_named("again", "warn", &kernel, &LONG);
    let status = again.wait_for_status("a start", |status| status["role"] == "starting");
    let why = status["why_unprotected"].as_str().unwrap_or_default();
    assert!(why.contains("still runs elsewhere"), "{status}");
    assert!(
        status["virtual_s"].is_null() && status["generation"].is_null(),
        "{status}"
    );
}
