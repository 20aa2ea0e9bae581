//! One side of a pair: its event loop.
//!
//! * [`actions`]: what each of the core's actions does here.
//! * [`asked`]: what is said of this side over the control socket.
//! * [`channel`]: the connections of the logging channel.
//! * [`copy`]: the copy of the guest on this side.
//! * [`ending`]: how a side ends.
//! * [`handing`]: a planned hand-over.
//! * [`holding`]: having the guest: signs of life on the shared storage.
//! * [`leftover`]: the RAM of a copy that was dropped, for the next one.
//! * [`looking`]: a joiner without a primary.
//! * [`managed`]: what the service manager is told of this side.
//! * [`notes`]: what the operator and the journal are told.
//! * [`outgoing`]: what the other threads hand to the loop.

mod actions;
mod asked;
mod channel;
mod copy;
mod ending;
mod handing;
mod holding;
mod leftover;
mod looking;
mod managed;
mod notes;
mod outgoing;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use anyhow::{Context, Result};
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use replay::protocol::{Action, Config, Core, Event, HaltReason, PageHashes, PeerId, Role};
use serde_json::json;
use vmm::guest::Guest;

use self::asked::Kept;
use self::copy::{Copies, Copy};
use self::handing::Handing;
use self::holding::Holding;
use self::leftover::Leftover;
use self::looking::Looking;
use self::managed::Managed;
use super::asker::Asker;
use super::clone::{Cloning, Precopied};
use super::held::Held;
use super::journal::Journal;
use super::links::Links;
use crate::arbiter::{Arbiter, Sign};
use crate::cli::GuestOptions;
use crate::control::Control;
use crate::host::clock::monotonic_ns;
use crate::host::disk::Label;
use crate::keys::HostKeys;
use crate::outside::backends::Backends;
use crate::outside::outbox::Outbox;
use crate::outside::own_disks::OwnDisks;
use crate::run::gauges::Gauges;
use crate::run::inbox::Inbox;
use crate::run::live::LiveOptions;
use crate::sandbox::Sandbox;
use crate::setup::Shell;
use crate::signals::StopSignals;

const OUTBOX: Token = Token(0);
const TAP: Token = Token(1);
const CONSOLE: Token = Token(2);
const SIGNALS: Token = Token(3);
const LISTENER: Token = Token(4);
const CONTROL: Token = Token(5);
const FIRST_LINK: usize = 16;

/// Bytes waiting to be sent at which the log waits.
const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// How long to wait before the primary is dialled again.
const REDIAL: Duration = Duration::from_millis(200);

/// What a side of a pair is told.
pub struct PairOptions {
    /// The protocol's settings.
    pub core: Config,
    /// Where backups connect.
    pub listen: Option<SocketAddr>,
    /// Where primaries may be.
    pub log_from: Vec<SocketAddr>,
    /// The channel's keys; `None` leaves it open.
    pub keys: Option<HostKeys>,
    /// A joiner that finds no primary looks by itself whether there is one left, and ends if there is none.
    pub look_again: bool,
    /// There are hosts beside a pair that start the guest by themselves when they see no sign of it.
    pub others_start: bool,
    /// Who decides.
    pub arbiter: Box<dyn Arbiter>,
    /// Files and directories that are opened later on: the shared storage's, and the own disk's label.
    pub opened_later: Vec<PathBuf>,
    /// File for events.
    pub events: Option<PathBuf>,
    /// Choices of the vCPU loop.
    pub live: LiveOptions,
    /// The control socket, served by [`Pair::run`].
    pub control: Option<Control>,
    /// Each host has its own disks; else both open the same.
    pub own_disks: Option<Label>,
}

/// One side of a pair.
pub struct Pair {
    poll: Poll,
    signals: StopSignals,
    listener: Option<TcpListener>,
    links: Links,
    core: Core,
    actions: Vec<Action>,
    outbox: Arc<Outbox>,
    inbox: Arc<Inbox>,
    backends: Backends,
    held: Held,
    asker: Asker,
    holding: Holding,
    journal: Journal,
    shell: Shell,
    guest_mac: [u8; 6],
    copies: Copies,
    ram: Option<vmm::kvm::DirtyRam>,
    leftover: Leftover,
    /// This host's disks, if they are its own, and whose they are.
    own_disks: Option<OwnDisks>,
    label: Option<Label>,
    /// To be cloned to as soon as the shared storage knows of it.
    clone_waiting: Option<(PeerId, Receiver<PageHashes>)>,
    /// Where what that joiner has goes, or that to which a clone is under way.
    joiner_has: Option<Sender<PageHashes>>,
    cloning: Option<(PeerId, Cloning)>,
    /// One that was given up, and may still be at it.
    ending_clone: Option<Cloning>,
    precopied: Option<Precopied>,
    log_from: Vec<SocketAddr>,
    dial_next: usize,
    dial_at: Option<u64>,
    tap_ready: bool,
    console_ready: bool,
    control_ready: bool,
    control: Option<Control>,
    gauges: Arc<Gauges>,
    kept: Kept,
    live: LiveOptions,
    sandbox: Sandbox,
    peer_lost_at: Option<u64>,
    /// The last epoch of the primary before this one whose outputs are out for sure.
    released_before: u64,
    join_started_at: Option<u64>,
    held_since: Option<u64>,
    handing: Option<Handing>,
    /// The connection of a primary that handed its guest over to this side.
    left: Option<PeerId>,
    looking: Looking,
    managed: Managed,
    halt: Option<HaltReason>,
}

