//! The files behind the hosts' disks. They are rewritten in place, because hosts that are on have
//! them open, and only where they differ, because most of a drill's disk stays as it was.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::drill::process;

const BLOCK_BYTES: usize = 1 << 20;
/// Size of the arbiter's storage: as much as `ftd format-shared` could want.
const SHARED_BYTES: u64 = 64 << 20;
/// Room that a guest on a file system that can get full has until it does.
const ROOM_BYTES: u64 = 128 << 20;

/// The two disks.
#[derive(Debug, Clone)]
pub struct Disks {
    /// What the guest's disk is a copy of.
    pub source: PathBuf,
    /// The guest's disk.
    pub image: PathBuf,
    /// The arbiter's storage.
    pub shared: PathBuf,
    /// The program that formats it.
    pub ftd: PathBuf,
    /// Whether the guest's disk is on a file system that can get full.
    is_scarce: bool,
    /// That file system, if it is mounted.
    mounted: Option<PathBuf>,
}

impl Disks {
    /// Disks in `folder`, the guest's a copy of `source`. Nothing is made yet.
    pub fn new(source: &Path, folder: &Path, ftd: &Path) -> Self {
        Disks {
            source: source.into(),
            image: folder.join("guest.img"),
            shared: folder.join("shared.img"),
            ftd: ftd.into(),
            is_scarce: false,
            mounted: None,
        }
    }

    /// The guest's disk where room can become scarce.
    pub fn scarce(&self) -> PathBuf {
        self.image.with_file_name("scarce").join("guest.img")
    }

    /// Whether [`Disks::refresh`] is to make that one.
    ///
    /// # Errors
    /// When its file system can't be mounted: a tmpfs, whose size is what the image takes and some more.
    pub fn want_scarce(&mut self, want: bool) -> Result<()> {
        self.is_scarce = want;
        if !want || self.mounted.is_some() {
            return Ok(());
        }
        let folder = self.image.with_file_name("scarce");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let taken = fs::metadata(&self.source)?.blocks() * 512;
        let size = format!("size={}", taken + ROOM_BYTES);
        let mut mount = Command::new("mount");
        process::output(
            mount
                .args(["-t", "tmpfs", "-o", &size, "scarce"])
                .arg(&folder),
        )?;
        self.mounted = Some(folder);
        Ok(())
    }

    /// Takes all the room that is left there, or gives it back.
    ///
    /// # Errors
    /// When that can't be done.
    pub fn fill(&self, full: bool) -> Result<()> {
        let ballast = self.image.with_file_name("scarce").join("ballast");
        if !full {
            return match fs::remove_file(&ballast) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            };
        }
        let mut file = File::create(&ballast)?;
        let block = vec![0xff; 4096];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("filling the file system"),
            }
        }
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// When that can't be done.
    pub fn forget_scarce(&mut self) -> Result<()> {
        match self.mounted.take() {
            Some(folder) => {
                process::output(Command::new("umount").arg("--lazy").arg(&folder))?;
                Ok(fs::remove_dir(&folder)?)
            }
            None => Ok(()),
        }
    }

    /// Makes both as they are before a drill.
    ///
    /// # Errors
    /// When a file can't be read or written, or the arbiter's storage not be formatted.
    pub fn refresh(&self) -> Result<()> {
        let (from, to) = (self.source.display(), self.image.display());
        copy_changed(&self.source, &self.image)
            .with_context(|| format!("cannot copy {from} to {to}"))?;
        if self.is_scarce {
            self.fill(false)?;
            // Anew, as sparse as can be: a block that was ever written takes room.
            let scarce = self.scarce();
            if scarce.exists() {
                fs::remove_file(&scarce)?;
            }
            let mut copy = Command::new("cp");
            process::output(copy.arg("--sparse=always").arg(&self.source).arg(&scarce))?;
        }
        let shared = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.shared);
        shared
            .and_then(|file| file.set_len(SHARED_BYTES))
            .with_context(|| format!("cannot make {}", self.shared.display()))?;
        process::output(
            Command::new(&self.ftd)
                .arg("format-shared")
                .arg("--force")
                .arg(&self.shared),
        )?;
        Ok(())
    }
}

/// Makes `to` equal to `from` by writing the blocks that differ.
///
/// # Errors
/// When a file can't be read or written.
pub fn copy_changed(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(to)?;
    copy.set_len(source.metadata()?.len())?;
    let (mut wanted, mut there) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut offset = 0;
    loop {
        let length = fill(&mut source, &mut wanted)?;
        if length == 0 {
            return copy.sync_all();
        }
        fill(&mut copy, &mut there[..length])?;
        if wanted[..length] != there[..length] {
            copy.seek(SeekFrom::Start(offset))?;
            copy.write_all(&wanted[..length])?;
        }
        offset += length as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_becomes_equal_in_place_and_stays_sparse() {
        let folder = tempfile::tempdir().expect("folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let mut image = vec![0; 5 * BLOCK_BYTES + 700];
        image[3 * BLOCK_BYTES + 9] = 1;
        image[5 * BLOCK_BYTES + 600] = 2;
        std::fs::write(&from, &image).expect("write");
        copy_changed(&from, &to).expect("copy");
        assert_eq!(std::fs::read(&to).expect("read"), image);
        let before = std::fs::metadata(&to).expect("metadata");
        assert!(
            before.blocks() * 512 <= 3 * BLOCK_BYTES as u64,
            "{}",
            before.blocks()
        );

        let mut file = OpenOptions::new().write(true).open(&to).expect("open");
        file.write_all(b"changed by a guest").expect("write");
        file.set_len(9 * BLOCK_BYTES as u64).expect("longer");
        copy_changed(&from, &to).expect("copy");
        assert_eq!(std::fs::read(&to).expect("read"), image);
        assert_eq!(
            std::fs::metadata(&to).expect("metadata").ino(),
            before.ino()
        );
    }
}
