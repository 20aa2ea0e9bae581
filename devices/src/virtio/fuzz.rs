//! Hostile drivers and hostile states at random: nothing panics, nothing grows without bound, and
//! a device that is saved and restored at any point stays equal to one that was not.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::spec::reg;
use super::testing::{Guest, RAM_BYTES, RING_SIZE};
use super::{DiskConfig, NetConfig, VirtioMmio, VirtioMmioState, block, console, net, rng};
use crate::{Console, DiskError, DiskOp, DiskOutcome, DiskRequest, Effect, Input};

/// Most data in flight that a guest may make the host hold: 16 MiB and the request that reached
/// the bound.
const IN_FLIGHT_BYTES: usize = 20 << 20;
/// Where random addresses mostly fall; rings included.
const PLAYGROUND_BYTES: u64 = 1 << 20;

/// Something that happens to a device.
#[derive(Debug, Clone)]
enum Step {
    Initialize {
        without: u64,
    },
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    Read {
        offset: u64,
        len: usize,
    },
    Poke {
        address: u64,
        bytes: Vec<u8>,
    },
    Descriptor {
        queue: usize,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    },
    Header {
        address: u64,
        kind: u32,
        sector: u64,
    },
    Available {
        queue: usize,
        head: u16,
    },
    Notify {
        queue: usize,
    },
    Feed(Input),
    /// The host completes the request that has waited longest but `nth`.
    Complete {
        nth: usize,
        fails: bool,
    },
    SaveAndRestore,
}

fn device(kind: u8) -> VirtioMmio {
    match kind {
        0 => {
            let config = DiskConfig {
                capacity_bytes: 1 << 20,
                read_only: false,
                serial: "fuzzed".into(),
            };
            block(0, &config)
        }
        1 => net(&NetConfig { mac: [2; 6] }),
        2 => rng(),
        _ => console(),
    }
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => 0..PLAYGROUND_BYTES,
        1 => RAM_BYTES - 64..RAM_BYTES + 64,
        1 => any::<u64>(),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..1600);
    let outcome = prop_oneof![
        bytes().prop_map(DiskOutcome::Read),
        Just(DiskOutcome::Done),
        Just(DiskOutcome::Failed(DiskError::Unsupported)),
    ];
    prop_oneof![
        bytes().prop_map(|frame| Input::NetRx { frame }),
        bytes().prop_map(|bytes| Input::Entropy { bytes }),
        bytes().prop_map(|bytes| Input::ConsoleIn {
            console: Console::Virtio,
            bytes
        }),
        (0_u8..2, 0_u64..8, outcome).prop_map(|(disk, id, outcome)| Input::DiskDone {
            disk,
            id,
            outcome
        }),
        Just(Input::PowerButton),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0_usize..2;
    let len = prop_oneof![
        8 => prop::sample::select(vec![1_u32, 16, 512, 1024, 4096]),
        2 => 0_u32..70_000,
        1 => any::<u32>(),
    ];
    let descriptor = (
        0_usize..2,
        0..RING_SIZE,
        address(),
        len,
        0_u16..8,
        0..=RING_SIZE,
    );
    let kind = prop::sample::select(vec![0_u32, 0, 1, 1, 4, 8, 11, 13]);
    prop_oneof![
        2 => prop::sample::select(vec![0, 1 << 28, 1 << 29, 3 << 28, 1 << 15])
            .prop_map(|without| Step::Initialize { without }),
        1 => (0_u64..0x140, prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(offset, data)| Step::Write { offset, data }),
        1 => (prop::sample::select(vec![reg::QUEUE_SEL, reg::QUEUE_READY, reg::STATUS,
                reg::QUEUE_NUM, reg::INTERRUPT_ACK]), 0_u32..256)
            .prop_map(|(offset, value)| Step::Write { offset, data: value.to_le_bytes().into() }),
        1 => (0_u64..0x1100, 0_usize..9).prop_map(|(offset, len)| Step::Read { offset, len }),
        1 => (0..PLAYGROUND_BYTES - 64, prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(address, bytes)| Step::Poke { address, bytes }),
        12 => descriptor.prop_map(|(queue, index, address, len, flags, next)| {
            // Mostly no indirect tables, whose contents are mostly zero.
            let flags = if flags & 4 != 0 && index % 4 != 0 { flags & 3 } else { flags };
            Step::Descriptor { queue, index, address, len, flags, next }
        }),
        3 => (0..PLAYGROUND_BYTES - 64, kind, 0_u64..2200)
            .prop_map(|(address, kind, sector)| Step::Header { address, kind, sector }),
        12 => (queue.clone(), 0..RING_SIZE)
            .prop_map(|(queue, head)| Step::Available { queue, head }),
        8 => queue.prop_map(|queue| Step::Notify { queue }),
        4 => input().prop_map(Step::Feed),
        4 => (0_usize..4, any::<bool>()).prop_map(|(nth, fails)| Step::Complete { nth, fails }),
        3 => Just(Step::SaveAndRestore),
    ]
}

