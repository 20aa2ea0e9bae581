//! The machine driven as Debian's 6.1 kernel drives it.

use super::*;

/// MSRs of the x2APIC.
const EOI: u32 = 0x80b;

struct Linux {
    machine: Machine,
    mem: GuestMemory,
}

impl Linux {
    /// After setup_local_APIC and setup_IO_APIC.
    fn boot() -> Linux {
        let mut linux = Linux {
            machine: Machine::new(&config()),
            mem: memory(),
        };
        // probe_8259A and init_8259A.
        for (port, value) in [
            (0xa1, 0xff),
            (0x21, 0xfb),
            (0x21, 0xff),
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, 0x01),
            (0x21, 0xfb),
            (0xa1, 0xff),
        ] {
            linux.machine.pio_write(port, &[value]);
        }
        linux.wrmsr(0x808, 0x10);
        linux.wrmsr(0x80f, 0x1ff);
        linux.wrmsr(0x835, 0x1_0700);
        linux
    }

    fn wrmsr(&mut self, index: u32, value: u64) {
        self.machine.msr_write(index, value).unwrap();
    }

    fn redirect(&mut self, pin: u32, entry: u32) {
        for (register, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, entry)] {
            self.store(IOAPIC_BASE, register);
            self.store(IOAPIC_BASE + 0x10, value);
        }
    }

    fn store(&mut self, addr: u64, value: u32) {
        self.machine
            .mmio_write(&self.mem, addr, &value.to_le_bytes());
    }

    fn load(&mut self, addr: u64) -> u32 {
        let mut data = [0; 4];
        self.machine.mmio_read(&self.mem, addr, &mut data);
        u32::from_le_bytes(data)
    }

    fn inb(&mut self, port: u16) -> u8 {
        let mut data = [0];
        self.machine.pio_read(port, &mut data);
        data[0]
    }

    fn clock(&mut self, now: u64) {
        self.input(Input::Clock { now });
    }

    fn input(&mut self, input: Input) {
        self.machine.input(&self.mem, input).unwrap();
    }

    /// Time passes until something is due, as the VMM lets it in HLT.
    fn idle(&mut self) {
        let next = self.machine.next_deadline().unwrap();
        assert!(next > self.machine.now());
        self.clock(next);
    }

    /// Interrupt taken and ended at once.
    fn interrupt(&mut self) -> Option<u8> {
        let vector = self.machine.take_interrupt()?;
        self.wrmsr(EOI, 0);
        Some(vector)
    }
}

#[test]
fn timer_irq_works_through_pin_2_in_both_modes_of_the_pit() {
    let mut linux = Linux::boot();
    linux.redirect(2, 0x30);
    for byte in [(0x43, 0x34), (0x40, 0xa5), (0x40, 0x12)] {
        linux.machine.pio_write(byte.0, &[byte.1]);
    }
    // Entering mode 2 raised OUT, which is an edge.
    assert_eq!(linux.interrupt(), Some(0x30));
    for tick in 1..=5 {
        linux.idle();
        assert_eq!(linux.interrupt(), Some(0x30));
        assert_eq!(linux.interrupt(), None);
        assert_eq!(linux.machine.now() / 1_000_000, tick * 4);
    }
    for byte in [(0x43, 0x38), (0x40, 0xe8), (0x40, 0x03)] {
        linux.machine.pio_write(byte.0, &[byte.1]);
    }
    linux.idle();
    assert_eq!(linux.interrupt(), Some(0x30));
    assert_eq!(linux.machine.next_deadline(), None);
}

