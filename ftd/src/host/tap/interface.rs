//! The ioctls that make and configure a network interface (netdevice(7), linux/if_tun.h).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Adds a port to a bridge (linux/sockios.h); the libc crate has it for Android only.
const SIOCBRADDIF: libc::Ioctl = 0x89a2;

/// A socket through which interfaces of this network namespace are configured.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        Ok(Control(socket))
    }

    /// The interface's MTU in bytes.
    pub(super) fn mtu(&self, name: &str) -> io::Result<u32> {
        let mut request = request(name)?;
        call(self.0.as_raw_fd(), libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU filled in the union's `ifru_mtu`.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        u32::try_from(mtu).map_err(io::Error::other)
    }

    pub(super) fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        let mut request = request(name)?;
        request.ifr_ifru.ifru_mtu = libc::c_int::try_from(mtu).map_err(io::Error::other)?;
        call(self.0.as_raw_fd(), libc::SIOCSIFMTU, &mut request)
    }

    /// Sets or clears IFF_UP, if it isn't already so.
    pub(super) fn set_up(&self, name: &str, up: bool) -> io::Result<()> {
        let mut request = request(name)?;
        call(self.0.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS filled in the union's `ifru_flags`.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let bit = libc::IFF_UP as libc::c_short;
        if (flags & bit != 0) == up {
            return Ok(());
        }
        request.ifr_ifru.ifru_flags = flags ^ bit;
        call(self.0.as_raw_fd(), libc::SIOCSIFFLAGS, &mut request)
    }

    pub(super) fn add_to_bridge(&self, bridge: &str, port: &str) -> io::Result<()> {
        let mut request = request(bridge)?;
        request.ifr_ifru.ifru_ifindex = index(port)?;
        call(self.0.as_raw_fd(), SIOCBRADDIF, &mut request)
    }
}

/// Makes `file`, an open /dev/net/tun, the TAP called `name`, where "%d" stands for the first free
/// number; returns the name it got.
pub(super) fn attach(file: &File, name: &str) -> io::Result<String> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    call(file.as_raw_fd(), libc::TUNSETIFF, &mut request)?;
    let bytes = request.ifr_name.iter().map(|&byte| byte as u8);
    let name = bytes.take_while(|&byte| byte != 0).collect();
    String::from_utf8(name).map_err(io::Error::other)
}

/// The interface's number.
pub(super) fn index(name: &str) -> io::Result<libc::c_int> {
    let index = nix::net::if_::if_nametoindex(name)?;
    libc::c_int::try_from(index).map_err(io::Error::other)
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `ifreq` is an array of characters and a union of integers and pointers, for all of
    // which all-zero bytes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

fn call(fd: RawFd, operation: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: `request` is a whole, initialised ifreq, which is what all operations used in this
    // module read and write, and it outlives the call.
    let result = unsafe { libc::ioctl(fd, operation, request as *mut libc::ifreq) };
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
