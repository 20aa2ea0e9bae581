//! What two copies of a guest compare at the end of an epoch, and how a difference gets a name.

use std::fmt;

use devices::MachinePart;
use serde::{Deserialize, Serialize};

/// What a guest is at the end of an epoch, in three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    /// Of the items that [`REGISTERS`] names, in that order.
    pub registers: Marks,
    /// Of the machine's parts, in the order of `Machine::parts`.
    pub devices: Marks,
    /// Of a share of RAM: another one with each epoch, so that all of it gets its turn.
    pub ram: RamShare,
}

/// What [`Digest::registers`] covers. RFLAGS without RF and the status flags; branches since the last snapshot, 0 where
/// the clock counts none.
pub const REGISTERS: [&str; 21] = [
    "RAX",
    "RBX",
    "RCX",
    "RDX",
    "RSI",
    "RDI",
    "RSP",
    "RBP",
    "R8",
    "R9",
    "R10",
    "R11",
    "R12",
    "R13",
    "R14",
    "R15",
    "RIP",
    "RFLAGS",
    "virtual time",
    "the number of exits",
    "the number of branches",
];

/// A checksum of a list of items, and a small mark of each: the checksum finds a difference, the marks name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    /// CRC32C of the items, 8 bytes each, little-endian.
    pub crc: u32,
    len: u8,
    marks: [u8; Marks::MAX],
}

impl Marks {
    /// Most items.
    pub const MAX: usize = 24;

    /// Adds an item; those beyond [`Marks::MAX`] are in the checksum alone.
    pub fn push(&mut self, item: u64) {
        let bytes = item.to_le_bytes();
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        // A single bit that differs always shows.
        let mark = bytes.into_iter().fold(0, |mark, byte| mark ^ byte);
        if let Some(place) = self.marks.get_mut(usize::from(self.len)) {
            *place = mark;
            self.len += 1;
        }
    }

    /// Checksum and marks as they came off the wire; `None` for more marks than there can be.
    pub fn from_parts(crc: u32, marks: &[u8]) -> Option<Marks> {
        let mut whole = Marks {
            crc,
            len: u8::try_from(marks.len()).ok()?,
            ..Marks::default()
        };
        whole.marks.get_mut(..marks.len())?.copy_from_slice(marks);
        Some(whole)
    }

    /// The marks.
    pub fn marks(&self) -> &[u8] {
        self.marks.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The numbers of the items that differ; `None` if nothing does. Empty if no mark shows what.
    fn difference(&self, other: &Marks) -> Option<Vec<usize>> {
        if self == other {
            return None;
        }
        let pairs = self.marks().iter().zip(other.marks());
        Some(
            pairs
                .enumerate()
                .filter_map(|(index, (mine, theirs))| (mine != theirs).then_some(index))
                .collect(),
        )
    }
}

/// Some pages of guest RAM and two sums over their checksums: both together tell which page differs, if it is
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RamShare {
    /// The first page's frame number; 0 if there are none.
    pub first: u64,
    /// How many, at most [`RamShare::PAGES_MAX`].
    pub pages: u32,
    /// Of the pages' CRC32Cs, modulo 2^32; 0 if there are none.
    pub sum: u32,
    /// The same, each multiplied by 1 + its place in the share.
    pub weighted: u32,
}

impl RamShare {
    /// Most pages of a share: 16 MiB, a few milliseconds of checking.
    pub const PAGES_MAX: u32 = 4096;

    /// A share that begins with page `first`, of no pages yet.
    pub fn new(first: u64) -> RamShare {
        RamShare {
            first,
            ..RamShare::default()
        }
    }

    /// Adds the next page.
    pub fn push(&mut self, page: &[u8]) {
        let crc = crc32c::crc32c(page);
        self.pages = self.pages.wrapping_add(1);
        self.sum = self.sum.wrapping_add(crc);
        self.weighted = self.weighted.wrapping_add(crc.wrapping_mul(self.pages));
    }

