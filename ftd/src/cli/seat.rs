//! A host's place at the shared storage, and what it learns there before it takes a side.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use replay::protocol::{Config, Start};

use super::pair_options::{PairArgs, facts};
use super::{GuestOptions, UsageError};
use crate::arbiter::vacancy::{self, LEASE, Occupied};
use crate::arbiter::{self, Arbiter, ArbiterError, Verdict};
use crate::control::{Control, Report};
use crate::daemon::journal::chain;
use crate::daemon::pair::PairOptions;
use crate::host::disk::Label;
use crate::host::entropy;
use crate::host::service::Service;
use crate::keys::HostKeys;
use crate::run::live::LiveOptions;
use crate::setup::Shell;

/// The place: the arbiter is open, and so is the control socket.
pub struct Seat {
    host: String,
    /// This process, as the arbiter knows it.
    bidder: String,
    arbiter: Box<dyn Arbiter>,
    control: Option<Control>,
}

/// Where a side is joined, and where it joins.
#[derive(Debug, Default)]
pub struct Joins {
    /// Where backups join this host.
    pub listen: Option<SocketAddr>,
    /// Where primaries may be.
    pub log_from: Vec<SocketAddr>,
    /// Of the logging channel; `None` leaves it open.
    pub keys: Option<HostKeys>,
    /// A primary's guest is entered only once a backup has joined.
    pub wait_for_backup: bool,
    /// A joiner that finds no primary looks by itself whether there is one left.
    pub look_again: bool,
    /// There are hosts beside a pair that start the guest by themselves when they see no sign of it.
    pub others_start: bool,
}

impl Seat {
    /// Takes it.
    ///
    /// # Errors
    /// The shared storage or the control socket can't be opened. [`UsageError`] for what will not get better by itself.
    pub fn take(args: &PairArgs, guest: &GuestOptions) -> Result<Seat> {
        let host = nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_else(|_| "host".to_owned());
        let slot = args.host_slot()?;
        args.need_lasting_label(guest)?;
        let control = args.control.open()?;
        // A daemon that is started again is another bidder: it has no copy of the guest.
        let bidder = format!("{host}-{:08x}", entropy::random_u64()? as u32);
        let arbiter = arbiter::open(&args.shared, &args.vm, &bidder, slot).map_err(told)?;
        Ok(Seat {
            host,
            bidder,
            arbiter,
            control,
        })
    }

    /// Makes sure that nobody has the guest; the last generation. Says so meanwhile to whoever asks, in a
    /// report that is `known` otherwise.
    ///
    /// # Errors
    /// [`Occupied`].
    pub fn wait_until_vacant(&mut self, args: &PairArgs, known: Report) -> Result<u64, Occupied> {
        let mut waiting = Report {
            role: "starting".to_owned(),
            why_unprotected: Some("it looks whether the guest still runs elsewhere".to_owned()),
            vm: Some(args.vm.clone()),
            ..known
        };
        let start = Instant::now();
        let mut told = false;
        let control = &mut self.control;
        let mut service = Service::from_environment();
        vacancy::wait_until_vacant(self.arbiter.as_mut(), |step, patience| {
            if !std::mem::replace(&mut told, true) {
                tracing::info!(
                    "the guest ran before; looking at {} for {:.0} s whether it still does",
                    args.shared.display(),
                    patience.as_secs_f64()
                );
            }
            service.status("looks whether the guest still runs elsewhere".to_owned());
            if let Some(control) = control {
                control.turn(&mut waiting);
            }
            std::thread::sleep(step);
            start.elapsed()
        })
    }

    /// Whether another host has the generation after `vacant`; if not, this host has it by now, unless the shared
    /// storage gives no answer (the daemon asks again). Another host can have it without ever taking the guest: it
    /// ended in the middle of its bid, which this one's then decided. So after `true`, look again.
    pub fn loses(&mut self, vacant: u64) -> bool {
        let generation = vacant.saturating_add(1);
        match self.arbiter.test_and_set(generation) {
            Ok(Verdict::Won) => false,
            Ok(Verdict::Lost { winner }) => {
                tracing::info!(
                    "{winner} has bid for generation {generation} before: looking whether it runs the guest"
                );
                true
            }
            Err(ArbiterError::Superseded { .. }) => true,
            Err(error) => {
                tracing::warn!("the shared storage fails: {}", chain(&error));
                false
            }
        }
    }

