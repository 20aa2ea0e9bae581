//! `ftd pair`: a host of a pair, which finds out by itself which side it is on.
//!
//! It asks the shared storage: where nobody has the guest it starts as primary, and else it joins whoever has
//! it, as a backup. Of two hosts that start at the same time one wins the guest there; the other looks again,
//! and joins it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use replay::protocol::Start;
use vmm::guest::Guest;

use super::GuestOptions;
use super::pair_options::PairArgs;
use super::seat::{Joins, Seat};
use crate::arbiter::vacancy::Occupied;
use crate::control::Report;
use crate::daemon::pair::{Pair, host_kvm};
use crate::keys::HostKeys;
use crate::setup::{DisksAre, Shell};

/// Options of `ftd pair`.
#[derive(Debug, Args)]
pub struct Options {
    /// Take options from this TOML file: each key is the long name of one of them. What is given here goes
    /// before what it says.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    pair: PairArgs,
    /// Address at which the other hosts join this one.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// The same of the other hosts.
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    peer: Vec<SocketAddr>,
}

impl Options {
    /// Of two hosts the other one is the backup; of more of them one may be neither.
    fn others_start(&self) -> bool {
        self.peer.len() > 1
    }
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    if let Some(path) = &options.config {
        tracing::debug!("configured by {}", path.display());
    }
    let ends: Vec<_> = options
        .peer
        .iter()
        .chain([&options.listen])
        .copied()
        .collect();
    let keys = options.pair.channel.keys(&ends)?;
    let mut seat = Seat::take(&options.pair, &options.guest)?;
    let known = Report {
        command: "pair".to_owned(),
        pid: std::process::id(),
        clock: "not chosen yet".to_owned(),
        host_kvm: host_kvm(),
        ..Report::default()
    };
    loop {
        match seat.wait_until_vacant(&options.pair, known.clone()) {
            Ok(generation) => {
                if let Err(stale) = seat.need_newest_disk(&options.pair, &options.guest, generation)
                {
                    tracing::warn!("waiting for another host to start the guest: {stale:#}");
                    return as_backup(options, seat, keys, None, false);
                }
                tracing::info!("nobody has the guest: starting as primary");
                // Loaded before it is bid for: who has won must not be long without a sign of life.
                let shell = Shell::open(&options.guest, options.pair.disks_are(DisksAre::Shared))?;
                let (guest, _) = shell.boot_to_replay(&options.guest)?;
                if !seat.loses(generation) {
                    return as_primary(options, seat, keys, shell, guest, generation);
                }
            }
            Err(Occupied::Lives {
                host,
                generation,
                listen,
            }) => {
                tracing::info!(
                    "the guest runs on {host} (generation {generation}): joining as backup"
                );
                return as_backup(options, seat, keys, Some(&listen), true);
            }
            Err(Occupied::Passed { generation }) => {
                tracing::info!(
                    "the guest was just taken over (generation {generation}): joining as backup"
                );
                return as_backup(options, seat, keys, None, true);
            }
            Err(unknown) => return Err(unknown.into()),
        }
    }
}

/// Of two hosts that start at once one gets here.
fn as_primary(
    options: &Options,
    seat: Seat,
    keys: Option<HostKeys>,
    shell: Shell,
    guest: Guest,
    generation: u64,
) -> Result<()> {
    let joins = Joins {
        listen: Some(options.listen),
        others_start: options.others_start(),
        keys,
        ..Joins::default()
    };
    let start = Start::Primary { generation };
    let pair = seat.settle(&options.pair, &options.guest, &shell, start, joins)?;
    Pair::open(shell, Some(guest), &options.guest, pair)?.run()
}

/// `look_again`: whether this host may start the guest itself one day, should nobody have it.
fn as_backup(
    options: &Options,
    seat: Seat,
    keys: Option<HostKeys>,
    at: Option<&str>,
    look_again: bool,
) -> Result<()> {
    let at: Option<SocketAddr> = at.and_then(|at| at.parse().ok());
    let shell = Shell::open(
        &options.guest,
        options.pair.disks_are(DisksAre::SharedLater),
    )?;
    let joins = Joins {
        listen: Some(options.listen),
        others_start: options.others_start(),
        log_from: candidates(
            at.filter(|at| options.pair.channel.may_reach(at)),
            &options.peer,
        ),
        keys,
        look_again,
        ..Joins::default()
    };
    let pair = seat.settle(&options.pair, &options.guest, &shell, Start::Backup, joins)?;
    Pair::open(shell, None, &options.guest, pair)?.run()
}

/// Where to look for the guest: first where it says it is.
fn candidates(at: Option<SocketAddr>, peers: &[SocketAddr]) -> Vec<SocketAddr> {
    // An address to listen on everywhere is none to connect to.
    let at = at.filter(|at| !at.ip().is_unspecified());
    let others = peers.iter().copied().filter(|peer| Some(*peer) != at);
    at.into_iter().chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_own_word_comes_first() {
        let peers: Vec<SocketAddr> = ["192.0.2.1:7", "192.0.2.2:7"]
            .map(|peer| peer.parse().unwrap())
            .into();
        let shown = |at: Option<&str>| -> Vec<String> {
            let found = candidates(at.map(|at| at.parse().unwrap()), &peers);
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(shown(Some("192.0.2.2:7")), ["192.0.2.2:7", "192.0.2.1:7"]);
        assert_eq!(shown(Some("192.0.2.9:7"))[0], "192.0.2.9:7");
        for none in [None, Some("0.0.0.0:7")] {
            assert_eq!(shown(none), ["192.0.2.1:7", "192.0.2.2:7"]);
        }
    }
}
