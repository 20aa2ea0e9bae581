//! The event loop of one side of a pair.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use devices::Effect;
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::signalfd::SignalFd;
use replay::protocol::{
    Action, Config, Core, EndReason, Event, HaltReason, Message, Note, PeerId, Role,
};
use serde_json::json;
use vmm::guest::Guest;

use super::asker::Asker;
use super::clone::Cloning;
use super::epoch_queue::{Ending, EpochQueue};
use super::guest_thread::{GuestThread, Surroundings, ThreadEnd, start_following, start_live};
use super::held::Held;
use super::journal::Journal;
use super::links::{Links, Served};
use crate::arbiter::Arbiter;
use crate::cli::GuestOptions;
use crate::host::clock::monotonic_ns;
use crate::outside::backends::Backends;
use crate::outside::outbox::{Outbox, Outgoing};
use crate::run::RunError;
use crate::run::inbox::{Inbox, Order};
use crate::run::live::{Ended, LiveOptions};
use crate::setup::Shell;
use crate::signals;

const OUTBOX: Token = Token(0);
const TAP: Token = Token(1);
const CONSOLE: Token = Token(2);
const SIGNALS: Token = Token(3);
const LISTENER: Token = Token(4);
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
    /// Who decides.
    pub arbiter: Box<dyn Arbiter>,
    /// File for events.
    pub events: Option<PathBuf>,
    /// Choices of the vCPU loop.
    pub live: LiveOptions,
}

/// The guest on this side.
enum Copy {
    /// There is none.
    None,
    /// It stands before its first instruction.
    Booted(Box<Guest>),
    /// Its RAM is being filled.
    Filling(Box<Guest>),
    /// It follows the log.
    Following {
        queue: Arc<EpochQueue>,
        thread: GuestThread,
    },
    /// It is the live one (or about to become it).
    Live { thread: GuestThread },
}

