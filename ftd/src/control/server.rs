//! The socket of a running ftd.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde::Serialize;
use serde_json::{Value, json};
use vmm::guest::Flip;

use super::lines::{LINE_BYTES_MAX, Lines, TooLong};
use super::{HandedOver, Report, Request};
use crate::host::local_socket::Listening;
use crate::sandbox::seccomp::break_the_rules;

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
    /// Begins to hand the guest to the backup; what came of it is told later, by [`Control::tell`].
    ///
    /// # Errors
    /// Why that can't be done, for people.
    fn failover(&mut self) -> Result<(), String>;
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

    /// Whether a client waits for the end of a hand-over.
    #[cfg(test)]
    fn is_waited_for(&self) -> bool {
        self.clients.iter().any(|client| client.waits)
    }

    /// Tells all who wait for it how the hand-over ended.
    pub fn tell(&mut self, end: &Result<HandedOver, String>) {
        let line = match end {
            Ok(done) => fine(done),
            Err(why) => error(why),
        };
        self.clients.retain_mut(|client| {
            client.heard = Instant::now();
            !std::mem::take(&mut client.waits) || say(&mut client.stream, &line)
        });
    }

    /// Takes who waits at the door. Whether there may be more of them.
    fn let_in(&mut self) -> bool {
        for _ in 0..CLIENTS_MAX {
            let Some(mut stream) = self.listening.accept() else {
                return false;
            };
            if self.clients.len() >= CLIENTS_MAX {
                self.clients
                    .retain(|client| client.waits || client.heard.elapsed() < IDLE);
            }
            if self.clients.len() >= CLIENTS_MAX {
                let _ = say(&mut stream, &error("too many ask already, try again later"));
            } else if self.epoll.add(&stream, readable()).is_ok() {
                self.clients.push(Client {
                    stream,
                    lines: Lines::default(),
                    ended: false,
                    waits: false,
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
    /// For the end of a hand-over; until then nothing more is taken from it.
    waits: bool,
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
    fn step(&mut self, answer: impl FnOnce(&[u8]) -> Option<Value>) -> Step {
        if self.waits {
            return Step::Idle;
        }
        match self.lines.next_line() {
            Some(Ok(line)) => match answer(&line) {
                Some(answer) if say(&mut self.stream, &answer) => Step::More,
                Some(_) => Step::Over,
                None => {
                    self.waits = true;
                    Step::Idle
                }
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

/// The answer to a request; none if it comes later.
fn answer(
    line: &[u8],
    daemon: &mut impl Answers,
    debug_hooks: bool,
    started: Instant,
) -> Option<Value> {
    Some(match Request::parse(line) {
        Ok(Request::Status) => {
            let mut report = daemon.status();
            report.uptime_s = started.elapsed().as_secs_f64();
            fine(&report)
        }
        Ok(Request::Failover) => match daemon.failover() {
            Ok(()) => return None,
            Err(why) => error(&why),
        },
        Ok(Request::Flip(_) | Request::BreakOut) if !debug_hooks => {
            error("test hooks are served only by an ftd that was started with --debug-hooks")
        }
        Ok(Request::BreakOut) => {
            break_the_rules();
            json!({"ok": true})
        }
        Ok(Request::Flip(flip)) => match daemon.flip(flip) {
            Ok(()) => json!({"ok": true}),
            Err(why) => error(&why),
        },
        Err(cause) => error(&cause.to_string()),
    })
}

/// An answer with these fields.
fn fine(fields: &impl Serialize) -> Value {
    match serde_json::to_value(fields) {
        Ok(mut value) => {
            value["ok"] = true.into();
            value
        }
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
