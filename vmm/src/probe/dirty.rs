//! Whether KVM's dirty log names each page that the guest writes.

use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{DATA, Level, RAM_BYTES, Scratch};
use crate::error::VmmError;
use crate::kvm::{Exit, Reader};
use crate::memory::PageSet;

/// Three stores, the last across a page's end; `out %al, $0x81; hlt`.
const CODE: [u8; 24] = [
    0x89, 0x04, 0x25, 0x00, 0x00, 0x18, 0x00, // mov %eax, 0x180000
    0x89, 0x04, 0x25, 0x00, 0x50, 0x18, 0x00, // mov %eax, 0x185000
    0x89, 0x04, 0x25, 0xfe, 0x7f, 0x18, 0x00, // mov %eax, 0x187ffe
    0xe6, 0x81, 0xf4,
];
const WRITTEN: [u64; 4] = [0, 5, 7, 8];

/// Twice, as a page must be named again when it is written again.
pub fn log(kvm: &Kvm) -> Result<Finding, VmmError> {
    for level in [Level::Kernel, Level::User] {
        let mut scratch = Scratch::new(kvm, level, &CODE)?;
        let ram = scratch.vm.dirty_ram();
        ram.log(Reader::Snapshots, true)?;
        let mut pages = PageSet::empty(RAM_BYTES);
        for round in ["", " the second time"] {
            scratch.restart(&CODE)?;
            ram.take_dirty(Reader::Snapshots, &mut pages)?;
            pages.clear();
            let exit = scratch.run()?;
            if !matches!(exit, Exit::PortOut { port: 0x81, .. }) {
                return Ok(Finding::no(scratch.describe(exit)));
            }
            ram.take_dirty(Reader::Snapshots, &mut pages)?;
            let missed = WRITTEN
                .iter()
                .filter(|page| !pages.iter().any(|gfn| gfn == DATA / 4096 + **page))
                .count();
            if missed > 0 {
                return Ok(Finding::no(format!(
                    "{missed} of {} pages that were written are not in it{round}",
                    WRITTEN.len()
                )));
            }
        }
    }
    Ok(Finding::yes("names each page that is written"))
}
