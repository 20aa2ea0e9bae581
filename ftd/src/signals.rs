//! SIGINT and SIGTERM: the first one stops ftd in order, the second one at once.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::host::console::restore_terminal;

/// The signals that stop ftd, as something an event loop can poll.
#[derive(Debug)]
pub struct StopSignals {
    fd: SignalFd,
    set: SigSet,
    /// The first one has come.
    taken: bool,
}

impl StopSignals {
    /// Blocks the signals in this thread and in those it starts from here on. To be called before
    /// any thread is started.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    pub fn block() -> Result<StopSignals> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        set.thread_block()
            .context("cannot block SIGINT and SIGTERM")?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("cannot make a signalfd")?;
        let taken = false;
        Ok(StopSignals { fd, set, taken })
    }

    /// The first stop signal, once it has come. From then on the next one ends the process
    /// wherever it is: stopping in order may wait for a disk or a peer.
    pub fn take(&mut self) -> Option<Signal> {
        if self.taken {
            return None;
        }
        let info = self.fd.read_signal().ok().flatten()?;
        let signal = Signal::try_from(info.ssi_signo as i32).ok()?;
        self.end_at_next();
        Some(signal)
    }

    /// From now on a stop signal ends the process at once: it is stopping already.
    pub fn end_at_next(&mut self) {
        if !std::mem::replace(&mut self.taken, true)
            && let Err(error) = self.watch()
        {
            tracing::warn!("a further signal will not end ftd at once: {error}");
        }
    }

    fn watch(&self) -> io::Result<()> {
        let set = self.set;
        std::thread::Builder::new()
            .name("last-signal".to_owned())
            .spawn(move || {
                let Ok(signal) = set.wait() else { return };
                restore_terminal();
                eprintln!("ftd: {signal}: ending at once");
                std::process::exit(128 + signal as i32);
            })?;
        Ok(())
    }
}

impl AsRawFd for StopSignals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Stops this process until somebody continues it.
pub fn hold() {
    if let Err(error) = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP) {
        tracing::warn!("cannot stop here: {error}");
    }
}
