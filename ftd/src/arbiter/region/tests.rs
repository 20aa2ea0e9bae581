use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;

/// A formatted file, or a printed reason why not.
pub(crate) fn area() -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared");
    fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
    match format(&path, "vm", false) {
        Err(ArbiterError::NoDirect { .. }) => {
            println!("skipped: no O_DIRECT in {}", dir.path().display());
            None
        }
        result => {
            result.unwrap();
            Some((dir, path))
        }
    }
}

fn slot(number: u8) -> HostSlot {
    HostSlot::new(number).unwrap()
}

fn open(path: &Path, host: &str, number: u8) -> RegionArbiter {
    RegionArbiter::open(path, "vm", host, slot(number)).unwrap()
}

fn lost_to(winner: &str) -> Verdict {
    let winner = winner.to_owned();
    Verdict::Lost { winner }
}

fn refused(result: Result<impl std::fmt::Debug, ArbiterError>) -> String {
    let text = result.unwrap_err().to_string();
    println!("{text}");
    text
}

#[test]
fn one_wins_and_asking_again_changes_nothing() {
    let Some((_dir, path)) = area() else { return };
    let mut east = open(&path, "east", 0);
    let mut west = open(&path, "west", 7);
    assert_eq!(east.current_generation().unwrap(), 0);
    for _ in 0..2 {
        assert_eq!(west.test_and_set(1).unwrap(), Verdict::Won);
        assert_eq!(east.test_and_set(1).unwrap(), lost_to("west"));
    }
    assert_eq!(east.test_and_set(2).unwrap(), Verdict::Won);
    assert_eq!(west.current_generation().unwrap(), 2);
    drop(west);
    let mut west = open(&path, "west", 7);
    assert_eq!(west.test_and_set(1).unwrap(), Verdict::Won);
    assert_eq!(west.test_and_set(2).unwrap(), lost_to("east"));
    assert!(matches!(
        west.test_and_set(0),
        Err(ArbiterError::GenerationZero)
    ));
}

#[test]
fn candidates_know_each_other() {
    let Some((_dir, path)) = area() else { return };
    let (mut east, mut west) = (open(&path, "east", 0), open(&path, "west", 7));
    east.test_and_set(1).unwrap();
    crate::arbiter::candidate::tests::know_each_other(&mut east, &mut west);
}

#[test]
fn an_old_generation_is_remembered_for_a_while_and_then_refused() {
    let Some((_dir, path)) = area() else { return };
    let mut east = open(&path, "east", 0);
    let mut west = open(&path, "west", 1);
    for generation in 1..=GENERATIONS {
        assert_eq!(east.test_and_set(generation).unwrap(), Verdict::Won);
    }
    assert_eq!(west.test_and_set(1).unwrap(), lost_to("east"));
    assert_eq!(east.test_and_set(GENERATIONS + 1).unwrap(), Verdict::Won);
    for arbiter in [&mut east, &mut west] {
        assert!(refused(arbiter.test_and_set(1)).contains("is forgotten: 17"));
        assert_eq!(arbiter.current_generation().unwrap(), GENERATIONS + 1);
    }
    assert_eq!(west.test_and_set(2).unwrap(), lost_to("east"));
}

/// The sector that holds the newest copy of a slot's block.
fn newest_copy(path: &Path, generation: u64, number: usize) -> u64 {
    let arbiter = open(path, "reader", 5);
    let row = arbiter.read_row(generation).unwrap();
    let sequence = row.records[number].as_ref().unwrap().sequence;
    row_offset(generation) + copy_offset(number, (sequence & 1) as usize) as u64
}

#[test]
fn a_torn_newest_copy_falls_back_and_the_decision_stands() {
    let Some((_dir, path)) = area() else { return };
    assert_eq!(
        open(&path, "east", 0).test_and_set(3).unwrap(),
        Verdict::Won
    );
    // The newest copy only says "decided"; the one before holds the value itself.
    let torn = newest_copy(&path, 3, 0);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0x55; 300], torn + 100).unwrap();
    file.sync_all().unwrap();
    let mut west = open(&path, "west", 1);
    assert_eq!(west.current_generation().unwrap(), 0);
    assert_eq!(west.test_and_set(3).unwrap(), lost_to("east"));
    assert_eq!(
        open(&path, "east", 0).test_and_set(3).unwrap(),
        Verdict::Won
    );

    // Both copies bad is more than one crash can do.
    let other = torn ^ SECTOR_BYTES as u64;
    for offset in [torn, other] {
        file.write_all_at(&[0x55; 300], offset + 100).unwrap();
    }
    file.sync_all().unwrap();
    assert!(refused(west.test_and_set(3)).contains("both copies of a slot are damaged (slot 0)"));
    assert_eq!(west.test_and_set(4).unwrap(), Verdict::Won);
}

