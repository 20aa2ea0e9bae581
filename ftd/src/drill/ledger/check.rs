//! The read-back: a new connection looks up everything that was acknowledged. What it finds can
//! only be told apart from what it should find by the plan, never by anything the server says.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::LedgerError;
use super::book::Acked;
use super::connection::{Outcome, connect, is_tick};
use super::plan::{self, Kind, Seed, Write};
use super::resp::{self, Value};

/// Requests that are sent before their answers are read.
const BATCH: usize = 256;
/// List elements that are read in one request.
const LIST_PAGE: usize = 10_000;
/// Most findings that are told in words; all of them are counted.
const WORDS_MAX: usize = 20;

/// What the read-back found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Acknowledged writes that are missing, or whose key holds an older value.
    pub lost: u64,
    /// Non-idempotent writes that took effect more than once.
    pub doubled: u64,
    /// Values that nobody wrote, and writes out of order.
    pub foreign: u64,
    /// The first few findings in words.
    pub words: Vec<String>,
}

impl Findings {
    fn note(&mut self, text: String) {
        if self.words.len() < WORDS_MAX {
            self.words.push(text);
        }
    }
}

/// Looks up everything.
///
/// # Errors
/// When the server can't be asked within `timeout` an answer.
pub fn check(
    address: SocketAddr,
    seed: Seed,
    value_bytes: usize,
    acked: &[Acked],
    outcomes: &[Outcome],
    timeout: Duration,
) -> Result<Findings, LedgerError> {
    let mut asker = Asker::open(address, timeout)?;
    let mut findings = Findings::default();
    let fresh: Vec<Write> = acked
        .iter()
        .map(|a| a.write)
        .filter(|write| write.kind() == Kind::Fresh)
        .collect();
    for batch in fresh.chunks(BATCH) {
        let answers = asker.get_all(batch, seed)?;
        for (write, answer) in batch.iter().zip(answers) {
            judge_fresh(*write, answer, seed, value_bytes, &mut findings);
        }
    }
    for outcome in outcomes {
        let connection = outcome.connection;
        let of_kind = |kind: Kind| {
            acked
                .iter()
                .map(|a| a.write)
                .filter(move |write| write.connection == connection && write.kind() == kind)
        };
        let unknown_of = |kind: Kind| {
            let writes = outcome.unknown.iter().map(|index| Write {
                connection,
                index: *index,
            });
            writes.filter(move |write| write.kind() == kind)
        };
        let acked_count = of_kind(Kind::Count).count() as u64;
        let unknown_count = unknown_of(Kind::Count).count() as u64;
        let key = Write {
            connection,
            index: 1,
        }
        .key(seed);
        let answer = asker.ask(&[b"GET", key.as_bytes()])?;
        judge_count(&key, answer, acked_count, unknown_count, &mut findings);

        let key = Write {
            connection,
            index: 2,
        }
        .key(seed);
        let list = asker.list(&key)?;
        let acked_pushes: Vec<u64> = of_kind(Kind::Push).map(|write| write.index).collect();
        let unknown_pushes: HashSet<u64> = unknown_of(Kind::Push).map(|w| w.index).collect();
        judge_list(&key, &list, &acked_pushes, &unknown_pushes, &mut findings);

        let mut last: HashMap<u64, Write> = HashMap::new();
        for write in of_kind(Kind::Hot) {
            let entry = last.entry(write.slot()).or_insert(write);
            entry.index = entry.index.max(write.index);
        }
        let last: Vec<Write> = last.into_values().collect();
        let answers = asker.get_all(&last, seed)?;
        for (write, answer) in last.iter().zip(answers) {
            judge_hot(
                *write,
                answer,
                outcome.sent,
                seed,
                value_bytes,
                &mut findings,
            );
        }
    }
    Ok(findings)
}

fn judge_fresh(write: Write, answer: Value, seed: Seed, bytes: usize, findings: &mut Findings) {
    match answer {
        Value::Bulk(Some(value)) if value == write.value(seed, bytes) => {}
        Value::Bulk(Some(_)) => {
            findings.lost += 1;
            findings.foreign += 1;
            findings.note(format!("{}: holds what nobody wrote", write.key(seed)));
        }
        other => {
            findings.lost += 1;
            findings.note(format!(
                "{}: acknowledged, then {}",
                write.key(seed),
                words(&other)
            ));
        }
    }
}

fn judge_hot(
    write: Write,
    answer: Value,
    sent: u64,
    seed: Seed,
    bytes: usize,
    findings: &mut Findings,
) {
    let key = write.key(seed);
    let Value::Bulk(Some(value)) = answer else {
        findings.lost += 1;
        findings.note(format!("{key}: acknowledged, then {}", words(&answer)));
        return;
    };
    let found = plan::index_of(&value).map(|index| Write { index, ..write });
    let genuine = found.filter(|found| {
        found.index < sent && found.key(seed) == key && found.value(seed, bytes) == value
    });
    match genuine {
        None => {
            findings.lost += 1;
            findings.foreign += 1;
            findings.note(format!("{key}: holds what nobody wrote"));
        }
        Some(found) if found.index < write.index => {
            // Every acknowledged write to this slot after the one found is gone.
            let stride = 4 * plan::HOT_SLOTS;
            findings.lost += (write.index - found.index) / stride;
            let (old, new) = (found.index, write.index);
            findings.note(format!("{key}: write {old} where {new} was acknowledged"));
        }
        Some(_) => {}
    }
}

