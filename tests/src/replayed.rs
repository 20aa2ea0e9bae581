//! A recording and its replay.

use serde_json::Value;

use crate::guests::{text, tiny};
use crate::program::ftd;

/// Records the tiny guest and replays its log: the guest's last line begins with `says`, and both end in
/// the same state. What each of the two reports.
#[track_caller]
pub fn same_again(kernel: &str, cmdline: &str, more: &[&str], says: &str) -> (Value, Value) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = text(&directory.path().join("guest.log"));
    let console = text(&directory.path().join("console"));
    let kernel = tiny(kernel);
    let file = format!("file:{console}");
    let mut arguments = vec!["record", "--kernel", &kernel, "--cmdline", cmdline];
    arguments.extend(["--memory", "16", "--log", &log]);
    arguments.extend(["--console", &file, "--json"]);
    arguments.extend(more);
    let recorded = ftd(&arguments).succeeded().json();
    let printed = std::fs::read_to_string(&console).expect("a console");
    let last = printed.lines().last().unwrap_or_default();
    assert!(last.starts_with(says), "{printed}");
    let replayed = ftd(["replay", "--log", &log, "--json"]).succeeded().json();
    assert_eq!(replayed["state_hash"], recorded["state_hash"]);
    assert_eq!(replayed["exits"], recorded["exits"]);
    assert_eq!(replayed["same_state"], true);
    (recorded, replayed)
}
