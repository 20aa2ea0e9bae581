use super::super::error::{FaultReason, VirtioError};
use super::super::spec::{feature, interrupt, reg};
use super::super::testing::{Guest, WRITE};
use super::super::{DeviceState, VirtioMmioState, block, console};
use super::{DiskConfig, IN_FLIGHT_BYTES_MAX, REQUEST_BYTES_MAX, Target};
use crate::{DiskError, DiskOp, DiskOutcome, DiskRequest, Effect, Input};

const CAPACITY: u64 = 1 << 30;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;

fn config() -> DiskConfig {
    DiskConfig {
        capacity_bytes: CAPACITY + 100,
        read_only: false,
        serial: "serial-0123".into(),
    }
}

fn disk() -> super::super::VirtioMmio {
    block(3, &config())
}

fn start() -> Guest {
    Guest::start(disk(), 0)
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

fn discard_range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut range = [0; 16];
    range[..8].copy_from_slice(&sector.to_le_bytes());
    range[8..12].copy_from_slice(&sectors.to_le_bytes());
    range[12..].copy_from_slice(&flags.to_le_bytes());
    range
}

/// The requests emitted since the last call.
fn requests(guest: &mut Guest) -> Vec<DiskRequest> {
    let request = |effect| match effect {
        Effect::Disk(request) => request,
        other => panic!("unexpected {other:?}"),
    };
    guest.take_effects().into_iter().map(request).collect()
}

fn done(id: u64, outcome: DiskOutcome) -> Input {
    Input::DiskDone {
        disk: 3,
        id,
        outcome,
    }
}

/// Submits a request that the device answers by itself; its status and used length.
fn answer(guest: &mut Guest, readable: &[&[u8]], writable: &[usize]) -> (u8, u32) {
    let (head, addresses) = guest.add(0, readable, writable);
    guest.notify(0);
    assert_eq!(requests(guest), []);
    assert_eq!(guest.device.fault(), None);
    let used = guest.used(0);
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].0, u32::from(head));
    let end = addresses.last().unwrap() + *writable.last().unwrap() as u64;
    (guest.bytes(end - 1, 1)[0], used[0].1)
}

#[test]
fn configuration_shows_the_disk() {
    let mut guest = Guest::cold(disk());
    assert_eq!(guest.read(reg::CONFIG), (CAPACITY / 512) as u32);
    assert_eq!(guest.read(reg::CONFIG + 4), 0);
    let (size_max, seg_max) = (guest.read(reg::CONFIG + 8), guest.read(reg::CONFIG + 12));
    assert!(u64::from(size_max) * u64::from(seg_max) <= REQUEST_BYTES_MAX);
    assert_eq!(guest.read(reg::CONFIG + 20), 512);
    // SIZE_MAX, SEG_MAX, BLK_SIZE, FLUSH, DISCARD.
    let bits = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 9 | 1 << 13;
    assert_eq!(guest.offered(), bits | feature::COMMON);

    let mut guest = Guest::cold(block(
        0,
        &DiskConfig {
            read_only: true,
            ..config()
        },
    ));
    let bits = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9;
    assert_eq!(guest.offered(), bits | feature::COMMON);
}

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
    assert_eq!(requests(&mut guest), [expected.clone()]);
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
fn a_write_carries_the_data_of_the_moment_of_the_notification() {
    let mut guest = start();
    let first = guest.buffer_with(&[1; 512]);
    let start_of_request = guest.buffer_with(&header(OUT, 2));
    let status = guest.buffer(1);
    let descriptors = [
        (start_of_request, 16, 0),
        (first, 512, 0),
        (first, 512, 0),
        (status, 1, WRITE),
    ];
    let head = guest.add_raw(0, &descriptors);
    guest.notify(0);
    guest.put_u16(first, 0xffff);
    let op = DiskOp::Write {
        offset: 1024,
        data: vec![1; 1024],
    };
    let expected = DiskRequest { disk: 3, id: 0, op };
    assert_eq!(requests(&mut guest), [expected.clone()]);
    assert_eq!(guest.device.outstanding(), [expected]);
    guest.input(done(0, DiskOutcome::Done)).unwrap();
    assert_eq!(guest.used(0), [(u32::from(head), 1)]);
    assert_eq!(guest.bytes(status, 1), [0]);
}

