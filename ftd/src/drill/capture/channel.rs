//! The logging channel as it looks on the wire, decoded by code that shares nothing with the
//! daemon's. A frame is 24 bytes of header (magic "Ft", version, type, length u32, epoch u64, CRC32C
//! of the body, CRC32C of the header's first 20 bytes; little-endian) and a body. Wanted are the
//! outputs that epochs record (behind two u32), and the acknowledgements.

use std::collections::HashMap;

use super::crc::crc32c;
use super::stream::{Chunk, Flow};

/// The framing's version that this decoder was written for.
const VERSION: u8 = 2;
const HEADER_BYTES: usize = 24;
const BODY_BYTES_MAX: usize = 64 << 20;
const PAGE_BYTES: usize = 4096;

const TYPE_MESSAGE: u8 = 1;
const TYPE_CLONE_PAGES: u8 = 2;
const TYPE_EPOCH: u8 = 3;
const MESSAGE_WELCOME: u64 = 1;
const MESSAGE_ACK: u64 = 6;

/// Why the channel can't be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelFault {
    /// What should be a frame's header isn't one.
    #[error("no frame of ftd's at byte {offset} from {from}: is the channel encrypted?")]
    NotAFrame {
        /// Bytes of the flow before it.
        offset: u64,
        /// The sender.
        from: std::net::SocketAddr,
    },
    /// A version of the framing that this decoder doesn't know.
    #[error("frames of version {0}, but the capture's judge knows {VERSION}")]
    Version(u8),
    /// A body is not what its type says.
    #[error("frame of type {kind}, epoch {epoch}: body not understood")]
    Body {
        /// The frame's type.
        kind: u8,
        /// Its epoch.
        epoch: u64,
    },
    /// A checksum is wrong.
    #[error("frame of epoch {epoch}: wrong checksum")]
    Crc {
        /// Its epoch.
        epoch: u64,
    },
}

/// What an acknowledgement must cover before outputs go out, as the primary announced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Commit {
    /// The backup has the log.
    #[default]
    Received,
    /// It has executed it.
    Executed,
    /// Its digests agree, too.
    Verified,
}

/// An output that the log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// When its record passed, in nanoseconds since 1970.
    pub at_unix_ns: u64,
    /// The epoch it is in.
    pub epoch: u64,
    /// CRC32C of the effect.
    pub crc: u32,
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// When it passed on its way to the primary, in nanoseconds since 1970.
    pub at_unix_ns: u64,
    /// The last epoch it covers, in the sense of the commit level in force.
    pub epoch: u64,
}

/// What was read of the channel.
#[derive(Debug, Default)]
pub struct Channel {
    /// Outputs, in the order of the log.
    pub outputs: Vec<Output>,
    /// Acknowledgements.
    pub acks: Vec<Ack>,
    /// Epochs seen.
    pub epochs: u64,
    /// When which epoch passed: (nanoseconds since 1970, number).
    pub epoch_times: Vec<(u64, u64)>,
    /// Places where the capture lacks bytes.
    pub losses: u64,
    /// Bytes of the log: epochs with their headers, without live clones.
    pub log_bytes: u64,
    commit: Commit,
    flows: HashMap<Flow, Partial>,
}

#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    offset: u64,
    /// Bytes were lost: look for the next header.
    seeking: bool,
}

struct Header {
    kind: u8,
    length: usize,
    epoch: u64,
    body_crc: u32,
}

impl Channel {
    /// Takes in bytes of a flow.
    ///
    /// # Errors
    /// When they can't be understood. (After a loss in the capture it looks for the next frame.)
    pub fn take(&mut self, chunk: &Chunk) -> Result<(), ChannelFault> {
        let mut partial = self.flows.remove(&chunk.flow).unwrap_or_default();
        if chunk.after_loss {
            self.losses += 1;
            partial.bytes.clear();
            partial.seeking = true;
        }
        partial.bytes.extend_from_slice(&chunk.bytes);
        let mut used = 0;
        loop {
            if partial.seeking {
                let Some(found) = seek(&partial.bytes[used..]) else {
                    // A header may lie across the end: keep what may be its beginning.
                    used = used.max(partial.bytes.len().saturating_sub(HEADER_BYTES - 1));
                    break;
                };
                used += found;
                partial.seeking = false;
            }
            let waiting = &partial.bytes[used..];
            if waiting.len() < HEADER_BYTES {
                break;
            }
            let offset = partial.offset + used as u64;
            let header = header(waiting, offset, chunk.flow)?;
            let Some(body) = waiting[HEADER_BYTES..].get(..header.length) else {
                break;
            };
            if crc32c(&[body]) != header.body_crc {
                return Err(ChannelFault::Crc {
                    epoch: header.epoch,
                });
            }
            self.frame(&header, body, chunk.at_unix_ns)
                .ok_or(ChannelFault::Body {
                    kind: header.kind,
                    epoch: header.epoch,
                })?;
            used += HEADER_BYTES + header.length;
        }
        partial.bytes.drain(..used);
        partial.offset += used as u64;
        self.flows.insert(chunk.flow, partial);
        Ok(())
    }

    /// Puts acknowledgements of several captures into the order of their times.
    pub fn sort(&mut self) {
        self.acks.sort_by_key(|ack| ack.at_unix_ns);
        self.epoch_times.sort_unstable();
    }

