//! Finds out which kind of arbiter a path calls for.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::directory::DirectoryArbiter;
use super::etcd::{Address, EtcdArbiter};
use super::region::{self, RegionArbiter};
use super::{Arbiter, ArbiterError, HostSlot, ID_BYTES_MAX};

/// Opens the arbiter on `shared` for the virtual machine `vm_id`: a directory, a block device or
/// file prepared by [`format_device`], or an etcd ([`Address`]). `host_id` names this host to the others and must be unique
/// among them; a host that comes back under the same name is the same bidder. `slot` matters on a
/// device only.
///
/// # Errors
/// [`ArbiterError`]: the path is missing, of another kind, not prepared, another machine's, or the
/// slot is taken.
pub fn open(
    shared: &Path,
    vm_id: &str,
    host_id: &str,
    slot: HostSlot,
) -> Result<Box<dyn Arbiter>, ArbiterError> {
    check_id("virtual machine", vm_id)?;
    check_id("host", host_id)?;
    if let Some(name) = shared.to_str().filter(|name| Address::is_etcd(name)) {
        return Ok(Box::new(EtcdArbiter::open(name, vm_id, host_id)?));
    }
    let kind = match std::fs::metadata(shared) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ArbiterError::Missing {
                path: shared.to_owned(),
            });
        }
        Err(error) => return Err(ArbiterError::io("look at", shared)(error)),
    };
    if kind.is_dir() {
        return Ok(Box::new(DirectoryArbiter::open(shared, vm_id, host_id)?));
    }
    if kind.is_file() || kind.is_block_device() {
        return Ok(Box::new(RegionArbiter::open(shared, vm_id, host_id, slot)?));
    }
    Err(ArbiterError::WrongKind {
        path: shared.to_owned(),
        wanted: "directory, block device or file",
    })
}

/// Whether `shared` names an etcd, and no file.
pub fn is_etcd(shared: &Path) -> bool {
    shared.to_str().is_some_and(Address::is_etcd)
}

/// Prepares a block device (or a file) at `path` as shared storage for the virtual machine `vm_id`,
/// once, before any host uses it. Overwrites its beginning ([`super::layout::AREA_BYTES`]); with
/// `force` whatever is there, *including the decisions of a pair that is running on it*.
///
/// # Errors
/// [`ArbiterError::NotEmpty`] without `force` if there is anything but zeros there,
/// [`ArbiterError::TooSmall`], [`ArbiterError::NoDirect`], or failures of I/O, such as EBUSY for a
/// device that is mounted.
pub fn format_device(path: &Path, vm_id: &str, force: bool) -> Result<(), ArbiterError> {
    check_id("virtual machine", vm_id)?;
    region::format(path, vm_id, force)
}

fn check_id(what: &'static str, id: &str) -> Result<(), ArbiterError> {
    if id.is_empty() || id.len() > ID_BYTES_MAX || id.contains(|c: char| c.is_control()) {
        let id = id.to_owned();
        return Err(ArbiterError::BadId { what, id });
    }
    Ok(())
}
