//! Standard input and output.
//!
//! Their descriptors are shared with other processes (a shell, the other end of a pipeline), so
//! O_NONBLOCK, which would change them for all, is not set; poll(2) is asked before each call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollFlags};
use vmm_sys_util::terminal::Terminal;

use super::backlog::Backlog;
use super::escape::Escape;
use super::{INPUT_BYTES_MAX, Turn, interest};

/// Bytes written at once: what a pipe that polls as writable is sure to take without blocking
/// (PIPE_BUF), and little enough for a terminal's buffer.
const CHUNK_BYTES: usize = 512;

/// Whether ftd put the terminal into raw mode and has not restored it.
static RAW: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back as a shell expects it, if ftd changed it. Dropping the console does this
/// too; this is for ways out of the process that drop nothing.
pub fn restore_terminal() {
    if RAW.swap(false, Ordering::Relaxed)
        && let Err(error) = io::stdin().lock().set_canon_mode()
    {
        tracing::debug!("can't restore the terminal: {error}");
    }
}

/// Standard input and output as a console.
#[derive(Debug)]
pub(super) struct Stdio {
    /// Input is polled: it is not at its end, and not a file.
    listening: bool,
    /// Output is polled, as it would have blocked.
    waiting: bool,
    escape: Option<Escape>,
}

impl Stdio {
    pub(super) fn open(raw: bool, epoll: &Epoll) -> Result<Stdio, Errno> {
        let stdin = io::stdin();
        let listening = match epoll.add(stdin.as_fd(), interest(EpollFlags::EPOLLIN)) {
            Ok(()) => true,
            // A file, /dev/null or nothing at all: nobody types there.
            Err(Errno::EPERM | Errno::EBADF) => false,
            Err(errno) => return Err(errno),
        };
        let raw = raw && io::IsTerminal::is_terminal(&stdin) && in_foreground(stdin.as_fd());
        if raw {
            let set = stdin.lock().set_raw_mode();
            set.map_err(|error| Errno::from_raw(error.errno()))?;
            RAW.store(true, Ordering::Relaxed);
        }
        Ok(Stdio {
            listening,
            waiting: false,
            escape: raw.then(Escape::default),
        })
    }

    pub(super) fn turn(&mut self, epoll: &Epoll) -> Turn {
        let stdin = io::stdin();
        let mut turn = Turn::default();
        if !self.listening || !is_ready(stdin.as_fd(), PollFlags::POLLIN) {
            return turn;
        }
        let mut bytes = [0; INPUT_BYTES_MAX];
        // Not through `Stdin`, whose buffer would hide bytes from poll.
        match nix::unistd::read(stdin.as_fd(), &mut bytes) {
            Ok(count @ 1..) => {
                turn.more = true;
                (turn.input, turn.quit) = match &mut self.escape {
                    Some(escape) => escape.filter(&bytes[..count]),
                    None => (bytes[..count].to_vec(), false),
                };
            }
            Err(Errno::EINTR | Errno::EAGAIN) => turn.more = true,
            // The end, or the terminal is gone.
            Ok(0) | Err(_) => {
                self.listening = false;
                let _ = epoll.delete(stdin.as_fd());
            }
        }
        turn
    }

    pub(super) fn flush(&mut self, epoll: &Epoll, backlog: &mut Backlog) {
        let stdout = io::stdout();
        backlog.write_to(|bytes| {
            if !is_ready(stdout.as_fd(), PollFlags::POLLOUT) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let chunk = &bytes[..bytes.len().min(CHUNK_BYTES)];
            Ok(nix::unistd::write(stdout.as_fd(), chunk)?)
        });
        let wait = !backlog.is_empty();
        if wait != self.waiting {
            self.waiting = wait;
            let changed = match wait {
                true => epoll.add(stdout.as_fd(), interest(EpollFlags::EPOLLOUT)),
                false => epoll.delete(stdout.as_fd()),
            };
            if let Err(errno) = changed {
                tracing::debug!("can't poll standard output: {errno}");
            }
        }
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        if self.escape.is_some() {
            restore_terminal();
        }
    }
}

/// Whether a call would not block (or would fail at once).
fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> bool {
    poll(&mut [PollFd::new(fd, events)], PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Whether this process may change the terminal: in the background it would be stopped for it.
#[allow(unsafe_code)]
fn in_foreground(terminal: BorrowedFd<'_>) -> bool {
    // SAFETY: both take or return plain numbers and touch no memory of ours.
    unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) == libc::getpgrp() }
}
