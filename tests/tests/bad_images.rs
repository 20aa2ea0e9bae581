//! Disk images and kernels that can't be booted.

use std::path::{Path, PathBuf};

use tests::guests::{blank_disk, no_kernel, root_without_kernel_files, text, tiny};
use tests::need_kvm;
use tests::program::ftd;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary directory"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Every command that boots must refuse what these options name, and leave nothing behind.
    #[track_caller]
    fn refuses(&self, options: &[&str], words: &[&str]) {
        let (log, shared, events) = (self.at("log"), self.at("shared"), self.at("events"));
        // There already, if this isn't the first time.
        let _ = std::fs::create_dir(&shared);
        let (log, shared, events) = (text(&log), text(&shared), text(&events));
        for command in [
            &["run"][..],
            &["record", "--log", &log],
            &["primary", "--shared", &shared, "--events", &events],
        ] {
            let ended = ftd(command.iter().chain(options).chain(&["--console", "none"]));
            ended.failed_with(1, words);
            assert_eq!(ended.stdout, "");
        }
        assert!(!Path::new(&log).exists() && !Path::new(&events).exists());
        assert_eq!(std::fs::read_dir(&shared).expect("a directory").count(), 0);
    }
}

#[test]
fn missing() {
    need_kvm!();
    let place = Place::new();
    let image = text(&place.at("disk.raw"));
    place.refuses(&["--image", &image], &[&image, "does not exist"]);
    place.refuses(&["--kernel", &image], &["cannot read kernel", &image]);
    let kernel = tiny("clock");
    place.refuses(
        &["--kernel", &kernel, "--initrd", &image],
        &["cannot read initrd", &image],
    );
}

#[test]
fn of_the_wrong_kind() {
    need_kvm!();
    let place = Place::new();
    let directory = text(place.0.path());
    place.refuses(
        &["--image", &directory],
        &[&directory, "neither a file nor"],
    );
    let empty = place.at("empty.raw");
    blank_disk(&empty, 0);
    place.refuses(&["--image", &text(&empty)], &["is empty"]);
    let odd = place.at("odd.raw");
    blank_disk(&odd, 1000);
    place.refuses(&["--image", &text(&odd)], &["not a multiple of 512"]);
}

#[test]
fn without_a_kernel() {
    need_kvm!();
    let place = Place::new();
    let image = place.at("no-kernel.raw");
    no_kernel(&image);
    place.refuses(
        &["--image", &text(&image)],
        &["no kernel in the disk image", "/vmlinuz", "--kernel"],
    );
    let blank = place.at("blank.raw");
    blank_disk(&blank, 1 << 20);
    place.refuses(&["--image", &text(&blank)], &[&text(&blank)]);
}

#[test]
fn with_a_text_for_a_kernel() {
    need_kvm!();
    let place = Place::new();
    let image = place.at("texts.raw");
    root_without_kernel_files(&image);
    place.refuses(
        &["--image", &text(&image)],
        &["/vmlinuz", "neither a bzImage nor an ELF file"],
    );
}

#[test]
fn truncated() {
    need_kvm!();
    let place = Place::new();
    let image = place.at("cut.raw");
    root_without_kernel_files(&image);
    let bytes = std::fs::read(&image).unwrap();
    for keep in [512, 4096, 64 << 10, bytes.len() / 2, bytes.len() - 512] {
        std::fs::write(&image, &bytes[..keep]).unwrap();
        place.refuses(&["--image", &text(&image)], &[&text(&image)]);
    }
    place.refuses(
        &["--image", &text(&image)],
        &["truncated", "ends at byte", "copy it again"],
    );
}

#[test]
fn a_truncated_qcow2() {
    need_kvm!();
    let place = Place::new();
    let image = place.at("cut.qcow2");
    // A header of version 3 whose tables lie behind the end of the file (qcow2.txt, section 1).
    let mut header = Vec::new();
    header.extend_from_slice(b"QFI\xfb");
    header.extend_from_slice(&3u32.to_be_bytes());
    header.extend_from_slice(&[0; 12]); // no backing file
    header.extend_from_slice(&16u32.to_be_bytes()); // clusters of 64 KiB
    header.extend_from_slice(&(1u64 << 30).to_be_bytes()); // 1 GiB
    header.extend_from_slice(&[0; 4]); // not encrypted
    header.extend_from_slice(&2u32.to_be_bytes()); // entries of the L1 table
    header.extend_from_slice(&(3u64 << 16).to_be_bytes()); // and where it is
    header.extend_from_slice(&(1u64 << 16).to_be_bytes()); // the table of reference counts
    header.extend_from_slice(&1u32.to_be_bytes());
    header.resize(96, 0);
    header.extend_from_slice(&4u32.to_be_bytes()); // reference counts of 16 bits
    header.extend_from_slice(&104u32.to_be_bytes()); // this header's length
    std::fs::write(&image, &header).unwrap();
    place.refuses(&["--image", &text(&image)], &[&text(&image)]);
}

#[test]
fn a_damaged_kernel() {
    need_kvm!();
    let place = Place::new();
    let cut = place.at("cut.elf");
    let whole = std::fs::read(tiny("net")).unwrap();
    for keep in [10, 100, 3000] {
        std::fs::write(&cut, &whole[..keep]).unwrap();
        place.refuses(&["--kernel", &text(&cut)], &[&text(&cut)]);
    }
    std::fs::write(&cut, vec![0x5a; 100_000]).unwrap();
    place.refuses(
        &["--kernel", &text(&cut)],
        &["neither a bzImage nor an ELF file", "x86-64"],
    );
}

#[test]
fn a_kernel_that_does_not_fit() {
    need_kvm!();
    let place = Place::new();
    let kernel = tiny("clock");
    let initrd = place.at("initrd");
    blank_disk(&initrd, 8 << 20);
    place.refuses(
        &[
            "--kernel",
            &kernel,
            "--initrd",
            &text(&initrd),
            "--memory",
            "4",
        ],
        &["initrd"],
    );
    let cmdline = "x".repeat(5000);
    place.refuses(
        &["--kernel", &kernel, "--cmdline", &cmdline],
        &["command line"],
    );
}

#[test]
fn places_that_cannot_be_written() {
    need_kvm!();
    let kernel = tiny("clock");
    let guest = [
        "--kernel",
        &kernel,
        "--cmdline",
        "count=10",
        "--memory",
        "16",
    ];
    let refused = |command: &[&str], words: &[&str]| {
        ftd(command.iter().chain(&guest)).failed_with(1, words);
    };
    refused(
        &["run", "--console", "file:/no/such/directory/console"],
        &["/no/such/directory/console"],
    );
    refused(
        &[
            "record",
            "--console",
            "none",
            "--log",
            "/no/such/directory/log",
        ],
        &["cannot write the log", "/no/such/directory/log"],
    );
    refused(
        &[
            "primary",
            "--console",
            "none",
            "--shared",
            "/no/such/directory",
        ],
        &["/no/such/directory", "does not exist"],
    );
    let no_slot = ["primary", "--console", "none", "--shared", "/dev/null"];
    ftd(no_slot.iter().copied().chain(guest))
        .failed_with(2, &["/dev/null is no directory", "--slot"]);
    refused(
        &["run", "--console", "none", "--bridge", "no-such-bridge"],
        &["no-such-bridge", "does not exist"],
    );
}
