//! Logs that are torn, changed, of another version, or not of the disk that is named.

use std::path::PathBuf;

use replay::log::{LogReader, LogWriter};
use replay::{Digest, EpochBuilder, Event, Page};
use tests::guests::{blank_disk, text, tiny};
use tests::need_kvm;
use tests::program::{Ended, ftd};

struct Recorded {
    directory: tempfile::TempDir,
    bytes: Vec<u8>,
}

const DISK_BYTES: u64 = 1 << 20;

impl Recorded {
    fn new() -> Recorded {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| text(&directory.path().join(name));
        let (log, disk) = (at("whole.log"), at("disk.raw"));
        blank_disk(&directory.path().join("disk.raw"), DISK_BYTES);
        let kernel = tiny("disk");
        ftd([
            "record",
            "--kernel",
            &kernel,
            "--cmdline",
            "count=8",
            "--memory",
            "16",
            "--console",
            "none",
            "--image",
            &disk,
            "--log",
            &log,
        ])
        .succeeded();
        let bytes = std::fs::read(log).expect("a log");
        Recorded { directory, bytes }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn replay(&self, bytes: &[u8]) -> Ended {
        let log = self.at("changed.log");
        std::fs::write(&log, bytes).expect("a log");
        ftd(["replay", "--log", &text(&log)])
    }
}

#[test]
fn torn() {
    need_kvm!();
    let recorded = Recorded::new();
    let len = recorded.bytes.len();
    for keep in [9, 23, 24, 100, len / 3, len / 2, len - 30, len - 1] {
        let ended = recorded.replay(&recorded.bytes[..keep]);
        ended.failed_with(1, &["changed.log", "the log is torn", &keep.to_string()]);
        assert_eq!(ended.stdout, "");
    }
    recorded
        .replay(&[])
        .failed_with(1, &["this is not an ftd log"]);
}

#[test]
fn bit_flipped() {
    need_kvm!();
    let recorded = Recorded::new();
    recorded.replay(&recorded.bytes).succeeded();
    let len = recorded.bytes.len();
    // Every byte of the header's surroundings, and places all over the rest.
    for at in (0..64).chain((64..len).step_by(len / 60)).chain([len - 1]) {
        let mut bytes = recorded.bytes.clone();
        bytes[at] ^= 0x10;
        let words: &[&str] = match at {
            0..8 => &["this is not an ftd log"],
            8..12 => &["format version"],
            _ => &["the log is damaged", "checksum"],
        };
        recorded.replay(&bytes).failed_with(1, words);
    }
}

#[test]
fn of_another_version() {
    need_kvm!();
    let recorded = Recorded::new();
    let mut bytes = recorded.bytes.clone();
    bytes[8..12].copy_from_slice(&99u32.to_le_bytes());
    recorded.replay(&bytes).failed_with(
        1,
        &[
            "format version 99",
            "this ftd reads version",
            "the ftd that wrote it",
        ],
    );
}

#[test]
fn with_something_behind_the_end() {
    need_kvm!();
    let recorded = Recorded::new();
    let mut bytes = recorded.bytes.clone();
    bytes.extend_from_slice(b"more");
    recorded
        .replay(&bytes)
        .failed_with(1, &["something follows it"]);
}

#[test]
fn of_a_longer_disk() {
    need_kvm!();
    let recorded = Recorded::new();
    let log = text(&recorded.at("whole.log"));
    let disk = text(&recorded.at("disk.raw"));
    ftd(["replay", "--log", &log, "--image", &disk]).succeeded();
    let shorter = recorded.at("shorter.raw");
    blank_disk(&shorter, DISK_BYTES / 2);
    ftd(["replay", "--log", &log, "--image", &text(&shorter)])
        .failed_with(1, &["1048576 bytes", "524288", "not the image of this log"]);
    let gone = text(&recorded.at("gone.raw"));
    ftd(["replay", "--log", &log, "--image", &gone]).failed_with(1, &[&gone, "does not exist"]);
}

#[test]
fn longer_than_the_disk_it_is_written_to() {
    need_kvm!();
    let kernel = tiny("counter");
    for cmdline in ["count=10", "count=20000"] {
        ftd([
            "record",
            "--kernel",
            &kernel,
            "--cmdline",
            cmdline,
            "--memory",
            "16",
            "--console",
            "none",
            "--log",
            "/dev/full",
        ])
        .failed_with(1, &["log", "/dev/full", "No space left on device"]);
    }
}

#[test]
fn that_are_none() {
    need_kvm!();
    let recorded = Recorded::new();
    let disk = text(&recorded.at("disk.raw"));
    ftd(["replay", "--log", &disk]).failed_with(1, &[&disk, "this is not an ftd log"]);
    let gone = text(&recorded.at("gone.log"));
    ftd(["replay", "--log", &gone]).failed_with(1, &["cannot open the log", &gone]);
    let directory = text(recorded.directory.path());
    ftd(["replay", "--log", &directory]).failed_with(1, &[&directory]);
}

/// As of a primary that is lost while it sends a snapshot that takes several epochs.
#[test]
fn pages_of_a_snapshot_that_never_comes_change_nothing() {
    need_kvm!();
    let recorded = Recorded::new();
    let mut reader = LogReader::open(&recorded.bytes[..]).expect("a log");
    let mut writer = LogWriter::create(Vec::new(), reader.header()).expect("room");
    let mut next = 1;
    while let Some(epoch) = reader.next_epoch().expect("a whole log") {
        writer.append(&epoch).expect("room");
        next = epoch.epoch + 1;
    }
    let end = reader.end().expect("an end");
    let mut builder = EpochBuilder::new(next);
    let page = |gfn| Page {
        gfn,
        data: vec![0xa5; 4096],
    };
    let ram = reader.header().ram_bytes / 4096;
    let pages = Event::Pages((0..ram).map(page).take(1024).collect());
    builder.push(end.position, &pages).expect("pages");
    let half = builder.close(end.position, Digest::default());
    writer.append(&half.expect("an epoch")).expect("room");
    let bytes = writer.finish(end.position, end.state_hash);
    recorded.replay(&bytes.expect("room")).succeeded();
}
