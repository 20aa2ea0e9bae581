use proptest::prelude::*;

use super::*;
use crate::codec::{EncodedEpoch, EpochBuilder};
use crate::entry::Event;
use crate::frame::{FrameType, HEADER_BYTES, encode, encode_epoch_into, postcard_into};
use crate::protocol::Message;

fn header() -> LogHeader {
    LogHeader {
        cpu_model: "baseline-v1".to_owned(),
        ram_bytes: 256 << 20,
        machine_config: vec![1, 2, 3],
        cmdline: "console=ttyS0".to_owned(),
        kernel_blake3: "00".repeat(32),
        initrd_blake3: String::new(),
        disk_bytes: vec![1 << 30],
        clock: "exit".to_owned(),
        boot_time_ns: 1_700_000_000_000_000_000,
        first_epoch: 1,
    }
}

fn epochs(count: u64) -> Vec<EncodedEpoch> {
    let mut builder = EpochBuilder::new(1);
    let mut epochs = Vec::new();
    for exit in 0..count {
        let event = Event::Output { crc: 5 };
        builder.push(Position::Exit(exit), &event).unwrap();
        epochs.push(
            builder
                .close(Position::Exit(exit + 1), Default::default())
                .unwrap(),
        );
    }
    epochs
}

fn log(epochs: &[EncodedEpoch]) -> Vec<u8> {
    let mut writer = LogWriter::create(Vec::new(), &header()).unwrap();
    for epoch in epochs {
        writer.append(epoch).unwrap();
    }
    let written = writer.len_bytes();
    let bytes = writer.finish(Position::Exit(77), [3; 32]).unwrap();
    assert!(written < bytes.len() as u64);
    bytes
}

/// Reads a whole log.
fn read(bytes: &[u8]) -> Result<(Vec<EncodedEpoch>, LogEnd), (usize, LogError)> {
    let mut reader = LogReader::open(bytes).map_err(|error| (0, error))?;
    let mut epochs = Vec::new();
    loop {
        match reader.next_epoch() {
            Ok(Some(epoch)) => epochs.push(epoch),
            Ok(None) => {
                assert_eq!(reader.offset(), bytes.len() as u64);
                assert_eq!(reader.header(), &header());
                return Ok((epochs, reader.end().unwrap().clone()));
            }
            Err(error) => return Err((epochs.len(), error)),
        }
    }
}

fn fault(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().1.to_string()
}

/// Where the header ends, and how long each of the epochs of `epochs()` is.
fn sizes() -> (usize, usize, usize) {
    let start = LogWriter::create(Vec::new(), &header())
        .unwrap()
        .len_bytes() as usize;
    let mut frame = Vec::new();
    encode_epoch_into(&epochs(1)[0], &mut frame);
    (start, frame.len(), log(&[]).len() - start)
}

#[test]
fn a_log_comes_back() {
    let (read, end) = read(&log(&epochs(5))).unwrap();
    assert_eq!(read, epochs(5));
    let expected = LogEnd {
        position: Position::Exit(77),
        state_hash: [3; 32],
        entries: 10,
        epochs: 5,
    };
    assert_eq!(end, expected);
}

#[test]
fn what_is_not_a_log_is_told_apart() {
    assert_eq!(fault(b""), "this is not an ftd log");
    assert_eq!(
        fault(b"FTDLOG"),
        "the log is torn: it ends at byte 6, before its header is complete"
    );
    assert_eq!(
        fault(b"#!/bin/sh\necho this is no log at all\n"),
        "this is not an ftd log"
    );
    let mut other = log(&[]);
    other[8] = 9;
    assert_eq!(
        fault(&other),
        "this log has format version 9, but this ftd reads version 6: use the ftd that wrote it"
    );
}

#[test]
fn a_torn_log_gives_its_whole_epochs_and_says_where_it_ends() {
    let (start, epoch, end) = sizes();
    let bytes = log(&epochs(3));
    let cut = |len: usize| read(&bytes[..len]).unwrap_err();
    let (whole, error) = cut(start + epoch + 30);
    assert_eq!(whole, 1);
    let at = start + epoch + 30;
    let text = format!("the log is torn: it ends at byte {at}, before epoch 2 is complete");
    assert_eq!(error.to_string(), text);
    let (whole, error) = cut(start + 3 * epoch);
    assert_eq!(whole, 3);
    let at = start + 3 * epoch;
    let text = format!("the log is torn: it ends at byte {at}, before epoch 4 is complete");
    assert_eq!(error.to_string(), text);
    let (whole, error) = cut(start + 3 * epoch + end - 1);
    assert_eq!(whole, 3);
    let at = start + 3 * epoch + end - 1;
    let text = format!("the log is torn: it ends at byte {at}, before its end record is complete");
    assert_eq!(error.to_string(), text);
    let (_, error) = cut(start - 1);
    let text = format!(
        "the log is torn: it ends at byte {}, before its header is complete",
        start - 1
    );
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_flipped_bit_is_found_where_it_is() {
    let (start, epoch, _) = sizes();
    let good = log(&epochs(3));
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        read(&bytes).unwrap_err()
    };
    // In the second epoch's length, checksum and entries.
    for at in [4, 18, HEADER_BYTES + 5] {
        let (whole, error) = flipped(start + epoch + at);
        assert_eq!(whole, 1);
        let at = start + epoch;
        let text = format!(
            "the log is damaged: the bytes from {at} on, epoch 2, do not match their checksum"
        );
        assert_eq!(error.to_string(), text);
    }
    let (_, error) = flipped(start - 3);
    assert!(matches!(
        error,
        LogError::Damaged {
            at: 0,
            within: Place::Header
        }
    ));
    let (whole, error) = flipped(good.len() - 1);
    assert_eq!(whole, 3);
    assert!(matches!(
        error,
        LogError::Damaged {
            within: Place::End,
            ..
        }
    ));
}

