//! Where functions of a kernel are, by their names: in the file's symbol table or, where that was stripped, as it
//! is in what distributions boot, in the table that the kernel keeps for its own traces (`kallsyms`).

mod kallsyms;
mod symtab;

#[cfg(test)]
mod tests;

use super::elf::Elf;

/// Linux' entry point, whose address is known from elsewhere.
const ENTRY: &str = "startup_64";

/// The linked address of each of these names in the ELF file `file`; `None` for all where no table can be read.
#[must_use]
pub fn find<const N: usize>(file: &[u8], elf: &Elf, names: [&str; N]) -> [Option<u64>; N] {
    if let Some(found) = symtab::find(file, names) {
        return found;
    }
    let Some(table) = kallsyms::Table::find(file) else {
        return [None; N];
    };
    // The table is known by its looks only, so what it says is checked where that can be done.
    match (table.addresses([ENTRY]), elf.entry_address()) {
        ([Some(known)], Ok(entry)) if known == entry => table.addresses(names),
        _ => [None; N],
    }
}
