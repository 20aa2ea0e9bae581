//! Checks of the host beside its KVM, and the host itself.

use std::fmt;

use serde_json::{Value, json};
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

/// What a host is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Release of its kernel.
    pub kernel: String,
    /// Its CPU, if KVM tells.
    pub processor: Option<Processor>,
    /// Module of its KVM, if one is loaded.
    pub kvm_module: Option<String>,
}

impl Host {
    /// This one.
    pub fn this(processor: Option<Processor>) -> Host {
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        Host {
            name: read("/proc/sys/kernel/hostname"),
            kernel: read("/proc/sys/kernel/osrelease"),
            processor,
            kvm_module: Some(host_kvm()).filter(|module| module != "unknown"),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Host {
            name,
            kernel,
            processor,
            kvm_module,
        } = self;
        let processor = processor.as_ref().map(|processor| {
            json!({
                "vendor": processor.vendor,
                "family": processor.family,
                "model": processor.model,
                "stepping": processor.stepping,
                "design": processor.design().name(),
            })
        });
        json!({"name": name, "kernel": kernel, "kvm_module": kvm_module, "processor": processor})
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; Linux {}", self.name, self.kernel)?;
        if let Some(processor) = &self.processor {
            write!(f, "; {processor}")?;
        }
        match &self.kvm_module {
            Some(module) => write!(f, "; KVM module {module}"),
            None => f.write_str("; no KVM module that ftd knows"),
        }
    }
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
