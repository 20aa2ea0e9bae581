//! A TAP device: the other end of the guest's network cable.
//!
//! Frames pass whole, as Ethernet without FCS and without a virtio header, so the kernel does any
//! segmentation and checksum on its side. A backup opens its TAP when it starts, so that a missing
//! right shows at once, and leaves it down until it goes live.

mod interface;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use interface::Control;

/// Where the kernel's driver is reached.
const DEVICE: &str = "/dev/net/tun";
/// Ethernet header with one 802.1Q tag, in bytes, on top of the MTU.
const HEADER_BYTES_MAX: usize = 18;
/// Longest name of an interface, in bytes (IFNAMSIZ less the terminator).
const NAME_BYTES_MAX: usize = 15;
/// Least MTU that IPv4 works with, in bytes (RFC 791).
const MTU_MIN: u32 = 68;
/// Largest MTU of a TAP, in bytes.
const MTU_MAX: u32 = 65_521;

/// What TAP to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapOptions {
    /// Name of the interface: one that exists (made with `ip tuntap add`, for a run without root)
    /// or one to create. `None`: the first free of ftd0, ftd1, ...
    pub name: Option<String>,
    /// Bridge to put it on.
    pub bridge: Option<String>,
    /// MTU to set, in bytes; `None` takes the bridge's if there is one, else leaves the kernel's.
    pub mtu: Option<u32>,
    /// Whether to bring it up at once.
    pub up: bool,
}

impl Default for TapOptions {
    fn default() -> Self {
        TapOptions {
            name: None,
            bridge: None,
            mtu: None,
            up: true,
        }
    }
}

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No /dev/net/tun.
    #[error(
        "{DEVICE} does not exist: load the driver with 'modprobe tun' (in a container, pass the \
         device in)"
    )]
    NoDriver(#[source] io::Error),
    /// No right to open /dev/net/tun, or to create an interface.
    #[error(
        "no permission to {what}: run as root or with CAP_NET_ADMIN, or let root make the TAP once \
         with 'ip tuntap add dev NAME mode tap user USER' and give its name"
    )]
    Permission {
        /// What was refused.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The name can't be one.
    #[error("'{0}' can't be the name of a network interface: 1 to 15 bytes without '/' or spaces")]
    BadName(String),
    /// Another process has the TAP.
    #[error("TAP {0} is in use by another process")]
    Busy(String),
    /// The interface is of another kind.
    #[error("{0} exists and is not a single-queue TAP: choose another name, or delete it")]
    NotATap(String),
    /// No such bridge.
    #[error("bridge {0} does not exist: create it with 'ip link add {0} type bridge'")]
    NoBridge(String),
    /// That is no bridge.
    #[error("{0} is a network interface, but not a bridge")]
    NotABridge(String),
    /// The TAP belongs to another bridge.
    #[error("TAP {tap} is already on bridge {other}, not on {wanted}")]
    OtherBridge {
        /// The TAP.
        tap: String,
        /// The bridge it is on.
        other: String,
        /// The bridge that was asked for.
        wanted: String,
    },
    /// An MTU out of range.
    #[error("an MTU of {0} bytes is out of range: give {MTU_MIN} to {MTU_MAX}")]
    BadMtu(u32),
    /// Something else.
    #[error("can't {what}")]
    Failed {
        /// What was being done.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl TapError {
    fn new(what: String, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => TapError::Permission { what, source },
            _ => TapError::Failed { what, source },
        }
    }
}

/// An open TAP device. An interface that ftd created disappears when this is dropped; one that
/// existed stays.
#[derive(Debug)]
pub struct Tap {
    file: File,
    control: Control,
    name: String,
    mtu: u32,
}

