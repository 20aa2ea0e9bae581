//! What a volume holds, by its magic numbers; so that a user hears "XFS" and not "unknown".

use super::super::read_at::Disk;

pub(super) enum Kind {
    Ext4,
    Fat,
    Other(&'static str),
}

/// Offset, magic, name. All are read from the disk, hence no offset is large.
const OTHERS: [(u64, &[u8], &str); 9] = [
    (0, b"XFSB", "an XFS filesystem"),
    (0x1_0040, b"_BHRfS_M", "a btrfs filesystem"),
    (512, b"LABELONE", "an LVM physical volume"),
    (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    (4086, b"SWAPSPACE2", "swap space"),
    (0, b"hsqs", "a squashfs filesystem"),
    (3, b"NTFS    ", "an NTFS filesystem"),
    (0x8001, b"CD001", "an ISO 9660 filesystem"),
    (0x400, b"\x10\x20\xf5\xf2", "an F2FS filesystem"),
];

const FORMATS: [(u64, &[u8], &str); 5] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
];

pub(super) fn probe(disk: &Disk) -> Kind {
    if has(disk, 1024 + 0x38, &[0x53, 0xef]) {
        return Kind::Ext4;
    }
    if let Some(name) = first(disk, &OTHERS) {
        return Kind::Other(name);
    }
    // The type string is no proof, but every mkfs writes it, and fatfs checks the rest.
    let is_fat =
        has(disk, 510, &[0x55, 0xaa]) && (has(disk, 54, b"FAT") || has(disk, 82, b"FAT32"));
    if is_fat {
        return Kind::Fat;
    }
    if disk.is_empty() {
        return Kind::Other("nothing (0 bytes)");
    }
    Kind::Other("no filesystem that is known")
}

pub(super) fn image_format(disk: &Disk) -> Option<&'static str> {
    first(disk, &FORMATS)
}

fn first(disk: &Disk, table: &[(u64, &[u8], &'static str)]) -> Option<&'static str> {
    table
        .iter()
        .find(|(offset, magic, _)| has(disk, *offset, magic))
        .map(|(_, _, name)| *name)
}

fn has(disk: &Disk, offset: u64, magic: &[u8]) -> bool {
    let mut bytes = vec![0; magic.len()];
    disk.read_exact_at(offset, &mut bytes).is_ok() && bytes == magic
}
