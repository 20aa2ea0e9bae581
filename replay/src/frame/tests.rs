use proptest::prelude::*;

use super::*;
use crate::codec::EpochBuilder;
use crate::entry::{Event, Page, Position};
use crate::protocol::{
    Ack, ByeReason, Commit, DiskFacts, EndReason, Facts, Hello, Join, PageHash, PageHashes,
    RejectReason, Welcome,
};

fn epoch(epoch: Epoch, entries: u64) -> EncodedEpoch {
    let mut builder = EpochBuilder::new(epoch);
    for exit in 0..entries {
        let event = Event::Output { crc: exit as u32 };
        builder.push(Position::Exit(exit), &event).unwrap();
    }
    builder
        .close(Position::Exit(entries), Default::default())
        .unwrap()
}

fn hello() -> Message {
    Message::Hello(Box::new(Hello {
        protocol_version: 1,
        features: 0,
        host: "east".to_owned(),
        generation: 3,
        wants: Join::Clone,
        facts: Facts {
            vm_id: "shop".to_owned(),
            cpu_model: "baseline-v1".to_owned(),
            clock: "exit".to_owned(),
            ram_bytes: 1 << 30,
            machine_digest: [9; 32],
            disks: vec![DiskFacts {
                capacity_bytes: 1 << 30,
                shared: true,
            }],
            image_id: vec![1; 32],
        },
    }))
}

/// One of each.
fn messages() -> Vec<Message> {
    let page = |gfn, data| Page { gfn, data };
    vec![
        hello(),
        Message::Welcome(Welcome {
            protocol_version: 1,
            features: 0,
            host: "west".to_owned(),
            generation: 3,
            bidder: "west-1".to_owned(),
            commit: Commit::Verified,
            detect_ms: 300,
            heartbeat_ms: 50,
        }),
        Message::Reject(RejectReason::Ram {
            primary: 1,
            backup: 2,
        }),
        Message::ClonePages {
            pages: vec![page(8, vec![1; 4096]), page(3, Vec::new())],
        },
        Message::CloneDone { first: 9 },
        Message::Epoch(epoch(9, 20)),
        Message::Ack(Ack {
            received: 9,
            executed: 8,
            verified: 7,
            executed_at: 1 << 40,
            heard: 5,
        }),
        Message::Heartbeat { seq: 1, heard: 2 },
        Message::GuestEnded {
            reason: EndReason::PowerOff,
        },
        Message::Bye {
            reason: ByeReason::Stopped,
        },
        Message::PageHashes(PageHashes {
            key: [3; 16],
            first_gfn: 7,
            hashes: vec![PageHash([9; 16]), PageHash::ZEROS],
            last: true,
        }),
        Message::HandOver,
        Message::Frame {
            bytes: vec![7; 1514],
        },
    ]
}

fn stream() -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages() {
        encode_into(&message, &mut bytes).unwrap();
    }
    bytes
}

/// Decodes `bytes`, pushed in pieces of `piece` bytes.
fn decode(bytes: &[u8], piece: usize) -> (Vec<Message>, Result<(), FrameError>) {
    let mut decoder = FrameDecoder::new();
    decoder.set_limit(MAX_FRAME_BYTES);
    let mut messages = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.push(piece);
        while let Ok(Some(message)) = decoder.next() {
            messages.push(message);
        }
    }
    (messages, decoder.finish())
}

fn fault(bytes: &[u8]) -> FrameError {
    decode(bytes, bytes.len()).1.unwrap_err()
}