#[test]
fn order_counts_and_garbage_are_checked() {
    let (start, epoch, _) = sizes();
    let good = log(&epochs(3));
    let mut swapped = good.clone();
    swapped[start..start + 2 * epoch].rotate_left(epoch);
    assert_eq!(
        fault(&swapped),
        format!("the log is out of order: epoch 2 stands at byte {start}, where epoch 1 belongs")
    );
    let mut short = good.clone();
    short.drain(start + 2 * epoch..start + 3 * epoch);
    assert_eq!(
        fault(&short),
        "the log is incomplete: it holds 2 epochs and 4 entries, its end record says 3 and 6"
    );
    let mut long = good.clone();
    long.push(0);
    let at = good.len();
    assert_eq!(
        fault(&long),
        format!("the log ends at byte {at}, but something follows it")
    );
    // A frame of the channel's.
    let mut foreign = good[..start].to_vec();
    foreign.extend_from_slice(&encode(&Message::CloneDone { first: 1 }).unwrap());
    assert!(fault(&foreign).starts_with("the log is invalid"));
    let mut foreign = good[..start].to_vec();
    postcard_into(FrameType::LogEnd, 0, &9u8, &mut foreign).unwrap();
    assert!(fault(&foreign).starts_with("the log is invalid"));
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let mut writer = LogWriter::create(Vec::new(), &header()).unwrap();
    let error = writer.append(&epochs(2)[1]).unwrap_err();
    let expected = 1;
    assert!(matches!(error, LogError::OutOfOrder { found: 2, expected: e, .. } if e == expected));
    let large = EncodedEpoch {
        epoch: 1,
        bytes: vec![0; crate::codec::MAX_EPOCH_BYTES + 1],
        entries: 1,
        released: 0,
    };
    let error = writer.append(&large).unwrap_err();
    assert_eq!(error.to_string(), "epoch 1 is too large for a log");
    let mut header = header();
    header.machine_config = vec![0; MAX_HEADER_BYTES];
    let error = LogWriter::create(Vec::new(), &header).unwrap_err();
    assert_eq!(error.to_string(), "its header is too large for a log");
}

#[test]
fn a_log_read_from_a_file_is_the_same() {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &log(&epochs(4))).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let mut reader = LogReader::open(std::io::BufReader::new(file)).unwrap();
    for epoch in epochs(4) {
        assert_eq!(reader.next_epoch().unwrap(), Some(epoch));
    }
    assert!(reader.next_epoch().unwrap().is_none());
    assert!(reader.next_epoch().unwrap().is_none());
}

proptest! {
    #[test]
    fn any_flipped_bit_is_found(at: prop::sample::Index, bit in 0..8u32) {
        let mut bytes = log(&epochs(4));
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        let error = read(&bytes).unwrap_err().1;
        let told = matches!(
            error,
            LogError::NotALog
                | LogError::Version { .. }
                | LogError::Damaged { .. }
        );
        prop_assert!(told, "{}", error);
    }

    #[test]
    fn any_cut_is_found(cut: prop::sample::Index) {
        let bytes = log(&epochs(4));
        let error = read(&bytes[..cut.index(bytes.len())]).unwrap_err().1;
        prop_assert!(matches!(error, LogError::NotALog | LogError::Torn { .. }), "{}", error);
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300), keep: prop::sample::Index) {
        let good = log(&epochs(2));
        let mut bytes = good[..keep.index(good.len())].to_vec();
        bytes.extend_from_slice(&tail);
        prop_assert!(bytes == good || read(&bytes).is_err());
        let _ = read(&tail);
    }

    /// Damage that the checksum covers: the header and the end record hold anything.
    #[test]
    fn sealed_nonsense_never_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&LOG_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&body);
        let _ = LogReader::open(&bytes[..]).map(|mut log| log.next_epoch().is_err());
    }
}
