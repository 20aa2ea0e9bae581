//! What could be booted, by each of the conventions.

use super::super::bls::Entry;
use super::super::path::{Resolved, resolve};
use super::super::version;
use super::super::volume::{Node, VolumeError};
use super::{Place, text};

/// Most entries that are read from one directory.
const ENTRIES_MAX: usize = 256;

/// Files to boot: each with the index of its volume and its path there, links followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The volume that says so.
    pub(super) place: usize,
    /// What in it says so.
    pub(super) named_by: String,
    pub(super) kernel: (usize, String),
    pub(super) initrd: Vec<(usize, String)>,
    pub(super) options: Option<String>,
}

/// The best candidate. An error comes with the index of the volume that it is about.
pub(super) fn find(places: &[Place]) -> Result<Option<Candidate>, (usize, VolumeError)> {
    for look in [bls, links, newest] {
        let mut damage = None;
        for index in 0..places.len() {
            match look(places, index) {
                Ok(Some(candidate)) => return Ok(Some(candidate)),
                Ok(None) => {}
                Err(error) => {
                    damage.get_or_insert((index, error));
                }
            }
        }
        // Something less than what the image asks for must not be booted in its place.
        if let Some(damage) = damage {
            return Err(damage);
        }
    }
    Ok(None)
}

/// Boot loader entries, on a volume that is a root, a `/boot` or an EFI system partition.
fn bls(places: &[Place], index: usize) -> Result<Option<Candidate>, VolumeError> {
    let place = &places[index];
    for dir in ["/loader/entries", "/boot/loader/entries"] {
        let Resolved::Found(dir, Node::Dir) = resolve(place.volume.as_ref(), dir)? else {
            continue;
        };
        let names = place.volume.names(&dir)?;
        let mut entries: Vec<(Entry, String)> = names
            .into_iter()
            .filter(|name| name.ends_with(".conf"))
            .take(ENTRIES_MAX)
            .filter_map(|name| {
                let path = format!("{dir}/{name}");
                Some((Entry::parse(&name, &text(place, &path)?)?, path))
            })
            .collect();
        entries.sort_by(|(a, _), (b, _)| a.menu_order(b));
        for (entry, path) in entries {
            // An entry whose files are gone is what a removed kernel leaves behind.
            if let Some(candidate) = from_entry(places, index, &entry, path)? {
                return Ok(Some(candidate));
            }
        }
    }
    Ok(None)
}

fn from_entry(
    places: &[Place],
    index: usize,
    entry: &Entry,
    path: String,
) -> Result<Option<Candidate>, VolumeError> {
    let Some(kernel) = locate(places, index, &entry.linux)? else {
        return Ok(None);
    };
    let mut initrd = Vec::new();
    for part in &entry.initrd {
        match locate(places, index, part)? {
            Some(found) => initrd.push(found),
            None => return Ok(None),
        }
    }
    Ok(Some(Candidate {
        place: index,
        named_by: path,
        kernel,
        initrd,
        options: entry.options.clone(),
    }))
}

/// Debian's links, in the root or in a `/boot` of its own.
fn links(places: &[Place], index: usize) -> Result<Option<Candidate>, VolumeError> {
    for (kernel, initrd) in [
        ("/vmlinuz", "/initrd.img"),
        ("/boot/vmlinuz", "/boot/initrd.img"),
    ] {
        // Only a link or file that is here may lead to another volume.
        let is_here = places[index].volume.node(kernel)?.is_some();
        if is_here && let Some(found) = locate(places, index, kernel)? {
            return Ok(Some(Candidate {
                place: index,
                named_by: kernel.into(),
                kernel: found,
                initrd: locate(places, index, initrd)?.into_iter().collect(),
                options: None,
            }));
        }
    }
    Ok(None)
}

/// The newest kernel by its file name.
fn newest(places: &[Place], index: usize) -> Result<Option<Candidate>, VolumeError> {
    let volume = places[index].volume.as_ref();
    for dir in ["/boot", "/"] {
        let Resolved::Found(dir, Node::Dir) = resolve(volume, dir)? else {
            continue;
        };
        let names = volume.names(&dir)?;
        let mut versions: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_prefix("vmlinuz-"))
            .filter(|version| !version.ends_with(".old") && !version.contains("rescue"))
            .collect();
        versions.sort_by(|a, b| version::compare(b, a));
        let base = dir.trim_end_matches('/');
        for version in versions {
            let kernel = format!("{base}/vmlinuz-{version}");
            let Some(found) = locate(places, index, &kernel)? else {
                continue;
            };
            let initrd = [
                format!("{base}/initrd.img-{version}"),
                format!("{base}/initramfs-{version}.img"),
                format!("{base}/initrd-{version}"),
            ];
            let mut parts = Vec::new();
            for path in initrd {
                if let Some(part) = locate(places, index, &path)? {
                    parts.push(part);
                    break;
                }
            }
            return Ok(Some(Candidate {
                place: index,
                named_by: kernel,
                kernel: found,
                initrd: parts,
                options: None,
            }));
        }
    }
    Ok(None)
}

/// Finds a file that volume `index` names. If it isn't there, and lies in a `/boot` that may be
/// a volume of its own, the others are asked; and paths that leave `/boot` out are tried with it,
/// because an entry counts from its own volume's root and is not always written so.
fn locate(
    places: &[Place],
    index: usize,
    path: &str,
) -> Result<Option<(usize, String)>, VolumeError> {
    let wanted = match resolve(places[index].volume.as_ref(), path)? {
        Resolved::Found(found, Node::File) => return Ok(Some((index, found))),
        Resolved::Found(..) => return Ok(None),
        Resolved::Absent(wanted) => wanted,
    };
    let in_boot = wanted
        .strip_prefix("/boot")
        .filter(|rest| rest.starts_with('/'));
    let found_at = |index: usize, path: &str| {
        let found = resolve(places[index].volume.as_ref(), path);
        Ok(match found? {
            Resolved::Found(found, Node::File) => Some((index, found)),
            _ => None,
        })
    };
    match in_boot {
        Some(rest) => {
            for other in std::iter::once(index).chain(0..places.len()) {
                if let Some(found) = found_at(other, rest)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }
        None => found_at(index, &format!("/boot{wanted}")),
    }
}
