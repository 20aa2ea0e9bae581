//! Reads a log.

use std::io::Read;

use super::{
    LOG_VERSION, LogEnd, LogError, LogHeader, MAGIC, MAX_HEADER_BYTES, PREAMBLE_BYTES, Place,
};
use crate::codec::{EncodedEpoch, MAX_EPOCH_BYTES};
use crate::entry::Epoch;
use crate::frame::{
    EPOCH_PREFIX_BYTES, FrameError, FrameType, HEADER_BYTES, Header, decode_epoch_body,
    decode_postcard,
};

/// Reads a log from `R`, which should be buffered.
#[derive(Debug)]
pub struct LogReader<R> {
    input: R,
    header: LogHeader,
    next: Epoch,
    at: u64,
    epochs: u64,
    entries: u64,
    end: Option<LogEnd>,
}

impl<R: Read> LogReader<R> {
    /// Reads a log's header.
    ///
    /// # Errors
    ///
    /// [`LogError::NotALog`], [`LogError::Version`], or that the header is torn, damaged or
    /// invalid.
    pub fn open(mut input: R) -> Result<Self, LogError> {
        let mut at = 0;
        let within = Place::Header;
        let preamble = take(&mut input, PREAMBLE_BYTES, &mut at)?;
        let magic = &preamble[..preamble.len().min(MAGIC.len())];
        if magic.is_empty() || magic != &MAGIC[..magic.len()] {
            return Err(LogError::NotALog);
        }
        let word = |i: usize| Some(u32::from_le_bytes(*preamble.get(i..)?.first_chunk()?));
        if let Some(found) = word(8).filter(|version| *version != LOG_VERSION) {
            return Err(LogError::Version { found });
        }
        let (Some(len), Some(body_crc), Some(crc)) = (word(12), word(16), word(20)) else {
            return Err(LogError::Torn { at, within });
        };
        let len = len as usize;
        if crc32c::crc32c(&preamble[..20]) != crc {
            return Err(LogError::Damaged { at: 0, within });
        }
        if len > MAX_HEADER_BYTES {
            return Err(LogError::Invalid { at: 0, within });
        }
        let body = take(&mut input, len, &mut at)?;
        if body.len() < len {
            return Err(LogError::Torn { at, within });
        }
        if crc32c::crc32c(&body) != body_crc {
            return Err(LogError::Damaged { at: 0, within });
        }
        let header: LogHeader = match postcard::take_from_bytes(&body) {
            Ok((header, [])) => header,
            _ => return Err(LogError::Invalid { at: 0, within }),
        };
        Ok(LogReader {
            input,
            next: header.first_epoch,
            header,
            at,
            epochs: 0,
            entries: 0,
            end: None,
        })
    }

    /// The log's header.
    pub fn header(&self) -> &LogHeader {
        &self.header
    }

    /// The end record, once [`LogReader::next_epoch`] has returned `None`.
    pub fn end(&self) -> Option<&LogEnd> {
        self.end.as_ref()
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// The next epoch, or `None` after the last, when the end record was read too and agrees with
    /// what was read before it. The entries are still to be decoded.
    ///
    /// # Errors
    ///
    /// That the log is torn, damaged, out of order, invalid, or followed by something.
    pub fn next_epoch(&mut self) -> Result<Option<EncodedEpoch>, LogError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let start = self.at;
        let here = Place::Epoch(self.next);
        let head = take(&mut self.input, HEADER_BYTES, &mut self.at)?;
        let Some(head) = head.first_chunk::<HEADER_BYTES>() else {
            return Err(LogError::Torn {
                at: self.at,
                within: here,
            });
        };
        let header = Header::decode(head, MAX_EPOCH_BYTES + EPOCH_PREFIX_BYTES).map_err(
            |error| match error {
                FrameError::TooLarge { .. } | FrameError::Type(_) => LogError::Invalid {
                    at: start,
                    within: here,
                },
                _ => LogError::Damaged {
                    at: start,
                    within: here,
                },
            },
        )?;
        let within = match header.kind {
            FrameType::LogEnd => Place::End,
            _ => Place::Epoch(header.epoch),
        };
        let body = take(&mut self.input, header.len, &mut self.at)?;
        if body.len() < header.len {
            let at = self.at;
            return Err(LogError::Torn { at, within });
        }
        if header.check(&body).is_err() {
            return Err(LogError::Damaged { at: start, within });
        }
        let invalid = |_| LogError::Invalid { at: start, within };
        match header.kind {
            FrameType::Epoch => {
                if header.epoch != self.next {
                    return Err(LogError::OutOfOrder {
                        at: start,
                        found: header.epoch,
                        expected: self.next,
                    });
                }
                let epoch = decode_epoch_body(&header, &body).map_err(invalid)?;
                self.next = self.next.saturating_add(1);
                self.epochs += 1;
                self.entries += u64::from(epoch.entries);
                Ok(Some(epoch))
            }
            FrameType::LogEnd => {
                let end = decode_postcard(&header, &body).map_err(invalid)?;
                self.finish(end)?;
                Ok(None)
            }
            FrameType::Message | FrameType::ClonePages => {
                Err(LogError::Invalid { at: start, within })
            }
        }
    }

    fn finish(&mut self, end: LogEnd) -> Result<(), LogError> {
        if (end.epochs, end.entries) != (self.epochs, self.entries) {
            return Err(LogError::Count {
                epochs: self.epochs,
                entries: self.entries,
                said_epochs: end.epochs,
                said_entries: end.entries,
            });
        }
        let at = self.at;
        if !take(&mut self.input, 1, &mut self.at)?.is_empty() {
            return Err(LogError::TrailingGarbage { at });
        }
        self.end = Some(end);
        Ok(())
    }
}

/// Reads `len` bytes, or what is left, and counts them. Memory grows with what is really there.
fn take(input: &mut impl Read, len: usize, at: &mut u64) -> Result<Vec<u8>, LogError> {
    let mut bytes = Vec::new();
    input.take(len as u64).read_to_end(&mut bytes)?;
    *at += bytes.len() as u64;
    Ok(bytes)
}
