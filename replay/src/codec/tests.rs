use proptest::prelude::*;

use super::*;
use crate::digest::{Digest, Marks, RamShare};
use crate::entry::{Event, Page, Point, Position, Snapshot};
use crate::registers::RegisterSum;
use crate::wire::{GFN_END, PAGE_END};
use devices::{Console, DiskError, DiskOutcome, Input};

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

pub(crate) fn pages(max: usize) -> impl Strategy<Value = Vec<Page>> {
    let page = (0..PAGE_END, any::<Option<u8>>()).prop_map(|(gfn, fill)| Page {
        gfn,
        data: fill.map_or(Vec::new(), |byte| vec![byte; 4096]),
    });
    prop::collection::vec(page, 0..max)
}

fn input() -> impl Strategy<Value = Input> {
    let outcome = prop_oneof![
        Just(DiskOutcome::Done),
        Just(DiskOutcome::Failed(DiskError::Io)),
        Just(DiskOutcome::Failed(DiskError::Unsupported)),
        bytes(600).prop_map(DiskOutcome::Read),
    ];
    let console = prop_oneof![Just(Console::Serial), Just(Console::Virtio)];
    prop_oneof![
        4 => any::<u64>().prop_map(|now| Input::Clock { now }),
        4 => (0..1u64 << 20).prop_map(|now| Input::Clock { now }),
        1 => bytes(200).prop_map(|frame| Input::NetRx { frame }),
        1 => (any::<u8>(), any::<u64>(), outcome)
            .prop_map(|(disk, id, outcome)| Input::DiskDone { disk, id, outcome }),
        1 => (console, bytes(20)).prop_map(|(console, bytes)| Input::ConsoleIn { console, bytes }),
        1 => bytes(64).prop_map(|bytes| Input::Entropy { bytes }),
        1 => Just(Input::PowerButton),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => input().prop_map(Event::Input),
        4 => any::<u32>().prop_map(|crc| Event::Output { crc }),
        1 => pages(4).prop_map(Event::Pages),
        1 => (bytes(100), bytes(100), pages(4)).prop_map(|(cpu, machine, pages)| {
            Event::Snapshot(Box::new(Snapshot { cpu, machine, pages }))
        }),
    ]
}

/// How a position lies to the one before: so many exits further, and then at a point so many branches on.
fn step() -> impl Strategy<Value = (u64, Option<(u64, u64, u32, u16)>)> {
    let exits = prop_oneof![4 => 0..20u64, 1 => 0..1u64 << 40];
    let branches = prop_oneof![Just(0), 0..5000u64];
    let point = (branches, any::<u64>(), any::<u32>(), any::<u16>());
    (exits, prop::option::of(point))
}

fn any_digest() -> impl Strategy<Value = Digest> {
    let share = (0..GFN_END - 4096, 0..=RamShare::PAGES_MAX);
    let share = (share, any::<u32>(), any::<u32>());
    (any_marks(), any_marks(), share).prop_map(|(registers, devices, share)| {
        let ((first, pages), sum, weighted) = share;
        let some = u32::from(pages > 0);
        Digest {
            registers,
            devices,
            ram: RamShare {
                first: first * u64::from(some),
                pages,
                sum: sum * some,
                weighted: weighted * some,
            },
        }
    })
}

fn any_marks() -> impl Strategy<Value = Marks> {
    let marks = prop::collection::vec(any::<u8>(), 0..=Marks::MAX);
    (any::<u32>(), marks).prop_map(|(crc, marks)| Marks::from_parts(crc, &marks).unwrap())
}

fn digest(registers: u32) -> Digest {
    Digest {
        registers: Marks::from_parts(registers, &[]).unwrap(),
        ..Digest::default()
    }
}

