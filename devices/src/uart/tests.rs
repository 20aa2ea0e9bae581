use super::*;

fn write(uart: &mut Uart, offset: u16, value: u8) -> Vec<Effect> {
    let mut effects = Vec::new();
    uart.write(offset, value, 0, &mut effects);
    effects
}

fn read(uart: &mut Uart, offset: u16) -> u8 {
    uart.read(offset, &mut Vec::new())
}

fn serial(bytes: &[u8]) -> Effect {
    Effect::ConsoleOut {
        console: Console::Serial,
        bytes: bytes.to_vec(),
    }
}

/// Linux's serial8250 driver with its FIFOs on.
fn linux_uart() -> Uart {
    let mut uart = Uart::default();
    for (offset, value) in [
        (LCR, 0x13),
        (IIR_FCR, 0x01),
        (IIR_FCR, 0x07),
        (IIR_FCR, 0x81),
    ] {
        write(&mut uart, offset, value);
    }
    uart
}

#[test]
fn linux_autoconfig_finds_a_16550a() {
    let mut uart = Uart::default();
    // autoconfig: IER keeps only its four bits, loopback mirrors the modem lines.
    write(&mut uart, IER, 0);
    assert_eq!(read(&mut uart, IER), 0);
    write(&mut uart, IER, 0x0f);
    assert_eq!(read(&mut uart, IER) & 0x0f, 0x0f);
    write(&mut uart, IER, 0);
    write(&mut uart, MCR, 0x1a);
    assert_eq!(read(&mut uart, MSR) & 0xf0, 0x90);
    write(&mut uart, MCR, 0);
    // No EFR behind LCR = BFh, FIFOs after the enabling, no 64-byte FIFO.
    write(&mut uart, LCR, 0xbf);
    assert_ne!(read(&mut uart, IIR_FCR), 0);
    write(&mut uart, LCR, 0);
    write(&mut uart, IIR_FCR, 0x01);
    assert_eq!(read(&mut uart, IIR_FCR) >> 6, 3);
    write(&mut uart, LCR, 0x80);
    write(&mut uart, IIR_FCR, 0x21);
    assert_eq!(read(&mut uart, IIR_FCR) >> 5, 6);
    write(&mut uart, LCR, 0);
    write(&mut uart, SCRATCH, 0x5a);
    assert_eq!(read(&mut uart, SCRATCH), 0x5a);
}

#[test]
fn linux_startup_finds_no_transmit_bug() {
    let mut uart = linux_uart();
    // THRE test of serial8250_do_startup: the interrupt must be reasserted.
    write(&mut uart, IER, IER_TRANSMIT);
    assert_eq!(read(&mut uart, IIR_FCR) & 0x0f, IIR_TRANSMIT);
    write(&mut uart, IER, 0);
    write(&mut uart, IER, IER_TRANSMIT);
    assert_eq!(read(&mut uart, IIR_FCR) & 0x0f, IIR_TRANSMIT);
    assert_eq!(read(&mut uart, IIR_FCR) & 0x0f, IIR_NONE);
}

#[test]
fn sixteen_bytes_leave_as_one_output() {
    let mut uart = linux_uart();
    for _ in 0..15 {
        assert_eq!(write(&mut uart, DATA, b'x'), []);
    }
    assert_eq!(write(&mut uart, DATA, b'x'), [serial(&[b'x'; 16])]);
    assert_eq!(uart.next_deadline(), None);
}

#[test]
fn bytes_leave_when_the_guest_looks_or_time_passes() {
    let mut uart = linux_uart();
    write(&mut uart, DATA, b'a');
    let mut effects = Vec::new();
    assert_eq!(uart.read(LSR, &mut effects), LSR_EMPTY);
    assert_eq!(effects, [serial(b"a")]);
    write(&mut uart, DATA, b'b');
    effects.clear();
    uart.advance(TRANSMIT_DELAY_NS - 1, &mut effects);
    assert_eq!(effects, []);
    assert_eq!(uart.next_deadline(), Some(TRANSMIT_DELAY_NS));
    uart.advance(TRANSMIT_DELAY_NS, &mut effects);
    assert_eq!(effects, [serial(b"b")]);
}

#[test]
fn transmit_interrupt_follows_each_write_and_ends_at_the_look() {
    let mut uart = linux_uart();
    write(&mut uart, IER, IER_TRANSMIT);
    assert!(uart.irq());
    read(&mut uart, IIR_FCR);
    assert!(!uart.irq());
    write(&mut uart, DATA, b'a');
    assert!(uart.irq());
    write(&mut uart, IER, 0);
    assert!(!uart.irq());
}

#[test]
fn input_interrupts_until_read() {
    let mut uart = linux_uart();
    write(&mut uart, IER, IER_RECEIVE);
    uart.receive(b"ab");
    assert!(uart.irq());
    assert_eq!(read(&mut uart, IIR_FCR) & 0x0f, IIR_TIMEOUT);
    assert_eq!(read(&mut uart, LSR) & LSR_DATA, LSR_DATA);
    assert_eq!((read(&mut uart, DATA), read(&mut uart, DATA)), (b'a', b'b'));
    assert!(!uart.irq());
    uart.receive(&[0; 8]);
    assert_eq!(read(&mut uart, IIR_FCR) & 0x0f, IIR_RECEIVE);
}

#[test]
fn input_is_bounded() {
    let mut uart = Uart::default();
    uart.receive(&vec![1; INPUT_BYTES_MAX + 5]);
    assert_eq!(uart.input_room(), 0);
    assert_eq!(uart.validate(0), Ok(()));
}

#[test]
fn loopback_returns_bytes_and_sends_none() {
    let mut uart = linux_uart();
    write(&mut uart, MCR, MCR_LOOP);
    assert_eq!(write(&mut uart, DATA, 0x42), []);
    assert_eq!(read(&mut uart, DATA), 0x42);
    assert_eq!(uart.next_deadline(), None);
}

#[test]
fn divisor_is_behind_the_latch_bit() {
    let mut uart = Uart::default();
    write(&mut uart, LCR, 0x83);
    write(&mut uart, DATA, 1);
    write(&mut uart, IER, 2);
    assert_eq!((read(&mut uart, DATA), read(&mut uart, IER)), (1, 2));
    write(&mut uart, LCR, 0x03);
    assert_eq!(read(&mut uart, IER), 0);
}

#[test]
fn impossible_states_are_refused() {
    let uart = Uart {
        fcr: 0xc0,
        ..Uart::default()
    };
    assert_eq!(uart.validate(0), Err(RestoreError::field("uart", "fcr")));
    let uart = Uart {
        transmit_at: Some(5),
        ..Uart::default()
    };
    assert_eq!(
        uart.validate(0),
        Err(RestoreError::field("uart", "transmit_at"))
    );
}
