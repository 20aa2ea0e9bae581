//! Where the guest's consoles go, and where what is typed comes from.
//!
//! A [`Console`] never blocks and never fails once it is open: a guest must not stop for a terminal
//! that nobody reads. What can't be written at once waits in a bounded [backlog](Backlog) that
//! drops its oldest bytes and counts them.
//!
//! Whatever it consists of at the moment (a listening socket, a client, standard input), it shows
//! one descriptor to the event loop, an epoll(7) instance: when that is readable, call
//! [`Console::turn`].

mod backlog;
mod escape;
mod socket;
mod spec;
mod stdio;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

pub use backlog::Backlog;
pub use spec::ConsoleSpec;
pub use stdio::restore_terminal;

use super::local_socket::SocketError;

/// What [`Backlog`] holds for a reader who is slow or not there yet, in bytes.
const BACKLOG_BYTES: usize = 256 * 1024;
/// Most bytes taken from a typist in one turn.
const INPUT_BYTES_MAX: usize = 4096;

/// Why a console can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The file can't be written.
    #[error("can't write the console to {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What open(2) said.
        #[source]
        source: io::Error,
    },
    /// The socket can't be made.
    #[error("can't open the console")]
    Socket(#[from] SocketError),
    /// Something the kernel refused.
    #[error("can't {what}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What came of a [turn](Console::turn).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// What was typed.
    pub input: Vec<u8>,
    /// The person at the terminal typed Ctrl-A x: ftd is to end.
    pub quit: bool,
    /// More may wait: take another turn soon, without waiting for the descriptor.
    pub more: bool,
}

/// One of the guest's consoles on this host.
#[derive(Debug)]
pub struct Console {
    end: End,
    backlog: Backlog,
    epoll: Epoll,
}

#[derive(Debug)]
enum End {
    Nothing,
    File(File),
    Stdio(stdio::Stdio),
    Socket(socket::Socket),
}

impl Console {
    /// Opens a console.
    ///
    /// # Errors
    /// [`ConsoleError`], which names the path.
    pub fn open(spec: &ConsoleSpec) -> Result<Console, ConsoleError> {
        let setup = |what| {
            move |errno: Errno| ConsoleError::Setup {
                what,
                source: errno.into(),
            }
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(setup("create an epoll instance"))?;
        let end = match spec {
            ConsoleSpec::Nothing => End::Nothing,
            ConsoleSpec::File(path) => {
                let file = File::options()
                    .create(true)
                    .append(true)
                    .mode(0o600)
                    .open(path);
                End::File(file.map_err(|source| ConsoleError::File {
                    path: path.clone(),
                    source,
                })?)
            }
            ConsoleSpec::Stdio { raw } => {
                End::Stdio(stdio::Stdio::open(*raw, &epoll).map_err(setup("poll standard input"))?)
            }
            ConsoleSpec::Unix(path) => End::Socket(socket::Socket::listen(path, &epoll)?),
        };
        Ok(Console {
            end,
            backlog: Backlog::new(BACKLOG_BYTES),
            epoll,
        })
    }

    /// Writes what the guest said, now or when the other side takes it.
    pub fn write(&mut self, bytes: &[u8]) {
        if matches!(self.end, End::Nothing) {
            return;
        }
        self.backlog.push(bytes);
        self.flush();
    }

    /// Writes what waits, as far as the other side takes it; done by itself in each turn.
    pub fn flush(&mut self) {
        let (epoll, backlog) = (&self.epoll, &mut self.backlog);
        match &mut self.end {
            End::Nothing => {}
            // A full disk loses what it can't hold.
            End::File(file) => backlog.write_to(|bytes| io::Write::write(file, bytes)),
            End::Stdio(stdio) => stdio.flush(epoll, backlog),
            End::Socket(socket) => socket.flush(epoll, backlog),
        }
    }

    /// Does what can be done now without waiting: lets a client in, takes what was typed, writes
    /// what waits. To be called when the descriptor is readable; calling it at other times does no
    /// harm.
    pub fn turn(&mut self) -> Turn {
        let turn = match &mut self.end {
            End::Nothing | End::File(_) => Turn::default(),
            End::Stdio(stdio) => stdio.turn(&self.epoll),
            End::Socket(socket) => socket.turn(&self.epoll),
        };
        self.flush();
        turn
    }

    /// Bytes of the guest's that nobody will read: the backlog was full, or the disk.
    pub fn dropped_bytes(&self) -> u64 {
        self.backlog.dropped_bytes()
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl AsRawFd for Console {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}

/// An epoll registration for these events; which descriptor it was is never asked.
fn interest(flags: EpollFlags) -> EpollEvent {
    EpollEvent::new(flags, 0)
}

#[cfg(test)]
mod tests;
