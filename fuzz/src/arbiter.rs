//! What another host, or a torn write, left on the shared storage.

use ftd::arbiter::candidate::Candidate;
use ftd::arbiter::layout::{Header, SECTOR_BYTES};
use ftd::arbiter::paxos::{Action, Bid, Block, Outcome};
use ftd::arbiter::record::{Record, newest};

use crate::source::Source;

const AREA: [u8; 16] = [7; 16];
const SLOTS: usize = 3;
/// Bytes before the checksum of a sector (16 bytes of BLAKE3).
const CHECKED_BYTES: usize = 496;

/// The first byte: 0, the rest are two copies of a slot as they are; 1, the same with right checksums; 2, a
/// header; 3, a candidate; else a bid among blocks of any contents.
///
/// # Panics
/// What is accepted is another thing when it is written again, or a bid comes to a decision that no block
/// and no bidder stands for.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    match source.u8() {
        0 => slot(&[source.take(SECTOR_BYTES), source.rest()]),
        1 => {
            let sector = |bytes: &[u8]| sealed(b"ftdslot1", &AREA, bytes);
            let first = sector(source.bytes(CHECKED_BYTES));
            slot(&[&first, &sector(source.rest())]);
        }
        2 => {
            let sector = sealed(b"ftdarea2", &AREA, source.rest());
            if let Some(header) = Header::decode(&sector) {
                assert_eq!(Header::decode(&header.encode()), Some(header));
            }
        }
        3 => {
            let sector = sealed(b"ftdcand1", &AREA, source.rest());
            if let Some(candidate) = Candidate::decode(&AREA, &sector) {
                let again = candidate.encode(&AREA);
                assert_eq!(Candidate::decode(&AREA, &again), Some(candidate));
            }
        }
        _ => bid(&mut source),
    }
}

fn sealed(magic: &[u8; 8], area: &[u8; 16], bytes: &[u8]) -> Vec<u8> {
    let mut sector = vec![0; SECTOR_BYTES];
    let body: Vec<u8> = [&magic[..], area, bytes].concat();
    let len = body.len().min(CHECKED_BYTES);
    sector[..len].copy_from_slice(&body[..len]);
    let sum = blake3::hash(&sector[..CHECKED_BYTES]);
    sector[CHECKED_BYTES..CHECKED_BYTES + 16].copy_from_slice(&sum.as_bytes()[..16]);
    sector
}

fn slot(copies: &[&[u8]; 2]) {
    for slot in 0..2 {
        let Ok(Some(record)) = newest(&AREA, slot, *copies) else {
            continue;
        };
        assert_eq!((usize::from(record.slot), record.area_id), (slot, AREA));
        let written = record.encode();
        let again = newest(&AREA, slot, [&written, &[]]);
        assert_eq!(again, Ok(Some(record)));
    }
}

/// What a sector can say: see [`Record`], which refuses everything else.
fn block(source: &mut Source<'_>) -> Option<Block<String>> {
    let bal = source.any() % (1 << 62);
    let block = Block {
        generation: u64::from(source.below(4)),
        mbal: bal.saturating_add(source.any() % 16).min((1 << 62) - 1),
        bal,
        inp: (bal > 0).then(|| ["east", "west", "north"][usize::from(source.below(3))].to_owned()),
        decided: bal > 0 && source.flag(),
    };
    let record = Record {
        area_id: AREA,
        slot: 0,
        sequence: 1,
        writer: "west".to_owned(),
        block: block.clone(),
    };
    let sector = record.encode();
    assert_eq!(newest(&AREA, 0, [&sector, &[]]), Ok(Some(record)));
    (!source.flag()).then_some(block)
}

fn bid(source: &mut Source<'_>) {
    let me = usize::from(source.below(SLOTS as u8));
    let mut bid = Bid::new(me, SLOTS, 2, "east".to_owned());
    let (mut own, mut ballot) = (None, 0);
    let mut seen = vec!["east".to_owned()];
    while !source.is_empty() {
        match bid.action() {
            Action::Read { slot } => {
                assert!(slot < SLOTS);
                // Mostly what it has written itself.
                let read = match slot == me && own.is_some() && source.below(16) != 0 {
                    true => own.clone(),
                    false => block(source),
                };
                seen.extend(read.iter().filter_map(|block| block.inp.clone()));
                bid.read(read);
            }
            Action::Write(block) => {
                assert_eq!(block.generation, 2);
                assert!(
                    block.mbal >= ballot && block.bal <= block.mbal,
                    "{block:?} after {ballot}"
                );
                ballot = block.mbal;
                own = Some(block);
                bid.written();
            }
            Action::Wait { round } => {
                assert!(round > 0);
                bid.waited();
            }
            Action::Done(outcome) => {
                match outcome {
                    Outcome::Decided(winner) => assert!(seen.contains(&winner)),
                    Outcome::Superseded { newest } => assert!(newest > 2),
                    Outcome::Conflict => {}
                }
                return;
            }
        }
    }
}
