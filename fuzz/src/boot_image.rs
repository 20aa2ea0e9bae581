//! What to boot is looked for in the guest's own disk: partition tables, ext4, FAT, boot entries.

use std::sync::Arc;

use vmm::image::read_at::Disk;
use vmm::image::{INITRD_BYTES_MAX, KERNEL_BYTES_MAX, find_boot_files};

use crate::heap::bounded;
use crate::patched::Bases;
use crate::source::Source;
use crate::third_party;

static BASES: Bases<5> = Bases::new([
    include_bytes!("../../vmm/src/image/testdata/entries.ext4.gz"),
    include_bytes!("../../vmm/src/image/testdata/debian-root.ext4.gz"),
    include_bytes!("../base/gpt.gz"),
    include_bytes!("../base/mbr.gz"),
    include_bytes!("../base/fat.gz"),
]);
/// What a small image may make ftd hold, in bytes.
const MEMORY: usize = 64 << 20;

/// The data are an image: see [`Bases::image`].
///
/// # Panics
/// ftd's own code panics, or files are larger than they may be, or memory is not bounded.
pub fn run(data: &[u8]) {
    let image = BASES.image(&mut Source::new(data));
    let disk: Disk = Arc::new(image);
    if let Ok(files) = third_party::may_panic(|| bounded(MEMORY, || find_boot_files(&disk))) {
        assert!(files.kernel.len() as u64 <= KERNEL_BYTES_MAX);
        let initrd = files.initrd.map_or(0, |initrd| initrd.len());
        assert!(initrd as u64 <= INITRD_BYTES_MAX);
    }
}
