//! A console on a Unix socket: `socat -,raw,echo=0 unix-connect:PATH`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::epoll::{Epoll, EpollFlags};

use super::backlog::Backlog;
use super::{ConsoleError, INPUT_BYTES_MAX, Turn, interest};
use crate::host::local_socket::Listening;

/// What a second client is told.
const BUSY: &[u8] = b"ftd: this console is in use by another client\r\n";

/// A listening socket, and a client when there is one. What the guest says while there is none
/// waits, so whoever connects first sees the last of it.
#[derive(Debug)]
pub(super) struct Socket {
    listener: Listening,
    client: Option<UnixStream>,
    /// The client is polled for writing, as it would have blocked.
    waiting: bool,
}

impl Socket {
    pub(super) fn listen(path: &Path, epoll: &Epoll) -> Result<Socket, ConsoleError> {
        let listener = Listening::open(path)?;
        epoll
            .add(&listener, interest(EpollFlags::EPOLLIN))
            .map_err(|errno| ConsoleError::Setup {
                what: "poll the console's socket",
                source: errno.into(),
            })?;
        Ok(Socket {
            listener,
            client: None,
            waiting: false,
        })
    }

    pub(super) fn turn(&mut self, epoll: &Epoll) -> Turn {
        self.accept(epoll);
        let mut turn = Turn::default();
        let Some(client) = &mut self.client else {
            return turn;
        };
        let mut bytes = [0; INPUT_BYTES_MAX];
        match client.read(&mut bytes) {
            Ok(count @ 1..) => {
                turn.input = bytes[..count].to_vec();
                turn.more = true;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => turn.more = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => {
                self.hang_up(epoll);
                turn.more = true;
            }
        }
        turn
    }

    pub(super) fn flush(&mut self, epoll: &Epoll, backlog: &mut Backlog) {
        let Some(client) = &mut self.client else {
            return;
        };
        let mut gone = false;
        backlog.write_to(|bytes| match client.write(bytes) {
            // The client is gone; the next one may have it.
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                gone = error.kind() != io::ErrorKind::WouldBlock;
                Err(io::ErrorKind::WouldBlock.into())
            }
            result => result,
        });
        if gone {
            self.hang_up(epoll);
            return;
        }
        let wait = !backlog.is_empty();
        if wait != self.waiting {
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, wait);
            match epoll.modify(&*client, &mut interest(flags)) {
                Ok(()) => self.waiting = wait,
                Err(errno) => tracing::debug!("can't poll the console's client: {errno}"),
            }
        }
    }

    /// Takes everybody who waits at the door: the first stays, the others are told.
    fn accept(&mut self, epoll: &Epoll) {
        while let Some(mut stream) = self.listener.accept() {
            if self.client.is_some() {
                let _ = stream.write(BUSY);
            } else if epoll.add(&stream, interest(EpollFlags::EPOLLIN)).is_ok() {
                self.client = Some(stream);
                self.waiting = false;
            }
        }
    }

    fn hang_up(&mut self, epoll: &Epoll) {
        if let Some(client) = self.client.take() {
            let _ = epoll.delete(&client);
        }
        self.waiting = false;
    }
}
