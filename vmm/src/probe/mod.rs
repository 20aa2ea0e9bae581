//! What the host's KVM really does, found by running a few instructions in a scratch machine:
//! capability flags say what a kernel was built to do, not what this one does.
//!
//! * [`scratch`]: the machine.
//! * [`window`]: where the interrupt window opens.

pub mod scratch;
pub mod window;

use kvm_ioctls::Kvm;

use crate::clock::Clock;
use crate::error::VmmError;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the host does what was asked for.
    pub ok: bool,
    /// What was seen, for people.
    pub found: String,
}

impl Finding {
    /// The host does it.
    pub fn yes(found: impl Into<String>) -> Finding {
        Finding {
            ok: true,
            found: found.into(),
        }
    }

    /// It doesn't.
    pub fn no(found: impl Into<String>) -> Finding {
        Finding {
            ok: false,
            found: found.into(),
        }
    }
}

/// A probe: looks at one thing that the host's KVM should do.
pub type Probe = fn(&Kvm) -> Result<Finding, VmmError>;

/// Runs a probe on a thread of its own, which takes the kick signals; a probe that fails has found
/// that the host doesn't do it.
pub fn run(probe: Probe, kvm: &Kvm) -> Finding {
    let ended = std::thread::scope(|scope| scope.spawn(|| probe(kvm)).join());
    match ended {
        Ok(Ok(finding)) => finding,
        Ok(Err(error)) => Finding::no(crate::error::chain(&error)),
        Err(_) => Finding::no("the probe panicked; this is a defect of ftd"),
    }
}

/// The best clock that this host has.
pub fn best_clock(kvm: &Kvm) -> Clock {
    if run(window::interrupt_window, kvm).ok {
        Clock::Exit
    } else {
        Clock::PlainExit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_judged_alike_every_time() {
        let Ok(kvm) = crate::kvm::open_kvm() else {
            eprintln!("skipped: this machine has no usable /dev/kvm");
            return;
        };
        let first = run(window::interrupt_window, &kvm);
        for _ in 0..3 {
            assert_eq!(
                run(window::interrupt_window, &kvm).ok,
                first.ok,
                "{first:?}"
            );
        }
    }
}
