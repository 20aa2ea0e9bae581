//! Whose guest wrote to this host's own disk last.
//!
//! Where each host has its own disk, those of a host that was away are old. A guest that is started anew must
//! find the newest: that of the last winner at the arbiter, or one that was equal to it when it won. So each
//! process that may win writes its name, as the arbiter knows it, beside its disk before it may; and a guest is
//! started from a disk only where the last winner's name is found.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// First line of the file; the names follow, one a line.
const MAGIC: &str = "ftd disk 1";
/// Longest file that is read, in bytes.
const BYTES_MAX: u64 = 64 << 10;
/// Names that are kept: each start of a primary that does not come to win adds one.
const NAMES_MAX: usize = 64;

/// The file with the names.
#[derive(Debug, Clone)]
pub struct Label {
    path: PathBuf,
    /// This process, as the arbiter knows it.
    bidder: String,
}

impl Label {
    /// Of the disk at `image`, in `path` or beside it.
    pub fn new(image: &Path, path: Option<&Path>, bidder: &str) -> Label {
        let beside = || {
            let mut name = image.as_os_str().to_owned();
            name.push(".label");
            PathBuf::from(name)
        };
        Label {
            path: path.map_or_else(beside, Path::to_owned),
            bidder: bidder.to_owned(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that it is in.
    pub fn folder(&self) -> PathBuf {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    /// The names in it; none if there is no file, or it is not one of ftd's.
    ///
    /// # Errors
    /// The file is there and can't be read.
    fn names(&self) -> io::Result<Vec<String>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) {
            return Ok(Vec::new());
        }
        Ok(lines.map(str::to_owned).collect())
    }

    /// Whether what `winner` wrote last is on this disk.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn is_of(&self, winner: &str) -> io::Result<bool> {
        Ok(self.names()?.iter().any(|name| name == winner))
    }

    /// This process may win next, from the disk as it is: its name joins those that are there.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn may_win(&self) -> io::Result<()> {
        let mut names = self.names()?;
        names.push(self.bidder.clone());
        names.drain(..names.len().saturating_sub(NAMES_MAX));
        self.write(&names)
    }

    /// The disk is that of this process' guest and nobody's else.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn is_mine(&self) -> io::Result<()> {
        self.write(std::slice::from_ref(&self.bidder))
    }

    /// The disk is about to become another: it is nobody's.
    ///
    /// # Errors
    /// The file can't be removed.
    pub fn is_nobodys(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync_folder(),
        }
    }

    fn write(&self, names: &[String]) -> io::Result<()> {
        let mut new = self.path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let mut file = File::create(&new)?;
        writeln!(file, "{MAGIC}\n{}", names.join("\n"))?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.sync_folder()
    }

    /// So that a host that loses its power finds the file as it was left.
    fn sync_folder(&self) -> io::Result<()> {
        File::open(self.folder())?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_its_last_writers() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.raw");
        let label = |bidder| Label::new(&image, None, bidder);
        assert!(
            !label("a-1").is_of("a-1").unwrap(),
            "a disk without a label is nobody's"
        );
        label("a-1").may_win().unwrap();
        // A start that came to nothing takes nothing away.
        label("a-2").may_win().unwrap();
        assert!(label("x").is_of("a-1").unwrap() && label("x").is_of("a-2").unwrap());
        label("a-2").is_mine().unwrap();
        assert!(!label("x").is_of("a-1").unwrap() && label("x").is_of("a-2").unwrap());
        label("a-3").is_nobodys().unwrap();
        label("a-3").is_nobodys().unwrap();
        assert!(!label("x").is_of("a-2").unwrap());
        assert_eq!(label("x").path(), folder.path().join("disk.raw.label"));
    }

    #[test]
    fn a_file_that_is_no_label_names_nobody_and_labels_do_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("label");
        let label = |bidder: &str| Label::new(Path::new("disk"), Some(&path), bidder);
        fs::write(&path, "a-1\na-2\n").unwrap();
        assert!(!label("x").is_of("a-2").unwrap());
        for number in 0..100 {
            label(&format!("a-{number}")).may_win().unwrap();
        }
        assert!(label("x").is_of("a-99").unwrap() && !label("x").is_of("a-1").unwrap());
    }
}
