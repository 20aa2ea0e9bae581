use super::super::error::{Fault, FaultReason, Ring};
use super::super::spec::{feature, interrupt, reg, status};
use super::super::testing::{Guest, RAM_BYTES};
use super::super::{DiskConfig, NetConfig, block, console, net, rng};
use crate::Input;

fn disk() -> super::VirtioMmio {
    let config = DiskConfig {
        capacity_bytes: 1 << 20,
        read_only: false,
        serial: "disk".into(),
    };
    block(0, &config)
}

#[test]
fn identity_registers_read_as_the_specification_says() {
    let nic = net(&NetConfig {
        mac: [2, 0, 0, 0, 0, 1],
    });
    for (device, id) in [(nic, 1), (disk(), 2), (console(), 3), (rng(), 4)] {
        let mut guest = Guest::cold(device);
        assert_eq!(guest.read(reg::MAGIC_VALUE).to_le_bytes(), *b"virt");
        assert_eq!(guest.read(reg::VERSION), 2);
        assert_eq!(guest.read(reg::DEVICE_ID), id);
        assert_eq!(guest.read(reg::CONFIG_GENERATION), 0);
        assert_eq!(guest.read(reg::STATUS), 0);
        assert_eq!(guest.read(reg::SHM_LEN_LOW), u32::MAX);
        assert_eq!(guest.offered() & feature::COMMON, feature::COMMON);
        guest.write(reg::DEVICE_FEATURES_SEL, 2);
        assert_eq!(guest.read(reg::DEVICE_FEATURES), 0);
    }
}

#[test]
fn odd_accesses_read_as_zero_and_write_nothing() {
    let mut guest = Guest::start(disk(), 0);
    let before = guest.device.save();
    for len in [0, 1, 2, 3, 5, 8, 16] {
        let mut data = vec![0xff; len];
        guest.device.read(&guest.mem, reg::MAGIC_VALUE, &mut data);
        assert!(data.iter().all(|&byte| byte == 0));
        guest
            .device
            .write(&guest.mem, reg::STATUS, &data, &mut guest.effects);
    }
    let mut data = [0xff; 8];
    for offset in [0xfff, u64::MAX, 0x101 + 60] {
        guest.device.read(&guest.mem, offset, &mut data);
        assert_eq!(data, [0; 8]);
        guest.write(offset, 0);
    }
    guest.write(reg::MAGIC_VALUE, 0);
    assert_eq!(guest.device.save(), before);
}

