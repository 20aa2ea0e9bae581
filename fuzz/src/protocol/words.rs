//! What a peer may say: all messages, with numbers that mostly could be meant.

use replay::EncodedEpoch;
use replay::Page;
use replay::protocol::{
    Ack, ByeReason, Commit, EndReason, Hello, Join, Message, PROTOCOL_VERSION, PageHash,
    PageHashes, RejectReason, Welcome,
};

use super::facts;
use crate::source::Source;

/// A message; `near` is a number that would fit.
pub(super) fn message(source: &mut Source<'_>, near: u64) -> Message {
    let number = |source: &mut Source<'_>| match source.u8() {
        0xff => source.u64(),
        other => near.wrapping_add(u64::from(other)).wrapping_sub(2),
    };
    match source.below(15) {
        0 => Message::Hello(Box::new(hello(source))),
        1 => Message::Welcome(Welcome {
            protocol_version: PROTOCOL_VERSION + u32::from(source.below(8) / 7),
            features: source.any(),
            host: "there".to_owned(),
            generation: source.any(),
            bidder: "there".to_owned(),
            commit: match source.below(3) {
                0 => Commit::Received,
                1 => Commit::Executed,
                _ => Commit::Verified,
            },
            detect_ms: source.any() as u32,
            heartbeat_ms: source.any() as u32,
        }),
        2 => Message::Reject(match source.below(4) {
            0 => RejectReason::HasBackup,
            1 => RejectReason::NotPrimary,
            2 => RejectReason::Machine,
            _ => RejectReason::Superseded {
                primary: source.any(),
                backup: source.any(),
            },
        }),
        3 => Message::ClonePages {
            pages: vec![Page {
                gfn: source.any(),
                data: Vec::new(),
            }],
        },
        4 => Message::CloneDone {
            first: number(source),
        },
        5 | 6 => {
            // A snapshot's tag, or anything else.
            let mut bytes = vec![if source.flag() { 8 } else { source.u8() }];
            bytes.extend_from_slice(&source.filled(3000));
            Message::Epoch(EncodedEpoch {
                epoch: number(source),
                bytes,
                entries: u32::from(source.u8()),
                released: source.any(),
            })
        }
        7 | 8 => Message::Ack(Ack {
            received: number(source),
            executed: number(source),
            verified: number(source),
            executed_at: source.any(),
            heard: source.any(),
        }),
        9 => Message::Heartbeat {
            seq: source.any(),
            heard: source.any(),
        },
        10 => Message::GuestEnded {
            reason: EndReason::PowerOff,
        },
        11 => Message::Bye {
            reason: match source.below(3) {
                0 => ByeReason::Stopped,
                1 => ByeReason::Diverged,
                _ => ByeReason::Failed,
            },
        },
        12 => Message::PageHashes(PageHashes {
            key: [1; 16],
            first_gfn: source.any(),
            hashes: vec![PageHash([2; 16]); source.any().min(5000) as usize],
            last: source.flag(),
        }),
        13 => {
            let generation = u64::from(source.u8());
            let number = generation;
            let voices = number as u32 % 4;
            match source.below(6) {
                0 => Message::Keep { generation, voices },
                1 => Message::Kept { generation },
                2 => Message::Quorum { number, voices },
                3 => Message::QuorumKnown { number },
                4 => Message::Backups { count: voices },
                _ => Message::Renewed { generation },
            }
        }
        _ => match source.flag() {
            true => Message::HandOver,
            false => Message::Frame {
                bytes: source.take(20).to_vec(),
            },
        },
    }
}

fn hello(source: &mut Source<'_>) -> Hello {
    let mut facts = facts();
    let wrong = source.u8();
    match wrong {
        1 => facts.vm_id = "other".to_owned(),
        2 => facts.ram_bytes = source.any(),
        3 => facts.disks.clear(),
        4 => facts.image_id.clear(),
        _ => {}
    }
    Hello {
        protocol_version: PROTOCOL_VERSION + u32::from(wrong == 5),
        features: source.any(),
        host: "there".to_owned(),
        generation: source.any(),
        wants: Join::Clone,
        facts,
    }
}
