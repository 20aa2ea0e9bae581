//! The client as a whole: wait until the server answers, write, read back, report.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::LedgerError;
use super::book::{BUCKET_MS, Book, Gap, WallClock};
use super::check::{self, Asker};
use super::connection::{self, Outcome, Shared};
use super::plan::Seed;
use super::resp::Value;

/// How the client is to work.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The Redis server.
    pub connect: SocketAddr,
    /// Longest time to go on writing.
    pub duration_max: Duration,
    /// Most writes, over all connections.
    pub writes_max: u64,
    /// Connections, side by side.
    pub connections: u32,
    /// Requests a connection may have under way.
    pub depth: u32,
    /// Least length of a `SET`'s value, in bytes.
    pub value_bytes: usize,
    /// Pause after each request (or batch of `depth`).
    pub pause: Duration,
    /// What values are derived from.
    pub seed: Seed,
    /// File of acknowledged writes; it must not exist.
    pub ledger: Option<PathBuf>,
    /// Writing ends when this file appears.
    pub stop_file: Option<PathBuf>,
    /// Writing begins when this file appears; at once if there is none to wait for.
    pub start_file: Option<PathBuf>,
    /// Commands that are given before the writing, their words with blanks between them.
    pub redis: Vec<String>,
    /// How long to wait for the server's first answer to PING.
    pub ready_timeout: Duration,
    /// A connection that gives no answer for so long counts as broken.
    pub answer_timeout: Duration,
    /// Whether to tell how far it is on standard error, a JSON object a line.
    pub progress: bool,
}

impl ClientOptions {
    /// Options for a server, everything else as a drill has it.
    pub fn new(connect: SocketAddr) -> Self {
        let clock = WallClock::start();
        ClientOptions {
            connect,
            duration_max: Duration::from_secs(60),
            writes_max: 1_000_000,
            connections: 1,
            depth: 1,
            value_bytes: 64,
            pause: Duration::ZERO,
            seed: Seed(clock.start_unix_ns() ^ (u64::from(std::process::id()) << 40)),
            ledger: None,
            stop_file: None,
            start_file: None,
            redis: Vec::new(),
            ready_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(30),
            progress: false,
        }
    }

    /// The share of one connection in `writes_max`.
    pub fn writes_max_per_connection(&self) -> u64 {
        self.writes_max / u64::from(self.connections.max(1))
    }
}

/// What the client saw. Times of day are nanoseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientReport {
    /// Nothing lost, doubled, foreign, wrong or broken, and at least one write acknowledged.
    pub ok: bool,
    /// When the client began to wait for the server.
    pub started_unix_ns: u64,
    /// When the server first answered.
    pub ready_unix_ns: u64,
    /// When the first acknowledgement came.
    #[serde(default)]
    pub first_answer_unix_ns: u64,
    /// When the last acknowledgement came.
    pub last_answer_unix_ns: u64,
    /// Writes that were acknowledged (and noted).
    pub acked_writes: u64,
    /// Acknowledged writes that the read-back did not find, or found older.
    pub acked_lost: u64,
    /// Non-idempotent writes that took effect twice.
    pub doubled: u64,
    /// Values nobody wrote, and writes out of order.
    pub foreign: u64,
    /// Answers no faultless server gives.
    pub wrong_answers: u64,
    /// Writes that were answered with an error.
    pub refused: u64,
    /// Writes whose fate is unknown: their connection broke.
    pub unknown: u64,
    /// Connections that broke.
    pub tcp_connections_broken: u64,
    /// The longest time without an answer that was waited for, in milliseconds.
    pub client_gap_ms: f64,
    /// When it began.
    pub gap_from_unix_ns: u64,
    /// When it ended.
    pub gap_to_unix_ns: u64,
    /// The longest gaps of each connection, in order of time.
    pub gaps: Vec<Gap>,
    /// Median time from request to answer, in milliseconds.
    pub latency_ms_median: f64,
    /// 99th percentile of it, in milliseconds.
    pub latency_ms_p99: f64,
    /// Connections used.
    pub connections: u32,
    /// Whether the read-back could be done; if not, every acknowledged write counts as lost.
    pub checked: bool,
    /// Findings in words, the first few.
    pub findings: Vec<String>,
    /// Acknowledged writes in each bucket of `series_ms` since `started_unix_ns`.
    pub series: Vec<u32>,
    /// Width of the series' buckets, in milliseconds.
    pub series_ms: u64,
}

