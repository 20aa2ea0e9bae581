//! Notification suppression, index arithmetic and limits, by way of the console, whose output
//! queue completes at once.

use super::super::console;
use super::super::error::{FaultReason, Ring};
use super::super::spec::{feature, interrupt};
use super::super::testing::{Guest, RING_SIZE};

const OUT: usize = 1;

#[test]
fn interrupts_follow_no_interrupt_without_event_idx() {
    let mut guest = Guest::start(console(), feature::RING_EVENT_IDX);
    let flags = guest.rings[OUT].avail;
    guest.put_u16(flags, 1);
    guest.add(OUT, &[b"x"], &[]);
    guest.notify(OUT);
    assert_eq!(guest.used(OUT).len(), 1);
    assert_eq!(guest.take_interrupt(), 0);

    guest.put_u16(flags, 0);
    guest.notify(OUT);
    assert_eq!(guest.take_interrupt(), 0, "nothing was used");
    guest.add(OUT, &[b"x"], &[]);
    guest.notify(OUT);
    assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
    assert_eq!(guest.take_interrupt(), 0);
}

#[test]
fn interrupts_follow_used_event_with_event_idx() {
    let mut guest = Guest::start(console(), 0);
    // Flags mean nothing now.
    guest.put_u16(guest.rings[OUT].avail, 1);
    guest.set_used_event(OUT, 2);
    for (chain, expected) in [(0, 0), (1, 0), (2, 1), (3, 0)] {
        guest.add(OUT, &[b"x"], &[]);
        guest.notify(OUT);
        assert_eq!(guest.take_interrupt(), expected, "after chain {chain}");
    }
    // A batch that passes the event raises one, wherever in the batch it lies.
    guest.set_used_event(OUT, 5);
    for _ in 0..4 {
        guest.add(OUT, &[b"x"], &[]);
    }
    guest.notify(OUT);
    assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
}

#[test]
fn indices_run_through_their_wrap_around() {
    let mut guest = Guest::start(console(), 0);
    let mut bytes = 0;
    for round in 0..0x1_0100_u32 {
        guest.set_used_event(OUT, round as u16);
        let ring = guest.rings[OUT];
        let at = ring.desc + 16 * u64::from(round as u16 % ring.size);
        guest.put_descriptor(at, 0x2000, 3, 0, 0);
        guest.push_avail(OUT, round as u16 % ring.size);
        guest.notify(OUT);
        assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
        assert_eq!(guest.avail_event(OUT), (round + 1) as u16);
        bytes += guest.take_effects().len() * 3;
    }
    assert_eq!(bytes, 0x1_0100 * 3);
    assert_eq!(guest.device.save().queues[OUT].next_used, 0x100);
}

#[test]
fn a_full_ring_is_taken_in_one_go_and_more_than_that_is_a_fault() {
    let mut guest = Guest::start(console(), 0);
    for _ in 0..RING_SIZE {
        guest.add(OUT, &[b"x"], &[]);
    }
    guest.notify(OUT);
    assert_eq!(guest.take_effects().len(), usize::from(RING_SIZE));
    let index = guest.rings[OUT].avail_idx.wrapping_add(RING_SIZE + 1);
    guest.put_u16(guest.rings[OUT].avail + 2, index);
    guest.notify(OUT);
    let claimed = RING_SIZE + 1;
    let fault = guest.device.fault().unwrap();
    assert_eq!(
        (fault.queue, fault.reason),
        (1, FaultReason::AvailableIndex { claimed })
    );
}

#[test]
fn memory_that_is_gone_is_a_fault_and_no_panic() {
    let mut guest = Guest::start(console(), 0);
    // A peer's state may name rings that are not in this machine's RAM.
    let mut state = guest.device.save();
    state.queues[OUT].avail_ring = u64::MAX - 1;
    guest.device.restore(state).unwrap();
    guest.notify(OUT);
    let reason = guest.device.fault().unwrap().reason;
    let (ring, address) = (Ring::Available, u64::MAX - 1);
    assert_eq!(reason, FaultReason::QueueAddress { ring, address });
}
