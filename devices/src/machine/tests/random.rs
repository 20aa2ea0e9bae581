//! Whatever a guest and a peer do, nothing panics, and saving and restoring at any step can't be
//! noticed afterwards.

use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    In(u16, usize),
    Out(u16, Vec<u8>),
    Load(u64, usize),
    Store(u64, Vec<u8>),
    Rdmsr(u32),
    Wrmsr(u32, u64),
    Input(Input),
    Take,
    /// Time passes to the next deadline.
    Idle,
    Cr8(u8),
    Effects,
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![
        prop::sample::select(vec![0x20u16, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1]),
        prop::sample::select(vec![
            0x40u16, 0x41, 0x42, 0x43, 0x61, 0x64, 0x70, 0x71, 0xe8
        ]),
        COM1_PORT..COM1_PORT + 8,
        PM1A_EVT_PORT..=RESET_PORT,
        Just(0xcf9),
        any::<u16>(),
    ]
}

fn addresses() -> impl Strategy<Value = u64> {
    let register = prop::sample::select(vec![
        0u64, 0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x90, 0xa0, 0x100,
    ]);
    prop_oneof![
        (0u64..5, register).prop_map(|(window, register)| {
            VIRTIO_MMIO_BASE + window * VIRTIO_MMIO_STRIDE + register
        }),
        VIRTIO_MMIO_BASE..VIRTIO_MMIO_BASE + 0x9000,
        Just(IOAPIC_BASE),
        Just(IOAPIC_BASE + 0x10),
        (0u64..0x100).prop_map(|register| LAPIC_BASE + 16 * register),
        any::<u64>(),
    ]
}

fn msrs() -> impl Strategy<Value = u32> {
    prop_oneof![X2APIC_MSRS, Just(0x10u32), Just(0x1b), any::<u32>()]
}

/// Values of which many are legal in some register.
fn values() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..0x400,
        (0u64..0x40000),
        any::<u32>().prop_map(u64::from),
        any::<u64>(),
        prop::sample::select(vec![0xfee0_0900u64, 0xfee0_0d00, 0xfee0_0100]),
    ]
}