#[test]
fn configuration_space_reads_in_any_width() {
    let mut guest = Guest::cold(net(&NetConfig {
        mac: [2, 3, 4, 5, 6, 7],
    }));
    for at in 0..6 {
        let mut byte = [0];
        guest.device.read(&guest.mem, reg::CONFIG + at, &mut byte);
        assert_eq!(u64::from(byte[0]), at + 2);
    }
    let mut across = [0xff; 8];
    guest.device.read(&guest.mem, reg::CONFIG + 4, &mut across);
    assert_eq!(across, [6, 7, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn features_that_were_not_offered_or_lack_version_1_are_refused() {
    let mut guest = Guest::cold(disk());
    guest.negotiate(feature::VERSION_1);
    assert_eq!(guest.read(reg::STATUS) & status::FEATURES_OK, 0);

    guest.negotiate(0);
    assert_ne!(guest.read(reg::STATUS) & status::FEATURES_OK, 0);
    // Too late to change them.
    guest.write(reg::DRIVER_FEATURES, 0);
    assert_ne!(guest.device.save().transport.driver_features, 0);

    guest.write(reg::STATUS, 0);
    guest.write(reg::DRIVER_FEATURES_SEL, 1);
    guest.write(reg::DRIVER_FEATURES, u32::MAX);
    guest.write(reg::STATUS, status::FEATURES_OK | status::DRIVER_OK);
    assert_eq!(guest.read(reg::STATUS), 0);
}

#[test]
fn queues_are_configured_between_features_ok_and_driver_ok_only() {
    let mut guest = Guest::cold(disk());
    guest.set_up_queue(0);
    assert_eq!(guest.read(reg::QUEUE_READY), 0);
    guest.negotiate(0);
    guest.set_up_queue(0);
    assert_eq!(guest.read(reg::QUEUE_READY), 1);
    let before = guest.device.save();
    guest.write(reg::QUEUE_DESC_LOW, 0x5000);
    guest.write(reg::QUEUE_NUM, 2);
    guest.write(reg::QUEUE_READY, 0);
    guest.add_status(status::DRIVER_OK);
    guest.write(reg::QUEUE_DEVICE_LOW, 0x5000);
    assert_eq!(guest.device.save().queues, before.queues);
    // A queue that is not there.
    guest.write(reg::QUEUE_SEL, 1);
    assert_eq!(guest.read(reg::QUEUE_NUM_MAX), 0);
    assert_eq!(guest.read(reg::QUEUE_READY), 0);
    guest.write(reg::QUEUE_READY, 1);
    guest.notify(1);
    guest.notify(usize::MAX);
    assert_eq!(guest.device.fault(), None);
}

#[test]
fn queues_of_impossible_size_need_a_reset() {
    for size in [0, 3, 512, 0x10000, u32::MAX] {
        let mut guest = Guest::cold(disk());
        guest.negotiate(0);
        guest.write(reg::QUEUE_SEL, 0);
        guest.write(reg::QUEUE_NUM, size);
        let reason = FaultReason::QueueSize { size };
        assert_eq!(guest.device.fault(), Some(Fault { queue: 0, reason }));
        assert_ne!(guest.read(reg::STATUS) & status::NEEDS_RESET, 0);
        // No driver is there yet to be told.
        assert!(!guest.device.interrupt_line());
        guest.initialize(0);
        assert_eq!(guest.device.fault(), None);
    }
}

#[test]
fn rings_that_are_misaligned_or_outside_ram_need_a_reset() {
    let beyond = [RAM_BYTES - 16, RAM_BYTES, u64::MAX - 15, 1 << 63];
    let misaligned = |step: u64| [0x10000 + step / 2];
    let cases = [
        (Ring::Descriptor, misaligned(16)),
        (Ring::Available, misaligned(2)),
        (Ring::Used, misaligned(4)),
    ];
    for (ring, wrong) in cases {
        for address in wrong.into_iter().chain(beyond) {
            let mut guest = Guest::cold(disk());
            guest.negotiate(0);
            let at = match ring {
                Ring::Descriptor => reg::QUEUE_DESC_LOW,
                Ring::Available => reg::QUEUE_DRIVER_LOW,
                Ring::Used => reg::QUEUE_DEVICE_LOW,
            };
            guest.write(reg::QUEUE_SEL, 0);
            guest.write(reg::QUEUE_NUM, 16);
            guest.write(at, address as u32);
            guest.write(at + 4, (address >> 32) as u32);
            guest.write(reg::QUEUE_READY, 1);
            let fault = guest.device.fault().unwrap();
            assert_eq!(fault.reason, FaultReason::QueueAddress { ring, address });
            assert_eq!(guest.read(reg::QUEUE_READY), 0);
        }
    }
}

#[test]
fn notifications_before_driver_ok_do_nothing() {
    let mut guest = Guest::cold(rng());
    guest.notify(0);
    guest.negotiate(0);
    guest.set_up_queue(0);
    guest.add(0, &[], &[64]);
    guest.notify(0);
    assert!(guest.take_effects().is_empty());
    // What was made available before DRIVER_OK is found at DRIVER_OK.
    guest.add_status(status::DRIVER_OK);
    assert_eq!(guest.take_effects().len(), 1);
}

#[test]
fn a_fault_raises_a_configuration_interrupt_and_stops_the_device_until_reset() {
    let mut guest = Guest::start(rng(), 0);
    guest.add_raw(0, &[(RAM_BYTES - 8, 16, 2)]);
    guest.notify(0);
    assert!(
        guest.device.fault().is_none(),
        "nothing to give yet, so nothing parsed"
    );
    guest.input(Input::Entropy { bytes: vec![7; 64] }).unwrap();
    let reason = FaultReason::OutsideRam {
        address: RAM_BYTES - 8,
        len: 16,
    };
    assert_eq!(guest.device.fault(), Some(Fault { queue: 0, reason }));
    assert_eq!(guest.take_interrupt(), interrupt::CONFIG_CHANGE);
    assert_ne!(guest.read(reg::STATUS) & status::NEEDS_RESET, 0);
    guest.notify(0);
    assert_eq!(guest.take_interrupt(), 0);

    guest.move_to(rng());
    assert_eq!(guest.device.fault(), Some(Fault { queue: 0, reason }));

    guest.initialize(0);
    assert_eq!(guest.device.fault(), None);
    let (head, addresses) = guest.add(0, &[], &[16]);
    guest.notify(0);
    assert_eq!(guest.used(0), [(u32::from(head), 16)]);
    assert_eq!(guest.bytes(addresses[0], 16), [7; 16]);
}

#[test]
fn status_bits_are_cleared_by_a_reset_only() {
    let mut guest = Guest::start(console(), 0);
    let running = guest.read(reg::STATUS);
    guest.write(reg::STATUS, status::ACKNOWLEDGE);
    guest.write(reg::STATUS, status::NEEDS_RESET | 0xffff_ff00);
    assert_eq!(guest.read(reg::STATUS), running);
    guest.write(reg::STATUS, status::FAILED);
    assert_eq!(guest.read(reg::STATUS), running | status::FAILED);
    guest.add(1, &[b"lost"], &[]);
    guest.notify(1);
    assert!(guest.take_effects().is_empty());
    guest.write(reg::STATUS, 0);
    assert_eq!(guest.device.save(), console().save());
}
