//! Test-and-set in a directory that the hosts share.
//!
//! A generation is decided by the existence of one file, which appears under its name complete or
//! not at all: the bidder writes its identifier to a file of another name, makes it durable, and
//! link(2)s it to the generation's name. Of several links one succeeds, on local file systems as on
//! NFS and 9p, where the server carries it out. The loser reads who won from the file.
//!
//! The answer always comes from the file, never from link's own result: over NFS a link that
//! succeeded can report EEXIST, when the reply was lost and the request sent again.
//!
//! A bidder that dies in between leaves a file beginning with a dot behind, which nobody reads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{Arbiter, ArbiterError, ID_BYTES_MAX, Verdict};
use crate::host::entropy;

/// First line of a decision file; the winner's identifier is the second and last.
const MAGIC: &str = "ftd generation 1";
/// Bids per call, if something removes the bidder's file under its hands.
const ATTEMPTS: u32 = 4;
/// Longest encoded machine identifier in a file name, in bytes; longer ones are hashed.
const NAME_BYTES_MAX: usize = 100;

/// An arbiter in a directory.
#[derive(Debug)]
pub struct DirectoryArbiter {
    directory: PathBuf,
    /// Names of the machine's files begin with this.
    prefix: String,
    host_id: String,
}

impl DirectoryArbiter {
    /// Opens it. Identifiers are as in [`super::open`].
    ///
    /// # Errors
    /// [`ArbiterError::Io`] if the directory can't be read.
    pub fn open(directory: &Path, vm_id: &str, host_id: &str) -> Result<Self, ArbiterError> {
        let mut arbiter = DirectoryArbiter {
            directory: directory.to_owned(),
            prefix: format!("{}.generation-", encode(vm_id)),
            host_id: host_id.to_owned(),
        };
        arbiter.current_generation()?;
        Ok(arbiter)
    }

    fn decision_path(&self, generation: u64) -> PathBuf {
        self.directory.join(format!("{}{generation}", self.prefix))
    }

    /// Who has the generation, if anyone.
    fn winner(&self, generation: u64) -> Result<Option<String>, ArbiterError> {
        let path = self.decision_path(generation);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ArbiterError::io("open", path)(error)),
        };
        let corrupt = |what: &str| ArbiterError::Corrupt {
            path: path.clone(),
            what: what.to_owned(),
        };
        let mut text = Vec::new();
        let limit = (MAGIC.len() + ID_BYTES_MAX + 3) as u64;
        file.take(limit)
            .read_to_end(&mut text)
            .map_err(ArbiterError::io("read", &path))?;
        let text = String::from_utf8(text).map_err(|_| corrupt("it is not text"))?;
        match text.split('\n').collect::<Vec<_>>()[..] {
            [MAGIC, winner, ""] if !winner.is_empty() => Ok(Some(winner.to_owned())),
            _ => Err(corrupt("it does not hold a decision")),
        }
    }

    /// Writes this host's bid to a file of its own and tries to give it the generation's name.
    fn bid(&self, generation: u64) -> Result<(), ArbiterError> {
        let nonce = entropy::random_u64()
            .map_err(ArbiterError::io("get random bytes for", &self.directory))?;
        let bid = self
            .directory
            .join(format!(".{}{generation}.{nonce:016x}.bid", self.prefix));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&bid)
            .and_then(|mut file| {
                file.write_all(format!("{MAGIC}\n{}\n", self.host_id).as_bytes())?;
                file.sync_all()
            });
        if let Err(error) = written {
            let _ = fs::remove_file(&bid);
            return Err(ArbiterError::io("write", bid)(error));
        }
        let linked = fs::hard_link(&bid, self.decision_path(generation));
        // It has done its work, or never will.
        let _ = fs::remove_file(&bid);
        match linked {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Decided before; or our bid vanished and the next attempt will tell.
                Some(libc::EEXIST | libc::ENOENT) => Ok(()),
                Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS) => Err(ArbiterError::NoLinks {
                    path: self.directory.clone(),
                    source: error,
                }),
                _ => Err(ArbiterError::io("link to", self.decision_path(generation))(
                    error,
                )),
            },
        }
    }

    /// Makes the name durable: a decision that a crash of the file server undoes is none, and that
    /// holds for a loser's answer as well.
    fn sync(&self) -> Result<(), ArbiterError> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        match synced {
            // Some network file systems have no fsync for directories: their server does it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result.map_err(ArbiterError::io("sync", &self.directory)),
        }
    }
}