fn inputs() -> impl Strategy<Value = Input> {
    let console = prop_oneof![Just(Console::Serial), Just(Console::Virtio)];
    let outcome = prop_oneof![
        Just(crate::DiskOutcome::Done),
        Just(crate::DiskOutcome::Failed(crate::DiskError::Io)),
        vec(any::<u8>(), 0..600).prop_map(crate::DiskOutcome::Read),
    ];
    prop_oneof![
        8 => (0u64..1 << 33).prop_map(|now| Input::Clock { now }),
        1 => any::<u64>().prop_map(|now| Input::Clock { now }),
        2 => vec(any::<u8>(), 0..100).prop_map(|frame| Input::NetRx { frame }),
        2 => (0u8..3, 0u64..3, outcome)
            .prop_map(|(disk, id, outcome)| Input::DiskDone { disk, id, outcome }),
        2 => (console, vec(any::<u8>(), 0..40))
            .prop_map(|(console, bytes)| Input::ConsoleIn { console, bytes }),
        1 => vec(any::<u8>(), 0..40).prop_map(|bytes| Input::Entropy { bytes }),
        1 => Just(Input::PowerButton),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let sized = |value: u64, len: usize| value.to_le_bytes()[..len].to_vec();
    let pio_len = prop::sample::select(vec![1usize, 1, 1, 2, 4]);
    let mmio_len = prop::sample::select(vec![4usize, 4, 4, 1, 2, 8]);
    prop_oneof![
        3 => (ports(), pio_len.clone()).prop_map(|(port, len)| Step::In(port, len)),
        6 => (ports(), values(), pio_len)
            .prop_map(move |(port, value, len)| Step::Out(port, sized(value, len))),
        2 => (addresses(), mmio_len.clone()).prop_map(|(addr, len)| Step::Load(addr, len)),
        6 => (addresses(), values(), mmio_len)
            .prop_map(move |(addr, value, len)| Step::Store(addr, sized(value, len))),
        1 => msrs().prop_map(Step::Rdmsr),
        5 => (msrs(), values()).prop_map(|(index, value)| Step::Wrmsr(index, value)),
        4 => inputs().prop_map(Step::Input),
        3 => Just(Step::Take),
        2 => Just(Step::Idle),
        1 => any::<u8>().prop_map(Step::Cr8),
        1 => Just(Step::Effects),
    ]
}

/// Carries a step out; what the guest or the host sees of it comes back as text.
fn carry_out(machine: &mut Machine, mem: &GuestMemory, step: &Step) -> String {
    match step {
        Step::In(port, len) => {
            let mut data = [0; 4];
            machine.pio_needs_clock(*port, false);
            machine.pio_read(*port, &mut data[..*len]);
            format!("{data:?}")
        }
        Step::Out(port, data) => {
            machine.pio_needs_clock(*port, true);
            machine.pio_write(*port, data);
            String::new()
        }
        Step::Load(addr, len) => {
            let mut data = [0; 8];
            machine.mmio_needs_clock(*addr, false);
            machine.mmio_read(mem, *addr, &mut data[..*len]);
            format!("{data:?}")
        }
        Step::Store(addr, data) => {
            machine.mmio_needs_clock(*addr, true);
            machine.mmio_write(mem, *addr, data);
            String::new()
        }
        Step::Rdmsr(index) => format!("{:?}", machine.msr_read(*index)),
        Step::Wrmsr(index, value) => format!("{:?}", machine.msr_write(*index, *value)),
        Step::Input(input) => format!("{:?}", machine.input(mem, input.clone())),
        Step::Take => {
            let pending = machine.pending_interrupt();
            let taken = machine.take_interrupt();
            assert_eq!(pending, taken.is_some());
            format!("{taken:?}")
        }
        Step::Idle => match machine.next_deadline() {
            Some(now) => {
                assert!(now > machine.now() || now == u64::MAX);
                format!("{:?}", machine.input(mem, Input::Clock { now }))
            }
            None => String::new(),
        },
        Step::Cr8(value) => {
            machine.set_cr8(*value);
            format!("{}", machine.cr8())
        }
        Step::Effects => format!("{:?}", machine.effects().collect::<Vec<_>>()),
    }
}

/// What a booted system has switched on, so that random steps meet live chips.
fn awake() -> Machine {
    let mut machine = Machine::new(&config());
    let mem = memory();
    for (index, value) in [
        (0x80f, 0x1ff),
        (0x832, 0xec),
        (0x83e, 0xb),
        (0x837, 0xfe),
        (0x835, 0x700),
    ] {
        machine.msr_write(index, value).unwrap();
    }
    for pin in 0..IOAPIC_PINS as u32 {
        let level = if pin % 2 == 1 { 0x8000 } else { 0 };
        for (addr, value) in [(0, 0x10 + 2 * pin), (0x10, level | (0x30 + 5 * pin))] {
            machine.mmio_write(&mem, IOAPIC_BASE + addr, &u32::to_le_bytes(value));
        }
    }
    for (port, value) in [
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
    ] {
        machine.pio_write(port, &[value]);
    }
    machine
}

fn start(booted: bool) -> Machine {
    if booted {
        awake()
    } else {
        Machine::new(&config())
    }
}

fn through_bytes(machine: &Machine) -> Machine {
    let saved = machine.save();
    let decoded = MachineState::decode(&saved.encode()).unwrap();
    assert_eq!(decoded, saved);
    Machine::restore(&config(), decoded).unwrap()
}

/// RAM in which rings at any small address have something in them.
fn noisy_memory() -> GuestMemory {
    let mem = memory();
    for page in 0..64u64 {
        let word = (page as u16).wrapping_mul(37) & 0x0fff;
        mem.write_obj(word, GuestAddress(page * 4096 + 2)).unwrap();
        mem.write_obj(page * 4096, GuestAddress(page * 4096 + 16))
            .unwrap();
    }
    mem
}

proptest! {
    #[test]
    fn save_and_restore_are_invisible(
        booted: bool,
        steps in vec(steps(), 1..200),
        every in 1usize..20,
    ) {
        let (mem, mem_restored) = (noisy_memory(), noisy_memory());
        let (mut machine, mut restored) = (start(booted), start(booted));
        for (i, step) in steps.iter().enumerate() {
            let seen = carry_out(&mut machine, &mem, step);
            prop_assert_eq!(seen, carry_out(&mut restored, &mem_restored, step));
            if i % every == 0 {
                restored = through_bytes(&restored);
            }
        }
        prop_assert_eq!(machine.save(), restored.save());
        prop_assert_eq!(machine.save().encode(), restored.save().encode());
    }

    #[test]
    fn every_state_a_guest_reaches_is_restorable(booted: bool, steps in vec(steps(), 1..100)) {
        let mem = noisy_memory();
        let mut machine = start(booted);
        for step in &steps {
            carry_out(&mut machine, &mem, step);
            let saved = machine.save();
            let again = Machine::restore(&config(), saved.clone());
            prop_assert!(again.is_ok(), "{:?} after {:?}", again.err(), step);
            prop_assert_eq!(again.unwrap().save(), saved);
        }
    }

    #[test]
    fn damaged_states_are_refused_or_work(
        booted: bool,
        steps in vec(steps(), 1..60),
        flips in vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
        after in vec(steps(), 1..60),
    ) {
        let mem = noisy_memory();
        let mut machine = start(booted);
        for step in &steps {
            carry_out(&mut machine, &mem, step);
        }
        let mut bytes = machine.save().encode();
        for (index, bit) in flips {
            let at = index.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Ok(state) = MachineState::decode(&bytes)
            && let Ok(mut machine) = Machine::restore(&config(), state)
        {
            for step in &after {
                carry_out(&mut machine, &mem, step);
            }
            machine.save();
        }
    }

    #[test]
    fn any_bytes_decode_to_a_state_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        let _ = MachineState::decode(&bytes);
    }
}