/// A line of progress, as it stands on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Now, in nanoseconds since 1970.
    pub t_unix_ns: u64,
    /// `waiting`, `ready`, `writing`, `checking`.
    pub phase: String,
    /// Acknowledged writes so far.
    pub acked: u64,
    /// Broken connections so far.
    pub broken: u64,
    /// Refused writes so far.
    pub refused: u64,
}

/// Writes, reads back, reports.
///
/// # Errors
/// When the options make no sense, the server never answers, or the ledger can't be kept. Losses
/// are no errors: they stand in the report.
pub fn run_client(options: ClientOptions) -> Result<ClientReport, LedgerError> {
    if options.connections == 0 || options.depth == 0 {
        return Err(LedgerError::Options(
            "connections and depth must be at least 1".into(),
        ));
    }
    let clock = WallClock::start();
    let shared = Shared {
        options: &options,
        address: options.connect,
        book: Mutex::new(Book::create(options.ledger.as_deref(), clock)?),
        clock,
        stop: AtomicBool::new(false),
        acked: AtomicU64::new(0),
        broken: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    };
    tell(&shared, "waiting");
    wait_ready(&options, options.ready_timeout)?;
    let ready_unix_ns = clock.now_unix_ns();
    tell(&shared, "ready");
    command(&options)?;
    wait_to_begin(&options);
    let outcomes = write(&shared)?;
    tell(&shared, "checking");
    let book = shared
        .book
        .into_inner()
        .unwrap_or_else(|broken| broken.into_inner());
    let mut report = summary(&options, &book, &outcomes);
    report.started_unix_ns = clock.start_unix_ns();
    report.ready_unix_ns = ready_unix_ns;
    // A server that was started again may still be loading its data.
    let found = wait_ready(&options, options.answer_timeout).and_then(|()| {
        check::check(
            options.connect,
            options.seed,
            options.value_bytes,
            book.acked(),
            &outcomes,
            options.answer_timeout,
        )
    });
    match found {
        Ok(found) => {
            report.checked = true;
            report.acked_lost = found.lost;
            report.doubled = found.doubled;
            report.foreign = found.foreign;
            report.findings.extend(found.words);
        }
        Err(error) => {
            report.acked_lost = report.acked_writes;
            report
                .findings
                .push(format!("read-back impossible: {}", chain(&error)));
        }
    }
    let defects = report.acked_lost + report.doubled + report.foreign + report.wrong_answers;
    let trouble = report.refused + report.tcp_connections_broken;
    report.ok = report.checked && report.acked_writes > 0 && defects == 0 && trouble == 0;
    Ok(report)
}

