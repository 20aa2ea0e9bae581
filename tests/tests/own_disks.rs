//! Hosts with a disk each: what is on them is compared from outside, byte by byte, with what the guest wrote.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use tests::guests::{blank_disk, text, tiny};
use tests::need_kvm;
use tests::pair::{Pair, Side};
use tests::program::{Ended, wait_for};

const BLOCK: usize = 4096;
/// Not a whole number of pages.
const DISK_BYTES: u64 = (1 << 20) + 512;
/// Blocks that the guest writes, the last whole one among them.
const BLOCKS: u64 = 256;

/// A pair whose hosts have disks called `here` and `there`, of which the second is full of something else.
struct Own {
    pair: Pair,
    kernel: String,
    cmdline: String,
}

impl Own {
    /// The guest writes all of its disk so many times.
    fn new(rounds: u64) -> Own {
        let pair = Pair::new();
        let own = Own {
            pair,
            kernel: tiny("disk"),
            cmdline: format!("count={BLOCKS} rounds={rounds}"),
        };
        blank_disk(&own.disk("here"), DISK_BYTES);
        std::fs::write(own.disk("there"), vec![0xa5; DISK_BYTES as usize])
            .expect("room for a disk");
        own
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.pair.directory().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.disk(name)).expect("a disk")
    }

    fn primary(&self, name: &str, disk: &str, more: &[&str]) -> Side {
        let disk = text(&self.disk(disk));
        let options = ["--image", &disk, "--own-disks", "--cmdline", &self.cmdline];
        let options = [&options, more].concat();
        self.pair
            .primary_named(name, "warn", &self.kernel, &options)
    }

    fn backup(&self, name: &str, disk: &str, more: &[&str]) -> Side {
        let disk = text(&self.disk(disk));
        let options = [&["--image", &disk, "--own-disks"], more].concat();
        self.pair.backup(name, &options)
    }
}

/// What the guest leaves on its disk after so many rounds, by another hand than its own.
fn pattern(rounds: u64) -> Vec<u8> {
    let block = |number: u64| {
        let mut word = ((rounds - 1) << 32) + number + 1;
        (0..BLOCK / 8).flat_map(move |_| {
            word = word.rotate_left(13).wrapping_add(0x9e37_79b9_7f4a_7c15);
            word.to_le_bytes()
        })
    };
    (0..BLOCKS).flat_map(block).collect()
}

#[track_caller]
fn wrote_all(disk: &[u8], rounds: u64) {
    let pattern = pattern(rounds);
    let differ = disk.iter().zip(&pattern).position(|(a, b)| a != b);
    assert_eq!(differ, None, "at this byte");
}

#[track_caller]
fn says_ok(side: Side) -> Ended {
    let console = side.console.clone();
    let ended = side.running.wait();
    ended.succeeded();
    let said = std::fs::read_to_string(console).expect("a console");
    assert!(said.contains("disk: ok blocks=256"), "{said}");
    ended
}

#[test]
fn both_end_with_the_same_on_their_disks() {
    need_kvm!();
    const ROUNDS: u64 = 3;
    let own = Own::new(ROUNDS);
    let mut primary = own.primary("primary", "here", &[]);
    primary.wait_for_event("guest_started");
    let mut backup = own.backup("backup", "there", &[]);
    backup.wait_for_event("protected");
    says_ok(primary);
    backup.running.wait().succeeded();
    assert_eq!(own.bytes("here"), own.bytes("there"));
    wrote_all(&own.bytes("there"), ROUNDS);
}

#[test]
fn the_survivor_goes_on_with_its_own_and_the_other_joins_again() {
    need_kvm!();
    const ROUNDS: u64 = 8;
    let own = Own::new(ROUNDS);
    let mut primary = own.primary("primary", "here", &["--wait-backup"]);
    let listen = tests::pair::free_address();
    let mut backup = own.backup("backup", "there", &["--listen", &listen]);
    primary.wait_for_event("protected");
    backup.wait_for_event("protected");
    primary.running.kill();
    backup.wait_for_event("live");
    // What it writes from here on its old host does not have.
    let mut again = own.pair.backup_of(
        "again",
        &listen,
        &["--image", &text(&own.disk("here")), "--own-disks"],
    );
    again.wait_for_event("protected");
    says_ok(backup);
    again.running.wait().succeeded();
    assert_eq!(own.bytes("here"), own.bytes("there"));
    wrote_all(&own.bytes("here"), ROUNDS);
}

