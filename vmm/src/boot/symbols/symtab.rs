//! The symbol table of an ELF file (System V ABI, chapter 4, "Symbol Table").

use super::super::elf::{SHDR_BYTES, slice, u16_at, u32_at, u64_at};

const SHT_SYMTAB: u32 = 2;
const SYM_BYTES: usize = 24;

/// The value of each of these symbols; nothing if the file has no symbol table.
pub fn find<const N: usize>(file: &[u8], names: [&str; N]) -> Option<[Option<u64>; N]> {
    let count = u64::from(u16_at(file, 60));
    let headers = slice(file, u64_at(file, 40), count.checked_mul(SHDR_BYTES)?)?;
    let header = |index: usize| headers.chunks_exact(SHDR_BYTES as usize).nth(index);
    let contents = |header: &[u8]| slice(file, u64_at(header, 24), u64_at(header, 32));
    let table = headers
        .chunks_exact(SHDR_BYTES as usize)
        .find(|header| u32_at(header, 4) == SHT_SYMTAB)?;
    let strings = contents(header(u32_at(table, 40) as usize)?)?;
    let mut found = [None; N];
    for symbol in contents(table)?.chunks_exact(SYM_BYTES) {
        let Some(name) = strings.get(u32_at(symbol, 0) as usize..) else {
            continue;
        };
        for (wanted, found) in names.iter().zip(&mut found) {
            let rest = name.strip_prefix(wanted.as_bytes());
            if rest.is_some_and(|rest| rest.first() == Some(&0)) {
                *found = Some(u64_at(symbol, 8));
            }
        }
    }
    Some(found)
}