/// A disk request that is mostly right, and the like for the other devices: three descriptors,
/// a header in the first. Random steps alone seldom get that far.
fn likely() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop::sample::select(vec![0_u32, 0, 1, 1, 4, 8, 11]);
    (0_u16..13, kind, 0_u64..2100, 1_u32..9, 0_usize..2).prop_map(
        |(head, kind, sector, sectors, queue)| {
            let at = 0x8_0000 + 0x1_0000 * u64::from(head % 4);
            let data_flags = if kind == 0 { 3 } else { 1 };
            let descriptor = |index, address, len, flags| Step::Descriptor {
                queue,
                index,
                address,
                len,
                flags,
                next: index + 1,
            };
            vec![
                Step::Header {
                    address: at,
                    kind,
                    sector,
                },
                descriptor(head, at, 16, 1),
                descriptor(head + 1, at + 0x100, 512 * sectors, data_flags),
                descriptor(head + 2, at + 0x80, 1, 2),
                Step::Available { queue, head },
                Step::Notify { queue },
            ]
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = prop_oneof![2 => step().prop_map(|step| vec![step]), 1 => likely()];
    prop::collection::vec(some, 0..60).prop_map(|steps| steps.concat())
}

fn completion(request: &DiskRequest, fails: bool) -> Input {
    let outcome = match &request.op {
        _ if fails => DiskOutcome::Failed(DiskError::Io),
        DiskOp::Read { len, .. } => DiskOutcome::Read(vec![request.id as u8; *len as usize]),
        _ => DiskOutcome::Done,
    };
    Input::DiskDone {
        disk: request.disk,
        id: request.id,
        outcome,
    }
}

fn apply(guest: &mut Guest, step: &Step) {
    match *step {
        Step::Initialize { without } => guest.initialize(without),
        Step::Write { offset, ref data } => {
            guest
                .device
                .write(&guest.mem, offset, data, &mut guest.effects);
        }
        Step::Read { offset, len } => {
            guest.device.read(&guest.mem, offset, &mut vec![0; len]);
        }
        Step::Poke { address, ref bytes } => {
            guest.mem.write_slice(bytes, GuestAddress(address)).unwrap();
        }
        Step::Descriptor {
            queue,
            index,
            address,
            len,
            flags,
            next,
        } => {
            let at = guest.rings[queue].desc + 16 * u64::from(index);
            guest.put_descriptor(at, address, len, flags, next);
        }
        Step::Header {
            address,
            kind,
            sector,
        } => {
            let mut header = [0; 16];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..].copy_from_slice(&sector.to_le_bytes());
            guest
                .mem
                .write_slice(&header, GuestAddress(address))
                .unwrap();
        }
        Step::Available { queue, head } => guest.push_avail(queue, head),
        Step::Notify { queue } => guest.notify(queue),
        Step::Feed(ref input) => {
            // An error is an answer too.
            let _ = guest.input(input.clone());
        }
        Step::Complete { nth, fails } => {
            let outstanding = guest.device.outstanding();
            if let Some(request) = outstanding.get(nth) {
                guest.input(completion(request, fails)).unwrap();
            }
            if let Some(wanted) = guest.device.entropy_wanted() {
                let bytes = vec![nth as u8; if fails { 1 } else { wanted as usize }];
                guest.input(Input::Entropy { bytes }).unwrap();
            }
        }
        Step::SaveAndRestore => {}
    }
}

