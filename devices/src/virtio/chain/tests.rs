use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::console;
use super::super::error::FaultReason;
use super::super::spec::feature;
use super::super::testing::{Guest, INDIRECT, NEXT, RAM_BYTES, RING_SIZE, WRITE, memory};
use super::{CHAIN_DESCRIPTORS_MAX, Chain, Segment, gather, scatter};
use crate::Effect;

const OUT: usize = 1;
const TABLE: u64 = 0x9_0000;

fn start() -> Guest {
    Guest::start(console(), 0)
}

/// The fault that a chain on the console's output queue ends in.
fn fault(guest: &mut Guest) -> FaultReason {
    guest.notify(OUT);
    assert!(guest.take_effects().is_empty());
    guest.device.fault().expect("a fault").reason
}

fn output(guest: &mut Guest) -> Vec<u8> {
    guest.notify(OUT);
    assert_eq!(guest.device.fault(), None);
    let bytes = |effect| match effect {
        Effect::ConsoleOut { bytes, .. } => bytes,
        other => panic!("unexpected {other:?}"),
    };
    guest.take_effects().into_iter().flat_map(bytes).collect()
}

#[test]
fn buffers_are_read_in_order_and_empty_ones_are_skipped() {
    let mut guest = start();
    guest.add(OUT, &[b"all ", b"", b"in ", b"order"], &[]);
    assert_eq!(output(&mut guest), b"all in order");
}

#[test]
fn indirect_tables_may_stand_alone_or_end_a_chain() {
    let mut guest = start();
    let text = guest.buffer_with(b"onetwo");
    guest.put_descriptor(TABLE, text, 3, NEXT, 1);
    guest.put_descriptor(TABLE + 16, text + 3, 3, 0, 0);
    guest.add_raw(OUT, &[(TABLE, 32, INDIRECT)]);
    assert_eq!(output(&mut guest), b"onetwo");
    // WRITE in the descriptor that names the table is ignored (section 2.7.5.3.2).
    guest.add_raw(OUT, &[(text, 3, 0), (TABLE, 32, INDIRECT | WRITE)]);
    assert_eq!(output(&mut guest), b"oneonetwo");
}

#[test]
fn malformed_indirect_descriptors_are_faults() {
    let too_large = (u32::from(CHAIN_DESCRIPTORS_MAX) + 1) * 16;
    for len in [0, 15, 17, too_large, u32::MAX] {
        let mut guest = start();
        guest.add_raw(OUT, &[(TABLE, len, INDIRECT)]);
        assert_eq!(fault(&mut guest), FaultReason::Indirect, "length {len}");
    }
    // NEXT beside INDIRECT.
    let mut guest = start();
    guest.add_raw(OUT, &[(TABLE, 16, INDIRECT), (TABLE, 16, 0)]);
    assert_eq!(fault(&mut guest), FaultReason::Indirect);
    // A table within a table.
    let mut guest = start();
    guest.put_descriptor(TABLE, TABLE, 16, INDIRECT, 0);
    guest.add_raw(OUT, &[(TABLE, 16, INDIRECT)]);
    assert_eq!(fault(&mut guest), FaultReason::Indirect);
    // Not negotiated.
    let mut guest = Guest::start(console(), feature::RING_INDIRECT_DESC);
    guest.put_descriptor(TABLE, 0x1000, 1, 0, 0);
    guest.add_raw(OUT, &[(TABLE, 16, INDIRECT)]);
    assert_eq!(fault(&mut guest), FaultReason::Indirect);
}

#[test]
fn indirect_tables_outside_ram_are_faults() {
    for table in [RAM_BYTES, RAM_BYTES - 8, u64::MAX - 7, u64::MAX] {
        let mut guest = start();
        guest.add_raw(OUT, &[(table, 16, INDIRECT)]);
        let reason = fault(&mut guest);
        assert_eq!(
            reason,
            FaultReason::OutsideRam {
                address: table,
                len: 16
            }
        );
    }
}

#[test]
fn loops_end() {
    let mut guest = start();
    guest.put_descriptor(guest.rings[OUT].desc, 0x1000, 1, NEXT, 0);
    guest.push_avail(OUT, 0);
    assert_eq!(fault(&mut guest), FaultReason::ChainTooLong);

    // As long as a loop of all descriptors, but it ends.
    let mut guest = start();
    guest.add(OUT, &[b"x".as_slice(); RING_SIZE as usize], &[]);
    assert_eq!(output(&mut guest).len(), usize::from(RING_SIZE));

    let mut guest = start();
    guest.put_descriptor(TABLE, 0x1000, 1, NEXT, 1);
    guest.put_descriptor(TABLE + 16, 0x1000, 1, NEXT, 0);
    guest.add_raw(OUT, &[(TABLE, 32, INDIRECT)]);
    assert_eq!(fault(&mut guest), FaultReason::ChainTooLong);
}

