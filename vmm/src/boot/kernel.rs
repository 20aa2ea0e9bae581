//! From the bytes of a kernel file to an ELF image and the setup header that goes with it.
//!
//! Offsets are those of the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst); they are
//! offsets into the bzImage and, for the setup header, into the zero page as well.

use std::borrow::Cow;

use super::decompress;
use super::elf;
use super::error::BootError;

/// Offset of the setup header in the bzImage and in the zero page.
pub const SETUP_HEADER: usize = 0x1f1;
/// End of the longest setup header that is copied (the zero page has room up to `0x290`).
const SETUP_HEADER_END_MAX: usize = 0x290;

const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const JUMP_OFFSET: usize = 0x201;
const MAGIC: usize = 0x202;
const CODE32_START: usize = 0x214;
const INIT_SIZE: usize = 0x260;
const VERSION: usize = 0x206;
const LOADFLAGS: usize = 0x211;
const INITRD_ADDR_MAX: usize = 0x22c;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Protocol 2.08 brought the payload's place, which is what the loader lives on.
const VERSION_PAYLOAD: u16 = 0x0208;
/// Protocol 2.12 brought xloadflags.
const VERSION_XLOADFLAGS: u16 = 0x020c;
const XLF_KERNEL_64: u8 = 1;

/// A setup header, as it is copied into the zero page at [`SETUP_HEADER`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupHeader {
    bytes: Vec<u8>,
}

impl SetupHeader {
    /// What an ELF kernel without a setup header is given: protocol 2.15, loaded high.
    fn for_elf() -> Self {
        let mut bytes = vec![0; 0x270 - SETUP_HEADER];
        let mut put = |at: usize, value: &[u8]| {
            bytes[at - SETUP_HEADER..at - SETUP_HEADER + value.len()].copy_from_slice(value);
        };
        put(BOOT_FLAG, &0xaa55_u16.to_le_bytes());
        put(MAGIC, b"HdrS");
        put(VERSION, &0x020f_u16.to_le_bytes());
        put(LOADFLAGS, &[1]);
        put(INITRD_ADDR_MAX, &0x7fff_ffff_u32.to_le_bytes());
        put(CMDLINE_SIZE, &2047_u32.to_le_bytes());
        Self { bytes }
    }

    /// The header's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Highest address a byte of the initrd may have.
    #[must_use]
    pub fn initrd_addr_max(&self) -> u64 {
        u64::from(u32::from_le_bytes(self.get(INITRD_ADDR_MAX)))
    }

    /// Most bytes of command line the kernel takes, without the NUL.
    #[must_use]
    pub fn cmdline_bytes_max(&self) -> usize {
        u32::from_le_bytes(self.get(CMDLINE_SIZE)) as usize
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes
            .get(at - SETUP_HEADER..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or([0; N])
    }
}

/// A kernel, ready to be loaded.
#[derive(Debug)]
pub struct KernelImage<'a> {
    /// The ELF file; borrowed when the kernel file was one.
    pub elf: Cow<'a, [u8]>,
    /// The setup header of the bzImage, or the one that stands in for it.
    pub setup: SetupHeader,
}

/// Whether the file is a bzImage, that is a Linux kernel.
#[must_use]
pub fn is_bzimage(file: &[u8]) -> bool {
    bytes_at(file, MAGIC) == Some(*b"HdrS") && bytes_at(file, BOOT_FLAG) == Some([0x55, 0xaa])
}

impl<'a> KernelImage<'a> {
    /// Takes the ELF image out of a bzImage, or takes an ELF file as it is.
    ///
    /// # Errors
    ///
    /// `file` is neither, or is damaged, or is compressed in a way that is not supported.
    pub fn parse(file: &'a [u8]) -> Result<Self, BootError> {
        if elf::is_elf(file) {
            return Ok(Self {
                elf: Cow::Borrowed(file),
                setup: SetupHeader::for_elf(),
            });
        }
        if !is_bzimage(file) {
            return Err(BootError::NotAKernel {
                kernel_bytes: file.len(),
                begins: file[..file.len().min(8)].to_vec(),
            });
        }
        let setup = read_setup(file)?;
        let elf = match payload(file)? {
            Some(payload) => decompress::decompress(payload)?,
            None => Cow::Owned(bare(file)?),
        };
        Ok(Self { elf, setup })
    }
}

fn read_setup(file: &[u8]) -> Result<SetupHeader, BootError> {
    let refuse = |reason| BootError::SetupHeader { reason };
    let version = bytes_at(file, VERSION).map_or(0, u16::from_le_bytes);
    if version < VERSION_PAYLOAD {
        return Err(refuse(
            "its boot protocol is older than 2.08 (Linux 2.6.26), so its payload can't be found",
        ));
    }
    let [xloadflags] = bytes_at(file, XLOADFLAGS).unwrap_or([0]);
    if version >= VERSION_XLOADFLAGS && xloadflags & XLF_KERNEL_64 == 0 {
        return Err(refuse("it holds a 32-bit kernel; ftd runs x86-64 kernels"));
    }
    let [jump] = bytes_at(file, JUMP_OFFSET).unwrap_or([0]);
    let end = MAGIC + usize::from(jump);
    if !(PAYLOAD_LENGTH + 4..=SETUP_HEADER_END_MAX).contains(&end) {
        return Err(refuse("its setup header has an impossible length"));
    }
    let bytes = file.get(SETUP_HEADER..end).ok_or(BootError::Truncated {
        needed_bytes: end as u64,
        have_bytes: file.len() as u64,
    })?;
    Ok(SetupHeader {
        bytes: bytes.to_vec(),
    })
}

/// Where the protected-mode code begins in the file: behind the boot sector and the setup sectors, of which a
/// count of 0 means 4.
fn code_offset(file: &[u8]) -> u64 {
    let [sectors] = bytes_at(file, SETUP_SECTS).unwrap_or([0]);
    let sectors = if sectors == 0 { 4 } else { u64::from(sectors) };
    (sectors + 1) * 512
}

/// The compressed kernel; none in a file whose protected-mode code is all there is.
fn payload(file: &[u8]) -> Result<Option<&[u8]>, BootError> {
    let offset = u64::from(bytes_at(file, PAYLOAD_OFFSET).map_or(0, u32::from_le_bytes));
    let length = u64::from(bytes_at(file, PAYLOAD_LENGTH).map_or(0, u32::from_le_bytes));
    if length == 0 {
        return Ok(None);
    }
    let start = code_offset(file) + offset;
    let end = start + length;
    let payload = file
        .get(start as usize..end as usize)
        .ok_or(BootError::Truncated {
            needed_bytes: end,
            have_bytes: file.len() as u64,
        })?;
    Ok(Some(payload))
}

/// The protected-mode code as an ELF file, for what is no Linux but boots like one (memtest86+): it is loaded where
/// the header says, and entered 0x200 bytes behind that ("64-bit boot protocol" in boot.rst).
fn bare(file: &[u8]) -> Result<Vec<u8>, BootError> {
    let start = code_offset(file);
    let code = file.get(start as usize..).filter(|code| code.len() > 0x200);
    let code = code.ok_or(BootError::Truncated {
        needed_bytes: start + 0x201,
        have_bytes: file.len() as u64,
    })?;
    let at = u64::from(bytes_at(file, CODE32_START).map_or(0, u32::from_le_bytes));
    let memory = u64::from(bytes_at(file, INIT_SIZE).map_or(0, u32::from_le_bytes));
    Ok(elf::around(code, at, memory, at + 0x200))
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..)?.first_chunk().copied()
}
