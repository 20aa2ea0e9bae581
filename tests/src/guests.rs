//! The tiny guests, and disk images good and bad.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::program::{build_directory, checkout};

/// The tiny guest of that name, as a kernel.
pub fn tiny(name: &str) -> String {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let directory = build_directory().join("tiny-guests");
        std::fs::create_dir_all(&directory).expect("a directory for guests");
        // Other test programs may be using those that are there: they are replaced whole.
        let new = tempfile::tempdir_in(&directory).expect("a temporary directory");
        let built = Command::new(checkout().join("guest-images/tiny/build"))
            .arg(new.path())
            .output()
            .expect("guest-images/tiny/build runs");
        assert!(built.status.success(), "{built:?}");
        for guest in std::fs::read_dir(new.path()).expect("guests").flatten() {
            let to = directory.join(guest.file_name());
            std::fs::rename(guest.path(), to).expect("a guest in its place");
        }
        directory
    });
    text(&directory.join(format!("{name}.elf")))
}

/// A disk image without a partition table that holds a Debian root file system, but texts where its
/// kernels should be.
pub fn root_without_kernel_files(to: &Path) {
    unpack(
        include_bytes!("../../vmm/src/image/testdata/debian-root.ext4.gz"),
        to,
    );
}

/// A disk image with a file system and nothing to boot in it.
pub fn no_kernel(to: &Path) {
    unpack(
        include_bytes!("../../vmm/src/image/testdata/no-kernel.ext4.gz"),
        to,
    );
}

fn unpack(packed: &[u8], to: &Path) {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_end(&mut bytes)
        .expect("an image that unpacks");
    std::fs::write(to, bytes).expect("room for an image");
}

/// An empty raw disk of `bytes`.
pub fn blank_disk(to: &Path, bytes: u64) {
    let file = std::fs::File::create(to).expect("room for a disk");
    file.set_len(bytes).expect("room for a disk");
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}
