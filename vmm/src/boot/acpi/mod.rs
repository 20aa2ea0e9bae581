//! The ACPI tables, which tell the guest what machine it is on.
//!
//! RSDP → XSDT → FADT (→ DSDT, FACS) and MADT, below 1 MiB, where firmware would leave them.

mod dsdt;
mod tables;

use acpi_tables::{Aml, facs::FACS, rsdp::Rsdp};
use devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::error::BootError;
use super::low_memory as low;

const OEM_ID: [u8; 6] = *b"FTD   ";
const OEM_TABLE_ID: [u8; 8] = *b"FTDGUEST";
const OEM_REVISION: u32 = 1;

/// A table and the guest-physical address it belongs at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedTable {
    /// Guest-physical address.
    pub address: u64,
    /// The table.
    pub bytes: Vec<u8>,
}

/// Builds all tables for a guest with these virtio-mmio windows (base, GSI). The first is the RSDP.
///
/// # Errors
///
/// A window is not below 4 GiB.
pub fn build(virtio_windows: &[(u64, u32)]) -> Result<Vec<PlacedTable>, BootError> {
    let mut next = low::ACPI_TABLES;
    let mut place = |bytes: Vec<u8>| {
        let address = next;
        next = (next + bytes.len() as u64).next_multiple_of(16);
        PlacedTable { address, bytes }
    };

    // The RSDP comes first, so that its room must be kept before what it points to is known.
    let mut rsdp = place(vec![0; Rsdp::len()]);
    let facs = PlacedTable {
        address: low::ACPI_FACS,
        bytes: bytes_of(&FACS::new()),
    };
    let dsdt = place(dsdt::build(virtio_windows)?);
    let fadt = place(tables::fadt(facs.address, dsdt.address));
    let madt = place(tables::madt());
    let xsdt = place(tables::xsdt(&[fadt.address, madt.address]));
    rsdp.bytes = bytes_of(&Rsdp::new(OEM_ID, xsdt.address));

    Ok(vec![rsdp, facs, dsdt, fadt, madt, xsdt])
}

/// Writes all tables into guest memory; returns the address of the RSDP.
///
/// # Errors
///
/// A window is not below 4 GiB, or `mem` does not reach up to the tables.
pub fn write_tables(mem: &GuestMemory, virtio_windows: &[(u64, u32)]) -> Result<u64, BootError> {
    for table in build(virtio_windows)? {
        mem.write_slice(&table.bytes, GuestAddress(table.address))?;
    }
    Ok(low::ACPI_TABLES)
}

fn bytes_of(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
