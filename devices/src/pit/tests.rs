use super::*;
use crate::time::ns_of_tick;

fn ns(ticks: u64) -> u64 {
    ns_of_tick(ticks, PIT_HZ).unwrap()
}

fn load(pit: &mut Pit, control: u8, count: u16, now: u64) {
    pit.write(0x43, control, now);
    let port = 0x40 + u16::from(control >> 6);
    for byte in count.to_le_bytes() {
        pit.write(port, byte, now);
    }
}

fn count(pit: &mut Pit, channel: u8, now: u64) -> u16 {
    pit.write(0x43, channel << 6, now);
    let port = 0x40 + u16::from(channel);
    u16::from_le_bytes([pit.read(port, now), pit.read(port, now)])
}

#[test]
fn linux_periodic_rises_once_a_period() {
    let mut pit = Pit::default();
    // pit_set_periodic: HZ = 250.
    load(&mut pit, 0x34, 4773, 0);
    assert_eq!(pit.next_deadline(0), Some(ns(4773)));
    assert!(!pit.irq_rose(0, ns(4773) - 1));
    assert!(pit.irq_rose(ns(4773) - 1, ns(4773)));
    assert_eq!(pit.next_deadline(ns(4773)), Some(ns(2 * 4773)));
    assert!(pit.irq(ns(4773)));
    assert!(!pit.irq(ns(4773) - 1), "low for the period's last tick");
}

#[test]
fn linux_one_shot_rises_once() {
    let mut pit = Pit::default();
    // pit_set_oneshot, pit_next_event.
    pit.write(0x43, 0x38, 0);
    assert!(pit.irq(0));
    pit.write(0x40, 0xe8, 100);
    pit.write(0x40, 0x03, 100);
    assert_eq!(pit.next_deadline(100), Some(100 + ns(1001)));
    assert!(pit.irq_rose(100, 100 + ns(1001)));
    assert!(!pit.irq(100 + ns(1000)), "the strobe");
    assert_eq!(pit.next_deadline(100 + ns(1001)), None);
    pit.write(0x40, 10, ns(5000));
    pit.write(0x40, 0, ns(5000));
    assert_eq!(pit.next_deadline(ns(5000)), Some(ns(5000) + ns(11)));
}

#[test]
fn linux_shutdown_lets_at_most_one_more_interrupt_come() {
    let mut pit = Pit::default();
    load(&mut pit, 0x30, 0, 0);
    assert!(!pit.irq(0));
    assert_eq!(pit.next_deadline(0), Some(ns(65_536)));
    assert!(pit.irq_rose(0, ns(70_000)));
    assert_eq!(pit.next_deadline(ns(70_000)), None);
    assert!(pit.irq(ns(70_000)));
}

#[test]
fn square_wave_is_high_for_the_longer_half() {
    let mut pit = Pit::default();
    load(&mut pit, 0x36, 5, 0);
    let shape: Vec<bool> = (0..10).map(|tick| pit.irq(ns(tick))).collect();
    let period = [true, true, true, false, false];
    assert_eq!(shape, [period, period].concat());
}

#[test]
fn a_short_period_does_not_flood() {
    let mut pit = Pit::default();
    load(&mut pit, 0x34, 2, 0);
    assert_eq!(pit.next_deadline(500), Some(500 + PERIOD_NS_MIN));
}

#[test]
fn counts_are_latched_and_read_in_two_bytes() {
    let mut pit = Pit::default();
    load(&mut pit, 0x34, 1000, 0);
    assert_eq!(count(&mut pit, 0, ns(10)), 990);
    pit.write(0x43, 0x00, ns(20));
    assert_eq!(pit.read(0x40, ns(500)), (980u16 & 0xff) as u8, "latched");
    assert_eq!(pit.read(0x40, ns(500)), (980u16 >> 8) as u8);
    assert_eq!(count(&mut pit, 0, ns(1000)), 1000);
    load(&mut pit, 0x30, 10, 0);
    assert_eq!(count(&mut pit, 0, ns(12)), 0xfffe, "mode 0 counts on");
}

#[test]
fn decimal_counts() {
    let mut pit = Pit::default();
    load(&mut pit, 0x35, 0x1234, 0);
    assert_eq!(count(&mut pit, 0, ns(4)), 0x1230);
    load(&mut pit, 0x35, 0, 0);
    assert_eq!(count(&mut pit, 0, ns(1)), 0x9999);
    load(&mut pit, 0x35, 0xffff, 0);
    assert_eq!(count(&mut pit, 0, 0), 0x9999);
    assert_eq!(pit.validate(0), Ok(()));
}

#[test]
fn linux_calibrates_on_channel_2() {
    let mut pit = Pit::default();
    // pit_calibrate_tsc: gate up, speaker off, mode 0, then wait for OUT2.
    let port_61h = pit.read(0x61, 0);
    pit.write(0x61, (port_61h & !0x02) | 0x01, 0);
    load(&mut pit, 0xb0, 11_931, 0);
    assert_eq!(pit.read(0x61, ns(11_930)) & 0x20, 0);
    assert_eq!(pit.read(0x61, ns(11_931)) & 0x20, 0x20);
}

#[test]
fn gate_stops_and_restarts() {
    let mut pit = Pit::default();
    pit.write(0x61, 1, 0);
    load(&mut pit, 0xb0, 100, 0);
    pit.write(0x61, 0, ns(40));
    assert_eq!(count(&mut pit, 2, ns(90)), 60);
    pit.write(0x61, 1, ns(90));
    assert_eq!(count(&mut pit, 2, ns(90) + ns(10)), 50);
    // Mode 3 starts over at the rising edge, and OUT is high while the gate is low.
    load(&mut pit, 0xb6, 100, 0);
    pit.write(0x61, 0, ns(60));
    assert_eq!(pit.read(0x61, ns(60)) & 0x20, 0x20);
    pit.write(0x61, 1, ns(70));
    assert_eq!(count(&mut pit, 2, ns(70)), 100);
}

#[test]
fn hardware_one_shot_waits_for_its_trigger() {
    let mut pit = Pit::default();
    load(&mut pit, 0xb2, 100, 0);
    assert_eq!(pit.read(0x61, ns(500)) & 0x20, 0x20);
    pit.write(0x61, 1, ns(500));
    assert_eq!(pit.read(0x61, ns(500)) & 0x20, 0);
    pit.write(0x61, 0, ns(550));
    assert_eq!(pit.read(0x61, ns(500) + ns(101)) & 0x20, 0x20);
    assert_eq!(pit.validate(ns(601)), Ok(()));
}

#[test]
fn read_back_gives_status_then_count() {
    let mut pit = Pit::default();
    pit.write(0x43, 0x34, 0);
    pit.write(0x43, 0xe2, 0);
    assert_eq!(pit.read(0x40, 0), 0x80 | 0x40 | 0x34, "null count");
    load(&mut pit, 0x34, 1000, 0);
    pit.write(0x43, 0xc2, ns(1));
    assert_eq!(pit.read(0x40, ns(9)), 0x80 | 0x34);
    let latched = [pit.read(0x40, ns(9)), pit.read(0x40, ns(9))];
    assert_eq!(u16::from_le_bytes(latched), 999);
}

#[test]
fn impossible_states_are_refused() {
    let pit = Pit {
        gate_2: true,
        ..Pit::default()
    };
    assert_eq!(pit.validate(0), Err(RestoreError::field("pit", "gate_2")));
    let mut pit = Pit::default();
    load(&mut pit, 0x34, 1000, 50);
    assert_eq!(pit.validate(49), Err(RestoreError::field("pit", "phase")));
}
