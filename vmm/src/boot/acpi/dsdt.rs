//! The DSDT: the devices that the guest can't find by itself, in AML.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use devices::layout;

use super::super::error::BootError;
use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};

/// Ports of the RTC: index and data.
const RTC_PORT: u16 = 0x70;

pub(super) fn build(virtio_windows: &[(u64, u32)]) -> Result<Vec<u8>, BootError> {
    let virtio = virtio_windows
        .iter()
        .enumerate()
        .map(|(index, (base, gsi))| virtio(index, *base, *gsi))
        .collect::<Result<Vec<_>, _>>()?;
    let com1 = port_device("COM1", "PNP0501", layout::COM1_PORT, 8, layout::COM1_GSI);
    let rtc = port_device("RTC_", "PNP0B00", RTC_PORT, 2, layout::RTC_GSI);

    let mut children: Vec<&dyn Aml> = vec![&com1, &rtc];
    children.extend(virtio.iter().map(|device| device as &dyn Aml));

    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut aml = Vec::new();
    Scope::new(Path::new("_SB_"), children).to_aml_bytes(&mut aml);
    power_off().to_aml_bytes(&mut aml);
    table.append_slice(&aml);
    Ok(table.as_slice().to_vec())
}

/// AML that was built when its parts were at hand: the crate's types borrow them.
struct Built(Vec<u8>);

impl Aml for Built {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn device(name: &str, children: Vec<&dyn Aml>) -> Built {
    let mut bytes = Vec::new();
    Device::new(Path::new(name), children).to_aml_bytes(&mut bytes);
    Built(bytes)
}

/// A virtio-mmio window. Linux knows it by the ID that ARM registered for it.
fn virtio(index: usize, base: u64, gsi: u32) -> Result<Built, BootError> {
    let stride = layout::VIRTIO_MMIO_STRIDE;
    let base = base
        .checked_add(stride)
        .and_then(|end| u32::try_from(end).ok())
        .map(|end| end - stride as u32)
        .ok_or(BootError::VirtioWindow { base })?;
    let memory = Memory32Fixed::new(true, base, stride as u32);
    // Consumer, level, active high, exclusive.
    let interrupt = Interrupt::new(true, false, false, false, gsi);
    Ok(device(
        &format!("VR{index:02X}"),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &(index as u32)),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&memory, &interrupt]),
            ),
        ],
    ))
}

fn port_device(name: &str, hid: &str, port: u16, ports: u8, gsi: u32) -> Built {
    let io = IO::new(port, port, 0, ports);
    // Consumer, edge, active high, exclusive: as ISA interrupts are.
    let interrupt = Interrupt::new(true, true, false, false, gsi);
    device(
        name,
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new(hid)),
            &Name::new(Path::new("_UID"), &0_u32),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&io, &interrupt]),
            ),
        ],
    )
}

/// `\_S5`: what to write to the PM1 control register to power off.
fn power_off() -> Built {
    let mut bytes = Vec::new();
    let package = Package::new(vec![&layout::S5_SLP_TYP, &layout::S5_SLP_TYP, &0_u8, &0_u8]);
    Name::new(Path::new("_S5_"), &package).to_aml_bytes(&mut bytes);
    Built(bytes)
}
