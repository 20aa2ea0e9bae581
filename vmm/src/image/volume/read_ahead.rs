//! Reads from a disk with read-ahead. The filesystem crates ask for a few bytes or one block at a
//! time, and each question to a disk that bypasses the host's page cache costs a round trip.

use std::io;

use super::super::read_at::Disk;

/// Streams that are followed at once: a file's data, and the table that says where it goes on.
const STREAMS: usize = 2;
/// Bytes that are read at least, and at most when reading goes on where it was.
const WINDOW_MIN: usize = 16 << 10;
const WINDOW_MAX: usize = 1 << 20;

/// What one volume may cost. Structures that run in a circle would otherwise be read for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Bytes asked for.
    pub(super) bytes: u64,
    /// Questions.
    pub(super) reads: u64,
}

/// A disk, read through a small cache.
pub(super) struct ReadAhead {
    disk: Disk,
    budget: Budget,
    streams: [Stream; STREAMS],
    /// The stream that was used last.
    recent: usize,
}

#[derive(Default)]
struct Stream {
    start: u64,
    bytes: Vec<u8>,
    window: usize,
}

impl Stream {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The cached bytes from `offset` on.
    fn from(&self, offset: u64) -> &[u8] {
        let cached = offset
            .checked_sub(self.start)
            .and_then(|into| self.bytes.get(into as usize..));
        cached.unwrap_or(&[])
    }
}

impl ReadAhead {
    pub(super) fn new(disk: Disk, budget: Budget) -> Self {
        Self {
            disk,
            budget,
            streams: Default::default(),
            recent: 0,
        }
    }

    /// Size of the disk in bytes.
    pub(super) fn len(&self) -> u64 {
        self.disk.len()
    }

    /// Fills `buf` from `offset` on.
    pub(super) fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.spend(buf.len() as u64)?;
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            let rest = &mut buf[filled..];
            let stream = self.stream_with(at)?;
            let cached = stream.from(at);
            let count = cached.len().min(rest.len());
            rest[..count].copy_from_slice(&cached[..count]);
            filled += count;
        }
        Ok(())
    }

    fn spend(&mut self, bytes: u64) -> io::Result<()> {
        let left = self
            .budget
            .bytes
            .checked_sub(bytes)
            .zip(self.budget.reads.checked_sub(1));
        let (bytes, reads) = left.ok_or_else(|| io::Error::other("reading it takes no end"))?;
        self.budget = Budget { bytes, reads };
        Ok(())
    }

    /// The stream that holds the byte at `at`, read if none does.
    fn stream_with(&mut self, at: u64) -> io::Result<&Stream> {
        if let Some(hit) = self.position(|stream| !stream.from(at).is_empty()) {
            self.recent = hit;
            return Ok(&self.streams[hit]);
        }
        let left = self.disk.len().saturating_sub(at);
        if left == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let follows = self.position(|stream| stream.end() == at && !stream.bytes.is_empty());
        let index = follows.unwrap_or((self.recent + 1) % STREAMS);
        let stream = &mut self.streams[index];
        stream.window = match follows {
            Some(_) => (stream.window * 2).min(WINDOW_MAX),
            None => WINDOW_MIN,
        };
        let bytes = (stream.window as u64).min(left) as usize;
        stream.bytes.resize(bytes, 0);
        stream.start = at;
        if let Err(error) = self.disk.read_exact_at(at, &mut stream.bytes) {
            stream.bytes.clear();
            return Err(error);
        }
        self.recent = index;
        Ok(&self.streams[index])
    }

    fn position(&self, of: impl Fn(&Stream) -> bool) -> Option<usize> {
        self.streams.iter().position(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ReadAt;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Counted(Vec<u8>, AtomicUsize);

    impl ReadAt for Counted {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.read_exact_at(offset, buf)
        }
    }

    fn disk(bytes: usize) -> Arc<Counted> {
        let bytes = (0..bytes).map(|at| (at * 7 / 3) as u8).collect();
        Arc::new(Counted(bytes, AtomicUsize::new(0)))
    }

    const BUDGET: Budget = Budget {
        bytes: 1 << 30,
        reads: 1 << 20,
    };

    #[test]
    fn two_streams_are_read_in_large_pieces() {
        let disk = disk(8 << 20);
        let mut ahead = ReadAhead::new(disk.clone(), BUDGET);
        let mut buf = [0; 512];
        for at in 0..4096 {
            for base in [0, 4 << 20] {
                ahead.read(base + at * 512, &mut buf).unwrap();
            }
        }
        let reads = disk.1.load(Ordering::Relaxed);
        assert!(reads < 24, "{reads}");
    }

    #[test]
    fn the_budget_ends_it() {
        let mut ahead = ReadAhead::new(
            disk(4096),
            Budget {
                bytes: 1000,
                reads: 10,
            },
        );
        assert!(ahead.read(0, &mut [0; 900]).is_ok());
        assert!(ahead.read(0, &mut [0; 900]).is_err());
        let mut ahead = ReadAhead::new(
            disk(4096),
            Budget {
                bytes: 1000,
                reads: 1,
            },
        );
        assert!(ahead.read(0, &mut [0]).is_ok());
        assert!(ahead.read(0, &mut [0]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_is_there(
            asks in proptest::collection::vec((0..50_000_u64, 0..30_000_usize), 1..40),
        ) {
            let disk = disk(60_000);
            let mut ahead = ReadAhead::new(disk.clone(), BUDGET);
            for (offset, bytes) in asks {
                let (mut got, mut expected) = (vec![0; bytes], vec![0; bytes]);
                let outcome = ahead.read(offset, &mut got);
                let there = disk.0.read_exact_at(offset, &mut expected);
                prop_assert_eq!(outcome.is_ok(), there.is_ok());
                if there.is_ok() {
                    prop_assert!(got == expected);
                }
            }
        }
    }
}
