//! Checks of the host beside its KVM, and the host in a line.

use std::path::Path;

use vmm::probe::Finding;
use vmm::probe::processor::Processor;

use super::checks::{Check, Loss, Row, Status};
use crate::daemon::pair::host_kvm;
use crate::host::tap::{Tap, TapOptions};

const TAP: Row = Row {
    name: "tap",
    needed_for: "the guest's network",
    advice: "run as root, or let root make a TAP once with 'ip tuntap add dev NAME mode tap user USER' and give --tap NAME",
    loss: Loss::Little,
    otherwise: Status::Missing,
};
const HUGE_PAGES: Row = Row {
    name: "huge-pages",
    needed_for: "guest RAM at full speed",
    advice: "write 'madvise' to /sys/kernel/mm/transparent_hugepage/enabled",
    loss: Loss::Little,
    otherwise: Status::Degraded,
};

const HUGE_PAGES_SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// All of them.
pub fn checks() -> Vec<Check> {
    vec![TAP.with(tap()), HUGE_PAGES.with(huge_pages())]
}

/// Makes a TAP, which is gone again when this returns.
fn tap() -> Finding {
    let options = TapOptions {
        up: false,
        ..TapOptions::default()
    };
    match Tap::open(&options) {
        Ok(_) => Finding::yes("a TAP can be made"),
        Err(error) => Finding::no(vmm::error::chain(&error)),
    }
}

fn huge_pages() -> Finding {
    match std::fs::read_to_string(HUGE_PAGES_SETTING) {
        Ok(setting) => huge_page_setting(&setting),
        Err(error) => Finding::no(format!("cannot read {HUGE_PAGES_SETTING}: {error}")),
    }
}

/// The kernel puts the setting in force in brackets.
fn huge_page_setting(setting: &str) -> Finding {
    let found = format!("transparent huge pages: {}", setting.trim());
    if setting.contains("[never]") {
        Finding::no(found)
    } else {
        Finding::yes(found)
    }
}

/// The host in a line.
pub fn describe(processor: Option<&Processor>) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut parts = vec![
        read("/proc/sys/kernel/hostname").trim().to_owned(),
        format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
    ];
    if let Some(processor) = processor {
        parts.push(processor.to_string());
    }
    parts.push(match host_kvm().as_str() {
        "unknown" if !Path::new("/sys/module/kvm").exists() => "no KVM module".to_owned(),
        module => format!("KVM module {module}"),
    });
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_never_keeps_huge_pages_away() {
        assert!(huge_page_setting("[always] madvise never\n").ok);
        assert!(huge_page_setting("always [madvise] never\n").ok);
        assert!(!huge_page_setting("always madvise [never]\n").ok);
    }
}
