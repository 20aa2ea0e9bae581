//! Frames: how messages travel on the logging channel, and epochs in a log file.
//!
//! ```text
//!  0  magic      "Ft"
//!  2  version    u8, of the framing and of every body
//!  3  type       u8
//!  4  length     u32, of the body in bytes
//!  8  epoch      u64, 0 for what belongs to no epoch
//! 16  body CRC   u32, CRC32C of the body
//! 20  head CRC   u32, CRC32C of the 20 bytes before
//! 24  body
//! ```
//!
//! Numbers are little-endian. The header has a checksum of its own, so that a damaged length is
//! found at once instead of being waited for. The body of an epoch is the number of its entries
//! (u32), how many epochs before it have outputs that are not out yet (u32), and its bytes as they are; that of clone pages is a page list; all others are postcard.

use thiserror::Error;

use crate::codec::{EncodedEpoch, MAX_EPOCH_BYTES};
use crate::entry::Epoch;
use crate::protocol::Message;
use crate::wire::{GFN_END, Reader, put_pages};

/// Version of the framing; raised with any change to a frame, a message or an entry.
pub const FRAME_VERSION: u8 = 2;
/// Bytes of a frame before its body.
pub const HEADER_BYTES: usize = 24;
/// Bytes of an epoch's frame before the epoch's own bytes ([`epoch_header`]).
pub const EPOCH_HEADER_BYTES: usize = HEADER_BYTES + EPOCH_PREFIX_BYTES;
pub(crate) const EPOCH_PREFIX_BYTES: usize = 4 + 4;
/// Most bytes of a body from a peer that has been authenticated and said what it is.
pub const MAX_FRAME_BYTES: usize = 64 << 20;
/// Most bytes of a body from a peer before that.
pub const MAX_HANDSHAKE_BYTES: usize = 64 << 10;

const MAGIC: [u8; 2] = *b"Ft";

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameType {
    Message = 1,
    ClonePages = 2,
    Epoch = 3,
    LogEnd = 4,
}

impl FrameType {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Message, Self::ClonePages, Self::Epoch, Self::LogEnd]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The bytes don't start as a frame does: the peer isn't ftd, or bytes were lost.
    #[error("what was received is not a frame of ftd's")]
    NotAFrame,
    /// Another version.
    #[error(
        "frames of version {theirs} were received, but this ftd speaks version {FRAME_VERSION}"
    )]
    Version {
        /// The sender's.
        theirs: u8,
    },
    /// The header's checksum is wrong.
    #[error("a frame's header was damaged on the way (CRC mismatch)")]
    HeaderCrc,
    /// The body's checksum is wrong.
    #[error("a frame was damaged on the way (CRC mismatch, epoch {epoch})")]
    BodyCrc {
        /// The epoch in the header.
        epoch: Epoch,
    },
    /// Unknown type.
    #[error("a frame of unknown type {0} was received")]
    Type(u8),
    /// The body is longer than allowed.
    #[error("a frame of {len} bytes was received, but {limit} are allowed here")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The body isn't what the type says.
    #[error("a frame's content could not be understood (type {kind}, epoch {epoch})")]
    Body {
        /// The type.
        kind: u8,
        /// The epoch in the header.
        epoch: Epoch,
    },
    /// The channel ended in the middle of a frame.
    #[error("the channel ended in the middle of a frame ({have} bytes of it were received)")]
    Torn {
        /// How many bytes of the frame had come.
        have: usize,
    },
}

/// A header whose checksum was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FrameType,
    pub(crate) len: usize,
    pub(crate) epoch: Epoch,
    body_crc: u32,
}

