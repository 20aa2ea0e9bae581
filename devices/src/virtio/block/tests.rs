//! What the tests of virtio-blk share.

use super::super::testing::Guest;
use super::super::{VirtioMmio, block};
use super::DiskConfig;
use crate::{DiskOutcome, DiskRequest, Effect, Input};

mod completion;
mod request;
mod state;

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

fn disk() -> VirtioMmio {
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