impl Tap {
    /// Opens or creates the TAP, non-blocking.
    ///
    /// # Errors
    /// [`TapError`], which says what is missing and how to get it. Nothing is left behind.
    pub fn open(options: &TapOptions) -> Result<Tap, TapError> {
        let name = options.name.as_deref().unwrap_or("ftd%d");
        check_name(name)?;
        if let Some(mtu) = options.mtu
            && !(MTU_MIN..=MTU_MAX).contains(&mtu)
        {
            return Err(TapError::BadMtu(mtu));
        }
        if let Some(bridge) = &options.bridge {
            check_name(bridge)?;
            check_bridge(bridge)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver(source),
                _ => TapError::new(format!("open {DEVICE}"), source),
            })?;
        let name = interface::attach(&file, name).map_err(|source| {
            let name = name.to_owned();
            match source.raw_os_error() {
                Some(libc::EBUSY) => TapError::Busy(name),
                Some(libc::EINVAL) => TapError::NotATap(name),
                _ => TapError::new(format!("create the TAP {name}"), source),
            }
        })?;
        let control = Control::open()
            .map_err(|source| TapError::new("open a control socket".to_owned(), source))?;
        let mut tap = Tap {
            file,
            control,
            name,
            mtu: 0,
        };
        tap.mtu = tap.ask("read the MTU of", Control::mtu)?;
        if let Some(bridge) = &options.bridge {
            let bridge_mtu = tap.control.mtu(bridge);
            if let Some(mtu) = options.mtu.or(bridge_mtu.ok()) {
                tap.set_mtu(mtu)?;
            }
            tap.join_bridge(bridge)?;
        } else if let Some(mtu) = options.mtu {
            tap.set_mtu(mtu)?;
        }
        if options.up {
            tap.set_up(true)?;
        }
        Ok(tap)
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// MTU in bytes, as it was when the TAP was opened.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Size in bytes of a buffer that no frame outgrows, for [`Tap::read_frame`].
    pub fn frame_bytes_max(&self) -> usize {
        self.mtu as usize + HEADER_BYTES_MAX
    }

    /// Brings the interface up or down. Does nothing (and needs no right) if it is so already.
    ///
    /// # Errors
    /// [`TapError::Permission`] without CAP_NET_ADMIN.
    pub fn set_up(&self, up: bool) -> Result<(), TapError> {
        let what = if up { "bring up" } else { "take down" };
        self.ask(what, |control, name| control.set_up(name, up))
    }

    /// Takes one whole frame that the host sent to the guest into `buf`, which should have
    /// [`Tap::frame_bytes_max`] bytes: the kernel cuts off what doesn't fit. `None` if none waits.
    ///
    /// # Errors
    /// The interface was deleted, or other failures of read(2).
    pub fn read_frame(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match (&self.file).read(buf) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // The interface is down: no frames come from there.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one whole frame from the guest to the host. `false` if it is lost, as on a wire: the
    /// interface is down, the kernel's queue is full, or the frame is malformed (shorter than an
    /// Ethernet header).
    ///
    /// # Errors
    /// The interface was deleted, or other failures of write(2).
    pub fn write_frame(&self, frame: &[u8]) -> io::Result<bool> {
        loop {
            match (&self.file).write(frame) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => match error.raw_os_error() {
                    Some(
                        libc::EAGAIN | libc::EIO | libc::EINVAL | libc::ENOBUFS | libc::ENOMEM,
                    ) => return Ok(false),
                    _ => return Err(error),
                },
            }
        }
    }

    fn set_mtu(&mut self, mtu: u32) -> Result<(), TapError> {
        if self.mtu != mtu {
            self.ask("set the MTU of", |control, name| control.set_mtu(name, mtu))?;
            self.mtu = mtu;
        }
        Ok(())
    }

    fn join_bridge(&self, bridge: &str) -> Result<(), TapError> {
        if let Some(current) = bridge_of(&self.name) {
            if current == bridge {
                return Ok(());
            }
            return Err(TapError::OtherBridge {
                tap: self.name.clone(),
                other: current,
                wanted: bridge.to_owned(),
            });
        }
        self.control
            .add_to_bridge(bridge, &self.name)
            .map_err(|source| {
                TapError::new(format!("put {} on bridge {bridge}", self.name), source)
            })
    }

    fn ask<T>(
        &self,
        what: &str,
        call: impl FnOnce(&Control, &str) -> io::Result<T>,
    ) -> Result<T, TapError> {
        call(&self.control, &self.name)
            .map_err(|source| TapError::new(format!("{what} {}", self.name), source))
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// "ftd%d" apart, which only ftd itself asks for.
fn check_name(name: &str) -> Result<(), TapError> {
    let bad = |byte: u8| byte == b'/' || byte == b':' || !byte.is_ascii_graphic();
    if name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || name.bytes().any(bad)
        || name == "."
        || name == ".."
        || (name.contains('%') && name != "ftd%d")
    {
        return Err(TapError::BadName(name.to_owned()));
    }
    Ok(())
}

fn check_bridge(bridge: &str) -> Result<(), TapError> {
    let class = Path::new("/sys/class/net").join(bridge);
    if class.join("bridge").is_dir() {
        return Ok(());
    }
    // In a container, /sys may belong to another network namespace: only the kernel knows then.
    if interface::index(bridge).is_err() {
        return Err(TapError::NoBridge(bridge.to_owned()));
    }
    match class.exists() {
        true => Err(TapError::NotABridge(bridge.to_owned())),
        false => Ok(()),
    }
}

/// The bridge that an interface is on, if /sys tells.
fn bridge_of(name: &str) -> Option<String> {
    let link = Path::new("/sys/class/net").join(name).join("brport/bridge");
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests;