#[test]
fn lapic_timer_calibrates_against_the_pit_and_the_pm_timer() {
    let mut linux = Linux::boot();
    linux.redirect(2, 0x30);
    // calibrate_APIC_clock: the timer free-running and masked, divided by 16.
    linux.wrmsr(0x832, 0x1_00ec);
    linux.wrmsr(0x83e, 0x3);
    linux.wrmsr(0x838, 0xffff_ffff);
    for byte in [(0x43, 0x34), (0x40, 0xa5), (0x40, 0x12)] {
        linux.machine.pio_write(byte.0, &[byte.1]);
    }
    linux.interrupt();
    let mut samples = Vec::new();
    for tick in 0..26 {
        linux.idle();
        assert_eq!(linux.interrupt(), Some(0x30));
        if tick % 25 == 0 {
            let mut pm = [0; 4];
            linux.machine.pio_read(PM_TMR_PORT, &mut pm);
            let count = linux.machine.msr_read(0x839).unwrap();
            samples.push((count, u32::from_le_bytes(pm)));
        }
    }
    // 25 ticks at 250 Hz are 100 ms: 62.5 MHz and 3.579545 MHz.
    let delta = samples[0].0 - samples[1].0;
    assert!((6_249_000..6_251_000).contains(&delta), "{delta}");
    let pm_delta = samples[1].1 - samples[0].1;
    assert!((357_900..358_000).contains(&pm_delta), "{pm_delta}");
}

#[test]
fn one_shot_timer_is_two_exits_an_interrupt() {
    let mut linux = Linux::boot();
    linux.wrmsr(0x83e, 0x3);
    linux.wrmsr(0x832, 0xec);
    for _ in 0..3 {
        let start = linux.machine.now();
        linux.wrmsr(0x838, 62_500);
        linux.idle();
        assert_eq!(linux.machine.now() - start, 1_000_000);
        assert_eq!(linux.interrupt(), Some(0xec));
    }
}

#[test]
fn power_button_interrupts_level_triggered_until_served() {
    let mut linux = Linux::boot();
    linux.redirect(SCI_GSI, 0x8031);
    linux
        .machine
        .pio_write(PM1A_EVT_PORT + 2, &0x0120u16.to_le_bytes());
    linux.input(Input::PowerButton);
    assert_eq!(linux.interrupt(), Some(0x31));
    assert_eq!(linux.interrupt(), Some(0x31), "not served");
    linux
        .machine
        .pio_write(PM1A_EVT_PORT, &0x0100u16.to_le_bytes());
    assert_eq!(linux.interrupt(), Some(0x31), "requested before that");
    assert_eq!(linux.interrupt(), None);
}

#[test]
fn without_ioapic_the_pit_comes_through_the_8259() {
    let mut linux = Linux::boot();
    linux.wrmsr(0x835, 0x700);
    linux.machine.pio_write(0x21, &[0xfe]);
    for byte in [(0x43, 0x34), (0x40, 0xa5), (0x40, 0x12)] {
        linux.machine.pio_write(byte.0, &[byte.1]);
    }
    for _ in 0..3 {
        assert!(linux.machine.pending_interrupt());
        assert_eq!(linux.machine.take_interrupt(), Some(0x30));
        assert!(!linux.machine.pending_interrupt());
        linux.machine.pio_write(0x20, &[0x60]);
        linux.idle();
    }
    linux.wrmsr(0x835, 0x1_0700);
    assert!(!linux.machine.pending_interrupt());
    linux.redirect(0, 0x700);
    assert!(
        linux.machine.pending_interrupt(),
        "virtual wire through the IOAPIC"
    );
}

