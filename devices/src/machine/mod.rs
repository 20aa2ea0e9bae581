//! The machine: all chips, the virtio devices, virtual time, and the effects that wait to be taken.
//!
//! The VMM calls it for each access of the guest ([`Machine::pio_read`] and its like), gives it
//! what comes from outside ([`Machine::input`]), asks for interrupts, and takes the effects. Time
//! stands still between two [`Input::Clock`]s; the `*_needs_clock` functions say which accesses
//! want a fresh one first.

mod config;
mod interrupts;
mod mmio;
mod msr;
mod parts;
mod pio;
mod state;

pub use config::{MachineConfig, Slot};
pub use interrupts::Interrupts;
pub use parts::{MachinePart, PartVisitor};
pub use state::{MachineState, STATE_VERSION};

use crate::acpi_pm::AcpiPm;
use crate::layout::{COM1_GSI, PIT_GSI, RTC_GSI, SCI_GSI, VIRTIO_MMIO_COUNT};
use crate::pit::Pit;
use crate::rtc::Rtc;
use crate::uart::Uart;
use crate::virtio::{VirtioError, VirtioMmio};
use crate::{Console, DiskRequest, Effect, GuestMemory, Input, VirtualNs};

/// An input that this machine can't have been meant for: it came from another configuration, or
/// from a damaged log. The machine is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The machine has no such device.
    #[error("an input for a device the machine does not have: {device}")]
    NoDevice {
        /// The device.
        device: &'static str,
    },
    /// The device refused the input.
    #[error("a virtio device refused an input")]
    Virtio(#[source] VirtioError),
}

/// The machine around one vCPU.
#[derive(Debug)]
pub struct Machine {
    now: VirtualNs,
    tsc_offset: u64,
    interrupts: Interrupts,
    pit: Pit,
    rtc: Rtc,
    acpi_pm: AcpiPm,
    uart: Uart,
    /// By window; at most [`VIRTIO_MMIO_COUNT`].
    virtio: Vec<VirtioMmio>,
    /// What is in each window.
    slots: Vec<Slot>,
    effects: Vec<Effect>,
}

impl Machine {
    /// The machine at power-on. Devices beyond the last window are left out
    /// ([`MachineConfig::fits`]).
    pub fn new(config: &MachineConfig) -> Self {
        let (virtio, slots) = (config.build(), config.slots());
        debug_assert!(virtio.len() == slots.len() && slots.len() <= VIRTIO_MMIO_COUNT);
        let mut machine = Machine {
            now: 0,
            tsc_offset: 0,
            interrupts: Interrupts::default(),
            pit: Pit::default(),
            rtc: Rtc::new(config.boot_unix_seconds),
            acpi_pm: AcpiPm::default(),
            uart: Uart::default(),
            virtio,
            slots,
            effects: Vec::new(),
        };
        machine.update_pit();
        machine
    }

    /// Base address and GSI of each virtio-mmio window that has a device, from window 0 on.
    pub fn virtio_windows(config: &MachineConfig) -> Vec<(u64, u32)> {
        (0..config.slots().len()).map(config::window).collect()
    }

    /// Virtual time.
    pub fn now(&self) -> VirtualNs {
        self.now
    }

    /// The virtual TSC at [`Machine::now`].
    pub fn tsc(&self) -> u64 {
        self.now.wrapping_add(self.tsc_offset)
    }

