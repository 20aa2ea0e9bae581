//! The kernel's own table of its symbols (Linux: scripts/kallsyms.c writes it, kernel/kallsyms.c reads it).
//!
//! It has no header and no address that a stripped file would tell, but each of its parts has a form that
//! little else has, and they lie next to each other, each from a multiple of 8 bytes on. In the order of Linux up to
//! 6.3 (later the first two come last, with the sequence behind them):
//!
//! ```text
//! offsets      i32 a symbol: its address (below)
//! base         u64: the lowest address
//! count        u32
//! names        a symbol: its length, then so many tokens of a byte each; in the order of addresses
//! markers      u32 for each 256th symbol: where in `names`
//! sequence     3 bytes a symbol, in the order of names (from 6.2 on, and in 6.1's later versions)
//! tokens       256 strings that end with 0; those of letters in use are the letters themselves
//! token index  u16 a token: where in `tokens`
//! ```

use devices::layout::PAGE_BYTES;

use super::super::elf::{u16_at, u32_at, u64_at};

const TOKENS: usize = 256;
const INDEX_BYTES: usize = TOKENS * 2;
/// Names between two markers.
const STRIDE: usize = 256;
/// Longest token with its 0, in bytes; longest name in tokens (KSYM_NAME_LEN and its type).
const TOKEN_MAX: usize = 128;
const NAME_MAX: usize = 513;
/// Linux has a quarter of a million.
const SYMBOLS_MAX: usize = 1 << 20;
/// Places that look like a part of the table and are looked at more closely: the file is not ours, and must not
/// keep the loader busy.
const CANDIDATES_MAX: usize = 4;
/// All of Linux is linked above.
const KERNEL: u64 = 0xffff_ffff_8000_0000;

/// A table that was found.
#[derive(Debug)]
pub struct Table<'a> {
    tokens: Vec<&'a [u8]>,
    names: &'a [u8],
    offsets: &'a [u8],
    base: u64,
    /// Offsets from 0 on are addresses themselves (per-CPU variables), others count from the base down.
    absolute: bool,
}

