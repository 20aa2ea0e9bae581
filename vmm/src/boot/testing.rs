//! Kernels for the tests: a tiny ELF, and a bzImage around one.

/// Where the tiny ELF's code is linked and loaded.
pub const LINKED: u64 = 0xffff_ffff_8100_0000;
pub const LOADED: u64 = 0x100_0000;
/// Offset of its code in the file.
pub const CODE_OFFSET: usize = 0x1000;

/// An ELF with one segment and, if `sections`, one section, both holding `code`. Like vmlinux it
/// gives its entry, which is the start of the code, as a physical address.
pub fn elf(code: &[u8], sections: bool) -> Vec<u8> {
    let mut file = vec![0; CODE_OFFSET];
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(&mut file, 16, &2_u16.to_le_bytes());
    put(&mut file, 18, &62_u16.to_le_bytes());
    put(&mut file, 20, &1_u32.to_le_bytes());
    put(&mut file, 24, &LOADED.to_le_bytes());
    put(&mut file, 32, &64_u64.to_le_bytes());
    put(&mut file, 52, &64_u16.to_le_bytes());
    put(&mut file, 54, &56_u16.to_le_bytes());
    put(&mut file, 56, &1_u16.to_le_bytes());
    put(&mut file, 58, &64_u16.to_le_bytes());

    let bytes = code.len() as u64;
    let segment = 64;
    put(&mut file, segment, &1_u32.to_le_bytes());
    put(&mut file, segment + 4, &5_u32.to_le_bytes());
    put(&mut file, segment + 8, &(CODE_OFFSET as u64).to_le_bytes());
    put(&mut file, segment + 16, &LINKED.to_le_bytes());
    put(&mut file, segment + 24, &LOADED.to_le_bytes());
    put(&mut file, segment + 32, &bytes.to_le_bytes());
    put(&mut file, segment + 40, &(bytes + 0x2000).to_le_bytes());

    if sections {
        let section = 0x800;
        put(&mut file, 40, &(section as u64).to_le_bytes());
        put(&mut file, 60, &1_u16.to_le_bytes());
        put(&mut file, section + 4, &1_u32.to_le_bytes());
        put(&mut file, section + 8, &6_u64.to_le_bytes());
        put(&mut file, section + 16, &LINKED.to_le_bytes());
        put(&mut file, section + 24, &(CODE_OFFSET as u64).to_le_bytes());
        put(&mut file, section + 32, &bytes.to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}

/// Gives an ELF with a section a symbol table, with its strings in another section.
pub fn add_symbols(file: &mut Vec<u8>, symbols: &[(&str, u64)]) {
    let mut strings = vec![0];
    let mut table = vec![0; 24];
    for (name, value) in symbols {
        let mut symbol = [0; 24];
        put(&mut symbol, 0, &(strings.len() as u32).to_le_bytes());
        put(&mut symbol, 8, &value.to_le_bytes());
        table.extend(symbol);
        strings.extend(name.as_bytes());
        strings.push(0);
    }
    put(file, 60, &3_u16.to_le_bytes());
    for (section, kind, contents, strings_at) in
        [(0x840, 2_u32, &table, 2_u32), (0x880, 3, &strings, 0)]
    {
        let offset = file.len() as u64;
        put(file, section + 4, &kind.to_le_bytes());
        put(file, section + 24, &offset.to_le_bytes());
        put(file, section + 32, &(contents.len() as u64).to_le_bytes());
        put(file, section + 40, &strings_at.to_le_bytes());
        file.extend_from_slice(contents);
    }
}

/// A bzImage with one setup sector and this payload.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    put(&mut file, 0x1f1, &[1]);
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x020f_u16.to_le_bytes());
    // LOADED_HIGH and KASLR_FLAG, as a decompressor may leave it.
    put(&mut file, 0x211, &[3]);
    put(&mut file, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(&mut file, 0x236, &[1, 0]);
    put(&mut file, 0x238, &2047_u32.to_le_bytes());
    put(&mut file, 0x248, &16_u32.to_le_bytes());
    put(&mut file, 0x24c, &(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(&[0xcc; 16]);
    file.extend_from_slice(payload);
    file
}

pub fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
