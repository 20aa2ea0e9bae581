use super::super::testing::{
    boot_only, debian_root, disk, entries, fat, gpt, mbr, mbr_logical, no_kernel, root_only,
};
use super::*;
use proptest::prelude::*;

const ROOT_UUID: &str = "11111111-1111-1111-1111-111111111111";

fn find(bytes: Vec<u8>) -> Result<BootFiles, ImageError> {
    find_boot_files(&disk(bytes))
}

fn message(bytes: Vec<u8>) -> String {
    find(bytes).unwrap_err().to_string()
}

fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn debians_links_are_followed_on_every_kind_of_disk() {
    let root = debian_root();
    for (bytes, place) in [
        (root.clone(), "the disk"),
        (mbr(std::slice::from_ref(&root)), "partition 1"),
        (mbr_logical(&[fat(&[]), root.clone()]), "partition 6"),
        (gpt(&[fat(&[]), root]), "partition 2"),
    ] {
        let found = find(bytes).unwrap();
        assert_eq!(text_of(&found.kernel), "kernel 10");
        assert_eq!(found.initrd.as_deref(), Some(&b"initrd 10"[..]));
        assert_eq!(
            found.cmdline,
            format!("root=UUID={ROOT_UUID} ro console=ttyS0 quiet")
        );
        assert_eq!(found.described_by, format!("{place} (ext4), /vmlinuz"));
    }
}

#[test]
fn links_lead_into_a_boot_partition_of_its_own() {
    for volumes in [[root_only(), boot_only()], [boot_only(), root_only()]] {
        let found = find(gpt(&volumes)).unwrap();
        assert_eq!(text_of(&found.kernel), "kernel 10");
        assert_eq!(found.initrd.as_deref(), Some(&b"initrd 10"[..]));
        assert!(
            found
                .cmdline
                .starts_with("root=UUID=22222222-2222-2222-2222-222222222222 "),
            "{}",
            found.cmdline
        );
    }
}

#[test]
fn the_newest_kernel_is_taken_where_nothing_says_which() {
    let found = find(boot_only()).unwrap();
    assert_eq!(text_of(&found.kernel), "kernel 10");
    assert_eq!(
        found.described_by,
        "the disk (ext4), /vmlinuz-6.1.0-10-cloud-amd64"
    );
}

#[test]
fn boot_loader_entries_come_first() {
    let found = find(gpt(&[debian_root(), entries()])).unwrap();
    assert_eq!(text_of(&found.kernel), "kernel 2");
    assert_eq!(found.initrd.as_deref(), Some(&b"first, second"[..]));
    assert_eq!(found.cmdline, "root=LABEL=deb ro console=ttyS0");
    assert_eq!(
        found.described_by,
        "partition 2 (ext4), /boot/loader/entries/deb-2.conf"
    );
}

#[test]
fn entries_on_an_efi_system_partition_count_from_its_root() {
    let esp = fat(&[
        (
            "loader/entries/abc-6.1.conf",
            b"linux /abc/linux\ninitrd /abc/initrd\n",
        ),
        ("abc/linux", b"kernel on FAT"),
        ("abc/initrd", b"initrd on FAT"),
    ]);
    let found = find(gpt(&[esp, root_only()])).unwrap();
    assert_eq!(text_of(&found.kernel), "kernel on FAT");
    assert_eq!(found.initrd.as_deref(), Some(&b"initrd on FAT"[..]));
    assert_eq!(
        found.cmdline,
        "root=UUID=22222222-2222-2222-2222-222222222222 ro console=ttyS0 quiet"
    );
}

#[test]
fn a_large_file_on_fat_is_read_whole() {
    let kernel: Vec<u8> = (0..200_000_u32).map(|at| (at % 253) as u8).collect();
    let found = find(fat(&[("vmlinuz-1", &kernel)])).unwrap();
    assert!(found.kernel == kernel);
    assert_eq!(found.cmdline, "root=UUID=1234-ABCD ro console=ttyS0 quiet");
    assert_eq!(found.initrd, None);
}

#[test]
fn an_image_without_a_kernel_says_what_was_looked_at() {
    assert_eq!(
        message(gpt(&[fat(&[]), no_kernel(), vec![0; 4096]])),
        "no kernel in the disk image: no Boot Loader Specification entry, no /vmlinuz link and no \
         /boot/vmlinuz-* (looked at partition 1 (FAT); partition 2 (ext4); partition 3: it holds \
         no filesystem that is known); give --kernel and --initrd to boot files from outside the \
         image"
    );
}

#[test]
fn an_image_without_a_filesystem_says_what_it_holds() {
    let mut xfs = vec![0; 8192];
    xfs[..4].copy_from_slice(b"XFSB");
    assert_eq!(
        message(mbr(&[xfs])),
        "no ext4 or FAT filesystem in the disk image (looked at partition 1: it holds an XFS \
         filesystem); give --kernel and --initrd to boot files from outside the image"
    );
    assert!(message(vec![0; 4096]).contains("no filesystem that is known"));
}

#[test]
fn empty_truncated_and_foreign_images_are_named() {
    assert!(message(Vec::new()).contains("empty (0 bytes)"));
    let mut half = debian_root();
    half.truncate(half.len() / 2);
    assert_eq!(
        message(half),
        "the disk image is truncated: its filesystem ends at byte 2097152 and the image has \
         1048576; copy it again"
    );
    let mut qcow2 = vec![0; 4096];
    qcow2[..4].copy_from_slice(b"QFI\xfb");
    assert!(message(qcow2).contains("qcow2 format"));
}

#[test]
fn a_kernel_that_is_too_big_is_not_read() {
    // The inode of a sparse file can say any size: here the kernel's is made larger by hand.
    let esp = fat(&[("vmlinuz-1", b"x")]);
    let at = esp
        .windows(11)
        .position(|name| name.starts_with(b"VMLINU~1"))
        .unwrap();
    let mut hostile = esp;
    hostile[at + 28..at + 32].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    let message = message(hostile);
    assert!(message.contains("4294967280 bytes, more than"), "{message}");
}

/// An image that takes a look at all that the reader knows.
fn complete() -> Vec<u8> {
    let esp = fat(&[
        ("loader/entries/a.conf", b"linux /gone\n"),
        ("vmlinuz-1", b"kernel on FAT"),
    ]);
    gpt(&[esp, root_only(), entries()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_images_end_in_an_error_or_files(
        which in 0..6_usize,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..24),
        metadata in any::<bool>(),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = match which {
            0 => debian_root(),
            1 => entries(),
            2 => fat(&[("loader/entries/a.conf", b"linux /l\n"), ("l", b"kernel")]),
            3 => mbr_logical(&[fat(&[]), no_kernel()]),
            4 => boot_only(),
            _ => complete(),
        };
        for (at, byte) in damage {
            // Half of the time where the tables and the superblocks are.
            let range = if metadata { bytes.len().min(0x8000) } else { bytes.len() };
            let at = at.index(range);
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len()));
        }
        let _ = find(bytes);
    }
}
