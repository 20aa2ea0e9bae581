//! Where the guest's serial console goes.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, bail};

/// One end of a serial line.
pub enum ConsoleEnd {
    /// Standard output, and standard input if it is a terminal or a pipe.
    Stdio,
    /// Nothing.
    None,
    /// A file that is appended to.
    File(File),
}

impl ConsoleEnd {
    /// Opens what `text` says: `stdio`, `none` or `file:PATH`.
    pub fn open(text: &str) -> Result<ConsoleEnd> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(ConsoleEnd::Stdio),
            None if text == "none" => Ok(ConsoleEnd::None),
            Some(("file", path)) => {
                let file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("cannot write the console to {path}"))?;
                Ok(ConsoleEnd::File(file))
            }
            _ => bail!("'{text}' is no console: give stdio, none or file:PATH"),
        }
    }

    /// What to poll for input.
    pub fn input_fd(&self) -> Option<RawFd> {
        match self {
            ConsoleEnd::Stdio if io::stdin().is_terminal() => Some(io::stdin().as_raw_fd()),
            _ => None,
        }
    }

    /// Writes what the guest said. A console that can't be written to loses it: a guest must not
    /// stop for its log.
    pub fn write(&mut self, bytes: &[u8]) {
        let written = match self {
            ConsoleEnd::Stdio => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            ConsoleEnd::None => Ok(()),
            ConsoleEnd::File(file) => file.write_all(bytes),
        };
        if let Err(error) = written {
            tracing::debug!("the console lost {} bytes: {error}", bytes.len());
        }
    }

    /// Reads what was typed; `None` if nothing was, 0 at the end.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            ConsoleEnd::Stdio => match io::stdin().lock().read(into) {
                Ok(count) => Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error),
            },
            _ => Ok(None),
        }
    }
}
