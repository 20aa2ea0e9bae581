//! The sending half of a connection: whole frames, in order.
//!
//! It belongs to the daemon's loop. The pages of a live clone are sent by the thread that reads
//! them, through a [`SideDoor`]: sending is most of a clone's work, and so is done at that thread's
//! priority, and the loop stays free for the guest's traffic.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::session::Session;

/// What the kernel may hold of a connection that it has not sent yet, in bytes: what is queued
/// behind it, a heartbeat or the snapshot for which a guest stands, waits for so much.
const UNSENT_MAX: libc::c_int = 128 << 10;

/// The sending half.
#[derive(Debug)]
pub struct Writer {
    /// `None` once it is closed.
    stream: Option<TcpStream>,
    /// Both halves of the connection's TLS, if it has that.
    session: Option<Session>,
    connected: bool,
    /// Frames as they are, sealed or not.
    outgoing: Vec<u8>,
    sent: usize,
}

impl Writer {
    /// For a non-blocking socket, which goes on to be the caller's.
    pub(super) fn new(socket: &impl AsFd, session: Option<Session>) -> io::Result<Writer> {
        let stream = TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        if let Err(error) = limit_unsent(&stream) {
            tracing::debug!("no TCP_NOTSENT_LOWAT: {error}");
        }
        Ok(Writer {
            stream: Some(stream),
            session,
            connected: false,
            outgoing: Vec::new(),
            sent: 0,
        })
    }

    /// Before it is, nothing is written.
    pub(super) fn set_connected(&mut self, connected: bool) {
        self.connected = connected;
    }

    /// Where a frame is appended; [`Writer::flush`] follows.
    pub(super) fn queue(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Bytes that wait; sealed ones, of which there are few, count as one.
    pub(super) fn backlog_bytes(&self) -> usize {
        let sealed = self.session.as_ref().is_some_and(Session::wants_write);
        self.outgoing.len() - self.sent + usize::from(sealed && self.connected)
    }

    /// The connection's TLS.
    pub(super) fn session(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Err(ErrorKind::NotConnected.into());
        };
        while self.connected {
            let written = match &mut self.session {
                Some(session) if session.wants_write() => session.write_to(stream),
                Some(session) if session.is_handshaking() => break,
                _ if self.sent == self.outgoing.len() => break,
                Some(session) => {
                    self.sent += session.seal(&self.outgoing[self.sent..]);
                    continue;
                }
                None => stream.write(&self.outgoing[self.sent..]),
            };
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) if self.session.is_none() => self.sent += count,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        } else if self.sent >= 1 << 20 {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Gives the socket up, and what waits with it.
    pub(super) fn close(&mut self) {
        if let (Some(stream), Some(session)) = (&mut self.stream, &mut self.session)
            && self.connected
        {
            session.say_goodbye();
            // Whoever does not take it at once finds out by the connection's end.
            let _ = session.write_to(stream);
        }
        self.stream = None;
        self.outgoing = Vec::new();
        self.sent = 0;
    }
}

#[allow(unsafe_code)]
fn limit_unsent(stream: &TcpStream) -> io::Result<()> {
    let bytes = UNSENT_MAX;
    // SAFETY: the kernel reads an int from `bytes`, which is one and lives through the call.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What came of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Yes,
    /// The connection takes nothing now: again, later.
    Later,
    /// There is no connection any more.
    Gone,
}

/// A way to send frames on a connection that is the daemon's loop's.
#[derive(Debug, Clone)]
pub struct SideDoor {
    writer: Arc<Mutex<Writer>>,
}

impl SideDoor {
    pub(super) fn new(writer: Arc<Mutex<Writer>>) -> SideDoor {
        SideDoor { writer }
    }

