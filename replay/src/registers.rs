//! What a point says of the registers there: enough to be known by, and to name one that differs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::REGISTERS;

/// A checksum of the registers, and a small mark of each general one: the checksum finds a difference, the marks name
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RegisterSum {
    /// CRC32C of what the first 18 of [`REGISTERS`] name, 8 bytes each, little-endian.
    pub crc: u32,
    /// The parity of each of the first 16, RAX's lowest. A single bit that differs always shows.
    pub marks: u16,
}

impl RegisterSum {
    /// Of what the first 18 of [`REGISTERS`] name, in that order. A replica does it at each breakpoint.
    pub fn of(words: &[u64; 18]) -> RegisterSum {
        let mut bytes = [0; 8 * 18];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let mut marks = 0;
        for word in words.iter().take(16).rev() {
            marks = marks << 1 | (word.count_ones() & 1) as u16;
        }
        RegisterSum {
            crc: crc32c::crc32c(&bytes),
            marks,
        }
    }

    /// How the registers differ; `None` if they do not.
    pub fn difference(self, other: RegisterSum) -> Option<RegisterDifference> {
        (self != other).then_some(RegisterDifference(self.marks ^ other.marks))
    }
}

/// Registers that differ, by their marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterDifference(u16);

impl RegisterDifference {
    /// How many show.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Their places in [`REGISTERS`].
    pub fn places(self) -> impl Iterator<Item = usize> {
        (0..16).filter(move |place| self.0 >> place & 1 != 0)
    }
}

impl fmt::Display for RegisterDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .places()
            .filter_map(|place| REGISTERS.get(place).copied())
            .collect();
        match names.as_slice() {
            [] => f.write_str("some register"),
            names => f.write_str(&names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> [u64; 18] {
        std::array::from_fn(|place| 0x0123_4567_89ab_cdef_u64.rotate_left(place as u32))
    }

    #[test]
    fn each_single_bit_of_each_general_register_is_named() {
        let sum = RegisterSum::of(&words());
        assert_eq!(sum.difference(RegisterSum::of(&words())), None);
        for (place, name) in REGISTERS.iter().enumerate().take(16) {
            for bit in 0..64 {
                let mut other = words();
                other[place] ^= 1 << bit;
                let difference = sum.difference(RegisterSum::of(&other)).expect("one");
                assert_eq!(difference.to_string(), *name);
                assert_eq!(difference.count(), 1);
            }
        }
    }

    #[test]
    fn several_are_named_in_order() {
        let mut other = words();
        other[15] ^= 1;
        other[0] ^= 1 << 63;
        let difference = RegisterSum::of(&words()).difference(RegisterSum::of(&other));
        assert_eq!(difference.expect("two").to_string(), "RAX, R15");
    }

    #[test]
    fn what_no_mark_shows_is_found_all_the_same() {
        let mut other = words();
        other[3] ^= 0b11;
        let difference = RegisterSum::of(&words()).difference(RegisterSum::of(&other));
        let difference = difference.expect("one");
        assert_eq!(difference.to_string(), "some register");
        assert_eq!(difference.count(), 0);
        let mut other = words();
        other[17] ^= 1 << 9;
        let difference = RegisterSum::of(&words()).difference(RegisterSum::of(&other));
        assert_eq!(difference.expect("one").to_string(), "some register");
    }
}
