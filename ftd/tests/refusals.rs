//! What ftd refuses to start with, and what it says then.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Ftd, has_kvm, spinning_kernel};

#[test]
fn a_kernel_that_may_read_the_host_s_clock_is_refused_unless_that_is_accepted() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = spinning_kernel(dir.path(), false);
    let log = dir.path().join("log");
    let mut line = vec![
        "record",
        "--kernel",
        kernel.to_str().unwrap(),
        "--cmdline",
        "",
        "--memory",
        "16",
        "--console",
        "none",
        "--log",
        log.to_str().unwrap(),
    ];
    let (status, said) = Ftd::start(&line).last_words();
    assert_eq!(status, Some(1), "{said}");
    for text in [
        "cannot be replayed",
        "no section headers",
        "--accept-open-tsc",
    ] {
        assert!(said.contains(text), "{said}");
    }
    assert!(!log.exists(), "nothing was begun");
    line.push("--accept-open-tsc");
    let mut ftd = Ftd::start(&line);
    ftd.wait_for("will diverge from its replay");
    ftd.kill();
}