impl Pair {
    /// Opens what this side needs. `guest` stands before its first instruction on a primary to be.
    pub fn open(
        shell: Shell,
        guest: Option<Guest>,
        guest_options: &GuestOptions,
        options: PairOptions,
    ) -> Result<Pair> {
        let signals = StopSignals::block()?;
        let poll = Poll::new().context("cannot make an epoll")?;
        let registry = poll.registry();
        let outbox = Arc::new(Outbox::new(Waker::new(registry, OUTBOX)?));
        let inbox = Arc::new(Inbox::default());
        let primary = guest.is_some();
        let mut journal = Journal::open(options.events.as_deref())?;
        let sandbox = guest_options.sandbox().for_clock(shell.clock);
        let later = options.opened_later.iter();
        let sandbox = later.fold(sandbox, |sandbox, path| sandbox.needs(path));
        let backends = Backends::open(
            guest_options,
            &shell.disks,
            Arc::clone(&inbox),
            primary,
            &sandbox,
        )?;
        if let Some(tap) = backends.tap_fd() {
            registry.register(&mut SourceFd(&tap), TAP, Interest::READABLE)?;
        }
        let console = backends.console_fd();
        registry.register(&mut SourceFd(&console), CONSOLE, Interest::READABLE)?;
        registry.register(
            &mut SourceFd(&signals.as_raw_fd()),
            SIGNALS,
            Interest::READABLE,
        )?;
        if let Some(control) = &options.control {
            let fd = control.as_raw_fd();
            registry.register(&mut SourceFd(&fd), CONTROL, Interest::READABLE)?;
        }
        let listener = match options.listen {
            Some(address) => {
                let mut listener = TcpListener::bind(address)
                    .with_context(|| format!("cannot listen for backups on {address}"))?;
                registry.register(&mut listener, LISTENER, Interest::READABLE)?;
                Some(listener)
            }
            None => None,
        };
        let role = if primary { "primary" } else { "backup" };
        journal.event(
            "started",
            json!({"role": role, "clock": shell.clock.name(), "host_kvm": host_kvm()}),
        );
        let listen = options.listen.map(|address| address.to_string());
        let sign = Sign::new(&options.core.host, listen, options.core.detect_ms);
        let asker = Asker::start(options.arbiter, Arc::clone(&outbox))?;
        let own_disks = options.own_disks.as_ref().map(|_| backends.own_disks());
        let kept = Kept::new(primary, &options.core.facts.vm_id, &shell);
        Ok(Pair {
            links: Links::new(FIRST_LINK, options.keys),
            core: Core::new(options.core, monotonic_ns()),
            actions: Vec::new(),
            held: Held::default(),
            asker,
            holding: Holding::new(sign, options.others_start),
            journal,
            guest_mac: guest_options.mac.0,
            ram: guest.as_ref().map(Guest::dirty_ram),
            copies: Copies::new(guest.map_or(Copy::None, |guest| Copy::Booted(Box::new(guest)))),
            leftover: Leftover::default(),
            own_disks,
            label: options.own_disks,
            clone_waiting: None,
            joiner_has: None,
            cloning: None,
            ending_clone: None,
            precopied: None,
            log_from: options.log_from,
            dial_next: 0,
            dial_at: None,
            tap_ready: false,
            console_ready: false,
            // What was read from a client before, while the seat was taken, is seen by no poll.
            control_ready: true,
            control: options.control,
            gauges: Arc::default(),
            kept,
            live: options.live,
            sandbox,
            peer_lost_at: None,
            released_before: 0,
            join_started_at: None,
            held_since: None,
            handing: None,
            left: None,
            looking: Looking::new(options.look_again),
            managed: Managed::default(),
            halt: None,
            poll,
            signals,
            listener,
            outbox,
            inbox,
            backends,
            shell,
        })
    }

