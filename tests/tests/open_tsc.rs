//! A kernel that may read the host's time-stamp counter is not recorded, unless that is accepted.

use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::program::{ftd, start_saying, wait_for};

/// A kernel of which nobody can say what is code and what is data.
fn without_sections(to: &std::path::Path) -> String {
    let mut elf = std::fs::read(tiny("counter")).expect("a tiny guest");
    // e_shoff; e_shnum and e_shstrndx.
    elf[40..48].fill(0);
    elf[60..64].fill(0);
    std::fs::write(to, elf).expect("room for a kernel");
    text(to)
}

#[test]
fn it_is_refused_before_anything_begins_and_recorded_with_a_warning() {
    need_kvm!();
    let directory = tempfile::tempdir().unwrap();
    let kernel = without_sections(&directory.path().join("kernel"));
    let log = directory.path().join("log");
    let log_option = text(&log);
    let line = |more: &[&str]| {
        let always = ["record", "--kernel", &kernel, "--log", &log_option];
        let spin = ["--cmdline", "spin", "--console", "none", "--memory", "16"];
        let all = [&always[..], &spin, more].concat();
        all.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let words = [
        "cannot be replayed",
        "no section headers",
        "--accept-open-tsc",
    ];
    ftd(line(&[])).failed_with(1, &words);
    assert!(!log.exists());
    let running = start_saying("warn", line(&["--accept-open-tsc"]));
    let warning = "will diverge from its replay";
    wait_for(warning, || running.stderr().contains(warning).then_some(()));
    wait_for("the log", || log.exists().then_some(()));
    running.terminate();
    running.wait().succeeded();
}