/// An error with all its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Until the server answers a PING, and not by saying that it loads its data. (One that refuses writes because its
/// disk fails refuses a PING, too; what it has can be read.)
fn wait_ready(options: &ClientOptions, timeout: Duration) -> Result<(), LedgerError> {
    let start = Instant::now();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        // A guest that is still booting may take a connection and not answer: ask it anew.
        let patience = left.min(Duration::from_secs(2));
        let answer = Asker::open(options.connect, patience).and_then(|mut a| a.ask(&[b"PING"]));
        match answer {
            Ok(Value::Error(text)) if text.starts_with("LOADING") => {}
            Ok(_) => return Ok(()),
            Err(_) => {}
        }
        if start.elapsed() >= timeout {
            let (address, seconds) = (options.connect.to_string(), timeout.as_secs());
            return Err(LedgerError::NotReady { address, seconds });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Gives the commands.
fn command(options: &ClientOptions) -> Result<(), LedgerError> {
    for command in &options.redis {
        let words: Vec<&[u8]> = command.split_whitespace().map(str::as_bytes).collect();
        let answer = Asker::open(options.connect, options.answer_timeout)?.ask(&words)?;
        if !matches!(&answer, Value::Simple(text) if text == "OK") {
            return Err(LedgerError::Command {
                command: command.clone(),
                answer: format!("{answer:?}"),
            });
        }
    }
    Ok(())
}

/// Until the file that begins the writing is there, or the one that ends it.
fn wait_to_begin(options: &ClientOptions) {
    let there = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.exists());
    while options.start_file.is_some() && !there(&options.start_file) && !there(&options.stop_file)
    {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs all connections until time is up, the stop file appears, or all writes are done.
fn write(shared: &Shared<'_>) -> Result<Vec<Outcome>, LedgerError> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..shared.options.connections)
            .map(|connection| scope.spawn(move || connection::run(shared, connection)))
            .collect();
        let mut told = Instant::now();
        while !threads.iter().all(|thread| thread.is_finished()) {
            let stop_file = shared.options.stop_file.as_ref();
            let done = shared.acked.load(Ordering::Relaxed) >= shared.options.writes_max;
            if done
                || start.elapsed() >= shared.options.duration_max
                || stop_file.is_some_and(|path| path.exists())
            {
                shared.stop.store(true, Ordering::Relaxed);
            }
            if told.elapsed() >= Duration::from_millis(100) {
                told = Instant::now();
                tell(shared, "writing");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|p| std::panic::resume_unwind(p))
            })
            .collect()
    })
}

fn summary(options: &ClientOptions, book: &Book, outcomes: &[Outcome]) -> ClientReport {
    let gaps = outcomes.iter().flat_map(|outcome| outcome.gaps.all());
    let mut gaps: Vec<Gap> = gaps.copied().collect();
    gaps.sort_by_key(|gap| gap.from_unix_ns);
    let longest = gaps.iter().max_by_key(|gap| gap.length_ns());
    let gap = longest.copied().unwrap_or_default();
    let latencies = book.latencies_ns();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index).map_or(0.0, |ns| *ns as f64 / 1e6)
    };
    let mut findings = Vec::new();
    for outcome in outcomes {
        let connection = outcome.connection;
        let said = [("broke", &outcome.breaks), ("refused", &outcome.refusals)];
        for (what, words) in said {
            findings.extend(
                words
                    .iter()
                    .map(|w| format!("connection {connection} {what}: {w}")),
            );
        }
        findings.extend(outcome.wrong_answers.iter().take(10).cloned());
    }
    let unknown: u64 = outcomes.iter().map(|o| o.unknown.len() as u64).sum();
    ClientReport {
        acked_writes: book.acked().len() as u64,
        first_answer_unix_ns: book
            .acked()
            .iter()
            .map(|a| a.acked_unix_ns)
            .min()
            .unwrap_or(0),
        last_answer_unix_ns: book
            .acked()
            .iter()
            .map(|a| a.acked_unix_ns)
            .max()
            .unwrap_or(0),
        wrong_answers: outcomes.iter().map(|o| o.wrong_answers.len() as u64).sum(),
        refused: outcomes.iter().map(|o| o.refused).sum(),
        unknown,
        tcp_connections_broken: outcomes.iter().map(|o| o.broken).sum(),
        client_gap_ms: gap.length_ms(),
        gap_from_unix_ns: gap.from_unix_ns,
        gap_to_unix_ns: gap.to_unix_ns,
        gaps,
        latency_ms_median: at(0.5),
        latency_ms_p99: at(0.99),
        connections: options.connections,
        findings,
        series: book.series().to_vec(),
        series_ms: BUCKET_MS,
        ..ClientReport::default()
    }
}

fn tell(shared: &Shared<'_>, phase: &str) {
    if !shared.options.progress {
        return;
    }
    let progress = Progress {
        t_unix_ns: shared.clock.now_unix_ns(),
        phase: phase.into(),
        acked: shared.acked.load(Ordering::Relaxed),
        broken: shared.broken.load(Ordering::Relaxed),
        refused: shared.refused.load(Ordering::Relaxed),
    };
    if let Ok(line) = serde_json::to_string(&progress) {
        eprintln!("{line}");
    }
}
