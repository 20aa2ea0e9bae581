//! Output that waits for a reader.

use std::collections::VecDeque;
use std::io;

/// A bounded queue of bytes that drops the oldest when it is full, and counts them.
#[derive(Debug)]
pub struct Backlog {
    bytes: VecDeque<u8>,
    limit: usize,
    dropped: u64,
}

impl Backlog {
    /// An empty one that holds up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Backlog {
            bytes: VecDeque::new(),
            limit,
            dropped: 0,
        }
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.limit);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
        self.dropped += (excess + bytes.len() - kept.len()) as u64;
    }

    /// Hands the bytes to `write`, which takes some of them and says how many, until there are none
    /// left or it would block. What another error hits is dropped: it would hit again.
    pub fn write_to(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) {
        while !self.bytes.is_empty() {
            match write(self.bytes.as_slices().0) {
                Ok(count) => {
                    self.bytes.drain(..count.min(self.bytes.len()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!("the console lost {} bytes: {error}", self.bytes.len());
                    self.dropped += self.bytes.len() as u64;
                    self.bytes.clear();
                }
            }
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Number of bytes dropped so far.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(backlog: &mut Backlog) -> Vec<u8> {
        let mut taken = Vec::new();
        backlog.write_to(|bytes| {
            // Short writes are the rule.
            let count = bytes.len().min(3);
            taken.extend(&bytes[..count]);
            Ok(count)
        });
        taken
    }

    #[test]
    fn the_oldest_go_first() {
        let mut backlog = Backlog::new(8);
        backlog.push(b"abcdef");
        backlog.push(b"ghij");
        assert_eq!(backlog.dropped_bytes(), 2);
        assert_eq!(drain(&mut backlog), b"cdefghij");
        backlog.push(b"0123456789");
        assert_eq!(backlog.dropped_bytes(), 4);
        assert_eq!(drain(&mut backlog), b"23456789");
        assert!(backlog.is_empty());
    }

    #[test]
    fn blocking_keeps_and_failing_drops() {
        let mut backlog = Backlog::new(8);
        backlog.push(b"abc");
        backlog.write_to(|_| Err(io::ErrorKind::WouldBlock.into()));
        assert!(!backlog.is_empty());
        backlog.write_to(|_| Err(io::ErrorKind::StorageFull.into()));
        assert!(backlog.is_empty());
        assert_eq!(backlog.dropped_bytes(), 3);
    }

    proptest! {
        #[test]
        fn what_is_dropped_and_what_is_left_is_what_was_pushed(
            pushes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..20),
        ) {
            let mut backlog = Backlog::new(16);
            let mut all: Vec<u8> = Vec::new();
            for bytes in &pushes {
                backlog.push(bytes);
                all.extend(bytes);
            }
            let dropped = backlog.dropped_bytes() as usize;
            prop_assert!(dropped == all.len().saturating_sub(16));
            prop_assert_eq!(&drain(&mut backlog), &all[dropped..]);
        }
    }
}
