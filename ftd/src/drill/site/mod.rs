//! Where a drill takes place: two hosts and an outer side, joined by the networks of the testbed
//! (`log` 10.77.1.0/24 between the hosts, `lan` 10.77.2.0/24 for the guest and its clients; a host's
//! address is its number, the outer side's .254).
//!
//! * [`testbed`]: two emulated hosts with upstream KVM, by `scripts/testbed/testbed`.
//! * [`local`]: two network namespaces of this host, whose own KVM runs both guests.
//! * [`faults`]: what can be done to the emulated hosts.
//! * [`disks`]: the files behind the hosts' disks, made fresh for each drill.

pub mod disks;
mod faults;
pub mod local;
pub mod testbed;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::plan::{Kill, Role};
use super::scenario::Storage;
use super::scenario::fault::Fault;

/// Interfaces of the outer side on which to capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taps {
    /// Where the primary's host is attached to the log network.
    pub log_of_primary: String,
    /// Where the primary's host is attached to the guest's network.
    pub lan_of_primary: String,
    /// Where the backup's host is.
    pub lan_of_backup: String,
}

/// How a host's clock differs from ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockOffset {
    /// Its time minus ours, in nanoseconds.
    pub ahead_ns: i64,
    /// By how much that may be wrong, in nanoseconds.
    pub uncertain_ns: u64,
}

impl ClockOffset {
    /// The time here when it is `unix_ns` there.
    pub fn here(&self, unix_ns: u64) -> u64 {
        unix_ns.saturating_add_signed(-self.ahead_ns)
    }
}

/// Two hosts and an outer side.
pub trait Site {
    /// One word for the report.
    fn kind(&self) -> &'static str;
    /// For people.
    fn describe(&self) -> String;
    /// Makes everything as before the first drill: hosts on, disks fresh, links up.
    ///
    /// # Errors
    /// When that can't be done; nothing is left half-started by then.
    fn prepare(&mut self) -> Result<()>;
    /// How hosts have their disks from the next [`Site::prepare`] on.
    ///
    /// # Errors
    /// When this site can't do it.
    fn storage(&mut self, storage: Storage) -> Result<()> {
        match storage {
            Storage::Plain => Ok(()),
            _ => bail!("only emulated hosts have such disks: leave --local out"),
        }
    }
    /// The guest's disk and the arbiter's storage, as hosts name them.
    fn disks(&self) -> (PathBuf, PathBuf);
    /// Address of a side on the log network.
    fn log_address(&self, role: Role) -> String;
    /// The bridge of a host that leads to the guest's network.
    fn bridge(&self) -> String;
    /// A command that runs `argv` on a side's host in the foreground, its own pid in `pid_file`.
    fn on_host(&self, role: Role, argv: &[String], pid_file: &Path) -> Command;
    /// A command that runs `argv` on the outer side, where clients are.
    fn outside(&self, argv: &[String]) -> Command;
    /// Where to capture.
    fn taps(&self) -> Taps;
    /// Kills the side whose daemon has this pid on its host.
    ///
    /// # Errors
    /// When it can't be done.
    fn kill(&mut self, role: Role, how: Kill, pid: u32) -> Result<()>;
    /// Whether a side's host has its power.
    fn is_on(&self, _role: Role) -> bool {
        true
    }
    /// Kills both daemons by SIGKILL, as far as possible at once: the primary's, the backup's.
    ///
    /// # Errors
    /// When it can't be done.
    fn kill_both(&mut self, pids: [u32; 2]) -> Result<()> {
        self.kill(Role::Primary, Kill::Kill, pids[0])?;
        self.kill(Role::Backup, Kill::Kill, pids[1])
    }
    /// Makes something happen. `pid` tells a side's daemon on its host.
    ///
    /// # Errors
    /// When it can't be done, or this site can't do it.
    fn fault(&mut self, fault: &Fault, _pid: &dyn Fn(Role) -> Result<u32>) -> Result<()> {
        bail!("only emulated hosts can do that ({fault}): leave --local out")
    }
    /// Takes away what would keep a daemon from ending: after a scenario, whatever came of it.
    ///
    /// # Errors
    /// When it can't be done.
    fn relieve(&mut self) -> Result<()> {
        Ok(())
    }
    /// Compares a host's clock with ours.
    ///
    /// # Errors
    /// When the host can't be asked.
    fn clock_offset(&self, role: Role) -> Result<ClockOffset>;
}

/// A shell that writes its pid to a file and becomes the command.
fn with_pid_file(argv: &[String], pid_file: &Path) -> Vec<String> {
    let script = "echo $$ >\"$0\"; exec \"$@\"";
    let pid_file = pid_file.display().to_string();
    let mut all = vec!["sh".into(), "-c".into(), script.into(), pid_file];
    all.extend(argv.iter().cloned());
    all
}
