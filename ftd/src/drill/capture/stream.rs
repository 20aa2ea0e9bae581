//! TCP streams put together again: retransmissions and overlaps are dropped, early segments wait.
//! A byte counts as arrived when all bytes before it have, as the receiver's program sees it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use super::packet::{self, Segment};

/// Bytes that may wait for those before them, in one direction.
const EARLY_BYTES_MAX: usize = 64 << 20;

/// Offsets begin beyond this, so that what lies before a connection's first byte has one too.
const ORIGIN: u64 = 1 << 32;

/// One direction of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The sender.
    pub from: SocketAddr,
    /// The receiver.
    pub to: SocketAddr,
    /// Which connection between the two, counted from 0.
    pub connection: u32,
}

/// Bytes that have arrived in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where they belong.
    pub flow: Flow,
    /// When the last one needed came by, in nanoseconds since 1970.
    pub at_unix_ns: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether bytes before these were not captured, although the receiver had them. (A connection
    /// that was under way when the capture began starts so, too.)
    pub after_loss: bool,
}

/// All TCP streams of a capture to or from one port.
pub struct Streams {
    port: u16,
    flows: HashMap<(SocketAddr, SocketAddr), Direction>,
}

#[derive(Default)]
struct Direction {
    connection: u32,
    seen: bool,
    after_loss: bool,
    /// Next byte wanted, as an offset that doesn't wrap.
    next: u64,
    early: BTreeMap<u64, Vec<u8>>,
    early_bytes: usize,
}

impl Streams {
    /// Streams to or from `port`.
    pub fn new(port: u16) -> Self {
        Streams {
            port,
            flows: HashMap::new(),
        }
    }

    /// Takes in a captured frame; what has become complete by it.
    pub fn packet(&mut self, at_unix_ns: u64, frame: &[u8]) -> Vec<Chunk> {
        let Some(segment) = packet::segment(frame) else {
            return Vec::new();
        };
        if segment.from.port() != self.port && segment.to.port() != self.port {
            return Vec::new();
        }
        let mut chunks = Vec::new();
        // The other side's acknowledgement proves that bytes missing here did arrive.
        if let Some(acknowledged) = segment.acknowledged {
            let (from, to) = (segment.to, segment.from);
            if let Some(direction) = self.flows.get_mut(&(from, to)) {
                let flow = Flow {
                    from,
                    to,
                    connection: direction.connection,
                };
                direction.acknowledged(acknowledged, flow, at_unix_ns, &mut chunks);
            }
        }
        let direction = self.flows.entry((segment.from, segment.to)).or_default();
        direction.segment(&segment, at_unix_ns, &mut chunks);
        chunks
    }
}

impl Direction {
    fn segment(&mut self, segment: &Segment<'_>, at_unix_ns: u64, chunks: &mut Vec<Chunk>) {
        let Segment {
            from,
            to,
            sequence,
            syn,
            payload,
            ..
        } = *segment;
        if syn {
            let first = ORIGIN + u64::from(sequence.wrapping_add(1));
            if !self.seen || self.next as u32 != sequence.wrapping_add(1) {
                let connection = if self.seen { self.connection + 1 } else { 0 };
                *self = Direction {
                    connection,
                    seen: true,
                    next: first,
                    ..Direction::default()
                };
            }
            return;
        }
        // A connection that began before the capture is an earlier drill's, still saying goodbye.
        if payload.is_empty() || !self.seen {
            return;
        }
        let start = self.unwrapped(sequence);
        let flow = Flow {
            from,
            to,
            connection: self.connection,
        };
        if self.early_bytes + payload.len() <= EARLY_BYTES_MAX {
            let known = self.early.get(&start).map_or(0, Vec::len);
            if start + payload.len() as u64 > self.next && payload.len() > known {
                self.early_bytes += payload.len() - known;
                self.early.insert(start, payload.to_vec());
            }
        }
        self.deliver(flow, at_unix_ns, chunks);
    }

    /// The offset nearest to `next` that has this sequence number.
    fn unwrapped(&self, sequence: u32) -> u64 {
        let distance = sequence.wrapping_sub(self.next as u32) as i32;
        self.next.saturating_add_signed(i64::from(distance))
    }

