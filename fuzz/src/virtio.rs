//! The guest's side of the virtio devices: rings of any kind in RAM, registers in any order, and what
//! comes back from outside.

use devices::layout::{VIRTIO_MMIO_BASE, VIRTIO_MMIO_STRIDE};
use devices::{Console, DiskError, DiskOp, DiskOutcome, Effect, Input};

use crate::rig::{Rig, config};
use crate::source::Source;

/// Registers (virtio 1.2, section 4.2.2).
mod reg {
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC: u64 = 0x80;
    pub const QUEUE_DRIVER: u64 = 0x90;
    pub const QUEUE_DEVICE: u64 = 0xa0;
}

/// Entries of each ring that a proper driver sets up.
const RING: u16 = 16;
/// Where the rings are that it sets up; buffers come behind them.
const RINGS: u64 = 0x1000;
const BUFFERS: u64 = 0x4000;
const WRITABLE: u16 = 2;
const NEXT: u16 = 1;

/// One device, and how the world answers it.
struct Kind {
    queues: u64,
    answer: fn(&mut Rig, &mut Source<'_>),
}

const BLOCK: Kind = Kind {
    queues: 1,
    answer: complete,
};
const NET: Kind = Kind {
    queues: 2,
    answer: |rig, source| {
        let frame = source.filled(70_000);
        rig.input(&Input::NetRx { frame });
    },
};
const RNG: Kind = Kind {
    queues: 1,
    answer: |rig, source| {
        let wanted = rig
            .both(|machine, _| machine.entropy_wanted())
            .unwrap_or(64);
        let bytes = match source.below(4) {
            0 => source.filled(5000),
            // A damaged state may want anything.
            _ => vec![source.u8(); wanted.min(1 << 20) as usize],
        };
        rig.input(&Input::Entropy { bytes });
    },
};
const CONSOLE: Kind = Kind {
    queues: 2,
    answer: |rig, source| {
        let (console, bytes) = (Console::Virtio, source.filled(70_000));
        rig.input(&Input::ConsoleIn { console, bytes });
    },
};
/// Of the machine that [`anywhere`] is for, by window.
const ALL: [&Kind; 5] = [&BLOCK, &BLOCK, &NET, &RNG, &CONSOLE];

/// The disk.
///
/// # Panics
/// See [`Rig`].
pub fn block(data: &[u8]) {
    let allowed = |effect: &Effect| matches!(effect, Effect::Disk(request) if request.disk == 0);
    run(
        &BLOCK,
        Rig::new(config(1, false, false, false), None, Some(allowed)),
        data,
    );
}

/// The network card.
///
/// # Panics
/// See [`Rig`].
pub fn net(data: &[u8]) {
    let allowed = |effect: &Effect| matches!(effect, Effect::NetTx { .. });
    run(
        &NET,
        Rig::new(config(0, true, false, false), None, Some(allowed)),
        data,
    );
}

/// The entropy source.
///
/// # Panics
/// See [`Rig`].
pub fn rng(data: &[u8]) {
    let allowed = |effect: &Effect| matches!(effect, Effect::EntropyWanted { .. });
    run(
        &RNG,
        Rig::new(config(0, false, true, false), None, Some(allowed)),
        data,
    );
}

/// The console.
///
/// # Panics
/// See [`Rig`].
pub fn console(data: &[u8]) {
    let allowed = |effect: &Effect| matches!(effect, Effect::ConsoleOut { console, .. } if *console == Console::Virtio);
    run(
        &CONSOLE,
        Rig::new(config(0, false, false, true), None, Some(allowed)),
        data,
    );
}

fn run(kind: &Kind, rig: Option<Rig>, data: &[u8]) {
    let mut rig = rig.expect("at power-on");
    let mut source = Source::new(data);
    if source.flag() {
        initialize(&mut rig, kind, 0);
    }
    while !source.is_empty() {
        step(&mut rig, kind, &mut source);
    }
    rig.finish();
}

/// All devices in turn, on a machine with two disks and one of everything else.
pub fn anywhere(rig: &mut Rig, source: &mut Source<'_>) {
    let index = source.below(ALL.len() as u8);
    rig.window = VIRTIO_MMIO_BASE + u64::from(index) * VIRTIO_MMIO_STRIDE;
    step(rig, ALL[usize::from(index)], source);
}

fn step(rig: &mut Rig, kind: &Kind, source: &mut Source<'_>) {
    match source.below(16) {
        0 => initialize(rig, kind, source.u64()),
        1 => {
            let (offset, len) = (u64::from(source.u16() & 0x1ff), 1 << source.below(4));
            let data = source.take(len).to_vec();
            let at = rig.window + offset;
            rig.both(|machine, mem| machine.mmio_write(mem, at, &data));
        }
        2 => {
            let (offset, len) = (u64::from(source.u16() & 0x1ff), 1 << source.below(4));
            let at = rig.window + offset;
            rig.both(|machine, mem| {
                let mut data = [0; 8];
                machine.mmio_read(mem, at, &mut data[..len]);
                data
            });
        }
        3 => {
            let address = address(source);
            rig.poke(address, source.bytes(64));
        }
        4 => {
            let (queue, index) = (u64::from(source.below(2)), source.u16() % (RING + 4));
            let entry = Descriptor {
                address: address(source),
                len: length(source),
                flags: source.u16(),
                next: source.u16(),
            };
            describe(rig, ring(queue).desc, index, entry);
        }
        5 => {
            let (queue, head) = (u64::from(source.below(2)), source.u16());
            offer(rig, queue, head);
        }
        6 => {
            let queue = source.any() as u32;
            register(rig, reg::QUEUE_NOTIFY, queue);
        }
        7..=10 => request(rig, kind, source),
        11 | 12 => (kind.answer)(rig, source),
        13 => {
            rig.effects();
            rig.both(|machine, _| machine.take_interrupt());
            register(rig, reg::INTERRUPT_ACK, 3);
        }
        14 => {
            // An input of another device's, or one that was never asked for.
            let input = match source.below(4) {
                0 => Input::NetRx { frame: vec![0; 60] },
                1 => Input::Entropy { bytes: vec![0; 8] },
                2 => Input::DiskDone {
                    disk: source.below(3),
                    id: source.any(),
                    outcome: DiskOutcome::Done,
                },
                _ => Input::Clock { now: source.u64() },
            };
            rig.input(&input);
        }
        _ => {
            rig.travel();
            rig.effects();
        }
    }
}

/// What a driver does at its start; it takes the features of which the bit in `without` is not set.
fn initialize(rig: &mut Rig, kind: &Kind, without: u64) {
    register(rig, reg::STATUS, 0);
    register(rig, reg::STATUS, 1);
    register(rig, reg::STATUS, 3);
    for half in 0..2 {
        register(rig, reg::DEVICE_FEATURES_SEL, half);
        let at = rig.window + reg::DEVICE_FEATURES;
        let offered = rig.both(|machine, mem| {
            let mut data = [0; 4];
            machine.mmio_read(mem, at, &mut data);
            u32::from_le_bytes(data)
        });
        register(rig, reg::DRIVER_FEATURES_SEL, half);
        let taken = offered & !((without >> (32 * half)) as u32);
        register(rig, reg::DRIVER_FEATURES, taken);
    }
    register(rig, reg::STATUS, 11);
    for queue in 0..kind.queues {
        let ring = ring(queue);
        register(rig, reg::QUEUE_SEL, queue as u32);
        register(rig, reg::QUEUE_NUM, u32::from(RING));
        for (at, address) in [
            (reg::QUEUE_DESC, ring.desc),
            (reg::QUEUE_DRIVER, ring.avail),
            (reg::QUEUE_DEVICE, ring.used),
        ] {
            register(rig, at, address as u32);
            register(rig, at + 4, 0);
        }
        // A new queue begins at 0.
        rig.poke(ring.avail, &[0; 4]);
        register(rig, reg::QUEUE_READY, 1);
    }
    register(rig, reg::STATUS, 15);
}

fn register(rig: &mut Rig, offset: u64, value: u32) {
    let (at, data) = (rig.window + offset, value.to_le_bytes());
    rig.both(|machine, mem| machine.mmio_write(mem, at, &data));
}

struct Ring {
    desc: u64,
    avail: u64,
    used: u64,
}

fn ring(queue: u64) -> Ring {
    let base = RINGS + queue * 0x1000;
    Ring {
        desc: base,
        avail: base + 0x400,
        used: base + 0x800,
    }
}

struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn describe(rig: &mut Rig, table: u64, index: u16, entry: Descriptor) {
    let mut bytes = entry.address.to_le_bytes().to_vec();
    bytes.extend_from_slice(&entry.len.to_le_bytes());
    bytes.extend_from_slice(&entry.flags.to_le_bytes());
    bytes.extend_from_slice(&entry.next.to_le_bytes());
    rig.poke(table + 16 * u64::from(index), &bytes);
}

/// Puts a chain into the available ring.
fn offer(rig: &mut Rig, queue: u64, head: u16) {
    let avail = ring(queue).avail;
    let index = rig.peek_u16(avail + 2);
    rig.poke(avail + 4 + 2 * u64::from(index % RING), &head.to_le_bytes());
    rig.poke(avail + 2, &index.wrapping_add(1).to_le_bytes());
}

/// A chain of some buffers, nearly as a driver makes them, with a notification.
fn request(rig: &mut Rig, kind: &Kind, source: &mut Source<'_>) {
    let queue = u64::from(source.u8()) % kind.queues;
    let shape = source.u8();
    let count = u16::from(shape & 3) + 1;
    let head = source.u16() % RING;
    let indirect = shape & 0x40 != 0;
    let (table, first) = match indirect {
        true => (BUFFERS + 0x8000, 0),
        false => (ring(queue).desc, head),
    };
    // Of a disk's request: what, where.
    let mut header = u32::from(source.below(16)).to_le_bytes().to_vec();
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&source.any().to_le_bytes());
    header.extend_from_slice(source.take(16));
    rig.poke(BUFFERS, &header);
    for at in 0..count {
        let last = at + 1 == count;
        let readable = match shape >> 2 & 3 {
            0 => at == 0,
            1 => !last,
            2 => true,
            _ => false,
        };
        let address = if at == 0 && shape & 0x10 == 0 {
            BUFFERS
        } else {
            address(source)
        };
        let len = if at == 0 && shape & 0x20 == 0 {
            16
        } else {
            length(source)
        };
        let next = if indirect {
            at + 1
        } else {
            (head + at + 1) % RING
        };
        let entry = Descriptor {
            address,
            len: if last && shape & 0x80 == 0 && !readable {
                513
            } else {
                len
            },
            flags: (if readable { 0 } else { WRITABLE }) | (if last { 0 } else { NEXT }),
            next,
        };
        let index = if indirect { at } else { (first + at) % RING };
        describe(rig, table, index, entry);
    }
    if indirect {
        let entry = Descriptor {
            address: table,
            len: u32::from(count) * 16,
            flags: 4,
            next: 0,
        };
        describe(rig, ring(queue).desc, head, entry);
    }
    offer(rig, queue, head);
    register(rig, reg::QUEUE_NOTIFY, queue as u32);
}

