//! `ftd doctor`: what this host can do.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::doctor::{examine, report};

/// Options of `ftd doctor`.
#[derive(Debug, Args)]
pub struct Options {
    /// KVM's device.
    #[arg(long, value_name = "DEVICE", default_value = vmm::kvm::DEVICE)]
    kvm: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it: failure when this host can't be one of a pair.
pub fn run(options: &Options) -> ExitCode {
    let examination = examine(&options.kvm);
    if options.json {
        println!("{}", report::json(&examination));
    } else {
        print!("{}", report::text(&examination));
    }
    if examination.possible.pair_possible() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
