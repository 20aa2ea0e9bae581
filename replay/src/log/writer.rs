//! Writes a log.

use std::io::Write;

use super::{LOG_VERSION, LogEnd, LogError, LogHeader, MAGIC, MAX_HEADER_BYTES, Place};
use crate::codec::{EncodedEpoch, MAX_EPOCH_BYTES};
use crate::entry::{Epoch, Position};
use crate::frame::{FrameType, epoch_header, postcard_into};

/// Writes a log to `W`, which should be buffered.
#[derive(Debug)]
pub struct LogWriter<W> {
    out: W,
    next: Epoch,
    epochs: u64,
    entries: u64,
    bytes: u64,
}

impl<W: Write> LogWriter<W> {
    /// Starts a log.
    ///
    /// # Errors
    ///
    /// [`LogError::Io`]; [`LogError::TooLarge`] when the header exceeds 1 MiB.
    pub fn create(mut out: W, header: &LogHeader) -> Result<Self, LogError> {
        let too_large = |_| LogError::TooLarge(Place::Header);
        let body = postcard::to_allocvec(header).map_err(too_large)?;
        if body.len() > MAX_HEADER_BYTES {
            return Err(LogError::TooLarge(Place::Header));
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&LOG_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&body);
        out.write_all(&bytes)?;
        Ok(LogWriter {
            out,
            next: header.first_epoch,
            epochs: 0,
            entries: 0,
            bytes: bytes.len() as u64,
        })
    }

    /// Appends an epoch.
    ///
    /// # Errors
    ///
    /// [`LogError::OutOfOrder`] when it isn't the next one; [`LogError::TooLarge`];
    /// [`LogError::Io`].
    pub fn append(&mut self, epoch: &EncodedEpoch) -> Result<(), LogError> {
        if epoch.epoch != self.next {
            return Err(LogError::OutOfOrder {
                at: self.bytes,
                found: epoch.epoch,
                expected: self.next,
            });
        }
        if epoch.bytes.len() > MAX_EPOCH_BYTES {
            return Err(LogError::TooLarge(Place::Epoch(epoch.epoch)));
        }
        let header = epoch_header(epoch);
        self.out.write_all(&header)?;
        self.out.write_all(&epoch.bytes)?;
        self.bytes += (header.len() + epoch.bytes.len()) as u64;
        self.next = self.next.saturating_add(1);
        self.epochs += 1;
        self.entries += u64::from(epoch.entries);
        Ok(())
    }

    /// Hands what is buffered to the kernel.
    ///
    /// # Errors
    ///
    /// [`LogError::Io`].
    pub fn flush(&mut self) -> Result<(), LogError> {
        Ok(self.out.flush()?)
    }

    /// Bytes written so far.
    pub fn len_bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries written so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Ends the log with the state that a replay must arrive at, and gives the flushed `W` back.
    ///
    /// # Errors
    ///
    /// [`LogError::Io`].
    pub fn finish(mut self, position: Position, state_hash: [u8; 32]) -> Result<W, LogError> {
        let end = LogEnd {
            position,
            state_hash,
            entries: self.entries,
            epochs: self.epochs,
        };
        let mut bytes = Vec::new();
        postcard_into(FrameType::LogEnd, 0, &end, &mut bytes)
            .map_err(|_| LogError::TooLarge(Place::End))?;
        self.out.write_all(&bytes)?;
        self.out.flush()?;
        Ok(self.out)
    }
}
