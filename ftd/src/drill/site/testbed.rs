//! Two emulated hosts with upstream KVM, driven by `scripts/testbed/testbed`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::disks::Disks;
use super::{ClockOffset, Site, Taps, with_pid_file};
use crate::drill::plan::{Kill, Role};
use crate::drill::process;
use crate::drill::scenario::Storage;
use crate::drill::scenario::fault::Fault;

/// Questions about the time; the quickest answer counts.
const CLOCK_QUESTIONS: usize = 20;

/// By how much a host whose time goes by its instructions can be off: it has no common time with others,
/// and what it says it did at a time counts only as having been done at all. An hour.
const VIRTUAL_TIME_OFF_NS: u64 = 3_600_000_000_000;

/// The testbed's `status --json`, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Status {
    hosts: Vec<HostStatus>,
}

#[derive(Debug, Deserialize)]
struct HostStatus {
    name: String,
    power: String,
    taps: TapNames,
    addresses: Addresses,
}

#[derive(Debug, Deserialize)]
struct TapNames {
    log: String,
    lan: String,
}

#[derive(Debug, Deserialize)]
struct Addresses {
    log: String,
}

/// An instance of the testbed that the drill made and takes down.
pub struct TestbedSite {
    testbed: PathBuf,
    instance: String,
    cpus: u32,
    counts: bool,
    pub(super) disks: Disks,
    folder: PathBuf,
    up: bool,
    hosts: Vec<HostStatus>,
    /// How hosts have their disks.
    pub(super) storage: Storage,
    /// Processes that keep CPU from a daemon: whose, and which on its host.
    pub(super) starving: Vec<(Role, u32, u32)>,
    /// Clocks were set.
    pub(super) clocks_set: bool,
}

impl TestbedSite {
    /// A site whose hosts are powered on by [`Site::prepare`]. `testbed` is the command, `folder`
    /// is where disks and event logs are; hosts must see it.
    pub fn new(testbed: &Path, cpus: u32, disks: Disks, folder: &Path) -> Self {
        TestbedSite {
            testbed: testbed.into(),
            instance: format!("drill-{}", std::process::id()),
            cpus,
            counts: false,
            disks,
            folder: folder.into(),
            up: false,
            hosts: Vec::new(),
            storage: Storage::Plain,
            starving: Vec::new(),
            clocks_set: false,
        }
    }

    /// Whether the hosts are to have a performance counter.
    pub fn counts(&mut self, counts: bool) {
        self.counts = counts;
    }

    /// The testbed's command, found from `start` upwards as `scripts/testbed/testbed`.
    pub fn find(start: &Path) -> Option<PathBuf> {
        start
            .ancestors()
            .map(|folder| folder.join("scripts/testbed/testbed"))
            .find(|path| path.is_file())
    }

    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.testbed);
        command.arg("--name").arg(&self.instance).args(words);
        command
    }

    pub(super) fn host(&self, role: Role) -> &'static str {
        match role {
            Role::Primary => "host1",
            Role::Backup => "host2",
        }
    }

    fn status(&self, role: Role) -> Option<&HostStatus> {
        self.hosts.iter().find(|host| host.name == self.host(role))
    }

    fn power_on(&mut self) -> Result<()> {
        if !self.up {
            let path = |path: &Path| path.display().to_string();
            let (image, shared) = (path(&self.disks.image), path(&self.disks.shared));
            let (cpus, folder) = (self.cpus.to_string(), path(&self.folder));
            let program = path(self.disks.ftd.parent().unwrap_or(Path::new("/")));
            let mut command = self.command(&["up", "--hosts", "2", "--cpus", &cpus]);
            command.args(["--disk", &image, "--disk", &shared]);
            command.args(["--share", &folder, "--share", &program]);
            if self.counts {
                command.arg("--pmu");
            }
            self.up = true;
            process::output(&mut command)?;
        }
        self.hosts = self.read_status()?;
        let off = self.hosts.iter().filter(|host| host.power != "on");
        let off: Vec<String> = off.map(|host| host.name.clone()).collect();
        for host in off {
            process::output(&mut self.command(&["start", &host]))?;
        }
        Ok(())
    }

    /// Whether a host has its power.
    pub(super) fn has_power(&self, role: Role) -> bool {
        let hosts = self.read_status().unwrap_or_default();
        let name = self.host(role);
        hosts
            .iter()
            .any(|host| host.name == name && host.power == "on")
    }

    fn read_status(&self) -> Result<Vec<HostStatus>> {
        let text = process::output(&mut self.command(&["status", "--json"]))?;
        let status: Status =
            serde_json::from_str(&text).context("the testbed's status is not as expected")?;
        Ok(status.hosts)
    }
}