/// One side of a pair.
pub struct Pair {
    poll: Poll,
    signals: SignalFd,
    listener: Option<TcpListener>,
    links: Links,
    core: Core,
    actions: Vec<Action>,
    outbox: Arc<Outbox>,
    inbox: Arc<Inbox>,
    backends: Backends,
    held: Held,
    asker: Asker,
    journal: Journal,
    shell: Shell,
    guest_mac: [u8; 6],
    copy: Copy,
    ram: Option<vmm::kvm::DirtyRam>,
    cloning: Option<(PeerId, Cloning)>,
    /// Copies that were thrown away and whose threads still end.
    leaving: Vec<GuestThread>,
    log_from: Vec<SocketAddr>,
    dial_next: usize,
    dial_at: Option<u64>,
    tap_ready: bool,
    live: LiveOptions,
    peer_lost_at: Option<u64>,
    join_started_at: Option<u64>,
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
        let signals = signals::stop_signals()?;
        let poll = Poll::new().context("cannot make an epoll")?;
        let registry = poll.registry();
        let outbox = Arc::new(Outbox::new(Waker::new(registry, OUTBOX)?));
        let inbox = Arc::new(Inbox::default());
        let primary = guest.is_some();
        let backends = Backends::open(guest_options, &shell.disks, Arc::clone(&inbox), primary)?;
        if let Some(tap) = backends.tap_fd() {
            registry.register(&mut SourceFd(&tap), TAP, Interest::READABLE)?;
        }
        if let Some(console) = backends.console_fd() {
            registry.register(&mut SourceFd(&console), CONSOLE, Interest::READABLE)?;
        }
        registry.register(
            &mut SourceFd(&signals.as_raw_fd()),
            SIGNALS,
            Interest::READABLE,
        )?;
        let listener = match options.listen {
            Some(address) => {
                let mut listener = TcpListener::bind(address)
                    .with_context(|| format!("cannot listen for backups on {address}"))?;
                registry.register(&mut listener, LISTENER, Interest::READABLE)?;
                Some(listener)
            }
            None => None,
        };
        let mut journal = Journal::open(options.events.as_deref())?;
        let role = if primary { "primary" } else { "backup" };
        journal.event(
            "started",
            json!({"role": role, "clock": "exit", "host_kvm": host_kvm()}),
        );
        let asker = Asker::start(options.arbiter, Arc::clone(&outbox))?;
        Ok(Pair {
            links: Links::new(FIRST_LINK),
            core: Core::new(options.core, monotonic_ns()),
            actions: Vec::new(),
            held: Held::default(),
            asker,
            journal,
            guest_mac: guest_options.mac.0,
            ram: guest.as_ref().map(Guest::dirty_ram),
            copy: guest.map_or(Copy::None, |guest| Copy::Booted(Box::new(guest))),
            cloning: None,
            leaving: Vec::new(),
            log_from: options.log_from,
            dial_next: 0,
            dial_at: None,
            tap_ready: false,
            live: options.live,
            peer_lost_at: None,
            join_started_at: None,
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
        let mut events = Events::with_capacity(256);
        self.tell(Event::Tick)?;
        while self.halt.is_none() {
            self.wait(&mut events)?;
            for event in &events {
                match event.token() {
                    OUTBOX => {}
                    TAP => self.tap_ready = true,
                    CONSOLE => self.take_typed(),
                    SIGNALS => self.take_signals()?,
                    LISTENER => self.accept()?,
                    token => self.serve(token)?,
                }
            }
            self.take_outgoing()?;
            if self.tap_ready {
                self.tap_ready = self.backends.take_frames()?;
            }
            if self.core.next_tick() <= monotonic_ns() {
                self.tell(Event::Tick)?;
            }
            self.redial();
            self.outbox
                .clog(self.links.backlog_bytes_max() > BACKLOG_BYTES_MAX);
        }
        self.close()
    }

    fn wait(&mut self, events: &mut Events) -> Result<()> {
        let now = monotonic_ns();
        let next = self.core.next_tick().min(self.dial_at.unwrap_or(u64::MAX));
        let timeout = if self.tap_ready {
            Duration::ZERO
        } else {
            Duration::from_nanos(next.saturating_sub(now)).min(Duration::from_secs(1))
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
        for action in actions.drain(..) {
            self.act(action)?;
        }
        // Kept for its capacity; what acting added comes from nested calls, done already.
        if self.actions.is_empty() {
            self.actions = actions;
        }
        self.let_out()
    }

    fn accept(&mut self) -> Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        for peer in self.links.accept(self.poll.registry(), listener) {
            self.tell(Event::PeerConnected {
                peer,
                dialled: false,
            })?;
        }
        Ok(())
    }

    fn serve(&mut self, token: Token) -> Result<()> {
        let Some(peer) = self.links.peer_of(token) else {
            return Ok(());
        };
        loop {
            match self.links.serve(self.poll.registry(), peer) {
                Served::Idle => return Ok(()),
                Served::Connected => {
                    self.dial_at = None;
                    self.tell(Event::PeerConnected {
                        peer,
                        dialled: true,
                    })?;
                }
                Served::Read => {
                    self.tell(Event::PeerHeard { peer })?;
                    loop {
                        match self.links.next_message(peer) {
                            Ok(Some(message)) => self.tell(Event::Message { peer, message })?,
                            Ok(None) => break,
                            Err(why) => {
                                self.links.close(self.poll.registry(), peer);
                                return self.tell(Event::PeerDisconnected { peer, why });
                            }
                        }
                    }
                }
                Served::Lost(why) => {
                    if self.dial_at.is_some() {
                        // Still dialling: the core knows of no connection yet.
                        self.dial_at = Some(monotonic_ns() + REDIAL.as_nanos() as u64);
                        return Ok(());
                    }
                    return self.tell(Event::PeerDisconnected { peer, why });
                }
            }
        }
    }

    fn redial(&mut self) {
        let Some(at) = self.dial_at else { return };
        if at > monotonic_ns() || self.log_from.is_empty() {
            return;
        }
        let address = self.log_from[self.dial_next % self.log_from.len()];
        self.dial_next += 1;
        // Whatever comes of it, do not dial again before it is known or long overdue.
        self.dial_at = Some(monotonic_ns() + 2_000_000_000);
        if let Err(error) = self.links.dial(self.poll.registry(), address) {
            tracing::debug!("cannot dial {address}: {error}");
            self.dial_at = Some(monotonic_ns() + REDIAL.as_nanos() as u64);
        }
    }

    fn take_typed(&mut self) {
        if let Err(error) = self.backends.take_typed() {
            tracing::warn!("cannot read the console: {error}");
        }
    }

    fn take_signals(&mut self) -> Result<()> {
        while let Ok(Some(_)) = self.signals.read_signal() {
            self.tell(Event::Stop)?;
        }
        Ok(())
    }

    fn take_outgoing(&mut self) -> Result<()> {
        let mut items = VecDeque::new();
        self.outbox.take(&mut items);
        for item in items {
            match item {
                Outgoing::Epoch(epoch) => self.tell(Event::EpochClosed(epoch))?,
                Outgoing::Output { after, effect } => {
                    self.held.push(after, effect);
                    self.let_out()?;
                }
                Outgoing::ClonePages(pages) => {
                    if let Some((peer, _)) = &self.cloning {
                        let peer = *peer;
                        self.links.send(peer, &Message::ClonePages { pages });
                        self.outbox
                            .clog(self.links.backlog_bytes(peer) > BACKLOG_BYTES_MAX);
                    }
                }
                Outgoing::CloneReady { first } => self.clone_ready(first)?,
                Outgoing::CloneFailed { why } => {
                    if let Some((peer, _)) = self.cloning.take() {
                        self.tell(Event::CloneFailed { peer, why })?;
                    }
                }
                Outgoing::Executed { epoch, virtual_now } => {
                    self.tell(Event::Executed { epoch, virtual_now })?;
                    self.tell(Event::Verified { epoch })?;
                }
                Outgoing::Diverged { epoch, what } => self.diverged(epoch, &what)?,
                Outgoing::Arbiter { asked, answer } => {
                    self.tell(Event::Arbiter { asked, answer })?;
                }
                Outgoing::Live(went) => {
                    self.backends.drop_frames();
                    self.backends.announce(went.addresses)?;
                    for frame in went.recent_frames {
                        self.held.push(0, Effect::NetTx { frame });
                    }
                    self.let_out()?;
                    let go_live_ms = self.peer_lost_at.take().map(since_ms);
                    self.journal.event(
                        "live",
                        json!({"go_live_ms": go_live_ms, "reissued": went.reissued,
                               "generation": self.core.generation()}),
                    );
                    tracing::info!(
                        "the guest is live here, {:.1} ms after the primary was lost",
                        go_live_ms.unwrap_or(0.0)
                    );
                }
                Outgoing::Ended => self.guest_thread_ended()?,
            }
        }
        Ok(())
    }

    /// Lets out what the output rule lets go.
    fn let_out(&mut self) -> Result<()> {
        while let Some(effect) = self.held.next_free() {
            let ended = match effect {
                Effect::PowerOff => Some(EndReason::PowerOff),
                Effect::Reset => Some(EndReason::Reset),
                _ => None,
            };
            self.backends.release(effect)?;
            if let Some(reason) = ended {
                self.journal
                    .event("guest_ended", json!({"why": reason.to_string()}));
                self.core.handle(
                    monotonic_ns(),
                    Event::GuestEnded { reason },
                    &mut self.actions,
                );
                let actions = std::mem::take(&mut self.actions);
                for action in actions {
                    self.act(action)?;
                }
            }
        }
        Ok(())
    }

    fn clone_ready(&mut self, first: u64) -> Result<()> {
        let Some((peer, mut cloning)) = self.cloning.take() else {
            // Given up in the meantime: nobody reads the log that has just begun.
            self.inbox.order(Order::EndLog);
            return Ok(());
        };
        cloning.join();
        self.tell(Event::CloneReady { peer, first })
    }

    fn diverged(&mut self, epoch: u64, what: &str) -> Result<()> {
        tracing::error!("DIVERGENCE in epoch {epoch}: {what}");
        self.journal
            .event("divergence", json!({"epoch": epoch, "what": what}));
        self.tell(Event::Diverged { epoch, fatal: true })
    }

    fn guest_thread_ended(&mut self) -> Result<()> {
        if let Some(index) = self.leaving.iter().position(|thread| thread.is_finished()) {
            let _ = self.leaving.swap_remove(index).join();
        }
        let finished = match &self.copy {
            Copy::Following { thread, .. } | Copy::Live { thread } => ended_soon(thread),
            _ => false,
        };
        if !finished {
            return Ok(());
        }
        let (thread, following) = match std::mem::replace(&mut self.copy, Copy::None) {
            Copy::Following { thread, .. } => (thread, true),
            Copy::Live { thread } => (thread, false),
            other => {
                self.copy = other;
                return Ok(());
            }
        };
        let end = thread.join().unwrap_or_else(|_| {
            Err(RunError::Sink(
                "the vCPU thread panicked; this is a defect of ftd".to_owned(),
            ))
        });
        match end {
            Ok(ThreadEnd::Dropped) => Ok(()),
            // PoweredOff and Reset end the guest when their output is let out.
            Ok(ThreadEnd::Ended(Ended::Stopped | Ended::PoweredOff | Ended::Reset)) => Ok(()),
            Err(error) if following => {
                let epoch = self.core.status().executed + 1;
                self.diverged(epoch, &chain(&error))
            }
            Err(error) => self.tell(Event::Failed { why: chain(&error) }),
        }
    }

    fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Send { peer, message } => self.links.send(peer, &message),
            Action::SendEpoch { peer, epoch } => self.links.send_epoch(peer, &epoch),
            Action::Established { peer } => self.links.establish(peer),
            Action::Disconnect { peer, why } => {
                tracing::info!("closing a connection: {why}");
                self.links.close(self.poll.registry(), peer);
            }
            Action::Connect => self.dial_at = Some(monotonic_ns()),
            Action::StartClone { peer } => self.start_clone(peer)?,
            Action::StopClone { peer } => {
                if let Some((_, cloning)) = self.cloning.take_if(|(to, _)| *to == peer) {
                    cloning.give_up();
                }
                // If it had got so far as to begin the log, nobody reads that now.
                self.inbox.order(Order::EndLog);
            }
            Action::HoldOutputs { from } => self.held.hold_from(from),
            Action::ReleaseOutputs { through } => self.held.release(through),
            Action::GoAlone { generation } => self.go_alone(generation)?,
            Action::GoLive { .. } => {
                if let Copy::Following { queue, thread } =
                    std::mem::replace(&mut self.copy, Copy::None)
                {
                    self.held = Held::default();
                    queue.end(Ending::GoLive);
                    self.copy = Copy::Live { thread };
                }
            }
            Action::ApplyPages(pages) => self.apply_pages(&pages)?,
            Action::DeliverEpoch(epoch) => self.deliver(epoch)?,
            Action::DropGuest => self.drop_guest(),
            Action::AskArbiter { generation } => self.asker.ask(generation),
            Action::StopGuest => self.outbox.hold(true),
            Action::ResumeGuest => self.outbox.hold(false),
            Action::Halt { why } => {
                self.held.discard();
                self.halt = Some(why);
            }
            Action::Note(note) => self.note(&note),
        }
        Ok(())
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            inbox: Arc::clone(&self.inbox),
            outbox: Arc::clone(&self.outbox),
            disks: self.backends.disks(),
            options: self.live,
        }
    }

    fn go_alone(&mut self, generation: u64) -> Result<()> {
        self.held.release_all();
        match std::mem::replace(&mut self.copy, Copy::None) {
            Copy::Booted(guest) => {
                self.copy = Copy::Live {
                    thread: start_live(*guest, self.surroundings())?,
                };
                self.journal
                    .event("guest_started", json!({"generation": generation}));
            }
            other => {
                self.copy = other;
                self.inbox.order(Order::EndLog);
                let after_ms = self.peer_lost_at.take().map(since_ms);
                self.journal.event(
                    "alone",
                    json!({"generation": generation, "after_ms": after_ms}),
                );
            }
        }
        Ok(())
    }

    fn start_clone(&mut self, peer: PeerId) -> Result<()> {
        let first = self.core.status().epoch + 1;
        self.join_started_at = Some(monotonic_ns());
        let Some(ram) = self.ram.clone() else {
            bail!("there is no guest to clone")
        };
        let (inbox, outbox) = (Arc::clone(&self.inbox), Arc::clone(&self.outbox));
        self.cloning = Some((peer, Cloning::start(ram, first, inbox, outbox)?));
        Ok(())
    }

    fn filling(&mut self) -> Result<&mut Guest> {
        if !matches!(self.copy, Copy::Filling(_)) {
            self.copy = Copy::Filling(Box::new(self.shell.empty_guest()?));
        }
        match &mut self.copy {
            Copy::Filling(guest) => Ok(guest),
            _ => bail!("no guest is being filled"),
        }
    }

    fn apply_pages(&mut self, pages: &[replay::Page]) -> Result<()> {
        let guest = self.filling()?;
        for page in pages {
            guest.write_page(page.gfn, &page.data)?;
        }
        Ok(())
    }

    fn deliver(&mut self, epoch: replay::EncodedEpoch) -> Result<()> {
        if !matches!(self.copy, Copy::Following { .. }) {
            self.filling()?;
            if let Copy::Filling(guest) = std::mem::replace(&mut self.copy, Copy::None) {
                self.ram = Some(guest.dirty_ram());
                let queue = Arc::new(EpochQueue::default());
                let thread = start_following(
                    *guest,
                    Arc::clone(&queue),
                    self.guest_mac,
                    self.surroundings(),
                )?;
                self.copy = Copy::Following { queue, thread };
            }
        }
        if let Copy::Following { queue, .. } = &self.copy {
            queue.push(epoch);
        }
        Ok(())
    }

    fn drop_guest(&mut self) {
        if let Copy::Following { queue, thread } = std::mem::replace(&mut self.copy, Copy::None) {
            queue.end(Ending::Drop);
            self.leaving.push(thread);
        }
        self.ram = None;
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::PeerLost {
                host,
                why,
                silent_ns,
            } => {
                self.peer_lost_at = Some(monotonic_ns());
                self.journal.event(
                    "peer_lost",
                    json!({"host": host, "why": why,
                           "detected_after_ms": *silent_ns as f64 / 1e6}),
                );
            }
            Note::ArbiterWon { generation } => {
                let ms = self.peer_lost_at.map(since_ms);
                self.journal
                    .event("arbiter_won", json!({"generation": generation, "ms": ms}));
            }
            Note::Protected { host } => {
                let clone_ms = self.join_started_at.take().map(since_ms);
                self.journal
                    .event("protected", json!({"with": host, "clone_ms": clone_ms}));
            }
            Note::Diverged { epoch } => {
                self.journal.event("peer_diverged", json!({"epoch": epoch}));
            }
            Note::Role {
                from,
                to,
                generation,
            } => {
                self.journal.event(
                    "role",
                    json!({"from": from.to_string(), "to": to.to_string(),
                           "generation": generation}),
                );
            }
            _ => {}
        }
        tracing::info!("{note}");
    }

    /// Ends this side: nothing more is let out; what was said to the peer still goes.
    fn close(mut self) -> Result<()> {
        let why = self.halt.take().unwrap_or(HaltReason::Stopped);
        self.journal
            .event("halted", json!({"why": why.to_string()}));
        self.outbox.close();
        if let Copy::Following { queue, .. } = &self.copy {
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

    /// What this side is.
    pub fn role(&self) -> Role {
        self.core.role()
    }
}

/// `Outgoing::Ended` is the thread's last word; it is gone an instant later.
fn ended_soon(thread: &GuestThread) -> bool {
    for _ in 0..200 {
        if thread.is_finished() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

fn since_ms(start_ns: u64) -> f64 {
    monotonic_ns().saturating_sub(start_ns) as f64 / 1e6
}

/// An error and its causes in a line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
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