fn check_bounds(guest: &Guest) {
    let data = |request: &DiskRequest| match &request.op {
        DiskOp::Read { len, .. } => *len as usize,
        DiskOp::Write { data, .. } => data.len(),
        _ => 0,
    };
    let outstanding = guest.device.outstanding();
    assert!(outstanding.len() <= 256);
    assert!(outstanding.iter().map(data).sum::<usize>() <= IN_FLIGHT_BYTES);
    for request in &outstanding {
        match &request.op {
            DiskOp::Read { offset, len } => assert!(offset + u64::from(*len) <= 1 << 20),
            DiskOp::Write { offset, data } => assert!(offset + data.len() as u64 <= 1 << 20),
            DiskOp::Flush => {}
            DiskOp::Discard { offset, len } => assert!(offset + len <= 1 << 20),
        }
    }
}

fn playground(guest: &Guest) -> Vec<u8> {
    let mut bytes = guest.bytes(0, PLAYGROUND_BYTES as usize + 0x2_0000);
    bytes.extend(guest.bytes(RAM_BYTES - 4096, 4096));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    /// Any driver, any inputs: no panic, bounded requests within the disk, and saving and
    /// restoring along the way makes no difference to state, effects or memory.
    #[test]
    fn devices_are_deterministic_under_any_driver(kind in 0_u8..4, steps in steps()) {
        let mut stays = Guest::start(device(kind), 0);
        let mut moves = Guest::start(device(kind), 0);
        for step in &steps {
            apply(&mut stays, step);
            apply(&mut moves, step);
            if matches!(step, Step::SaveAndRestore) {
                moves.move_to(device(kind));
            }
            prop_assert_eq!(stays.take_effects(), moves.take_effects());
            prop_assert_eq!(stays.device.interrupt_line(), moves.device.interrupt_line());
            prop_assert_eq!(stays.device.can_accept_rx(), moves.device.can_accept_rx());
            check_bounds(&stays);
        }
        prop_assert_eq!(stays.device.save(), moves.device.save());
        prop_assert!(playground(&stays) == playground(&moves), "memory differs");
    }

    /// Rings full of noise.
    #[test]
    fn noise_for_rings_is_survived(
        kind in 0_u8..4,
        noise in prop::collection::vec(any::<u8>(), 1024),
        rounds in 1_usize..20,
    ) {
        let mut guest = Guest::start(device(kind), 0);
        for round in 0..rounds {
            for queue in 0..2 {
                let ring = guest.rings[queue];
                for (at, shift) in [(ring.desc, 0), (ring.avail, 7), (ring.used, 13)] {
                    let mut bytes = noise.clone();
                    bytes.rotate_left((shift + round * 31) % noise.len());
                    guest.mem.write_slice(&bytes[..512], GuestAddress(at)).unwrap();
                }
                // A claim that is not refused at once.
                let next = guest.device.save().queues.get(queue).map_or(0, |q| q.next_avail);
                guest.put_u16(ring.avail + 2, next.wrapping_add(3));
                guest.notify(queue);
            }
            apply(&mut guest, &Step::Complete { nth: 0, fails: false });
            let _ = guest.input(Input::NetRx { frame: noise[..300].to_vec() });
            check_bounds(&guest);
            if guest.device.fault().is_some() {
                guest.initialize(0);
            }
        }
    }

    /// A damaged state is refused or survived.
    #[test]
    fn damaged_states_are_refused_or_survived(
        kind in 0_u8..4,
        before in prop::collection::vec(likely(), 0..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        after in steps(),
    ) {
        let mut guest = Guest::start(device(kind), 0);
        for step in before.concat() {
            apply(&mut guest, &step);
        }
        let mut encoded = postcard::to_allocvec(&guest.device.save()).unwrap();
        for (index, value) in damage {
            let at = index.index(encoded.len());
            encoded[at] = value;
        }
        if let Ok(state) = postcard::from_bytes::<VirtioMmioState>(&encoded)
            && guest.device.restore(state).is_ok()
        {
            for step in after {
                // Completions of a damaged state may be of any size, but not without bound.
                apply(&mut guest, &step);
                let outputs = guest.take_effects();
                prop_assert!(outputs.iter().all(|effect| !matches!(effect, Effect::Reset)));
            }
        }
    }
}