    fn acknowledged(&mut self, sequence: u32, flow: Flow, at: u64, chunks: &mut Vec<Chunk>) {
        let acknowledged = self.unwrapped(sequence);
        while let Some((&start, _)) = self.early.first_key_value() {
            if start <= self.next || acknowledged <= self.next {
                break;
            }
            self.next = start;
            self.after_loss = true;
            self.deliver(flow, at, chunks);
        }
    }

    fn deliver(&mut self, flow: Flow, at_unix_ns: u64, chunks: &mut Vec<Chunk>) {
        let mut bytes = Vec::new();
        while let Some(entry) = self.early.first_entry() {
            let start = *entry.key();
            if start > self.next {
                break;
            }
            let data = entry.remove();
            self.early_bytes -= data.len();
            let known = (self.next - start) as usize;
            if let Some(new) = data.get(known..) {
                bytes.extend_from_slice(new);
                self.next += new.len() as u64;
            }
        }
        if !bytes.is_empty() {
            let after_loss = std::mem::take(&mut self.after_loss);
            chunks.push(Chunk {
                flow,
                at_unix_ns,
                bytes,
                after_loss,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tcp;
    use super::*;

    const PORT: u16 = 7777;

    /// Feeds (sequence, payload) of one direction and returns the bytes delivered at each step.
    fn feed(segments: &[(u32, &[u8])]) -> Vec<Vec<u8>> {
        let mut streams = Streams::new(PORT);
        streams.packet(0, &tcp(1, 2, 999, None, true, b""));
        let steps = segments.iter().map(|(sequence, payload)| {
            let chunks = streams.packet(1, &tcp(1, 2, *sequence, None, false, payload));
            chunks.into_iter().flat_map(|chunk| chunk.bytes).collect()
        });
        steps.collect()
    }

    #[test]
    fn retransmitted_overlapping_and_early_bytes() {
        let steps = feed(&[
            (1000, b"abc"),
            (1000, b"abc"),
            (1006, b"ghi"),
            (1001, b"bcdef"),
            (1003, b"defghijk"),
        ]);
        assert_eq!(steps, [&b"abc"[..], b"", b"", b"defghi", b"jk"]);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut streams = Streams::new(PORT);
        streams.packet(0, &tcp(1, 2, u32::MAX - 2, None, true, b""));
        let chunks = streams.packet(1, &tcp(1, 2, u32::MAX - 1, None, false, b"abcd"));
        assert_eq!(chunks[0].bytes, b"abcd");
        let chunks = streams.packet(1, &tcp(1, 2, 2, None, false, b"ef"));
        assert_eq!(chunks[0].bytes, b"ef");
    }

    #[test]
    fn bytes_that_were_acknowledged_but_not_captured_are_skipped_and_told() {
        let mut streams = Streams::new(PORT);
        streams.packet(0, &tcp(1, 2, 999, None, true, b""));
        assert!(
            streams
                .packet(1, &tcp(1, 2, 1003, None, false, b"late"))
                .is_empty()
        );
        // The receiver has nothing beyond 1000 yet: the bytes may still come.
        assert!(
            streams
                .packet(2, &tcp(2, 1, 5, Some(1000), false, b""))
                .is_empty()
        );
        let chunks = streams.packet(3, &tcp(2, 1, 5, Some(1007), false, b""));
        assert_eq!(
            (chunks[0].bytes.as_slice(), chunks[0].after_loss),
            (&b"late"[..], true)
        );
        assert_eq!(chunks[0].at_unix_ns, 3);
    }

    #[test]
    fn a_second_connection_between_the_same_ports_is_another() {
        let mut streams = Streams::new(PORT);
        let mut last = Vec::new();
        for first in [10, 5_000_000] {
            streams.packet(0, &tcp(1, 2, first, None, true, b""));
            last = streams.packet(1, &tcp(1, 2, first + 1, None, false, b"x"));
        }
        assert_eq!(last[0].flow.connection, 1);
        assert!(!last[0].after_loss);
    }

    #[test]
    fn other_ports_are_nobodys_business() {
        assert!(
            Streams::new(1)
                .packet(1, &tcp(1, 2, 0, None, false, b"x"))
                .is_empty()
        );
    }
}
