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
//! The winner's sign of life is a file of its own, written over again and again; a candidate has one for each
//! generation that it stands for, until a later one stands.
//!
//! A bidder that dies in between leaves a file beginning with a dot behind, which nobody reads.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::candidate::{self, Standing};
use super::{Arbiter, ArbiterError, ID_BYTES_MAX, Sign, Verdict};
use crate::host::entropy;

/// First line of a decision file; the winner's identifier is the second and last.
const MAGIC: &str = "ftd generation 1";
/// Bids per call, if something removes the bidder's file under its hands.
const ATTEMPTS: u32 = 4;
/// Longest encoded machine identifier in a file name, in bytes; longer ones are hashed.
const NAME_BYTES_MAX: usize = 100;
/// Size of a file with a sign of life.
const SIGN_FILE_BYTES: usize = 1024;
/// Old signs that are looked for, to be removed.
const SIGNS_KEPT_MAX: u64 = 16;

/// An arbiter in a directory.
#[derive(Debug)]
pub struct DirectoryArbiter {
    directory: PathBuf,
    /// Names of the machine's files begin with this.
    prefix: String,
    host_id: String,
    /// The generation of the last sign written here, 0 for none.
    signed: u64,
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
            signed: 0,
        };
        arbiter.current_generation()?;
        Ok(arbiter)
    }

    fn decision_path(&self, generation: u64) -> PathBuf {
        self.directory.join(format!("{}{generation}", self.prefix))
    }

    /// Its end keeps it from being taken for a decision.
    fn sign_path(&self, generation: u64) -> PathBuf {
        let name = format!("{}{generation}.sign", self.prefix);
        self.directory.join(name)
    }

    /// The name begins with the decision's, so that it is no decision's.
    fn candidate_name(&self, generation: u64, host: &str) -> String {
        format!("{}{generation}.candidate-{host}", self.prefix)
    }

    /// The candidates for a generation. Those for earlier ones, which are decided, are removed.
    fn candidates(&self, generation: u64) -> Result<Vec<u64>, ArbiterError> {
        let failed = || ArbiterError::io("list", &self.directory);
        // A directory that is being written to may list a name twice.
        let mut through = BTreeMap::new();
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let of: Option<u64> = name
                .to_str()
                .and_then(|name| name.strip_prefix(&self.prefix)?.split_once(".candidate-"))
                .and_then(|(number, _)| number.parse().ok());
            match of {
                Some(of) if of == generation => {
                    let mut text = Vec::new();
                    let read = File::open(entry.path()).and_then(|file| {
                        let limit = candidate::FILE_BYTES_MAX as u64;
                        file.take(limit).read_to_end(&mut text)
                    });
                    read.map_err(ArbiterError::io("read", entry.path()))?;
                    let text = String::from_utf8(text).unwrap_or_default();
                    through.extend(candidate::parse(&text).map(|epoch| (name, epoch)));
                }
                Some(of) if of < generation => {
                    let _ = fs::remove_file(entry.path());
                }
                _ => {}
            }
        }
        Ok(through.into_values().collect())
    }

    /// Those of earlier winners, of which none is needed.
    fn remove_signs_before(&self, generation: u64) {
        for old in generation.saturating_sub(SIGNS_KEPT_MAX)..generation {
            let _ = fs::remove_file(self.sign_path(old));
        }
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

    /// Writes a durable file of a name that nobody reads.
    fn write_aside(&self, generation: u64, text: &str) -> Result<PathBuf, ArbiterError> {
        let nonce = entropy::random_u64()
            .map_err(ArbiterError::io("get random bytes for", &self.directory))?;
        let path = self
            .directory
            .join(format!(".{}{generation}.{nonce:016x}.bid", self.prefix));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            });
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(ArbiterError::io("write", path)(error));
        }
        Ok(path)
    }

    /// Writes this host's bid to a file of its own and tries to give it the generation's name.
    fn bid(&self, generation: u64) -> Result<(), ArbiterError> {
        let bid = self.write_aside(generation, &format!("{MAGIC}\n{}\n", self.host_id))?;
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

    fn stand(&mut self, generation: u64, through: u64) -> Result<Standing, ArbiterError> {
        let name = self.candidate_name(generation, &encode(&self.host_id));
        let path = self.directory.join(name);
        // What it says is final: once there, it need not be written again.
        if !path.exists() {
            let written = self.write_aside(generation, &candidate::text(through))?;
            if let Err(error) = fs::rename(&written, &path) {
                let _ = fs::remove_file(&written);
                return Err(ArbiterError::io("write", path)(error));
            }
        }
        let through = self.candidates(generation)?;
        let decided = self.is_superseded(generation.saturating_sub(1))?;
        self.sync()?;
        Ok(Standing { decided, through })
    }

    fn is_superseded(&mut self, generation: u64) -> Result<bool, ArbiterError> {
        let decided = |generation| {
            let path = self.decision_path(generation);
            match fs::symlink_metadata(&path) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(ArbiterError::io("look at", path)(error)),
            }
        };
        if decided(generation.saturating_add(1))? {
            return Ok(true);
        }
        // The mount point without what was mounted there would know of no later generation either.
        if !decided(generation)? {
            return Err(ArbiterError::Corrupt {
                path: self.decision_path(generation),
                what: "it was won and is gone; is the file system still mounted?".to_owned(),
            });
        }
        Ok(false)
    }

    fn sign(&mut self, sign: &Sign) -> Result<(), ArbiterError> {
        let path = self.sign_path(sign.generation);
        let failed = || ArbiterError::io("write", &path);
        if self.signed != sign.generation {
            self.remove_signs_before(sign.generation);
            self.signed = sign.generation;
        }
        let mut text =
            serde_json::to_string(sign).map_err(|error| failed()(io::Error::other(error)))?;
        // Always as long, and so written over as a whole.
        while text.len() + 1 < SIGN_FILE_BYTES {
            text.push(' ');
        }
        text.push('\n');
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed())?;
        file.write_all_at(text.as_bytes(), 0).map_err(failed())?;
        // To the server, where the others look.
        file.sync_data().map_err(failed())
    }

    fn sign_of(&mut self, generation: u64) -> Result<Option<Sign>, ArbiterError> {
        let path = self.sign_path(generation);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ArbiterError::io("open", path)(error)),
        };
        let mut text = Vec::new();
        file.take(SIGN_FILE_BYTES as u64)
            .read_to_end(&mut text)
            .map_err(ArbiterError::io("read", &path))?;
        let sign: Option<Sign> = serde_json::from_slice(&text).ok();
        Ok(sign.filter(|sign| sign.generation == generation))
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
pub(super) fn encode(id: &str) -> String {
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
    fn candidates_know_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut east = arbiter(dir.path(), "vm", "east");
        let mut west = arbiter(dir.path(), "vm", "west");
        let mut other = arbiter(dir.path(), "other", "west");
        for arbiter in [&mut east, &mut other] {
            arbiter.test_and_set(1).unwrap();
        }
        other.stand(2, 77).unwrap();
        candidate::tests::know_each_other(&mut east, &mut west);
        // Two decisions of the one, one of the other, a candidate of each.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
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
    fn signs_of_life_are_read_by_others_and_old_ones_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut east = arbiter(dir.path(), "vm", "east");
        let mut west = arbiter(dir.path(), "vm", "west");
        assert_eq!(east.sign_of(1).unwrap(), None);
        west.test_and_set(1).unwrap();
        assert!(!east.is_superseded(1).unwrap());
        let mut sign = Sign::new("west", None, 300);
        for beat in [1, 1_000_000, 2] {
            (sign.generation, sign.beat) = (1, beat);
            west.sign(&sign).unwrap();
            assert_eq!(east.sign_of(1).unwrap(), Some(sign.clone()));
        }
        assert_eq!(
            east.current_generation().unwrap(),
            1,
            "a sign is no decision"
        );
        east.test_and_set(2).unwrap();
        assert!(west.is_superseded(1).unwrap() && !east.is_superseded(2).unwrap());
        sign.generation = 2;
        east.sign(&sign).unwrap();
        assert_eq!(west.sign_of(2).unwrap(), Some(sign));
        assert_eq!(west.sign_of(1).unwrap(), None);
        // Another file system may be there now.
        fs::rename(dir.path().join("vm.generation-2"), dir.path().join("away")).unwrap();
        let error = west.is_superseded(2).unwrap_err().to_string();
        assert!(error.contains("still mounted"), "{error}");
        // One that is just being written.
        let path = dir.path().join("vm.generation-2.sign");
        fs::write(&path, "{\"generation\":2,").unwrap();
        assert_eq!(west.sign_of(2).unwrap(), None);
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
