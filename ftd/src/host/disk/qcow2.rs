//! qcow2 through the `imago` crate.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate,
    StorageOpenOptions,
};

use super::image::Image;
use super::options::OpenError;
use super::{qcow2_check, raw};

/// An open qcow2, with its backing files.
pub(super) struct Qcow2Image {
    /// One request at a time: discards need the image to themselves. Always there until the drop.
    access: Mutex<Option<FormatAccess<ImagoFile>>>,
    capacity: u64,
    /// Another host may take the image over at any time: each request leaves nothing in memory.
    write_through: bool,
    abandoned: AtomicBool,
}

/// How to open one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    /// Never write.
    pub(super) read_only: bool,
    /// It is trusted: open the files that it refers to (a backing file, an external data file).
    pub(super) references: bool,
    /// Other hosts have it too: past the page cache, and with nothing kept in memory.
    pub(super) direct: bool,
}

/// Opens the image at `path`, if all it points to is there.
pub(super) fn open_checked(path: &Path, opening: Opening) -> Result<Qcow2Image, OpenError> {
    let file = raw::open_file(path, opening.read_only, false)?;
    if opening.direct {
        raw::forget_cached(&file);
    }
    qcow2_check::check(path, &file)?;
    Qcow2Image::open(path, opening)
}

impl Qcow2Image {
    /// Opens the image at `path`.
    pub(super) fn open(path: &Path, opening: Opening) -> Result<Self, OpenError> {
        let Opening {
            read_only,
            references,
            direct,
        } = opening;
        let file = raw::open_file(path, read_only, direct)?;
        let path = path.to_owned();
        let opened = guarded(|| {
            let options = StorageOpenOptions::new()
                .filename(&path)
                .write(!read_only)
                .direct(direct);
            let storage = ImagoFile::from_open_file(file, options)?;
            let builder = Qcow2::<ImagoFile>::builder(storage).write(!read_only);
            let qcow2 = match references {
                true => builder.open(PermissiveImplicitOpenGate::default())?,
                false => builder.open(DenyImplicitOpenGate::default())?,
            };
            Ok(FormatAccess::new(qcow2))
        });
        match opened {
            Ok(access) => Ok(Qcow2Image {
                capacity: access.size(),
                access: Mutex::new(Some(access)),
                write_through: direct,
                abandoned: AtomicBool::new(false),
            }),
            Err(source) if !references && source.kind() == io::ErrorKind::PermissionDenied => {
                Err(OpenError::UntrustedReference { path, source })
            }
            Err(source) => Err(OpenError::Qcow2 { path, source }),
        }
    }

    /// Carries out a change, and leaves nothing of it in memory if it must not be there.
    fn change(
        &self,
        work: impl FnOnce(&mut FormatAccess<ImagoFile>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.with(|access| {
            work(access)?;
            match self.write_through {
                true => access.flush(),
                false => Ok(()),
            }
        })
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut FormatAccess<ImagoFile>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut access = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        // The lock may have been waited for: look only now.
        match access.as_mut() {
            Some(access) if !self.abandoned.load(Ordering::SeqCst) => guarded(|| work(access)),
            _ => Err(io::Error::from_raw_os_error(libc::ESHUTDOWN)),
        }
    }
}

/// Turns a panic inside `imago`, which parses whatever the image holds, into an error.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(io::Error::other(
            "the qcow2 driver panicked: the image is corrupt",
        ))
    })
}

impl Drop for Qcow2Image {
    fn drop(&mut self) {
        let access = self.access.get_mut();
        let access = access.unwrap_or_else(PoisonError::into_inner).take();
        if self.abandoned.load(Ordering::SeqCst) {
            // Dropped, it would write its metadata back.
            std::mem::forget(access);
        }
    }
}

impl Image for Qcow2Image {
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
        self.with(|access| access.read(buf, offset))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|access| access.write(data, offset))
    }

    fn flush(&self) -> io::Result<()> {
        self.with(|access| {
            access.flush()?;
            access.sync()
        })
    }

    fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(|access| access.discard_to_any(offset, len))
    }
}
