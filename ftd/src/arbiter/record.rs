//! What a bidder's sectors hold: a [`Block`] that survives a torn write.
//!
//! A sector that was being written when its host died may hold anything. So each block has two
//! copies, numbered as they are written and overwritten in turn: the newer one may be torn, and then
//! the older one stands, as if the write had not begun. That is all Disk Paxos asks for.

use super::ID_BYTES_MAX;
use super::layout::{Reader, SECTOR_BYTES, USED_BYTES, Writer};
use super::paxos::Block;

const MAGIC: &[u8; 8] = b"ftdslot1";
/// No ballot or generation gets this far: what claims to is damaged, and sums can't overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// One copy of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The area's identifier, from its header.
    pub area_id: [u8; 16],
    /// The slot it belongs to.
    pub slot: u8,
    /// Rises by one with each write to the slot's two copies.
    pub sequence: u64,
    /// Identifier of the host that wrote it.
    pub writer: String,
    /// What it says.
    pub block: Block<String>,
}

impl Record {
    /// As a sector. Identifiers are cut at [`ID_BYTES_MAX`] bytes.
    pub fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut writer = Writer::new(MAGIC);
        writer.put(&self.area_id);
        writer.put(&[self.slot]);
        for number in [
            self.sequence,
            self.block.generation,
            self.block.mbal,
            self.block.bal,
        ] {
            writer.put(&number.to_le_bytes());
        }
        writer.put(&[u8::from(self.block.decided)]);
        writer.put_text(&self.writer);
        // An identifier is never empty.
        writer.put_text(self.block.inp.as_deref().unwrap_or(""));
        writer.finish()
    }

    fn decode(sector: &[u8]) -> Option<Record> {
        let mut reader = Reader::new(MAGIC, sector)?;
        let area_id = reader.take()?;
        let [slot] = reader.take()?;
        let mut number = || {
            let number = u64::from_le_bytes(reader.take()?);
            (number < NUMBER_MAX).then_some(number)
        };
        let (sequence, generation, mbal, bal) = (number()?, number()?, number()?, number()?);
        let [decided] = reader.take()?;
        let (writer, inp) = (reader.take_text()?, reader.take_text()?);
        let inp = (!inp.is_empty()).then_some(inp);
        let consistent =
            bal <= mbal && inp.is_some() == (bal > 0) && decided <= inp.is_some() as u8;
        consistent.then_some(Record {
            area_id,
            slot,
            sequence,
            writer,
            block: Block {
                generation,
                mbal,
                bal,
                inp,
                decided: decided == 1,
            },
        })
    }
}

/// What a sector turned out to hold.
enum Copy {
    /// Zeros: never written since formatting.
    Blank,
    Whole(Record),
    /// Neither: torn.
    Torn,
}

/// The record that counts of a slot's two copies; `None` if none was ever completely written.
///
/// # Errors
/// Both copies are damaged, which no single torn write can do, or they contradict each other or
/// where they are.
pub fn newest(
    area_id: &[u8; 16],
    slot: usize,
    copies: [&[u8]; 2],
) -> Result<Option<Record>, &'static str> {
    let [first, second] = copies.map(|sector| {
        let used = sector.get(..USED_BYTES).unwrap_or(sector);
        match Record::decode(sector) {
            Some(record) => Copy::Whole(record),
            None if used.iter().all(|&byte| byte == 0) => Copy::Blank,
            None => Copy::Torn,
        }
    });
    let record = match (first, second) {
        (Copy::Whole(first), Copy::Whole(second)) => {
            if first.sequence.abs_diff(second.sequence) != 1 {
                return Err("the two copies of a slot are no successors");
            }
            Some(match first.sequence > second.sequence {
                true => first,
                false => second,
            })
        }
        (Copy::Whole(record), _) | (_, Copy::Whole(record)) => Some(record),
        (Copy::Torn, Copy::Torn) => return Err("both copies of a slot are damaged"),
        (Copy::Blank, _) | (_, Copy::Blank) => None,
    };
    match record {
        Some(record) if record.area_id != *area_id => Err("a slot belongs to another area"),
        Some(record) if usize::from(record.slot) != slot => Err("a slot is in the wrong place"),
        record => Ok(record),
    }
}

