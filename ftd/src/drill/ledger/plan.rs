//! Which writes the ledger's client sends. Each connection sends its own sequence, from which any
//! value can be told again later, so that nothing but the seed has to be remembered:
//!
//! | turn | request | what a defect shows as |
//! |---|---|---|
//! | 0 | `SET k:<n> <value>` | a lost write: no such key |
//! | 1 | `INCR c:<connection>` | lost or doubled: the count is wrong, at once in the answer |
//! | 2 | `RPUSH l:<connection> <n>` | lost, doubled or reordered: the list says which |
//! | 3 | `SET h:<connection>:<slot> <value>` | an older value than the acknowledged one |

use super::resp;

/// What the values of a run are derived from; part of every key, so that runs don't meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seed(pub u64);

/// Slots of a connection that are written over and over.
pub const HOT_SLOTS: u64 = 8;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A key of its own.
    Fresh,
    /// The connection's counter.
    Count,
    /// The connection's list.
    Push,
    /// A key that is written over and over.
    Hot,
}

impl Kind {
    /// One letter, as the ledger's file has it.
    pub fn letter(self) -> char {
        match self {
            Kind::Fresh => 'F',
            Kind::Count => 'C',
            Kind::Push => 'P',
            Kind::Hot => 'H',
        }
    }
}

/// A write: the `index`-th of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Write {
    /// Which connection, from 0.
    pub connection: u32,
    /// Its number on that connection, from 0.
    pub index: u64,
}

impl Write {
    /// What it does.
    pub fn kind(self) -> Kind {
        match self.index % 4 {
            0 => Kind::Fresh,
            1 => Kind::Count,
            2 => Kind::Push,
            _ => Kind::Hot,
        }
    }

    /// The slot of a [`Kind::Hot`] write.
    pub fn slot(self) -> u64 {
        self.index / 4 % HOT_SLOTS
    }

    /// The key it writes to.
    pub fn key(self, seed: Seed) -> String {
        let (seed, connection) = (seed.0, self.connection);
        match self.kind() {
            Kind::Fresh => format!("ftd:{seed:x}:k:{connection}:{}", self.index),
            Kind::Count => format!("ftd:{seed:x}:c:{connection}"),
            Kind::Push => format!("ftd:{seed:x}:l:{connection}"),
            Kind::Hot => format!("ftd:{seed:x}:h:{connection}:{}", self.slot()),
        }
    }

    /// The value of a `SET`, `bytes` long at least: its index in clear, then noise from the seed.
    pub fn value(self, seed: Seed, bytes: usize) -> Vec<u8> {
        let mut state = seed.0 ^ (u64::from(self.connection) << 48) ^ self.index;
        let mut value = format!("{}:", self.index).into_bytes();
        value.extend_from_slice(format!("{:016x}", split_mix(&mut state)).as_bytes());
        while value.len() < bytes {
            value.extend_from_slice(format!("{:016x}", split_mix(&mut state)).as_bytes());
        }
        value
    }

    /// Appends the request to `out`.
    pub fn request(self, seed: Seed, value_bytes: usize, out: &mut Vec<u8>) {
        let key = self.key(seed);
        let key = key.as_bytes();
        match self.kind() {
            Kind::Fresh | Kind::Hot => {
                resp::request(out, &[b"SET", key, &self.value(seed, value_bytes)]);
            }
            Kind::Count => resp::request(out, &[b"INCR", key]),
            Kind::Push => resp::request(out, &[b"RPUSH", key, self.index.to_string().as_bytes()]),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The index that a value was made for, if it begins with one.
pub fn index_of(value: &[u8]) -> Option<u64> {
    let end = value.iter().position(|byte| *byte == b':')?;
    std::str::from_utf8(&value[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_index_and_differs_by_seed_connection_and_index() {
        let write = Write {
            connection: 3,
            index: 40,
        };
        let value = write.value(Seed(7), 100);
        assert!(value.len() >= 100);
        assert_eq!(index_of(&value), Some(40));
        assert_ne!(value, write.value(Seed(8), 100));
        assert_ne!(
            value,
            Write {
                connection: 4,
                index: 40
            }
            .value(Seed(7), 100)
        );
        assert_eq!(index_of(b"nothing"), None);
    }

    #[test]
    fn every_kind_has_its_turn_and_hot_slots_come_round() {
        let write = |index| Write {
            connection: 0,
            index,
        };
        let kinds: Vec<_> = (0..4).map(|index| write(index).kind()).collect();
        assert_eq!(kinds, [Kind::Fresh, Kind::Count, Kind::Push, Kind::Hot]);
        assert_eq!(write(3).key(Seed(1)), write(3 + 4 * HOT_SLOTS).key(Seed(1)));
        assert_ne!(write(3).key(Seed(1)), write(7).key(Seed(1)));
        assert_ne!(write(0).key(Seed(1)), write(4).key(Seed(1)));
    }
}