    /// Where each host has its own disk: makes sure that this one's is the newest, and that it will be known as
    /// such if this host wins.
    ///
    /// # Errors
    /// It isn't, or what is noted of it can't be read or written.
    pub fn need_newest_disk(
        &mut self,
        args: &PairArgs,
        guest: &GuestOptions,
        generation: u64,
    ) -> Result<()> {
        let Some(label) = self.label(args, guest) else {
            return Ok(());
        };
        let path = label.path().display().to_string();
        if generation > 0 && !args.newest_disk {
            // Decided already, so this is a question and no bid.
            if let Verdict::Lost { winner } = self.arbiter.test_and_set(generation)? {
                let newest = label
                    .is_of(&winner)
                    .with_context(|| format!("cannot read {path}"))?;
                if !newest {
                    bail!(
                        "the guest wrote last to the disk of {winner}, by {path} not to this one: start \
                         ftd there. If that disk is lost for good, give --newest-disk here, once"
                    );
                }
            }
        }
        label
            .may_win()
            .with_context(|| format!("cannot write {path}"))
    }

    fn label(&self, args: &PairArgs, guest: &GuestOptions) -> Option<Label> {
        let image = guest.image.as_deref().filter(|_| args.own_disks)?;
        Some(Label::new(image, args.disk_label.as_deref(), &self.bidder))
    }

    /// Puts together what the daemon is told.
    ///
    /// # Errors
    /// The disks can't be read.
    pub fn settle(
        self,
        args: &PairArgs,
        guest: &GuestOptions,
        shell: &Shell,
        start: Start,
        joins: Joins,
    ) -> Result<PairOptions> {
        let mut core = Config::new(start, &self.host, facts(&args.vm, shell, args.own_disks)?);
        core.bidder.clone_from(&self.bidder);
        core.backups_max = args.backups;
        core.detect_ms = args.detect_ms;
        core.heartbeat_ms = args.heartbeat_ms;
        core.commit = args.commit;
        core.release = args.release;
        core.lag_ms_max = args.lag_ms;
        core.give_up_ms = args.give_up_ms;
        core.lease_ms = LEASE.as_millis() as u32;
        let label = self.label(args, guest);
        let shared = Some(args.shared.clone()).filter(|path| !arbiter::is_etcd(path));
        let folder = label.as_ref().map(Label::folder);
        let opened_later = shared.into_iter().chain(folder).collect();
        Ok(PairOptions {
            core,
            own_disks: label,
            listen: joins.listen,
            log_from: joins.log_from,
            keys: joins.keys,
            look_again: joins.look_again,
            others_start: joins.others_start,
            arbiter: self.arbiter,
            opened_later,
            events: args.events.clone(),
            control: self.control,
            live: LiveOptions {
                patience: guest.patience(),
                ram_check: guest.ram_check(),
                policy: guest.epochs(),
                wait_for_log: joins.wait_for_backup,
            },
        })
    }
}

/// What shared storage says, as a usage error where the command line would have to be another.
fn told(error: ArbiterError) -> anyhow::Error {
    match error {
        ArbiterError::BadEtcd { .. }
        | ArbiterError::BadId { .. }
        | ArbiterError::OtherVm { .. }
        | ArbiterError::WrongKind { .. } => UsageError(error.to_string()).into(),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbiter::region::tests::{area, cut_short};

    /// The holder and its backup both died, and the backup in the middle of its bid.
    #[test]
    fn a_bid_of_the_dead_keeps_nobody_from_starting() {
        for (writes, wins) in [(0, 2), (1, 2), (2, 3)] {
            let Some((_dir, path)) = area() else { return };
            let open = |host: &str, slot| {
                let slot = arbiter::HostSlot::new(slot).unwrap();
                arbiter::open(&path, "vm", host, slot).unwrap()
            };
            assert_eq!(open("west-1", 0).test_and_set(1).unwrap(), Verdict::Won);
            cut_short(&path, "east-1", 1, 2, writes);
            let mut seat = Seat {
                host: "west".to_owned(),
                bidder: "west-2".to_owned(),
                arbiter: open("west-2", 0),
                control: None,
            };
            let mut vacant = seat.vacancy_now();
            let mut lost = 0;
            while seat.loses(vacant) {
                lost += 1;
                vacant = seat.vacancy_now();
            }
            assert_eq!((vacant + 1, lost), (wins, wins - 2));
            let newest = seat.arbiter.test_and_set(wins).unwrap();
            assert_eq!(newest, Verdict::Won);
        }
    }

    impl Seat {
        /// What the wait comes to, without the wait.
        fn vacancy_now(&mut self) -> u64 {
            vacancy::wait_until_vacant(self.arbiter.as_mut(), |_, patience| patience).unwrap()
        }
    }
}
