//! Stopping KVM_RUN from outside, without a race.
//!
//! The kick signal is blocked on the vCPU thread and unblocked by the kernel only inside KVM_RUN
//! (KVM_SET_SIGNAL_MASK), so a kick that comes between two entries stops the second at once; it is
//! then taken off the queue with `sigtimedwait`. No handler runs.

use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SigEvent, SigSet, SigevNotify, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;

use super::Vcpu;
use crate::error::VmmError;

/// The signal that stops a vCPU. Nothing else in ftd uses it.
pub const SIGNAL: Signal = Signal::SIGUSR1;

mod nr {
    #![allow(missing_docs)]
    vmm_sys_util::ioctl_iow_nr!(
        KVM_SET_SIGNAL_MASK,
        kvm_bindings::KVMIO,
        0x8b,
        kvm_bindings::kvm_signal_mask
    );
}

/// Stops the vCPU of the thread it was made on, from any thread.
#[derive(Debug, Clone, Copy)]
pub struct Kick {
    thread: Pthread,
}

impl Kick {
    /// Prepares this thread, and the vCPU that it will run, for kicks.
    pub fn prepare(vcpu: &Vcpu) -> Result<Kick, VmmError> {
        let mut blocked = SigSet::empty();
        blocked.add(SIGNAL);
        let host = |what| {
            move |error: nix::Error| VmmError::Host {
                what,
                source: error.into(),
            }
        };
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)
            .map_err(host("cannot block the kick signal"))?;
        let mut inside = SigSet::thread_get_mask().map_err(host("cannot read the signal mask"))?;
        inside.remove(SIGNAL);
        set_signal_mask(vcpu, &inside)?;
        Ok(Kick {
            thread: pthread_self(),
        })
    }

    /// Stops the vCPU if it runs, or else keeps it from its next entry.
    pub fn now(&self) {
        // The thread outlives every holder of its Kick but for an instant at the very end, where a
        // failure means that there is nothing left to stop.
        let _ = pthread_kill(self.thread, SIGNAL);
    }
}

/// Takes the kicks off the queue once KVM_RUN has returned for them.
pub fn acknowledge() {
    let mut set = SigSet::empty();
    set.add(SIGNAL);
    let none = TimeSpec::from_duration(Duration::ZERO);
    while set.wait_timeout(none) {}
}

trait WaitTimeout {
    fn wait_timeout(&self, timeout: TimeSpec) -> bool;
}

impl WaitTimeout for SigSet {
    #[allow(unsafe_code)]
    fn wait_timeout(&self, timeout: TimeSpec) -> bool {
        // SAFETY: both pointers are to live values; no siginfo is asked for.
        unsafe { libc::sigtimedwait(self.as_ref(), std::ptr::null_mut(), timeout.as_ref()) > 0 }
    }
}

#[allow(unsafe_code)]
fn set_signal_mask(vcpu: &Vcpu, mask: &SigSet) -> Result<(), VmmError> {
    /// `struct kvm_signal_mask` with the kernel's own 8-byte signal set behind it.
    #[repr(C)]
    struct Mask {
        len: u32,
        set: [u8; 8],
    }
    let mut set = [0u8; 8];
    for signal in mask.iter() {
        let bit = signal as usize - 1;
        set[bit / 8] |= 1 << (bit % 8);
    }
    let mask = Mask { len: 8, set };
    // SAFETY: the kernel reads `len` and then `len` bytes of set, all of them in `mask`.
    let answer = unsafe {
        libc::ioctl(
            vcpu.fd().as_raw_fd(),
            nr::KVM_SET_SIGNAL_MASK(),
            std::ptr::from_ref(&mask),
        )
    };
    if answer == 0 {
        return Ok(());
    }
    Err(VmmError::Host {
        what: "KVM_SET_SIGNAL_MASK failed",
        source: std::io::Error::last_os_error(),
    })
}

/// A timer that kicks the thread it was made on.
#[derive(Debug)]
pub struct KickTimer {
    timer: Timer,
}

// SAFETY: a POSIX timer belongs to the process; timer_settime and timer_delete may be called from
// any thread (POSIX.1-2017, 2.9.1). Only the identifier's C type is a pointer.
#[allow(unsafe_code)]
unsafe impl Send for KickTimer {}

impl KickTimer {
    /// A timer that is not set. To be made on the vCPU thread.
    pub fn new() -> Result<KickTimer, VmmError> {
        let event = SigEvent::new(SigevNotify::SigevThreadId {
            signal: SIGNAL,
            thread_id: gettid().as_raw(),
            si_value: 0,
        });
        let timer =
            Timer::new(ClockId::CLOCK_MONOTONIC, event).map_err(|error| VmmError::Host {
                what: "cannot make the vCPU's timer",
                source: error.into(),
            })?;
        Ok(KickTimer { timer })
    }

    /// Kicks once, `after` from now.
    pub fn set(&mut self, after: Duration) {
        // A zero duration would disarm it (timer_settime(2)).
        let after = after.max(Duration::from_nanos(1));
        let expiration = Expiration::OneShot(TimeSpec::from_duration(after));
        // timer_settime fails only for a bad timer or time, and neither is possible here.
        let _ = self.timer.set(expiration, TimerSetTimeFlags::empty());
    }
}
