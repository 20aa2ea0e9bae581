use proptest::prelude::*;

use super::super::testing::{LINKED, add_symbols, elf};
use super::*;

const BASE: u64 = LINKED;

/// How a kernel lays its table out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// Linux 5.x to 6.1: addresses first.
    Before,
    /// Linux 6.2, 6.3 and 6.1's later versions: the same with a sequence.
    BeforeWithSequence,
    /// Linux 6.4 and later: addresses last.
    Behind,
}

const ORDERS: [Order; 3] = [Order::Before, Order::BeforeWithSequence, Order::Behind];

/// Symbols as a kernel's build lists them: type and name, address.
fn symbols() -> Vec<(String, u64)> {
    let mut symbols = vec![
        ("Afixed_percpu_data".to_owned(), 0x2000),
        ("Tstartup_64".to_owned(), BASE),
    ];
    for number in 0..1000 {
        symbols.push((
            format!("tsome_function_{number}"),
            BASE + 0x100 + number * 0x20,
        ));
    }
    symbols.push((format!("t{}", "_long".repeat(60)), BASE + 0x9000));
    symbols.push(("Tset_memory_x".to_owned(), BASE + 0xa_0000));
    symbols.push(("dset_memory_rox".to_owned(), BASE + 0xb_0000));
    symbols
}

/// The table of these symbols as scripts/kallsyms.c writes it, with a few tokens of more than one letter.
fn table(symbols: &[(String, u64)], order: Order) -> Vec<u8> {
    let mut tokens: Vec<String> = (0..=255u8)
        .map(|code| char::from(code & 0x7f).to_string())
        .collect();
    for (code, token) in [
        (200, "function"),
        (201, "_long_long"),
        (202, "memory_"),
        (0, "some"),
    ] {
        tokens[code] = token.to_owned();
    }
    // Unused codes stand for tokens as well; a 0 can't be in one.
    tokens[128] = "unused".to_owned();
    let mut names = Vec::new();
    let mut markers = Vec::new();
    for (number, (name, _)) in symbols.iter().enumerate() {
        if number % 256 == 0 {
            markers.push(names.len() as u32);
        }
        let mut coded = Vec::new();
        let mut rest = name.as_str();
        while let Some(letter) = rest.bytes().next() {
            let long = [200, 201, 202, 0]
                .into_iter()
                .find(|code| rest.starts_with(&tokens[*code]));
            let code = long.unwrap_or(usize::from(letter));
            coded.push(code as u8);
            rest = &rest[tokens[code].len()..];
        }
        match u8::try_from(coded.len()) {
            Ok(short @ 0..0x80) => names.push(short),
            _ => names.extend([coded.len() as u8 & 0x7f | 0x80, (coded.len() >> 7) as u8]),
        }
        names.extend(coded);
    }
    let offsets: Vec<u8> = symbols
        .iter()
        .map(|(_, address)| match address.checked_sub(BASE) {
            Some(offset) => -1 - offset as i32,
            None => *address as i32,
        })
        .flat_map(i32::to_le_bytes)
        .collect();
    let mut table = Vec::new();
    let mut part = |bytes: &[u8]| {
        table.extend(bytes);
        table.resize(table.len().next_multiple_of(8), 0);
    };
    if order != Order::Behind {
        part(&offsets);
        part(&BASE.to_le_bytes());
    }
    part(&(symbols.len() as u32).to_le_bytes());
    part(&names);
    part(
        &markers
            .iter()
            .flat_map(|at| at.to_le_bytes())
            .collect::<Vec<u8>>(),
    );
    if order == Order::BeforeWithSequence {
        let sequence =
            (0..symbols.len() as u32).flat_map(|at| [(at >> 16) as u8, (at >> 8) as u8, at as u8]);
        part(&sequence.collect::<Vec<u8>>());
    }
    let mut index = Vec::new();
    let mut strings = Vec::new();
    for token in &tokens {
        index.extend((strings.len() as u16).to_le_bytes());
        strings.extend(token.bytes());
        strings.push(0);
    }
    part(&strings);
    part(&index);
    if order == Order::Behind {
        part(&offsets);
        part(&BASE.to_le_bytes());
    }
    table
}

/// A kernel whose code begins with `entry` bytes, with this table somewhere behind them.
fn kernel(table: &[u8]) -> Vec<u8> {
    let mut code = vec![0x90; 0x400];
    code.extend([0xff; 40]);
    code.extend(table);
    code.extend([0xff; 40]);
    elf(&code, true)
}

fn found(file: &[u8]) -> [Option<u64>; 3] {
    let elf = Elf::parse(file).unwrap();
    find(
        file,
        &elf,
        ["set_memory_x", "set_memory_rox", "some_function_999"],
    )
}

#[test]
fn functions_are_found_in_a_kernels_own_table() {
    for order in ORDERS {
        let file = kernel(&table(&symbols(), order));
        let expected = [Some(BASE + 0xa_0000), None, Some(BASE + 0x100 + 999 * 0x20)];
        assert_eq!(found(&file), expected, "{order:?}");
    }
}

#[test]
fn a_table_that_contradicts_the_entry_point_is_not_believed() {
    let mut symbols = symbols();
    symbols[1].1 += 0x10;
    assert_eq!(found(&kernel(&table(&symbols, Order::Before))), [None; 3]);
}

#[test]
fn no_table_no_functions() {
    assert_eq!(found(&kernel(&[])), [None; 3]);
    assert_eq!(found(&kernel(&vec![0; 5000])), [None; 3]);
    let rising: Vec<u8> = (0..2000u16).flat_map(u16::to_le_bytes).collect();
    assert_eq!(found(&kernel(&rising)), [None; 3]);
}

/// What a linker leaves of the functions of a kernel that was not stripped.
#[test]
fn a_symbol_table_comes_first() {
    let mut file = kernel(&table(&symbols(), Order::Before));
    add_symbols(
        &mut file,
        &[("set_memory_x_not", 1), ("set_memory_x", 0x1234)],
    );
    assert_eq!(found(&file), [Some(0x1234), None, None]);
}

proptest! {
    /// A damaged table is read or not, but never beyond its end.
    #[test]
    fn damage_is_survived(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        order in prop::sample::select(ORDERS.to_vec()),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut table = table(&symbols(), order);
        for (at, byte) in damage {
            let at = at.index(table.len());
            table[at] = byte;
        }
        let _ = found(&kernel(&table));
        table.truncate(keep.index(table.len()));
        let _ = found(&kernel(&table));
    }
}

/// Looks into the kernels that `FTD_TEST_KERNELS` names (separated by colons).
#[test]
fn real_kernels_say_where_they_make_code_executable() {
    let paths = std::env::var("FTD_TEST_KERNELS").unwrap_or_default();
    for path in paths.split(':').filter(|path| !path.is_empty()) {
        let kernel = std::fs::read(path).unwrap();
        let image = super::super::kernel::KernelImage::parse(&kernel).unwrap();
        let elf = Elf::parse(&image.elf).unwrap();
        let started = std::time::Instant::now();
        let found = find(
            &image.elf,
            &elf,
            ["set_memory_x", "set_memory_rox", "do_init_module"],
        );
        println!("{path}: {found:x?} in {:?}", started.elapsed());
        assert!(
            found[0].is_some() && found[2].is_some(),
            "{path}: {found:x?}"
        );
    }
}