#[test]
fn indices_outside_their_table_are_faults() {
    for head in [RING_SIZE, u16::MAX] {
        let mut guest = start();
        guest.push_avail(OUT, head);
        assert_eq!(
            fault(&mut guest),
            FaultReason::DescriptorIndex { index: head }
        );
    }
    let mut guest = start();
    guest.put_descriptor(guest.rings[OUT].desc, 0x1000, 1, NEXT, RING_SIZE);
    guest.push_avail(OUT, 0);
    assert_eq!(
        fault(&mut guest),
        FaultReason::DescriptorIndex { index: RING_SIZE }
    );
    let mut guest = start();
    guest.put_descriptor(TABLE, 0x1000, 1, NEXT, 1);
    guest.add_raw(OUT, &[(TABLE, 16, INDIRECT)]);
    assert_eq!(fault(&mut guest), FaultReason::DescriptorIndex { index: 1 });
}

#[test]
fn buffers_outside_ram_are_faults() {
    let cases = [
        (RAM_BYTES, 1),
        (RAM_BYTES - 1, 2),
        (0, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX - 0xfff, 0x1000),
        (u64::MAX, u32::MAX),
    ];
    for (address, len) in cases {
        for flags in [0, WRITE] {
            let mut guest = start();
            guest.add_raw(OUT, &[(address, len, flags)]);
            assert_eq!(fault(&mut guest), FaultReason::OutsideRam { address, len });
        }
    }
}

#[test]
fn a_readable_buffer_after_a_writable_one_is_a_fault() {
    let mut guest = start();
    guest.add_raw(OUT, &[(0x1000, 1, WRITE), (0x1000, 1, 0)]);
    assert_eq!(fault(&mut guest), FaultReason::BufferOrder);
}

proptest! {
    /// Scatter and gather agree with a flat copy, however the segments are cut.
    #[test]
    fn scatter_then_gather_is_a_flat_copy(
        cuts in prop::collection::vec(1_u32..40, 0..12),
        skip in 0_u64..64,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mem = memory();
        let segments: Vec<Segment> = cuts
            .iter()
            .enumerate()
            .map(|(i, &len)| Segment { address: 0x1000 + 64 * i as u64, len })
            .collect();
        scatter(&mem, &segments, skip, &bytes).unwrap();

        let mut flat = Vec::new();
        for segment in &segments {
            let mut part = vec![0; segment.len as usize];
            mem.read_slice(&mut part, GuestAddress(segment.address)).unwrap();
            flat.extend(part);
        }
        let fits = flat.len().saturating_sub(skip as usize).min(bytes.len());
        let mut expected = vec![0; flat.len()];
        let start = flat.len().min(skip as usize);
        expected[start..start + fits].copy_from_slice(&bytes[..fits]);
        prop_assert_eq!(&flat, &expected);

        let mut back = vec![0; fits];
        gather(&mem, &segments, skip, &mut back).unwrap();
        prop_assert_eq!(&back[..], &bytes[..fits]);
    }

    /// Whatever lies in the table, a parsed chain lies in RAM, and its sums are right.
    #[test]
    fn parsed_chains_lie_in_ram(
        table in prop::collection::vec(
            (0_u64..RAM_BYTES + 64, 0_u32..0x3000, 0_u16..8, 0_u16..17), 16),
        head in 0_u16..17,
    ) {
        let guest = start();
        for (i, &(address, len, flags, next)) in table.iter().enumerate() {
            // Indirect tables: this very one.
            let (address, len) = if flags & INDIRECT != 0 { (TABLE, 256) } else { (address, len) };
            guest.put_descriptor(TABLE + 16 * i as u64, address, len, flags, next);
        }
        let mut chain = Chain::default();
        if chain.parse(&guest.mem, TABLE, 16, head, true).is_ok() {
            for segments in [&chain.readable, &chain.writable] {
                for segment in segments {
                    prop_assert!(segment.len > 0);
                    prop_assert!(segment.address + u64::from(segment.len) <= RAM_BYTES);
                }
            }
            let sum = |segments: &[Segment]| segments.iter().map(|s| u64::from(s.len)).sum::<u64>();
            prop_assert_eq!(sum(&chain.readable), chain.readable_bytes);
            prop_assert_eq!(sum(&chain.writable), chain.writable_bytes);
            prop_assert!(chain.readable.len() + chain.writable.len() <= 32);
        }
    }
}
