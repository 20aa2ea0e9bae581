//! `ftd backup`: joins a primary and takes over when it is lost.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;

use super::GuestOptions;
use super::pair_options::PairArgs;
use crate::daemon::pair::Pair;
use crate::setup::{DisksAre, Shell};

/// Options of `ftd backup`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    pair: PairArgs,
    /// Address of the primary; several candidates are tried in turn.
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    log_from: Vec<SocketAddr>,
    /// Address at which other backups join once the guest lives here.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    let shell = Shell::open(&options.guest, DisksAre::SharedLater)?;
    let pair = options.pair.open(
        &options.guest,
        &shell,
        false,
        options.listen,
        options.log_from.clone(),
        false,
    )?;
    Pair::open(shell, None, &options.guest, pair)?.run()
}
