use std::fs::File;
use std::path::Path;

use clap::Parser;
use devices::{DiskOp, DiskOutcome};
use replay::EpochPolicy;
use replay::protocol::{ArbiterAnswer, Facts, Start};

use super::*;
use crate::arbiter::{ArbiterError, Sign, Standing, Verdict};
use crate::setup::DisksAre;

/// Says nothing: the tests answer themselves.
struct Mute;

impl Arbiter for Mute {
    fn test_and_set(&mut self, generation: u64) -> Result<Verdict, ArbiterError> {
        Err(ArbiterError::TimedOut { generation, ms: 0 })
    }

    fn stand(&mut self, generation: u64, _through: u64) -> Result<Standing, ArbiterError> {
        Err(ArbiterError::TimedOut { generation, ms: 0 })
    }

    fn is_superseded(&mut self, _generation: u64) -> Result<bool, ArbiterError> {
        Ok(false)
    }

    fn sign(&mut self, _sign: &Sign) -> Result<(), ArbiterError> {
        Ok(())
    }

    fn sign_of(&mut self, _generation: u64) -> Result<Option<Sign>, ArbiterError> {
        Ok(None)
    }

    fn current_generation(&mut self) -> Result<u64, ArbiterError> {
        Ok(0)
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    guest: GuestOptions,
}

/// A side with one disk and no guest; `None` (and a word about it) without KVM.
fn side(image: &Path, start: Start) -> Option<Pair> {
    if !Path::new("/dev/kvm").exists() {
        println!("not run: there is no /dev/kvm");
        return None;
    }
    File::create(image).unwrap().set_len(1 << 20).unwrap();
    let image = image.to_str().unwrap();
    let line = ["t", "--image", image, "--console", "none", "--memory", "16"];
    let guest = Line::parse_from(line).guest;
    let shell = Shell::open(&guest, DisksAre::Own).unwrap();
    let facts = Facts {
        vm_id: "vm".to_owned(),
        cpu_model: shell.cpu_model.to_string(),
        clock: "exit".to_owned(),
        ram_bytes: shell.ram_bytes,
        machine_digest: [0; 32],
        disks: Vec::new(),
        image_id: Vec::new(),
    };
    let options = PairOptions {
        core: Config::new(start, "here", facts),
        listen: None,
        log_from: Vec::new(),
        keys: None,
        others_start: false,
        look_again: false,
        arbiter: Box::new(Mute),
        opened_later: Vec::new(),
        events: None,
        control: None,
        own_disks: None,
        live: LiveOptions {
            patience: Duration::from_millis(10),
            ram_check: Duration::ZERO,
            policy: EpochPolicy::default(),
            wait_for_log: false,
        },
    };
    Some(Pair::open(shell, None, &guest, options).unwrap())
}

fn write_to(pair: &Pair) -> DiskOutcome {
    let data = vec![7; 512];
    pair.shell.disks[0].perform(&DiskOp::Write { offset: 0, data })
}

#[test]
fn a_loser_can_write_to_no_disk_and_says_who_won() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::Primary { generation: 3 };
    let Some(mut pair) = side(&dir.path().join("disk"), start) else {
        return;
    };
    pair.tell(Event::Tick).unwrap();
    assert_eq!(write_to(&pair), DiskOutcome::Done);
    let answer = ArbiterAnswer::Lost {
        generation: 5,
        by: "west".to_owned(),
    };
    pair.tell(Event::Arbiter { asked: 4, answer }).unwrap();
    assert!(matches!(write_to(&pair), DiskOutcome::Failed(_)));
    let why = pair.close().unwrap_err().to_string();
    assert_eq!(why, "the guest belongs to west, which won generation 5");
}

#[test]
fn a_side_that_is_stopped_ends_well_and_leaves_its_disks_usable() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut pair) = side(&dir.path().join("disk"), Start::Backup) else {
        return;
    };
    pair.tell(Event::Tick).unwrap();
    assert_eq!(pair.core.role(), Role::Joining);
    pair.stop("SIGTERM").unwrap();
    assert_eq!(pair.halt, Some(HaltReason::Stopped));
    assert_eq!(write_to(&pair), DiskOutcome::Done);
    pair.close().unwrap();
}
