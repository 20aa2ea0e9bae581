//! Interrupts between processors (SDM vol. 3, 11.6). There is one processor, so only those that
//! reach their own sender do anything; INIT and SIPI find nobody to start.

use super::{ERROR_SEND_VECTOR, LocalApic};

/// Bits of the interrupt command register that must be 0 in x2APIC mode (and bit 12, which is
/// read-only in xAPIC mode, and always 0 here because sending takes no time).
pub(super) const ICR_RESERVED: u64 = 0xfff3_3000;

impl LocalApic {
    /// Whether a logical destination means this processor. From the IOAPIC (`narrow`) it has
    /// 8 bits, and FFh is everybody.
    pub(super) fn matches_logical(&self, destination: u32, narrow: bool) -> bool {
        if self.is_x2apic() {
            let everybody = if narrow { 0xff } else { u32::MAX };
            // The logical x2APIC ID of APIC ID 0 is cluster 0, bit 0.
            let ours = destination >> 16 == 0 && destination & 1 != 0;
            return destination == everybody || ours || self.matches_xapic_logical(destination);
        }
        destination == 0xff || self.matches_xapic_logical(destination)
    }

    /// Flat and cluster models of xAPIC mode. An unwritten LDR matches nothing.
    fn matches_xapic_logical(&self, destination: u32) -> bool {
        let ours = self.ldr >> 24;
        if self.dfr >> 28 == 0xf {
            return destination & ours & 0xff != 0;
        }
        let same_cluster = destination & 0xf0 == ours & 0xf0;
        same_cluster && destination & ours & 0x0f != 0
    }

    /// Carries out what was written to the interrupt command register.
    pub(super) fn send_ipi(&mut self) {
        let command = self.icr as u32;
        let destination = if self.is_x2apic() {
            (self.icr >> 32) as u32
        } else {
            (self.icr >> 56) as u32
        };
        let everybody = if self.is_x2apic() { u32::MAX } else { 0xff };
        let for_us = match (command >> 18) & 3 {
            0 if command & 0x800 != 0 => self.matches_logical(destination, !self.is_x2apic()),
            0 => destination == 0 || destination == everybody,
            1 | 2 => true,
            _ => false,
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
