//! What the tests of the program share.

#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running ftd and what it says.
pub struct Ftd {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Ftd {
    pub fn start(line: &[&str]) -> Ftd {
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
    pub fn wait_for(&mut self, text: &str) -> String {
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

    /// The rest of what it says, once it has ended; and its exit status.
    pub fn last_words(&mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        (self.end(), rest)
    }

    pub fn signal(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
    }

    pub fn end(&mut self) -> Option<i32> {
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

impl Ftd {
    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Ftd {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn has_kvm() -> bool {
    let found = Path::new("/dev/kvm").exists();
    if !found {
        println!("not run: there is no /dev/kvm");
    }
    found
}

/// An ELF file whose one instruction jumps to itself, with section headers or without.
pub fn spinning_kernel(dir: &Path, sections: bool) -> PathBuf {
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
    if !sections {
        // e_shoff, e_shnum and e_shstrndx.
        file[40..48].fill(0);
        file[60..64].fill(0);
    }
    file.extend([0xeb, 0xfe]);
    file.extend(names);
    let path = dir.join("kernel");
    std::fs::write(&path, file).unwrap();
    path
}
