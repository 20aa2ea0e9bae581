//! ACPI fixed hardware (ACPI 6.5, section 4.8): PM1a event and control blocks, the PM timer, and
//! the ways to reset (reset register, port CF9h).

use serde::{Deserialize, Serialize};

use crate::layout::{
    PM_TMR_HZ, PM_TMR_PORT, PM1A_CNT_PORT, PM1A_EVT_PORT, RESET_PORT, RESET_VALUE, S5_SLP_TYP,
};
use crate::time::{ns_of_tick, ticks};
use crate::{Effect, RestoreError, VirtualNs};

/// Reset control register of Intel chipsets.
const CF9_PORT: u16 = 0xcf9;
/// CF9h: the CPU is reset when this bit rises.
const CF9_RESET_CPU: u8 = 0x04;
/// CF9h: bits that read back.
const CF9_STORED: u8 = 0x0a;

const TMR_STS: u16 = 1 << 0;
const PWRBTN_STS: u16 = 1 << 8;
/// Status bits that raise the SCI when their enable bit is set: timer, global, power button,
/// sleep button, RTC.
const ENABLABLE: u16 = TMR_STS | 1 << 5 | PWRBTN_STS | 1 << 9 | 1 << 10;

const SCI_EN: u16 = 1 << 0;
const SLP_EN: u16 = 1 << 13;
/// Control bits that read back: BM_RLD and SLP_TYP.
const CONTROL_STORED: u16 = 1 << 1 | 7 << 10;

/// The registers. Their state is all there is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AcpiPm {
    status: u16,
    enable: u16,
    control: u16,
    cf9: u8,
}

impl AcpiPm {
    /// Whether `port` is one of the registers' bytes.
    pub fn owns_port(port: u16) -> bool {
        matches!(port, PM1A_EVT_PORT..=0x60b | RESET_PORT | CF9_PORT)
    }

    /// Whether `port` belongs to the PM timer.
    pub fn is_timer(port: u16) -> bool {
        (PM_TMR_PORT..PM_TMR_PORT + 4).contains(&port)
    }

