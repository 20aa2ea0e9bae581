//! The fixed tables: FADT, MADT, XSDT. Offsets and values are those of ACPI 6.5, chapter 5.

use acpi_tables::sdt::Sdt;
use devices::layout;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};

const HEADER_BYTES: u32 = 36;
const FADT_BYTES: u32 = 276;

/// FADT feature flags (table 5.10).
mod fadt_flag {
    pub const WBINVD: u32 = 1 << 0;
    pub const PROC_C1: u32 = 1 << 2;
    /// No fixed-feature sleep button. The power button's bit is clear: it is a fixed feature.
    pub const SLP_BUTTON: u32 = 1 << 5;
    /// The RTC's wake status is not in the fixed registers.
    pub const FIX_RTC: u32 = 1 << 6;
    pub const TMR_VAL_EXT: u32 = 1 << 8;
    pub const RESET_REG_SUP: u32 = 1 << 10;
}

/// IAPC_BOOT_ARCH (table 5.11). The bit for an 8042 is clear: there is none.
mod boot_arch {
    pub const LEGACY_DEVICES: u16 = 1 << 0;
    pub const VGA_NOT_PRESENT: u16 = 1 << 2;
    pub const MSI_NOT_SUPPORTED: u16 = 1 << 3;
    pub const NO_PCIE_ASPM: u16 = 1 << 4;
}

/// Generic address structures name an I/O port with this.
const SYSTEM_IO: u8 = 1;

pub(super) fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let mut table = sdt(b"FACP", FADT_BYTES, 6);
    table.write_u32(36, facs as u32);
    table.write_u32(40, dsdt as u32);
    // PREFERRED_PM_PROFILE: 4, enterprise server. SMI_CMD stays 0: ACPI mode is always on.
    table.write_u8(45, 4);
    table.write_u16(46, layout::SCI_GSI as u16);
    table.write_u32(56, u32::from(layout::PM1A_EVT_PORT));
    table.write_u32(64, u32::from(layout::PM1A_CNT_PORT));
    table.write_u32(76, u32::from(layout::PM_TMR_PORT));
    // Lengths of the PM1 event, PM1 control and PM timer blocks.
    table.write_u8(88, 4);
    table.write_u8(89, 2);
    table.write_u8(91, 4);
    // Worst latencies of C2 and C3: above 100 and 1000 microseconds, hence not supported.
    table.write_u16(96, 101);
    table.write_u16(98, 1001);
    table.write_u16(
        109,
        boot_arch::LEGACY_DEVICES
            | boot_arch::VGA_NOT_PRESENT
            | boot_arch::MSI_NOT_SUPPORTED
            | boot_arch::NO_PCIE_ASPM,
    );
    table.write_u32(
        112,
        fadt_flag::WBINVD
            | fadt_flag::PROC_C1
            | fadt_flag::SLP_BUTTON
            | fadt_flag::FIX_RTC
            | fadt_flag::TMR_VAL_EXT
            | fadt_flag::RESET_REG_SUP,
    );
    table.write_bytes(116, &port_address(layout::RESET_PORT, 8, 1));
    table.write_u8(128, layout::RESET_VALUE);
    // FADT minor version.
    table.write_u8(131, 5);
    // The FACS is named by its 32-bit field alone: both at once are not allowed.
    table.write_u64(140, dsdt);
    table.write_bytes(148, &port_address(layout::PM1A_EVT_PORT, 32, 2));
    table.write_bytes(172, &port_address(layout::PM1A_CNT_PORT, 16, 2));
    table.write_bytes(208, &port_address(layout::PM_TMR_PORT, 32, 3));
    table.write_bytes(268, b"ftd     ");
    table.as_slice().to_vec()
}

/// A generic address structure for a port; `access` is 1, 2, 3 for byte, word, dword.
fn port_address(port: u16, bits: u8, access: u8) -> [u8; 12] {
    let [low, high] = port.to_le_bytes();
    [SYSTEM_IO, bits, 0, access, low, high, 0, 0, 0, 0, 0, 0]
}

pub(super) fn madt() -> Vec<u8> {
    /// A PC/AT 8259 pair is there, and must be masked by an operating system that uses the IOAPIC.
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    /// MPS INTI flags (table 5.26): active high, edge or level.
    const HIGH_EDGE: u16 = 0b0101;
    const HIGH_LEVEL: u16 = 0b1101;

    let mut table = sdt(b"APIC", HEADER_BYTES + 8, 5);
    table.write_u32(36, layout::LAPIC_BASE as u32);
    table.write_u32(40, PCAT_COMPAT);

    // Local APIC: processor UID 0, APIC ID 0.
    let mut local = vec![0, 8, 0, 0];
    local.extend_from_slice(&ENABLED.to_le_bytes());
    table.append_slice(&local);

    // IOAPIC 0, GSI base 0.
    let mut ioapic = vec![1, 12, 0, 0];
    ioapic.extend_from_slice(&(layout::IOAPIC_BASE as u32).to_le_bytes());
    ioapic.extend_from_slice(&0_u32.to_le_bytes());
    table.append_slice(&ioapic);

    for (irq, gsi, flags) in [
        (0, layout::PIT_GSI, HIGH_EDGE),
        (layout::SCI_GSI as u8, layout::SCI_GSI, HIGH_LEVEL),
    ] {
        let mut source = vec![2, 10, 0, irq];
        source.extend_from_slice(&gsi.to_le_bytes());
        source.extend_from_slice(&flags.to_le_bytes());
        table.append_slice(&source);
    }
    table.as_slice().to_vec()
}

pub(super) fn xsdt(tables: &[u64]) -> Vec<u8> {
    let mut table = sdt(b"XSDT", HEADER_BYTES, 1);
    for address in tables {
        table.append_slice(&address.to_le_bytes());
    }
    table.as_slice().to_vec()
}

fn sdt(signature: &[u8; 4], bytes: u32, revision: u8) -> Sdt {
    Sdt::new(
        *signature,
        bytes,
        revision,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    )
}
