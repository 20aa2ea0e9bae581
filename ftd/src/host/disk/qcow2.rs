//! qcow2 through the `imago` crate.

use std::fs::File;
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

/// An open qcow2, with its backing files.
pub(super) struct Qcow2Image {
    /// One request at a time: discards need the image to themselves. Always there until the drop.
    access: Mutex<Option<FormatAccess<ImagoFile>>>,
    capacity: u64,
    abandoned: AtomicBool,
}

impl Qcow2Image {
    /// Opens the image in `file`, which was opened at `path`. Files that it refers to (a backing
    /// file, an external data file) are opened only if `references` says that it is trusted.
    pub(super) fn open(
        path: &Path,
        file: File,
        read_only: bool,
        references: bool,
    ) -> Result<Self, OpenError> {
        let path = path.to_owned();
        let opened = guarded(|| {
            let options = StorageOpenOptions::new().filename(&path).write(!read_only);
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
                abandoned: AtomicBool::new(false),
            }),
            Err(source) if !references && source.kind() == io::ErrorKind::PermissionDenied => {
                Err(OpenError::UntrustedReference { path, source })
            }
            Err(source) => Err(OpenError::Qcow2 { path, source }),
        }
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
        self.with(|access| access.write(data, offset))
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
        self.with(|access| access.discard_to_any(offset, len))
    }
}
