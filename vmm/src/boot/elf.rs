//! A small ELF64 reader: what the loader needs, every sum checked, because the file is not ours.
//!
//! Layouts are those of the System V ABI, chapters 4 and 5 ("ELF-64 Object File Format").

const EHDR_BYTES: u64 = 64;
const PHDR_BYTES: u64 = 56;
pub(super) const SHDR_BYTES: u64 = 64;
const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;
const SHT_PROGBITS: u32 = 1;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const EM_X86_64: u16 = 62;

/// Why an ELF file can't be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ElfError {
    /// Not an ELF file at all.
    #[error("it does not begin with an ELF header")]
    NotElf,
    /// An ELF file for something else.
    #[error("it is not a little-endian 64-bit ELF for x86-64 (class {class}, machine {machine})")]
    WrongMachine {
        /// EI_CLASS: 1 for 32, 2 for 64 bits.
        class: u8,
        /// e_machine: 62 for x86-64.
        machine: u16,
    },
    /// A position-independent or relocatable file.
    #[error("it is of ELF type {elf_type}; only fixed executables (type 2) can be loaded")]
    NotExecutable {
        /// e_type.
        elf_type: u16,
    },
    /// A table or segment lies outside the file.
    #[error("its {what} lies outside the file of {file_bytes} bytes: it is truncated or damaged")]
    Outside {
        /// What.
        what: &'static str,
        /// Size of the file in bytes.
        file_bytes: u64,
    },
    /// Header fields contradict each other.
    #[error("its {what} is damaged")]
    Damaged {
        /// What.
        what: &'static str,
    },
    /// The entry point is in no loadable segment.
    #[error("its entry point {entry:#x} is in none of its loadable segments")]
    Entry {
        /// e_entry.
        entry: u64,
    },
}

/// An ELF64 executable of one segment around `code`, which is loaded at `address` (virtual and physical), has
/// `memory_bytes` of memory at least, and is entered at `entry`.
pub fn around(code: &[u8], address: u64, memory_bytes: u64, entry: u64) -> Vec<u8> {
    let offset = EHDR_BYTES + PHDR_BYTES;
    let mut file = Vec::with_capacity(offset as usize + code.len());
    // 64 bits, little-endian, version 1, no ABI.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let mut put = |value: u64, bytes: usize| file.extend(&value.to_le_bytes()[..bytes]);
    for (value, bytes) in [(2, 2), (EM_X86_64.into(), 2), (1, 4), (entry, 8)] {
        put(value, bytes);
    }
    // Program headers right behind this header; no section headers; no flags.
    for (value, bytes) in [(EHDR_BYTES, 8), (0, 8), (0, 4), (EHDR_BYTES, 2)] {
        put(value, bytes);
    }
    for (value, bytes) in [(PHDR_BYTES, 2), (1, 2), (SHDR_BYTES, 2), (0, 2), (0, 2)] {
        put(value, bytes);
    }
    let (read_write, length) = (6, code.len() as u64);
    put(PT_LOAD.into(), 4);
    put((read_write | PF_X).into(), 4);
    for value in [offset, address, address, length, memory_bytes.max(length)] {
        put(value, 8);
    }
    put(4096, 8);
    file.extend(code);
    file
}

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset of its bytes in the file.
    pub offset: u64,
    /// Virtual address it is linked for.
    pub address: u64,
    /// Physical address it is loaded at.
    pub physical: u64,
    /// Bytes of it that are in the file.
    pub file_bytes: u64,
    /// Bytes of it in memory; the rest is zero.
    pub memory_bytes: u64,
    /// Whether it may be executed.
    pub executable: bool,
}

/// A piece of code in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Offset of its bytes in the file.
    pub offset: u64,
    /// Virtual address it is linked for.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// An ELF64 executable for x86-64 whose headers have been checked.
#[derive(Debug)]
pub struct Elf<'a> {
    data: &'a [u8],
    entry: u64,
    segments: Vec<Segment>,
    code: Vec<Code>,
    code_by_sections: bool,
}

impl<'a> Elf<'a> {
    /// Reads and checks the headers of `data`.
    ///
    /// # Errors
    ///
    /// `data` is not an ELF64 executable for x86-64, or is damaged: see [`ElfError`].
    pub fn parse(data: &'a [u8]) -> Result<Self, ElfError> {
        if !is_elf(data) {
            return Err(ElfError::NotElf);
        }
        let outside = |what| ElfError::Outside {
            what,
            file_bytes: data.len() as u64,
        };
        let header = field::<64>(data, 0).ok_or(outside("ELF header"))?;
        let class = header[4];
        let machine = u16_at(&header, 18);
        if class != 2 || header[5] != 1 || machine != EM_X86_64 {
            return Err(ElfError::WrongMachine { class, machine });
        }
        let elf_type = u16_at(&header, 16);
        if elf_type != 2 {
            return Err(ElfError::NotExecutable { elf_type });
        }

        let segments = read_segments(data, &header)?;
        let sections = read_code_sections(data, &header)?;
        let code_by_sections = !sections.is_empty();
        let code = if code_by_sections {
            sections
        } else {
            executable_segments(&segments)
        };
        Ok(Self {
            data,
            entry: u64_at(&header, 24),
            segments,
            code,
            code_by_sections,
        })
    }

