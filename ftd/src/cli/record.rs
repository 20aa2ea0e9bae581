//! `ftd record`: a guest whose inputs go to a log file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::GuestOptions;
use super::control::ControlArgs;
use crate::run::live::LiveOptions;
use crate::setup::{DisksAre, Shell};
use crate::solo::{self, SoloOptions};

/// Options of `ftd record`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    control: ControlArgs,
    /// File for the log; it holds all that a replay needs.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// Stop after so many seconds [default: when the guest powers off, or on SIGINT or SIGTERM].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    stop_after: Option<Duration>,
    /// Stop this process (SIGSTOP) where the guest has ended, for its memory to be read from outside.
    #[arg(long, hide = true)]
    hold: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "give a number of seconds, such as 2.5".to_owned())
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    let guest_options = options.guest.reporting(options.json)?;
    let control = options.control.open()?;
    let shell = Shell::open(&guest_options, DisksAre::Own)?;
    let (guest, booted) = shell.boot_to_replay(&guest_options)?;
    let live = LiveOptions {
        patience: guest_options.patience(),
        ram_check: guest_options.ram_check(),
        policy: guest_options.epochs(),
        wait_for_log: true,
    };
    let solo = SoloOptions {
        live,
        control,
        stop_after: options.stop_after,
        log: Some(&options.log),
        hold: options.hold,
    };
    let report = solo::run(&shell, guest, &booted, &guest_options, solo)?;
    let hash = report
        .state
        .map(|state| state.to_string())
        .unwrap_or_default();
    if options.json {
        println!(
            "{}",
            serde_json::json!({
                "ok": true,
                "ended": format!("{:?}", report.ended),
                "exits": report.exits,
                "state_hash": hash,
                "log_bytes": report.log_bytes,
                "log_entries": report.log_entries,
                "epochs": report.counters.epochs,
                "clock": shell.clock.name(),
                "landings": report.counters.landings,
                "landings_put_off": report.counters.landings_put_off,
                "later_rdtsc_closed": report.counters.later_rdtsc_closed,
                "snapshots": report.counters.snapshots,
                "snapshot_pages": report.counters.snapshot_pages,
                "snapshot_seconds": report.counters.snapshot_time.as_secs_f64(),
                "seconds": report.elapsed.as_secs_f64(),
            })
        );
    } else {
        println!(
            "recorded {} exits in {:.1} s: {} entries, {} bytes, {} snapshots; state {hash}",
            report.exits,
            report.elapsed.as_secs_f64(),
            report.log_entries,
            report.log_bytes,
            report.counters.snapshots,
        );
    }
    Ok(())
}