    /// Runs this side to its end.
    pub fn run(mut self) -> Result<()> {
        self.sandbox.close()?;
        if let Err(error) = self.turns() {
            let why = format!("{error:#}");
            if self.leave(Event::Failed { why }).is_err() || self.halt.is_none() {
                self.backends.abandon_disks();
                return Err(error);
            }
        }
        self.close()
    }

    fn turns(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(256);
        self.tell(Event::Tick)?;
        while self.halt.is_none() {
            self.wait(&mut events)?;
            // First: this process may have stood still for long.
            self.check_lease()?;
            for event in &events {
                match event.token() {
                    OUTBOX => {}
                    TAP => self.tap_ready = true,
                    CONSOLE => self.console_ready = true,
                    CONTROL => self.control_ready = true,
                    SIGNALS => self.take_signals()?,
                    LISTENER => self.accept()?,
                    token => self.serve(token)?,
                }
            }
            // What is due goes before epochs, of which a large one takes its time.
            self.tick()?;
            self.take_outgoing()?;
            if self.console_ready {
                self.take_typed()?;
            }
            if self.tap_ready {
                self.tap_ready = self.take_frames()?;
            }
            if self.control_ready {
                self.take_asked();
            }
            self.tick()?;
            self.turn_handing()?;
            self.look_for_a_primary();
            self.tell_manager();
            self.redial();
            if self
                .links
                .accept_at()
                .is_some_and(|at| at <= monotonic_ns())
            {
                self.accept()?;
            }
            self.tell_hashes()?;
            self.links.drop_stuck(self.poll.registry(), monotonic_ns());
            self.outbox
                .clog(self.links.backlog_bytes_max() > BACKLOG_BYTES_MAX);
        }
        Ok(())
    }

    /// Has the core do what is due, heartbeats among it.
    fn tick(&mut self) -> Result<()> {
        match self.core.next_tick() <= monotonic_ns() {
            true => self.tell(Event::Tick),
            false => Ok(()),
        }
    }

    fn wait(&mut self, events: &mut Events) -> Result<()> {
        let now = monotonic_ns();
        let due = [self.dial_at, self.managed.due_ns(), self.links.accept_at()];
        let next = due
            .into_iter()
            .flatten()
            .fold(self.core.next_tick(), u64::min);
        let timeout = if self.tap_ready || self.console_ready || self.control_ready {
            Duration::ZERO
        } else {
            let longest = match &self.handing {
                None => Duration::from_secs(1),
                Some(_) => Duration::from_millis(1),
            };
            Duration::from_nanos(next.saturating_sub(now)).min(longest)
        };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                Err(error).context("cannot wait for events")
            }
            _ => Ok(()),
        }
    }

    /// Tells the core what happened and does what it says.
    fn tell(&mut self, event: Event) -> Result<()> {
        self.core.handle(monotonic_ns(), event, &mut self.actions);
        let mut actions = std::mem::take(&mut self.actions);
        if actions.iter().any(is_loss) {
            // Before anything else: the winner may be writing to the disks already.
            self.backends.abandon_disks();
        }
        for action in actions.drain(..) {
            self.act(action)?;
        }
        // Kept for its capacity; what acting added comes from nested calls, done already.
        if self.actions.is_empty() {
            self.actions = actions;
        }
        self.let_out()
    }

    fn take_typed(&mut self) -> Result<()> {
        let typed = self.backends.take_typed();
        self.console_ready = typed.more;
        if typed.quit {
            self.stop("Ctrl-A x")?;
        }
        Ok(())
    }

    fn take_signals(&mut self) -> Result<()> {
        match self.signals.take() {
            Some(signal) => self.stop(signal.as_str()),
            None => Ok(()),
        }
    }

    /// What this side is.
    pub fn role(&self) -> Role {
        self.core.role()
    }
}

/// Whether another host has the guest.
fn is_loss(action: &Action) -> bool {
    let Action::Halt { why } = action else {
        return false;
    };
    matches!(why, HaltReason::Lost { .. })
}

fn since_ms(start_ns: u64) -> f64 {
    monotonic_ns().saturating_sub(start_ns) as f64 / 1e6
}

/// Name of the host's KVM module, for reports.
pub fn host_kvm() -> String {
    let loaded = |name: &str| std::path::Path::new("/sys/module").join(name).exists();
    ["kvm_amd", "kvm_intel", "kvm_pvm"]
        .into_iter()
        .find(|name| loaded(name))
        .unwrap_or("unknown")
        .to_owned()
}

#[cfg(test)]
mod tests;
