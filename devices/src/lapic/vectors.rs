//! A set of 256 interrupt vectors, as IRR, ISR and TMR hold them.

use serde::{Deserialize, Serialize};

/// 256 bits, in eight registers of 32.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    pub(super) fn set(&mut self, vector: u8, value: bool) {
        let (word, bit) = (usize::from(vector >> 5), 1 << (vector & 31));
        if value {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & (1 << (vector & 31)) != 0
    }

    /// The highest vector, which is the most urgent one.
    pub(super) fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|word| *word != 0)?;
        Some((word as u32 * 32 + 31 - self.0[word].leading_zeros()) as u8)
    }

    /// Register `index` (0 to 7).
    pub(super) fn word(&self, index: u8) -> u32 {
        self.0[usize::from(index & 7)]
    }

    /// Whether no vector below 16 is in the set: those can't be interrupts.
    pub(super) fn is_legal(&self) -> bool {
        self.0[0] & 0xffff == 0
    }
}
