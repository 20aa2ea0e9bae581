//! Save and restore in the middle of requests, and states that cannot be.

use super::super::super::spec::feature;
use super::super::super::testing::Guest;
use super::super::super::{DeviceState, VirtioMmioState, console};
use super::super::{BlockState, Target};
use super::*;
use crate::{DiskOp, DiskOutcome};

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

    type Change<'a> = &'a dyn Fn(&mut BlockState);
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
        move |block: &mut BlockState| {
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
        move |block: &mut BlockState| {
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
