//! Disk images: raw files, block devices and qcow2, behind one [`Disk`].
//!
//! A `Disk` carries out one operation at a time on the caller's thread; a [`DiskWorker`] owns the
//! threads that do it beside the vCPU and keeps the order a disk owes its guest.
//!
//! # Disks that two hosts share
//!
//! * Raw and block devices must be opened with [`DiskOptions::direct`]: what sits in a dead host's
//!   page cache is lost, though its guest was told that the write completed, and what sits in the
//!   survivor's page cache is old.
//! * A qcow2's driver keeps its tables in memory. With [`DiskOptions::direct`] each change is
//!   followed by that of the tables, so that a host that dies takes nothing with it; with
//!   [`DiskOptions::late`] the backup opens it only when it goes live, since tables read earlier map
//!   clusters as they were then. The host that loses must not write its own back: see
//!   [`Disk::abandon`].

mod identity;
mod image;
mod label;
mod late;
mod options;
mod pages;
mod qcow2;
mod qcow2_check;
mod raw;
mod schedule;
mod worker;
mod written;

pub use identity::DiskIdentity;
pub use label::Label;
pub use options::{DiskFormat, DiskOptions, OpenError};
pub use pages::DiskPages;
pub use worker::{Completion, DiskWorker};

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use devices::{DiskError, DiskOp, DiskOutcome};

use image::Image;
use written::Written;

/// Size of a sector in bytes, the unit of every offset and length.
pub const SECTOR_BYTES: u64 = 512;

/// An open disk image.
pub struct Disk {
    path: PathBuf,
    format: DiskFormat,
    read_only: bool,
    capacity: u64,
    image: Box<dyn Image>,
    /// As it was when the disk was looked at, for one that is not to be read before it is needed.
    identity: Option<DiskIdentity>,
    failures: AtomicU64,
    abandoned: AtomicBool,
    written: Written,
}

impl Disk {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// [`OpenError`], which names the path and says what to do: the file is missing, empty,
    /// truncated, not a whole number of sectors, not readable or writable, refuses O_DIRECT, or is
    /// a qcow2 that the `imago` crate can't open.
    pub fn open(path: &Path, options: &DiskOptions) -> Result<Disk, OpenError> {
        let Opened {
            image,
            format,
            identity,
        } = open_image(path, options)?;
        let capacity = image.capacity();
        let path = path.to_owned();
        if capacity == 0 {
            return Err(OpenError::Empty { path });
        }
        if !capacity.is_multiple_of(SECTOR_BYTES) {
            return Err(OpenError::NotSectors { path, capacity });
        }
        if !capacity.is_multiple_of(image.granule()) {
            let granule = image.granule();
            return Err(OpenError::NotGranules {
                path,
                capacity,
                granule,
            });
        }
        Ok(Disk {
            path,
            format,
            read_only: options.read_only,
            capacity,
            image,
            identity,
            failures: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            written: Written::new(capacity),
        })
    }

    /// The path it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format, never [`DiskFormat::Auto`].
    pub fn format(&self) -> DiskFormat {
        self.format
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Size of the disk as the guest sees it, in bytes; a multiple of [`SECTOR_BYTES`], not 0.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity
    }

    /// What tells two hosts whether they speak of the same image, read from the disk now (or, with
    /// [`DiskOptions::late`], when it was looked at).
    ///
    /// # Errors
    /// Reading the disk failed.
    pub fn identity(&self) -> io::Result<DiskIdentity> {
        match &self.identity {
            Some(identity) => Ok(identity.clone()),
            None => identity::read(self.capacity, |offset, buf| self.read_exact_at(offset, buf)),
        }
    }

