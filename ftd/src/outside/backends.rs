//! Disks, TAP and console of this host: where released outputs go, and where inputs come from.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use devices::{Console, Effect, Input};

use crate::cli::GuestOptions;
use crate::host::announce::AddressLearner;
use crate::host::console::{Console as HostConsole, Turn};
use crate::host::disk::{Disk, DiskWorker};
use crate::host::tap::{Tap, TapOptions};
use crate::outside::own_disks::{Ledger, OwnDisks};
use crate::run::inbox::Inbox;
use crate::sandbox::Sandbox;

/// Most frames taken from the TAP before other events get their turn.
const FRAMES_A_TURN: usize = 64;

/// What came of [`Backends::take_typed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typed {
    /// The person at the terminal wants ftd to end.
    pub quit: bool,
    /// More may wait: take it soon, without waiting for the descriptor.
    pub more: bool,
}

/// This host's end of the guest's devices.
pub struct Backends {
    disks: Arc<Vec<DiskWorker>>,
    ledger: Arc<Ledger>,
    tap: Option<Tap>,
    console: HostConsole,
    addresses: AddressLearner,
    frame: Vec<u8>,
    inbox: Arc<Inbox>,
    /// Outputs that this host could not carry out: frames the TAP didn't take.
    pub frames_lost: u64,
}

impl Backends {
    /// Opens TAP and console as the options say, gives up the rights that took, and starts the disks'
    /// threads. With `live` false the TAP stays down: another host has the guest's address.
    pub fn open(
        options: &GuestOptions,
        disks: &[Arc<Disk>],
        inbox: Arc<Inbox>,
        live: bool,
        sandbox: &Sandbox,
    ) -> Result<Backends> {
        let tap = if options.bridge.is_some() || options.tap.is_some() {
            Some(Tap::open(&TapOptions {
                name: options.tap.clone(),
                bridge: options.bridge.clone(),
                mtu: None,
                up: live,
            })?)
        } else {
            None
        };
        let console = HostConsole::open(&options.console())?;
        // Before the first thread: each has rights of its own.
        sandbox.give_rights_up()?;
        let mut workers = Vec::new();
        let ledger = Arc::new(Ledger::default());
        for (index, disk) in disks.iter().enumerate() {
            let index = u8::try_from(index).context("too many disks")?;
            let inbox = Arc::clone(&inbox);
            let ledger = Arc::clone(&ledger);
            let completion = move |id, outcome| {
                if let Some(outcome) = ledger.take_in(index, id, outcome) {
                    inbox.push(Input::DiskDone {
                        disk: index,
                        id,
                        outcome,
                    });
                }
            };
            workers.push(DiskWorker::start(
                index,
                Arc::clone(disk),
                Box::new(completion),
            )?);
        }
        Ok(Backends {
            disks: Arc::new(workers),
            ledger,
            frame: vec![0; tap.as_ref().map_or(0, Tap::frame_bytes_max)],
            tap,
            console,
            addresses: AddressLearner::new(options.mac.0),
            inbox,
            frames_lost: 0,
        })
    }

    /// The disks, for requests that nobody can see.
    pub fn disks(&self) -> Arc<Vec<DiskWorker>> {
        Arc::clone(&self.disks)
    }

    /// The disks, for a copy that follows the log where each host has its own.
    pub fn own_disks(&self) -> OwnDisks {
        OwnDisks::new(Arc::clone(&self.ledger), self.disks())
    }

    /// The TAP's descriptor, to be polled.
    pub fn tap_fd(&self) -> Option<RawFd> {
        self.tap.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The console's descriptor, to be polled.
    pub fn console_fd(&self) -> RawFd {
        self.console.as_raw_fd()
    }

    /// Carries out an output.
    pub fn release(&mut self, effect: Effect) -> Result<()> {
        match effect {
            Effect::NetTx { frame } => {
                self.addresses.observe(&frame);
                if let Some(tap) = &self.tap
                    && !tap
                        .write_frame(&frame)
                        .context("cannot send the guest's frame")?
                {
                    self.frames_lost += 1;
                }
            }
            Effect::Disk(request) => {
                if let Some(disk) = self.disks.get(usize::from(request.disk)) {
                    disk.submit(request);
                }
            }
            Effect::ConsoleOut {
                console: Console::Serial,
                bytes,
            } => self.console.write(&bytes),
            Effect::ConsoleOut {
                console: Console::Virtio,
                ..
            } => {}
            Effect::PowerOff | Effect::Reset | Effect::EntropyWanted { .. } => {}
        }
        Ok(())
    }

    /// Takes frames from the TAP for the guest. `true` when more may wait.
    pub fn take_frames(&mut self) -> Result<bool> {
        let inbox = Arc::clone(&self.inbox);
        self.take_frames_to(|frame| {
            inbox.push(Input::NetRx {
                frame: frame.to_vec(),
            });
        })
    }

    /// Takes frames from the TAP. `true` when more may wait.
    pub fn take_frames_to(&mut self, mut to: impl FnMut(&[u8])) -> Result<bool> {
        let Some(tap) = &self.tap else {
            return Ok(false);
        };
        for _ in 0..FRAMES_A_TURN {
            match tap
                .read_frame(&mut self.frame)
                .context("cannot read from the TAP")?
            {
                Some(count) => to(&self.frame[..count]),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether every request to the disks is complete.
    pub fn disks_are_idle(&self) -> bool {
        self.disks.iter().all(|disk| disk.in_flight() == 0)
    }

    /// Throws away what waits at the TAP.
    pub fn drop_frames(&mut self) {
        if let Some(tap) = &self.tap {
            while let Ok(Some(_)) = tap.read_frame(&mut self.frame) {}
        }
    }

    /// Takes what was typed, and writes what the console could not take before.
    pub fn take_typed(&mut self) -> Typed {
        let Turn { input, quit, more } = self.console.turn();
        if !input.is_empty() {
            self.inbox.push(Input::ConsoleIn {
                console: Console::Serial,
                bytes: input,
            });
        }
        Typed { quit, more }
    }

    /// The guest is here now: brings the TAP up and tells the network, knowing these addresses.
    pub fn announce(&mut self, addresses: AddressLearner) -> Result<()> {
        self.addresses = addresses;
        let Some(tap) = &self.tap else { return Ok(()) };
        tap.set_up(true)?;
        for frame in self.addresses.announcements() {
            tap.write_frame(&frame)
                .context("cannot announce the guest's address")?;
        }
        Ok(())
    }

    /// Makes sure that nothing more is written to any disk: another host has the guest, and its
    /// disks. Waits for nothing.
    pub fn abandon_disks(&self) {
        for disk in self.disks.iter() {
            disk.abandon();
        }
    }

    /// Starts no more disk requests and waits for those that run, for `timeout` at most: another
    /// host is about to take the guest over, and issues again what was not complete. `false` if
    /// some still run.
    pub fn retire_disks(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut idle = true;
        for disk in self.disks.iter() {
            idle &= disk.retire(until.saturating_duration_since(Instant::now()));
        }
        self.abandon_disks();
        idle
    }

    /// Waits until what was released to the disks is on them, unless they were abandoned, and
    /// gives the console what waits for it.
    pub fn finish(&mut self) {
        for disk in self.disks.iter() {
            disk.finish();
        }
        self.console.flush();
    }
}
