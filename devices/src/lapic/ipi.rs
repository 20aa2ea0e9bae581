//! Interrupts between processors (SDM vol. 3, 11.6). There is one processor, so only those that
//! reach their own sender do anything; INIT and SIPI find nobody to start.

use super::{ERROR_SEND_VECTOR, LocalApic};

/// Bits of the interrupt command register that must be 0 in x2APIC mode (and bit 12, which is
/// read-only in xAPIC mode, and always 0 here because sending takes no time).
pub(super) const ICR_RESERVED: u64 = 0xfff3_3000;

/// Which of the two sets of registers an access came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    /// x2APIC MSRs.
    Msr,
    /// The xAPIC window.
    Window,
}

/// Whether a logical destination means the processor with x2APIC ID 0: cluster 0, bit 0.
fn is_x2apic_logical(destination: u32) -> bool {
    destination >> 16 == 0 && destination & 1 != 0
}

impl LocalApic {
    /// Whether a logical destination of the IOAPIC means this processor. Both models are tried,
    /// because the mode may be known to KVM alone; an unwritten LDR matches nothing.
    pub(super) fn matches_logical(&self, destination: u8) -> bool {
        let destination = u32::from(destination);
        destination == 0xff
            || (self.is_x2apic() && is_x2apic_logical(destination))
            || self.is_xapic_logical(destination)
    }

    /// Flat and cluster models of xAPIC mode (SDM vol. 3, 11.6.2.2).
    fn is_xapic_logical(&self, destination: u32) -> bool {
        let ours = self.ldr >> 24;
        if self.dfr >> 28 == 0xf {
            return destination & ours != 0;
        }
        let same_cluster = destination & 0xf0 == ours & 0xf0;
        same_cluster && destination & ours & 0x0f != 0
    }

    /// Carries out what was written to the interrupt command register, whose destination has the
    /// form of the face it was written through.
    pub(super) fn send_ipi(&mut self, face: Face) {
        let command = self.icr as u32;
        let logical = command & 0x800 != 0;
        let for_us = match ((command >> 18) & 3, face) {
            (0, Face::Msr) => match ((self.icr >> 32) as u32, logical) {
                (u32::MAX, _) => true,
                (destination, false) => destination == 0,
                (destination, true) => is_x2apic_logical(destination),
            },
            (0, Face::Window) => match ((self.icr >> 56) as u32, logical) {
                (0xff, _) => true,
                (destination, false) => destination == 0,
                (destination, true) => self.is_xapic_logical(destination),
            },
            (shorthand, _) => shorthand != 3,
        };
        let is_vector = matches!((command >> 8) & 7, 0 | 1);
        if is_vector {
            self.send_vector(command as u8, for_us);
        }
    }

    /// Sends `vector`, to this processor when `for_us`.
    pub(super) fn send_vector(&mut self, vector: u8, for_us: bool) {
        if vector < 16 {
            self.report_error(ERROR_SEND_VECTOR);
        } else if for_us {
            self.request(vector, false);
        }
    }
}