    /// The loadable segments that hold anything.
    pub fn load_segments(&self) -> impl Iterator<Item = Segment> + '_ {
        self.segments.iter().copied()
    }

    /// The code in the file: its executable sections or, if it has no section headers, its
    /// executable segments.
    #[must_use]
    pub fn code(&self) -> &[Code] {
        &self.code
    }

    /// Whether [`Elf::code`] comes from section headers. Segments may hold data beside code.
    #[must_use]
    pub fn code_by_sections(&self) -> bool {
        self.code_by_sections
    }

    /// The bytes of a segment that are in the file.
    ///
    /// # Errors
    ///
    /// The segment is not one of this file's.
    pub fn segment_data(&self, segment: &Segment) -> Result<&'a [u8], ElfError> {
        slice(self.data, segment.offset, segment.file_bytes).ok_or(ElfError::Outside {
            what: "segment",
            file_bytes: self.data.len() as u64,
        })
    }

    /// Physical address of the entry point. vmlinux gives a physical one; others a virtual one.
    ///
    /// # Errors
    ///
    /// The entry point is in no segment.
    pub fn entry_physical(&self) -> Result<u64, ElfError> {
        Ok(self.entry_segment()?.1)
    }

    /// Linked (virtual) address of the entry point.
    ///
    /// # Errors
    ///
    /// The entry point is in no segment.
    pub fn entry_address(&self) -> Result<u64, ElfError> {
        let (segment, physical) = self.entry_segment()?;
        Ok(segment.address.wrapping_add(physical - segment.physical))
    }

    fn entry_segment(&self) -> Result<(Segment, u64), ElfError> {
        let within = |base: u64, segment: &Segment| {
            self.entry
                .checked_sub(base)
                .filter(|into| *into < segment.file_bytes)
        };
        let by = |base: fn(&Segment) -> u64| {
            self.segments.iter().find_map(|segment| {
                within(base(segment), segment).map(|into| (*segment, segment.physical + into))
            })
        };
        by(|segment| segment.physical)
            .or_else(|| by(|segment| segment.address))
            .ok_or(ElfError::Entry { entry: self.entry })
    }
}

/// Whether `data` begins as an ELF file does.
#[must_use]
pub fn is_elf(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF")
}

fn read_segments(
    data: &[u8],
    header: &[u8; EHDR_BYTES as usize],
) -> Result<Vec<Segment>, ElfError> {
    let outside = |what| ElfError::Outside {
        what,
        file_bytes: data.len() as u64,
    };
    if u64::from(u16_at(header, 54)) != PHDR_BYTES {
        return Err(ElfError::Damaged {
            what: "program header size",
        });
    }
    let count = u64::from(u16_at(header, 56));
    let table =
        slice(data, u64_at(header, 32), count * PHDR_BYTES).ok_or(outside("program header"))?;
    let mut segments = Vec::new();
    for entry in table.chunks_exact(PHDR_BYTES as usize) {
        let segment = Segment {
            offset: u64_at(entry, 8),
            address: u64_at(entry, 16),
            physical: u64_at(entry, 24),
            file_bytes: u64_at(entry, 32),
            memory_bytes: u64_at(entry, 40),
            executable: u32_at(entry, 4) & PF_X != 0,
        };
        if u32_at(entry, 0) != PT_LOAD || segment.memory_bytes == 0 {
            continue;
        }
        if segment.file_bytes > segment.memory_bytes
            || segment.physical.checked_add(segment.memory_bytes).is_none()
        {
            return Err(ElfError::Damaged { what: "segment" });
        }
        slice(data, segment.offset, segment.file_bytes).ok_or(outside("segment"))?;
        segments.push(segment);
    }
    Ok(segments)
}

fn read_code_sections(
    data: &[u8],
    header: &[u8; EHDR_BYTES as usize],
) -> Result<Vec<Code>, ElfError> {
    let outside = |what| ElfError::Outside {
        what,
        file_bytes: data.len() as u64,
    };
    let offset = u64_at(header, 40);
    let count = u64::from(u16_at(header, 60));
    if offset == 0 || count == 0 {
        return Ok(Vec::new());
    }
    if u64::from(u16_at(header, 58)) != SHDR_BYTES {
        return Err(ElfError::Damaged {
            what: "section header size",
        });
    }
    let table = slice(data, offset, count * SHDR_BYTES).ok_or(outside("section header"))?;
    let mut code = Vec::new();
    for entry in table.chunks_exact(SHDR_BYTES as usize) {
        let flags = u64_at(entry, 8);
        let wanted = SHF_ALLOC | SHF_EXECINSTR;
        if u32_at(entry, 4) != SHT_PROGBITS || flags & wanted != wanted {
            continue;
        }
        let section = Code {
            address: u64_at(entry, 16),
            offset: u64_at(entry, 24),
            bytes: u64_at(entry, 32),
        };
        slice(data, section.offset, section.bytes).ok_or(outside("code section"))?;
        code.push(section);
    }
    Ok(code)
}

fn executable_segments(segments: &[Segment]) -> Vec<Code> {
    segments
        .iter()
        .filter(|segment| segment.executable)
        .map(|segment| Code {
            offset: segment.offset,
            address: segment.address,
            bytes: segment.file_bytes,
        })
        .collect()
}

pub(super) fn slice(data: &[u8], offset: u64, bytes: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(bytes)?).ok()?;
    data.get(start..end)
}

fn field<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

// The three readers below say 0 outside of what they are given; headers' sizes are checked before.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    field(bytes, at).map_or(0, u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    field(bytes, at).map_or(0, u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    field(bytes, at).map_or(0, u64::from_le_bytes)
}
