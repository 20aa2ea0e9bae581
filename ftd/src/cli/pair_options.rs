//! Options that primary and backup share.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use replay::protocol::{Commit, DiskFacts, Facts, Release};

use super::channel::ChannelArgs;
use super::control::ControlArgs;
use super::{GuestOptions, UsageError};
use crate::arbiter::HostSlot;
use crate::setup::{DisksAre, Shell};

/// Options of one side of a pair.
#[derive(Debug, Clone, Args)]
pub struct PairArgs {
    /// Shared storage that decides who goes on alone: a directory on a file system both hosts
    /// mount, a block device prepared by `ftd format-shared`, or an etcd
    /// (etcd:http://HOST:2379,http://HOST2:2379/PREFIX).
    #[arg(long, value_name = "DIR-OR-DEVICE-OR-ETCD")]
    pub shared: PathBuf,
    /// Name of the virtual machine; the same on both hosts.
    #[arg(long, value_name = "NAME", default_value = "vm")]
    pub vm: String,
    /// This host's slot (0 to 7) on a shared device. Each host needs its own, and keeps it whatever
    /// side it starts as.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
    pub slot: Option<u8>,
    /// Take the other host for lost after so much silence, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(20..=60_000))]
    pub detect_ms: u32,
    /// Say something at least this often, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub heartbeat_ms: u32,
    /// Most backups at a time; an output leaves once all of them (see --release) have done with the log before it
    /// what --commit says. The primary's word counts.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=7))]
    pub backups: u32,
    /// How many of the backups must have done so: all, or a quorum: so many that with the primary they are more than
    /// half of all copies. Then an output waits for no lost backup and for no late acknowledgement; but when the
    /// primary and so many backups are lost at once that no quorum is left, none of the others takes over. The
    /// primary's word counts.
    #[arg(long, value_name = "all|quorum", default_value = "all")]
    pub release: Release,
    /// What the backup must have done with the log before an output that depends on it leaves: received it
    /// (fastest), executed it, or verified it (executed it, with equal digests). The primary's word counts.
    #[arg(
        long,
        value_name = "received|executed|verified",
        default_value = "received"
    )]
    pub commit: Commit,
    /// Let the guest wait while its backup has not executed what it was sent this long ago, in milliseconds: a
    /// backup that takes over has that much to catch up with first.
    #[arg(long, value_name = "MS", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(10..=60_000))]
    pub lag_ms: u32,
    /// Give a backup up for which the guest has waited so long at a stretch, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(100..=3_600_000))]
    pub give_up_ms: u32,
    /// Each host has a disk of its own, kept equal over the logging channel. Without it both hosts open the very
    /// same disk. The same on both hosts.
    #[arg(long, requires = "image")]
    pub own_disks: bool,
    /// Where it is noted whose guest wrote to the own disk last: a file that outlives a restart of the host, best on
    /// the same storage [default: the image's name and .label; a block device has none].
    #[arg(long, value_name = "FILE", requires = "own_disks")]
    pub disk_label: Option<PathBuf>,
    /// Start the guest from this host's own disk though another host's may be newer: what was written there
    /// since is lost.
    #[arg(long, requires = "own_disks")]
    pub newest_disk: bool,
    /// Append events to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    #[command(flatten)]
    pub(super) channel: ChannelArgs,
    #[command(flatten)]
    pub(super) control: ControlArgs,
}

impl PairArgs {
    /// How the disks are to be opened where they would be `shared` ones otherwise.
    pub(super) fn disks_are(&self, shared: DisksAre) -> DisksAre {
        match self.own_disks {
            true => DisksAre::Own,
            false => shared,
        }
    }

    /// A directory or an etcd needs none. On a device two hosts in one slot would break the test-and-set, and a
    /// host changes sides: so there is no default.
    ///
    /// # Errors
    /// [`UsageError`]: a device, and no slot.
    pub(super) fn host_slot(&self) -> Result<HostSlot> {
        let number = match self.slot {
            Some(number) => number,
            // The arbiter says what is wrong with a path that leads nowhere.
            None if self.shared.is_dir() || !self.shared.exists() => 0,
            None => {
                let why = format!(
                    "{} is no directory, so give --slot: a number from 0 to 7 that is this host's alone",
                    self.shared.display()
                );
                return Err(UsageError(why).into());
            }
        };
        HostSlot::new(number)
            .ok_or_else(|| UsageError("--slot must be from 0 to 7".to_owned()).into())
    }

    /// Beside a block device there is only /dev, which is empty again after each start of the host.
    ///
    /// # Errors
    /// [`UsageError`]: an own disk whose label would be there.
    pub(super) fn need_lasting_label(&self, guest: &GuestOptions) -> Result<()> {
        match guest.image.as_deref() {
            Some(image)
                if self.own_disks && self.disk_label.is_none() && is_block_device(image) =>
            {
                let why = format!(
                    "{} is a block device, so give --disk-label FILE (/var/lib/ftd/{}.label, say): where ftd notes \
                     whose guest wrote to this disk last. It must outlive a restart of the host",
                    image.display(),
                    self.vm
                );
                Err(UsageError(why).into())
            }
            _ => Ok(()),
        }
    }
}

/// Whether the path leads to a block device.
fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// What must be the same on both hosts.
pub(super) fn facts(vm: &str, shell: &Shell, own_disks: bool) -> Result<Facts> {
    let mut config = shell.config.clone();
    // The guest's idea of the time at its start travels with its state.
    config.boot_unix_seconds = 0;
    let image_id = match shell.disks.first() {
        // What is on them is made equal.
        Some(disk) if !own_disks => disk
            .identity()
            .with_context(|| format!("cannot read {}", disk.path().display()))?
            .table
            .to_vec(),
        _ => Vec::new(),
    };
    Ok(Facts {
        vm_id: vm.to_owned(),
        cpu_model: shell.cpu_model.to_string(),
        clock: shell.clock.to_string(),
        ram_bytes: shell.ram_bytes,
        machine_digest: blake3::hash(&postcard::to_allocvec(&config)?).into(),
        disks: shell
            .disks
            .iter()
            .map(|disk| DiskFacts {
                capacity_bytes: disk.capacity_bytes(),
                shared: !own_disks,
            })
            .collect(),
        image_id,
    })
}