impl Arbiter for DirectoryArbiter {
    fn test_and_set(&mut self, generation: u64) -> Result<Verdict, ArbiterError> {
        if generation == 0 {
            return Err(ArbiterError::GenerationZero);
        }
        for _ in 0..ATTEMPTS {
            if let Some(winner) = self.winner(generation)? {
                self.sync()?;
                return Ok(match winner == self.host_id {
                    true => Verdict::Won,
                    false => Verdict::Lost { winner },
                });
            }
            self.bid(generation)?;
        }
        Err(ArbiterError::Io {
            what: "keep a bid in",
            path: self.directory.clone(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    fn current_generation(&mut self) -> Result<u64, ArbiterError> {
        let failed = || ArbiterError::io("list", &self.directory);
        let mut highest = 0;
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(&self.prefix))
                // Only what decision_path makes: no sign, no leading zero.
                .filter(|number| !number.starts_with(['+', '0']))
                .and_then(|number| number.parse().ok());
            highest = highest.max(number.unwrap_or(0));
        }
        Ok(highest)
    }
}

/// A file name that stands for `id` and for no other: letters, digits, '-' and '_' as they are,
/// other bytes as '%' and two hex digits; a hash (after '%%') if that grows too long.
fn encode(id: &str) -> String {
    let mut name = String::new();
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name += &format!("%{byte:02X}"),
        }
    }
    match name.len() <= NAME_BYTES_MAX {
        true => name,
        false => format!("%%{}", blake3::hash(id.as_bytes()).to_hex()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arbiter(directory: &Path, vm: &str, host: &str) -> DirectoryArbiter {
        DirectoryArbiter::open(directory, vm, host).unwrap()
    }

    fn lost_to(winner: &str) -> Verdict {
        let winner = winner.to_owned();
        Verdict::Lost { winner }
    }

    #[test]
    fn one_wins_and_asking_again_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut east = arbiter(dir.path(), "vm", "east");
        let mut west = arbiter(dir.path(), "vm", "west");
        assert_eq!(east.current_generation().unwrap(), 0);
        for _ in 0..2 {
            assert_eq!(west.test_and_set(1).unwrap(), Verdict::Won);
            assert_eq!(east.test_and_set(1).unwrap(), lost_to("west"));
        }
        assert_eq!(east.test_and_set(12).unwrap(), Verdict::Won);
        assert_eq!(west.current_generation().unwrap(), 12);
        // A host that was restarted is the same bidder.
        let mut west = arbiter(dir.path(), "vm", "west");
        assert_eq!(west.test_and_set(1).unwrap(), Verdict::Won);
        assert_eq!(west.test_and_set(12).unwrap(), lost_to("east"));
        // No bids stay behind.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(matches!(
            east.test_and_set(0),
            Err(ArbiterError::GenerationZero)
        ));
    }

    #[test]
    fn machines_do_not_meet_whatever_they_are_called() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(ID_BYTES_MAX);
        let slashes = "/".repeat(ID_BYTES_MAX);
        let names = [
            "vm",
            "VM",
            "../vm",
            ".vm",
            "v m",
            "v%20m",
            "vm.generation-1",
            "ä",
            &long,
            &slashes,
        ];
        for name in names {
            let mut arbiter = arbiter(dir.path(), name, name);
            assert_eq!(arbiter.test_and_set(7).unwrap(), Verdict::Won, "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), names.len());
    }

    #[test]
    fn a_bidder_that_died_before_linking_has_not_bid() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(".vm.generation-1.0123456789abcdef.bid");
        fs::write(left, format!("{MAGIC}\neast\n")).unwrap();
        let mut west = arbiter(dir.path(), "vm", "west");
        assert_eq!(west.current_generation().unwrap(), 0);
        assert_eq!(west.test_and_set(1).unwrap(), Verdict::Won);
    }

    #[test]
    fn foreign_content_is_an_error_and_never_a_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let mut east = arbiter(dir.path(), "vm", "east");
        let other = format!("{MAGIC}\neast\nwest\n");
        for content in [
            "",
            "east",
            "ftd generation 1\n",
            "a\neast\n",
            &other,
            "\u{0}",
        ] {
            fs::write(dir.path().join("vm.generation-3"), content).unwrap();
            let error = east.test_and_set(3).unwrap_err();
            assert!(matches!(error, ArbiterError::Corrupt { .. }), "{error}");
        }
        for name in ["vm.generation-", "vm.generation-+9", "vm.generation-09"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(east.current_generation().unwrap(), 3);
    }

    #[test]
    fn failures_name_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        fs::create_dir(&gone).unwrap();
        let mut east = arbiter(&gone, "vm", "east");
        fs::remove_dir(&gone).unwrap();
        let error = east.test_and_set(1).unwrap_err().to_string();
        assert!(error.contains(gone.to_str().unwrap()), "{error}");
        assert!(DirectoryArbiter::open(&gone, "vm", "east").is_err());
    }
}