    /// Reads `buf.len()` bytes at `offset`, of any alignment.
    ///
    /// # Errors
    /// Reading failed, or went past the end of the disk ([`io::ErrorKind::UnexpectedEof`]).
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        self.image.read_at(offset, buf)
    }

    /// Carries out `op` on this thread. A failure is told to the log, with path and errno, and to
    /// the guest as an outcome; it is never an error of ftd's own.
    pub fn perform(&self, op: &DiskOp) -> DiskOutcome {
        let done = self.try_perform(op);
        // A write that failed may have got there in part.
        match op {
            DiskOp::Write { offset, data } => self.written.mark(*offset, data.len() as u64),
            DiskOp::Discard { offset, len } => self.written.mark(*offset, *len),
            DiskOp::Read { .. } | DiskOp::Flush => {}
        }
        match done {
            Ok(outcome) => outcome,
            Err(error) => {
                self.report(op, &error);
                DiskOutcome::Failed(match error.kind() {
                    io::ErrorKind::Unsupported => DiskError::Unsupported,
                    _ => DiskError::Io,
                })
            }
        }
    }

    /// Makes sure that nothing more is written: for the host that lost the arbitration. Requests
    /// fail from now on, and a qcow2 that is dropped doesn't write its cached metadata back, over
    /// the winner's. What is on its way to the disk already can't be called back.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.image.abandon();
    }

    fn try_perform(&self, op: &DiskOp) -> io::Result<DiskOutcome> {
        match op {
            DiskOp::Read { offset, len } => {
                self.check_range(*offset, u64::from(*len))?;
                let mut data = Vec::new();
                data.try_reserve_exact(*len as usize)?;
                data.resize(*len as usize, 0);
                self.image.read_at(*offset, &mut data)?;
                Ok(DiskOutcome::Read(data))
            }
            DiskOp::Write { offset, data } => {
                self.check_range(*offset, data.len() as u64)?;
                self.check_writable()?;
                self.image.write_at(*offset, data)?;
                Ok(DiskOutcome::Done)
            }
            DiskOp::Flush if self.read_only => Ok(DiskOutcome::Done),
            DiskOp::Flush => self
                .check_writable()
                .and_then(|()| self.image.flush())
                .map(|()| DiskOutcome::Done),
            DiskOp::Discard { offset, len } => {
                self.check_range(*offset, *len)?;
                self.check_writable()?;
                if *len > 0 {
                    self.image.discard(*offset, *len)?;
                }
                Ok(DiskOutcome::Done)
            }
        }
    }

    /// The device model checked the range against its own capacity; a peer's or a log's request
    /// may have been checked against another disk's.
    fn check_range(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.capacity => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{len} bytes at {offset} reach past the disk's end at {}",
                    self.capacity
                ),
            )),
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only || self.abandoned.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        }
        Ok(())
    }

    /// Warns, but not for every request of a guest that retries for ever on a broken disk: the
    /// first 8 failures, then each time their number has doubled.
    fn report(&self, op: &DiskOp, error: &io::Error) {
        let count = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let told = self.abandoned.load(Ordering::Relaxed);
        if told || count > 8 && !count.is_power_of_two() {
            return;
        }
        let path = self.path.display();
        let errno = error.raw_os_error().unwrap_or(0);
        let (what, offset, len) = match op {
            DiskOp::Read { offset, len } => ("read", *offset, u64::from(*len)),
            DiskOp::Write { offset, data } => ("write", *offset, data.len() as u64),
            DiskOp::Flush => ("flush", 0, 0),
            DiskOp::Discard { offset, len } => ("discard", *offset, *len),
        };
        tracing::warn!(
            errno,
            failures = count,
            "disk {path}: {what} of {len} bytes at {offset} failed: {error}"
        );
    }
}

/// So that the kernel is found inside an image of any format.
impl vmm::image::ReadAt for Disk {
    fn len(&self) -> u64 {
        self.capacity
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Disk::read_exact_at(self, offset, buf)
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Disk")
            .field("path", &self.path)
            .field("format", &self.format)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// The layer that knows the format.
struct Opened {
    image: Box<dyn Image>,
    format: DiskFormat,
    identity: Option<DiskIdentity>,
}

impl Opened {
    fn now(image: Box<dyn Image>, format: DiskFormat) -> Opened {
        let identity = None;
        Opened {
            image,
            format,
            identity,
        }
    }
}

/// Opens the layer that knows the format.
fn open_image(path: &Path, options: &DiskOptions) -> Result<Opened, OpenError> {
    let file = raw::open_file(path, options.read_only, false)?;
    if options.direct {
        raw::forget_cached(&file);
    }
    let format = match options.format {
        DiskFormat::Auto => detect(path, &file)?,
        format => format,
    };
    if format == DiskFormat::Qcow2 {
        // A name that says qcow2 is the user's word, like the option.
        let named = options.format == DiskFormat::Qcow2
            || path.extension().is_some_and(|suffix| suffix == "qcow2");
        let opening = qcow2::Opening {
            read_only: options.read_only,
            references: named,
            direct: options.direct,
        };
        if !options.late {
            let image = qcow2::open_checked(path, opening)?;
            return Ok(Opened::now(Box::new(image), format));
        }
        // Not checked: it is being written to, and what its tables point to grows with them.
        let look = qcow2::Opening {
            read_only: true,
            ..opening
        };
        let now = qcow2::Qcow2Image::open(path, look)?;
        let capacity = now.capacity();
        let identity = identity::read(capacity, |offset, buf| now.read_at(offset, buf));
        let identity = identity.map_err(|source| OpenError::Read {
            path: path.to_owned(),
            source,
        })?;
        let image = late::LateImage::new(path.to_owned(), opening, capacity);
        return Ok(Opened {
            image: Box::new(image),
            format,
            identity: Some(identity),
        });
    }
    let file = match options.direct {
        true => raw::open_file(path, options.read_only, true)?,
        false => file,
    };
    let image = raw::RawImage::new(path, file, options.direct)?;
    Ok(Opened::now(Box::new(image), DiskFormat::Raw))
}

/// qcow2 by its magic number, everything else raw.
fn detect(path: &Path, file: &std::fs::File) -> Result<DiskFormat, OpenError> {
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == qcow2_check::MAGIC => Ok(DiskFormat::Qcow2),
        Ok(()) => Ok(DiskFormat::Raw),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(DiskFormat::Raw),
        Err(source) => Err(OpenError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests;
