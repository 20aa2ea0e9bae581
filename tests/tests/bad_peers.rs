//! A backup that does not fit its primary: it ends and says why, and the primary goes on.

use tests::guests::{blank_disk, text, tiny};
use tests::need_kvm;
use tests::pair::Pair;
use tests::program::{build_directory, ftd};

#[track_caller]
fn turned_down(primary: &[&str], backup: &[&str], words: &[&str]) {
    let pair = Pair::new();
    let kernel = tiny("ticker");
    let mut options = vec!["--cmdline", "count=100000"];
    options.extend(primary);
    let mut primary = pair.primary(&kernel, &options);
    primary.wait_for_event("guest_started");
    let backup = pair.backup("backup", backup);
    let console = backup.console.clone();
    let events = backup.events.clone();
    let ended = backup.running.wait();
    ended.failed_with(1, &["the primary turned this host down"]);
    ended.failed_with(1, words);
    assert!(primary.running.is_running(), "{}", primary.running.stderr());
    assert!(primary.event("protected").is_none());
    assert_eq!(std::fs::read_to_string(console).unwrap_or_default(), "");
    let events = std::fs::read_to_string(events).unwrap_or_default();
    assert!(!events.contains("\"live\""), "{events}");
}

#[test]
fn another_cpu_model() {
    need_kvm!();
    let models = ["ftd-v1-amd", "ftd-v1-intel", "ftd-v2-amd", "ftd-v2-intel"];
    let kernel = tiny("clock");
    let fits = |model: &&str| {
        ftd([
            "run",
            "--kernel",
            &kernel,
            "--cmdline",
            "count=1",
            "--memory",
            "16",
            "--console",
            "none",
            "--cpu",
            model,
        ])
        .status
            == Some(0)
    };
    let fitting: Vec<_> = models.into_iter().filter(fits).collect();
    let [one, other, ..] = fitting[..] else {
        eprintln!("SKIPPED: this host can run one CPU model only: {fitting:?}");
        return;
    };
    turned_down(
        &["--cpu", one],
        &["--cpu", other],
        &["CPU model", one, other],
    );
}

#[test]
fn another_image() {
    need_kvm!();
    // A shared disk needs a file system with O_DIRECT, which that of /tmp may lack.
    let directory = tempfile::tempdir_in(build_directory()).unwrap();
    let at = |name: &str| directory.path().join(name);
    let (one, other) = (at("one.raw"), at("other.raw"));
    for (disk, signature) in [(&one, b"\x01\x02\x03\x04"), (&other, b"\x05\x06\x07\x08")] {
        let mut bytes = vec![0; 1 << 20];
        bytes[440..444].copy_from_slice(signature); // the MBR's disk signature
        std::fs::write(disk, bytes).unwrap();
    }
    let (one, other) = (text(&one), text(&other));
    turned_down(
        &["--image", &one],
        &["--image", &other],
        &["different disk images"],
    );
    let longer = at("longer.raw");
    blank_disk(&longer, 2 << 20);
    turned_down(
        &["--image", &one],
        &["--image", &text(&longer)],
        &["disk 0", "1048576", "2097152"],
    );
    turned_down(&["--image", &one], &[], &["1 disk(s)"]);
}

#[test]
fn another_machine() {
    need_kvm!();
    turned_down(&[], &["--memory", "32"], &["16777216", "33554432"]);
    turned_down(&[], &["--vm", "another"], &["\"vm\"", "\"another\""]);
}

#[test]
fn another_clock() {
    need_kvm!();
    let possible = ftd(["doctor", "--json"]).json()["possible"].clone();
    let words = ["clock", "--clock", "ftd doctor"];
    if possible["clock"] != "plain-exit" {
        turned_down(&[], &["--clock", "plain-exit"], &words);
    }
    // It names the same points as pmu, but by other counts.
    if possible["step_clock"] != "none" {
        turned_down(&[], &["--clock", "step"], &words);
    }
}

#[test]
fn nobody_there() {
    need_kvm!();
    // A backup waits for its primary to come, and ends when it is told to.
    let pair = Pair::new();
    let mut backup = pair.backup("backup", &[]);
    backup.wait_for_event("started");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(backup.running.is_running(), "{}", backup.running.stderr());
    backup.running.terminate();
    backup.running.wait().succeeded();
}
