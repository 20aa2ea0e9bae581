//! Disk images: a guest that is given a raw disk can write a qcow2 header to it, and an image may come from
//! anywhere.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use devices::{DiskOp, DiskOutcome};
use ftd::host::disk::{Disk, DiskFormat, DiskOptions, SECTOR_BYTES};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::heap::bounded;
use crate::patched::Bases;
use crate::source::Source;
use crate::third_party;

static BASES: Bases<2> = Bases::new([
    include_bytes!("../base/qcow2-v3.gz"),
    include_bytes!("../base/qcow2-v2.gz"),
]);
/// What a small image may make ftd hold, in bytes.
const MEMORY: usize = 128 << 20;
/// Largest request that is made, in sectors.
const SECTORS_MAX: u64 = 16;

/// Requests (the first byte says how many bytes of them follow), then the image: see [`Bases::image`].
///
/// # Panics
/// ftd's own code panics, an answer is not one to what was asked, a raw disk does not hold what was written,
/// or memory is not bounded.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let len = usize::from(source.u8());
    let requests = source.take(len);
    let image = BASES.image(&mut source);
    let mut file: File = memfd_create("image", MFdFlags::MFD_CLOEXEC)
        .expect("a file")
        .into();
    file.write_all(&image).expect("room for an image");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let memory = MEMORY + 2 * image.len();
    let all = || {
        if let Ok(disk) = Disk::open(&path, &DiskOptions::default()) {
            use_disk(&disk, image, &mut Source::new(requests));
        }
    };
    third_party::may_panic(|| bounded(memory, all));
}

fn use_disk(disk: &Disk, mut model: Vec<u8>, requests: &mut Source<'_>) {
    let capacity = disk.capacity_bytes();
    assert!(capacity > 0 && capacity.is_multiple_of(SECTOR_BYTES));
    let raw = disk.format() == DiskFormat::Raw;
    assert!(!raw || capacity == model.len() as u64);
    let _ = disk.identity();
    while !requests.is_empty() {
        let kind = requests.below(4);
        // Mostly within the disk.
        let offset = match requests.u8() {
            0xff => requests.u64(),
            _ => u64::from(requests.u16()) * SECTOR_BYTES % capacity,
        };
        let sectors = u64::from(requests.u8()) % SECTORS_MAX + 1;
        let len = sectors * SECTOR_BYTES;
        let within = offset.checked_add(len).is_some_and(|end| end <= capacity);
        let range = move || offset as usize..(offset + len) as usize;
        let op = match kind {
            0 => DiskOp::Read {
                offset,
                len: len as u32,
            },
            1 => DiskOp::Write {
                offset,
                data: vec![requests.u8(); len as usize],
            },
            2 => DiskOp::Flush,
            _ => DiskOp::Discard { offset, len },
        };
        let outcome = disk.perform(&op);
        match (&op, &outcome) {
            (DiskOp::Read { .. }, DiskOutcome::Read(data)) => {
                assert!(within && data.len() as u64 == len);
                assert!(
                    !raw || model[range()] == data[..],
                    "it reads what is not there"
                );
            }
            (DiskOp::Write { data, .. }, DiskOutcome::Done) => {
                assert!(within);
                if raw {
                    model[range()].copy_from_slice(data);
                }
            }
            (DiskOp::Discard { .. }, DiskOutcome::Done) => {
                assert!(within);
                if raw {
                    // Zeros or what was there; memfd's holes are zeros.
                    model[range()].fill(0);
                }
            }
            (DiskOp::Flush, DiskOutcome::Done) => {}
            (DiskOp::Flush, DiskOutcome::Failed(_)) => assert!(!raw),
            (_, DiskOutcome::Failed(_)) => assert!(!raw || !within || kind == 3),
            (op, outcome) => panic!("{outcome:?} is no answer to {op:?}"),
        }
    }
}
