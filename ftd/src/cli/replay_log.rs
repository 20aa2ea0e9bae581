//! `ftd replay`: a guest runs again from its log, and must end in the same state.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use devices::Effect;
use devices::machine::MachineConfig;
use replay::log::LogReader;
use replay::{EncodedEpoch, Epoch, Position};
use vmm::clock::Clock;
use vmm::cpu_model::CpuModel;
use vmm::guest::StateHash;

use super::sandbox::SandboxArgs;
use crate::host::disk::{Disk, DiskOptions};
use crate::run::RunError;
use crate::run::replaying::{Replayed, Source, follow};
use crate::setup::Shell;
use crate::signals;

/// Options of `ftd replay`.
#[derive(Debug, Args)]
pub struct Options {
    /// The log that `ftd record` wrote.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// Check that the log belongs to this disk image (it is neither needed nor changed).
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// KVM's device.
    #[arg(long, value_name = "DEVICE", default_value = vmm::kvm::DEVICE)]
    kvm: PathBuf,
    /// With a log of the pmu clock: by how many branches the counter's alarm may be late [default: what
    /// is known of this CPU].
    #[arg(long, value_name = "BRANCHES")]
    skid: Option<u64>,
    /// Stop this process (SIGSTOP) where the guest has ended, for its memory to be read from outside.
    #[arg(long, hide = true)]
    hold: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sandbox: SandboxArgs,
}

struct LogSource {
    reader: LogReader<BufReader<File>>,
    epochs: u64,
}

impl Source for LogSource {
    fn next(&mut self) -> Result<Option<EncodedEpoch>, RunError> {
        let epoch = self
            .reader
            .next_epoch()
            .map_err(|error| RunError::Sink(error.to_string()))?;
        self.epochs += u64::from(epoch.is_some());
        Ok(epoch)
    }

    fn executed(&mut self, _epoch: Epoch, _virtual_now: u64) -> Result<(), RunError> {
        Ok(())
    }

    fn output(&mut self, _epoch: Epoch, _effect: Effect) {}

    fn abandoned(&self) -> bool {
        false
    }
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    let name = options.log.display().to_string();
    let file = File::open(&options.log).with_context(|| format!("cannot open the log {name}"))?;
    let reader = LogReader::open(BufReader::with_capacity(1 << 20, file))
        .with_context(|| format!("cannot replay {name}"))?;
    let header = reader.header().clone();
    let config: MachineConfig = postcard::from_bytes(&header.machine_config)
        .with_context(|| format!("{name} describes a machine this ftd does not know"))?;
    if let Some(image) = &options.image {
        check_image(image, &header.disk_bytes)?;
    }
    let cpu_model: CpuModel = header.cpu_model.parse().map_err(|_| {
        anyhow::anyhow!(
            "{name} needs CPU model {:?}, which this ftd lacks",
            header.cpu_model
        )
    })?;
    let clock: Clock = header
        .clock
        .parse()
        .with_context(|| format!("cannot replay {name}"))?;
    let mut shell = Shell::for_log(&options.kvm, cpu_model, clock, header.ram_bytes, config)?;
    shell.set_skid(options.skid);
    let guest = shell.empty_guest()?;
    let sandbox = options.sandbox.sandbox().for_clock(shell.clock);
    sandbox.give_rights_up()?;
    sandbox.close()?;
    let started = Instant::now();
    let source = LogSource { reader, epochs: 0 };
    let mut replayed = follow(guest, source).with_context(|| format!("cannot replay {name}"))?;
    let exits = replayed.guest.exits();
    let state = replayed.guest.state_hash()?;
    let Some(end) = replayed.source.reader.end() else {
        bail!("{name} has no end record")
    };
    if options.hold {
        signals::hold();
    }
    let same = end.state_hash == state.combined() && end.position == Position::Exit(exits);
    report(options, &replayed, &state, started, same);
    if !same {
        bail!(
            "the replay of {name} ended in another state than the recording: state hash {state} \
             at exit {exits}, recorded {} at {}",
            blake3::Hash::from(end.state_hash).to_hex(),
            end.position
        );
    }
    Ok(())
}

fn report(
    options: &Options,
    replayed: &Replayed<LogSource>,
    state: &StateHash,
    started: Instant,
    same: bool,
) {
    let seconds = started.elapsed().as_secs_f64();
    let exits = replayed.guest.exits();
    let seeks = replayed.guest.seek_counters();
    if options.json {
        println!(
            "{}",
            serde_json::json!({
                "ok": same,
                "exits": exits,
                "epochs": replayed.source.epochs,
                "points": seeks.reached,
                "stops": seeks.stops,
                "branches_left": seeks.branches,
                "stops_per_branch_median": seeks.stops_per_branch_median(),
                "state_hash": state.to_string(),
                "same_state": same,
                "seconds": seconds,
            })
        );
    } else if same {
        println!("replayed {exits} exits in {seconds:.1} s: same state {state}");
    }
}

fn check_image(image: &std::path::Path, disk_bytes: &[u64]) -> Result<()> {
    let disk = Disk::open(
        image,
        &DiskOptions {
            read_only: true,
            ..DiskOptions::default()
        },
    )?;
    match disk_bytes.first() {
        Some(bytes) if *bytes == disk.capacity_bytes() => Ok(()),
        Some(bytes) => bail!(
            "the log was recorded on a disk of {bytes} bytes, but {} has {}: it is not the \
             image of this log",
            image.display(),
            disk.capacity_bytes()
        ),
        None => bail!(
            "the log was recorded without a disk, so {} is not its image",
            image.display()
        ),
    }
}
