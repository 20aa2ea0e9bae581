use super::super::error::{FaultReason, VirtioError};
use super::super::spec::{feature, interrupt};
use super::super::testing::{Guest, RING_SIZE};
use super::super::{DeviceState, VirtioMmio, net};
use super::{FEATURE_MRG_RXBUF, FRAME_BYTES_MAX, FRAME_BYTES_MIN, NetConfig, NetState};
use crate::{Effect, Input};

const RX: usize = 0;
const TX: usize = 1;
/// A header of a received frame in `buffers` buffers.
const fn header(buffers: u8) -> [u8; 12] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, buffers, 0]
}

fn card() -> VirtioMmio {
    net(&NetConfig {
        mac: [2, 0, 0, 0, 0, 7],
    })
}

fn start() -> Guest {
    Guest::start(card(), 0)
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 253) as u8).collect()
}

fn receive(guest: &mut Guest, frame: &[u8]) {
    guest
        .input(Input::NetRx {
            frame: frame.to_vec(),
        })
        .unwrap();
    assert_eq!(guest.device.fault(), None);
}

fn state(guest: &Guest) -> NetState {
    match guest.device.save().device {
        DeviceState::Net(state) => state,
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn frames_sent_leave_at_the_notification() {
    let mut guest = start();
    let (first, second) = (frame(60), frame(1514));
    guest.add(TX, &[&header(0), &first], &[]);
    // Header and frame in one buffer, and cut elsewhere.
    let whole = [header(0).as_slice(), &second].concat();
    guest.add(TX, &[&whole[..5], &whole[5..100], &whole[100..]], &[]);
    guest.notify(TX);
    let sent = |frame: &Vec<u8>| Effect::NetTx {
        frame: frame.clone(),
    };
    assert_eq!(guest.take_effects(), [sent(&first), sent(&second)]);
    assert_eq!(guest.used(TX), [(0, 0), (2, 0)]);
    assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
    assert_eq!(guest.avail_event(TX), 2);
}

#[test]
fn frames_no_segment_carries_are_dropped_and_their_buffers_returned() {
    let mut guest = start();
    for len in [0, FRAME_BYTES_MIN - 1, FRAME_BYTES_MAX + 1] {
        guest.add(TX, &[&header(0), &frame(len)], &[]);
    }
    guest.add(TX, &[&header(0), &frame(FRAME_BYTES_MAX)], &[]);
    guest.notify(TX);
    assert_eq!(guest.take_effects().len(), 1);
    assert_eq!(guest.used(TX).len(), 4);
    assert_eq!(state(&guest).tx_frames_dropped, 3);

    guest.add(TX, &[&header(0)[..11]], &[]);
    guest.notify(TX);
    let reason = FaultReason::RequestShape {
        readable: 11,
        writable: 0,
    };
    assert_eq!(guest.device.fault().unwrap().reason, reason);
}

#[test]
fn a_received_frame_fills_a_buffer() {
    for without in [0, FEATURE_MRG_RXBUF, feature::RING_EVENT_IDX] {
        let mut guest = Guest::start(card(), without);
        assert!(!guest.device.can_accept_rx());
        let (head, addresses) = guest.add(RX, &[], &[12, 1514]);
        guest.notify(RX);
        assert!(guest.device.can_accept_rx());
        let bytes = frame(1000);
        receive(&mut guest, &bytes);
        assert_eq!(guest.bytes(addresses[0], 12), header(1));
        assert_eq!(guest.bytes(addresses[1], 1000), bytes);
        assert_eq!(guest.bytes(addresses[1] + 1000, 514), [0xee; 514]);
        assert_eq!(guest.used(RX), [(u32::from(head), 1012)]);
        assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
        assert!(!guest.device.can_accept_rx());
    }
}

#[test]
fn a_long_frame_is_spread_over_merged_buffers() {
    let mut guest = start();
    let mut heads = Vec::new();
    let mut addresses = Vec::new();
    for _ in 0..4 {
        let (head, address) = guest.add(RX, &[], &[400]);
        heads.push(u32::from(head));
        addresses.push(address[0]);
    }
    let bytes = frame(1000);
    receive(&mut guest, &bytes);
    assert_eq!(
        guest.used(RX),
        [(heads[0], 400), (heads[1], 400), (heads[2], 212)]
    );
    let mut all = Vec::new();
    for address in &addresses[..3] {
        all.extend(guest.bytes(*address, 400));
    }
    assert_eq!(all[..12], header(3));
    assert_eq!(all[12..1012], bytes);
    // One buffer is left: a frame too long for it is lost, and the buffer is not.
    receive(&mut guest, &bytes);
    assert_eq!(guest.used(RX), []);
    assert!(guest.device.can_accept_rx());
    receive(&mut guest, &frame(388));
    assert_eq!(guest.used(RX), [(heads[3], 400)]);
    assert_eq!(state(&guest).rx_frames_dropped, 1);
}

#[test]
fn without_merging_a_frame_too_long_for_its_buffer_is_dropped() {
    let mut guest = Guest::start(card(), FEATURE_MRG_RXBUF);
    guest.add(RX, &[], &[400]);
    receive(&mut guest, &frame(389));
    assert_eq!(guest.used(RX), []);
    assert_eq!(state(&guest).rx_frames_dropped, 1);
    // The buffer was put back.
    receive(&mut guest, &frame(388));
    assert_eq!(guest.used(RX).len(), 1);
}

#[test]
fn frames_without_driver_or_buffer_are_dropped_and_counted() {
    let mut guest = Guest::cold(card());
    receive(&mut guest, &frame(60));
    guest.initialize(0);
    receive(&mut guest, &frame(60));
    assert_eq!(state(&guest).rx_frames_dropped, 2);
    assert_eq!(guest.take_interrupt(), 0);
}

#[test]
fn the_driver_notifies_of_receive_buffers_only_while_there_are_none() {
    let mut guest = start();
    assert_eq!(guest.avail_event(RX), 0);
    for _ in 0..3 {
        guest.add(RX, &[], &[1526]);
    }
    guest.notify(RX);
    for left in [2, 1] {
        receive(&mut guest, &frame(60));
        assert_eq!(guest.avail_event(RX), 0, "{left} are left");
    }
    receive(&mut guest, &frame(60));
    assert_eq!(guest.avail_event(RX), 3);

    let mut guest = Guest::start(card(), feature::RING_EVENT_IDX);
    let flags = guest.rings[RX].used;
    guest.add(RX, &[], &[1526]);
    guest.notify(RX);
    assert_eq!(guest.get_u16(flags), 1);
    receive(&mut guest, &frame(60));
    assert_eq!(guest.get_u16(flags), 0);
}

#[test]
fn receive_buffers_without_room_for_a_header_are_a_fault() {
    for sizes in [&[11][..], &[300, 300]] {
        let mut guest = start();
        guest.add(RX, &[b"readable only"], &[]);
        guest.add(RX, &[], sizes);
        guest.input(Input::NetRx { frame: frame(60) }).unwrap();
        assert!(matches!(
            guest.device.fault().unwrap().reason,
            FaultReason::RequestShape { .. }
        ));
        assert!(!guest.device.can_accept_rx());
    }
}

#[test]
fn inputs_that_are_no_frame_are_errors() {
    let mut guest = start();
    guest.add(RX, &[], &[1526]);
    let before = guest.device.save();
    for len in [0, FRAME_BYTES_MIN - 1, FRAME_BYTES_MAX + 1] {
        let error = guest.input(Input::NetRx { frame: frame(len) });
        assert_eq!(error, Err(VirtioError::FrameLength { len }));
    }
    let error = guest.input(Input::PowerButton);
    assert_eq!(
        error,
        Err(VirtioError::Misrouted {
            device: "virtio-net"
        })
    );
    assert_eq!(guest.device.save(), before);
}

#[test]
fn a_saved_card_goes_on_and_another_one_is_refused() {
    let mut guest = start();
    for _ in 0..RING_SIZE {
        guest.add(RX, &[], &[1526]);
    }
    guest.notify(RX);
    receive(&mut guest, &frame(60));
    guest.move_to(card());
    assert!(guest.device.can_accept_rx());
    receive(&mut guest, &frame(60));
    assert_eq!(guest.used(RX).len(), 2);

    let saved = guest.device.save();
    let mut other = net(&NetConfig {
        mac: [2, 0, 0, 0, 0, 8],
    });
    let message = other.restore(saved.clone()).unwrap_err().to_string();
    assert!(message.contains("virtio-net: field config"), "{message}");
    let mut impossible = saved;
    let DeviceState::Net(net_state) = &mut impossible.device else {
        unreachable!()
    };
    net_state.rx_buffers = 257;
    let message = card().restore(impossible).unwrap_err().to_string();
    assert!(message.contains("rx_buffers"), "{message}");
}