#[test]
fn flush_and_discard_are_emitted() {
    let mut guest = start();
    guest.add(0, &[&header(FLUSH, 0)], &[1]);
    guest.add(0, &[&header(DISCARD, 0), &discard_range(8, 16, 0)], &[1]);
    guest.notify(0);
    let ops: Vec<DiskOp> = requests(&mut guest)
        .into_iter()
        .map(|request| request.op)
        .collect();
    assert_eq!(
        ops,
        [
            DiskOp::Flush,
            DiskOp::Discard {
                offset: 8 * 512,
                len: 16 * 512
            }
        ]
    );
    // Complete in the other order.
    guest.input(done(1, DiskOutcome::Done)).unwrap();
    guest.input(done(0, DiskOutcome::Done)).unwrap();
    assert_eq!(guest.used(0), [(2, 1), (0, 1)]);
}

#[test]
fn get_id_gives_the_serial_padded() {
    for room in [0, 1, 20, 64] {
        let mut guest = start();
        let (_, addresses) = guest.add(0, &[&header(GET_ID, 0)], &[room + 1]);
        guest.notify(0);
        let mut expected = b"serial-0123\0\0\0\0\0\0\0\0\0".to_vec();
        expected.truncate(room);
        assert_eq!(guest.bytes(addresses[0], expected.len()), expected);
        assert_eq!(guest.bytes(addresses[0] + room as u64, 1), [0]);
        // Beyond 20 bytes there is a hole before the status.
        let written = if room > 20 { 20 } else { room as u32 + 1 };
        assert_eq!(guest.used(0), [(0, written)]);
    }
}

#[test]
fn framing_is_free() {
    let mut guest = start();
    // Header in three pieces, the last one with the data; status behind the data of a read.
    let whole = [header(OUT, 1).as_slice(), &[9; 512]].concat();
    guest.add(0, &[&whole[..1], &whole[1..15], &whole[15..]], &[1]);
    let (_, read) = guest.add(0, &[&header(IN, 1)], &[13, 500]);
    guest.notify(0);
    let ops: Vec<DiskOp> = requests(&mut guest)
        .into_iter()
        .map(|request| request.op)
        .collect();
    let write = DiskOp::Write {
        offset: 512,
        data: vec![9; 512],
    };
    assert_eq!(
        ops,
        [
            write,
            DiskOp::Read {
                offset: 512,
                len: 512
            }
        ]
    );
    guest
        .input(done(1, DiskOutcome::Read(vec![7; 512])))
        .unwrap();
    assert_eq!(guest.bytes(read[0], 13), [7; 13]);
    assert_eq!(guest.bytes(read[1], 500), [&[7; 499][..], &[0]].concat());
}

#[test]
fn requests_beyond_the_disk_or_of_odd_length_get_ioerr() {
    let last = CAPACITY / 512 - 1;
    let cases = [
        (last + 1, 512),
        (last, 1024),
        (0, 511),
        (0, 513),
        (u64::MAX, 512),
        (1 << 55, 512),
    ];
    for (sector, len) in cases {
        let mut guest = start();
        assert_eq!(
            answer(&mut guest, &[&header(IN, sector)], &[len, 1]),
            (1, 0)
        );
        let data = vec![0; len];
        assert_eq!(
            answer(&mut guest, &[&header(OUT, sector), &data], &[1]),
            (1, 1)
        );
    }
    let too_much = REQUEST_BYTES_MAX as usize + 512;
    let mut guest = start();
    assert_eq!(
        answer(&mut guest, &[&header(IN, 0)], &[too_much, 1]),
        (1, 0)
    );
    assert_eq!(
        answer(&mut guest, &[&header(OUT, 0), &vec![0; too_much]], &[1]),
        (1, 1)
    );
    for range in [
        discard_range(last, 2, 0),
        discard_range(0, 0, 0),
        discard_range(u64::MAX, 1, 0),
    ] {
        assert_eq!(
            answer(&mut guest, &[&header(DISCARD, 0), &range], &[1]),
            (1, 1)
        );
    }
    assert_eq!(
        answer(&mut guest, &[&header(DISCARD, 0), &[0; 15]], &[1]),
        (1, 1)
    );
    // Nothing to do is done.
    assert_eq!(answer(&mut guest, &[&header(IN, 0)], &[1]), (0, 1));
    assert_eq!(answer(&mut guest, &[&header(OUT, 0)], &[1]), (0, 1));
    // The last sector is there.
    guest.add(0, &[&header(IN, last)], &[512, 1]);
    guest.notify(0);
    assert_eq!(requests(&mut guest).len(), 1);
}