impl Header {
    fn for_body(kind: FrameType, epoch: Epoch, parts: &[&[u8]]) -> Self {
        Header {
            kind,
            len: parts.iter().map(|part| part.len()).sum(),
            epoch,
            body_crc: parts.iter().fold(0, |crc, p| crc32c::crc32c_append(crc, p)),
        }
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC);
        bytes[2] = FRAME_VERSION;
        bytes[3] = self.kind as u8;
        // Bodies are made here and bounded by MAX_FRAME_BYTES, far below 4 GiB.
        bytes[4..8].copy_from_slice(&(self.len as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..20]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; its body may have `limit` bytes.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], limit: usize) -> Result<Self, FrameError> {
        if bytes[0..2] != MAGIC {
            return Err(FrameError::NotAFrame);
        }
        if bytes[2] != FRAME_VERSION {
            return Err(FrameError::Version { theirs: bytes[2] });
        }
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if crc32c::crc32c(&bytes[..20]) != word(20) {
            return Err(FrameError::HeaderCrc);
        }
        let kind = FrameType::from_byte(bytes[3]).ok_or(FrameError::Type(bytes[3]))?;
        let len = word(4) as usize;
        if len > limit {
            return Err(FrameError::TooLarge { len, limit });
        }
        Ok(Header {
            kind,
            len,
            epoch: u64::from(word(8)) | u64::from(word(12)) << 32,
            body_crc: word(16),
        })
    }

    pub(crate) fn check(&self, body: &[u8]) -> Result<(), FrameError> {
        if crc32c::crc32c(body) == self.body_crc {
            Ok(())
        } else {
            Err(FrameError::BodyCrc { epoch: self.epoch })
        }
    }

    pub(crate) fn bad_body(&self) -> FrameError {
        FrameError::Body {
            kind: self.kind as u8,
            epoch: self.epoch,
        }
    }
}

/// What comes before an epoch's bytes on the channel and in a log. Sending this and then
/// `epoch.bytes` (one `writev`) copies nothing.
pub fn epoch_header(epoch: &EncodedEpoch) -> [u8; EPOCH_HEADER_BYTES] {
    let mut prefix = [0; EPOCH_PREFIX_BYTES];
    prefix[..4].copy_from_slice(&epoch.entries.to_le_bytes());
    let waiting = epoch.epoch.saturating_sub(1).saturating_sub(epoch.released);
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
    prefix[4..].copy_from_slice(&waiting.to_le_bytes());
    let header = Header::for_body(FrameType::Epoch, epoch.epoch, &[&prefix, &epoch.bytes]);
    let mut bytes = [0; EPOCH_HEADER_BYTES];
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    bytes[HEADER_BYTES..].copy_from_slice(&prefix);
    bytes
}

/// Appends the frame of an epoch to `out`.
pub fn encode_epoch_into(epoch: &EncodedEpoch, out: &mut Vec<u8>) {
    out.reserve(EPOCH_HEADER_BYTES + epoch.bytes.len());
    out.extend_from_slice(&epoch_header(epoch));
    out.extend_from_slice(&epoch.bytes);
}

/// Encodes a message as a frame.
///
/// # Errors
///
/// [`FrameError::Body`] when a page is malformed, [`FrameError::TooLarge`] when the body exceeds
/// [`MAX_FRAME_BYTES`].
pub fn encode(message: &Message) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    encode_into(message, &mut out)?;
    Ok(out)
}

/// Appends the frame of a message to `out`, which is left as it was if that fails.
///
/// # Errors
///
/// As those of [`encode`].
pub fn encode_into(message: &Message, out: &mut Vec<u8>) -> Result<(), FrameError> {
    match message {
        Message::Epoch(epoch) => {
            limit_body(epoch.bytes.len() + EPOCH_PREFIX_BYTES)?;
            encode_epoch_into(epoch, out);
            Ok(())
        }
        Message::ClonePages { pages } => frame_into(FrameType::ClonePages, 0, out, |body| {
            put_pages(body, pages).is_ok()
        }),
        other => postcard_into(FrameType::Message, 0, other, out),
    }
}

pub(crate) fn postcard_into<T: serde::Serialize>(
    kind: FrameType,
    epoch: Epoch,
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    frame_into(kind, epoch, out, |body| {
        let encoded = postcard::to_allocvec(value);
        encoded.map(|bytes| body.extend_from_slice(&bytes)).is_ok()
    })
}

/// Appends a header and the body that `fill` appends.
fn frame_into(
    kind: FrameType,
    epoch: Epoch,
    out: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>) -> bool,
) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let body = start + HEADER_BYTES;
    let filled = if fill(out) {
        limit_body(out.len() - body)
    } else {
        let kind = kind as u8;
        Err(FrameError::Body { kind, epoch })
    };
    if filled.is_ok() {
        let header = Header::for_body(kind, epoch, &[&out[body..]]).encode();
        out[start..body].copy_from_slice(&header);
    } else {
        out.truncate(start);
    }
    filled
}

