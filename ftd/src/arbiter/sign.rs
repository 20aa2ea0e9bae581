//! Signs of life: what the host that has the guest writes beside its generation, again and again.
//!
//! A generation says who won, not whether the winner is still there. A primary that is started again
//! must know: to run the guest a second time, beside the copy that took it over, would be worse than
//! not to run it at all. [`super::vacancy`] reads the signs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often a sign is renewed.
pub const SIGN_EVERY: Duration = Duration::from_millis(500);

/// Longest encoded sign, in bytes: what fits into a sector's checked part.
pub(super) const SIGN_BYTES_MAX: usize = 440;
/// Longest text in it, in bytes; longer ones are cut.
const TEXT_BYTES_MAX: usize = 64;

/// What the holder of a generation says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// The generation that it won.
    pub generation: u64,
    /// Its host's name, for people.
    pub host: String,
    /// Where backups join it, if they can.
    pub listen: Option<String>,
    /// Its process.
    pub process: Process,
    /// Rises with each sign.
    pub beat: u64,
    /// After how much silence it and its backup take each other for lost, in milliseconds.
    pub detect_ms: u32,
    /// Another host has a copy of the guest, or is being given one: it may take over.
    pub may_pass: bool,
    /// The holder has ended in order, and runs the guest no more.
    pub ended: bool,
}

impl Sign {
    /// A first sign of this process.
    pub fn new(host: &str, listen: Option<String>, detect_ms: u32) -> Sign {
        Sign {
            generation: 0,
            host: cut(host),
            listen: listen.as_deref().map(cut),
            process: Process::this(),
            beat: 0,
            detect_ms,
            may_pass: false,
            ended: false,
        }
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// A process of some host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The boot of its host (/proc/sys/kernel/random/boot_id).
    boot: String,
    /// The PID namespace in which `pid` counts.
    namespace: u64,
    pid: u32,
    /// When it was started, in clock ticks since the boot: a PID may be used again.
    started: u64,
}

impl Process {
    /// This one.
    pub fn this() -> Process {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |at| at.ino());
        let pid = std::process::id();
        Process {
            boot: cut(boot.trim()),
            namespace,
            pid,
            started: started(pid).unwrap_or(0),
        }
    }

    /// Whether it is there; `None` if that can't be seen from here.
    pub fn is_there(&self) -> Option<bool> {
        let this = Process::this();
        let same_host = !self.boot.is_empty() && self.namespace != 0;
        if !same_host || (&self.boot, self.namespace) != (&this.boot, this.namespace) {
            return None;
        }
        Some(started(self.pid) == Some(self.started))
    }

    /// One of a host that was never here.
    #[cfg(test)]
    pub(super) fn elsewhere() -> Process {
        Process {
            boot: "elsewhere".to_owned(),
            namespace: 1,
            pid: 1,
            started: 1,
        }
    }

    /// One of this host that has ended.
    #[cfg(test)]
    pub(super) fn gone() -> Process {
        Process {
            started: 0,
            ..Process::this()
        }
    }
}

/// Field 22 of /proc/PID/stat (proc_pid_stat(5)). The second field, in parentheses, may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let behind_name = stat.rsplit(')').next()?;
    behind_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_and_only_on_its_own_host() {
        assert_eq!(Process::this().is_there(), Some(true));
        assert_eq!(Process::gone().is_there(), Some(false));
        assert_eq!(Process::elsewhere().is_there(), None);
        let mut unknown = Process::this();
        unknown.boot.clear();
        assert_eq!(unknown.is_there(), None);
    }

    #[test]
    fn a_sign_fits_whatever_the_host_is_called() {
        let mut sign = Sign::new(&"ä".repeat(200), Some("x".repeat(300)), u32::MAX);
        sign.generation = u64::MAX;
        sign.beat = u64::MAX;
        sign.process.boot = "x".repeat(TEXT_BYTES_MAX);
        sign.process.namespace = u64::MAX;
        let bytes = postcard::to_allocvec(&sign).unwrap();
        assert!(bytes.len() <= SIGN_BYTES_MAX, "{}", bytes.len());
        assert_eq!(sign.host, "ä".repeat(32));
    }
}