/// So that with every clone some of its disk is left to the end.
#[test]
fn a_guest_that_never_stops_writing_is_joined_at_once() {
    need_kvm!();
    let own = Own::new(1_000_000);
    let mut primary = own.primary("primary", "here", &[]);
    primary.wait_for_event("guest_started");
    for number in 0..12 {
        let name = format!("backup-{number}");
        let mut backup = own.backup(&name, "there", &[]);
        backup.wait_for_event("protected");
        let lost = primary.all_events("peer_lost");
        assert_eq!(lost.len(), number, "{lost:?}");
        backup.running.kill();
        wait_for("a primary alone again", || {
            (primary.all_events("alone").len() > number).then_some(())
        });
    }
    primary.running.kill();
}

#[test]
fn pages_far_behind_the_largest_ram_are_copied() {
    need_kvm!();
    const FAR: u64 = (3 << 30) + (64 << 20);
    let own = Own::new(2);
    for (name, byte) in [("here", 1), ("there", 2)] {
        let disk = std::fs::File::create(own.disk(name)).expect("room for a disk");
        disk.set_len(FAR).expect("room for a sparse disk");
        disk.write_all_at(&[byte; 5000], FAR - 9000)
            .expect("room for two pages");
    }
    let mut primary = own.primary("primary", "here", &["--wait-backup"]);
    let mut backup = own.backup("backup", "there", &[]);
    primary.wait_for_event("protected");
    backup.wait_for_event("protected");
    says_ok(primary);
    backup.running.wait().succeeded();
    for name in ["here", "there"] {
        let mut found = [0; 9000];
        let disk = std::fs::File::open(own.disk(name)).expect("a disk");
        disk.read_exact_at(&mut found, FAR - 9000).expect("its end");
        assert!(
            found[..5000] == [1; 5000] && found[5000..] == [0; 4000],
            "{name}"
        );
    }
}

#[test]
fn a_guest_is_not_started_from_an_old_disk() {
    need_kvm!();
    let own = Own::new(100_000);
    let mut primary = own.primary("primary", "here", &["--wait-backup"]);
    let mut backup = own.backup("backup", "there", &[]);
    backup.wait_for_event("protected");
    primary.wait_for_event("protected");
    primary.running.kill();
    backup.wait_for_event("live");
    backup.running.kill();
    let refused = own.primary("old", "here", &[]).running.wait();
    refused.failed_with(
        1,
        &[
            "the guest wrote last to the disk of",
            "--newest-disk",
            "here.label",
        ],
    );
    // The other one's is the newest.
    let mut newest = own.primary("newest", "there", &[]);
    newest.wait_for_event("guest_started");
    newest.running.kill();
    // Whoever says so may use the old one all the same.
    let mut forced = own.primary("forced", "here", &["--newest-disk"]);
    forced.wait_for_event("guest_started");
    forced.running.kill();
    own.primary("other", "there", &[])
        .running
        .wait()
        .failed_with(1, &["--newest-disk"]);
}

#[test]
fn a_disk_that_is_shared_on_one_side_only_is_turned_down() {
    need_kvm!();
    let own = Own::new(100_000);
    let mut primary = own.primary("primary", "here", &[]);
    primary.wait_for_event("guest_started");
    let disk = text(&own.disk("there"));
    // Opened as an own one, so that no O_DIRECT is needed to come so far.
    let shorter = text(&own.disk("shorter"));
    blank_disk(&own.disk("shorter"), 1 << 20);
    let turned_down = own.backup("backup", "shorter", &[]).running.wait();
    turned_down.failed_with(1, &["disk 0", "1048576"]);
    assert!(
        std::fs::read(shorter)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    assert!(
        std::fs::read(disk)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0xa5)
    );
}

#[test]
fn each_of_two_backups_has_all_on_its_own_disk() {
    need_kvm!();
    const ROUNDS: u64 = 4;
    let own = Own::new(ROUNDS);
    std::fs::write(own.disk("yonder"), vec![0x5a; DISK_BYTES as usize]).expect("room for a disk");
    let mut primary = own.primary("primary", "here", &["--wait-backup", "--backups", "2"]);
    let mut backup = own.backup("backup", "there", &[]);
    backup.wait_for_event("protected");
    let mut second = own.backup("second", "yonder", &[]);
    second.wait_for_event("protected");
    primary.wait_for_event("protected");
    says_ok(primary);
    backup.running.wait().succeeded();
    second.running.wait().succeeded();
    assert_eq!(own.bytes("here"), own.bytes("there"));
    assert_eq!(own.bytes("here"), own.bytes("yonder"));
    wrote_all(&own.bytes("yonder"), ROUNDS);
}