    /// Reads `data.len()` bytes from `port` on.
    pub fn read(&self, port: u16, data: &mut [u8], now: VirtualNs) {
        let timer = (ticks(now, PM_TMR_HZ) as u32).to_le_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            let port = port.wrapping_add(i as u16);
            let index = usize::from(port & 1);
            *byte = match port & !1 {
                PM1A_EVT_PORT => self.status.to_le_bytes()[index],
                0x602 => self.enable.to_le_bytes()[index],
                PM1A_CNT_PORT => (self.control | SCI_EN).to_le_bytes()[index],
                0x608 | 0x60a => timer[usize::from(port & 3)],
                _ if port == RESET_PORT => 0,
                _ if port == CF9_PORT => self.cf9,
                _ => 0xff,
            };
        }
    }

    /// Writes `data` from `port` on.
    pub fn write(&mut self, port: u16, data: &[u8], effects: &mut Vec<Effect>) {
        if port == CF9_PORT {
            // PCI configuration probes write four bytes across this port; they mean no reset.
            if let [value] = data {
                self.cf9 = value & CF9_STORED;
                if value & CF9_RESET_CPU != 0 {
                    effects.push(Effect::Reset);
                }
            }
            return;
        }
        for (i, byte) in data.iter().enumerate() {
            let port = port.wrapping_add(i as u16);
            let shift = 8 * (port & 1);
            let (bits, keep) = (u16::from(*byte) << shift, !(0xff << shift));
            match port & !1 {
                PM1A_EVT_PORT => self.status &= !bits,
                0x602 => self.enable = (self.enable & keep) | (bits & ENABLABLE),
                PM1A_CNT_PORT => {
                    self.control = (self.control & keep) | (bits & CONTROL_STORED);
                    let sleep_type = (self.control >> 10) & 7;
                    if bits & SLP_EN != 0 && sleep_type == u16::from(S5_SLP_TYP) {
                        effects.push(Effect::PowerOff);
                    }
                }
                _ if port == RESET_PORT && *byte == RESET_VALUE => effects.push(Effect::Reset),
                _ => {}
            }
        }
    }

    /// The power button was pressed.
    pub fn press_power_button(&mut self) {
        self.status |= PWRBTN_STS;
    }

    /// Moves from `from` to `now`: notes when the PM timer's top bit changed.
    pub fn advance(&mut self, from: VirtualNs, now: VirtualNs) {
        if ticks(from, PM_TMR_HZ) >> 31 != ticks(now, PM_TMR_HZ) >> 31 {
            self.status |= TMR_STS;
        }
    }

    /// Level of the SCI.
    pub fn sci(&self) -> bool {
        self.status & self.enable != 0
    }

    /// When the PM timer will next raise the SCI, if it is allowed to.
    pub fn next_deadline(&self, now: VirtualNs) -> Option<VirtualNs> {
        if self.enable & TMR_STS == 0 || self.status & TMR_STS != 0 {
            return None;
        }
        ns_of_tick(((ticks(now, PM_TMR_HZ) >> 31) + 1) << 31, PM_TMR_HZ)
    }

    /// Checks a state that came from outside.
    pub fn validate(&self) -> Result<(), RestoreError> {
        let AcpiPm {
            status,
            enable,
            control,
            cf9,
        } = self;
        let check = |valid, field| RestoreError::check(valid, "acpi_pm", field);
        check(status & !(TMR_STS | PWRBTN_STS) == 0, "status")?;
        check(enable & !ENABLABLE == 0, "enable")?;
        check(control & !CONTROL_STORED == 0, "control")?;
        check(cf9 & !CF9_STORED == 0, "cf9")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pm: &AcpiPm, port: u16, len: usize, now: VirtualNs) -> u32 {
        let mut data = [0; 4];
        pm.read(port, &mut data[..len], now);
        u32::from_le_bytes(data)
    }

    fn write(pm: &mut AcpiPm, port: u16, data: &[u8]) -> Vec<Effect> {
        let mut effects = Vec::new();
        pm.write(port, data, &mut effects);
        effects
    }

    #[test]
    fn timer_counts_at_its_frequency_and_wraps() {
        let pm = AcpiPm::default();
        assert_eq!(read(&pm, PM_TMR_PORT, 4, 1_000_000_000), 3_579_545);
        assert_eq!(
            read(&pm, PM_TMR_PORT + 1, 1, 1_000_000_000),
            3_579_545 >> 8 & 0xff
        );
        let wrap = ns_of_tick(1 << 32, PM_TMR_HZ).unwrap();
        assert_eq!(read(&pm, PM_TMR_PORT, 4, wrap - 1), u32::MAX);
        assert_eq!(read(&pm, PM_TMR_PORT, 4, wrap), 0);
    }

    #[test]
    fn power_button_raises_the_sci_until_cleared() {
        let mut pm = AcpiPm::default();
        pm.press_power_button();
        assert!(!pm.sci(), "not enabled");
        write(&mut pm, PM1A_EVT_PORT + 2, &0x0120u16.to_le_bytes());
        assert!(pm.sci());
        assert_eq!(read(&pm, PM1A_EVT_PORT, 2, 0), 0x0100);
        write(&mut pm, PM1A_EVT_PORT, &0x0100u16.to_le_bytes());
        assert!(!pm.sci());
    }

    #[test]
    fn sci_en_reads_as_set() {
        assert_eq!(read(&AcpiPm::default(), PM1A_CNT_PORT, 2, 0), 1);
    }

    #[test]
    fn acpica_powers_off_in_two_writes() {
        let mut pm = AcpiPm::default();
        // acpi_hw_legacy_sleep: SLP_TYP first, then SLP_TYP with SLP_EN.
        let sleep_type = u16::from(S5_SLP_TYP) << 10 | 1;
        assert_eq!(write(&mut pm, PM1A_CNT_PORT, &sleep_type.to_le_bytes()), []);
        let enable = sleep_type | SLP_EN;
        assert_eq!(
            write(&mut pm, PM1A_CNT_PORT, &enable.to_le_bytes()),
            [Effect::PowerOff]
        );
        assert_eq!(
            write(&mut pm, PM1A_CNT_PORT, &(SLP_EN | 4 << 8).to_le_bytes()),
            []
        );
    }

    #[test]
    fn both_reset_registers_reset() {
        let mut pm = AcpiPm::default();
        assert_eq!(write(&mut pm, RESET_PORT, &[0]), []);
        assert_eq!(write(&mut pm, RESET_PORT, &[RESET_VALUE]), [Effect::Reset]);
        assert_eq!(write(&mut pm, CF9_PORT, &[0x02]), []);
        assert_eq!(read(&pm, CF9_PORT, 1, 0), 0x02);
        assert_eq!(write(&mut pm, CF9_PORT, &[0x06]), [Effect::Reset]);
        assert_eq!(write(&mut pm, CF9_PORT, &[0xff; 4]), [], "a PCI probe");
    }

    #[test]
    fn timer_status_follows_the_top_bit() {
        let mut pm = AcpiPm::default();
        let change = ns_of_tick(1 << 31, PM_TMR_HZ).unwrap();
        assert_eq!(pm.next_deadline(0), None);
        write(&mut pm, PM1A_EVT_PORT + 2, &[1, 0]);
        assert_eq!(pm.next_deadline(0), Some(change));
        pm.advance(0, change - 1);
        assert!(!pm.sci());
        pm.advance(change - 1, change);
        assert!(pm.sci());
    }

    #[test]
    fn impossible_states_are_refused() {
        let pm = AcpiPm {
            enable: 2,
            ..AcpiPm::default()
        };
        assert_eq!(pm.validate(), Err(RestoreError::field("acpi_pm", "enable")));
    }
}
