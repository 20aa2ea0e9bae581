//! Child processes that end with the drill, whatever ends it.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::Pid;

/// Set by SIGINT and SIGTERM.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long a process has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

extern "C" fn interrupt(_signal: nix::libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Makes SIGINT and SIGTERM end the drill in order (hosts off, namespaces gone) instead of at once.
pub fn catch_interrupts() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        #[allow(unsafe_code)]
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::Handler(interrupt)) };
    }
    let unblocked: nix::sys::signal::SigSet =
        [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    let _ = unblocked.thread_unblock();
}

/// Whether the drill was told to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A running child; it gets SIGTERM when this is dropped, and SIGKILL if that doesn't help.
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a program with its output in files. To be called from the drill's own thread: the
    /// child gets SIGTERM when the thread that started it ends.
    ///
    /// # Errors
    /// When a file can't be made or the program can't be started.
    pub fn start(mut command: Command, name: &str, out: &Path, err: &Path) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(File::create(out)?)
            .stderr(File::create(err)?);
        // A terminal's Ctrl-C is for the drill, which then ends its children in order.
        command.process_group(0);
        die_with_parent(&mut command);
        let child = command.spawn()?;
        Ok(Process {
            name: name.into(),
            child,
            status: None,
        })
    }

    /// What it is, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Sends a signal, if it is still there.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let _ = nix::sys::signal::kill(Pid::from_raw(self.child.id().cast_signed()), signal);
        }
    }

    /// Waits for its end; `None` when it doesn't come in time.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while self.ended().is_none() && start.elapsed() < timeout {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.status
    }

    /// Ends it: SIGTERM, some time, SIGKILL.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        if self.wait(GRACE).is_none() {
            self.signal(Signal::SIGKILL);
            self.wait(GRACE);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and
    // allocates nothing.
    #[allow(unsafe_code)]
    unsafe {
        command
            .pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from));
    }
}

/// An exit status in words.
pub fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// Runs a program to its end and returns what it wrote.
///
/// # Errors
/// When it can't be started or fails; the message quotes it.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = format!("{:?}", command).replace('"', "");
    let done = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| anyhow::anyhow!("cannot run {name}: {error}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        anyhow::bail!("{name} {}: {}", words(done.status), said.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The last lines of a file, for messages; empty if there is none.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command, "sh", &folder.join("out"), &folder.join("err")).expect("start")
    }

    #[test]
    fn a_process_is_waited_for_and_its_output_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let mut process = shell(folder.path(), "echo one; echo two >&2; exit 3");
        let status = process.wait(Duration::from_secs(10)).expect("ended");
        assert_eq!(words(status), "ended with status 3");
        assert_eq!(tail(&folder.path().join("out"), 5), "one");
        assert_eq!(tail(&folder.path().join("err"), 5), "two");
    }

    #[test]
    fn a_process_ends_when_it_is_dropped() {
        let folder = tempfile::tempdir().expect("folder");
        let process = shell(folder.path(), "exec sleep 100");
        let pid = Pid::from_raw(process.child.id().cast_signed());
        drop(process);
        assert!(nix::sys::signal::kill(pid, None).is_err());
    }

    #[test]
    fn a_failing_command_is_quoted() {
        let error = output(Command::new("sh").args(["-c", "echo bad >&2; exit 2"])).expect_err("2");
        assert_eq!(
            error.to_string(),
            "sh -c echo bad >&2; exit 2 ended with status 2: bad"
        );
        assert!(output(&mut Command::new("/nonexistent/x")).is_err());
    }
}