impl<'a> Table<'a> {
    /// Looks for a table in `data`.
    pub fn find(data: &'a [u8]) -> Option<Table<'a>> {
        let last = data.len().checked_sub(INDEX_BYTES)?;
        (0..=last)
            .step_by(8)
            .filter(|at| is_index(&data[*at..at + INDEX_BYTES]))
            .filter_map(|index| Some((index, tokens(data, index)?)))
            .take(CANDIDATES_MAX)
            .find_map(|(index, tokens)| Table::around(data, index, tokens))
    }

    /// The table with these tokens, whose index is at `index`.
    fn around(
        data: &'a [u8],
        index: usize,
        (tokens_at, tokens): (usize, Vec<&'a [u8]>),
    ) -> Option<Table<'a>> {
        let (markers_at, markers) = markers_before(data, tokens_at)?;
        let (names_at, count) = names(data, markers_at, &markers)?;
        let size = count * 4;
        let before = names_at.checked_sub(16).and_then(|base| {
            let offsets = base.checked_sub(size.next_multiple_of(8))?;
            Some((offsets, base))
        });
        let behind = index + INDEX_BYTES;
        let (offsets, base) = [before, Some((behind, behind + size.next_multiple_of(8)))]
            .into_iter()
            .flatten()
            .map(|(offsets, base)| (data.get(offsets..offsets + size), u64_at(data, base)))
            .find(|(offsets, base)| {
                offsets.is_some() && *base >= KERNEL && base.is_multiple_of(PAGE_BYTES)
            })?;
        let offsets = offsets?;
        let absolute = offsets.chunks_exact(4).any(|word| word[3] >= 0x80);
        Some(Table {
            tokens,
            names: &data[names_at..markers_at],
            offsets,
            base,
            absolute,
        })
    }

    /// The address of each of these functions.
    pub fn addresses<const N: usize>(&self, wanted: [&str; N]) -> [Option<u64>; N] {
        let mut found = [None; N];
        let names = Names(self.names);
        for (name, offset) in names.zip(self.offsets.chunks_exact(4)) {
            for (wanted, found) in wanted.iter().zip(&mut found) {
                if found.is_none() && self.is_function(name, wanted.as_bytes()) {
                    *found = Some(self.address(u32_at(offset, 0)));
                }
            }
        }
        found
    }

    fn address(&self, offset: u32) -> u64 {
        let signed = i64::from(offset.cast_signed());
        match (self.absolute, signed < 0) {
            (true, true) => self.base.wrapping_add_signed(-1 - signed),
            (true, false) => u64::from(offset),
            (false, _) => self.base.wrapping_add(u64::from(offset)),
        }
    }

    /// Whether these tokens say `wanted`, as a function's name.
    fn is_function(&self, name: &[u8], wanted: &[u8]) -> bool {
        let mut said = name
            .iter()
            .flat_map(|token| self.tokens[usize::from(*token)]);
        matches!(said.next(), Some(b't' | b'T' | b'w' | b'W')) && said.eq(wanted)
    }
}

/// Whether these bytes can be an index: 256 rising numbers from 0 on, none a whole token beyond the one before.
fn is_index(bytes: &[u8]) -> bool {
    let number = |at: usize| usize::from(u16_at(bytes, at * 2));
    number(0) == 0
        && (1..TOKENS)
            .all(|at| number(at) > number(at - 1) && number(at) - number(at - 1) <= TOKEN_MAX)
}

/// The tokens before their index: where they begin, and each. They end at most 7 bytes before the index.
fn tokens(data: &[u8], index: usize) -> Option<(usize, Vec<&[u8]>)> {
    let place = |at: usize| usize::from(u16_at(data, index + at * 2));
    let last = place(TOKENS - 1);
    let all = |at: usize| -> Option<Vec<&[u8]>> {
        let mut tokens = Vec::with_capacity(TOKENS);
        for token in 0..TOKENS {
            let begin = at + place(token);
            let length = data[begin..index].iter().position(|byte| *byte == 0)?;
            if token + 1 < TOKENS && begin + length + 1 != at + place(token + 1) {
                return None;
            }
            tokens.push(&data[begin..begin + length]);
        }
        let end = at + last + tokens[TOKENS - 1].len() + 1;
        let ends_here = end.next_multiple_of(8) == index;
        let letters = b"0_at"
            .iter()
            .all(|letter| tokens[usize::from(*letter)] == [*letter]);
        (ends_here && letters).then_some(tokens)
    };
    (1..=TOKEN_MAX + 8)
        .filter_map(|back| index.checked_sub(last + back))
        .filter(|at| at.is_multiple_of(8))
        .find_map(|at| Some((at, all(at)?)))
}

/// The markers before the tokens, right before them or with the sequence in between: where they begin, and each.
fn markers_before(data: &[u8], tokens_at: usize) -> Option<(usize, Vec<usize>)> {
    let gaps = (0..=SYMBOLS_MAX * 3).step_by(8);
    gaps.map_while(|gap| Some((gap, tokens_at.checked_sub(gap)?)))
        .filter_map(|(gap, end)| Some((gap, markers(data, end)?)))
        .find_map(|(gap, found)| {
            let blocks = found.1.len();
            let (fewest, most) = ((blocks - 1) * STRIDE + 1, blocks * STRIDE);
            let is_sequence = (fewest * 3..most * 3 + 8).contains(&gap);
            (gap == 0 || is_sequence).then_some(found)
        })
}

/// The markers that end, but for padding, at `end`: where they begin, and each.
fn markers(data: &[u8], end: usize) -> Option<(usize, Vec<usize>)> {
    let mut at = end.checked_sub(4)?;
    if u32_at(data, at) == 0 {
        at = at.checked_sub(4)?;
    }
    let mut markers = vec![u32_at(data, at) as usize];
    while markers[markers.len() - 1] != 0 {
        at = at.checked_sub(4)?;
        let marker = u32_at(data, at) as usize;
        if marker >= markers[markers.len() - 1] || markers.len() > SYMBOLS_MAX / STRIDE {
            return None;
        }
        markers.push(marker);
    }
    markers.reverse();
    Some((at, markers))
}

/// The names before their markers: where they begin, and how many they are.
fn names(data: &[u8], markers_at: usize, markers: &[usize]) -> Option<(usize, usize)> {
    let last = *markers.last()?;
    (1..STRIDE * (NAME_MAX + 2))
        .filter_map(|back| markers_at.checked_sub(last + back))
        .take_while(|at| *at >= 8)
        .filter(|at| at.is_multiple_of(8))
        .map(|at| (at, u64_at(data, at - 8) as usize))
        .filter(|(_, count)| count.div_ceil(STRIDE) == markers.len())
        .take(CANDIDATES_MAX)
        .find(|(at, count)| fits(&data[*at..markers_at], *count, markers))
}

/// Whether `names` are `count` names with these markers, and no more than padding behind.
fn fits(names: &[u8], count: usize, markers: &[usize]) -> bool {
    let mut rest = Names(names);
    for number in 0..count {
        let at = names.len() - rest.0.len();
        if number.is_multiple_of(STRIDE) && markers[number / STRIDE] != at {
            return false;
        }
        if rest.next().is_none() {
            return false;
        }
    }
    rest.0.len() < 8 && rest.0.iter().all(|byte| *byte == 0)
}

/// One name after the other, in tokens. A length from 128 on takes two bytes, seven bits each.
struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_first()?;
        let (length, rest) = match first {
            0..0x80 => (usize::from(*first), rest),
            _ => {
                let (second, rest) = rest.split_first()?;
                (usize::from(first & 0x7f) | usize::from(*second) << 7, rest)
            }
        };
        let (name, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(name)
    }
}