fn address(source: &mut Source<'_>) -> u64 {
    match source.u8() {
        0xff => source.u64(),
        0xfe => crate::rig::RAM_BYTES as u64 - u64::from(source.u8()),
        page @ 0..32 => u64::from(page) << 12,
        _ => u64::from(source.u16()) << 1,
    }
}

fn length(source: &mut Source<'_>) -> u32 {
    match source.u8() {
        0xff => source.u32(),
        0xfe => u32::from(source.u16()),
        small @ 0..64 => u32::from(small),
        more => u32::from(more - 63) * 256,
    }
}

/// The host has done what the disk was asked, or says so.
fn complete(rig: &mut Rig, source: &mut Source<'_>) {
    let waiting = rig.both(|machine, _| machine.outstanding());
    let choice = source.u8();
    let Some(request) = waiting.get(usize::from(choice & 7) % waiting.len().max(1)) else {
        return;
    };
    let wrong = choice & 0xf0 == 0xf0;
    let outcome = match (&request.op, choice >> 4) {
        (_, 1) => DiskOutcome::Failed(DiskError::Io),
        (_, 2) => DiskOutcome::Failed(DiskError::Unsupported),
        (DiskOp::Read { len, .. }, _) if !wrong => DiskOutcome::Read(vec![choice; *len as usize]),
        (DiskOp::Read { .. }, _) => DiskOutcome::Read(source.filled(5000)),
        _ if wrong => DiskOutcome::Read(vec![0; 512]),
        _ => DiskOutcome::Done,
    };
    let (disk, id) = (request.disk, request.id);
    let accepted = rig.input(&Input::DiskDone { disk, id, outcome });
    let left = rig.both(|machine, _| machine.outstanding());
    let gone = !left.iter().any(|request| request.id == id);
    assert_eq!(
        accepted, gone,
        "what is accepted is done with, and only that"
    );
}
