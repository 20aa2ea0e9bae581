//! From options to a guest that can be entered: disks, boot files, CPU model, RAM, registers.

mod cmdline;
mod tsc;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use devices::machine::{Machine, MachineConfig};
use devices::virtio::{DiskConfig, NetConfig};
use kvm_ioctls::Kvm;
use vmm::boot::rewrite::LaterCode;
use vmm::boot::{self, BootRequest, RewriteReport};
use vmm::clock::Clock;
use vmm::cpu_model::{self, CpuModel};
use vmm::guest::{Counting, Guest, Skid};
use vmm::image::{BootFiles, ReadAt, find_boot_files};
use vmm::kvm::{Vcpu, Vm, open_kvm, vm::supported_cpuid};
use vmm::memory::Ram;
use vmm::probe;

use crate::cli::{GuestOptions, UsageError};
use crate::host::clock::realtime_ns;
use crate::host::disk::{Disk, DiskOptions};
use crate::host::entropy;

/// Whose the guest's disks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisksAre {
    /// This host's alone.
    Own,
    /// Another host's too, which may take them over.
    Shared,
    /// Another host's, until this one takes them over.
    SharedLater,
}

/// The parts of a host that a guest is made on.
pub struct Shell {
    kvm: Kvm,
    /// The CPU model the guest sees.
    pub cpu_model: CpuModel,
    /// How positions in its execution are made.
    pub clock: Clock,
    /// How branches are counted, where the clock needs that.
    counting: Option<Counting>,
    /// Guest RAM in bytes.
    pub ram_bytes: u64,
    /// The machine.
    pub config: MachineConfig,
    /// The disks, in order.
    pub disks: Vec<Arc<Disk>>,
}

/// What was booted, for the log's header and for people.
#[derive(Debug, Clone)]
pub struct Booted {
    /// The kernel's command line.
    pub cmdline: String,
    /// BLAKE3 of the kernel image.
    pub kernel_blake3: String,
    /// BLAKE3 of the initial RAM disk, or nothing.
    pub initrd_blake3: String,
    /// Where kernel and initrd came from.
    pub described_by: String,
}

impl Shell {
    /// Opens KVM and the disks, and settles what the machine is.
    pub fn open(options: &GuestOptions, disks_are: DisksAre) -> Result<Shell> {
        let kvm = open_kvm(&options.kvm)?;
        probe::require(&kvm, false)?;
        let mut disks = Vec::new();
        if let Some(image) = &options.image {
            let disk = Disk::open(
                image,
                &DiskOptions {
                    format: options.image_format,
                    read_only: false,
                    direct: disks_are != DisksAre::Own,
                    late: disks_are == DisksAre::SharedLater,
                },
            )?;
            disks.push(Arc::new(disk));
        }
        let config = MachineConfig {
            boot_unix_seconds: realtime_ns() / 1_000_000_000,
            disks: disks
                .iter()
                .enumerate()
                .map(|(index, disk)| DiskConfig {
                    capacity_bytes: disk.capacity_bytes(),
                    read_only: disk.is_read_only(),
                    serial: format!("ftd-disk-{index}"),
                })
                .collect(),
            net: (options.bridge.is_some() || options.tap.is_some())
                .then_some(NetConfig { mac: options.mac.0 }),
            rng: true,
            console: true,
        };
        let clock = match options.clock {
            Some(clock) => usable(clock, &kvm)?,
            None => {
                let (clock, why) = probe::best_clock(&kvm);
                if !why.is_empty() {
                    tracing::info!("clock {clock} ({why})");
                }
                clock
            }
        };
        let mut shell = Shell::of(kvm, options.cpu, clock, options.memory << 20, config, disks)?;
        shell.set_skid(options.skid);
        Ok(shell)
    }

    /// A shell for a guest that comes from a log: its machine, but no disk.
    pub fn for_log(
        device: &Path,
        cpu_model: CpuModel,
        clock: Clock,
        ram_bytes: u64,
        config: MachineConfig,
    ) -> Result<Shell> {
        let kvm = open_kvm(device)?;
        probe::require(&kvm, false)?;
        let clock = usable(clock, &kvm)?;
        Shell::of(kvm, Some(cpu_model), clock, ram_bytes, config, Vec::new())
    }