    fn frame(&mut self, header: &Header, body: &[u8], at_unix_ns: u64) -> Option<()> {
        match header.kind {
            TYPE_EPOCH => {
                self.epochs += 1;
                self.epoch_times.push((at_unix_ns, header.epoch));
                self.log_bytes += (HEADER_BYTES + body.len()) as u64;
                let mut cursor = Cursor(body.get(8..)?);
                let crcs = outputs(&mut cursor)?;
                let epoch = header.epoch;
                self.outputs.extend(crcs.into_iter().map(|crc| Output {
                    at_unix_ns,
                    epoch,
                    crc,
                }));
            }
            TYPE_MESSAGE => self.message(body, at_unix_ns)?,
            TYPE_CLONE_PAGES => {}
            _ => return None,
        }
        Some(())
    }

    /// A message is postcard: the variant's number, then its fields.
    fn message(&mut self, body: &[u8], at_unix_ns: u64) -> Option<()> {
        let mut cursor = Cursor(body);
        match cursor.varint()? {
            MESSAGE_WELCOME => {
                let (_version, _features) = (cursor.varint()?, cursor.varint()?);
                let _host = cursor.bytes()?;
                let (_generation, _bidder) = (cursor.varint()?, cursor.bytes()?);
                self.commit = match cursor.varint()? {
                    0 => Commit::Received,
                    1 => Commit::Executed,
                    2 => Commit::Verified,
                    _ => return None,
                };
            }
            MESSAGE_ACK => {
                let levels = [cursor.varint()?, cursor.varint()?, cursor.varint()?];
                let epoch = levels[self.commit as usize];
                if epoch > 0 {
                    self.acks.push(Ack { at_unix_ns, epoch });
                }
            }
            _ => {}
        }
        Some(())
    }
}

fn header(bytes: &[u8], offset: u64, flow: Flow) -> Result<Header, ChannelFault> {
    let not_a_frame = ChannelFault::NotAFrame {
        offset,
        from: flow.from,
    };
    if bytes[..2] != *b"Ft" {
        return Err(not_a_frame);
    }
    if bytes[2] != VERSION {
        return Err(ChannelFault::Version(bytes[2]));
    }
    checked(bytes).ok_or(not_a_frame)
}

/// A header whose own checksum is right.
fn checked(bytes: &[u8]) -> Option<Header> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = word(4)? as usize;
    let right = bytes.get(..3)? == [b'F', b't', VERSION]
        && length <= BODY_BYTES_MAX
        && crc32c(&[&bytes[..20]]) == word(20)?;
    right.then_some(Header {
        kind: bytes[3],
        length,
        epoch: u64::from(word(8)?) | u64::from(word(12)?) << 32,
        body_crc: word(16)?,
    })
}

fn seek(bytes: &[u8]) -> Option<usize> {
    (0..bytes.len().saturating_sub(HEADER_BYTES - 1)).find(|at| checked(&bytes[*at..]).is_some())
}

/// The CRCs of an epoch's outputs. An entry is a tag (kind in the low half, distance to the entry
/// before it in the high half; 15: a varint follows) and what its kind has.
fn outputs(cursor: &mut Cursor<'_>) -> Option<Vec<u32>> {
    let mut crcs = Vec::new();
    loop {
        let tag = cursor.byte()?;
        if tag >> 4 == 15 {
            cursor.varint()?;
        }
        match tag & 0xf {
            // Clock, forwards and backwards.
            0 | 1 => {
                cursor.varint()?;
            }
            // A frame received; random bytes.
            2 | 5 => {
                cursor.bytes()?;
            }
            // A disk request done: disk, identifier, outcome.
            3 => {
                cursor.byte()?;
                cursor.varint()?;
                match cursor.byte()? {
                    0..=2 => {}
                    3 => {
                        cursor.bytes()?;
                    }
                    _ => return None,
                }
            }
            // Console input.
            4 => {
                cursor.byte()?;
                cursor.bytes()?;
            }
            // The power button.
            6 => {}
            7 => cursor.pages()?,
            // A snapshot: CPU, machine, pages.
            8 => {
                cursor.bytes()?;
                cursor.bytes()?;
                cursor.pages()?;
            }
            9 => crcs.push(cursor.word()?),
            // Reached, the last entry: registers, devices, and a share of RAM unless that is of no page.
            10 => {
                for _ in 0..2 {
                    cursor.word()?;
                    cursor.bytes()?;
                }
                if cursor.varint()? > 0 {
                    cursor.varint()?;
                    cursor.word()?;
                    cursor.word()?;
                }
                return cursor.0.is_empty().then_some(crcs);
            }
            // A point between two exits: branches, RIP, RFLAGS, checksum of the registers, their marks, the stack's
            // mark.
            11 => {
                for _ in 0..3 {
                    cursor.varint()?;
                }
                cursor.word()?;
                cursor.take(2 + 2)?;
            }
            _ => return None,
        }
    }
}

/// Reads from the front of a slice.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn word(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.varint()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// A page list: a count, then for each page a number whose lowest bit says that data follows.
    fn pages(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            if self.varint()? & 1 == 1 {
                self.take(PAGE_BYTES)?;
            }
        }
        Some(())
    }
}

/// The CRC32C by which the log records that the guest sent `frame`: over the postcard form of the
/// effect, which is variant 1 (`NetTx`), the frame's length, its bytes.
pub fn frame_crc(frame: &[u8]) -> u32 {
    let mut head = vec![1];
    let mut length = frame.len();
    while length >= 0x80 {
        head.push(length as u8 | 0x80);
        length >>= 7;
    }
    head.push(length as u8);
    crc32c(&[&head, frame])
}
