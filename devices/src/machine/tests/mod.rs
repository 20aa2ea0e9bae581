mod linux;
mod random;

use vm_memory::GuestAddress;

use super::*;
use crate::RestoreError;
use crate::layout::*;
use crate::virtio::{DiskConfig, NetConfig};

fn config() -> MachineConfig {
    let disk = DiskConfig {
        capacity_bytes: 1 << 20,
        read_only: false,
        serial: "disk".into(),
    };
    MachineConfig {
        boot_unix_seconds: 1_700_000_000,
        disks: vec![disk],
        net: Some(NetConfig {
            mac: [2, 0, 0, 0, 0, 1],
        }),
        rng: true,
        console: true,
    }
}

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

#[test]
fn windows_follow_the_fixed_order() {
    let windows = Machine::virtio_windows(&config());
    assert_eq!(windows.len(), 4);
    assert_eq!(windows[0], (0xd000_0000, 16));
    assert_eq!(windows[3], (0xd000_3000, 19));
    let (mut machine, mem) = (Machine::new(&config()), memory());
    let ids: Vec<u32> = windows
        .iter()
        .map(|(base, _)| {
            let mut id = [0; 4];
            machine.mmio_read(&mem, base + 8, &mut id);
            u32::from_le_bytes(id)
        })
        .collect();
    assert_eq!(ids, [2, 1, 4, 3], "block, net, rng, console");
}

#[test]
fn more_devices_than_windows_do_not_fit() {
    let mut config = config();
    assert!(config.fits());
    config.disks = vec![config.disks[0].clone(); 6];
    assert!(!config.fits());
    assert_eq!(Machine::virtio_windows(&config).len(), VIRTIO_MMIO_COUNT);
    let _ = Machine::new(&config);
}

#[test]
fn nobody_home_reads_as_ones() {
    let (mut machine, mem) = (Machine::new(&config()), memory());
    let mut data = [0; 4];
    machine.pio_read(0xcf8, &mut data);
    assert_eq!(data, [0xff; 4], "no PCI");
    for addr in [0xc000_0000, 0xd000_7000, 0xfed0_0000, u64::MAX] {
        let mut data = [0; 8];
        machine.mmio_read(&mem, addr, &mut data);
        assert_eq!(data, [0xff; 8]);
        machine.mmio_write(&mem, addr, &data);
    }
    assert_eq!(machine.msr_read(0x1234), None);
    assert_eq!(machine.msr_write(0x1234, 0), None);
}

#[test]
fn tsc_follows_virtual_time_and_its_msr() {
    let (mut machine, mem) = (Machine::new(&config()), memory());
    machine
        .input(&mem, Input::Clock { now: 0x1_2345_6789 })
        .unwrap();
    let mut low = [0; 4];
    machine.pio_read(u16::from(TSC_PORT), &mut low);
    assert_eq!(u32::from_le_bytes(low), 0x2345_6789);
    assert_eq!(machine.tsc() >> 32, 1);
    machine.msr_write(0x10, 1000).unwrap();
    machine
        .input(&mem, Input::Clock { now: 0x1_2345_678a })
        .unwrap();
    assert_eq!(machine.msr_read(0x10), Some(1001));
    assert_eq!(machine.now(), 0x1_2345_678a);
}

#[test]
fn time_never_goes_back() {
    let (mut machine, mem) = (Machine::new(&config()), memory());
    machine.input(&mem, Input::Clock { now: 500 }).unwrap();
    machine.input(&mem, Input::Clock { now: 400 }).unwrap();
    assert_eq!(machine.now(), 500);
}

