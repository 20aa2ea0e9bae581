//! Completions: in any order, after a reset or a fault, and what waits for them.

use super::super::super::error::VirtioError;
use super::super::super::spec::{feature, interrupt};
use super::super::super::testing::{Guest, WRITE};
use super::super::{IN_FLIGHT_BYTES_MAX, REQUEST_BYTES_MAX};
use super::*;
use crate::{DiskError, DiskOp, DiskOutcome, DiskRequest, Input};

#[test]
fn a_read_fills_its_buffers_at_completion_and_not_before() {
    let mut guest = start();
    let (head, addresses) = guest.add(0, &[&header(IN, 5)], &[512, 1024, 1]);
    guest.notify(0);
    let op = DiskOp::Read {
        offset: 5 * 512,
        len: 1536,
    };
    let expected = DiskRequest { disk: 3, id: 0, op };
    assert_eq!(requests(&mut guest), std::slice::from_ref(&expected));
    assert_eq!(guest.device.outstanding(), [expected]);
    assert_eq!(guest.used(0), []);
    assert_eq!(guest.take_interrupt(), 0);

    let data: Vec<u8> = (0..1536).map(|i| (i % 251) as u8).collect();
    guest
        .input(done(0, DiskOutcome::Read(data.clone())))
        .unwrap();
    assert_eq!(guest.bytes(addresses[0], 512), data[..512]);
    assert_eq!(guest.bytes(addresses[1], 1024), data[512..]);
    assert_eq!(guest.bytes(addresses[2], 1), [0]);
    assert_eq!(guest.used(0), [(u32::from(head), 1537)]);
    assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
    assert_eq!(guest.device.outstanding(), []);
}

#[test]
fn host_errors_reach_the_guest() {
    for (error, status) in [(DiskError::Io, 1), (DiskError::Unsupported, 2)] {
        let mut guest = start();
        let (_, addresses) = guest.add(0, &[&header(IN, 0)], &[512, 1]);
        guest.add(0, &[&header(FLUSH, 0)], &[1]);
        guest.notify(0);
        guest.input(done(0, DiskOutcome::Failed(error))).unwrap();
        guest.input(done(1, DiskOutcome::Failed(error))).unwrap();
        assert_eq!(guest.bytes(addresses[0], 512), [0xee; 512]);
        assert_eq!(guest.bytes(addresses[1], 1), [status]);
        assert_eq!(guest.used(0), [(0, 0), (3, 1)]);
    }
}

#[test]
fn a_write_is_stable_when_it_is_complete_if_the_driver_can_not_flush() {
    const FLUSHES: u64 = 1 << 9;
    for without in [FLUSHES, 0] {
        let mut guest = Guest::start(disk(), without);
        let (head, addresses) = guest.add(0, &[&header(OUT, 0), &[7; 512]], &[1]);
        guest.notify(0);
        assert!(matches!(requests(&mut guest)[0].op, DiskOp::Write { .. }));
        guest.input(done(0, DiskOutcome::Done)).unwrap();
        if without == FLUSHES {
            assert_eq!(guest.used(0), []);
            let flush = DiskRequest {
                disk: 3,
                id: 1,
                op: DiskOp::Flush,
            };
            assert_eq!(guest.device.outstanding(), std::slice::from_ref(&flush));
            assert_eq!(requests(&mut guest), [flush]);
            guest.input(done(1, DiskOutcome::Done)).unwrap();
        }
        assert_eq!(guest.used(0), [(u32::from(head), 1)]);
        assert_eq!(guest.bytes(addresses[0], 1), [0]);
        assert_eq!(requests(&mut guest), []);
    }
}

#[test]
fn inputs_that_fit_no_request_are_errors_and_change_nothing() {
    let mut guest = start();
    guest.add(0, &[&header(IN, 0)], &[512, 1]);
    guest.add(0, &[&header(FLUSH, 0)], &[1]);
    guest.notify(0);
    let before = guest.device.save();
    let (disk, id) = (3, 0);
    let cases = [
        (
            done(2, DiskOutcome::Done),
            VirtioError::UnknownRequest { disk, id: 2 },
        ),
        (
            done(0, DiskOutcome::Done),
            VirtioError::WrongOutcome { disk, id },
        ),
        (
            done(1, DiskOutcome::Read(vec![])),
            VirtioError::WrongOutcome { disk, id: 1 },
        ),
        (
            done(0, DiskOutcome::Read(vec![0; 511])),
            VirtioError::ReadLength {
                disk,
                id,
                found: 511,
                expected: 512,
            },
        ),
        (
            Input::DiskDone {
                disk: 0,
                id: 0,
                outcome: DiskOutcome::Done,
            },
            VirtioError::WrongDisk {
                found: 0,
                expected: 3,
            },
        ),
        (
            Input::PowerButton,
            VirtioError::Misrouted {
                device: "virtio-blk",
            },
        ),
    ];
    for (input, expected) in cases {
        assert_eq!(guest.input(input), Err(expected));
        assert_eq!(guest.device.save(), before);
    }
    guest.input(done(1, DiskOutcome::Done)).unwrap();
    let twice = guest.input(done(1, DiskOutcome::Done));
    assert_eq!(twice, Err(VirtioError::UnknownRequest { disk, id: 1 }));
}

