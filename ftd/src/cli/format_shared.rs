//! `ftd format-shared`: prepares a shared block device for the test-and-set.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

/// Options of `ftd format-shared`.
#[derive(Debug, Args)]
pub struct Options {
    /// The device (or file) to prepare.
    device: PathBuf,
    /// Name of the virtual machine.
    #[arg(long, value_name = "NAME", default_value = "vm")]
    vm: String,
    /// Overwrite what is there, even the decisions of a pair that runs.
    #[arg(long)]
    force: bool,
    /// Say that it is done as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    crate::arbiter::format_device(&options.device, &options.vm, options.force)?;
    let Options { device, vm, .. } = options;
    match options.json {
        true => println!(
            "{}",
            serde_json::json!({ "ok": true, "device": device, "vm": vm })
        ),
        false => println!("{} is ready for virtual machine {vm}", device.display()),
    }
    Ok(())
}
