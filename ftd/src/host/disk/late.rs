//! A qcow2 that another host writes to until this one goes live.
//!
//! A driver keeps an image's tables in memory. Were the image opened while the backup follows its
//! primary, these would be those of that day, and the guest's disk with them. So it is opened with
//! the first request, of which a backup has none before it goes live.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::image::Image;
use super::options::OpenError;
use super::qcow2::{self, Qcow2Image};

/// An image that is opened with its first request.
pub(super) struct LateImage {
    path: PathBuf,
    opening: qcow2::Opening,
    /// As it was seen at the start; a disk that two hosts have doesn't change its size.
    capacity: u64,
    image: OnceLock<Qcow2Image>,
    /// Taken by the one that opens it.
    turn: Mutex<()>,
    abandoned: AtomicBool,
}

impl LateImage {
    pub(super) fn new(path: PathBuf, opening: qcow2::Opening, capacity: u64) -> LateImage {
        LateImage {
            path,
            opening,
            capacity,
            image: OnceLock::new(),
            turn: Mutex::new(()),
            abandoned: AtomicBool::new(false),
        }
    }

    fn image(&self) -> io::Result<&Qcow2Image> {
        if let Some(image) = self.image.get() {
            return Ok(image);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.abandoned.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
        }
        if self.image.get().is_none() {
            // A failure is the request's; the next one tries again.
            let image = self.open().map_err(io::Error::other)?;
            let _ = self.image.set(image);
            tracing::info!("disk {}: opened to be written to", self.path.display());
        }
        self.image
            .get()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn open(&self) -> Result<Qcow2Image, OpenError> {
        let image = qcow2::open_checked(&self.path, self.opening)?;
        if image.capacity() == self.capacity {
            return Ok(image);
        }
        // Nothing was written: nothing must be written back.
        image.abandon();
        Err(OpenError::Resized {
            path: self.path.clone(),
            before: self.capacity,
            now: image.capacity(),
        })
    }
}

impl Image for LateImage {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn granule(&self) -> u64 {
        1
    }

    fn workers(&self) -> usize {
        1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.image()?.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.image()?.write_at(offset, data)
    }

    /// Opens it, too: what another host wrote may be in the device's cache only.
    fn flush(&self) -> io::Result<()> {
        self.image()?.flush()
    }

    fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        if let Some(image) = self.image.get() {
            image.abandon();
        }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.image()?.discard(offset, len)
    }
}
