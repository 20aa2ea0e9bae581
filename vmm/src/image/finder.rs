//! Looks through the volumes of a disk for something to boot.
//!
//! In this order, in all volumes each: Boot Loader Specification entries, Debian's links
//! (`/vmlinuz`, `/initrd.img`), the newest `/boot/vmlinuz-*`.

mod candidate;

use super::error::ImageError;
use super::partition;
use super::path::{Resolved, resolve};
use super::read_at::{Disk, Window};
use super::volume::Node;
use super::volume::{self, Volume, VolumeError};
use super::{INITRD_BYTES_MAX, KERNEL_BYTES_MAX, TEXT_BYTES_MAX};
use candidate::Candidate;
use std::sync::Arc;

/// What a system's own boot loader would have loaded.
#[derive(Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel file.
    pub kernel: Vec<u8>,
    /// The initrd; several parts are put together.
    pub initrd: Option<Vec<u8>>,
    /// The command line.
    pub cmdline: String,
    /// Where that comes from, for people: `partition 1 (ext4), /vmlinuz`.
    pub described_by: String,
}

impl std::fmt::Debug for BootFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("BootFiles")
            .field("kernel_bytes", &self.kernel.len())
            .field("initrd_bytes", &self.initrd.as_ref().map(Vec::len))
            .field("cmdline", &self.cmdline)
            .field("described_by", &self.described_by)
            .finish()
    }
}

/// A filesystem of the disk and where it is.
pub(super) struct Place {
    pub(super) volume: Box<dyn Volume>,
    /// `partition 1` or `the disk`.
    name: String,
}

impl Place {
    /// `partition 1 (ext4)`.
    pub(super) fn describe(&self) -> String {
        format!("{} ({})", self.name, self.volume.filesystem())
    }
}

/// Finds kernel, initrd and command line in a disk.
///
/// # Errors
///
/// There is no kernel, or the disk is empty, truncated or damaged: see [`ImageError`].
pub fn find_boot_files(disk: &Disk) -> Result<BootFiles, ImageError> {
    if disk.is_empty() {
        return Err(ImageError::Empty);
    }
    let (places, looked) = open_places(disk)?;
    if places.is_empty() {
        return Err(ImageError::NoFilesystem { looked });
    }
    let candidate = candidate::find(&places).map_err(|(place, error)| ImageError::BootFile {
        path: "a directory or link".into(),
        place: places[place].describe(),
        named_by: "the search for a kernel".into(),
        problem: error.to_string(),
    })?;
    match candidate {
        Some(candidate) => read(&places, &candidate),
        None => Err(ImageError::NoKernel { looked }),
    }
}

/// Opens every filesystem of the disk that can be read; with a line on each for people.
fn open_places(disk: &Disk) -> Result<(Vec<Place>, Vec<String>), ImageError> {
    let mut places = Vec::new();
    let mut looked = Vec::new();
    let Some(partitions) = partition::read_table(disk)? else {
        if let Some(format) = volume::image_format(disk) {
            return Err(ImageError::Format { format });
        }
        match volume::open(disk) {
            Ok(volume) => places.push(Place {
                volume,
                name: "the disk".into(),
            }),
            Err(VolumeError::Truncated {
                needed_bytes,
                have_bytes,
            }) => {
                return Err(ImageError::Truncated {
                    what: "its filesystem".into(),
                    needed_bytes,
                    have_bytes,
                });
            }
            Err(error) => looked.push(format!("the disk: {error}")),
        }
        looked.extend(places.iter().map(Place::describe));
        return Ok((places, looked));
    };
    for partition in partitions {
        let name = format!("partition {}", partition.number);
        let window: Disk = Arc::new(Window::new(disk.clone(), partition.start, partition.bytes));
        match volume::open(&window) {
            Ok(volume) => {
                let place = Place { volume, name };
                looked.push(place.describe());
                places.push(place);
            }
            Err(error) => looked.push(format!("{name}: {error}")),
        }
    }
    Ok((places, looked))
}

fn read(places: &[Place], candidate: &Candidate) -> Result<BootFiles, ImageError> {
    let file = |(place, path): &(usize, String), max_bytes| {
        places[*place]
            .volume
            .read(path, max_bytes)
            .map_err(|error| ImageError::BootFile {
                path: path.clone(),
                place: places[*place].describe(),
                named_by: candidate.named_by.clone(),
                problem: match error {
                    VolumeError::FileTooBig { .. } => error.to_string(),
                    other => format!("can't be read: {other}"),
                },
            })
    };
    let kernel = file(&candidate.kernel, KERNEL_BYTES_MAX)?;
    let mut initrd = Vec::new();
    for part in &candidate.initrd {
        let room = INITRD_BYTES_MAX - initrd.len() as u64;
        initrd.append(&mut file(part, room)?);
    }
    Ok(BootFiles {
        kernel,
        initrd: (!candidate.initrd.is_empty()).then_some(initrd),
        cmdline: candidate
            .options
            .clone()
            .unwrap_or_else(|| default_cmdline(places, candidate.kernel.0)),
        described_by: format!(
            "{}, {}",
            places[candidate.place].describe(),
            candidate.named_by
        ),
    })
}

/// The command line of a system that does not give its own.
fn default_cmdline(places: &[Place], kernel: usize) -> String {
    let root = places.iter().position(is_root).unwrap_or(kernel);
    let given = text(&places[root], "/etc/kernel/cmdline");
    let options = given
        .as_deref()
        .map(str::trim)
        .filter(|given| !given.is_empty());
    let uuid = places[root].volume.uuid();
    match options {
        Some(options)
            if options
                .split_whitespace()
                .any(|word| word.starts_with("root=")) =>
        {
            options.to_owned()
        }
        Some(options) => format!("root=UUID={uuid} {options}"),
        None => format!("root=UUID={uuid} ro console=ttyS0 quiet"),
    }
}

/// Whether a volume is a system's root: it has what the kernel would run first.
fn is_root(place: &Place) -> bool {
    [
        "/sbin/init",
        "/usr/lib/systemd/systemd",
        "/etc/os-release",
        "/bin/sh",
    ]
    .into_iter()
    // A link that leads out of the volume is there as well.
    .any(|path| {
        let found = resolve(place.volume.as_ref(), path);
        matches!(found, Ok(Resolved::Found(_, Node::File)))
    })
}

/// A small text file, if it is there and is text.
pub(super) fn text(place: &Place, path: &str) -> Option<String> {
    let Ok(Resolved::Found(path, Node::File)) = resolve(place.volume.as_ref(), path) else {
        return None;
    };
    let bytes = place.volume.read(&path, TEXT_BYTES_MAX).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