fn judge_count(key: &str, answer: Value, acked: u64, unknown: u64, findings: &mut Findings) {
    let found = match &answer {
        Value::Bulk(None) => Some(0),
        Value::Bulk(Some(text)) => std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()),
        _ => None,
    };
    let Some(found) = found else {
        findings.lost += acked;
        findings.note(format!("{key}: {}", words(&answer)));
        return;
    };
    if found < acked {
        findings.lost += acked - found;
        findings.note(format!(
            "{key}: {found} where {acked} increments were acknowledged"
        ));
    } else if found > acked + unknown {
        findings.doubled += found - acked - unknown;
        let most = acked + unknown;
        findings.note(format!(
            "{key}: {found} where at most {most} increments were sent"
        ));
    }
}

fn judge_list(
    key: &str,
    list: &[Vec<u8>],
    acked: &[u64],
    unknown: &HashSet<u64>,
    findings: &mut Findings,
) {
    let acked: HashSet<u64> = acked.iter().copied().collect();
    let mut seen = HashSet::new();
    let mut before = None;
    for element in list {
        let index = std::str::from_utf8(element)
            .ok()
            .and_then(|text| text.parse::<u64>().ok());
        let Some(index) = index.filter(|i| acked.contains(i) || unknown.contains(i)) else {
            findings.foreign += 1;
            findings.note(format!("{key}: an element that nobody pushed"));
            continue;
        };
        if !seen.insert(index) {
            findings.doubled += 1;
            findings.note(format!("{key}: element {index} twice"));
        } else if before.is_some_and(|before| before > index) {
            findings.foreign += 1;
            findings.note(format!("{key}: element {index} out of order"));
        }
        before = Some(index);
    }
    for index in acked.difference(&seen) {
        findings.lost += 1;
        findings.note(format!(
            "{key}: element {index} was acknowledged and is missing"
        ));
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::Bulk(None) => "gone".into(),
        Value::Error(text) => format!("error \"{text}\""),
        other => format!("unexpected {other:?}").chars().take(80).collect(),
    }
}

/// A connection for questions, one batch at a time.
pub struct Asker {
    stream: TcpStream,
    address: SocketAddr,
    timeout: Duration,
    received: Vec<u8>,
}

impl Asker {
    /// Connects.
    ///
    /// # Errors
    /// When the server can't be reached within `timeout`.
    pub fn open(address: SocketAddr, timeout: Duration) -> Result<Self, LedgerError> {
        let start = Instant::now();
        loop {
            match connect(address) {
                Ok(stream) => {
                    return Ok(Asker {
                        stream,
                        address,
                        timeout,
                        received: Vec::new(),
                    });
                }
                Err(_) if start.elapsed() < timeout => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(source) => {
                    return Err(LedgerError::Connection {
                        address: address.to_string(),
                        source,
                    });
                }
            }
        }
    }

    /// Asks one question.
    ///
    /// # Errors
    /// When the connection breaks or stays silent.
    pub fn ask(&mut self, parts: &[&[u8]]) -> Result<Value, LedgerError> {
        let mut bytes = Vec::new();
        resp::request(&mut bytes, parts);
        self.send(&bytes)?;
        self.answer()
    }

    fn get_all(&mut self, writes: &[Write], seed: Seed) -> Result<Vec<Value>, LedgerError> {
        let mut bytes = Vec::new();
        for write in writes {
            resp::request(&mut bytes, &[b"GET", write.key(seed).as_bytes()]);
        }
        self.send(&bytes)?;
        writes.iter().map(|_| self.answer()).collect()
    }

    fn list(&mut self, key: &str) -> Result<Vec<Vec<u8>>, LedgerError> {
        let mut all = Vec::new();
        loop {
            let (from, to) = (
                all.len().to_string(),
                (all.len() + LIST_PAGE - 1).to_string(),
            );
            let page = [b"LRANGE", key.as_bytes(), from.as_bytes(), to.as_bytes()];
            let Value::Array(values) = self.ask(&page)? else {
                return Ok(all);
            };
            let full = values.len() == LIST_PAGE;
            all.extend(values.into_iter().map(|value| match value {
                Value::Bulk(Some(bytes)) => bytes,
                _ => Vec::new(),
            }));
            if !full {
                return Ok(all);
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), LedgerError> {
        self.stream
            .write_all(bytes)
            .map_err(|source| self.failed(source))
    }

    fn answer(&mut self) -> Result<Value, LedgerError> {
        let start = Instant::now();
        loop {
            match resp::parse(&self.received) {
                Ok(Some((value, length))) => {
                    self.received.drain(..length);
                    return Ok(value);
                }
                Ok(None) => {}
                Err(source) => {
                    let address = self.address.to_string();
                    return Err(LedgerError::Protocol { address, source });
                }
            }
            let mut chunk = [0; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(self.failed(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if is_tick(&error) && start.elapsed() < self.timeout => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
    }

    fn failed(&self, source: std::io::Error) -> LedgerError {
        LedgerError::Connection {
            address: self.address.to_string(),
            source,
        }
    }
}