/// Bids by hand, and stops after that many writes.
pub(crate) fn cut_short(path: &Path, host: &str, number: u8, generation: u64, writes: u64) {
    let arbiter = open(path, host, number);
    let mut bid = Bid::new(usize::from(number), SLOTS, generation, host.to_owned());
    let mut sequence = 0;
    while sequence < writes {
        match bid.action() {
            Action::Read { slot } => {
                let row = arbiter.read_row(generation).unwrap();
                let block = row.records[slot]
                    .as_ref()
                    .map(|record| record.block.clone());
                bid.read(block);
            }
            Action::Write(block) => {
                sequence += 1;
                arbiter.write_block(block, sequence, generation).unwrap();
                bid.written();
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_bid_that_was_cut_short_at_any_write_is_taken_up_again() {
    for writes in 0..3 {
        let Some((_dir, path)) = area() else { return };
        cut_short(&path, "east", 0, 9, writes);
        let mut west = open(&path, "west", 1);
        let verdict = west.test_and_set(9).unwrap();
        // Once its value was written it must be taken over; before, the next host is free.
        let east_wins = writes == 2;
        match east_wins {
            true => assert_eq!(verdict, lost_to("east")),
            false => assert_eq!(verdict, Verdict::Won),
        }
        let verdict = open(&path, "east", 0).test_and_set(9).unwrap();
        assert_eq!(verdict == Verdict::Won, east_wins);
    }
}

#[test]
fn slots_names_and_machines_are_checked() {
    let Some((_dir, path)) = area() else { return };
    let mut east = open(&path, "east", 0);
    let again = RegionArbiter::open(&path, "vm", "west", slot(0));
    assert!(refused(again).contains("slot 0 of"));
    let other = RegionArbiter::open(&path, "other", "west", slot(1));
    assert!(refused(other).contains("belongs to virtual machine 'vm', not 'other'"));
    east.test_and_set(1).unwrap();
    let mut twin = open(&path, "east", 1);
    assert!(refused(twin.test_and_set(1)).contains("host 'east' bids in slot 0 and in slot 1"));
    assert!(HostSlot::new(8).is_none() && "8".parse::<HostSlot>().is_err());

    format(&path, "vm", true).unwrap();
    assert!(refused(east.test_and_set(2)).contains("formatted while it was in use"));
}

#[test]
fn formatting_refuses_what_is_not_empty() {
    let Some((dir, path)) = area() else { return };
    assert!(refused(format(&path, "vm", false)).contains("byte 0 is not zero"));
    format(&path, "vm2", true).unwrap();
    let arbiter = RegionArbiter::open(&path, "vm2", "east", slot(0));
    assert_eq!(arbiter.unwrap().test_and_set(1).unwrap(), Verdict::Won);

    let fresh = dir.path().join("fresh");
    let file = fs::File::create(&fresh).unwrap();
    file.set_len(AREA_BYTES - 4096).unwrap();
    assert!(refused(format(&fresh, "vm", false)).contains("shared storage needs 1179648"));
    let unformatted = RegionArbiter::open(&fresh, "vm", "east", slot(0));
    assert!(refused(unformatted).contains("run 'ftd format-shared"));
    file.set_len(8 << 20).unwrap();
    for offset in [AREA_BYTES - 1, (8 << 20) - 1] {
        file.write_all_at(&[1], offset).unwrap();
        let text = refused(format(&fresh, "vm", false));
        assert!(
            text.contains(&format!("byte {offset} is not zero")),
            "{text}"
        );
        file.write_all_at(&[0], offset).unwrap();
    }
    format(&fresh, "vm", false).unwrap();
    assert!(refused(format(dir.path(), "vm", false)).contains("is no block device or file"));
    assert!(refused(format(&dir.path().join("none"), "vm", false)).contains("does not exist"));
}

#[test]
fn signs_of_life_are_read_by_others_until_they_are_written_over() {
    let Some((_dir, path)) = area() else { return };
    let (mut east, mut west) = (open(&path, "east", 0), open(&path, "west", 1));
    assert_eq!(east.sign_of(1).unwrap(), None);
    assert_eq!(west.test_and_set(1).unwrap(), Verdict::Won);
    assert!(!east.is_superseded(1).unwrap());
    let mut sign = Sign::new("west", Some("192.0.2.1:7777".to_owned()), 300);
    for beat in 1..4 {
        (sign.generation, sign.beat) = (1, beat);
        west.sign(&sign).unwrap();
        assert_eq!(east.sign_of(1).unwrap(), Some(sign.clone()));
    }
    assert_eq!(
        east.sign_of(2).unwrap(),
        None,
        "it is of another generation"
    );
    assert_eq!(east.test_and_set(2).unwrap(), Verdict::Won);
    assert!(west.is_superseded(1).unwrap() && !east.is_superseded(2).unwrap());
    // What was half written, or is of another area, is none.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xee; 100], 4096 + 4096 + 40).unwrap();
    file.sync_all().unwrap();
    assert_eq!(east.sign_of(1).unwrap(), None);
    drop((east, west));
    format(&path, "vm", true).unwrap();
    assert_eq!(open(&path, "east", 0).sign_of(1).unwrap(), None);
}