/// The frame of `kind` and `epoch` around `body`, with right checksums.
fn frame(kind: u8, epoch: Epoch, body: &[u8]) -> Vec<u8> {
    let header = Header::for_body(FrameType::Message, epoch, &[body]);
    let mut bytes = header.encode().to_vec();
    bytes[3] = kind;
    reseal(&mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

fn reseal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[..20]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn messages_come_back_however_they_are_cut() {
    for piece in [1, 7, 24, 1000, usize::MAX] {
        assert_eq!(decode(&stream(), piece), (messages(), Ok(())));
    }
}

#[test]
fn an_epochs_header_and_bytes_are_its_frame() {
    let epoch = epoch(3, 5);
    let mut gathered = epoch_header(&epoch).to_vec();
    gathered.extend_from_slice(&epoch.bytes);
    assert_eq!(gathered, encode(&Message::Epoch(epoch)).unwrap());
}

#[test]
fn an_idle_epoch_and_a_heartbeat_are_small() {
    let epoch = encode(&Message::Epoch(epoch(1 << 30, 0))).unwrap();
    assert!(epoch.len() <= 44, "{}", epoch.len());
    let heartbeat = Message::Heartbeat {
        seq: 1 << 20,
        heard: 1 << 20,
    };
    assert!(encode(&heartbeat).unwrap().len() <= 32);
}

#[test]
fn malformed_frames_are_told_apart() {
    let good = encode(&hello()).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let torn = FrameError::Torn {
        have: good.len() - 1,
    };
    assert_eq!(fault(&good[..good.len() - 1]), torn);
    assert_eq!(
        fault(b"GET / HTTP/1.1\r\nHost: ftd.example"),
        FrameError::NotAFrame
    );
    assert_eq!(fault(&changed(2, 9)), FrameError::Version { theirs: 9 });
    assert_eq!(fault(&changed(5, 0xff)), FrameError::HeaderCrc);
    let last = good.len() - 1;
    let flipped = changed(last, good[last] ^ 1);
    assert_eq!(fault(&flipped), FrameError::BodyCrc { epoch: 0 });
    assert_eq!(fault(&frame(77, 0, &[])), FrameError::Type(77));
    assert_eq!(fault(&frame(4, 0, &[])), FrameError::Type(4));
    let body = |kind, epoch| FrameError::Body { kind, epoch };
    // An unknown message, trailing bytes, an epoch where none belongs and none where one does.
    assert_eq!(fault(&frame(1, 0, &[99])), body(1, 0));
    assert_eq!(fault(&frame(1, 0, &[7, 1, 2, 0])), body(1, 0));
    assert_eq!(fault(&frame(1, 5, &[7, 1, 2])), body(1, 5));
    assert_eq!(fault(&frame(2, 0, &[1])), body(2, 0));
    assert_eq!(fault(&frame(3, 0, &[0; 13])), body(3, 0));
    assert_eq!(fault(&frame(3, 6, &[0; 7])), body(3, 6));
    let large = vec![0; MAX_EPOCH_BYTES + 9];
    assert_eq!(fault(&frame(3, 6, &large)), body(3, 6));
    // An epoch that was smuggled into the frame of a small message.
    let smuggled = postcard::to_allocvec(&Message::Epoch(epoch(1, 1))).unwrap();
    assert_eq!(fault(&frame(1, 0, &smuggled)), body(1, 0));
}

#[test]
fn a_large_frame_is_refused_by_its_header_alone() {
    let pages = vec![
        Page {
            gfn: 0,
            data: vec![1; 4096],
        };
        17
    ];
    let bytes = encode(&Message::ClonePages { pages }).unwrap();
    let mut decoder = FrameDecoder::new();
    decoder.push(&bytes[..HEADER_BYTES]);
    let error = FrameError::TooLarge {
        len: bytes.len() - HEADER_BYTES,
        limit: MAX_HANDSHAKE_BYTES,
    };
    assert_eq!(decoder.next(), Err(error.clone()));
    // It stays broken, and holds no memory.
    decoder.push(&bytes);
    assert_eq!(decoder.next(), Err(error.clone()));
    assert_eq!(decoder.finish(), Err(error));
    assert_eq!(decoder.buffer.capacity(), 0);
    // What is announced and never sent is not allocated either.
    let mut header = frame(2, 0, &[]);
    header[4..8].copy_from_slice(&(MAX_FRAME_BYTES as u32).to_le_bytes());
    reseal(&mut header);
    let mut decoder = FrameDecoder::new();
    decoder.set_limit(usize::MAX);
    decoder.push(&header);
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.buffer.capacity() < 1000);
}

#[test]
fn a_frame_that_is_too_large_is_not_made() {
    let page = Page {
        gfn: 0,
        data: vec![1; 4096],
    };
    let pages = vec![page; MAX_FRAME_BYTES / 4096 + 1];
    let mut out = vec![1, 2];
    let error = encode_into(&Message::ClonePages { pages }, &mut out).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { .. }));
    let pages = vec![Page {
        gfn: u64::MAX,
        data: Vec::new(),
    }];
    let error = encode_into(&Message::ClonePages { pages }, &mut out).unwrap_err();
    assert_eq!(error, FrameError::Body { kind: 2, epoch: 0 });
    assert_eq!(out, [1, 2]);
}

proptest! {
    #[test]
    fn a_flipped_bit_is_always_found(at: prop::sample::Index, bit in 0..8u32) {
        let good = stream();
        let mut bytes = good.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        let (decoded, end) = decode(&bytes, 100);
        prop_assert!(end.is_err());
        prop_assert_eq!(&decoded[..], &messages()[..decoded.len()]);
    }

    #[test]
    fn a_torn_stream_gives_its_whole_messages(cut: prop::sample::Index) {
        let bytes = stream();
        let (decoded, end) = decode(&bytes[..cut.index(bytes.len())], 100);
        prop_assert_eq!(&decoded[..], &messages()[..decoded.len()]);
        let torn = matches!(end, Ok(()) | Err(FrameError::Torn { .. }));
        prop_assert!(torn);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(decode(&bytes, 13).0, []);
    }

    /// Bytes that get past the checksums.
    #[test]
    fn random_bodies_never_panic(
        kind in 0..6u8,
        epoch in 0..3u64,
        body in prop::collection::vec(any::<u8>(), 0..400),
        tag in 0..12u8,
    ) {
        let mut body = body;
        if let Some(first) = body.first_mut() {
            *first = tag;
        }
        let bytes = frame(kind, epoch, &body);
        let (decoded, _) = decode(&bytes, 400);
        for message in decoded {
            if let Message::Epoch(epoch) = message {
                let _ = epoch.decode();
            }
        }
    }
}
