//! A console on a Unix socket: `socat -,raw,echo=0 unix-connect:PATH`.

use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::epoll::{Epoll, EpollFlags};

use super::backlog::Backlog;
use super::{ConsoleError, INPUT_BYTES_MAX, Turn, interest};

/// What a second client is told.
const BUSY: &[u8] = b"ftd: this console is in use by another client\r\n";

/// A listening socket, and a client when there is one. What the guest says while there is none
/// waits, so whoever connects first sees the last of it.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket, to remove that one and no other.
    inode: Option<(u64, u64)>,
    client: Option<UnixStream>,
    /// The client is polled for writing, as it would have blocked.
    waiting: bool,
}

impl Socket {
    pub(super) fn listen(path: &Path, epoll: &Epoll) -> Result<Socket, ConsoleError> {
        remove_stale(path)?;
        let failed = |source: io::Error| ConsoleError::Listen {
            path: path.to_owned(),
            source,
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = Socket {
            listener,
            path: path.to_owned(),
            inode: inode(path),
            client: None,
            waiting: false,
        };
        // From here on the drop removes the socket again if anything fails.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
        socket.listener.set_nonblocking(true).map_err(failed)?;
        epoll
            .add(&socket.listener, interest(EpollFlags::EPOLLIN))
            .map_err(|errno| failed(errno.into()))?;
        Ok(socket)
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
        // Errors are a client that left again, or a lack of descriptors that the next turn may
        // not meet.
        while let Ok((mut stream, _)) = self.listener.accept() {
            let ready = stream.set_nonblocking(true);
            if self.client.is_some() {
                let _ = stream.write(BUSY);
            } else if ready.is_ok() && epoll.add(&stream, interest(EpollFlags::EPOLLIN)).is_ok() {
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

impl Drop for Socket {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Removes the socket of a process that died, and nothing else.
fn remove_stale(path: &Path) -> Result<(), ConsoleError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let path = path.to_owned();
    if !metadata.file_type().is_socket() {
        return Err(ConsoleError::NotASocket { path });
    }
    match UnixStream::connect(&path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let removed = std::fs::remove_file(&path);
            removed.map_err(|source| ConsoleError::Listen { path, source })
        }
        _ => Err(ConsoleError::InUse { path }),
    }
}
