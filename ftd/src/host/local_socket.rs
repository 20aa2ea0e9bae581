//! Unix sockets with a path: one that is listened on, and the way to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen};
use nix::sys::stat::{Mode, fchmod};

/// Connections that wait to be accepted; more are turned away by the kernel.
const WAITING_MAX: i32 = 16;

/// Why a socket can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel refused.
    #[error("can't listen on {}", .path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Another process listens there.
    #[error("another process listens on {}: choose another path, or end that process", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path is taken.
    #[error("{} exists and is not a socket: choose another path", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

/// A socket that is listened on, without blocking, by its owner alone (mode 0600). Its file goes when
/// it is dropped.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket, to remove that one and no other.
    inode: Option<(u64, u64)>,
}

impl Listening {
    /// Listens on `path`. A socket that a dead process left there is replaced.
    ///
    /// # Errors
    /// Another process listens there, something else is there, or the kernel refuses.
    pub fn open(path: &Path) -> Result<Listening, SocketError> {
        remove_stale(path)?;
        let failed = |errno: Errno| SocketError::Listen {
            path: path.to_owned(),
            source: errno.into(),
        };
        let socket = new_socket().map_err(failed)?;
        // The file gets its mode from here, so that it is nobody else's from its first moment.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        let address = UnixAddr::new(path).map_err(failed)?;
        bind(socket.as_raw_fd(), &address).map_err(failed)?;
        let listening = Listening {
            listener: socket.into(),
            path: path.to_owned(),
            inode: inode(path),
        };
        // From here on the drop removes the socket again if anything fails.
        let backlog = Backlog::new(WAITING_MAX).map_err(failed)?;
        listen(&listening.listener, backlog).map_err(failed)?;
        Ok(listening)
    }

    /// Takes the next connection, which does not block either. `None` when none waits, or when none
    /// can be taken now: a client that left again, or a lack of descriptors.
    pub fn accept(&self) -> Option<UnixStream> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Connects to whoever listens on `path`, at once or not at all; the stream does not block.
///
/// # Errors
/// ENOENT: there is no such socket. ECONNREFUSED: nobody listens there any more. EAGAIN: somebody does,
/// but too many wait already.
pub fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let socket = new_socket()?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Removes the socket of a process that died, and nothing else.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let path = path.to_owned();
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket { path });
    }
    match connect(&path) {
        Err(Errno::ECONNREFUSED) => {
            let removed = std::fs::remove_file(&path);
            removed.map_err(|source| SocketError::Listen { path, source })
        }
        _ => Err(SocketError::InUse { path }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_socket_is_its_owners_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(connect(&path).unwrap_err(), Errno::ENOENT);
        let listening = Listening::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let in_use = Listening::open(&path).unwrap_err();
        assert!(matches!(in_use, SocketError::InUse { .. }), "{in_use}");
        drop(listening);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_hangs_is_in_use_nevertheless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listening = Listening::open(&path).unwrap();
        let mut clients = Vec::new();
        let full = loop {
            match connect(&path) {
                Ok(client) => clients.push(client),
                Err(errno) => break errno,
            }
        };
        assert_eq!(full, Errno::EAGAIN);
        let in_use = Listening::open(&path).unwrap_err();
        assert!(matches!(in_use, SocketError::InUse { .. }), "{in_use}");
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(connect(&path).unwrap_err(), Errno::ECONNREFUSED);
        drop(Listening::open(&path).unwrap());
        std::fs::write(&path, "precious").unwrap();
        let taken = Listening::open(&path).unwrap_err();
        assert!(matches!(taken, SocketError::NotASocket { .. }), "{taken}");
        // A file that took the place of a socket stays when the socket goes.
        std::fs::remove_file(&path).unwrap();
        let listening = Listening::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(listening);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
