//! The ledger itself. A write counts as acknowledged only once it stands in the file and the file
//! is synced: a ledger that forgets would hide the very loss it is for.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::LedgerError;
use super::plan::Write;

/// Width of the buckets in [`Book::series`], in milliseconds.
pub const BUCKET_MS: u64 = 50;

/// Wall-clock time that can't jump: read once, then counted on by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    start: Instant,
    start_unix_ns: u64,
}

impl WallClock {
    /// A clock that starts now.
    pub fn start() -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let start_unix_ns = u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX);
        WallClock {
            start: Instant::now(),
            start_unix_ns,
        }
    }

    /// The start, in nanoseconds since 1970.
    pub fn start_unix_ns(&self) -> u64 {
        self.start_unix_ns
    }

    /// Now, in nanoseconds since 1970.
    pub fn now_unix_ns(&self) -> u64 {
        let elapsed = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.start_unix_ns.saturating_add(elapsed)
    }
}

/// An acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// Which.
    pub write: Write,
    /// When its request was handed to the socket, in nanoseconds since 1970.
    pub sent_unix_ns: u64,
    /// When its answer had been read, in nanoseconds since 1970.
    pub acked_unix_ns: u64,
}

/// All acknowledged writes, in memory and in the file.
pub struct Book {
    file: Option<(File, String)>,
    clock: WallClock,
    acked: Vec<Acked>,
    series: Vec<u32>,
}

impl Book {
    /// An empty ledger, kept in the file at `path` too if there is one.
    ///
    /// # Errors
    /// When the file can't be created (it must not exist).
    pub fn create(path: Option<&Path>, clock: WallClock) -> Result<Self, LedgerError> {
        let file = path.map(|path| {
            let name = path.display().to_string();
            match File::create_new(path) {
                Ok(file) => Ok((file, name)),
                Err(source) => Err(LedgerError::Book { path: name, source }),
            }
        });
        Ok(Book {
            file: file.transpose()?,
            clock,
            acked: Vec::new(),
            series: Vec::new(),
        })
    }

    /// Enters writes; they are acknowledged once this returns. A line of the file is connection,
    /// index, kind, time of sending and of the answer (nanoseconds since 1970).
    ///
    /// # Errors
    /// When the file can't be written or synced.
    pub fn enter(&mut self, acked: &[Acked]) -> Result<(), LedgerError> {
        if let Some((file, name)) = &mut self.file {
            let mut text = String::new();
            for entry in acked {
                let Write { connection, index } = entry.write;
                let kind = entry.write.kind().letter();
                let (sent, acked) = (entry.sent_unix_ns, entry.acked_unix_ns);
                text.push_str(&format!("{connection} {index} {kind} {sent} {acked}\n"));
            }
            let done = file
                .write_all(text.as_bytes())
                .and_then(|()| file.sync_data());
            done.map_err(|source| LedgerError::Book {
                path: name.clone(),
                source,
            })?;
        }
        for entry in acked {
            let since_start = entry
                .acked_unix_ns
                .saturating_sub(self.clock.start_unix_ns());
            let bucket = (since_start / (BUCKET_MS * 1_000_000)) as usize;
            if bucket >= self.series.len() {
                self.series.resize(bucket + 1, 0);
            }
            self.series[bucket] += 1;
        }
        self.acked.extend_from_slice(acked);
        Ok(())
    }

    /// The acknowledged writes, in the order they were entered.
    pub fn acked(&self) -> &[Acked] {
        &self.acked
    }

    /// Acknowledged writes in each [`BUCKET_MS`] since the clock's start.
    pub fn series(&self) -> &[u32] {
        &self.series
    }

    /// Times from sending to answer, sorted, in nanoseconds.
    pub fn latencies_ns(&self) -> Vec<u64> {
        let mut latencies: Vec<u64> = self
            .acked
            .iter()
            .map(|a| a.acked_unix_ns.saturating_sub(a.sent_unix_ns))
            .collect();
        latencies.sort_unstable();
        latencies
    }
}

/// A time in which a client that waited for answers got none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When it began: the answer before it, in nanoseconds since 1970.
    pub from_unix_ns: u64,
    /// When it ended: the answer after it, or the end of the run.
    pub to_unix_ns: u64,
}

impl Gap {
    /// Its length in nanoseconds.
    pub fn length_ns(&self) -> u64 {
        self.to_unix_ns.saturating_sub(self.from_unix_ns)
    }

    /// Its length in milliseconds.
    pub fn length_ms(&self) -> f64 {
        self.length_ns() as f64 / 1e6
    }
}

/// Most gaps that are kept of a connection.
const GAPS_MAX: usize = 64;

/// The longest gaps of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    /// Adds a gap; when there are too many the shortest is forgotten.
    pub fn add(&mut self, gap: Gap) {
        if self.0.len() < GAPS_MAX {
            self.0.push(gap);
        } else if let Some(shortest) = self.0.iter_mut().min_by_key(|gap| gap.length_ns())
            && shortest.length_ns() < gap.length_ns()
        {
            *shortest = gap;
        }
    }

    /// The gaps, in no order.
    pub fn all(&self) -> &[Gap] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gaps_are_kept() {
        let gap = |length: u64| Gap {
            from_unix_ns: 1000,
            to_unix_ns: 1000 + length,
        };
        let mut gaps = Gaps::default();
        for length in (0..500).chain([700, 3]) {
            gaps.add(gap(length));
        }
        assert_eq!(gaps.all().len(), GAPS_MAX);
        assert!(gaps.all().iter().all(|gap| gap.length_ns() > 430));
        assert!(gaps.all().contains(&gap(700)));
    }
}
