//! Whether the host counts the guest's conditional branches, and only those: what the counter clock
//! needs to name a position between two exits.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::FromRawFd as _;

use kvm_ioctls::Kvm;

use super::Finding;
use super::processor::Processor;
use super::scratch::{Level, Scratch};
use crate::error::VmmError;
use crate::kvm::Exit;
use crate::kvm::vm::supported_cpuid;

/// `mov $1000, %ecx; 1: dec %ecx; jnz 1b; out %al, $0x81; hlt`: a thousand conditional branches.
const LOOP: [u8; 12] = [
    0xb9, 0xe8, 0x03, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x81, 0xf4,
];
const BRANCHES: u64 = 1000;
const PERF_TYPE_RAW: u32 = 4;
/// PERF_ATTR_SIZE_VER0: all that is needed here.
const ATTR_BYTES: u32 = 64;
const PINNED: u64 = 1 << 2;
const EXCLUDE_HOST: u64 = 1 << 19;

/// Counts a loop of a thousand branches, in kernel and user code.
pub fn branches(kvm: &Kvm) -> Result<Finding, VmmError> {
    let processor = Processor::of(&supported_cpuid(kvm)?);
    let Some(event) = processor.design().branches() else {
        return Ok(Finding::no(format!(
            "no event is known that counts the branches of {processor}"
        )));
    };
    for level in [Level::Kernel, Level::User] {
        let mut scratch = Scratch::new(kvm, level, &LOOP)?;
        let mut counter = match open(event) {
            Ok(counter) => counter,
            Err(error) => {
                return Ok(Finding::no(format!(
                    "perf_event_open of raw event {event:#x}: {error}"
                )));
            }
        };
        let exit = scratch.run()?;
        if !matches!(exit, Exit::PortOut { port: 0x81, .. }) {
            return Ok(Finding::no(scratch.describe(exit)));
        }
        match read(&mut counter) {
            Some(BRANCHES) => {}
            Some(counted) => {
                return Ok(Finding::no(format!(
                    "counted {counted} branches where the guest made {BRANCHES}"
                )));
            }
            None => return Ok(Finding::no("the counter is taken by something else")),
        }
    }
    Ok(Finding::yes(format!(
        "counts the guest's conditional branches exactly (raw event {event:#x})"
    )))
}

/// The head of `struct perf_event_attr` (perf_event_open(2)).
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

/// A counter of `event` on this thread, in guests only.
#[allow(unsafe_code)]
fn open(event: u64) -> io::Result<File> {
    let attr = Attr {
        kind: PERF_TYPE_RAW,
        size: ATTR_BYTES,
        config: event,
        flags: PINNED | EXCLUDE_HOST,
        ..Default::default()
    };
    // SAFETY: the kernel reads `size` bytes, all of them in `attr`; the answer is checked.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(&attr),
            0,
            -1,
            -1,
            0,
        )
    };
    let Ok(fd) = i32::try_from(fd) else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made and nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The count, or nothing when a pinned counter could not be put on the CPU.
fn read(counter: &mut File) -> Option<u64> {
    let mut bytes = [0; 8];
    counter.read_exact(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attributes_are_as_long_as_they_say() {
        assert_eq!(size_of::<Attr>(), ATTR_BYTES as usize);
    }
}
