//! Stop signals: the first one stops ftd in order and says so, the second one at once.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running ftd and what it says.
struct Ftd {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Ftd {
    fn start(line: &[&str]) -> Ftd {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ftd"))
            .args(line)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Ftd { child, said }
    }

    /// Reads on until a line has this in it.
    fn wait_for(&mut self, text: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if self.said.read_line(&mut line).unwrap() == 0 {
                panic!("'{text}' was not said, but:\n{all}");
            }
            if line.contains(text) {
                return line;
            }
            all += &line;
        }
    }

    fn signal(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
    }

    fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("it did not end");
    }
}

impl Drop for Ftd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn has_kvm() -> bool {
    let found = Path::new("/dev/kvm").exists();
    if !found {
        println!("not run: there is no /dev/kvm");
    }
    found
}

/// An ELF file whose one instruction jumps to itself.
fn spinning_kernel(dir: &Path) -> PathBuf {
    const AT: u64 = 1 << 20;
    const HEADER: u64 = 64;
    const SEGMENT: u64 = 56;
    const SECTION: u64 = 64;
    let code = HEADER + SEGMENT + 3 * SECTION;
    let code_bytes = 2u64;
    let names = b"\0.text\0.shstrtab\0";
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |file: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    };
    let word = |file: &mut Vec<u8>, values: &[u32]| {
        values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    };
    let long = |file: &mut Vec<u8>, values: &[u64]| {
        values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    };
    half(&mut file, &[2, 62]);
    word(&mut file, &[1]);
    long(&mut file, &[AT, HEADER, HEADER + SEGMENT]);
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 64, 3, 2]);
    // The segment.
    word(&mut file, &[1, 5]);
    long(&mut file, &[code, AT, AT, code_bytes, code_bytes, 4096]);
    // Sections: none, .text, .shstrtab.
    file.extend([0; SECTION as usize]);
    word(&mut file, &[1, 1]);
    long(&mut file, &[6, AT, code, code_bytes]);
    word(&mut file, &[0, 0]);
    long(&mut file, &[1, 0]);
    word(&mut file, &[7, 3]);
    long(&mut file, &[0, 0, code + code_bytes, names.len() as u64]);
    word(&mut file, &[0, 0]);
    long(&mut file, &[1, 0]);
    assert_eq!(file.len() as u64, code);
    file.extend([0xeb, 0xfe]);
    file.extend(names);
    let path = dir.join("kernel");
    std::fs::write(&path, file).unwrap();
    path
}

#[test]
fn a_backup_that_waits_for_its_primary_ends_in_order() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().to_str().unwrap();
    let mut ftd = Ftd::start(&[
        "backup",
        "--log-from",
        "127.0.0.1:9",
        "--shared",
        shared,
        "--memory",
        "16",
        "--console",
        "none",
        "--events",
        dir.path().join("events").to_str().unwrap(),
    ]);
    // Its first event is written behind the signals' being taken in hand.
    let start = Instant::now();
    while std::fs::read_to_string(dir.path().join("events")).is_ok_and(|text| text.is_empty())
        || !dir.path().join("events").exists()
    {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    ftd.signal();
    ftd.wait_for("SIGTERM: stopping, no guest is here yet");
    ftd.wait_for("this side ends: stopped by the operator");
    assert_eq!(ftd.end(), Some(0));
}

#[test]
fn a_primary_without_a_backup_says_what_becomes_of_its_guest() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = spinning_kernel(dir.path());
    let mut ftd = Ftd::start(&[
        "primary",
        "--kernel",
        kernel.to_str().unwrap(),
        "--cmdline",
        "",
        "--shared",
        dir.path().to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--memory",
        "16",
        "--console",
        "none",
    ]);
    ftd.wait_for("role: starting -> alone");
    ftd.signal();
    ftd.wait_for("SIGTERM: stopping, the guest has no backup and ends where it is");
    assert_eq!(ftd.end(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait_for_the_first_one_s_work() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = spinning_kernel(dir.path());
    let log = dir.path().join("log");
    let mut ftd = Ftd::start(&[
        "record",
        "--kernel",
        kernel.to_str().unwrap(),
        "--cmdline",
        "",
        // Its hash, taken at the end, takes seconds.
        "--memory",
        "3072",
        "--console",
        "none",
        "--log",
        log.to_str().unwrap(),
    ]);
    let start = Instant::now();
    // It is made behind the signals' being taken in hand.
    while !log.exists() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    ftd.signal();
    ftd.wait_for("SIGTERM: stopping the guest where it is; a second signal ends ftd at once");
    ftd.signal();
    ftd.wait_for("SIGTERM: ending at once");
    assert_eq!(ftd.end(), Some(128 + 15));
}
