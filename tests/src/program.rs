//! Building and running `ftd`.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// No command of a test takes longer, on a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_secs(120);

/// The checkout.
pub fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where Cargo puts what it builds: the tests lie in its `PROFILE/deps`.
pub fn build_directory() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let deps = test.parent().expect("a directory of tests");
    deps.parent().expect("a directory of a profile").to_owned()
}

/// The program: `$FTD`, or the one of this checkout, built like the tests.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("FTD") {
        Some(path) => path.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let profile = build_directory();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "ftd", "--bin", "ftd"]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let target = profile.parent().expect("a target directory");
    let status = cargo
        .arg("--target-dir")
        .arg(target)
        .current_dir(checkout())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "ftd does not build");
    profile.join("ftd")
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Checks that it failed with `status`, a message that holds all of `words`, and no panic.
    #[track_caller]
    pub fn failed_with(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        // One message, at the end; nothing had begun before it.
        if status == 1 {
            let last = self.stderr.trim_end().lines().last().unwrap_or_default();
            assert!(last.starts_with("ftd: "), "{self:#?}");
        }
    }

    /// Checks that it did what it was asked.
    #[track_caller]
    pub fn succeeded(&self) -> &Ended {
        assert_eq!(self.status, Some(0), "{self:#?}");
        self
    }

    /// The last line of standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let last = self.stdout.trim_end().lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A running `ftd`. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: tempfile::TempDir,
}

/// Runs `ftd` to its end.
#[track_caller]
pub fn ftd<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ended {
    start(arguments).wait()
}

/// Starts `ftd` without standard input; it says only what is wrong.
#[track_caller]
pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Running {
    start_saying("warn", arguments)
}

/// Starts `ftd` without standard input; it says what belongs to `level` (info, warn).
#[track_caller]
pub fn start_saying<A: AsRef<OsStr>>(
    level: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Running {
    start_in(level, &[], arguments)
}

/// The same, with these variables in its environment.
#[track_caller]
pub fn start_in<A: AsRef<OsStr>>(
    level: &str,
    environment: &[(&str, &str)],
    arguments: impl IntoIterator<Item = A>,
) -> Running {
    let output = tempfile::tempdir().expect("a temporary directory");
    let file = |name| File::create(output.path().join(name)).expect("a file for output");
    let child = Command::new(path())
        .args(arguments)
        .env("FTD_LOG", level)
        .env("NO_COLOR", "1")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(file("out"))
        .stderr(file("err"))
        .spawn()
        .expect("ftd runs");
    Running { child, output }
}

impl Running {
    /// Kills it as a power cut would: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("a process to kill");
        self.child.wait().expect("a process to wait for");
    }

    /// Asks it to end: SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a process to wait for") {
                break status;
            }
            if Instant::now() >= deadline {
                self.kill();
                panic!("ftd does not end: {}{}", self.read("out"), self.read("err"));
            }
            sleep(Duration::from_millis(5));
        };
        Ended {
            status: status.code(),
            stdout: self.read("out"),
            stderr: self.read("err"),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has stopped itself.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        // The state follows the name, which is in parentheses and may hold anything.
        stat.is_ok_and(|stat| {
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
        })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.read("out")
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.read("err")
    }

    fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.output.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `there` has something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Whether this host's doctor finds `check` to be fine. If not, says that the test is skipped.
pub fn doctor_finds(check: &str) -> bool {
    let report = ftd(["doctor", "--json"]).json();
    let checks = report["checks"].as_array().expect("checks");
    let fine = checks
        .iter()
        .any(|found| found["name"] == check && found["status"] == "ok");
    if !fine {
        eprintln!("SKIPPED: this host has no {check}");
    }
    fine
}