#[test]
fn unknown_requests_get_unsupp() {
    let mut guest = start();
    for kind in [2, 13, 0x8000_0000, u32::MAX] {
        assert_eq!(answer(&mut guest, &[&header(kind, 0)], &[1]), (2, 1));
        assert_eq!(answer(&mut guest, &[&header(kind, 0)], &[8, 1]), (2, 0));
    }
    let flags = discard_range(0, 1, 1);
    assert_eq!(
        answer(&mut guest, &[&header(DISCARD, 0), &flags], &[1]),
        (2, 1)
    );
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut guest = Guest::start(
        block(
            3,
            &DiskConfig {
                read_only: true,
                ..config()
            },
        ),
        0,
    );
    assert_eq!(
        answer(&mut guest, &[&header(OUT, 0), &[0; 512]], &[1]),
        (1, 1)
    );
    let range = discard_range(0, 1, 0);
    assert_eq!(
        answer(&mut guest, &[&header(DISCARD, 0), &range], &[1]),
        (2, 1)
    );
    guest.add(0, &[&header(IN, 0)], &[512, 1]);
    guest.notify(0);
    assert_eq!(requests(&mut guest).len(), 1);
}

#[test]
fn chains_that_are_no_request_are_faults() {
    for (readable, writable) in [(16, 0), (15, 1), (0, 1)] {
        let mut guest = start();
        let sizes: &[usize] = if writable == 0 { &[] } else { &[1] };
        guest.add(0, &[&vec![0; readable]], sizes);
        guest.notify(0);
        let reason = FaultReason::RequestShape {
            readable: readable as u64,
            writable,
        };
        assert_eq!(guest.device.fault().unwrap().reason, reason);
    }
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

#[test]
fn a_saved_device_goes_on_in_the_middle_of_requests() {
    let mut guest = start();
    let (read, addresses) = guest.add(0, &[&header(IN, 7)], &[100, 412, 1]);
    let (write, _) = guest.add(0, &[&header(OUT, 9), &[3; 512]], &[1]);
    guest.notify(0);
    let before = guest.device.outstanding();
    assert_eq!(before, requests(&mut guest));
    guest.move_to(disk());
    assert_eq!(guest.device.outstanding(), before);
    guest.input(done(1, DiskOutcome::Done)).unwrap();
    guest
        .input(done(0, DiskOutcome::Read(vec![8; 512])))
        .unwrap();
    assert_eq!(
        guest.used(0),
        [(u32::from(write), 1), (u32::from(read), 513)]
    );
    assert_eq!(guest.bytes(addresses[1], 412), [8; 412]);
    guest.add(0, &[&header(FLUSH, 0)], &[1]);
    guest.notify(0);
    assert_eq!(requests(&mut guest)[0].id, 2);
}

/// The message with which a state is refused after `change`.
fn refused(guest: &Guest, change: impl FnOnce(&mut VirtioMmioState)) -> String {
    let mut state = guest.device.save();
    change(&mut state);
    let mut fresh = disk();
    let cold = fresh.save();
    let error = fresh.restore(state).unwrap_err();
    assert_eq!(fresh.save(), cold, "a refused state must change nothing");
    error.to_string()
}

#[test]
fn states_that_cannot_be_are_refused_by_the_name_of_the_field() {
    let mut guest = start();
    guest.add(0, &[&header(IN, 7)], &[512, 1]);
    guest.add(0, &[&header(OUT, 9), &[3; 512]], &[1]);
    guest.notify(0);
    let refused = |field: &str, change: &dyn Fn(&mut VirtioMmioState)| {
        let message = refused(&guest, change);
        assert!(message.contains("virtio-blk"), "{message}");
        assert!(
            message.contains(&format!("field {field} ")),
            "{field}: {message}"
        );
    };
    refused("status", &|state| state.transport.status |= 1 << 20);
    refused("status", &|state| state.transport.status &= !8);
    refused("driver_features", &|state| {
        state.transport.driver_features |= 1 << 50
    });
    refused("driver_features", &|state| {
        state.transport.driver_features &= !feature::VERSION_1
    });
    refused("interrupt_status", &|state| {
        state.transport.interrupt_status = 4
    });
    refused("fault", &|state| state.transport.status |= 64);
    refused("queues", &|state| state.queues.clear());
    refused("queue.size", &|state| state.queues[0].size = 0);
    refused("queue.size", &|state| state.queues[0].size = 24);
    refused("queue.size", &|state| state.queues[0].size = 512);
    refused("queue.desc_table", &|state| state.queues[0].desc_table += 8);
    refused("queue.avail_ring", &|state| state.queues[0].avail_ring += 1);
    refused("queue.used_ring", &|state| state.queues[0].used_ring += 2);
    refused("queue.next_avail", &|state| state.queues[0].ready = false);
    refused("device", &|state| state.device = console().save().device);

    type Change<'a> = &'a dyn Fn(&mut super::BlockState);
    let refused = |field: &str, change: Change<'_>| {
        refused(field, &|state| match &mut state.device {
            DeviceState::Block(block) => change(block),
            _ => unreachable!(),
        });
    };
    refused("disk", &|block| block.disk = 0);
    refused("config", &|block| block.config.capacity_bytes -= 1);
    refused("config", &|block| block.config.serial.push('x'));
    refused("next_id", &|block| block.next_id = 1);
    refused("next_id", &|block| block.next_id = u64::MAX);
    refused("in_flight", &|block| {
        let flush = block.in_flight[&0].clone();
        block
            .in_flight
            .extend((2..300).map(|id| (id, flush.clone())));
        block.next_id = 300;
    });
    let set_op = |op: DiskOp| {
        move |block: &mut super::BlockState| {
            block.in_flight.get_mut(&0).unwrap().op = op.clone();
        }
    };
    refused(
        "in_flight.op",
        &set_op(DiskOp::Read {
            offset: 1,
            len: 512,
        }),
    );
    refused("in_flight.op", &set_op(DiskOp::Read { offset: 0, len: 0 }));
    refused(
        "in_flight.op",
        &set_op(DiskOp::Write {
            offset: CAPACITY,
            data: vec![0; 512],
        }),
    );
    refused(
        "in_flight.op",
        &set_op(DiskOp::Discard {
            offset: 0,
            len: u64::MAX,
        }),
    );
    refused(
        "in_flight.op",
        &set_op(DiskOp::Discard { offset: 0, len: 0 }),
    );
    // The room for the data is no longer the read's.
    refused(
        "in_flight.target",
        &set_op(DiskOp::Read {
            offset: 0,
            len: 1024,
        }),
    );
    refused("in_flight.target", &set_op(DiskOp::Flush));
    let set_target = |id: u64, change: &'static dyn Fn(&mut Option<Target>)| {
        move |block: &mut super::BlockState| {
            change(&mut block.in_flight.get_mut(&id).unwrap().target);
        }
    };
    refused(
        "in_flight.target",
        &set_target(0, &|target| target.as_mut().unwrap().head = 16),
    );
    refused("in_flight.target", &set_target(1, &|target| *target = None));
}

#[test]
fn requests_of_a_driver_that_is_gone_cannot_be_restored_with_a_target() {
    let mut guest = start();
    guest.add(0, &[&header(FLUSH, 7)], &[1]);
    guest.notify(0);
    let message = refused(&guest, |state| {
        let cold = disk().save();
        state.transport = cold.transport;
        state.queues = cold.queues;
    });
    assert!(message.contains("in_flight.target"), "{message}");
    // A driver that gives up sets FAILED: its requests are let go of, and that can be restored.
    guest.add_status(128);
    guest.move_to(disk());
    guest.input(done(0, DiskOutcome::Done)).unwrap();
}