#[test]
fn serial_driver_sends_16_bytes_an_interrupt() {
    let mut linux = Linux::boot();
    linux.redirect(COM1_GSI, 0x34);
    let com1 = |offset| COM1_PORT + offset;
    linux.machine.pio_write(com1(2), &[0x81]);
    let text: Vec<u8> = (0..40).map(|i| b'a' + i % 26).collect();
    let (mut sent, mut interrupts) = (0, 0);
    linux.machine.pio_write(com1(1), &[0x02]);
    while let Some(vector) = linux.machine.take_interrupt() {
        assert_eq!(vector, 0x34);
        interrupts += 1;
        // serial8250_interrupt: until IIR names nothing.
        while linux.inb(com1(2)) & 1 == 0 {
            assert_eq!(linux.inb(com1(5)) & 0x60, 0x60);
            let end = text.len().min(sent + 16);
            if sent == end {
                linux.machine.pio_write(com1(1), &[0]);
            }
            while sent < end {
                linux.machine.pio_write(com1(0), &text[sent..=sent]);
                sent += 1;
            }
        }
        linux.wrmsr(EOI, 0);
    }
    let outputs: Vec<Effect> = linux.machine.effects().collect();
    let shown: Vec<u8> = outputs
        .iter()
        .flat_map(|effect| match effect {
            Effect::ConsoleOut {
                console: Console::Serial,
                bytes,
            } => bytes.clone(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(shown, text);
    assert_eq!(outputs.len(), 3);
    // The second is the edge that the first's own writes made.
    assert!(interrupts <= 2, "{interrupts}");
}

#[test]
fn serial_input_interrupts_and_polled_output_is_shown_in_time() {
    let mut linux = Linux::boot();
    linux.redirect(COM1_GSI, 0x34);
    linux.machine.pio_write(COM1_PORT + 1, &[0x01]);
    linux.input(Input::ConsoleIn {
        console: Console::Serial,
        bytes: b"q".to_vec(),
    });
    assert_eq!(linux.interrupt(), Some(0x34));
    assert_eq!(linux.inb(COM1_PORT), b'q');
    linux.machine.pio_write(COM1_PORT, b"r");
    assert!(!linux.machine.has_effects());
    linux.idle();
    let bytes = b"r".to_vec();
    let shown = Effect::ConsoleOut {
        console: Console::Serial,
        bytes,
    };
    assert_eq!(linux.machine.effects().collect::<Vec<_>>(), [shown]);
}

#[test]
fn rtc_alarm_is_irq_8() {
    let mut linux = Linux::boot();
    linux.redirect(RTC_GSI, 0x38);
    for (index, value) in [(0x01, 0xff), (0x03, 0xff), (0x05, 0xff), (0x0b, 0x22)] {
        linux.machine.pio_write(0x70, &[index]);
        linux.machine.pio_write(0x71, &[value]);
    }
    linux.idle();
    assert_eq!(linux.interrupt(), Some(0x38));
    assert_eq!(linux.interrupt(), None);
    linux.machine.pio_write(0x70, &[0x0c]);
    assert_eq!(linux.inb(0x71) & 0xa0, 0xa0);
}

#[test]
fn a_virtio_interrupt_works_as_level_and_as_edge() {
    for (entry, again) in [(0x8050, true), (0x0050, false)] {
        let mut linux = Linux::boot();
        linux.redirect(VIRTIO_GSI_BASE + 3, entry);
        let base = VIRTIO_MMIO_BASE + 3 * VIRTIO_MMIO_STRIDE;
        // A console driver with neither buffers nor sense: an available index beyond the queue
        // makes the device ask for its reset, which is a configuration change interrupt.
        for (offset, value) in [(0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
            linux.store(base + offset, value);
        }
        for (queue, at) in [(0, 0x1000), (1, 0x4000)] {
            linux.store(base + 0x30, queue);
            let size = linux.load(base + 0x34);
            for (offset, value) in [
                (0x38, size),
                (0x80, at),
                (0x90, at + 0x1000),
                (0xa0, at + 0x2000),
                (0x44, 1),
            ] {
                linux.store(base + offset, value);
            }
        }
        linux.store(base + 0x70, 15);
        use vm_memory::Bytes;
        linux
            .mem
            .write_obj(0x7fffu16, GuestAddress(0x5002))
            .unwrap();
        linux.store(base + 0x50, 1);
        assert_ne!(linux.load(base + 0x60), 0, "the interrupt status");
        assert_eq!(linux.interrupt(), Some(0x50));
        assert_eq!(linux.interrupt().is_some(), again);
        // Acknowledging something else leaves the line up, and is an edge.
        linux.interrupt();
        linux.store(base + 0x64, 1);
        assert_eq!(linux.interrupt(), Some(0x50));
        linux.store(base + 0x64, 2);
        linux.interrupt();
        assert_eq!(linux.interrupt(), None);
    }
}