/// Steps between positions, and events; the last a `Reached`.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let steps = prop::collection::vec((step(), event()), 0..40);
    (steps, step(), any_digest()).prop_map(|(mut steps, step, digest)| {
        steps.push((step, Event::Reached { digest }));
        let mut last = Position::Exit(0);
        let entry = |((step, to), event): (_, Event)| {
            let whole = matches!(event, Event::Pages(_) | Event::Snapshot(_));
            let exits = last.exits() + step;
            last = match (to, last) {
                _ if whole => Position::Exit(exits),
                (None, Position::Counted { .. }) if step == 0 => last,
                (None, _) => Position::Exit(exits),
                (Some((further, rip, crc, marks)), _) => {
                    let from = match last {
                        Position::Counted { point, .. } if step == 0 => point.branches,
                        _ => 0,
                    };
                    let point = Point {
                        branches: from + further,
                        rip,
                        rflags: crc >> 7,
                        registers: RegisterSum { crc, marks },
                        stack: marks.rotate_left(3),
                    };
                    Position::Counted { exits, point }
                }
            };
            Entry { at: last, event }
        };
        steps.into_iter().map(entry).collect()
    })
}

pub(crate) fn encode(epoch: Epoch, entries: &[Entry]) -> EncodedEpoch {
    let mut builder = EpochBuilder::new(epoch);
    for entry in entries {
        match &entry.event {
            Event::Reached { digest } => return builder.close(entry.at, *digest).unwrap(),
            event => builder.push(entry.at, event).unwrap(),
        }
    }
    panic!("no Reached");
}

fn fault(bytes: &[u8]) -> CodecFault {
    decode_epoch(1, bytes).unwrap_err().fault
}

#[test]
fn typical_entries_are_a_few_bytes() {
    let mut builder = EpochBuilder::new(1);
    let mut exit = 1_000_000_000;
    let mut now = 3_600_000_000_000;
    for i in 0..1000 {
        exit += 1 + i % 7;
        now += 900 + i * 37 % 100_000;
        let clock = Event::Input(Input::Clock { now });
        builder.push(Position::Exit(exit), &clock).unwrap();
    }
    assert_eq!(builder.entries(), 1000);
    let epoch = builder.close(Position::Exit(exit), digest(0)).unwrap();
    let average = epoch.bytes.len() as f64 / f64::from(epoch.entries);
    assert!(average < 4.5, "{average} bytes an entry");
}

fn counted(exits: u64, branches: u64) -> Position {
    let point = Point {
        branches,
        rip: 0xffff_ffff_8100_0000 + branches,
        rflags: 0x246,
        registers: RegisterSum { crc: 7, marks: 7 },
        stack: 7,
    };
    Position::Counted { exits, point }
}

#[test]
fn an_interrupt_between_two_exits_is_under_24_bytes() {
    let mut builder = EpochBuilder::new(1);
    let mut now = 3_600_000_000_000;
    for i in 0..1000 {
        now += 4_000_000 + i * 37 % 100_000;
        let clock = Event::Input(Input::Clock { now });
        builder.push(counted(i, i * 150_000), &clock).unwrap();
    }
    let epoch = builder.close(counted(1000, 0), digest(0)).unwrap();
    let average = epoch.bytes.len() as f64 / f64::from(epoch.entries);
    assert!(average < 24.0, "{average} bytes an entry");
}

#[test]
fn a_point_lies_behind_its_exit_and_the_points_before() {
    let clock = Event::Input(Input::Clock { now: 1 });
    let snapshot = Event::Snapshot(Box::new(Snapshot {
        cpu: vec![],
        machine: vec![],
        pages: vec![],
    }));
    let mut builder = EpochBuilder::new(1);
    builder.push(counted(5, 100), &clock).unwrap();
    for (at, event) in [
        (counted(5, 99), &clock),
        (counted(4, 200), &clock),
        (Position::Exit(5), &clock),
        (counted(5, 200), &snapshot),
    ] {
        let error = builder.push(at, event).unwrap_err();
        assert_eq!(error.fault, CodecFault::Position, "{at}");
    }
    // Behind a snapshot branches count anew.
    builder.push(Position::Exit(5), &snapshot).unwrap();
    builder.push(counted(5, 3), &clock).unwrap();
    builder.push(Position::Exit(6), &clock).unwrap();
    let epoch = builder.close(counted(6, 0), digest(2)).unwrap();
    let entries = epoch.decode().unwrap();
    let at: Vec<_> = entries.iter().map(|entry| entry.at).collect();
    let expected = [
        counted(5, 100),
        Position::Exit(5),
        counted(5, 3),
        Position::Exit(6),
        counted(6, 0),
    ];
    assert_eq!(at, expected);
}

