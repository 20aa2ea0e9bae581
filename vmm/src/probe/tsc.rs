//! Whether RDTSC in user code can be caught: by CR4.TSD, and a breakpoint where the #GP arrives.

use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{CR4_TSD, EXCEPTION_PORT, Level, STUB_BYTES, STUBS, Scratch};
use crate::error::VmmError;
use crate::kvm::Exit;

/// `rdtsc; out %al, $0x81; hlt`.
const READ: [u8; 5] = [0x0f, 0x31, 0xe6, 0x81, 0xf4];
const GP: u8 = 13;

/// Whether CR4.TSD makes RDTSC fault in user code.
pub fn disabled(kvm: &Kvm) -> Result<Finding, VmmError> {
    let mut scratch = Scratch::new(kvm, Level::User, &READ)?;
    scratch.set_cr4(CR4_TSD)?;
    let exit = scratch.run()?;
    Ok(match exit {
        Exit::PortOut {
            port: EXCEPTION_PORT,
            ..
        } if scratch.out_byte() == GP => Finding::yes("RDTSC in user code raises #GP"),
        Exit::PortOut { port: 0x81, .. } => {
            Finding::no("CR4.TSD is ignored: RDTSC in user code reads the host's clock")
        }
        exit => Finding::no(scratch.describe(exit)),
    })
}

/// Whether a hardware breakpoint on the #GP entry stops the guest there.
pub fn trapped(kvm: &Kvm) -> Result<Finding, VmmError> {
    let entry = STUBS + u64::from(GP) * STUB_BYTES;
    let mut scratch = Scratch::new(kvm, Level::User, &READ)?;
    scratch.set_cr4(CR4_TSD)?;
    scratch.vcpu.debug([Some(entry), None, None, None])?;
    let exit = scratch.run()?;
    Ok(match exit {
        Exit::Debug { pc, .. } if pc == entry => {
            Finding::yes("a breakpoint on the #GP entry stops each RDTSC in user code")
        }
        Exit::PortOut { port: 0x81, .. } => {
            Finding::no("RDTSC in user code raises no #GP to stop at")
        }
        exit => Finding::no(scratch.describe(exit)),
    })
}