#[test]
fn accesses_that_show_time_want_a_clock() {
    let machine = Machine::new(&config());
    for (port, read, write) in [
        (0x40, true, true),
        (0x43, false, true),
        (0x61, true, true),
        (0x71, true, true),
        (PM_TMR_PORT, true, false),
        (u16::from(TSC_PORT), true, false),
        (COM1_PORT, false, false),
        (0x20, false, false),
        (PM1A_EVT_PORT, false, false),
    ] {
        let wants = (
            machine.pio_needs_clock(port, false),
            machine.pio_needs_clock(port, true),
        );
        assert_eq!(wants, (read, write), "{port:#x}");
    }
    assert!(machine.msr_needs_clock(0x838, true) && machine.msr_needs_clock(0x839, false));
    assert!(!machine.msr_needs_clock(0x80b, true));
    assert!(machine.mmio_needs_clock(LAPIC_BASE + 0x390, false));
    assert!(!machine.mmio_needs_clock(VIRTIO_MMIO_BASE + 0x50, true));
}

#[test]
fn console_output_comes_before_the_end() {
    let mut machine = Machine::new(&config());
    for end in [
        |machine: &mut Machine| machine.pio_write(0x64, &[0xfe]),
        |machine: &mut Machine| machine.pio_write(RESET_PORT, &[RESET_VALUE]),
        |machine: &mut Machine| machine.triple_fault(),
    ] {
        machine.pio_write(COM1_PORT, b"x");
        end(&mut machine);
        let bytes = b"x".to_vec();
        let shown = Effect::ConsoleOut {
            console: Console::Serial,
            bytes,
        };
        assert_eq!(
            machine.effects().collect::<Vec<_>>(),
            [shown, Effect::Reset]
        );
    }
}

#[test]
fn inputs_without_a_device_are_errors() {
    let mem = memory();
    let mut machine = Machine::new(&MachineConfig {
        disks: Vec::new(),
        net: None,
        rng: false,
        console: false,
        ..config()
    });
    for (input, device) in [
        (Input::NetRx { frame: vec![0; 60] }, "virtio-net"),
        (Input::Entropy { bytes: vec![0] }, "virtio-rng"),
        (
            Input::ConsoleIn {
                console: Console::Virtio,
                bytes: vec![0],
            },
            "virtio-console",
        ),
    ] {
        assert_eq!(
            machine.input(&mem, input),
            Err(MachineError::NoDevice { device })
        );
    }
}

#[test]
fn damaged_states_are_refused() {
    let machine = Machine::new(&config());
    let bytes = machine.save().encode();
    assert_eq!(MachineState::decode(&bytes), Ok(machine.save()));
    let decoded = |bytes: &[u8]| MachineState::decode(bytes).map(|_| ());
    assert!(matches!(
        decoded(&bytes[..bytes.len() - 1]),
        Err(RestoreError::Encoding(_))
    ));
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(decoded(&longer), Err(RestoreError::Encoding(None)));
    let mut other = bytes.clone();
    other[0] = 99;
    let (found, expected) = (99, STATE_VERSION);
    assert_eq!(
        decoded(&other),
        Err(RestoreError::Version { found, expected })
    );
    let fewer = MachineConfig {
        net: None,
        ..config()
    };
    let refused = Machine::restore(&fewer, machine.save()).err();
    assert_eq!(
        refused,
        Some(RestoreError::Devices {
            found: 4,
            expected: 3
        })
    );
    let swapped = MachineConfig {
        net: None,
        disks: vec![config().disks[0].clone(); 2],
        ..config()
    };
    assert!(Machine::restore(&swapped, machine.save()).is_err());
}

#[test]
fn a_line_that_no_chip_drives_is_refused() {
    let mut machine = Machine::new(&config());
    machine.interrupts.set_gsi(SCI_GSI, true);
    let refused = Machine::restore(&config(), machine.save()).err();
    assert_eq!(refused, Some(RestoreError::field("ioapic", "lines (SCI)")));
    let mut machine = Machine::new(&config());
    machine.interrupts.pic.set_line(5, true);
    let refused = Machine::restore(&config(), machine.save()).err();
    assert_eq!(refused, Some(RestoreError::field("pic", "lines")));
}
