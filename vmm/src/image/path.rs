//! Paths and links inside an image, followed here so that links that leave their filesystem can be
//! followed into a separate `/boot`, and so that no filesystem crate sees a hostile link.

use super::volume::{Node, Volume, VolumeError};

/// Links that are followed at most, as Linux does.
const LINKS_MAX: usize = 40;
/// Longest path and longest name, in bytes, as Linux has them.
const PATH_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;

/// Where a path leads in one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// To this path without links, which is a file or directory.
    Found(String, Node),
    /// Nowhere. With the absolute path that was looked for when links had been followed as far as
    /// they go: another volume may have it.
    Absent(String),
}

/// Follows `path` from the root of `volume`.
///
/// # Errors
///
/// The filesystem is damaged, or the links run in a circle.
pub fn resolve(volume: &dyn Volume, path: &str) -> Result<Resolved, VolumeError> {
    let mut waiting: Vec<String> = components(path);
    let mut done: Vec<String> = Vec::new();
    let mut node = Node::Dir;
    let mut links = 0;
    while let Some(name) = waiting.pop() {
        match name.as_str() {
            "." => continue,
            ".." => {
                done.pop();
                node = Node::Dir;
                continue;
            }
            _ => {}
        }
        let here = join(&done, &name);
        if name.len() > NAME_BYTES_MAX || here.len() > PATH_BYTES_MAX {
            return Ok(Resolved::Absent("a path that is too long".into()));
        }
        match volume.node(&here)? {
            Some(Node::Link(target)) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(VolumeError::Filesystem {
                        filesystem: volume.filesystem(),
                        reason: format!("the links of {path} run in a circle"),
                    });
                }
                if target.starts_with('/') {
                    done.clear();
                }
                waiting.extend(components(&target));
                node = Node::Dir;
            }
            Some(found) => {
                done.push(name);
                node = found;
            }
            None => {
                done.push(name);
                done.extend(waiting.into_iter().rev());
                return Ok(Resolved::Absent(normal(&done)));
            }
        }
    }
    Ok(Resolved::Found(normal(&done), node))
}

/// Components of a path, the last one first.
fn components(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|name| !name.is_empty())
        .rev()
        .map(str::to_owned)
        .collect()
}

fn join(dir: &[String], name: &str) -> String {
    let mut path = String::new();
    for part in dir {
        path.push('/');
        path.push_str(part);
    }
    path.push('/');
    path.push_str(name);
    path
}

/// An absolute path of these components, with `.` and `..` taken out.
fn normal(parts: &[String]) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in parts {
        match part.as_str() {
            "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests;