#[test]
fn after_a_reset_old_completions_are_drained_before_new_requests() {
    let mut guest = start();
    let (_, old) = guest.add(0, &[&header(IN, 0)], &[512, 1]);
    guest.add(0, &[&header(OUT, 1), &[5; 512]], &[1]);
    guest.notify(0);
    assert_eq!(requests(&mut guest).len(), 2);

    guest.initialize(0);
    let (head, _) = guest.add(0, &[&header(FLUSH, 0)], &[1]);
    guest.notify(0);
    assert_eq!(requests(&mut guest), []);
    // Whoever goes live now must still carry the old ones out: the flush waits for them.
    assert_eq!(guest.device.outstanding().len(), 2);
    guest.move_to(disk());

    guest.input(done(1, DiskOutcome::Done)).unwrap();
    assert_eq!(requests(&mut guest), []);
    guest
        .input(done(0, DiskOutcome::Read(vec![1; 512])))
        .unwrap();
    assert_eq!(guest.bytes(old[0], 512), [0xee; 512]);
    assert_eq!(guest.bytes(old[1], 1), [0xee]);
    assert_eq!(guest.used(0), []);
    let expected = DiskRequest {
        disk: 3,
        id: 2,
        op: DiskOp::Flush,
    };
    assert_eq!(requests(&mut guest), [expected]);
    guest.input(done(2, DiskOutcome::Done)).unwrap();
    assert_eq!(guest.used(0), [(u32::from(head), 1)]);
    assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
}

#[test]
fn completions_after_a_fault_touch_no_memory() {
    let mut guest = start();
    let (_, addresses) = guest.add(0, &[&header(IN, 0)], &[512, 1]);
    guest.notify(0);
    guest.push_avail(0, u16::MAX);
    guest.notify(0);
    assert!(guest.device.fault().is_some());
    guest.move_to(disk());
    guest
        .input(done(0, DiskOutcome::Read(vec![1; 512])))
        .unwrap();
    assert_eq!(guest.bytes(addresses[0], 512), [0xee; 512]);
    assert_eq!(guest.used(0), []);
    assert_eq!(guest.device.outstanding(), []);
}

#[test]
fn data_in_flight_is_bounded_and_completions_take_up_the_rest() {
    for without in [0, feature::RING_EVENT_IDX] {
        let mut guest = Guest::start(disk(), without);
        let len = REQUEST_BYTES_MAX as u32;
        let area = guest.buffer(len as usize);
        let status = guest.buffer(1);
        let start_of_request = guest.buffer_with(&header(IN, 0));
        let descriptors = [
            (start_of_request, 16, 0),
            (area, len, WRITE),
            (status, 1, WRITE),
        ];
        for _ in 0..5 {
            guest.add_raw(0, &descriptors);
        }
        guest.notify(0);
        let fit = (IN_FLIGHT_BYTES_MAX / REQUEST_BYTES_MAX) as usize;
        assert_eq!(fit, 4);
        assert_eq!(requests(&mut guest).len(), fit);
        guest.notify(0);
        assert_eq!(requests(&mut guest), []);
        guest.move_to(disk());

        guest.set_used_event(0, 0);
        let outcome = DiskOutcome::Read(vec![0; len as usize]);
        guest.input(done(2, outcome)).unwrap();
        assert_eq!(guest.used(0).len(), 1);
        assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
        assert_eq!(
            requests(&mut guest)
                .iter()
                .map(|r| r.id)
                .collect::<Vec<_>>(),
            [4]
        );
    }
}

#[test]
fn a_driver_that_reuses_descriptors_in_flight_is_bounded_by_the_queue() {
    let mut guest = start();
    let start_of_request = guest.buffer_with(&header(FLUSH, 0));
    let status = guest.buffer(1);
    for _ in 0..100 {
        for _ in 0..8 {
            guest.add_raw(0, &[(start_of_request, 16, 0), (status, 1, WRITE)]);
        }
        guest.notify(0);
        if guest.device.fault().is_some() {
            break;
        }
    }
    assert!(guest.device.outstanding().len() <= 256);
    guest.move_to(disk());
}
