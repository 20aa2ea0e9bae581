//! One connection of the client. It never connects again silently: every break is counted, and the
//! writes that had no answer by then are set aside as unknown (they may have happened or not).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::LedgerError;
use super::book::{Acked, Book, Gap, Gaps, WallClock};
use super::client::ClientOptions;
use super::plan::{Kind, Write};
use super::resp::{self, Value};

/// How long a read waits before it looks whether the run is over.
const READ_TICK: Duration = Duration::from_millis(20);
/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Most events of a kind that are kept in words.
const WORDS_MAX: usize = 10;

/// What all connections of a run share.
pub struct Shared<'a> {
    /// What is to be done.
    pub options: &'a ClientOptions,
    /// The server.
    pub address: SocketAddr,
    /// The ledger.
    pub book: Mutex<Book>,
    /// The run's clock.
    pub clock: WallClock,
    /// Set when no further writes are to be sent.
    pub stop: AtomicBool,
    /// Acknowledged writes so far.
    pub acked: AtomicU64,
    /// Broken connections so far.
    pub broken: AtomicU64,
    /// Refused writes so far.
    pub refused: AtomicU64,
}

/// What a connection has seen, beside the acknowledged writes in the book.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Which connection.
    pub connection: u32,
    /// Writes handed to a socket: indices below this.
    pub sent: u64,
    /// Indices of writes whose effect is unknown: a connection broke under them, or the server
    /// answered with an error.
    pub unknown: Vec<u64>,
    /// How often the connection broke.
    pub broken: u64,
    /// Answers that no faultless server gives, in words.
    pub wrong_answers: Vec<String>,
    /// Error answers.
    pub refused: u64,
    /// The first few of them, in words.
    pub refusals: Vec<String>,
    /// The longest times without an answer that was waited for.
    pub gaps: Gaps,
    /// Why connections broke, in words.
    pub breaks: Vec<String>,
}

/// Opens a connection that outlives a long silence: no delay, 60 s of unacknowledged data allowed.
///
/// # Errors
/// When the connection can't be opened within a second, or its options can't be set.
pub fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TICK))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    setsockopt(&stream, sockopt::TcpUserTimeout, &60_000)?;
    Ok(stream)
}

/// Sends connection number `connection`'s writes until the run is over.
///
/// # Errors
/// When the ledger can't be kept; nothing the server does is an error here.
pub fn run(shared: &Shared<'_>, connection: u32) -> Result<Outcome, LedgerError> {
    let mut state = State {
        shared,
        outcome: Outcome {
            connection,
            ..Outcome::default()
        },
        in_flight: VecDeque::new(),
        last_answer_unix_ns: None,
        interrupted: false,
        count: 0..=0,
        length: 0..=0,
    };
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(stream) = connect(shared.address) else {
            std::thread::sleep(CONNECT_PAUSE);
            continue;
        };
        match state.converse(stream)? {
            Ok(()) => break,
            Err(reason) => state.broke(reason),
        }
    }
    let waited = !state.in_flight.is_empty() || state.interrupted;
    if let (true, Some(from_unix_ns)) = (waited, state.last_answer_unix_ns) {
        let end = Gap {
            from_unix_ns,
            to_unix_ns: shared.clock.now_unix_ns(),
        };
        state.outcome.gaps.add(end);
    }
    state.set_aside();
    Ok(state.outcome)
}

struct State<'a> {
    shared: &'a Shared<'a>,
    outcome: Outcome,
    in_flight: VecDeque<(Write, u64)>,
    last_answer_unix_ns: Option<u64>,
    /// The connection broke and no answer has come since.
    interrupted: bool,
    /// Values the counter can have, from what is known of its writes.
    count: std::ops::RangeInclusive<i64>,
    /// Lengths the list can have.
    length: std::ops::RangeInclusive<i64>,
}

