//! Makes a kernel's start-up code keep CR4.TSD.
//!
//! Linux's startup_64 loads CR4 with a value of its own making, and later takes over whatever CR4
//! then holds. How it makes that value differs between versions and configurations:
//!
//! ```text
//! mov $0,%ecx;  or $0xa0,%ecx;  mov %rcx,%cr4                     (to 6.10, without MCE)
//! mov %cr4,%rcx; and $0x40,%ecx; or $0xb0,%ecx; mov %rcx,%cr4     (to 6.10, with MCE)
//! mov $0x1020,%edx; or $0x40,%edx; mov %cr4,%rcx; and %edx,%ecx;
//! bts $4,%ecx; mov %rcx,%cr4                                      (later)
//! ```
//!
//! So the code is followed from its entry (`follow`) with what is known about bit 2 of
//! each register. Where a value without it reaches CR4, the last immediate operand that could have
//! set it gets it, and the code is followed again, until every load of CR4 keeps TSD or nothing
//! more can be changed.

use super::follow::{self, Outcome};
use super::view::View;

/// Immediates changed at most.
const PATCHES_MAX: usize = 8;

/// What became of the loads of CR4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// There is a load of CR4, and all of them keep TSD.
    pub kept: bool,
    /// Immediate operands that were changed.
    pub patches: usize,
}

/// Whether the bytes of a MOV to CR4 occur in `code` at all, be it as an operand.
#[must_use]
pub fn may_load(code: &[u8]) -> bool {
    code.windows(3)
        .any(|bytes| matches!(bytes, [0x0f, 0x22, 0xe0..=0xe7]))
}

/// Changes the code in `view` that starts at the linked address `entry` with CR4.TSD set, so that
/// TSD stays set. If that can't be done, nothing is changed.
pub fn keep_tsd(view: &mut View, entry: u64) -> Kept {
    let mut changed: Vec<(usize, u8)> = Vec::new();
    loop {
        match follow::follow(view, entry) {
            Outcome::Kept => {
                return Kept {
                    kept: true,
                    patches: changed.len(),
                };
            }
            Outcome::Clears(Some(at)) if changed.len() < PATCHES_MAX => {
                changed.push((at, view.file[at]));
                // Immediates are little-endian, so that bit 2 is in their first byte.
                view.file[at] |= follow::TSD as u8;
            }
            Outcome::Clears(_) | Outcome::NoLoad => {
                for (at, byte) in changed.into_iter().rev() {
                    view.file[at] = byte;
                }
                return Kept::default();
            }
        }
    }
}