    /// The earliest moment at which passing time will have a consequence: a timer interrupt, or
    /// console output that waited for more.
    pub fn next_deadline(&self) -> Option<VirtualNs> {
        [
            self.interrupts.lapic.next_deadline(self.now),
            self.pit.next_deadline(self.now),
            self.rtc.next_deadline(self.now),
            self.acpi_pm.next_deadline(self.now),
            self.uart.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Applies an input. Its consequences are interrupts and effects.
    ///
    /// # Errors
    /// The input is for a device that is not there or does not expect it. Nothing changed.
    pub fn input(&mut self, mem: &GuestMemory, input: Input) -> Result<(), MachineError> {
        match &input {
            Input::Clock { now } => {
                self.advance(*now);
                Ok(())
            }
            Input::PowerButton => {
                self.acpi_pm.press_power_button();
                self.update_sci();
                Ok(())
            }
            Input::ConsoleIn {
                console: Console::Serial,
                bytes,
            } => {
                self.uart.receive(bytes);
                self.update_uart();
                Ok(())
            }
            Input::ConsoleIn {
                console: Console::Virtio,
                ..
            } => self.virtio_input(mem, Slot::Console, "virtio-console", input),
            Input::NetRx { .. } => self.virtio_input(mem, Slot::Net, "virtio-net", input),
            Input::DiskDone { disk, .. } => {
                self.virtio_input(mem, Slot::Disk(*disk), "virtio-blk", input)
            }
            Input::Entropy { .. } => self.virtio_input(mem, Slot::Rng, "virtio-rng", input),
        }
    }

    fn virtio_input(
        &mut self,
        mem: &GuestMemory,
        slot: Slot,
        device: &'static str,
        input: Input,
    ) -> Result<(), MachineError> {
        let index = self
            .slots
            .iter()
            .position(|candidate| *candidate == slot)
            .ok_or(MachineError::NoDevice { device })?;
        self.virtio[index]
            .input(mem, input, &mut self.effects)
            .map_err(MachineError::Virtio)?;
        self.update_virtio(index);
        Ok(())
    }

    /// Moves virtual time to `now`; timers that are due act. Time never goes back.
    fn advance(&mut self, now: VirtualNs) {
        if now <= self.now {
            return;
        }
        let from = std::mem::replace(&mut self.now, now);
        self.interrupts.lapic.advance(now);
        if self.pit.irq_rose(from, now) {
            self.interrupts.pulse_gsi(PIT_GSI);
        }
        self.update_pit();
        self.rtc.advance(from, now);
        self.update_rtc();
        self.acpi_pm.advance(from, now);
        self.update_sci();
        self.uart.advance(now, &mut self.effects);
    }

    fn update_pit(&mut self) {
        self.interrupts.set_gsi(PIT_GSI, self.pit.irq(self.now));
    }

    fn update_rtc(&mut self) {
        self.interrupts.set_gsi(RTC_GSI, self.rtc.irq());
    }

    fn update_sci(&mut self) {
        self.interrupts.set_gsi(SCI_GSI, self.acpi_pm.sci());
    }

    fn update_uart(&mut self) {
        self.interrupts.set_gsi(COM1_GSI, self.uart.irq());
    }

    fn update_virtio(&mut self, index: usize) {
        self.interrupts
            .set_gsi(config::window(index).1, self.virtio[index].interrupt_line());
    }

    /// Whether the CPU has an interrupt to take.
    pub fn pending_interrupt(&self) -> bool {
        self.interrupts.is_pending()
    }

    /// The vector the CPU takes now, if there is one; it is in service from here on.
    pub fn take_interrupt(&mut self) -> Option<u8> {
        self.interrupts.acknowledge()
    }

    /// CR8, which is the local APIC's task priority.
    pub fn cr8(&self) -> u8 {
        self.interrupts.lapic.cr8()
    }

    /// The guest wrote CR8 (0 to 15).
    pub fn set_cr8(&mut self, value: u8) {
        self.interrupts.lapic.set_cr8(value & 0xf);
    }

    /// The vCPU shut down on a triple fault: the machine resets.
    pub fn triple_fault(&mut self) {
        self.end(Effect::Reset);
    }

    /// Emits the machine's last effect, after what waits to be shown.
    fn end(&mut self, effect: Effect) {
        self.uart.flush(&mut self.effects);
        self.effects.push(effect);
    }

    /// Takes the effects that were caused since the last call, in order.
    pub fn effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// Whether there are effects to take.
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// Whether a received frame would find a buffer; else the host had better keep it.
    pub fn can_accept_net_rx(&self) -> bool {
        self.virtio.iter().any(VirtioMmio::can_accept_rx)
    }

    /// How many bytes of input the serial console would take; more are dropped.
    pub fn serial_input_room(&self) -> usize {
        self.uart.input_room()
    }

    /// Disk requests that were emitted and are not complete, with the data of writes, by disk and
    /// in the order of their identifiers: to be issued again by whoever goes live.
    pub fn outstanding(&self) -> Vec<DiskRequest> {
        self.virtio
            .iter()
            .flat_map(VirtioMmio::outstanding)
            .collect()
    }

    /// Random bytes that were asked for and have not come: to be asked for again by whoever goes
    /// live.
    pub fn entropy_wanted(&self) -> Option<u32> {
        self.virtio.iter().find_map(VirtioMmio::entropy_wanted)
    }
}

#[cfg(test)]
mod tests;
