use super::*;

fn windows() -> Vec<(u64, u32)> {
    (0..3)
        .map(|i| (0xd000_0000 + i * 0x1000, 16 + i as u32))
        .collect()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

#[test]
fn every_table_has_its_length_and_checksum() {
    for table in build(&windows()).unwrap() {
        match &table.bytes[..4] {
            b"RSD " => {
                assert_eq!(sum(&table.bytes[..20]), 0);
                assert_eq!(sum(&table.bytes), 0);
            }
            b"FACS" => assert_eq!(table.bytes.len(), 64),
            name => {
                assert_eq!(u32_at(&table.bytes, 4) as usize, table.bytes.len());
                assert_eq!(sum(&table.bytes), 0, "{}", name.escape_ascii());
            }
        }
    }
}

#[test]
fn every_table_is_reached_from_the_rsdp() {
    let tables = build(&windows()).unwrap();
    let at = |address: u64| {
        &tables
            .iter()
            .find(|table| table.address == address)
            .unwrap()
            .bytes
    };
    let rsdp = &tables[0];
    assert_eq!(rsdp.address % 16, 0);
    let xsdt = at(u64_at(&rsdp.bytes, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let fadt = at(u64_at(xsdt, 36));
    assert_eq!(&fadt[..4], b"FACP");
    assert_eq!(&at(u64_at(xsdt, 44))[..4], b"APIC");
    assert_eq!(&at(u64::from(u32_at(fadt, 36)))[..4], b"FACS");
    assert_eq!(&at(u64_at(fadt, 140))[..4], b"DSDT");
}

#[test]
fn tables_lie_apart_and_inside_their_area() {
    let all = (0..8)
        .map(|i| (0xd000_0000 + i * 0x1000, 16 + i as u32))
        .collect::<Vec<_>>();
    let mut tables = build(&all).unwrap();
    tables.sort_by_key(|table| table.address);
    for pair in tables.windows(2) {
        assert!(pair[0].address + pair[0].bytes.len() as u64 <= pair[1].address);
    }
    let last = tables.last().unwrap();
    assert!(last.address + last.bytes.len() as u64 <= low::ACPI_END);
}

#[test]
fn a_window_beyond_4_gib_is_refused() {
    assert!(matches!(
        build(&[(0xffff_f000, 16)]),
        Err(BootError::VirtioWindow { base: 0xffff_f000 })
    ));
}

/// Writes the tables as files, for `iasl -d`: run with `FTD_ACPI_DIR` set.
#[test]
fn dump_for_iasl() {
    let Some(dir) = std::env::var_os("FTD_ACPI_DIR") else {
        return;
    };
    for table in build(&windows()).unwrap() {
        let name = String::from_utf8_lossy(&table.bytes[..4]).trim().to_owned();
        std::fs::write(std::path::Path::new(&dir).join(name + ".dat"), &table.bytes).unwrap();
    }
}