    /// The page in which two shares of the same pages differ, if only one does.
    fn only_difference(&self, other: &RamShare) -> Option<u64> {
        let sum = self.sum.wrapping_sub(other.sum);
        let weighted = self.weighted.wrapping_sub(other.weighted);
        let mut found = (0..self.pages).filter(|place| sum.wrapping_mul(place + 1) == weighted);
        let place = found.next()?;
        (sum != 0 && found.next().is_none()).then(|| self.first + u64::from(place))
    }
}

impl Digest {
    /// Where two digests of the same pages differ. `parts` names what [`Digest::devices`] covers.
    pub fn difference(&self, other: &Digest, parts: &[MachinePart]) -> Option<Difference> {
        let registers = self.registers.difference(&other.registers);
        let devices = self.devices.difference(&other.devices);
        let ram = (self.ram != other.ram).then(|| match self.ram.only_difference(&other.ram) {
            Some(gfn) => RamDifference::Page(gfn),
            None => RamDifference::Among {
                first: self.ram.first,
                pages: self.ram.pages,
            },
        });
        if registers.is_none() && devices.is_none() && ram.is_none() {
            return None;
        }
        let name = |index: usize| REGISTERS.get(index).copied();
        let part = |index: usize| parts.get(index).copied();
        Some(Difference {
            registers: registers.map(|all| all.into_iter().filter_map(name).collect()),
            devices: devices.map(|all| all.into_iter().filter_map(part).collect()),
            ram,
        })
    }
}

/// Where two copies of a guest differ, as far as their digests tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The registers, if any differ; empty if it is not known which.
    pub registers: Option<Vec<&'static str>>,
    /// The devices, if any differ; empty if it is not known which.
    pub devices: Option<Vec<MachinePart>>,
    /// RAM.
    pub ram: Option<RamDifference>,
}

/// Where RAM differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RamDifference {
    /// In this page, by frame number.
    Page(u64),
    /// In several of these.
    Among {
        /// The first page's frame number.
        first: u64,
        /// How many.
        pages: u32,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match self.registers.as_deref() {
            Some([]) => parts.push("some register".to_owned()),
            Some([one]) if one.starts_with('R') => parts.push(format!("register {one}")),
            Some(several) => parts.push(several.join(", ")),
            None => {}
        }
        match self.devices.as_deref() {
            Some([]) => parts.push("some device".to_owned()),
            Some(several) => parts.extend(several.iter().map(ToString::to_string)),
            None => {}
        }
        match self.ram {
            Some(RamDifference::Page(gfn)) => {
                parts.push(format!("the page of RAM at {:#x}", gfn << 12));
            }
            Some(RamDifference::Among { first, pages }) => {
                let address = first << 12;
                parts.push(format!("RAM, in the {pages} pages from {address:#x} on"));
            }
            None => {}
        }
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(items: &[u64], devices: &[u64], pages: &[[u8; 4]]) -> Digest {
        let mut digest = Digest {
            ram: RamShare::new(0x100),
            ..Digest::default()
        };
        for item in items {
            digest.registers.push(*item);
        }
        for device in devices {
            digest.devices.push(*device);
        }
        for page in pages {
            digest.ram.push(page);
        }
        digest
    }

    const PARTS: [MachinePart; 2] = [MachinePart::Pit, MachinePart::Disk(1)];

    #[test]
    fn each_single_bit_of_each_part_is_named() {
        let pages = [[1, 2, 3, 4]; 50];
        let one = digest(&[7; REGISTERS.len()], &[1, 2], &pages);
        assert_eq!(one.difference(&one, &PARTS), None);
        for bit in 0..64 {
            for (register, name) in REGISTERS.iter().enumerate() {
                let mut items = [7; REGISTERS.len()];
                items[register] ^= 1 << bit;
                let other = digest(&items, &[1, 2], &pages);
                let found = one.difference(&other, &PARTS).expect("a difference");
                assert_eq!(found.registers, Some(vec![*name]));
                assert_eq!((found.devices, found.ram), (None, None));
            }
            let other = digest(&[7; REGISTERS.len()], &[1, 2 ^ (1 << bit)], &pages);
            let found = one.difference(&other, &PARTS).expect("a difference");
            assert_eq!(found.to_string(), "disk 1");
        }
        for page in 0..50 {
            let mut changed = pages;
            changed[page][2] ^= 0x10;
            let other = digest(&[7; REGISTERS.len()], &[1, 2], &changed);
            let found = one.difference(&other, &PARTS).expect("a difference");
            let address = 0x100_000 + 0x1000 * page;
            assert_eq!(
                found.to_string(),
                format!("the page of RAM at {address:#x}")
            );
        }
    }

    #[test]
    fn several_pages_are_not_taken_for_another_one() {
        let pages = [[1, 2, 3, 4]; 50];
        let one = digest(&[], &[], &pages);
        let mut changed = pages;
        changed[3][0] = 0;
        changed[40][1] = 9;
        let other = digest(&[], &[], &changed);
        let found = one.difference(&other, &PARTS).expect("a difference");
        assert_eq!(found.to_string(), "RAM, in the 50 pages from 0x100000 on");
    }

    #[test]
    fn marks_that_agree_hide_no_difference() {
        let one = digest(&[0x0101], &[], &[]);
        let other = digest(&[0], &[], &[]);
        let found = one.difference(&other, &PARTS).expect("a difference");
        assert_eq!(found.to_string(), "some register");
        assert_eq!(Marks::from_parts(0, &[0; 25]), None);
    }
}
