//! Disks, TAP and console of this host: where released outputs go, and where inputs come from.

use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use devices::{Console, Effect, Input};

use crate::cli::GuestOptions;
use crate::host::announce::AddressLearner;
use crate::host::disk::{Disk, DiskWorker};
use crate::host::tap::{Tap, TapOptions};
use crate::outside::console::ConsoleEnd;
use crate::run::inbox::Inbox;

/// Most frames taken from the TAP before other events get their turn.
const FRAMES_A_TURN: usize = 64;

/// This host's end of the guest's devices.
pub struct Backends {
    disks: Arc<Vec<DiskWorker>>,
    tap: Option<Tap>,
    console: ConsoleEnd,
    addresses: AddressLearner,
    frame: Vec<u8>,
    inbox: Arc<Inbox>,
    /// Outputs that this host could not carry out: frames the TAP didn't take.
    pub frames_lost: u64,
}

impl Backends {
    /// Opens TAP and console as the options say, and starts the disks' threads. With `live` false
    /// the TAP stays down: another host has the guest's address.
    pub fn open(
        options: &GuestOptions,
        disks: &[Arc<Disk>],
        inbox: Arc<Inbox>,
        live: bool,
    ) -> Result<Backends> {
        let mut workers = Vec::new();
        for (index, disk) in disks.iter().enumerate() {
            let index = u8::try_from(index).context("too many disks")?;
            let inbox = Arc::clone(&inbox);
            let completion = move |id, outcome| {
                inbox.push(Input::DiskDone {
                    disk: index,
                    id,
                    outcome,
                });
            };
            workers.push(DiskWorker::start(
                index,
                Arc::clone(disk),
                Box::new(completion),
            )?);
        }
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
        Ok(Backends {
            disks: Arc::new(workers),
            frame: vec![0; tap.as_ref().map_or(0, Tap::frame_bytes_max)],
            tap,
            console: ConsoleEnd::open(&options.console)?,
            addresses: AddressLearner::new(options.mac.0),
            inbox,
            frames_lost: 0,
        })
    }

    /// The disks, for requests that nobody can see.
    pub fn disks(&self) -> Arc<Vec<DiskWorker>> {
        Arc::clone(&self.disks)
    }

    /// The TAP's descriptor, to be polled.
    pub fn tap_fd(&self) -> Option<RawFd> {
        self.tap.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The console's input, to be polled.
    pub fn console_fd(&self) -> Option<RawFd> {
        self.console.input_fd()
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
        let Some(tap) = &self.tap else {
            return Ok(false);
        };
        for _ in 0..FRAMES_A_TURN {
            match tap
                .read_frame(&mut self.frame)
                .context("cannot read from the TAP")?
            {
                Some(count) => {
                    self.inbox.push(Input::NetRx {
                        frame: self.frame[..count].to_vec(),
                    });
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Throws away what waits at the TAP.
    pub fn drop_frames(&mut self) {
        if let Some(tap) = &self.tap {
            while let Ok(Some(_)) = tap.read_frame(&mut self.frame) {}
        }
    }

    /// Takes what was typed. `false` at the end of input.
    pub fn take_typed(&mut self) -> io::Result<bool> {
        let mut bytes = [0u8; 256];
        match self.console.read(&mut bytes)? {
            Some(0) => Ok(false),
            Some(count) => {
                let bytes = bytes[..count].to_vec();
                self.inbox.push(Input::ConsoleIn {
                    console: Console::Serial,
                    bytes,
                });
                Ok(true)
            }
            None => Ok(true),
        }
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

    /// Flushes the console.
    pub fn flush(&mut self) {
        let _ = io::stdout().flush();
    }
}
