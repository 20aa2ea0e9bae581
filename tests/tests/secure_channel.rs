//! The logging channel with keys: a pair lives as without, and whoever has no key of the pair does not join.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::pair::{Pair, Side, free_address};
use tests::program::{ftd, wait_for};

#[track_caller]
fn wait_for_lines(side: &Side, least: usize) {
    wait_for("lines", || {
        (side.printed().lines().count() >= least).then_some(())
    });
}

#[test]
fn a_pair_with_keys_fails_over_and_takes_another_backup() {
    need_kvm!();
    let pair = Pair::with_keys();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &["--cmdline", "count=200", "--wait-backup"]);
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("protected");
    wait_for_lines(&primary, 20);
    backup.running.kill();
    primary.wait_for_event("alone");
    let mut second = pair.backup("second", &[]);
    second.wait_for_event("protected");
    let seen = primary.printed().lines().count();
    wait_for_lines(&primary, seen + 5);
    primary.running.kill();
    let live = second.wait_for_event("live");
    assert!(
        live["go_live_ms"].as_f64().is_some_and(|ms| ms < 5000.0),
        "{live}"
    );
    let console = second.console.clone();
    second.running.wait().succeeded();
    let printed = std::fs::read_to_string(console).unwrap();
    assert!(printed.ends_with("ticker: lines=200\n"), "{printed}");
}

#[test]
fn a_guest_is_handed_over_through_it() {
    need_kvm!();
    let pair = Pair::with_keys();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &["--cmdline", "count=150"]);
    primary.wait_for_event("guest_started");
    let mut backup = pair.backup("backup", &["--listen", &free_address()]);
    backup.wait_for_event("protected");
    primary.wait_for_event("protected");
    wait_for_lines(&primary, 20);
    ftd(["failover", "--control", &text(&primary.control)]).succeeded();
    backup.wait_for_event("live");
    let here = primary.console.clone();
    assert_eq!(primary.running.wait().status, Some(3));
    let there = backup.console.clone();
    backup.running.wait().succeeded();
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let all: String = (1..=150).map(|line| format!("tick {line}\n")).collect();
    assert_eq!(
        format!("{}{}", read(here), read(there)),
        format!("{all}ticker: lines=150\n")
    );
}

#[test]
fn who_has_no_key_of_the_pair_stays_out() {
    need_kvm!();
    let mut pair = Pair::with_keys();
    let kernel = tiny("ticker");
    let mut primary = pair.primary(&kernel, &["--cmdline", "count=100000"]);
    primary.wait_for_event("guest_started");
    // Bytes of nobody.
    let address = pair.address().to_owned();
    let mut stranger = TcpStream::connect(&address).unwrap();
    stranger.write_all(&[b'F'; 100]).unwrap();
    let _ = stranger.read_to_end(&mut Vec::new());
    // One who says nothing keeps his place only so long, and nobody waits for him.
    let mut silent = TcpStream::connect(&address).unwrap();

    pair.use_keys("others", ["west", "east"]);
    let mut other = pair.backup("other", &[]);
    wait_for("a word", || {
        let said = other.running.stderr();
        said.contains("its key is not of this pair").then_some(())
    });
    wait_for("a word", || {
        let said = primary.running.stderr();
        said.contains("takes this host's key for one of another pair")
            .then_some(())
    });
    assert!(other.running.is_running());
    assert!(other.event("joined").is_none() && primary.event("joined").is_none());
    other.running.terminate();
    other.running.wait().succeeded();

    let open = pair.backup_without_keys("open", &[]);
    wait_for("a word", || {
        let said = open.running.stderr();
        said.contains("start this host with --keys").then_some(())
    });
    open.running.terminate();
    open.running.wait().succeeded();

    silent
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    // TLS says goodbye.
    let ended = silent.read_to_end(&mut Vec::new());
    let reset = |error: &Error| error.kind() == ErrorKind::ConnectionReset;
    assert!(
        ended.as_ref().err().is_none_or(reset),
        "it is still let in: {ended:?}"
    );
    assert!(primary.running.is_running(), "{}", primary.running.stderr());
    assert!(primary.event("protected").is_none());
}

#[test]
fn a_channel_that_leaves_the_host_needs_keys() {
    let directory = tempfile::tempdir().unwrap();
    let shared = text(directory.path());
    let words = [
        "192.0.2.1:7",
        "ftd keys --out DIR",
        "--keys FILE",
        "--insecure-channel",
    ];
    for end in [
        &["primary", "--kernel", "k", "--listen", "192.0.2.1:7"][..],
        &["backup", "--log-from", "192.0.2.1:7"],
        &[
            "backup",
            "--log-from",
            "127.0.0.1:7",
            "--listen",
            "192.0.2.1:7",
        ],
        &[
            "pair",
            "--kernel",
            "k",
            "--listen",
            "127.0.0.1:7",
            "--peer",
            "192.0.2.1:7",
        ],
    ] {
        let shared = ["--shared", &shared];
        ftd(end.iter().chain(&shared)).failed_with(2, &words);
        let both = ["--keys", "k", "--insecure-channel"];
        ftd(end.iter().chain(&shared).chain(&both)).failed_with(2, &["cannot be used with"]);
        // What they are is looked at first.
        let keys = ["--keys", "/no/such/file"];
        ftd(end.iter().chain(&shared).chain(&keys)).failed_with(1, &["/no/such/file"]);
    }
    let everywhere = ["primary", "--kernel", "k", "--shared", &shared];
    ftd(everywhere.iter().chain(&["--listen", "0.0.0.0:7"])).failed_with(2, &["0.0.0.0:7"]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn keys_are_made_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("keys");
    let done = ftd(["keys", "--out", &text(&out)]);
    let said = &done.succeeded().stdout;
    assert!(
        said.contains("host1.pem") && said.contains("host2.pem"),
        "{said}"
    );
    assert!(
        said.contains("--keys") && said.contains("pair.ca"),
        "{said}"
    );
    for name in ["pair.ca", "host1.pem", "host2.pem"] {
        let mode = out.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let again = ftd(["keys", "--out", &text(&out)]);
    again.failed_with(1, &["host1.pem", "there already"]);
    let third = ftd(["keys", "--out", &text(&out), "--host", "north"]);
    assert!(third.succeeded().stdout.contains("was there"), "{third:?}");
    ftd(["keys", "--out", &text(&out), "--host", "a/b"]).failed_with(1, &["a/b"]);
}