    fn of(
        kvm: Kvm,
        cpu: Option<CpuModel>,
        clock: Clock,
        ram_bytes: u64,
        config: MachineConfig,
        disks: Vec<Arc<Disk>>,
    ) -> Result<Shell> {
        if !config.fits() {
            bail!(
                "the machine has more virtio devices ({} disks among them) than the {} it has room \
                 for: give it fewer",
                config.disks.len(),
                devices::layout::VIRTIO_MMIO_COUNT
            );
        }
        let supported = supported_cpuid(&kvm)?;
        let counting = match clock {
            Clock::Pmu => probe::pmu::counting(&kvm)?,
            Clock::Exit | Clock::PlainExit | Clock::Step => None,
        };
        let cpu_model = match cpu {
            Some(model) => model,
            None => CpuModel::for_host(&supported)?,
        };
        // A backup makes its guest only when the primary's comes.
        cpu_model::cpuid(cpu_model, &supported)?;
        Ok(Shell {
            kvm,
            cpu_model,
            clock,
            counting,
            ram_bytes,
            config,
            disks,
        })
    }

    /// Has the counter's alarm set so many branches early, instead of what the CPU's design asks for.
    pub fn set_skid(&mut self, skid: Option<u64>) {
        if let (Some(counting), Some(skid)) = (&mut self.counting, skid) {
            counting.skid = Skid::new(skid);
        }
    }

    /// A guest with zeroed RAM and registers, for a snapshot to be loaded into.
    pub fn empty_guest(&self) -> Result<Guest> {
        self.guest_with(Ram::allocate(self.ram_bytes)?)
    }

    /// A guest with this RAM (of [`Shell::ram_bytes`]) and zeroed registers, for a snapshot to be loaded
    /// into. No other guest may run in the same RAM.
    pub fn guest_with(&self, memory: Ram) -> Result<Guest> {
        let supported = supported_cpuid(&self.kvm)?;
        let cpuid = cpu_model::cpuid(self.cpu_model, &supported)?;
        let vm = Vm::new(&self.kvm, memory, cpu_model::msr::CLOSED)?;
        let vcpu = Vcpu::new(&self.kvm, &vm, &cpuid)?;
        let mut guest = Guest::new(vm, vcpu, self.config.clone(), self.clock);
        guest.set_counting(self.counting.clone());
        Ok(guest)
    }

    /// A guest that stands before its kernel's first instruction, and that nobody will replay.
    pub fn boot(&self, options: &GuestOptions) -> Result<(Guest, Booted)> {
        let (guest, booted, _) = self.load(options)?;
        Ok((guest, booted))
    }

    /// A guest that stands before its kernel's first instruction, and that can be replayed.
    ///
    /// # Errors
    /// As those of [`Shell::boot`], and when the kernel can read the host's time-stamp counter,
    /// unless that was accepted.
    pub fn boot_to_replay(&self, options: &GuestOptions) -> Result<(Guest, Booted)> {
        let (guest, booted, report) = self.load(options)?;
        if let Some(hole) = tsc::hole(&report) {
            let kernel = &booted.described_by;
            if !options.accept_open_tsc {
                bail!(
                    "the kernel of {kernel} cannot be replayed: {hole}. Use another kernel, or give \
                     --accept-open-tsc to go on and take divergences for granted"
                );
            }
            tracing::warn!("the kernel of {kernel} will diverge from its replay: {hole}");
        }
        Ok((guest, booted))
    }

