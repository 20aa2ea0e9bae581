//! The runs of scenarios in a file, a JSON object a line: what is left of drills that were broken off, to go on
//! with.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::scenarios::Run;

/// The file in a drill's folder.
const NAME: &str = "runs.jsonl";

/// Runs that are over.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    file: File,
    goes_on: bool,
    runs: Vec<Run>,
}

impl Kept {
    /// Begins anew in `folder`, or goes on with the runs there.
    ///
    /// # Errors
    /// When the folder holds runs and isn't to be gone on with, or a line is no run.
    pub fn open(folder: &Path, go_on: bool) -> Result<Kept> {
        let path = folder.join(NAME);
        let said = match fs::read_to_string(&path) {
            Ok(_) if !go_on => bail!(
                "{} holds other drills: go on with them by --resume, or name another folder",
                folder.display()
            ),
            Ok(said) => said,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context(path.display().to_string()),
        };
        // A run whose writing was broken off is conducted again.
        let whole = said.rfind('\n').map_or("", |end| &said[..=end]);
        let runs: Vec<Run> = whole
            .lines()
            .enumerate()
            .map(|(at, line)| {
                serde_json::from_str(line)
                    .with_context(|| format!("{}, line {}: no run", path.display(), at + 1))
            })
            .collect::<Result<_>>()?;
        let open = || -> std::io::Result<File> {
            let mut options = OpenOptions::new();
            let mut file = options
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            file.set_len(whole.len() as u64)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Kept {
            path,
            file,
            goes_on: go_on,
            runs,
        })
    }

    /// Adds a run.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn add(&mut self, run: Run) -> Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&run)?)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.runs.push(run);
        Ok(())
    }

    /// Whether drills that were broken off are gone on with.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Whether this scenario has been conducted for the `number`th time.
    pub fn has(&self, scenario: &str, number: u32) -> bool {
        self.runs
            .iter()
            .any(|run| run.scenario.name == scenario && run.number == number)
    }

    /// All of them, in the order in which they were conducted.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenarios::tests::run;
    use super::*;

    #[test]
    fn drills_that_were_broken_off_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut kept = Kept::open(folder, true).unwrap();
        kept.add(run("link-cut", 1, 5.0)).unwrap();
        kept.add(run("link-cut", 2, 6.0)).unwrap();
        drop(kept);
        let path = folder.join(NAME);
        let mut said = fs::read_to_string(&path).unwrap();
        said.truncate(said.len() - 7);
        fs::write(&path, said).unwrap();

        assert!(Kept::open(folder, false).is_err());
        let mut kept = Kept::open(folder, true).unwrap();
        assert!(kept.has("link-cut", 1) && !kept.has("link-cut", 2));
        kept.add(run("link-cut", 2, 7.0)).unwrap();
        drop(kept);
        let kept = Kept::open(folder, true).unwrap();
        let gaps: Vec<_> = kept.runs().iter().map(|run| run.client_gap_ms).collect();
        assert_eq!(gaps, [Some(5.0), Some(7.0)]);

        fs::write(&path, "{}x\n").unwrap();
        assert!(Kept::open(folder, true).is_err(), "no run");
    }
}