#[test]
fn an_epoch_with_nothing_in_it_is_short() {
    let epoch = EpochBuilder::new(7)
        .close(Position::Exit(1 << 32), digest(9))
        .unwrap();
    assert_eq!((epoch.epoch, epoch.entries), (7, 1));
    assert!(epoch.bytes.len() <= 18);
}

#[test]
fn the_builder_starts_the_next_epoch_by_itself() {
    let mut builder = EpochBuilder::new(1);
    builder
        .push(Position::Exit(9), &Event::Output { crc: 1 })
        .unwrap();
    let first = builder.close(Position::Exit(9), digest(2)).unwrap();
    assert!(builder.is_empty());
    assert_eq!(builder.epoch(), 2);
    builder
        .push(Position::Exit(9), &Event::Output { crc: 1 })
        .unwrap();
    let second = builder.close(Position::Exit(9), digest(2)).unwrap();
    assert_eq!(first.bytes, second.bytes);
}

#[test]
fn a_refused_entry_leaves_the_builder_as_it_was() {
    let mut builder = EpochBuilder::new(1);
    let clock = Event::Input(Input::Clock { now: 5 });
    builder.push(Position::Exit(9), &clock).unwrap();
    let bad_pages = Event::Pages(vec![Page {
        gfn: 1,
        data: vec![1; 4095],
    }]);
    let far_page = Event::Pages(vec![Page {
        gfn: PAGE_END,
        data: Vec::new(),
    }]);
    let huge = Event::Input(Input::NetRx {
        frame: vec![0; MAX_EPOCH_BYTES],
    });
    let reached = Event::Reached { digest: digest(0) };
    let back = builder.push(Position::Exit(8), &clock).unwrap_err();
    assert_eq!(back.fault, CodecFault::Position);
    for (event, fault) in [
        (
            bad_pages,
            CodecFault::Wire(WireFault::PageLen { len: 4095 }),
        ),
        (far_page, CodecFault::Wire(WireFault::Gfn { gfn: PAGE_END })),
        (huge, CodecFault::TooLarge),
        (reached, CodecFault::ReachedEarly),
    ] {
        let error = builder.push(Position::Exit(10), &event).unwrap_err();
        assert_eq!((error.entry, error.fault), (1, fault));
    }
    builder.push(Position::Exit(9), &clock).unwrap();
    let epoch = builder.close(Position::Exit(9), digest(0)).unwrap();
    let entries = epoch.decode().unwrap();
    assert_eq!(entries[0], entries[1]);
    assert_eq!(entries.len(), 3);
}

