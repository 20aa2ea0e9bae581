//! The machine's saved state and its bytes.

use serde::{Deserialize, Serialize};

use super::Machine;
use super::config::{MachineConfig, window};
use super::interrupts::Interrupts;
use crate::acpi_pm::AcpiPm;
use crate::layout::{COM1_GSI, PIT_GSI, RTC_GSI, SCI_GSI};
use crate::pit::Pit;
use crate::rtc::Rtc;
use crate::uart::Uart;
use crate::virtio::{VirtioError, VirtioMmioState};
use crate::{Effect, RestoreError, VirtualNs};

/// Version of [`MachineState`]'s encoding; to be raised with any change of a state struct.
pub const STATE_VERSION: u32 = 1;

/// Everything a [`Machine`] knows. Equal machines have equal states, and equal states have equal
/// postcard encodings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// [`STATE_VERSION`] of the program that saved it.
    pub version: u32,
    /// Virtual time.
    pub now: VirtualNs,
    /// What the guest's writes to IA32_TSC added to virtual time.
    pub tsc_offset: u64,
    /// The interrupt controllers.
    pub interrupts: Interrupts,
    /// The interval timer.
    pub pit: Pit,
    /// The real-time clock.
    pub rtc: Rtc,
    /// ACPI power management.
    pub acpi_pm: AcpiPm,
    /// COM1.
    pub uart: Uart,
    /// The virtio devices, by window.
    pub virtio: Vec<VirtioMmioState>,
    /// Effects nobody has taken yet.
    pub effects: Vec<Effect>,
}

impl MachineState {
    /// The canonical encoding (postcard).
    pub fn encode(&self) -> Vec<u8> {
        // Writing to a vector can't fail, and no field refuses to be serialised.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Reads what [`MachineState::encode`] wrote.
    ///
    /// # Errors
    /// [`RestoreError::Version`] for another version's state, [`RestoreError::Encoding`] for bytes
    /// that are no state's canonical encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, RestoreError> {
        // The version is read by itself, because another version's remainder may not decode.
        let (found, _) = postcard::take_from_bytes::<u32>(bytes)
            .map_err(|error| RestoreError::Encoding(Some(error)))?;
        check_version(found)?;
        let state: MachineState =
            postcard::from_bytes(bytes).map_err(|error| RestoreError::Encoding(Some(error)))?;
        if state.encode() == bytes {
            Ok(state)
        } else {
            Err(RestoreError::Encoding(None))
        }
    }
}

fn check_version(found: u32) -> Result<(), RestoreError> {
    if found == STATE_VERSION {
        Ok(())
    } else {
        Err(RestoreError::Version {
            found,
            expected: STATE_VERSION,
        })
    }
}

impl Machine {
    /// The whole state. Effects that were not taken are part of it.
    pub fn save(&self) -> MachineState {
        let Machine {
            now,
            tsc_offset,
            interrupts,
            pit,
            rtc,
            acpi_pm,
            uart,
            virtio,
            slots: _,
            effects,
        } = self;
        MachineState {
            version: STATE_VERSION,
            now: *now,
            tsc_offset: *tsc_offset,
            interrupts: interrupts.clone(),
            pit: pit.clone(),
            rtc: rtc.clone(),
            acpi_pm: acpi_pm.clone(),
            uart: uart.clone(),
            virtio: virtio.iter().map(|device| device.save()).collect(),
            effects: effects.clone(),
        }
    }

    /// A machine with the devices of `config` that goes on from `state`.
    ///
    /// # Errors
    /// The state names a version, a set of devices, or a value that can't have come from such a
    /// machine.
    pub fn restore(config: &MachineConfig, state: MachineState) -> Result<Machine, RestoreError> {
        let MachineState {
            version,
            now,
            tsc_offset,
            interrupts,
            pit,
            rtc,
            acpi_pm,
            uart,
            virtio,
            effects,
        } = state;
        check_version(version)?;
        interrupts.validate(now)?;
        pit.validate(now)?;
        rtc.validate(now)?;
        acpi_pm.validate()?;
        uart.validate(now)?;
        let mut machine = Machine::new(config);
        if virtio.len() != machine.virtio.len() {
            let (found, expected) = (virtio.len(), machine.virtio.len());
            return Err(RestoreError::Devices { found, expected });
        }
        for (device, state) in machine.virtio.iter_mut().zip(virtio) {
            device.restore(state).map_err(|error| match error {
                VirtioError::State(error) => error,
                _ => RestoreError::field("virtio", "state"),
            })?;
        }
        let machine = Machine {
            now,
            tsc_offset,
            interrupts,
            pit,
            rtc,
            acpi_pm,
            uart,
            effects,
            ..machine
        };
        machine.check_lines()?;
        Ok(machine)
    }

    /// Each interrupt line stands as its chip drives it; nothing would ever correct it otherwise.
    fn check_lines(&self) -> Result<(), RestoreError> {
        let check = |gsi: u32, high, field| {
            RestoreError::check(self.interrupts.line(gsi) == high, "ioapic", field)
        };
        check(PIT_GSI, self.pit.irq(self.now), "lines (PIT)")?;
        check(RTC_GSI, self.rtc.irq(), "lines (RTC)")?;
        check(SCI_GSI, self.acpi_pm.sci(), "lines (SCI)")?;
        check(COM1_GSI, self.uart.irq(), "lines (COM1)")?;
        for (index, device) in self.virtio.iter().enumerate() {
            check(window(index).1, device.interrupt_line(), "lines (virtio)")?;
        }
        Ok(())
    }
}
