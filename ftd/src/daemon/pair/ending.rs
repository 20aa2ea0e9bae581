//! How a side ends.

use std::time::Duration;

use anyhow::{Result, bail};
use mio::Events;
use replay::protocol::HaltReason;
use serde_json::json;

use super::Pair;
use super::copy::Copy;
use crate::daemon::epoch_queue::Ending;
use crate::host::clock::monotonic_ns;
use crate::run::inbox::Order;

impl Pair {
    /// Ends this side: nothing more is let out; what was said to the peer still goes.
    pub(super) fn close(mut self) -> Result<()> {
        let why = self.halt.take().unwrap_or(HaltReason::Stopped);
        self.journal
            .event("halted", json!({"why": why.to_string()}));
        self.outbox.close();
        if let Copy::Following { queue, .. } = &self.copies.current {
            queue.end(Ending::Drop);
        }
        self.inbox.order(Order::Stop);
        let until = monotonic_ns() + 500_000_000;
        let mut events = Events::with_capacity(16);
        while self.links.backlog_bytes_max() > 0 && monotonic_ns() < until {
            self.poll
                .poll(&mut events, Some(Duration::from_millis(20)))?;
            for event in &events {
                if let Some(peer) = self.links.peer_of(event.token()) {
                    self.links.serve(self.poll.registry(), peer);
                }
            }
        }
        self.backends.flush();
        tracing::info!("this side ends: {why}");
        match why {
            HaltReason::Stopped | HaltReason::GuestEnded(_) => Ok(()),
            why => bail!("{why}"),
        }
    }
}