    fn load(&self, options: &GuestOptions) -> Result<(Guest, Booted, RewriteReport)> {
        let files = self.boot_files(options)?;
        let mut guest = self.empty_guest()?;
        let windows = Machine::virtio_windows(&self.config);
        let mut rng_seed = [0; 32];
        entropy::fill(&mut rng_seed).context("cannot seed the guest's random pool")?;
        let state = boot::load(
            guest.memory(),
            &BootRequest {
                kernel: &files.kernel,
                initrd: files.initrd.as_deref(),
                cmdline: &files.cmdline,
                rng_seed: Some(rng_seed),
                ram_bytes: self.ram_bytes,
                virtio_windows: &windows,
                close_rdtsc: !options.open_rdtsc,
            },
        )
        .with_context(|| format!("cannot boot the kernel of {}", files.described_by))?;
        let loads_code = state.rewrite.later_code != LaterCode::default();
        if state.rewrite.rdtsc_sites > 0 || loads_code || boot::kernel::is_bzimage(&files.kernel) {
            probe::require(&self.kvm, true)
                .with_context(|| format!("cannot boot the kernel of {}", files.described_by))?;
            if self.clock == Clock::Step
                && let Some(found) = user_steps_lack(&self.kvm)
            {
                bail!(
                    "the kernel of {} runs user code, which this host can't keep clock step for: {found}; \
                     `ftd doctor` lists what it has",
                    files.described_by
                );
            }
        }
        guest.start_at(&state)?;
        tracing::info!(
            "booting {} with {} MiB, CPU model {}; {} RDTSC sites closed",
            files.described_by,
            self.ram_bytes >> 20,
            self.cpu_model,
            state.rewrite.rdtsc_sites,
        );
        if boot::kernel::is_bzimage(&files.kernel) && !state.rewrite.later_code.is_closed {
            tracing::warn!(
                "where this kernel makes the code of its modules executable was not found: an RDTSC in a module reads \
                 this host's counter, and the backup may diverge (it is then repaired by a new copy)"
            );
        }
        let hex = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        let booted = Booted {
            kernel_blake3: hex(&files.kernel),
            initrd_blake3: files.initrd.as_deref().map(hex).unwrap_or_default(),
            cmdline: files.cmdline,
            described_by: files.described_by,
        };
        Ok((guest, booted, state.rewrite))
    }

    fn boot_files(&self, options: &GuestOptions) -> Result<BootFiles> {
        let mut files = match (&options.kernel, self.disks.first()) {
            (Some(kernel), _) => BootFiles {
                kernel: read(kernel, "kernel")?,
                initrd: options
                    .initrd
                    .as_deref()
                    .map(|path| read(path, "initrd"))
                    .transpose()?,
                cmdline: String::new(),
                described_by: kernel.display().to_string(),
            },
            (None, Some(disk)) => {
                let mut files =
                    find_boot_files(&(Arc::clone(disk) as Arc<dyn ReadAt + Send + Sync>))
                        .with_context(|| format!("cannot boot from {}", disk.path().display()))?;
                files.described_by = format!("{}: {}", disk.path().display(), files.described_by);
                files
            }
            (None, None) => {
                return Err(
                    UsageError("nothing to boot: give --image, or --kernel".to_owned()).into(),
                );
            }
        };
        match &options.cmdline {
            Some(cmdline) => files.cmdline.clone_from(cmdline),
            None if boot::kernel::is_bzimage(&files.kernel) => {
                files.cmdline = cmdline::with_cheaper_options(&files.cmdline);
            }
            None => {}
        }
        Ok(files)
    }
}

/// Why this host can't single-step a guest's user code, if it can't.
fn user_steps_lack(kvm: &Kvm) -> Option<String> {
    let finding = probe::run(probe::debug::steps_user, kvm);
    (!finding.ok).then_some(finding.found)
}

/// `clock`, if this host has it.
fn usable(clock: Clock, kvm: &Kvm) -> Result<Clock> {
    if let Some(found) = probe::lacks(clock, kvm) {
        bail!("this host can't keep clock {clock}: {found}; `ftd doctor` lists what it has");
    }
    if clock == Clock::Step {
        tracing::info!(
            "clock step: every instruction of the guest is an exit, as long as it is followed"
        );
        if let Some(found) = user_steps_lack(kvm) {
            tracing::warn!(
                "clock step is exact here only for a guest that stays in its kernel; in user code: {found}"
            );
        }
    }
    Ok(clock)
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    std::fs::read(path)
        .with_context(|| format!("cannot read {what} {}", PathBuf::from(path).display()))
}
