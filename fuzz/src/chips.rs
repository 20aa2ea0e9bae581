//! The guest's side of the chips: ports, MSRs and MMIO in any order, at any time.

use std::ops::RangeInclusive;

use devices::layout::{
    COM1_PORT, IOAPIC_BASE, LAPIC_BASE, PM_TMR_PORT, PM1A_CNT_PORT, PM1A_EVT_PORT, RESET_PORT,
    TSC_PORT,
};
use devices::{Console, Effect, Input};

use crate::rig::{Rig, config};
use crate::source::Source;

/// What of a machine is poked at.
struct Area {
    ports: &'static [RangeInclusive<u16>],
    /// Base and size of register windows.
    windows: &'static [(u64, u64)],
    msrs: &'static [RangeInclusive<u32>],
}

const INTERRUPTS: Area = Area {
    ports: &[0x20..=0x21, 0xa0..=0xa1, 0x4d0..=0x4d1, 0x22..=0x23],
    windows: &[(LAPIC_BASE, 0x1000), (IOAPIC_BASE, 0x100)],
    msrs: &[0x800..=0x83f, 0x1b..=0x1b],
};
const TIMERS: Area = Area {
    ports: &[
        0x40..=0x43,
        0x61..=0x61,
        0x70..=0x71,
        PM1A_EVT_PORT..=PM1A_EVT_PORT + 3,
        PM1A_CNT_PORT..=PM1A_CNT_PORT + 1,
        PM_TMR_PORT..=PM_TMR_PORT + 3,
        RESET_PORT..=RESET_PORT,
        TSC_PORT as u16..=TSC_PORT as u16,
    ],
    windows: &[(LAPIC_BASE + 0x320, 0xc0)],
    msrs: &[0x10..=0x10, 0x832..=0x83e],
};
const SERIAL: Area = Area {
    ports: &[COM1_PORT..=COM1_PORT + 7],
    windows: &[],
    msrs: &[],
};

/// PIC, local APIC and IOAPIC.
///
/// # Panics
/// See [`Rig`].
pub fn interrupts(data: &[u8]) {
    run(&INTERRUPTS, data);
}

/// PIT, RTC, ACPI power management, the TSC.
///
/// # Panics
/// See [`Rig`].
pub fn timers(data: &[u8]) {
    run(&TIMERS, data);
}

/// The UART.
///
/// # Panics
/// See [`Rig`].
pub fn serial(data: &[u8]) {
    run(&SERIAL, data);
}

fn allowed(effect: &Effect) -> bool {
    match effect {
        Effect::ConsoleOut { console, .. } => *console == Console::Serial,
        Effect::PowerOff | Effect::Reset => true,
        Effect::Disk(_) | Effect::NetTx { .. } | Effect::EntropyWanted { .. } => false,
    }
}

fn run(area: &Area, data: &[u8]) {
    let mut source = Source::new(data);
    let mut rig =
        Rig::new(config(0, false, false, false), None, Some(allowed)).expect("at power-on");
    if source.flag() {
        wake(&mut rig);
    }
    while !source.is_empty() {
        step(&mut rig, area, &mut source);
    }
    rig.finish();
}

/// All areas in turn, on any machine.
pub fn anywhere(rig: &mut Rig, source: &mut Source<'_>) {
    let area = match source.below(3) {
        0 => &INTERRUPTS,
        1 => &TIMERS,
        _ => &SERIAL,
    };
    step(rig, area, source);
}

fn step(rig: &mut Rig, area: &Area, source: &mut Source<'_>) {
    match source.below(16) {
        0..=3 => {
            let (port, data) = (port(area, source), source.take(1).to_vec());
            write_port(rig, port, &data);
        }
        4 => {
            let (port, len) = (port(area, source), 1 << source.below(3));
            let data = source.take(len).to_vec();
            write_port(rig, port, &data);
        }
        5 | 6 => {
            let (port, len) = (port(area, source), 1 << source.below(3));
            rig.both(|machine, _| {
                let mut data = [0; 4];
                machine.pio_needs_clock(port, false);
                machine.pio_read(port, &mut data[..len]);
                data
            });
        }
        7 | 8 => {
            let (address, len) = (address(area, source), 1 << source.below(4));
            let data = source.take(len).to_vec();
            rig.both(|machine, mem| {
                machine.mmio_needs_clock(address, true);
                machine.mmio_write(mem, address, &data);
            });
        }
        9 => {
            let (address, len) = (address(area, source), 1 << source.below(4));
            rig.both(|machine, mem| {
                let mut data = [0; 8];
                machine.mmio_needs_clock(address, false);
                machine.mmio_read(mem, address, &mut data[..len]);
                data
            });
        }
        10 => {
            let (index, value) = (msr(area, source), source.any());
            rig.both(|machine, _| {
                machine.msr_needs_clock(index, true);
                machine.msr_write(index, value)
            });
        }
        11 => {
            let index = msr(area, source);
            rig.both(|machine, _| machine.msr_read(index));
        }
        12 => advance(rig, source),
        13 => {
            rig.both(|machine, _| {
                let pending = machine.pending_interrupt();
                let taken = machine.take_interrupt();
                assert_eq!(pending, taken.is_some());
                taken
            });
        }
        14 => from_outside(rig, source),
        _ => {
            rig.travel();
            rig.effects();
        }
    }
}

