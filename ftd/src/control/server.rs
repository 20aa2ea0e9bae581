//! The socket of a running ftd.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde_json::{Value, json};
use vmm::guest::Flip;

use super::lines::{LINE_BYTES_MAX, Lines, TooLong};
use super::{Report, Request};
use crate::host::local_socket::Listening;

/// Most clients at a time.
const CLIENTS_MAX: usize = 8;
/// A client that has asked nothing for so long makes way for another.
const IDLE: Duration = Duration::from_secs(10);
/// Most bytes read from a client at once.
const READ_BYTES: usize = 4096;

/// What a control socket is told.
#[derive(Debug, Clone, Copy)]
pub struct ControlOptions<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Whether test hooks are served.
    pub debug_hooks: bool,
}

/// Who answers.
pub trait Answers {
    /// What is known; `uptime_s` is filled in by the socket.
    fn status(&mut self) -> Report;
    /// Has a bit of this copy of the guest changed between two epochs.
    ///
    /// # Errors
    /// Why that can't be done here and now, for people.
    fn flip(&mut self, flip: Flip) -> Result<(), String>;
}

/// The socket and its clients. It shows one descriptor to the event loop, an epoll(7) instance: when that
/// is readable, call [`Control::turn`]. The socket's file goes when this is dropped.
#[derive(Debug)]
pub struct Control {
    listening: Listening,
    epoll: Epoll,
    clients: Vec<Client>,
    debug_hooks: bool,
    started: Instant,
}

impl Control {
    /// Listens. A socket that a dead process left behind is replaced.
    ///
    /// # Errors
    /// Another process listens there, something else is there, or the kernel refuses.
    pub fn open(options: &ControlOptions<'_>) -> Result<Control> {
        let listening = Listening::open(options.path).context("cannot make the control socket")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll")?;
        epoll
            .add(&listening, readable())
            .context("cannot poll the control socket")?;
        Ok(Control {
            listening,
            epoll,
            clients: Vec::new(),
            debug_hooks: options.debug_hooks,
            started: Instant::now(),
        })
    }

    /// Does what can be done without waiting: lets clients in and answers one request of each. Whether
    /// more may wait: then take another turn soon, without waiting for the descriptor.
    pub fn turn(&mut self, daemon: &mut impl Answers) -> bool {
        let mut more = self.let_in();
        let (debug_hooks, started) = (self.debug_hooks, self.started);
        self.clients.retain_mut(|client| {
            let step = client.step(|line| answer(line, daemon, debug_hooks, started));
            more |= step == Step::More;
            step != Step::Over
        });
        more
    }

    /// Takes who waits at the door. Whether there may be more of them.
    fn let_in(&mut self) -> bool {
        for _ in 0..CLIENTS_MAX {
            let Some(mut stream) = self.listening.accept() else {
                return false;
            };
            if self.clients.len() >= CLIENTS_MAX {
                self.clients.retain(|client| client.heard.elapsed() < IDLE);
            }
            if self.clients.len() >= CLIENTS_MAX {
                let _ = say(&mut stream, &error("too many ask already, try again later"));
            } else if self.epoll.add(&stream, readable()).is_ok() {
                self.clients.push(Client {
                    stream,
                    lines: Lines::default(),
                    ended: false,
                    heard: Instant::now(),
                });
            }
        }
        true
    }
}

impl AsRawFd for Control {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    lines: Lines,
    /// It sends nothing more.
    ended: bool,
    /// When it last said something.
    heard: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing to do for now.
    Idle,
    /// There may be more to do.
    More,
    /// The client is done with.
    Over,
}

impl Client {
    /// Answers a line, or else reads.
    fn step(&mut self, answer: impl FnOnce(&[u8]) -> Value) -> Step {
        match self.lines.next() {
            Some(Ok(line)) => match say(&mut self.stream, &answer(&line)) {
                true => Step::More,
                false => Step::Over,
            },
            Some(Err(TooLong)) => {
                let text = format!("a request has at most {LINE_BYTES_MAX} bytes");
                say(&mut self.stream, &error(&text));
                Step::Over
            }
            None if self.ended => Step::Over,
            None => self.read(),
        }
    }

    fn read(&mut self) -> Step {
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => {
                self.lines.finish();
                self.ended = true;
                Step::More
            }
            Ok(count) => {
                self.lines.push(&bytes[..count]);
                self.heard = Instant::now();
                Step::More
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Step::More,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Step::Idle,
            Err(_) => Step::Over,
        }
    }
}

/// Sends a line. `false` if not all of it could go at once: the client does not read its answers, and many
/// wait already.
fn say(stream: &mut UnixStream, answer: &Value) -> bool {
    let line = format!("{answer}\n");
    matches!(stream.write(line.as_bytes()), Ok(count) if count == line.len())
}

fn answer(line: &[u8], daemon: &mut impl Answers, debug_hooks: bool, started: Instant) -> Value {
    match Request::parse(line) {
        Ok(Request::Status) => {
            let mut report = daemon.status();
            report.uptime_s = started.elapsed().as_secs_f64();
            match serde_json::to_value(report) {
                Ok(mut value) => {
                    value["ok"] = true.into();
                    value
                }
                Err(cause) => error(&cause.to_string()),
            }
        }
        Ok(Request::Flip(_)) if !debug_hooks => {
            error("test hooks are served only by an ftd that was started with --debug-hooks")
        }
        Ok(Request::Flip(flip)) => match daemon.flip(flip) {
            Ok(()) => json!({"ok": true}),
            Err(why) => error(&why),
        },
        Err(cause) => error(&cause.to_string()),
    }
}

fn error(text: &str) -> Value {
    json!({"ok": false, "error": text})
}

fn readable() -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, 0)
}

#[cfg(test)]
mod tests;
