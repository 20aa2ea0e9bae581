//! Options that describe a guest, shared by the commands that start one.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use replay::EpochPolicy;
use vmm::clock::Clock;
use vmm::cpu_model::CpuModel;

use super::UsageError;
use super::sandbox::SandboxArgs;
use crate::host::console::ConsoleSpec;
use crate::host::disk::DiskFormat;
use crate::sandbox::Sandbox;

/// What guest to run, and on which of the host's disks and networks.
#[derive(Debug, Clone, Args)]
pub struct GuestOptions {
    /// Disk image (raw or qcow2) or block device; the kernel found inside it is booted.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Format of the image.
    #[arg(long, value_name = "auto|raw|qcow2", default_value = "auto")]
    pub image_format: DiskFormat,
    /// Boot this kernel (bzImage or ELF) instead of the image's own.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// With --kernel: its initial RAM disk.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line, instead of the image's own.
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// Guest RAM in MiB, at most 3072.
    #[arg(long, value_name = "MIB", default_value_t = 512,
          value_parser = clap::value_parser!(u64).range(4..=3072))]
    pub memory: u64,
    /// CPU model the guest sees; both hosts must have it [default: the host vendor's].
    #[arg(long, value_name = "NAME")]
    pub cpu: Option<CpuModel>,
    /// How positions in the guest's execution are made: pmu, exit, plain-exit or step (exact without a
    /// counter, by stopping the guest behind every instruction: for tests and tiny guests); both hosts of a
    /// pair must use the same [default: the best this host has but step, see `ftd doctor`].
    #[arg(long, value_name = "NAME")]
    pub clock: Option<Clock>,
    /// With the pmu clock: by how many branches the counter's alarm may be late [default: what is known
    /// of this CPU].
    #[arg(long, value_name = "BRANCHES")]
    pub skid: Option<u64>,
    /// KVM's device.
    #[arg(long, value_name = "DEVICE", default_value = vmm::kvm::DEVICE)]
    pub kvm: PathBuf,
    /// Connect the guest's network device through a TAP on this bridge.
    #[arg(long, value_name = "BRIDGE")]
    pub bridge: Option<String>,
    /// Name of the TAP (made if it isn't there) [default: chosen by the kernel].
    #[arg(long, value_name = "NAME")]
    pub tap: Option<String>,
    /// MAC address of the guest's network device.
    #[arg(long, value_name = "MAC", default_value = "52:54:00:66:74:64")]
    pub mac: Mac,
    /// Where the guest's serial console goes: stdio (on a terminal every key goes to the guest, and
    /// Ctrl-A x ends ftd), stdio:cooked, none, file:PATH or unix:PATH (a socket for one client) [default: stdio, or
    /// none with --json].
    #[arg(long, value_name = "WHERE")]
    pub console: Option<ConsoleSpec>,
    /// Leave RDTSC in the guest as it is (for guests that never replay).
    #[arg(long, hide = true)]
    pub open_rdtsc: bool,
    /// Go on although the guest's kernel can read the host's time-stamp counter, or may be able to:
    /// its replay will then differ from its run, now and then.
    #[arg(long)]
    pub accept_open_tsc: bool,
    /// How long an input waits for the guest to exit by itself before it is stopped for a
    /// snapshot, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub patience_ms: u64,
    /// Within so many seconds the backup has compared all of its RAM with the primary's once, a share with
    /// every epoch; 0 compares none.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub ram_check_seconds: u64,
    /// An epoch of the log ends after so many milliseconds, if no output waits and the guest does not idle
    /// before; framing, digest and acknowledgement follow it.
    #[arg(long, value_name = "MS", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub epoch_ms: u64,
    /// An epoch of the log ends after so many entries.
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub epoch_entries: u32,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}

impl GuestOptions {
    /// What is left to the process once everything is open.
    pub fn sandbox(&self) -> Sandbox {
        let sandbox = self.sandbox.sandbox();
        match &self.image {
            Some(image) => sandbox.needs(image),
            None => sandbox,
        }
    }

    /// The same, of a command whose report goes to standard output: the guest's console does not, if it is JSON.
    ///
    /// # Errors
    /// [`UsageError`]: both were asked for.
    pub fn reporting(&self, json: bool) -> Result<GuestOptions, UsageError> {
        let mut options = self.clone();
        if json && matches!(self.console, Some(ConsoleSpec::Stdio { .. })) {
            let why = "--json and the guest's console would share standard output: give another --console";
            return Err(UsageError(why.to_owned()));
        }
        if json {
            options.console.get_or_insert(ConsoleSpec::Nothing);
        }
        Ok(options)
    }

    /// Where the guest's console goes.
    pub fn console(&self) -> ConsoleSpec {
        let terminal = ConsoleSpec::Stdio { raw: true };
        self.console.clone().unwrap_or(terminal)
    }

    /// `patience_ms` as a duration.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    /// When epochs end.
    pub fn epochs(&self) -> EpochPolicy {
        EpochPolicy {
            age_ns_max: self.epoch_ms * 1_000_000,
            entries_max: self.epoch_entries,
            ..EpochPolicy::default()
        }
    }

    /// `ram_check_seconds` as a duration.
    pub fn ram_check(&self) -> Duration {
        Duration::from_secs(self.ram_check_seconds)
    }
}

/// A MAC address as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Mac, String> {
        let bad = || format!("'{text}' is not a MAC address such as 52:54:00:66:74:64");
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = parts
                .next()
                .filter(|part| part.len() == 2)
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(bad)?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        if bytes[0] & 1 == 1 {
            return Err(format!(
                "'{text}' is a multicast address, no device can have it"
            ));
        }
        Ok(Mac(bytes))
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_parse_and_print() {
        let mac: Mac = "52:54:00:66:74:64".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:66:74:64");
        for bad in [
            "",
            "52:54:00:66:74",
            "52:54:00:66:74:64:00",
            "01:00:00:00:00:00",
            "5:4:0:6:7:x",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
