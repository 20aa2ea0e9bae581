//! The host's counter of retired conditional branches, in guests only (perf_event_open(2)): what tells
//! one point between two exits from another.
//!
//! Conditional branches, since nothing that a host does beside the guest makes one: entries, injected
//! interrupts, page faults of the second level and emulated instructions count none.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};

use nix::unistd::gettid;

use super::kick;
use crate::error::VmmError;

/// A counter on the thread that opened it. Its alarm is a kick.
#[derive(Debug)]
pub struct Counter {
    file: File,
    base: u64,
    armed: bool,
}

const PERF_TYPE_RAW: u32 = 4;
/// PERF_ATTR_SIZE_VER0: all that is needed here.
const ATTR_BYTES: u32 = 64;
/// Always on its hardware counter, or in error.
const PINNED: u64 = 1 << 2;
/// Only while a guest runs (bit 19 of the flags).
const EXCLUDE_HOST: u64 = 1 << 19;
/// A period that no guest comes to the end of.
const NEVER: u64 = 1 << 62;

/// The head of `struct perf_event_attr`.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

mod nr {
    #![allow(missing_docs)]
    vmm_sys_util::ioctl_iow_nr!(PERF_EVENT_IOC_PERIOD, 0x24, 4, u64);
}

impl Counter {
    /// Opens a counter of the raw event `event` on this thread, from zero.
    ///
    /// # Errors
    ///
    /// What perf_event_open(2) says: no such event, no right to count (`perf_event_paranoid`), no PMU.
    #[allow(unsafe_code)]
    pub fn open(event: u64) -> io::Result<Counter> {
        let attr = Attr {
            kind: PERF_TYPE_RAW,
            size: ATTR_BYTES,
            config: event,
            sample_period: NEVER,
            flags: PINNED | EXCLUDE_HOST,
            ..Default::default()
        };
        const CLOEXEC: libc::c_ulong = 8;
        // SAFETY: the kernel reads `size` bytes, all of them in `attr`; the answer is checked.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                std::ptr::from_ref(&attr),
                0,
                -1,
                -1,
                CLOEXEC,
            )
        };
        let Ok(fd) = i32::try_from(fd) else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel has just made and nobody else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        signal_overflows(&file)?;
        Ok(Counter {
            file,
            base: 0,
            armed: false,
        })
    }

    /// Conditional branches since the last [`Counter::restart`].
    ///
    /// # Errors
    ///
    /// When the counter is not on the hardware: it then says nothing, and nothing can be said.
    pub fn branches(&self) -> Result<u64, VmmError> {
        Ok(self.count()?.wrapping_sub(self.base))
    }

    /// Counts from zero on.
    pub fn restart(&mut self) -> Result<(), VmmError> {
        self.base = self.count()?;
        Ok(())
    }

    fn count(&self) -> Result<u64, VmmError> {
        let mut bytes = [0; 8];
        // A pinned counter that could not be put on the CPU reads as end of file.
        match (&self.file).read(&mut bytes) {
            Ok(8) => Ok(u64::from_le_bytes(bytes)),
            Ok(_) => Err(VmmError::Host {
                what: "the branch counter was taken by something else on this host",
                source: io::Error::from(io::ErrorKind::UnexpectedEof),
            }),
            Err(source) => Err(VmmError::Host {
                what: "the branch counter can't be read",
                source,
            }),
        }
    }

    /// Kicks this thread once so many more branches (at least 2) are counted. It comes late by the skid.
    pub fn alarm_after(&mut self, branches: u64) -> Result<(), VmmError> {
        self.armed = true;
        // A log may name any number; the kernel takes less than 2^63.
        self.period(branches.clamp(2, NEVER))
    }

    /// Takes the alarm back. A kick may still be under way.
    pub fn disarm(&mut self) -> Result<(), VmmError> {
        if !self.armed {
            return Ok(());
        }
        self.armed = false;
        self.period(NEVER)
    }

    #[allow(unsafe_code)]
    fn period(&mut self, branches: u64) -> Result<(), VmmError> {
        // SAFETY: the kernel reads one u64.
        let answer = unsafe {
            vmm_sys_util::ioctl::ioctl_with_ref(&self.file, nr::PERF_EVENT_IOC_PERIOD(), &branches)
        };
        if answer == 0 {
            return Ok(());
        }
        Err(VmmError::Host {
            what: "the branch counter's alarm can't be set",
            source: io::Error::last_os_error(),
        })
    }
}

/// Makes an overflow of `file` a kick of this thread.
#[allow(unsafe_code)]
fn signal_overflows(file: &File) -> io::Result<()> {
    const F_SETSIG: libc::c_int = 10;
    const F_SETOWN_EX: libc::c_int = 15;
    const F_OWNER_TID: libc::c_int = 0;
    #[repr(C)]
    struct Owner {
        kind: libc::c_int,
        id: libc::pid_t,
    }
    let owner = Owner {
        kind: F_OWNER_TID,
        id: gettid().as_raw(),
    };
    let fd = file.as_raw_fd();
    // SAFETY: fcntl(2) on a descriptor that is open; F_SETOWN_EX reads `owner`.
    let done = unsafe {
        libc::fcntl(fd, F_SETSIG, kick::SIGNAL as libc::c_int) != -1
            && libc::fcntl(fd, F_SETOWN_EX, std::ptr::from_ref(&owner)) != -1
            && libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK) != -1
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attributes_are_as_long_as_they_say() {
        assert_eq!(size_of::<Attr>(), ATTR_BYTES as usize);
    }
}
