//! `ftd run`: a guest on this host alone, without a log.

use anyhow::Result;
use clap::Args;

use super::GuestOptions;
use super::control::ControlArgs;
use crate::run::live::LiveOptions;
use crate::setup::{DisksAre, Shell};
use crate::solo::{self, SoloOptions};

/// Options of `ftd run`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    control: ControlArgs,
    /// Print a report as JSON at the end.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    let guest_options = options.guest.reporting(options.json)?;
    let control = options.control.open()?;
    let shell = Shell::open(&guest_options, DisksAre::Own)?;
    let (guest, booted) = shell.boot(&guest_options)?;
    let live = LiveOptions {
        patience: guest_options.patience(),
        ram_check: guest_options.ram_check(),
        policy: guest_options.epochs(),
        wait_for_log: false,
    };
    let solo = SoloOptions {
        live,
        control,
        stop_after: None,
        log: None,
        hold: false,
    };
    let report = solo::run(&shell, guest, &booted, &guest_options, solo)?;
    if options.json {
        println!(
            "{}",
            serde_json::json!({
                "ok": true,
                "ended": format!("{:?}", report.ended),
                "exits": report.exits,
                "seconds": report.elapsed.as_secs_f64(),
            })
        );
    }
    Ok(())
}
