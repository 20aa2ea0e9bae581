//! A guest on this host alone: `ftd run` (no log) and `ftd record` (a log in a file).
//!
//! * `asked`: what it says of itself over the control socket.

mod asked;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use replay::log::{LogHeader, LogWriter};
use replay::protocol::PeerId;
use replay::{EncodedEpoch, Position};
use vmm::guest::{Guest, StateHash};

use self::asked::Asked;
use crate::cli::GuestOptions;
use crate::control::Control;
use crate::daemon::held::Held;
use crate::host::clock::VirtualClock;
use crate::outside::backends::Backends;
use crate::outside::outbox::{CopySerial, Outbox, Outgoing};
use crate::outside::sink::VcpuSink;
use crate::run::RunError;
use crate::run::inbox::{Inbox, Order};
use crate::run::live::{Ended, Live, LiveCounters, LiveOptions};
use crate::setup::{Booted, Shell};
use crate::signals::StopSignals;

const OUTBOX: Token = Token(0);
const TAP: Token = Token(1);
const CONSOLE: Token = Token(2);
const SIGNALS: Token = Token(3);
const CONTROL: Token = Token(4);

/// What a solo run is told.
pub struct SoloOptions<'a> {
    /// Choices of the vCPU loop.
    pub live: LiveOptions,
    /// The control socket.
    pub control: Option<Control>,
    /// Stop after so long.
    pub stop_after: Option<Duration>,
    /// Write the log here.
    pub log: Option<&'a Path>,
    /// Stop this process where the guest has ended.
    pub hold: bool,
}

/// How a solo run ended.
#[derive(Debug)]
pub struct SoloReport {
    /// Why the guest ended.
    pub ended: Ended,
    /// Where it ended.
    pub exits: u64,
    /// Its state there, if it was recorded.
    pub state: Option<StateHash>,
    /// Bytes of log.
    pub log_bytes: u64,
    /// Entries of the log.
    pub log_entries: u64,
    /// Counters of the vCPU loop.
    pub counters: LiveCounters,
    /// How long it ran, of host time.
    pub elapsed: Duration,
}

type VcpuThread =
    std::thread::JoinHandle<Result<(Ended, Guest, LiveCounters, Option<StateHash>), RunError>>;

/// Runs a guest to its end.
pub fn run(
    shell: &Shell,
    guest: Guest,
    booted: &Booted,
    options: &GuestOptions,
    mut solo: SoloOptions<'_>,
) -> Result<SoloReport> {
    let mut stop_signals = StopSignals::block()?;
    let mut poll = Poll::new().context("cannot make an epoll")?;
    let registry = poll.registry();
    let outbox = Arc::new(Outbox::new(Waker::new(registry, OUTBOX)?));
    let inbox = Arc::new(Inbox::default());
    let mut log = match solo.log {
        Some(path) => Some(LogFile::create(path, shell, booted)?),
        None => None,
    };
    let sandbox = options.sandbox().for_clock(shell.clock);
    let mut backends = Backends::open(options, &shell.disks, Arc::clone(&inbox), true, &sandbox)?;
    registry.register(
        &mut SourceFd(&stop_signals.as_raw_fd()),
        SIGNALS,
        Interest::READABLE,
    )?;
    if let Some(tap) = backends.tap_fd() {
        registry.register(&mut SourceFd(&tap), TAP, Interest::READABLE)?;
    }
    let console = backends.console_fd();
    registry.register(&mut SourceFd(&console), CONSOLE, Interest::READABLE)?;
    if let Some(control) = &solo.control {
        let fd = control.as_raw_fd();
        registry.register(&mut SourceFd(&fd), CONTROL, Interest::READABLE)?;
    }
    let mut asked = Asked::new(solo.log.is_some(), shell, &inbox);
    if log.is_some() {
        inbox.order(Order::BeginLog {
            to: PeerId(0),
            first: 1,
            // The others are zeros, as they are in a guest that a replay starts from.
            pages: guest.dirty_ram().touched(),
            disks: None,
        });
    }
    sandbox.close()?;
    let started = Instant::now();
    let live = LiveOptions {
        wait_for_log: log.is_some(),
        ..solo.live
    };
    let thread = start(guest, &backends, &inbox, &outbox, &asked, live)?;
    let mut held = Held::default();
    if log.is_some() {
        held.hold_from(1);
    }
    let mut events = Events::with_capacity(64);
    let mut tap_ready = false;
    let mut console_ready = false;
    let mut control_ready = false;
    let mut ended = false;
    let mut stop_after = solo.stop_after;
    let mut items = VecDeque::new();
    while !ended {
        let timeout = if tap_ready || console_ready || control_ready {
            Duration::ZERO
        } else {
            Duration::from_millis(100)
        };
        match poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(error).context("cannot wait for events");
            }
            _ => {}
        }
        for event in &events {
            match event.token() {
                TAP => tap_ready = true,
                CONSOLE => console_ready = true,
                CONTROL => control_ready = true,
                SIGNALS => {
                    if let Some(signal) = stop_signals.take() {
                        stop(signal.as_str(), &inbox);
                    }
                }
                _ => {}
            }
        }
        if stop_after
            .take_if(|limit| started.elapsed() >= *limit)
            .is_some()
        {
            inbox.order(Order::Stop);
        }
        outbox.take(&mut items);
        let mut logged = 0;
        for item in items.drain(..) {
            match item {
                Outgoing::Epoch(epoch) => {
                    asked.logged(&epoch);
                    if let Some(log) = &mut log
                        && let Err(error) = log.append(&epoch)
                    {
                        outbox.close();
                        return Err(error);
                    }
                    logged = epoch.epoch;
                }
                Outgoing::Output { after, effect } => held.push(after, effect),
                Outgoing::Ended { .. } => ended = true,
                _ => {}
            }
        }
        if logged > 0 {
            // What leaves may depend on these epochs: they are the kernel's before it does.
            if let Some(log) = &mut log
                && let Err(error) = log.flush()
            {
                outbox.close();
                return Err(error);
            }
            held.release(logged);
        }
        while let Some(effect) = held.next_free() {
            backends.release(effect)?;
        }
        if console_ready {
            let typed = backends.take_typed();
            console_ready = typed.more;
            if typed.quit {
                stop("Ctrl-A x", &inbox);
            }
        }
        if control_ready && let Some(control) = &mut solo.control {
            control_ready = control.turn(&mut asked);
        }
        if tap_ready {
            tap_ready = backends.take_frames()?;
        }
    }
    stop_signals.end_at_next();
    let joined = thread.join();
    let Ok(outcome) = joined else {
        bail!("the vCPU thread panicked; this is a defect of ftd")
    };
    let (end, guest, counters, state) = outcome?;
    backends.finish();
    tracing::trace!("the machine at its end: {:#?}", guest.machine().save());
    if solo.hold {
        crate::signals::hold();
    }
    let (mut log_bytes, mut log_entries) = (0, 0);
    if let (Some(log), Some(state)) = (log, &state) {
        (log_bytes, log_entries) = log.finish(guest.exits(), state)?;
    }
    Ok(SoloReport {
        ended: end,
        exits: guest.exits(),
        state,
        log_bytes,
        log_entries,
        counters,
        elapsed: started.elapsed(),
    })
}

