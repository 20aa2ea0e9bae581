//! `ftd primary`: starts a guest that backups can join.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use replay::protocol::Start;

use super::GuestOptions;
use super::pair_options::PairArgs;
use super::seat::{Joins, Seat};
use crate::control::Report;
use crate::daemon::pair::Pair;
use crate::setup::{DisksAre, Shell};

/// Options of `ftd primary`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    pair: PairArgs,
    /// Address at which backups join.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7777")]
    listen: SocketAddr,
    /// Power the guest on only when a backup has joined, so that it is protected from its first
    /// instruction.
    #[arg(long)]
    wait_backup: bool,
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    let keys = options.pair.channel.keys(&[options.listen])?;
    // What is wrong with the command line is told before the guest is loaded.
    options.pair.host_slot()?;
    options.pair.need_lasting_label(&options.guest)?;
    let shell = Shell::open(&options.guest, options.pair.disks_are(DisksAre::Shared))?;
    // The guest first: a primary with nothing to run must not have asked the arbiter for anything.
    let (guest, _) = shell.boot_to_replay(&options.guest)?;
    let mut seat = Seat::take(&options.pair, &options.guest)?;
    let known = Report::of("primary", &shell);
    let generation = loop {
        let vacant = seat.wait_until_vacant(&options.pair, known.clone())?;
        seat.need_newest_disk(&options.pair, &options.guest, vacant)?;
        if !seat.loses(vacant) {
            break vacant;
        }
    };
    let joins = Joins {
        listen: Some(options.listen),
        keys,
        wait_for_backup: options.wait_backup,
        ..Joins::default()
    };
    let start = Start::Primary { generation };
    let pair = seat.settle(&options.pair, &options.guest, &shell, start, joins)?;
    Pair::open(shell, Some(guest), &options.guest, pair)?.run()
}