impl Site for TestbedSite {
    fn kind(&self) -> &'static str {
        "testbed"
    }

    fn describe(&self) -> String {
        "two emulated hosts with upstream KVM".into()
    }

    fn prepare(&mut self) -> Result<()> {
        self.ready_folders()?;
        self.disks.refresh()?;
        self.power_on()?;
        self.ready_hosts()
    }

    fn storage(&mut self, storage: Storage) -> Result<()> {
        self.storage = storage;
        Ok(())
    }

    fn disks(&self) -> (PathBuf, PathBuf) {
        match self.storage {
            Storage::Plain => ("/dev/vda".into(), "/dev/vdb".into()),
            Storage::Mapped => ("/dev/mapper/guest".into(), "/dev/mapper/arbiter".into()),
            Storage::Filling => (self.disks.scarce(), "/dev/vdb".into()),
        }
    }

    fn log_address(&self, role: Role) -> String {
        let known = self.status(role).map(|host| host.addresses.log.clone());
        known.unwrap_or_else(|| format!("10.77.1.{}", role.host()))
    }

    fn bridge(&self) -> String {
        "br0".into()
    }

    fn on_host(&self, role: Role, argv: &[String], pid_file: &Path) -> Command {
        let mut command = self.command(&["exec", self.host(role), "--"]);
        command.args(with_pid_file(argv, pid_file));
        command
    }

    fn outside(&self, argv: &[String]) -> Command {
        let mut command = self.command(&["client", "--"]);
        command.args(argv);
        command
    }

    fn taps(&self) -> Taps {
        let taps = |role| {
            let known = self.status(role).map(|host| &host.taps);
            let name = self.host(role);
            known.map_or((format!("{name}-log"), format!("{name}-lan")), |taps| {
                (taps.log.clone(), taps.lan.clone())
            })
        };
        let (log_of_primary, lan_of_primary) = taps(Role::Primary);
        let (_, lan_of_backup) = taps(Role::Backup);
        Taps {
            log_of_primary,
            lan_of_primary,
            lan_of_backup,
        }
    }

    fn kill(&mut self, role: Role, how: Kill, pid: u32) -> Result<()> {
        let host = self.host(role);
        let pid = pid.to_string();
        match how {
            Kill::PowerCut => process::output(&mut self.command(&["kill", host]))?,
            Kill::Kill => {
                process::output(&mut self.command(&["exec", host, "--", "kill", "-KILL", &pid]))?
            }
            Kill::Term => {
                process::output(&mut self.command(&["exec", host, "--", "kill", "-TERM", &pid]))?
            }
        };
        Ok(())
    }

    fn is_on(&self, role: Role) -> bool {
        self.has_power(role)
    }

    fn kill_both(&mut self, pids: [u32; 2]) -> Result<()> {
        let mut orders = Vec::new();
        for (role, pid) in [Role::Primary, Role::Backup].into_iter().zip(pids) {
            let words = [
                "exec",
                self.host(role),
                "--",
                "kill",
                "-KILL",
                &pid.to_string(),
            ];
            let mut order = self.command(&words);
            orders.push(order.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
        }
        for mut order in orders {
            let status = order.wait()?;
            if !status.success() {
                bail!("killing both daemons: {}", process::words(status));
            }
        }
        Ok(())
    }

    fn fault(&mut self, fault: &Fault, pid: &dyn Fn(Role) -> Result<u32>) -> Result<()> {
        self.make_happen(fault, pid)
    }

    fn relieve(&mut self) -> Result<()> {
        self.undo()
    }

    fn clock_offset(&self, role: Role) -> Result<ClockOffset> {
        // A shell's built-in: starting a program on an emulated host takes longer than is wanted.
        let script = "while read -r _; do echo $EPOCHREALTIME; done";
        let mut child = self
            .command(&["exec", "-i", self.host(role), "--", "bash", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(mut ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipe to the testbed");
        };
        let mut answers = BufReader::new(answers);
        let mut best: Option<ClockOffset> = None;
        for _ in 0..CLOCK_QUESTIONS {
            let asked = Instant::now();
            let asked_unix = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let mut line = String::new();
            if ask.write_all(b"\n").is_err() || answers.read_line(&mut line)? == 0 {
                break;
            }
            let half = u64::try_from(asked.elapsed().as_nanos() / 2)?;
            let Some(there) = parse_seconds(line.trim()) else {
                bail!("{} told the time as {line:?}", self.host(role));
            };
            let here = i64::try_from(asked_unix.as_nanos())? + half.cast_signed();
            let offset = ClockOffset {
                ahead_ns: there - here,
                uncertain_ns: half,
            };
            if best.is_none_or(|best| offset.uncertain_ns < best.uncertain_ns) {
                best = Some(offset);
            }
        }
        drop(ask);
        child.wait()?;
        if let Some(best) = best.as_mut().filter(|_| self.counts) {
            best.uncertain_ns = VIRTUAL_TIME_OFF_NS;
        }
        best.with_context(|| format!("{} did not tell the time", self.host(role)))
    }
}

impl Drop for TestbedSite {
    fn drop(&mut self) {
        if self.up
            && let Err(error) = process::output(&mut self.command(&["down"]))
        {
            eprintln!("ftd drill: {error:#}");
        }
        if let Err(error) = self.disks.forget_scarce() {
            eprintln!("ftd drill: {error:#}");
        }
    }
}

/// `seconds.microseconds` in nanoseconds.
fn parse_seconds(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once(['.', ','])?;
    let micros: i64 = fraction.parse().ok().filter(|_| fraction.len() == 6)?;
    Some(seconds.parse::<i64>().ok()?.checked_mul(1_000_000_000)? + micros * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_exactly() {
        assert_eq!(
            parse_seconds("1795235011.087919"),
            Some(1_795_235_011_087_919_000)
        );
        assert_eq!(parse_seconds("1795235011"), None);
        assert_eq!(parse_seconds("1.5"), None);
    }

    #[test]
    fn the_status_of_the_testbed_is_understood() {
        let text = r#"{"name": "x", "namespace": "ftd-testbed-x", "hosts": [
            {"name": "host1", "power": "on", "pid": 5, "console": "/run/c",
             "addresses": {"mgmt": "10.77.0.1", "log": "10.77.1.1", "lan": "10.77.2.1"},
             "taps": {"mgmt": "host1-mgmt", "log": "host1-log", "lan": "host1-lan"},
             "cuts": [], "netem": {}}]}"#;
        let status: Status = serde_json::from_str(text).expect("status");
        assert_eq!(status.hosts[0].taps.lan, "host1-lan");
    }

    #[test]
    fn the_testbed_is_found_from_a_folder_below_the_checkout() {
        let folder = tempfile::tempdir().expect("folder");
        let script = folder.path().join("scripts/testbed");
        std::fs::create_dir_all(&script).expect("folders");
        assert_eq!(TestbedSite::find(&script), None);
        std::fs::write(script.join("testbed"), "").expect("file");
        assert_eq!(TestbedSite::find(&script), Some(script.join("testbed")));
    }
}