fn limit_body(len: usize) -> Result<(), FrameError> {
    let limit = MAX_FRAME_BYTES;
    if len > limit {
        return Err(FrameError::TooLarge { len, limit });
    }
    Ok(())
}

/// Decodes the body of an epoch's frame.
pub(crate) fn decode_epoch_body(header: &Header, body: &[u8]) -> Result<EncodedEpoch, FrameError> {
    let mut reader = Reader::new(body);
    let entries = reader.u32_le().map_err(|_| header.bad_body())?;
    let waiting = reader.u32_le().map_err(|_| header.bad_body())?;
    if header.epoch == 0 || reader.remaining() > MAX_EPOCH_BYTES {
        return Err(header.bad_body());
    }
    Ok(EncodedEpoch {
        epoch: header.epoch,
        bytes: body[reader.offset()..].to_vec(),
        entries,
        released: (header.epoch - 1).saturating_sub(waiting.into()),
    })
}

/// Decodes a postcard body that must be used up.
pub(crate) fn decode_postcard<'a, T: serde::Deserialize<'a>>(
    header: &Header,
    body: &'a [u8],
) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(header.bad_body()),
    }
}

fn decode_message(header: &Header, body: &[u8]) -> Result<Message, FrameError> {
    header.check(body)?;
    match header.kind {
        FrameType::Epoch => decode_epoch_body(header, body).map(Message::Epoch),
        _ if header.epoch != 0 => Err(header.bad_body()),
        FrameType::ClonePages => {
            let mut reader = Reader::new(body);
            let pages = reader.pages(GFN_END).map_err(|_| header.bad_body())?;
            if !reader.is_empty() {
                return Err(header.bad_body());
            }
            Ok(Message::ClonePages { pages })
        }
        FrameType::Message => match decode_postcard(header, body)? {
            // These two have frames of their own, with bounds of their own.
            Message::Epoch(_) | Message::ClonePages { .. } => Err(header.bad_body()),
            message => Ok(message),
        },
        FrameType::LogEnd => Err(FrameError::Type(header.kind as u8)),
    }
}

/// Takes a stream of bytes apart into messages. Starts with the limit of the handshake
/// ([`MAX_HANDSHAKE_BYTES`]). After an error it stays broken: the connection must end.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    start: usize,
    limit: usize,
    broken: Option<FrameError>,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// A decoder at the start of a connection.
    pub fn new() -> Self {
        FrameDecoder {
            buffer: Vec::new(),
            start: 0,
            limit: MAX_HANDSHAKE_BYTES,
            broken: None,
        }
    }

    /// Sets how long a body may be, in bytes: [`MAX_FRAME_BYTES`] once the peer is known.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(MAX_FRAME_BYTES);
    }

    /// Takes in bytes as they arrive. Memory is held for these and nothing else: no length in a
    /// header is believed. Call [`FrameDecoder::next`] until it has no more before pushing again.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        if self.start > 0 && self.start >= self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if one has arrived.
    ///
    /// # Errors
    ///
    /// When what arrived is no valid frame; the same error again from then on.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Message>, FrameError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let read = self.read();
        if let Err(error) = &read {
            self.broken = Some(error.clone());
            self.buffer = Vec::new();
            self.start = 0;
        }
        read
    }

    /// To be called when the channel ended.
    ///
    /// # Errors
    ///
    /// [`FrameError::Torn`] in the middle of a frame, or the error that was met before.
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        match self.buffer.len() - self.start {
            0 => Ok(()),
            have => Err(FrameError::Torn { have }),
        }
    }

    fn read(&mut self) -> Result<Option<Message>, FrameError> {
        let waiting = &self.buffer[self.start..];
        let Some((head, rest)) = waiting.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::decode(head, self.limit)?;
        let Some(body) = rest.get(..header.len) else {
            return Ok(None);
        };
        let message = decode_message(&header, body)?;
        self.start += HEADER_BYTES + header.len;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests;