#[test]
fn malformed_epochs_are_told_apart() {
    assert_eq!(fault(&[]), CodecFault::NotReached);
    assert_eq!(fault(&[0x06]), CodecFault::NotReached);
    assert_eq!(fault(&[0x0f]), CodecFault::Kind(15));
    assert_eq!(fault(&[0x0a, 0, 0, 0]), CodecFault::Wire(WireFault::Short));
    let reached = [0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let then = |more: &[u8]| [&reached[..], more].concat();
    assert_eq!(fault(&then(&[0x06])), CodecFault::ReachedEarly);
    let share = |pages: &[u8]| [&reached[..11], pages, &[0; 9]].concat();
    assert_eq!(fault(&share(&[0x81, 0x20])), CodecFault::Share); // 4097 pages
    assert_eq!(decode_epoch(1, &share(&[0x80, 0x20])).unwrap().len(), 1);
    let marks = |count: u8| {
        let marks = vec![1; usize::from(count)];
        [&reached[..5], &[count], &marks, &reached[6..]].concat()
    };
    assert_eq!(decode_epoch(1, &marks(24)).unwrap().len(), 1);
    assert_eq!(fault(&marks(25)), CodecFault::Marks);
    let point = [0x0b, 1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    let after = |more: &[u8]| [&point[..], more].concat();
    assert_eq!(decode_epoch(1, &after(&reached)).unwrap().len(), 1);
    assert_eq!(fault(&after(&after(&reached))), CodecFault::Position); // twice
    assert_eq!(fault(&after(&[0x1a])), CodecFault::Position); // none lies there
    assert_eq!(fault(&after(&[0x07, 0])), CodecFault::Position); // pages at a point
    // 15 exits further, written the long way round.
    assert_eq!(
        fault(&[0xf6, 0x80, 0x00]),
        CodecFault::Wire(WireFault::Varint)
    );
    let mut beyond = vec![0xf6];
    beyond.extend_from_slice(&[0xff; 9]);
    beyond.push(0x01);
    assert_eq!(fault(&beyond), CodecFault::Position);
    assert_eq!(fault(&[0x01, 0x00]), CodecFault::Clock);
    assert_eq!(fault(&[0x01, 0x01]), CodecFault::Clock);
    assert_eq!(fault(&[0x03, 0, 0, 9]), CodecFault::Variant(9));
    assert_eq!(fault(&vec![6; MAX_EPOCH_BYTES + 1]), CodecFault::TooLarge);
    let mut entries = vec![6; MAX_EPOCH_ENTRIES as usize];
    entries.extend_from_slice(&reached);
    assert_eq!(fault(&entries), CodecFault::TooLarge);
    let error = decode_epoch(8, &[0x06, 0x0f]).unwrap_err();
    assert_eq!((error.epoch, error.entry, error.offset), (8, 1, 1));
    assert_eq!(
        error.to_string(),
        "epoch 8: entry 1 at byte 1 is of unknown kind 15"
    );
}

#[test]
fn a_wrong_number_of_entries_is_found() {
    let mut epoch = EpochBuilder::new(1)
        .close(Position::Exit(0), digest(0))
        .unwrap();
    epoch.entries += 1;
    assert_eq!(epoch.decode().unwrap_err().fault, CodecFault::Count);
}

#[test]
fn a_snapshot_with_all_that_waits_for_a_disk_fits() {
    let page = |gfn| Page {
        gfn,
        data: vec![1; 4096],
    };
    let snapshot = Snapshot {
        cpu: vec![1; 8 << 10],
        machine: vec![2; 21 << 20],
        pages: (0..PAGES_PER_EVENT as u64).map(page).collect(),
    };
    let mut builder = EpochBuilder::new(1);
    let pushed = builder.push(Position::Exit(1), &Event::Snapshot(Box::new(snapshot)));
    assert_eq!(pushed, Ok(()));
}

#[test]
fn the_snapshot_of_a_live_clone_is_recognised() {
    let snapshot = Snapshot {
        cpu: vec![1],
        machine: vec![2],
        pages: Vec::new(),
    };
    let mut builder = EpochBuilder::new(1);
    let at = Position::Exit(1 << 40);
    builder
        .push(at, &Event::Snapshot(Box::new(snapshot)))
        .unwrap();
    assert!(builder.close(at, digest(0)).unwrap().begins_with_state());
    assert!(!builder.close(at, digest(0)).unwrap().begins_with_state());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_encoded_comes_back(entries in entries()) {
        let epoch = encode(3, &entries);
        prop_assert_eq!(epoch.decode().unwrap(), entries);
    }

    #[test]
    fn what_decodes_is_the_one_encoding(entries in entries(), at: prop::sample::Index, bit in 0..8u8) {
        let mut epoch = encode(3, &entries);
        let at = at.index(epoch.bytes.len());
        epoch.bytes[at] ^= 1u8 << bit;
        if let Ok(decoded) = decode_epoch(3, &epoch.bytes) {
            prop_assert_eq!(encode(3, &decoded).bytes, epoch.bytes);
        }
    }

    #[test]
    fn a_truncated_epoch_is_refused(entries in entries(), cut: prop::sample::Index) {
        let epoch = encode(3, &entries);
        prop_assert!(decode_epoch(3, &epoch.bytes[..cut.index(epoch.bytes.len())]).is_err());
    }

    #[test]
    fn random_bytes_never_panic(bytes in bytes(300)) {
        if let Ok(decoded) = decode_epoch(3, &bytes) {
            prop_assert_eq!(encode(3, &decoded).bytes, bytes);
        }
    }
}
