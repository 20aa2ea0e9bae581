//! Threads and processes that contend for many generations: one winner each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Arbiter, ArbiterError, HostSlot, Verdict, format_device, open};

/// Tells a child process what to do: path, host, slot.
const CHILD: &str = "FTD_TEST_CONTENDER";
const GENERATIONS: u64 = 40;

fn opened(path: &Path, number: u8) -> Box<dyn Arbiter> {
    let slot = HostSlot::new(number).unwrap();
    open(path, "vm", &format!("host{number}"), slot).unwrap()
}

/// Bids for every generation, some of them twice, and tells each answer.
fn contend_and(path: &Path, number: u8, mut tell: impl FnMut(u64, String)) {
    let mut arbiter = opened(path, number);
    for generation in 1..=GENERATIONS {
        for _ in 0..=generation % 2 {
            match arbiter.test_and_set(generation) {
                Ok(Verdict::Won) => tell(generation, format!("host{number}")),
                Ok(Verdict::Lost { winner }) => tell(generation, winner),
                // Others are more than a whole ring of generations ahead: no answer is right too.
                Err(ArbiterError::Superseded { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn contend(path: &Path, number: u8) -> Vec<(u64, String)> {
    let mut answers = Vec::new();
    contend_and(path, number, |generation, winner| {
        answers.push((generation, winner));
    });
    answers
}

/// Like [`with_processes`], but the processes are killed again and again, wherever they are.
fn with_crashes(path: &Path) {
    let mut answers = Vec::new();
    let mut killed = 0;
    let mut seed = u64::from(std::process::id());
    for _ in 0..12 {
        let mut children: Vec<_> = (0..3).map(|number| spawn(path, number)).collect();
        for child in &mut children {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            std::thread::sleep(Duration::from_millis((seed >> 33) % 25));
            child.kill().unwrap();
        }
        for child in children {
            let output = child.wait_with_output().unwrap();
            killed += u32::from(!output.status.success());
            answers.extend(parse(output.stdout));
        }
    }
    // Those who are left alone in the end find the rest.
    answers.extend(contend(path, 0));
    answers.extend(contend(path, 1));
    println!("{killed} processes killed");
    check(answers);
}

fn check(answers: impl IntoIterator<Item = (u64, String)>) {
    let mut winners = BTreeMap::new();
    let mut count = BTreeMap::new();
    for (generation, winner) in answers {
        let known = winners.entry(generation).or_insert_with(|| winner.clone());
        assert_eq!(*known, winner, "two winners of generation {generation}");
        *count.entry(winner).or_insert(0) += 1;
    }
    assert_eq!(winners.len() as u64, GENERATIONS);
    println!("answers naming each host: {count:?}");
}

fn with_threads(path: &Path, hosts: u8) {
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..hosts)
            .map(|number| scope.spawn(move || contend(path, number)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    check(answers);
}

fn with_processes(path: &Path, hosts: u8) {
    let children: Vec<_> = (0..hosts).map(|number| spawn(path, number)).collect();
    let mut answers = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        answers.extend(parse(output.stdout));
    }
    check(answers);
}

fn spawn(path: &Path, number: u8) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["arbiter::stress::contender", "--exact", "--nocapture"])
        .env(CHILD, format!("{number} {}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The answers in a child's output; a last line that was cut short is none.
fn parse(output: Vec<u8>) -> Vec<(u64, String)> {
    let text = String::from_utf8(output).unwrap();
    let parse = |line: &str| {
        let line = line.strip_prefix("answer ")?.strip_suffix('\n')?;
        let (generation, winner) = line.split_once(' ')?;
        Some((generation.parse().ok()?, winner.to_owned()))
    };
    text.split_inclusive('\n').filter_map(parse).collect()
}

/// The body of a child process; nothing by itself.
#[test]
fn contender() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let (number, path) = task.split_once(' ').unwrap();
    println!();
    contend_and(
        Path::new(path),
        number.parse().unwrap(),
        |generation, winner| {
            println!("answer {generation} {winner}");
        },
    );
}

/// A formatted file, or a printed reason why not.
fn region(dir: &tempfile::TempDir) -> Option<PathBuf> {
    let path = dir.path().join("shared");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(2 << 20).unwrap();
    match format_device(&path, "vm", false) {
        Err(ArbiterError::NoDirect { .. }) => {
            println!("skipped: no O_DIRECT in {}", dir.path().display());
            None
        }
        result => {
            result.unwrap();
            Some(path)
        }
    }
}

#[test]
fn threads_on_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    with_threads(dir.path(), 8);
}

#[test]
fn processes_on_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    with_processes(dir.path(), 4);
}

#[test]
fn threads_on_a_region() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = region(&dir) else { return };
    with_threads(&path, 8);
}

#[test]
fn processes_on_a_region() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = region(&dir) else { return };
    with_processes(&path, 4);
}

#[test]
fn killed_processes_on_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    with_crashes(dir.path());
}

#[test]
fn killed_processes_on_a_region() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = region(&dir) else { return };
    with_crashes(&path);
}

#[test]
fn bad_arguments_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let slot = HostSlot::new(0).unwrap();
    let refused = |path: &Path, vm: &str, host: &str| {
        let text = open(path, vm, host, slot)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        println!("{text}");
        text
    };
    assert!(refused(&dir.path().join("none"), "vm", "host").contains("does not exist"));
    assert!(refused(Path::new("/dev/null"), "vm", "host").contains("is no directory"));
    assert!(refused(dir.path(), "", "host").contains("identifier of a virtual machine"));
    assert!(refused(dir.path(), "vm", "two\nlines").contains("identifier of a host"));
    assert!(refused(dir.path(), "vm", &"x".repeat(129)).contains("identifier of a host"));
}