/// Time passes: to the next deadline, by so much, or to any time.
fn advance(rig: &mut Rig, source: &mut Source<'_>) {
    let now = rig.machine().now();
    let then = match source.below(4) {
        0 | 1 => {
            let deadline = rig.both(|machine, _| machine.next_deadline());
            assert!(
                deadline.is_none_or(|at| at > now || at == u64::MAX),
                "{deadline:?} at {now}"
            );
            deadline.unwrap_or(now)
        }
        2 => now.saturating_add(u64::from(source.u32())),
        _ => source.u64(),
    };
    rig.input(&Input::Clock { now: then });
    assert_eq!(rig.machine().now(), now.max(then), "time does not go back");
}

fn from_outside(rig: &mut Rig, source: &mut Source<'_>) {
    match source.below(4) {
        0 => {
            rig.input(&Input::PowerButton);
        }
        1 => {
            let level = source.u8();
            rig.both(|machine, _| {
                machine.set_cr8(level);
                machine.cr8()
            });
        }
        2 => {
            rig.both(|machine, _| machine.serial_input_room());
            let (console, bytes) = (Console::Serial, source.bytes(64).to_vec());
            rig.input(&Input::ConsoleIn { console, bytes });
        }
        _ => rig.both(|machine, _| machine.triple_fault()),
    }
}

fn write_port(rig: &mut Rig, port: u16, data: &[u8]) {
    rig.both(|machine, _| {
        machine.pio_needs_clock(port, true);
        machine.pio_write(port, data);
    });
}

fn port(area: &Area, source: &mut Source<'_>) -> u16 {
    let choice = source.u8();
    if choice == 0xff {
        return source.u16();
    }
    let ports = area.ports.iter().cloned().flatten();
    let count = area.ports.iter().map(|range| range.len()).sum::<usize>();
    ports
        .clone()
        .nth(usize::from(choice) % count)
        .unwrap_or_default()
}

fn address(area: &Area, source: &mut Source<'_>) -> u64 {
    let (choice, offset) = (source.u8(), u64::from(source.u16()));
    match area.windows.get(usize::from(choice)) {
        // Registers lie at multiples of 16; a few accesses do not.
        Some((base, size)) if offset & 0x8000 == 0 => base + (offset << 4) % size,
        Some((base, size)) => base + offset % size,
        None if choice == 0xff => source.u64(),
        None => LAPIC_BASE + (offset << 4 & 0xfff),
    }
}

fn msr(area: &Area, source: &mut Source<'_>) -> u32 {
    let choice = source.u8();
    let msrs = area.msrs.iter().cloned().flatten();
    let count = msrs.clone().count();
    if choice == 0xff || count == 0 {
        return source.u32();
    }
    msrs.clone()
        .nth(usize::from(choice) % count)
        .unwrap_or_default()
}

/// What a booted system has switched on.
fn wake(rig: &mut Rig) {
    let msrs = [
        (0x1b, 0xfee0_0d00),
        (0x80f, 0x1ff),
        (0x832, 0x200ec),
        (0x83e, 0xb),
        (0x837, 0xfe),
    ];
    for (index, value) in msrs {
        rig.both(|machine, _| machine.msr_write(index, value));
    }
    for pin in 0..24u32 {
        let level = if pin % 2 == 1 { 0x8000 } else { 0 };
        for (offset, value) in [(0, 0x10 + 2 * pin), (0x10, level | (0x30 + 5 * pin))] {
            let data = value.to_le_bytes();
            rig.both(|machine, mem| machine.mmio_write(mem, IOAPIC_BASE + offset, &data));
        }
    }
    let ports = [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 0x02),
        (0xa1, 0x01),
        (0x43, 0x34),
        (0x40, 0x00),
        (0x40, 0x10),
        (COM1_PORT + 1, 0x03),
        (PM1A_EVT_PORT + 2, 0x21),
        (PM1A_EVT_PORT + 3, 0x01),
        (0x70, 0x0b),
        (0x71, 0x72),
    ];
    for (port, value) in ports {
        write_port(rig, port, &[value]);
    }
}