impl State<'_> {
    /// Sends and receives until the run is over (`Ok(Ok)`) or the connection broke (`Ok(Err)`).
    fn converse(&mut self, mut stream: TcpStream) -> Result<Result<(), String>, LedgerError> {
        let options = self.shared.options;
        let mut received = Vec::new();
        let mut heard = Instant::now();
        let mut next_send = Instant::now();
        loop {
            let stop = self.shared.stop.load(Ordering::Relaxed) || self.used_up();
            if stop && self.in_flight.is_empty() {
                return Ok(Ok(()));
            }
            if !stop && Instant::now() >= next_send {
                let free = (options.depth as usize).saturating_sub(self.in_flight.len());
                if free > 0 {
                    if self.in_flight.is_empty() {
                        heard = Instant::now();
                    }
                    if let Err(error) = self.send(&mut stream, free) {
                        return Ok(Err(format!("send: {error}")));
                    }
                    next_send = Instant::now() + options.pause;
                }
            }
            if self.in_flight.is_empty() {
                let left = next_send.saturating_duration_since(Instant::now());
                std::thread::sleep(left.min(READ_TICK));
                continue;
            }
            let mut chunk = [0; 16 << 10];
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(Err("closed by the server".into())),
                Ok(count) => {
                    heard = Instant::now();
                    received.extend_from_slice(&chunk[..count]);
                }
                Err(error) if is_tick(&error) => {
                    if heard.elapsed() > options.answer_timeout {
                        let seconds = options.answer_timeout.as_secs_f64();
                        return Ok(Err(format!("no answer for {seconds} s")));
                    }
                    continue;
                }
                Err(error) => return Ok(Err(format!("receive: {error}"))),
            }
            if let Err(reason) = self.take(&mut received)? {
                return Ok(Err(reason));
            }
        }
    }

    fn used_up(&self) -> bool {
        self.outcome.sent >= self.shared.options.writes_max_per_connection()
    }

    fn send(&mut self, stream: &mut TcpStream, count: usize) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        let options = self.shared.options;
        for _ in 0..count {
            if self.used_up() {
                break;
            }
            let write = Write {
                connection: self.outcome.connection,
                index: self.outcome.sent,
            };
            write.request(options.seed, options.value_bytes, &mut bytes);
            self.outcome.sent += 1;
            self.in_flight
                .push_back((write, self.shared.clock.now_unix_ns()));
        }
        stream.write_all(&bytes)
    }

    /// Takes all whole answers out of `received` and enters them into the ledger.
    fn take(&mut self, received: &mut Vec<u8>) -> Result<Result<(), String>, LedgerError> {
        let now = self.shared.clock.now_unix_ns();
        let (mut used, mut acked, mut result) = (0, Vec::new(), Ok(()));
        loop {
            match resp::parse(&received[used..]) {
                Ok(None) => break,
                Ok(Some((value, length))) => {
                    used += length;
                    let Some((write, sent_unix_ns)) = self.in_flight.pop_front() else {
                        result = Err("an answer to no request".into());
                        break;
                    };
                    // Waiting began with the request or with the answer before it: idle time
                    // between two requests is no gap.
                    let from = self.last_answer_unix_ns.unwrap_or(now);
                    // After a break, though, the time to connect again is waiting too.
                    let interrupted = std::mem::take(&mut self.interrupted);
                    let from = if interrupted {
                        from
                    } else {
                        from.max(sent_unix_ns)
                    };
                    let gap = Gap {
                        from_unix_ns: from,
                        to_unix_ns: now,
                    };
                    self.outcome.gaps.add(gap);
                    self.last_answer_unix_ns = Some(now);
                    if self.judge(write, value) {
                        acked.push(Acked {
                            write,
                            sent_unix_ns,
                            acked_unix_ns: now,
                        });
                    }
                }
                Err(error) => {
                    result = Err(format!("no valid answer: {error}"));
                    break;
                }
            }
        }
        received.drain(..used);
        let count = acked.len() as u64;
        self.shared
            .book
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
            .enter(&acked)?;
        self.shared.acked.fetch_add(count, Ordering::Relaxed);
        Ok(result)
    }

    /// Whether `value` acknowledges `write`. An impossible answer is noted, and acknowledges too:
    /// the server did say that the write happened.
    fn judge(&mut self, write: Write, value: Value) -> bool {
        let possible = match write.kind() {
            Kind::Count => &mut self.count,
            Kind::Push => &mut self.length,
            Kind::Fresh | Kind::Hot => {
                return match value {
                    Value::Simple(text) if text == "OK" => true,
                    other => self.refuse(write, other),
                };
            }
        };
        let Value::Integer(number) = value else {
            return self.refuse(write, value);
        };
        let expected = possible.start() + 1..=possible.end() + 1;
        *possible = number..=number;
        if !expected.contains(&number) {
            let (low, high) = expected.into_inner();
            let key = write.key(self.shared.options.seed);
            self.outcome.wrong_answers.push(format!(
                "write {} to {key}: answer {number}, expected {low} to {high}",
                write.index
            ));
        }
        true
    }

    fn refuse(&mut self, write: Write, value: Value) -> bool {
        self.outcome.refused += 1;
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        if self.outcome.refusals.len() < WORDS_MAX {
            self.outcome
                .refusals
                .push(format!("write {}: {value:?}", write.index));
        }
        self.unknown(write);
        false
    }

    fn unknown(&mut self, write: Write) {
        self.outcome.unknown.push(write.index);
        let possible = match write.kind() {
            Kind::Count => &mut self.count,
            Kind::Push => &mut self.length,
            Kind::Fresh | Kind::Hot => return,
        };
        *possible = *possible.start()..=possible.end() + 1;
    }

    fn set_aside(&mut self) {
        while let Some((write, _)) = self.in_flight.pop_front() {
            self.unknown(write);
        }
    }

    fn broke(&mut self, reason: String) {
        self.outcome.broken += 1;
        self.shared.broken.fetch_add(1, Ordering::Relaxed);
        self.interrupted = true;
        if self.outcome.breaks.len() < WORDS_MAX {
            self.outcome.breaks.push(reason);
        }
        self.set_aside();
    }
}

/// Whether a read only ran into its timeout.
pub fn is_tick(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
