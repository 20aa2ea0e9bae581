//! Two namespaces of this host, each with its own network: for hosts with a real KVM, and for
//! drills that need no second machine. A power cut is SIGKILL and the loss of both links at once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::disks::Disks;
use super::{ClockOffset, Site, Taps, with_pid_file};
use crate::drill::plan::{Kill, Role};
use crate::drill::process;

/// Namespaces that the drill made and takes away.
pub struct LocalSite {
    prefix: String,
    disks: Disks,
    made: bool,
}

impl LocalSite {
    /// A site that is made by [`Site::prepare`]; needs root.
    pub fn new(disks: Disks) -> Self {
        LocalSite {
            prefix: format!("ftd-drill-{}", std::process::id()),
            disks,
            made: false,
        }
    }

    fn outer(&self) -> String {
        format!("{}-out", self.prefix)
    }

    fn namespace(&self, role: Role) -> String {
        format!("{}-host{}", self.prefix, role.host())
    }

    fn ip(&self, namespace: Option<&str>, words: &str) -> Result<()> {
        let mut command = Command::new("ip");
        if let Some(namespace) = namespace {
            command.args(["-n", namespace]);
        }
        process::output(command.args(words.split_whitespace())).map(drop)
    }

    fn make(&mut self) -> Result<()> {
        self.made = true;
        let outer = self.outer();
        self.ip(None, &format!("netns add {outer}"))?;
        self.ip(Some(&outer), "link set lo up")?;
        for (net, number) in [("log", 1), ("lan", 2)] {
            let bridge = format!("br-{net}");
            let options = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
            self.ip(Some(&outer), &format!("link add {bridge} {options}"))?;
            self.ip(
                Some(&outer),
                &format!("addr add 10.77.{number}.254/24 dev {bridge}"),
            )?;
            self.ip(Some(&outer), &format!("link set {bridge} up"))?;
        }
        for role in [Role::Primary, Role::Backup] {
            let (inner, host) = (self.namespace(role), role.host());
            self.ip(None, &format!("netns add {inner}"))?;
            self.ip(Some(&inner), "link set lo up")?;
            for net in ["log", "lan"] {
                let tap = format!("host{host}-{net}");
                let pair = format!("link add {tap} type veth peer name {net}0 netns {inner}");
                self.ip(Some(&outer), &pair)?;
                self.ip(Some(&outer), &format!("link set {tap} master br-{net} up"))?;
            }
            let options = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
            self.ip(Some(&inner), &format!("link add br0 {options}"))?;
            self.ip(Some(&inner), "link set lan0 master br0")?;
            self.ip(
                Some(&inner),
                &format!("addr add 10.77.1.{host}/24 dev log0"),
            )?;
            self.ip(Some(&inner), &format!("addr add 10.77.2.{host}/24 dev br0"))?;
            for link in ["log0", "lan0", "br0"] {
                self.ip(Some(&inner), &format!("link set {link} up"))?;
            }
        }
        Ok(())
    }

    fn links(&self, role: Role, state: &str) -> Result<()> {
        for net in ["log", "lan"] {
            let words = format!("link set host{}-{net} {state}", role.host());
            self.ip(Some(&self.outer()), &words)?;
        }
        Ok(())
    }
}

impl Site for LocalSite {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn describe(&self) -> String {
        "two network namespaces of this host".into()
    }

    fn prepare(&mut self) -> Result<()> {
        self.disks.refresh()?;
        if !self.made {
            self.make()?;
        }
        self.links(Role::Primary, "up")?;
        self.links(Role::Backup, "up")
    }

    fn disks(&self) -> (PathBuf, PathBuf) {
        (self.disks.image.clone(), self.disks.shared.clone())
    }

    fn log_address(&self, role: Role) -> String {
        format!("10.77.1.{}", role.host())
    }

    fn bridge(&self) -> String {
        "br0".into()
    }

    fn on_host(&self, role: Role, argv: &[String], pid_file: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(role)]);
        command.args(with_pid_file(argv, pid_file));
        command
    }

    fn outside(&self, argv: &[String]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.outer()]).args(argv);
        command
    }

    fn taps(&self) -> Taps {
        Taps {
            log_of_primary: "host1-log".into(),
            lan_of_primary: "host1-lan".into(),
            lan_of_backup: "host2-lan".into(),
        }
    }

    fn kill(&mut self, role: Role, how: Kill, pid: u32) -> Result<()> {
        if how == Kill::PowerCut {
            self.links(role, "down")?;
        }
        let signal = if how == Kill::Term { "-TERM" } else { "-KILL" };
        process::output(Command::new("kill").args([signal, &pid.to_string()])).map(drop)
    }

    fn clock_offset(&self, _role: Role) -> Result<ClockOffset> {
        Ok(ClockOffset::default())
    }
}

impl Drop for LocalSite {
    fn drop(&mut self) {
        if self.made {
            for name in [
                self.namespace(Role::Primary),
                self.namespace(Role::Backup),
                self.outer(),
            ] {
                if let Err(error) = self.ip(None, &format!("netns delete {name}")) {
                    eprintln!("ftd drill: {error:#}");
                }
            }
        }
    }
}
