use super::super::error::{FaultReason, VirtioError};
use super::super::spec::interrupt;
use super::super::testing::Guest;
use super::super::{DeviceState, console};
use super::{ConsoleState, INPUT_BYTES_MAX, OUTPUT_BYTES_MAX};
use crate::{Console, Effect, Input};

const RX: usize = 0;
const TX: usize = 1;

fn start() -> Guest {
    Guest::start(console(), 0)
}

fn type_in(guest: &mut Guest, bytes: &[u8]) {
    let (console, bytes) = (Console::Virtio, bytes.to_vec());
    guest.input(Input::ConsoleIn { console, bytes }).unwrap();
}

fn state(guest: &Guest) -> ConsoleState {
    match guest.device.save().device {
        DeviceState::Console(state) => state,
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn output_leaves_at_the_notification() {
    let mut guest = start();
    guest.add(TX, &[b"log", b"in: "], &[]);
    guest.add(TX, &[b""], &[]);
    guest.notify(TX);
    let bytes = b"login: ".to_vec();
    let console = Console::Virtio;
    assert_eq!(
        guest.take_effects(),
        [Effect::ConsoleOut { console, bytes }]
    );
    assert_eq!(guest.used(TX), [(0, 0), (2, 0)]);
    assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
}

#[test]
fn output_beyond_the_bound_is_a_fault() {
    let mut guest = start();
    guest.add(TX, &[&[b'x'; OUTPUT_BYTES_MAX as usize]], &[]);
    guest.notify(TX);
    assert_eq!(guest.take_effects().len(), 1);
    guest.add(TX, &[&[b'x'; OUTPUT_BYTES_MAX as usize], b"x"], &[]);
    guest.notify(TX);
    let readable = OUTPUT_BYTES_MAX + 1;
    let reason = FaultReason::RequestShape {
        readable,
        writable: 0,
    };
    assert_eq!(guest.device.fault().unwrap().reason, reason);
}

#[test]
fn input_waits_for_buffers_and_fills_them_in_order() {
    let mut guest = start();
    type_in(&mut guest, b"root\n");
    assert_eq!(guest.avail_event(RX), 0, "a buffer is news now");
    guest.move_to(console());
    let (_, first) = guest.add(RX, &[], &[2, 1]);
    let (_, second) = guest.add(RX, &[], &[16]);
    guest.notify(RX);
    assert_eq!(guest.bytes(first[0], 2), b"ro");
    assert_eq!(guest.bytes(first[1], 1), b"o");
    assert_eq!(guest.bytes(second[0], 2), b"t\n");
    assert_eq!(guest.used(RX), [(0, 3), (2, 2)]);
    assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
    assert_eq!(state(&guest).input, b"");
    assert_eq!(guest.avail_event(RX), 0, "no need to hear of buffers");

    let (_, third) = guest.add(RX, &[], &[16]);
    type_in(&mut guest, b"x");
    assert_eq!(guest.bytes(third[0], 1), b"x");
}

#[test]
fn input_nobody_reads_is_bounded() {
    let mut guest = Guest::cold(console());
    type_in(&mut guest, &vec![b'a'; INPUT_BYTES_MAX - 1]);
    type_in(&mut guest, b"bcd");
    let ConsoleState {
        input,
        input_bytes_dropped,
    } = state(&guest);
    assert_eq!((input.len(), input_bytes_dropped), (INPUT_BYTES_MAX, 2));
    guest.initialize(0);
    assert_eq!(state(&guest).input.len(), 0, "a reset clears it");
}

#[test]
fn receive_buffers_without_room_are_faults() {
    let mut guest = start();
    guest.add(RX, &[b"not for reading"], &[]);
    type_in(&mut guest, b"x");
    assert!(guest.device.fault().is_some());
}

#[test]
fn inputs_for_another_device_are_errors() {
    let mut guest = start();
    let (console_serial, bytes) = (Console::Serial, vec![b'x']);
    for input in [
        Input::ConsoleIn {
            console: console_serial,
            bytes,
        },
        Input::PowerButton,
    ] {
        let device = "virtio-console";
        assert_eq!(guest.input(input), Err(VirtioError::Misrouted { device }));
    }
}

#[test]
fn too_much_saved_input_is_refused() {
    let mut saved = start().device.save();
    saved.device = DeviceState::Console(ConsoleState {
        input: vec![0; INPUT_BYTES_MAX + 1],
        input_bytes_dropped: 0,
    });
    let message = console().restore(saved).unwrap_err().to_string();
    assert!(
        message.contains("virtio-console: field input "),
        "{message}"
    );
}
