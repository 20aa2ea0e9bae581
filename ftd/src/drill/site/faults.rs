//! What can be done to the emulated hosts, and how it is undone.
//!
//! A disk that hangs or fails is a table of the host's device mapper, over the disk: `linear`, suspended, or
//! `error`. The daemons use it as any block device.

use anyhow::{Context, Result};

use super::testbed::TestbedSite;
use crate::drill::plan::Role;
use crate::drill::process;
use crate::drill::scenario::Storage;
use crate::drill::scenario::fault::{DiskState, Fault};

const BOTH: [Role; 2] = [Role::Primary, Role::Backup];

/// No udev is on an emulated host: libdevmapper makes the nodes itself.
const DMSETUP: &str = "export DM_DISABLE_UDEV=1;";

/// Stops a process for $2 of each 150 milliseconds, until it is gone or this script is told to end.
const STARVE: &str = "\
import os, signal, sys, time
pid, percent = int(sys.argv[1]), int(sys.argv[2])
whole = 0.150
def end(*_):
    os.kill(pid, signal.SIGCONT)
    sys.exit()
signal.signal(signal.SIGTERM, end)
try:
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(whole * percent / 100)
        os.kill(pid, signal.SIGCONT)
        time.sleep(whole * (100 - percent) / 100)
except ProcessLookupError:
    pass
";

impl TestbedSite {
    /// Runs a shell script on a host; what it prints.
    fn shell(&self, role: Role, script: &str) -> Result<String> {
        process::output(&mut self.command(&["exec", self.host(role), "--", "sh", "-c", script]))
    }

    /// Before the disks are made: the file system that can get full.
    pub(super) fn ready_folders(&mut self) -> Result<()> {
        self.disks.want_scarce(self.storage == Storage::Filling)
    }

    /// A host that stayed on may remember blocks of the disks as they were, and what was done to it.
    pub(super) fn ready_hosts(&mut self) -> Result<()> {
        self.undo()?;
        let mut script = format!("set -e; {DMSETUP} for name in guest arbiter; do ");
        script.push_str(
            "if [ -e /dev/mapper/$name ]; then dmsetup remove --retry $name; fi; done; \
             blockdev --flushbufs /dev/vda; blockdev --flushbufs /dev/vdb; ",
        );
        if self.storage == Storage::Mapped {
            for (name, disk) in [("guest", "/dev/vda"), ("arbiter", "/dev/vdb")] {
                script.push_str(&format!(
                    "dmsetup create {name} --table \"0 $(blockdev --getsz {disk}) linear {disk} 0\"; "
                ));
            }
        }
        for role in BOTH {
            self.shell(role, &script)
                .with_context(|| format!("the disks of {}", self.host(role)))?;
        }
        Ok(())
    }

    /// See [`Site::fault`].
    pub(super) fn make_happen(
        &mut self,
        fault: &Fault,
        pid: &dyn Fn(Role) -> Result<u32>,
    ) -> Result<()> {
        match *fault {
            Fault::Cut { side, direction } => {
                let words = ["cut", self.host(side), "--net", "log", "--direction"];
                process::output(self.command(&words).arg(direction.name()))?;
            }
            Fault::Restore => self.restore()?,
            Fault::Delay { side, ms } => {
                process::output(&mut self.command(&["delay", self.host(side), &ms.to_string()]))?;
            }
            Fault::Loss { side, percent } => {
                let percent = percent.to_string();
                process::output(&mut self.command(&["loss", self.host(side), &percent]))?;
            }
            Fault::Arbiter { side, away } => {
                let word = if away {
                    "suspend --noflush --nolockfs"
                } else {
                    "resume"
                };
                self.shell(side, &format!("{DMSETUP} dmsetup {word} arbiter"))?;
            }
            Fault::Disk(state) => self.disk(state)?,
            Fault::Starve { side, percent } => {
                let (of, percent) = (pid(side)?, percent.to_string());
                let words = ["exec", "-d", self.host(side), "--", "python3", "-c", STARVE];
                let said = process::output(self.command(&words).args([&of.to_string(), &percent]))?;
                let by = said
                    .trim()
                    .parse()
                    .with_context(|| format!("{said:?} is no pid"))?;
                self.starving.push((side, of, by));
            }
            Fault::Feed { side } => self.feed(side)?,
            Fault::StepClock { side, seconds } => {
                self.clocks_set = true;
                self.shell(side, &format!("date -s @$(($(date +%s) + {seconds}))"))?;
            }
        }
        Ok(())
    }

    fn disk(&mut self, state: DiskState) -> Result<()> {
        if self.storage == Storage::Filling {
            return self.disks.fill(state == DiskState::Full);
        }
        let target = if state == DiskState::Well {
            "linear /dev/vda 0"
        } else {
            "error"
        };
        for role in BOTH {
            self.shell(
                role,
                &format!(
                    "set -e; {DMSETUP} \
                     dmsetup load guest --table \"0 $(blockdev --getsz /dev/vda) {target}\"; \
                     dmsetup suspend --noflush --nolockfs guest; dmsetup resume guest"
                ),
            )?;
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<()> {
        for role in BOTH {
            process::output(&mut self.command(&["restore", self.host(role), "--net", "log"]))?;
        }
        Ok(())
    }

    fn feed(&mut self, side: Role) -> Result<()> {
        for (_, of, by) in self
            .starving
            .extract_if(.., |(role, ..)| *role == side)
            .collect::<Vec<_>>()
        {
            self.shell(
                side,
                &format!("kill {by}; sleep 0.2; kill -CONT {of} || true"),
            )?;
        }
        Ok(())
    }

    /// See [`Site::relieve`]; clocks are set right, too.
    pub(super) fn undo(&mut self) -> Result<()> {
        self.restore()?;
        for role in BOTH {
            if !self.has_power(role) {
                self.starving.retain(|(side, ..)| *side != role);
                continue;
            }
            self.feed(role)?;
            let mut script = String::new();
            if self.storage == Storage::Mapped {
                script.push_str(&format!(
                    "{DMSETUP} for name in guest arbiter; do \
                     [ ! -e /dev/mapper/$name ] || dmsetup resume $name; done; "
                ));
            }
            if self.clocks_set {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
                script.push_str(&format!("date -s @{:.3}; ", now.as_secs_f64()));
            }
            if !script.is_empty() {
                self.shell(role, &script)?;
            }
        }
        self.clocks_set = false;
        Ok(())
    }
}