    /// Sends a frame if nothing waits before it. It should be short: the loop waits meanwhile, if
    /// it has something to send.
    pub fn send(&self, frame: &[u8]) -> Sent {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.backlog_bytes() > 0 {
            return Sent::Later;
        }
        let writer = &mut *writer;
        let Some(stream) = &mut writer.stream else {
            return Sent::Gone;
        };
        if let Some(session) = &mut writer.session {
            // What is sealed must go: the loop sends what the socket does not take now.
            let sealed = session.seal(frame);
            writer.outgoing.extend_from_slice(&frame[sealed..]);
            return match writer.flush() {
                Ok(()) => Sent::Yes,
                Err(_) => Sent::Gone,
            };
        }
        loop {
            return match stream.write(frame) {
                Ok(count) => {
                    // The loop sends the rest as soon as the socket takes it.
                    let rest = &frame[count..];
                    writer.outgoing.extend_from_slice(rest);
                    Sent::Yes
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Sent::Later,
                // The loop meets the failure as well, and reports it.
                Err(_) => Sent::Gone,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::mpsc::channel;

    use super::*;

    fn pair() -> (Writer, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let (far, _) = listener.accept().unwrap();
        let mut writer = Writer::new(&near, None).unwrap();
        writer.set_connected(true);
        (writer, far)
    }

    #[test]
    fn frames_of_two_threads_stay_whole_and_none_is_lost() {
        const FRAME: usize = 30_000;
        let (writer, mut far) = pair();
        let writer = Arc::new(Mutex::new(writer));
        let door = SideDoor::new(Arc::clone(&writer));
        let side = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < 300 {
                match door.send(&[1; FRAME]) {
                    Sent::Yes => sent += 1,
                    Sent::Later => std::thread::yield_now(),
                    Sent::Gone => panic!("the connection is there"),
                }
            }
        });
        let (stop, stopped) = channel::<()>();
        let own = std::thread::spawn(move || {
            let mut queued = 0;
            while stopped.try_recv().is_err() {
                let mut writer = writer.lock().unwrap();
                if queued < 300 {
                    queued += 1;
                    writer.queue().extend([2; FRAME]);
                }
                writer.flush().unwrap();
                drop(writer);
                std::thread::yield_now();
            }
        });
        let mut counts = [0; 3];
        let mut frame = vec![0; FRAME];
        for _ in 0..600 {
            far.read_exact(&mut frame).unwrap();
            assert!(frame.iter().all(|byte| *byte == frame[0]), "mixed");
            counts[usize::from(frame[0])] += 1;
        }
        stop.send(()).unwrap();
        side.join().unwrap();
        own.join().unwrap();
        assert_eq!(counts, [0, 300, 300]);
    }

    #[test]
    fn a_door_waits_for_the_loop_and_ends_with_the_connection() {
        let (mut writer, mut far) = pair();
        writer.queue().extend(b"loop");
        let writer = Arc::new(Mutex::new(writer));
        let door = SideDoor::new(Arc::clone(&writer));
        assert_eq!(door.send(b"door"), Sent::Later, "the loop was first");
        writer.lock().unwrap().flush().unwrap();
        assert_eq!(door.send(b"door"), Sent::Yes);
        let mut both = [0; 8];
        far.read_exact(&mut both).unwrap();
        assert_eq!(&both, b"loopdoor");
        while door.send(&[0; 30_000]) == Sent::Yes {}
        assert!(writer.lock().unwrap().backlog_bytes() <= 30_000);
        writer.lock().unwrap().close();
        assert_eq!(door.send(b"x"), Sent::Gone);
        assert!(writer.lock().unwrap().flush().is_err());
    }

    #[test]
    fn little_waits_in_the_kernel() {
        let (writer, far) = pair();
        // The other side takes little by itself, so that what is sent piles up here.
        nix::sys::socket::setsockopt(&far, nix::sys::socket::sockopt::RcvBuf, &4096).unwrap();
        let writer = Arc::new(Mutex::new(writer));
        let door = SideDoor::new(Arc::clone(&writer));
        let mut sent = 0;
        while door.send(&[0; 4096]) == Sent::Yes {
            sent += 4096;
        }
        // One write may go beyond it. Without the limit it would be megabytes.
        assert!(sent <= 3 * UNSENT_MAX as usize, "{sent}");
    }
}