const _: () = assert!(8 + 16 + 1 + 4 * 8 + 1 + 2 * (1 + ID_BYTES_MAX) <= USED_BYTES - 16);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AREA: [u8; 16] = [9; 16];

    fn record(sequence: u64) -> Record {
        Record {
            area_id: AREA,
            slot: 3,
            sequence,
            writer: "w".repeat(ID_BYTES_MAX),
            block: Block {
                generation: 17,
                mbal: 20,
                bal: 12,
                inp: Some("v".repeat(ID_BYTES_MAX)),
                decided: true,
            },
        }
    }

    #[test]
    fn the_higher_sequence_counts_and_a_torn_copy_does_not() {
        let (old, new) = (record(4).encode(), record(5).encode());
        let blank = [0; SECTOR_BYTES];
        let mut torn = new;
        torn[300..].fill(0xaa);
        let pick = |first: &[u8], second: &[u8]| {
            newest(&AREA, 3, [first, second]).map(|record| record.map(|record| record.sequence))
        };
        assert_eq!(pick(&old, &new), Ok(Some(5)));
        assert_eq!(pick(&new, &old), Ok(Some(5)));
        assert_eq!(pick(&old, &torn), Ok(Some(4)));
        assert_eq!(pick(&torn, &old), Ok(Some(4)));
        assert_eq!(pick(&blank, &new), Ok(Some(5)));
        assert_eq!(pick(&blank, &torn), Ok(None));
        assert_eq!(pick(&blank, &blank), Ok(None));
        assert!(pick(&torn, &torn).is_err());
        assert!(pick(&old, &old).is_err());
        assert!(newest(&AREA, 2, [&old, &new]).is_err());
        assert!(newest(&[8; 16], 3, [&old, &new]).is_err());
        assert!(newest(&AREA, 3, [&[], &[1, 2]]).is_ok());
    }

    #[test]
    fn inconsistent_blocks_are_damaged() {
        for change in [
            |block: &mut Block<String>| block.bal = 21,
            |block: &mut Block<String>| block.bal = 0,
            |block: &mut Block<String>| block.inp = None,
            |block: &mut Block<String>| block.mbal = NUMBER_MAX,
        ] {
            let mut record = record(1);
            change(&mut record.block);
            assert_eq!(Record::decode(&record.encode()), None);
        }
    }

    proptest! {
        #[test]
        fn round_trip(sequence in 0..NUMBER_MAX, mbal in 1..NUMBER_MAX, writer in "[a-zä]{1,60}",
                      inp in prop::option::of("[a-z]{1,128}"), decided: bool) {
            let mut record = record(sequence);
            record.writer = writer;
            record.block.mbal = mbal;
            record.block.bal = if inp.is_some() { mbal } else { 0 };
            record.block.decided = decided && inp.is_some();
            record.block.inp = inp;
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        /// Any mixture of an old and a new sector's 512 bytes, and any damage, is noticed.
        #[test]
        fn damage_is_noticed(cut in 1usize..USED_BYTES, at in 0usize..USED_BYTES, bit in 0u8..8) {
            let (old, new) = (record(4).encode(), record(6).encode());
            let mut mixed = old;
            mixed[..cut].copy_from_slice(&new[..cut]);
            let decoded = Record::decode(&mixed);
            prop_assert!(decoded.is_none() || mixed == old || mixed == new);
            let mut damaged = new;
            damaged[at] ^= 1 << bit;
            prop_assert_eq!(Record::decode(&damaged), None);
        }

        #[test]
        fn any_bytes_will_do(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = newest(&AREA, 0, [&bytes, &bytes]);
        }
    }
}
