//! Memory-mapped I/O: virtio windows, IOAPIC, local APIC. Addresses nobody claims read as all ones.

use super::{Machine, config};
use crate::GuestMemory;
use crate::lapic::LocalApic;
use crate::layout::{
    IOAPIC_BASE, LAPIC_BASE, PAGE_BYTES, VIRTIO_MMIO_BASE, VIRTIO_MMIO_COUNT, VIRTIO_MMIO_STRIDE,
};

/// End of the virtio windows.
const VIRTIO_END: u64 = VIRTIO_MMIO_BASE + VIRTIO_MMIO_COUNT as u64 * VIRTIO_MMIO_STRIDE;
const IOAPIC_LAST: u64 = IOAPIC_BASE + PAGE_BYTES - 1;
const LAPIC_LAST: u64 = LAPIC_BASE + PAGE_BYTES - 1;
/// virtio-mmio register InterruptACK (virtio 1.2, section 4.2.2).
const INTERRUPT_ACK: u64 = 0x64;

/// Window and offset of an address within the virtio windows.
fn virtio_window(addr: u64) -> (usize, u64) {
    let offset = addr - VIRTIO_MMIO_BASE;
    (
        (offset / VIRTIO_MMIO_STRIDE) as usize,
        offset % VIRTIO_MMIO_STRIDE,
    )
}

impl Machine {
    /// Whether an access to `addr` needs a fresh [`Input::Clock`](crate::Input::Clock) first.
    pub fn mmio_needs_clock(&self, addr: u64, write: bool) -> bool {
        matches!(addr, LAPIC_BASE..=LAPIC_LAST)
            && LocalApic::mmio_needs_clock(addr - LAPIC_BASE, write)
    }

    /// Load of `data.len()` (1 to 8) bytes from `addr`.
    pub fn mmio_read(&mut self, mem: &GuestMemory, addr: u64, data: &mut [u8]) {
        match addr {
            VIRTIO_MMIO_BASE..VIRTIO_END => {
                let (index, offset) = virtio_window(addr);
                match self.virtio.get_mut(index) {
                    Some(device) => {
                        device.read(mem, offset, data);
                        self.update_virtio(index);
                    }
                    None => data.fill(0xff),
                }
            }
            IOAPIC_BASE..=IOAPIC_LAST => {
                self.interrupts.ioapic.read(addr - IOAPIC_BASE, data);
            }
            LAPIC_BASE..=LAPIC_LAST => {
                self.interrupts
                    .lapic
                    .mmio_read(addr - LAPIC_BASE, data, self.now);
            }
            _ => data.fill(0xff),
        }
    }

    /// Store of `data` (1 to 8 bytes) to `addr`.
    pub fn mmio_write(&mut self, mem: &GuestMemory, addr: u64, data: &[u8]) {
        match addr {
            VIRTIO_MMIO_BASE..VIRTIO_END => {
                let (index, offset) = virtio_window(addr);
                if let Some(device) = self.virtio.get_mut(index) {
                    device.write(mem, offset, data, &mut self.effects);
                    if offset == INTERRUPT_ACK && device.interrupt_line() {
                        // Acknowledging one cause while another stands is a new edge, so that the
                        // line may be described as edge-triggered.
                        self.interrupts.pulse_gsi(config::window(index).1);
                    } else {
                        self.update_virtio(index);
                    }
                }
            }
            IOAPIC_BASE..=IOAPIC_LAST => {
                self.interrupts.ioapic.write(addr - IOAPIC_BASE, data);
                self.interrupts.settle();
            }
            LAPIC_BASE..=LAPIC_LAST => {
                let ended = self
                    .interrupts
                    .lapic
                    .mmio_write(addr - LAPIC_BASE, data, self.now);
                self.interrupts.end_of_interrupt(ended);
                self.interrupts.settle();
            }
            _ => {}
        }
    }
}
