//! From a descriptor chain to a request, or to an answer at once.

use super::super::super::block;
use super::super::super::error::FaultReason;
use super::super::super::spec::{feature, reg};
use super::super::super::testing::{Guest, WRITE};
use super::super::{DiskConfig, REQUEST_BYTES_MAX};
use super::*;
use crate::{DiskOp, DiskOutcome, DiskRequest};

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
    assert_eq!(requests(&mut guest), std::slice::from_ref(&expected));
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
