//! What the integration tests share: they run the real `ftd`, with tiny guests, on this machine's KVM, and
//! use none of its code.
//!
//! * [`program`]: building and running `ftd`.
//! * [`control`]: asking a running `ftd`.
//! * [`etcd`]: a real etcd of this machine's.
//! * [`guests`]: the tiny guests, and disk images.
//! * [`pair`]: a primary and a backup on this machine.
//! * [`replayed`]: a recording and its replay.

pub mod control;
pub mod etcd;
pub mod guests;
pub mod pair;
pub mod program;
pub mod replayed;

/// Whether guests can run here. If not, says why the test that asks is skipped.
pub fn kvm_is_here(test: &str) -> bool {
    let doctor = program::ftd(["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap_or_default();
    let here = report["possible"]["record"]
        .as_str()
        .is_some_and(|guests| guests != "none");
    if !here {
        eprintln!("SKIPPED {test}: ftd doctor says that no guest can be recorded on this machine");
    }
    here
}

/// The same, as the first line of a test.
#[macro_export]
macro_rules! need_kvm {
    () => {
        if !$crate::kvm_is_here(std::thread::current().name().unwrap_or("a test")) {
            return;
        }
    };
}
