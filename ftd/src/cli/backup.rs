//! `ftd backup`: joins a primary and takes over when it is lost.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use replay::protocol::Start;

use super::GuestOptions;
use super::pair_options::PairArgs;
use super::seat::{Joins, Seat};
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
    /// Address at which backups join once the guest lives here; without it nobody can protect the guest again then.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    let ends: Vec<_> = options
        .log_from
        .iter()
        .chain(&options.listen)
        .copied()
        .collect();
    let keys = options.pair.channel.keys(&ends)?;
    if options.listen.is_none() {
        tracing::warn!(
            "no --listen: should the guest come to live here, no host can join to protect it again"
        );
    }
    let shell = Shell::open(
        &options.guest,
        options.pair.disks_are(DisksAre::SharedLater),
    )?;
    let seat = Seat::take(&options.pair, &options.guest)?;
    let joins = Joins {
        listen: options.listen,
        log_from: options.log_from.clone(),
        keys,
        ..Joins::default()
    };
    let pair = seat.settle(&options.pair, &options.guest, &shell, Start::Backup, joins)?;
    Pair::open(shell, None, &options.guest, pair)?.run()
}
