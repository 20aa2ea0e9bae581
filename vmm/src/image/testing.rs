//! Disks for the tests: filesystems from `testdata`, FAT made here, and partition tables.

use std::io::{Cursor, Read, Write};
use std::sync::Arc;

use super::read_at::Disk;

/// A disk's sector, in bytes.
pub const SECTOR: usize = 512;
/// First sector of the first partition.
pub const FIRST: usize = 64;

/// One of the images that `testdata/make` makes.
pub fn ext4(packed: &[u8]) -> Vec<u8> {
    let mut image = Vec::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_end(&mut image)
        .unwrap();
    image
}

macro_rules! fixture {
    ($name:literal) => {
        $crate::image::testing::ext4(include_bytes!(concat!("testdata/", $name, ".ext4.gz")))
    };
}

pub fn debian_root() -> Vec<u8> {
    fixture!("debian-root")
}

pub fn root_only() -> Vec<u8> {
    fixture!("root-only")
}

pub fn boot_only() -> Vec<u8> {
    fixture!("boot-only")
}

pub fn entries() -> Vec<u8> {
    fixture!("entries")
}

pub fn no_kernel() -> Vec<u8> {
    fixture!("no-kernel")
}

/// A FAT volume with these files.
pub fn fat(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut image = Cursor::new(vec![0; 512 << 10]);
    let options = fatfs::FormatVolumeOptions::new().volume_id(0x1234_abcd);
    fatfs::format_volume(&mut image, options).unwrap();
    {
        let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).unwrap();
        for (path, bytes) in files {
            let mut dir = volume.root_dir();
            let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
            for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
                dir = dir.create_dir(parent).unwrap();
            }
            dir.create_file(name).unwrap().write_all(bytes).unwrap();
        }
    }
    image.into_inner()
}

/// A disk with an MBR and these volumes in primary partitions, one after the other.
pub fn mbr(volumes: &[Vec<u8>]) -> Vec<u8> {
    let mut disk = vec![0; FIRST * SECTOR];
    disk[440..444].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (slot, volume) in volumes.iter().enumerate() {
        let entry = mbr_entry(0x83, disk.len() / SECTOR, volume.len() / SECTOR);
        disk[446 + slot * 16..][..16].copy_from_slice(&entry);
        disk.extend_from_slice(volume);
    }
    disk
}

/// A disk with an MBR and these volumes as logical partitions.
pub fn mbr_logical(volumes: &[Vec<u8>]) -> Vec<u8> {
    let mut disk = vec![0; FIRST * SECTOR];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let sectors: usize = volumes.iter().map(|v| v.len() / SECTOR + 1).sum();
    disk[446..462].copy_from_slice(&mbr_entry(0x05, FIRST, sectors));
    for (index, volume) in volumes.iter().enumerate() {
        let mut record = vec![0; SECTOR];
        record[510..512].copy_from_slice(&[0x55, 0xaa]);
        record[446..462].copy_from_slice(&mbr_entry(0x83, 1, volume.len() / SECTOR));
        if let Some(next) = volumes.get(index + 1) {
            let from_first = (disk.len() + SECTOR + volume.len()) / SECTOR - FIRST;
            let entry = mbr_entry(0x05, from_first, next.len() / SECTOR + 1);
            record[462..478].copy_from_slice(&entry);
        }
        disk.extend_from_slice(&record);
        disk.extend_from_slice(volume);
    }
    disk
}

fn mbr_entry(kind: u8, first: usize, sectors: usize) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&(first as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&(sectors as u32).to_le_bytes());
    entry
}

/// A disk with a GPT and its backup, and these volumes.
pub fn gpt(volumes: &[Vec<u8>]) -> Vec<u8> {
    const ENTRIES: usize = 128;
    let mut disk = mbr(&[]);
    disk[446..462].copy_from_slice(&mbr_entry(0xee, 1, 0xffff));
    let mut entries = vec![0; ENTRIES * 128];
    for (index, volume) in volumes.iter().enumerate() {
        let entry = &mut entries[index * 128..][..128];
        entry[..16].fill(0x11);
        entry[16..32].copy_from_slice(&[
            0x78,
            0x56,
            0x34,
            0x12,
            0xbc,
            0x9a,
            0xf0,
            0xde,
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            index as u8,
        ]);
        let first = (disk.len() / SECTOR) as u64;
        let last = first + (volume.len() / SECTOR) as u64 - 1;
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        disk.extend_from_slice(volume);
    }
    // The entries take 32 sectors; the backup's come before its header, which is the last sector.
    let backup_entries = disk.len() / SECTOR;
    let backup = backup_entries + 32;
    disk.resize((backup + 1) * SECTOR, 0);
    for (header_at, entries_at) in [(1, 2), (backup, backup_entries)] {
        disk[entries_at * SECTOR..][..entries.len()].copy_from_slice(&entries);
        let header = gpt_header(entries_at as u64, &entries);
        disk[header_at * SECTOR..][..92].copy_from_slice(&header);
    }
    disk
}

fn gpt_header(entries_at: u64, entries: &[u8]) -> [u8; 92] {
    let crc = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    let mut header = [0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..12].copy_from_slice(&[0, 0, 1, 0]);
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[72..80].copy_from_slice(&entries_at.to_le_bytes());
    header[80..84].copy_from_slice(&128_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&crc(entries));
    let sum = crc(&header);
    header[16..20].copy_from_slice(&sum);
    header
}

pub fn disk(bytes: Vec<u8>) -> Disk {
    Arc::new(bytes)
}
