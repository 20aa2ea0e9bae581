//! Having the guest: signs of life on the shared storage, and what a host must not do without.

use std::time::Duration;

use anyhow::Result;
use replay::protocol::{Event, HaltReason, Role};
use serde_json::json;

use super::Pair;
use crate::arbiter::Sign;
use crate::arbiter::sign::Process;
use crate::arbiter::vacancy::LEASE;
use crate::host::clock::monotonic_ns;

/// How long the last sign may take to be written.
const LAST_SIGN: Duration = Duration::from_millis(500);

/// Whether this host has the guest, and how lately the shared storage knows of it.
#[derive(Debug)]
pub(super) struct Holding {
    sign: Sign,
    /// The guest is live here.
    live: bool,
    /// When the last sign was written, by the monotonic clock.
    signed_at: u64,
    /// The generation that is bid for, and since when.
    asked: (u64, u64),
    /// Outputs wait for the storage, and then for the next generation.
    suspended: bool,
    /// Beside a backup there may be a host that starts the guest by itself when it sees no sign of it.
    others_start: bool,
}

impl Holding {
    /// Of a host that signs like this, and does not have the guest yet.
    pub(super) fn new(sign: Sign, others_start: bool) -> Holding {
        Holding {
            sign,
            live: false,
            signed_at: 0,
            asked: (0, 0),
            suspended: false,
            others_start,
        }
    }

    /// A bid for `generation` sets out, perhaps again.
    pub(super) fn asks(&mut self, generation: u64) {
        if self.asked.0 != generation {
            self.asked = (generation, monotonic_ns());
        }
    }

    /// For how long no sign of life has got through to the storage, in nanoseconds.
    pub(super) fn silent_ns(&self) -> u64 {
        monotonic_ns().saturating_sub(self.signed_at)
    }

    /// Who signs.
    pub(super) fn process(&self) -> &Process {
        &self.sign.process
    }

    /// Whether outputs wait for the storage.
    pub(super) fn is_suspended(&self) -> bool {
        self.suspended
    }
}

impl Pair {
    /// The guest is live here: `generation` was won. Whether another host has a copy of it, too.
    pub(super) fn hold_guest(&mut self, generation: u64, may_pass: bool) {
        let Holding {
            sign,
            live,
            signed_at,
            asked,
            suspended,
            others_start: _,
        } = &mut self.holding;
        if asked.0 == generation {
            // Winning it was as good as a sign; which of the bids has won is not known.
            *signed_at = (*signed_at).max(asked.1);
        }
        sign.generation = generation;
        *live = true;
        if std::mem::take(suspended) {
            self.held.suspend(false);
            self.journal.event("storage_back", json!({}));
            tracing::info!("the shared storage is back, outputs go out again");
        }
        self.may_pass(may_pass);
    }

    /// Whether another host has a copy of the guest, or is being given one.
    pub(super) fn may_pass(&mut self, may: bool) {
        self.holding.sign.may_pass = may;
        self.asker.sign(self.holding.sign.clone());
    }

    /// A sign is on the storage.
    pub(super) fn signed(&mut self, begun_ns: u64, may_pass: bool) -> Result<()> {
        self.holding.signed_at = begun_ns;
        if may_pass && let Some((peer, theirs)) = self.clone_waiting.take() {
            self.begin_clone(peer, theirs)?;
        }
        Ok(())
    }

    /// Without a backup, or with one lost that is not ruled out yet, and without the storage nobody would know that
    /// the guest is live here, and another host may soon start it; with a backup, too, where there are more hosts than
    /// these two. So this side has to win the next generation before it lets
    /// anything out again: a sign that gets through may come when the other has looked already.
    pub(super) fn check_lease(&mut self) -> Result<()> {
        let silent_ns = self.holding.silent_ns();
        let is_bidding = || self.core.status().asking_arbiter;
        let may_pass = match self.core.role() {
            Role::Alone => true,
            Role::Primary => is_bidding() || self.holding.others_start,
            _ => false,
        };
        let is_too_long = u128::from(silent_ns) > LEASE.as_nanos();
        if self.holding.live && may_pass && !self.holding.suspended && is_too_long {
            self.suspend(silent_ns);
            return self.tell(Event::Lapsed);
        }
        Ok(())
    }

    /// A backup was ruled out by winning this generation, and others are kept. Word of it may come so `late` that
    /// another host has started the guest meanwhile: the next one is asked for already.
    pub(super) fn renew(&mut self, generation: u64, late: bool) {
        self.hold_guest(generation, true);
        self.journal
            .event("renewed", json!({"generation": generation}));
        if late {
            self.suspend(self.holding.silent_ns());
        }
    }

    /// Nothing goes out before the next generation is won.
    fn suspend(&mut self, silent_ns: u64) {
        self.holding.suspended = true;
        self.held.suspend(true);
        self.journal
            .event("storage_lost", json!({"silent_ms": silent_ns as f64 / 1e6}));
        tracing::warn!(
            "the shared storage takes no sign of life: nothing goes out until it does, since \
             another host may start the guest"
        );
    }

    /// The last sign of a side that ends in order, and has finished with its disks.
    pub(super) fn sign_off(&mut self, why: &HaltReason) {
        let lost = matches!(why, HaltReason::Lost { .. });
        if self.holding.live && !lost {
            let over = matches!(why, HaltReason::GuestEnded(_));
            let sign = &mut self.holding.sign;
            sign.ended = true;
            sign.may_pass &= !over;
            self.asker.sign(sign.clone());
        }
        if !self.asker.finish(LAST_SIGN) {
            tracing::debug!("the shared storage is slow: it may not know of this side's end");
        }
    }
}