fn stop(how: &str, inbox: &Inbox) {
    tracing::info!("{how}: stopping the guest where it is; a second signal ends ftd at once");
    inbox.order(Order::Stop);
}

fn start(
    guest: Guest,
    backends: &Backends,
    inbox: &Arc<Inbox>,
    outbox: &Arc<Outbox>,
    asked: &Asked,
    live: LiveOptions,
) -> Result<VcpuThread> {
    let sink = VcpuSink::new(Arc::clone(inbox), Arc::clone(outbox), backends.disks());
    let inbox = Arc::clone(inbox);
    let outbox = Arc::clone(outbox);
    let logged = live.wait_for_log;
    let gauges = Arc::clone(&asked.gauges);
    let thread = std::thread::Builder::new()
        .name("vcpu".to_owned())
        .spawn(move || {
            let clock = VirtualClock::new(guest.machine().now());
            let outcome = Live::new(guest, sink, inbox, gauges, clock, live)
                .and_then(Live::run)
                .and_then(|(ended, mut guest, _, counters)| {
                    let state = if logged {
                        Some(guest.state_hash()?)
                    } else {
                        None
                    };
                    Ok((ended, guest, counters, state))
                });
            outbox.push(Outgoing::Ended {
                copy: CopySerial::default(),
            });
            outcome
        })?;
    Ok(thread)
}

/// The log being written.
struct LogFile {
    writer: LogWriter<BufWriter<File>>,
    path: std::path::PathBuf,
}

impl LogFile {
    fn create(path: &Path, shell: &Shell, booted: &Booted) -> Result<LogFile> {
        let header = LogHeader {
            cpu_model: shell.cpu_model.to_string(),
            ram_bytes: shell.ram_bytes,
            machine_config: postcard::to_allocvec(&shell.config)?,
            cmdline: booted.cmdline.clone(),
            kernel_blake3: booted.kernel_blake3.clone(),
            initrd_blake3: booted.initrd_blake3.clone(),
            disk_bytes: shell
                .config
                .disks
                .iter()
                .map(|disk| disk.capacity_bytes)
                .collect(),
            clock: shell.clock.to_string(),
            boot_time_ns: shell.config.boot_unix_seconds * 1_000_000_000,
            first_epoch: 1,
        };
        // The guest's RAM is in it.
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot write the log to {}", path.display()))?;
        let writer = LogWriter::create(BufWriter::with_capacity(1 << 20, file), &header)
            .with_context(|| format!("cannot write the log to {}", path.display()))?;
        Ok(LogFile {
            writer,
            path: path.to_owned(),
        })
    }

    fn append(&mut self, epoch: &EncodedEpoch) -> Result<()> {
        let written = self.writer.append(epoch);
        written.with_context(|| self.cannot_write())
    }

    fn flush(&mut self) -> Result<()> {
        let flushed = self.writer.flush();
        flushed.with_context(|| self.cannot_write())
    }

    fn cannot_write(&self) -> String {
        format!(
            "cannot write the log to {}: the guest is stopped",
            self.path.display()
        )
    }

    fn finish(self, exits: u64, state: &StateHash) -> Result<(u64, u64)> {
        let (bytes, entries) = (self.writer.len_bytes(), self.writer.entries());
        let describe = || format!("cannot finish the log {}", self.path.display());
        let mut out = self
            .writer
            .finish(Position::Exit(exits), state.combined())
            .with_context(describe)?;
        out.flush().with_context(describe)?;
        Ok((bytes, entries))
    }
}
