//! Builds the simulator with a core that lacks a check, in a copy of the source, and runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::core::Removal;

/// What the simulator is made of.
const CRATES: [&str; 3] = ["devices", "replay", "sim"];

/// A copy of the source.
pub(super) struct Workshop {
    source: PathBuf,
    copy: PathBuf,
    target: PathBuf,
}

impl Workshop {
    /// Makes the copy, or brings it up to date.
    ///
    /// # Errors
    ///
    /// A file can't be read or written.
    pub(super) fn open() -> Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let root = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let root = root
            .unwrap_or_else(|| source.join("target"))
            .join("sim-mutations");
        let workshop = Workshop {
            source,
            copy: root.join("source"),
            target: root.join("target"),
        };
        for name in CRATES {
            workshop.copy_tree(Path::new(name))?;
        }
        let manifest = read(&workshop.source.join("Cargo.toml"))?;
        let members = |line: &str| match line.starts_with("members = ") {
            true => format!("members = {CRATES:?}\n"),
            false => format!("{line}\n"),
        };
        let manifest: String = manifest.lines().map(members).collect();
        write(&workshop.copy.join("Cargo.toml"), &manifest)?;
        let lock = read(&workshop.source.join("Cargo.lock"))?;
        // cargo drops from the copy what only the other crates need.
        if !workshop.copy.join("Cargo.lock").exists() {
            write(&workshop.copy.join("Cargo.lock"), &lock)?;
        }
        Ok(workshop)
    }

    /// The first seed that finds the check's absence, and the rule that is broken.
    ///
    /// # Errors
    ///
    /// The check is no longer where its removal looks for it, or the core doesn't build without it.
    pub(super) fn try_out(
        &self,
        removal: &Removal,
        seeds: u64,
        threads: usize,
    ) -> Result<Option<(u64, String)>> {
        let name = removal.name;
        self.remove(removal)?;
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--offline", "-p", "sim", "--target-dir"])
            .arg(&self.target)
            .env("RUSTFLAGS", "-Awarnings")
            .current_dir(&self.copy)
            .stdin(Stdio::null())
            .status();
        self.restore(removal)?;
        ensure!(
            built.context("cargo can't be started")?.success(),
            "the core does not build without \"{name}\": change sim/src/mutations/core.rs"
        );
        let output = Command::new(self.target.join("debug/sim"))
            .args(["--until-violation", "--seeds", &seeds.to_string()])
            .args(["--threads", &threads.to_string()])
            .stderr(Stdio::null())
            .output()
            .context("the simulator without a check can't be started")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let found: Value = serde_json::from_str(&text)
            .with_context(|| format!("without \"{name}\" the simulator said {text:?}"))?;
        if found.is_null() {
            return Ok(None);
        }
        match (found["seed"].as_u64(), found["rule"].as_str()) {
            (Some(seed), Some(rule)) => Ok(Some((seed, rule.to_owned()))),
            _ => bail!("without \"{name}\" the simulator said {text:?}"),
        }
    }

    fn core_file(root: &Path, file: &str) -> PathBuf {
        root.join("replay/src/protocol").join(file)
    }

    fn remove(&self, removal: &Removal) -> Result<()> {
        for edit in removal.edits {
            let path = Self::core_file(&self.copy, edit.file);
            let text = read(&path)?;
            ensure!(
                text.matches(edit.from).count() == 1,
                "the check \"{}\" is no longer in {}: change sim/src/mutations/core.rs",
                removal.name,
                edit.file
            );
            write(&path, &text.replace(edit.from, edit.to))?;
        }
        Ok(())
    }

    fn restore(&self, removal: &Removal) -> Result<()> {
        for edit in removal.edits {
            let text = read(&Self::core_file(&self.source, edit.file))?;
            write(&Self::core_file(&self.copy, edit.file), &text)?;
        }
        Ok(())
    }

    fn copy_tree(&self, path: &Path) -> Result<()> {
        let from = self.source.join(path);
        let entries =
            fs::read_dir(&from).with_context(|| format!("can't read {}", from.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = path.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.copy_tree(&path)?;
            } else {
                write(&self.copy.join(&path), &read(&self.source.join(&path))?)?;
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}

/// Leaves a file alone that is as it should be, so that nothing is built for it.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}
