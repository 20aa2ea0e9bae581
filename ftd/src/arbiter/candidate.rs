//! Candidates: backups that would take the guest over, and say how far they got.
//!
//! Where outputs wait for a quorum of the backups only, one that bids must know that it lacks nothing of what was let
//! out (`replay/src/protocol/canvass.rs`). So before it bids it writes here up to which epoch it has
//! acknowledged the log, and reads what the others have written. A candidacy is never taken back or raised: whoever writes one has lost
//! its primary, and receives nothing more as this candidate.

use super::layout::{Reader, SECTOR_BYTES, Writer};

const SECTOR_MAGIC: &[u8; 8] = b"ftdcand1";
/// First line of a file; the epoch is the second and last.
const FILE_MAGIC: &str = "ftd candidate 1";
/// Longest file, in bytes.
pub(super) const FILE_BYTES_MAX: usize = FILE_MAGIC.len() + 22;

/// What the arbiter's storage knows of the candidates for a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The generation is decided already.
    pub decided: bool,
    /// The last epoch that each candidate has acknowledged, in no order. One that is just being written may be
    /// missing.
    pub through: Vec<u64>,
}

/// A host's candidacy as a sector of a shared device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The generation that it would take.
    pub generation: u64,
    /// The last epoch that it has acknowledged.
    pub through: u64,
}

impl Candidate {
    /// As a sector of this area.
    pub fn encode(&self, area_id: &[u8; 16]) -> [u8; SECTOR_BYTES] {
        let mut writer = Writer::new(SECTOR_MAGIC);
        writer.put(area_id);
        writer.put(&self.generation.to_le_bytes());
        writer.put(&self.through.to_le_bytes());
        writer.finish()
    }

    /// From a sector; `None` if it holds none of this area, or a damaged one.
    pub fn decode(area_id: &[u8; 16], sector: &[u8]) -> Option<Candidate> {
        let mut reader = Reader::new(SECTOR_MAGIC, sector)?;
        let ours = reader.take::<16>()? == *area_id;
        let generation = u64::from_le_bytes(reader.take()?);
        let through = u64::from_le_bytes(reader.take()?);
        ours.then_some(Candidate {
            generation,
            through,
        })
    }
}

/// The text of a file.
pub(super) fn text(through: u64) -> String {
    format!("{FILE_MAGIC}\n{through}\n")
}

/// The epoch in a file's text; `None` if ftd can't have written it.
pub(super) fn parse(text: &str) -> Option<u64> {
    match text.split('\n').collect::<Vec<_>>()[..] {
        [FILE_MAGIC, through, ""] => through.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::arbiter::{Arbiter, Verdict};

    #[test]
    fn a_sector_is_read_back_and_a_damaged_or_foreign_one_is_not() {
        let candidate = Candidate {
            generation: 7,
            through: u64::MAX,
        };
        let sector = candidate.encode(&[3; 16]);
        assert_eq!(Candidate::decode(&[3; 16], &sector), Some(candidate));
        assert_eq!(Candidate::decode(&[4; 16], &sector), None);
        for at in 0..SECTOR_BYTES.min(512) {
            let mut damaged = sector;
            damaged[at] ^= 1;
            assert_eq!(Candidate::decode(&[3; 16], &damaged), None, "byte {at}");
        }
        assert_eq!(Candidate::decode(&[3; 16], &[0; SECTOR_BYTES]), None);
    }

    #[test]
    fn a_text_is_read_back_and_another_is_not() {
        assert_eq!(parse(&text(12)), Some(12));
        assert!(text(u64::MAX).len() <= FILE_BYTES_MAX);
        for other in ["", "12", "ftd candidate 1\n12", "ftd candidate 1\n-1\n"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    /// What every arbiter promises.
    pub(in crate::arbiter) fn know_each_other(east: &mut dyn Arbiter, west: &mut dyn Arbiter) {
        let heard = |decided, through: &[u64]| Standing {
            decided,
            through: through.to_vec(),
        };
        let stand = |who: &mut dyn Arbiter, through| {
            let mut standing = who.stand(2, through).unwrap();
            standing.through.sort_unstable();
            standing
        };
        assert_eq!(stand(east, 12), heard(false, &[12]));
        assert_eq!(stand(west, 9), heard(false, &[9, 12]));
        // Said again, it is one voice.
        assert_eq!(stand(east, 12), heard(false, &[9, 12]));
        // Who stood for an earlier generation has no voice in a later one.
        assert_eq!(east.test_and_set(2).unwrap(), Verdict::Won);
        assert!(west.stand(2, 9).unwrap().decided);
        assert_eq!(west.stand(3, 9).unwrap(), heard(false, &[9]));
        assert_eq!(
            west.current_generation().unwrap(),
            2,
            "a candidate has won nothing"
        );
    }
}
