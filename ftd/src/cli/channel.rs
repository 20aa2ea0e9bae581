//! How the logging channel is protected.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::UsageError;
use crate::keys::HostKeys;

/// Options of the logging channel.
#[derive(Debug, Clone, Args)]
pub struct ChannelArgs {
    /// This host's file of `ftd keys`: the logging channel is encrypted, and only hosts of the pair are
    /// listened to. Needed unless both ends are on this host.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Do without keys: whoever reaches the logging channel reads all of the guest, and can end it or change
    /// it. For a network that nobody else is on.
    #[arg(long, conflicts_with = "keys")]
    insecure_channel: bool,
}

impl ChannelArgs {
    /// The keys of a channel with these addresses; `None` if it has none.
    ///
    /// # Errors
    /// It needs keys and none were given, or they can't be used.
    pub fn keys(&self, addresses: &[SocketAddr]) -> Result<Option<HostKeys>> {
        if let Some(path) = &self.keys {
            return Ok(Some(HostKeys::read(path)?));
        }
        match addresses.iter().find(|address| !address.ip().is_loopback()) {
            Some(far) if !self.insecure_channel => Err(UsageError(format!(
                "the logging channel leaves this host ({far}) and has no keys: make them once with \
                 'ftd keys --out DIR', bring each host its file, and give it with --keys FILE; or give \
                 --insecure-channel on both hosts if nobody else is on that network"
            ))
            .into()),
            _ => Ok(None),
        }
    }

    /// Whether an address that others name may be dialled.
    pub fn may_reach(&self, address: &SocketAddr) -> bool {
        self.keys.is_some() || self.insecure_channel || address.ip().is_loopback()
    }
}
